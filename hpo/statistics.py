"""What a study's records say, in numbers: pure functions, from which the report and the plan make their sentences.

Errors are validation MSEs; ranks count from 1, least error first. Intervals hold 95 % unless said otherwise, and come
from resampling with a fixed seed: the same records give the same numbers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import gammaln

CONFIDENCE = 0.95
# Fewer points have no shape to speak of: the fit has six numbers.
MIN_FOR_FLAT = 12
MIN_FOR_CORRELATION = 4
# The curve's flat part ends where its slope (in log error per rank) grows by at least this factor.
SLOPE_RISE = 3.0
# Within a factor of two a curve counts as flat; beyond an order of magnitude none does (Yu et al. 2023, section 5).
FLAT_SPREAD, MOST_SPREAD = 2.0, 10.0
_GRID = 64
_RESAMPLES = 400
_CORRELATION_RESAMPLES = 4000


def completed(records: Sequence[dict]) -> list[dict]:
    """Records of trials that ran to their end, least error first; ties go to the lower trial number."""
    return sorted((r for r in records if r["state"] == "complete"), key=lambda r: (r["validation_mse"], r["trial"]))


# -- the performance-rank curve ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FlatPart:
    """Ranks 1 to `rank`, over which the error hardly changes.

    Attributes
    ----------
    rank : int
        Last rank of the flat part.
    low, high : int
        Interval of `rank`, by resampling the trials.
    error : float
        Error at `rank`.
    spread : float
        That error divided by the best one.
    found : float
        Part of the resamples that have a flat part at all.
    """

    rank: int
    low: int
    high: int
    error: float
    spread: float
    found: float

    def holds(self, top: int) -> str:
        """Whether the best `top` trials lie in the flat part: 'inside', 'uncertain' (so within the interval) or
        'beyond'."""
        if top <= min(self.low, self.rank):
            return "inside"
        return "beyond" if top > max(self.high, self.rank) else "uncertain"


def flat_part(errors: Sequence[float], *, seed: int = 0) -> FlatPart | None:
    """Where the performance-rank curve flattens, None if it does not.

    The logarithm of the sorted errors is fitted, by least squares over all pairs of breakpoints, by three joined
    straight lines: a curve of many trials is flat between a few lucky ones and a wall of networks that learned little,
    behind which those that learned nothing may form a plateau. The flat part ends at the first breakpoint at which the
    slope grows at least threefold (`SLOPE_RISE`), or at the larger of two rises that are threefold together; ranks
    before it, the lucky few among them, belong to it. If the error grows more than tenfold (`MOST_SPREAD`) up to there,
    that bend is only the foot of the wall, and the flat part is sought among the trials before it. A curve that
    steepens nowhere, or only towards its best ranks, has no flat part: more trials would still find better ones. One
    that stays within a factor of two (`FLAT_SPREAD`) is flat throughout.

    Breakpoints are sought on a grid of 64 ranks (all ranks of a smaller study). The interval of the rank is that of
    400 resamples of the trials among which the part was sought.

    Parameters
    ----------
    errors : (N,) positive
        In any order; at least 12 (`MIN_FOR_FLAT`), or None is returned.
    """
    ranked = np.sort(np.asarray(errors, dtype=float))
    n = len(ranked)
    if n < MIN_FOR_FLAT or ranked[0] <= 0.0:
        return None
    if ranked[-1] <= FLAT_SPREAD * ranked[0]:
        spread = float(ranked[-1] / ranked[0])
        return FlatPart(rank=n, low=n, high=n, error=float(ranked[-1]), spread=spread, found=1.0)
    found = _bend(ranked, seed)
    if found is None or found.spread <= MOST_SPREAD:
        return found
    return flat_part(ranked[: found.rank], seed=seed)


def _bend(ranked: np.ndarray, seed: int) -> FlatPart | None:
    """Where the slope of sorted errors first rises, however much they grow before."""
    n = len(ranked)
    m = min(n, _GRID)
    at = np.round(np.linspace(0, n - 1, m)).astype(int)
    y_m = np.log(ranked[at])
    end = _end_of_flat(y_m[None, :])[0]
    if end < 0:
        return None
    rng = np.random.default_rng(seed)
    resampled = np.sort(ranked[rng.integers(0, n, (_RESAMPLES, n))], axis=1)[:, at]
    ends = _end_of_flat(np.log(resampled))
    ends = at[ends[ends >= 0]] + 1
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(ends, (tail, 1.0 - tail), method="nearest") if len(ends) else (1, n)
    rank = int(at[end]) + 1
    return FlatPart(
        rank=rank,
        low=int(low),
        high=int(high),
        error=float(ranked[rank - 1]),
        spread=float(ranked[rank - 1] / ranked[0]),
        found=len(ends) / _RESAMPLES,
    )


@functools.lru_cache(maxsize=8)
def _designs(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of breakpoints (P, 2) on m points, orthonormal bases (P, m, 4) and the maps from fit to slopes (P, 3, 4).

    Columns of a design: 1, x, max(0, x - first), max(0, x - second).
    """
    x = np.arange(m, dtype=float)
    first, second = np.triu_indices(m - 3, 1)
    pairs = np.column_stack([first, second]) + 1  # each line has at least two points
    hinges = np.maximum(0.0, x[None, :, None] - pairs[:, None, :])
    shared = np.broadcast_to(np.column_stack([np.ones(m), x]), (len(pairs), m, 2))
    q, r = np.linalg.qr(np.concatenate([shared, hinges], axis=2))
    slopes_of = np.array([[0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    return pairs, q, slopes_of @ np.linalg.inv(r)


def _end_of_flat(y_BM: np.ndarray) -> np.ndarray:
    """Position (B,) at which the flat part of each curve ends, -1 where it has none."""
    pairs, q, slopes_of = _designs(y_BM.shape[1])
    explained = np.empty((len(pairs), len(y_BM)))
    for k in range(0, len(pairs), 256):  # all at once would be a large array for nothing
        part = np.einsum("pmc,bm->pbc", q[k : k + 256], y_BM, optimize=True)
        explained[k : k + 256] = (part**2).sum(axis=2)
    best = explained.argmax(axis=0)
    fit = np.einsum("bmc,bm->bc", q[best], y_BM)
    slopes = np.einsum("bsc,bc->bs", slopes_of[best], fit)
    # A curve is sorted: a slope is never below zero but by rounding, and a flat one may be exactly zero.
    least = 1e-9 + 1e-6 * np.abs(y_BM[:, -1:] - y_BM[:, :1]) / y_BM.shape[1]
    slopes = np.maximum(slopes, least)
    rise = slopes[:, 1:] / slopes[:, :-1]
    # Where one bend lies between two points of the grid, both breakpoints share its rise.
    shared = (rise < SLOPE_RISE).all(axis=1) & (rise.prod(axis=1) >= SLOPE_RISE)
    at_first = (rise[:, 0] >= SLOPE_RISE) | (shared & (rise[:, 0] >= rise[:, 1]))
    at_second = (rise[:, 1] >= SLOPE_RISE) | shared
    return np.where(at_first, pairs[best, 0], np.where(at_second, pairs[best, 1], -1))


@dataclass(frozen=True, kw_only=True)
class Smallest:
    """The shallowest network, and the one with the fewest parameters, of those that reach an error."""

    depth: int
    depth_trial: int
    parameters: int
    parameters_trial: int
    count: int


def smallest_reaching(records: Sequence[dict], error: float) -> Smallest | None:
    """Least depth and least number of parameters among completed trials with at most `error`; None if none has."""
    near = [r for r in completed(records) if r["validation_mse"] <= error]
    if not near:
        return None
    shallow = min(near, key=lambda r: (len(r["hidden"]), r["validation_mse"], r["trial"]))
    light = min(near, key=lambda r: (r["num_parameters"], r["validation_mse"], r["trial"]))
    return Smallest(
        depth=len(shallow["hidden"]),
        depth_trial=shallow["trial"],
        parameters=light["num_parameters"],
        parameters_trial=light["trial"],
        count=len(near),
    )


# -- the two steps against each other -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Trials that completed both steps, in order of their error in step 1."""

    trials: np.ndarray
    step1_rank: np.ndarray
    step1: np.ndarray
    step2: np.ndarray

    def __len__(self) -> int:
        return len(self.trials)


def both_steps(step1: Sequence[dict], step2: Sequence[dict]) -> Pairs:
    """Errors of the trials that completed both steps; ranks are among all completed trials of step 1."""
    after = {r["trial"]: r["validation_mse"] for r in completed(step2)}
    rows = [
        (r["trial"], k, r["validation_mse"]) for k, r in enumerate(completed(step1), start=1) if r["trial"] in after
    ]
    trials, ranks, errors = (np.array(c) for c in zip(*rows, strict=True)) if rows else (np.empty(0, int),) * 3
    return Pairs(trials=trials, step1_rank=ranks, step1=errors, step2=np.array([after[t] for t in trials.tolist()]))


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Spearman's rank correlation of `count` pairs; the interval is None for fewer than 4 pairs."""

    value: float
    low: float | None
    high: float | None
    count: int


def rank_correlation(
    a: Sequence[float], b: Sequence[float], *, level: float = CONFIDENCE, seed: int = 0
) -> Correlation | None:
    """Spearman's correlation with its interval by 4,000 resamples of the pairs (percentiles).

    None for fewer than two pairs, or where one side has no order (all values equal). Resamples without an order are
    left out of the interval.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    n = len(a)
    if n < 2 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    value = float(_spearman(a[None], b[None])[0])
    if n < MIN_FOR_CORRELATION:
        return Correlation(value=value, low=None, high=None, count=n)
    draws = np.random.default_rng(seed).integers(0, n, (_CORRELATION_RESAMPLES, n))
    found = _spearman(a[draws], b[draws])
    tail = (1.0 - level) / 2.0
    low, high = np.nanquantile(found, (tail, 1.0 - tail))
    return Correlation(value=value, low=float(low), high=float(high), count=n)


def _spearman(a_BN: np.ndarray, b_BN: np.ndarray) -> np.ndarray:
    """Pearson's correlation of the ranks, ties sharing theirs; NaN where all are tied."""
    a, b = (stats.rankdata(v, axis=1) for v in (a_BN, b_BN))
    a -= a.mean(axis=1, keepdims=True)
    b -= b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0.0)


@dataclass(frozen=True, kw_only=True)
class RankGroup:
    """Step-2 errors of trials whose step-1 ranks lie from `first` to `last`."""

    first: int
    last: int
    errors: np.ndarray

    @property
    def median(self) -> float:
        return float(np.median(self.errors))


def rank_groups(pairs: Pairs, *, groups: int = 5) -> list[RankGroup]:
    """Retrained trials by their rank in step 1 (figure 2e of the paper).

    Where the ranks come in several runs with gaps between them (ranks 1-50, 1001-1050, ...), each run of at least three
    trials is a group. Else the trials are cut into `groups` of equal size, fewer if that leaves less than three each.
    A gap is a step in rank of more than the number of trials retrained.
    """
    n = len(pairs)
    if n < 6:
        return []
    cuts = np.flatnonzero(np.diff(pairs.step1_rank) > n) + 1
    parts = [p for p in np.split(np.arange(n), cuts) if len(p) >= 3]
    if len(parts) < 2:
        parts = np.array_split(np.arange(n), min(groups, n // 3))
    return [
        RankGroup(first=int(pairs.step1_rank[p[0]]), last=int(pairs.step1_rank[p[-1]]), errors=pairs.step2[p])
        for p in parts
    ]


def groups_differ(groups: Sequence[RankGroup]) -> float | None:
    """p-value of the hypothesis that all rank groups have the same errors (Kruskal & Wallis); None for one group."""
    if len(groups) < 2 or np.ptp(np.concatenate([g.errors for g in groups])) == 0.0:
        return None
    return float(stats.kruskal(*(g.errors for g in groups)).pvalue)


# -- how many trials would have sufficed ------------------------------------------------------------------------------


def expected_best(errors: Sequence[float], num_trials: int) -> float:
    """Mean, over all subsets of `num_trials` of the trials, of the best error in the subset.

    Exact: the k-th smallest of N is the least of a subset with probability C(N - k, n - 1) / C(N, n).

    Raises
    ------
    ValueError
        More trials than there are, or none.
    """
    ranked = np.sort(np.asarray(errors, dtype=float))
    return float(_chance_of_best(len(ranked), num_trials) @ ranked)


def best_quantile(errors: Sequence[float], num_trials: int, probability: float) -> float:
    """The error that the best of `num_trials` random trials of these reaches with the given probability."""
    ranked = np.sort(np.asarray(errors, dtype=float))
    reached = np.cumsum(_chance_of_best(len(ranked), num_trials))
    return float(ranked[min(int(np.searchsorted(reached, probability - 1e-12)), len(ranked) - 1)])


def _chance_of_best(total: int, n: int) -> np.ndarray:
    if not 1 <= n <= total:
        raise ValueError(f"a subset of {n} trials of {total}; expected 1 to {total}")
    k = np.arange(1, total + 1)
    possible = k <= total - n + 1
    chance = np.zeros(total)
    chance[possible] = np.exp(_log_choose(total - k[possible], n - 1) - _log_choose(total, n))
    return chance / chance.sum()


def _log_choose(n, k):
    return gammaln(np.asarray(n) + 1.0) - gammaln(k + 1.0) - gammaln(np.asarray(n) - k + 1.0)


def sufficient_trials(total: int, good: int, *, need: int = 1, probability: float = CONFIDENCE) -> int | None:
    """The least number of random trials, out of `total`, that hold at least `need` of the `good` ones.

    With the given probability, exactly (hypergeometric distribution). None if `good` is less than `need`.
    """
    if good < need:
        return None
    low, high = need, total  # the probability grows with the number
    while low < high:
        middle = (low + high) // 2
        if stats.hypergeom.sf(need - 1, total, good, middle) >= probability - 1e-12:
            high = middle
        else:
            low = middle + 1
    return low


# -- cost -------------------------------------------------------------------------------------------------------------

# Forward, by weights, by inputs: a training sample costs about three times a validation sample.
TRAIN_WEIGHT = 3


def cost_fraction(step1: Sequence[tuple[float, float]], p_retrain: float) -> float:
    """Cost of a two-step search against training every trial on all the data (figure 1b of the paper).

    Parameters
    ----------
    step1 : sequence of (part of the samples, part of the trials)
        Of step 1 and its rungs: see `hpo.promotion.step1_parts`.
    p_retrain : float
    """
    return sum(p * n for p, n in step1) + p_retrain


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Worker time in seconds; `one_step` is an estimate, `fraction` None where there is nothing to divide by."""

    step1: float
    step2: float
    one_step: float
    fraction: float | None


def measured_cost(
    step1: Sequence[dict],
    step2: Sequence[dict],
    num_train: dict,
    num_validation: dict,
    rungs: Sequence[Sequence[dict]] = (),
) -> Cost:
    """Worker time of both steps, and of a one-step search: step 1's time per sample, on all samples.

    Parameters
    ----------
    step1, step2 : sequence of dict
        Records. Those of step 1 that ended on a rung are copies of that rung's.
    num_train, num_validation : dict of '1', '2' and 'rung1' ... to int
        Samples, as `study.json` has them under `prepared`.
    rungs : sequence of sequence of dict
        Records of each rung, whose time is a part of step 1's.
    """
    second = sum(r["seconds"] for r in step2)
    own = [r for r in step1 if "rung" not in r]
    first = sum(r["seconds"] for records in (*rungs, own) for r in records)
    weight = {s: TRAIN_WEIGHT * num_train[s] + num_validation[s] for s in num_train}
    # each trial by the most samples that it was trained on
    part = [f"rung{r['rung']}" if "rung" in r else "1" for r in step1]
    one_step = sum(r["seconds"] * weight["2"] / weight[p] for r, p in zip(step1, part, strict=True))
    return Cost(
        step1=first,
        step2=second,
        one_step=one_step,
        fraction=(first + second) / one_step if one_step > 0 else None,
    )
