"""What samplers and pruners know of a finished trial."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from hpo.latency_model import KEY

_LEAST_MSE = 1e-300  # a perfect network has a logarithm too


@dataclass(frozen=True)
class Finished:
    """A finished trial.

    Attributes
    ----------
    state : {'complete', 'pruned', 'failed'}
    mse : float or None
        Least validation MSE.
    best : tuple of float
        The same after each epoch; empty where curves are not read.
    num_parameters : int
    latency_ns : float or None
        What the study's latency model says, if it has one.
    """

    state: str
    mse: float | None
    best: tuple[float, ...]
    num_parameters: int
    latency_ns: float | None = None

    @classmethod
    def of(cls, record: Mapping) -> Finished:
        curve = record["curve"].get("validation_mse", ())
        best = tuple(itertools.accumulate(curve, min))
        return cls(record["state"], record["validation_mse"], best, record["num_parameters"], record.get(KEY))


def score(mse: float) -> float:
    """What samplers minimise: errors span decades, and a model of them should see all."""
    return math.log10(max(mse, _LEAST_MSE))
