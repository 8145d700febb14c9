"""What a network costs in the host, as a function of its architecture: nanoseconds per sample.

A search over (error, latency) has to be the same when it is repeated, and a measured time is not the same twice. So
latencies are measured once, on networks that span the space (`hpo.latency_measure`), and a sum of terms is fitted to
them: nanoseconds for the network, for each layer, weight and unit. What the sum says of a network is its second
objective, for all members of a search and for good. It is kept in `OUT/latency_model.json`, which another search may
start from (`[search] latency_model`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpo.errors import SearchError

if TYPE_CHECKING:  # it imports PyTorch, and a status needs none
    from emulator.mlp import MLPSpec

SCHEMA = 1
FILE = "latency_model.json"
KEY = "modelled_latency_ns"  # in the records of trials
DEFAULT_BATCH = 16  # what emulator.export chooses by
# Weights beyond so many cost more each, as they leave one cache after the other.
_CACHES = tuple(4**k for k in range(6, 14))
_VECTOR = 16  # float32 numbers in the widest registers
_COUNTED = ("network", "layer", "output", "output of 16", "weight", "weight of 16", "layer norm", "added unit")
_NAMED = ("unit ", "head ", "transform ", "weight beyond ")
_ROUNDS = 30  # of reweighting: weights settle to a percent within ten


def counts(spec: MLPSpec, head: str = "direct", transforms: Sequence[str] = ()) -> dict[str, float]:
    """How many there are of everything in an exported network that takes time; what it lacks is left out.

    Parameters
    ----------
    spec : MLPSpec
    head : str
        Name of its output head.
    transforms : sequence of str
        Of its inputs.

    Returns
    -------
    dict of str to float
        `network` (1), `layer`, `output` (units of all layers but the inputs), `weight`; `output of 16` and
        `weight of 16` with every layer's outputs rounded up to whole vectors; `weight beyond N`; `unit <activation>`
        and `unit <activation>, layer norm` (hidden units), `layer norm` (layers), `added unit` (residual);
        `head <name>` and `transform <name>` (inputs).
    """
    found = dict.fromkeys(_COUNTED[:6], 0.0) | {"network": 1.0}
    for fan_in, fan_out in itertools.pairwise(spec.widths):
        whole = -(-fan_out // _VECTOR) * _VECTOR
        found["layer"] += 1
        found["output"] += fan_out
        found["output of 16"] += whole
        found["weight"] += fan_in * fan_out
        found["weight of 16"] += fan_in * whole
    normalized = spec.normalization == "layer"  # batch normalization is part of the weights
    found[f"unit {spec.activation}{', layer norm' if normalized else ''}"] = sum(spec.hidden)
    if normalized:
        found["layer norm"] = len(spec.hidden)
    if spec.residual:
        found["added unit"] = sum(b for a, b in itertools.pairwise(spec.widths[:-1]) if a == b)
    if head != "direct":
        found[f"head {head}"] = 1
    for kind in transforms:
        if kind != "none":
            found[f"transform {kind}"] = found.get(f"transform {kind}", 0) + 1
    found |= {f"weight beyond {n}": found["weight"] - n for n in _CACHES if found["weight"] > n}
    return {name: float(count) for name, count in found.items() if count}


@dataclass(frozen=True, kw_only=True)
class LatencyModel:
    """Nanoseconds per sample as a sum of terms.

    Attributes
    ----------
    batch : int
        Samples in a call.
    terms : mapping of str to float
        Nanoseconds for each of what `counts` names; of what is missing, none.
    made : mapping
        Machine, library, instruction set, and how well the sum fits (plain JSON data); for people.
    networks : sequence of mapping
        What was measured, likewise.

    Raises
    ------
    SearchError
        No positive sum, or a term that no network has.
    """

    batch: int
    terms: Mapping[str, float]
    made: Mapping[str, object] = field(default_factory=dict)
    networks: Sequence[Mapping[str, object]] = ()

    def __post_init__(self):
        if type(self.batch) is not int or self.batch < 1:
            raise SearchError(f"batch is {self.batch!r}; expected a whole number of at least 1")
        if not isinstance(self.terms, Mapping):
            raise SearchError(f"terms is {self.terms!r}; expected a table of nanoseconds by name")
        for name, ns in self.terms.items():
            if name not in _COUNTED and not name.startswith(_NAMED):
                raise SearchError(
                    f"terms has {name!r}, which no network has; expected some of {', '.join(_COUNTED)}, or names that "
                    f"begin with {', '.join(n.strip() for n in _NAMED)}"
                )
            if isinstance(ns, bool) or not isinstance(ns, (int, float)) or not 0.0 <= ns < math.inf:
                raise SearchError(f"term {name!r} is {ns!r}; expected nanoseconds, 0 or more")
        if not any(self.terms.get(name, 0.0) > 0.0 for name in _COUNTED[:6]):
            raise SearchError(f"every term of {', '.join(_COUNTED[:6])} is 0; expected networks to cost something")

    def ns(self, counts: Mapping[str, float]) -> float:
        """Nanoseconds per sample of a network with these counts."""
        # added up exactly, so that neither order nor machine matters
        return math.fsum(self.terms.get(name, 0.0) * count for name, count in counts.items())

    @property
    def digest(self) -> str:
        """Of all that its values depend on."""
        text = json.dumps([self.batch, sorted((k, float(v)) for k, v in self.terms.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def quality(self) -> str:
        """How far it is off, as a sentence."""
        made = self.made
        where = ", ".join(str(made[k]) for k in ("machine", "library", "isa") if k in made)
        where = f" ({where})" if where else ""
        if made.get("median_error") is None:
            return f"latency model for calls of {self.batch}{where}; how far it is off is not known"
        return (
            f"latency model for calls of {self.batch}{where}: off by {made['median_error']:.1%} in the median of "
            f"{made['held_out']} networks held out, {made['largest_error']:.1%} at most"
        )

    def check_space(self, networks: Sequence[Mapping[str, float]]) -> None:
        """Refuse a space that has networks of kinds which the terms do not tell apart.

        Parameters
        ----------
        networks : sequence of mapping
            Counts of networks that span the space.

        Raises
        ------
        SearchError
        """
        for name in sorted(set().union(*networks)):
            # A measured model lacks what all the networks had alike that it was fitted to.
            kinds = {n.get(name, 0) if self.made else name in n for n in networks}
            if len(kinds) > 1 and name not in self.terms and not name.startswith("weight beyond "):
                raise SearchError(
                    f"its terms have no {name!r}, in which networks of this space differ; it has "
                    f"{', '.join(self.terms)}. Add it, or leave latency_model out to have this space measured"
                )

    def to_dict(self) -> dict:
        return {
            "schema": SCHEMA,
            "unit": "ns per sample",
            "batch": self.batch,
            "terms": dict(self.terms),
            "made": dict(self.made),
            "networks": list(self.networks),
        }


def read_model(path: str | os.PathLike) -> LatencyModel | None:
    """The model in a file; None if there is no file.

    Raises
    ------
    SearchError
        It holds none.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise SearchError(f"latency model {path} cannot be read: {error}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise SearchError(f"latency model {path}: expected a JSON object with schema {SCHEMA}, batch and terms")
    try:
        return LatencyModel(
            batch=content.get("batch"),
            terms=content.get("terms"),
            made=content.get("made", {}),
            networks=content.get("networks", ()),
        )
    except SearchError as error:
        raise SearchError(f"latency model {path}: {error}") from None


def fit(networks: Sequence[Mapping[str, float]], ns: Sequence[float]) -> dict[str, float]:
    """Terms, none negative, whose sums come close to measured times: least squares of the relative errors.

    Networks that are off by more than most count less, the more so the farther off they are (Huber's weights): a
    measurement that something else on the machine disturbed may be off by any factor.

    Parameters
    ----------
    networks : sequence of mapping
        Counts of each network.
    ns : sequence of float
        Measured nanoseconds per sample of each.
    """
    from scipy.optimize import nnls

    every = sorted(set().union(*networks))
    # what all have alike is part of the network
    names = ["network", *(name for name in every if len({n.get(name) for n in networks}) > 1)]
    counts_NT = np.array([[n.get(name, 0.0) for name in names] for n in networks])
    relative_NT = counts_NT / np.asarray(ns, dtype=float)[:, None]
    scale_T = relative_NT.max(axis=0)  # terms differ by ten decades
    weight_N = np.ones(len(networks))
    for _ in range(_ROUNDS):
        found_T, _ = nnls(relative_NT / scale_T * weight_N[:, None], weight_N, maxiter=100 * len(names))
        off_N = np.abs(relative_NT @ (found_T / scale_T) - 1.0)
        usual = 1.5 * 1.4826 * np.median(off_N)  # 1.5 standard deviations of most
        weight_N = np.sqrt(np.minimum(1.0, usual / np.maximum(off_N, 1e-12)))
        if usual <= 1e-12:
            break
    # a term of 0 is kept: the kind of network was looked at
    return {name: float(t) for name, t in zip(names, found_T / scale_T, strict=True)}


def relative_errors(model: LatencyModel, networks: Sequence[Mapping[str, float]], ns: Sequence[float]) -> np.ndarray:
    """How far off the model is of each network, as a part of what was measured."""
    return np.array([abs(model.ns(n) / t - 1.0) for n, t in zip(networks, ns, strict=True)])
