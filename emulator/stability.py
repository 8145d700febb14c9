"""How much of a choice is luck: errors of networks that were trained again with other seeds.

`python -m hpo.study retrain` writes repeats of trial N as records in `STUDY/repeats/trial-<N>/step2`.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emulator.records import read_folder
from emulator.select import Candidate

NUM_DRAWS = 1000


@dataclass(frozen=True)
class Spread:
    """Validation MSEs of one configuration trained with several seeds, that of step 2 first."""

    errors: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.errors)

    @property
    def std(self) -> float:
        """Sample standard deviation (n - 1)."""
        return statistics.stdev(self.errors)


def spreads(study: Path, errors: Mapping[int, float]) -> dict[int, Spread]:
    """Of the trials that have at least one repeat.

    Parameters
    ----------
    study : path
    errors : mapping of trial to its validation MSE in step 2
    """
    found = {}
    for trial, error in errors.items():
        records = read_folder(Path(study) / "repeats" / f"trial-{trial:06d}" / "step2", curves=False)
        repeated = [r["validation_mse"] for r in records if r["state"] == "complete"]
        if repeated:
            found[trial] = Spread((error, *repeated))
    return found


def cautious(candidates: Sequence[Candidate], known: Mapping[int, Spread], k: float) -> list[Candidate]:
    """The candidates that have repeats, with mean + k std as their error.

    Raises
    ------
    ValueError
        None has repeats, or k is negative or NaN.
    """
    if not (k >= 0.0 and math.isfinite(k)):
        raise ValueError(f"--stability {k:g}: expected 0 or more standard deviations")
    if not known:
        raise ValueError(
            "--stability: no network was trained again with other seeds; run `python -m hpo.study retrain STUDY "
            "--trial N --seeds 10` for those that matter"
        )
    return [
        dataclasses.replace(c, error=known[c.trial].mean + k * known[c.trial].std)
        for c in candidates
        if c.trial in known
    ]


def picks_under_retraining(
    candidates: Sequence[Candidate],
    known: Mapping[int, Spread],
    choose: Callable[[Sequence[Candidate]], Candidate],
    num_draws: int = NUM_DRAWS,
) -> dict[int, float]:
    """How often each trial would be picked, most often first, if the networks had been trained with other seeds.

    Each draw takes for every candidate one of its errors (with equal chance; without repeats there is only one) and
    lets `choose` pick. Draws come from a fixed seed. Draws in which nothing is left to pick count as trial -1.
    """
    rng = np.random.default_rng(0)
    counts: Counter[int] = Counter()
    for _ in range(num_draws):
        drawn = [
            dataclasses.replace(c, error=known[c.trial].errors[rng.integers(len(known[c.trial].errors))])
            if c.trial in known
            else c
            for c in candidates
        ]
        try:
            counts[choose(drawn).trial] += 1
        except ValueError:
            counts[-1] += 1
    return {trial: count / num_draws for trial, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))}
