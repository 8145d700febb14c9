"""What the rungs of a search came to, in numbers: pure functions of the records (see `hpo.rungs`).

How far each orders its trials as the next one does, what it costs and saves, and what another `reduction` would have
kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpo.config import SearchSettings
from hpo.promotion import best_of_rung, num_going_on
from hpo.statistics import Correlation, completed, rank_correlation
from hpo.study import ranking


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A rung and what came of its trials on the next one.

    Attributes
    ----------
    number : int
        From 1.
    subset, next_subset : float
        Parts of the samples, here and on the next rung or in step 1.
    trials, going_on : int
        How many were on it, and how many of them went on.
    here, after : (N,) float
        Errors of those that completed both, by trial number.
    correlation : Correlation or None
        Rank correlation of the two.
    seconds : float
        Worker time that it took.
    saved : float
        Worker time that it saved, if those that it ended would have taken as long on the next one as those that went
        on did; what it took itself is not taken off.
    """

    number: int
    subset: float
    next_subset: float
    trials: int
    going_on: int
    here: np.ndarray
    after: np.ndarray
    correlation: Correlation | None
    seconds: float
    saved: float


def climbed(search: SearchSettings, rungs: Sequence[Sequence[dict]], step1: Sequence[dict]) -> list[Rung]:
    """The rungs of a search, first to last; of one that goes on, those from which trials have gone on.

    Parameters
    ----------
    search : SearchSettings
    rungs : sequence of sequence of dict
        Records of each rung.
    step1 : sequence of dict
        Records of step 1; those that ended on a rung are left out.
    """
    stages = [*rungs, [r for r in step1 if "rung" not in r]]
    parts = [*search.rungs, search.p_subset]
    found = []
    for k, (here, after) in enumerate(itertools.pairwise(stages)):
        if not after:
            break
        errors = [{r["trial"]: r["validation_mse"] for r in completed(records)} for records in (here, after)]
        both = sorted(errors[0].keys() & errors[1].keys())
        a, b = (np.array([e[t] for t in both]) for e in errors)
        each = sum(r["seconds"] for r in after) / len(after)
        found.append(
            Rung(
                number=k + 1,
                subset=parts[k],
                next_subset=parts[k + 1],
                trials=len(here),
                going_on=len(after),
                here=a,
                after=b,
                correlation=rank_correlation(a, b),
                seconds=sum(r["seconds"] for r in here),
                saved=each * (len(here) - len(after)),
            )
        )
    return found


def place_on(records: Sequence[dict], trial: int) -> int:
    """Place of a trial in the order of its rung, from 1."""
    return next(k for k, r in enumerate(ranking(list(records)), start=1) if r["trial"] == trial)


def kept(search: SearchSettings, rungs: Sequence[Sequence[dict]], reduction: int) -> list[set[int]]:
    """Trials that would have gone on from each rung under a larger `reduction`.

    One whose error on a rung is not known, since in truth it did not come so far, takes a place and goes no further.
    """
    wanted, left, found = replace(search, reduction=reduction), None, []
    for records in rungs:
        here = [r for r in records if left is None or r["trial"] in left]
        count = num_going_on(len(here) if left is None else len(left), wanted)
        left = {r["trial"] for r in best_of_rung(here, search, count)}
        found.append(left)
    return found
