"""What a probe says about searches that have not been run: cost, and how far from the best they may end.

A search of n trials is played many times over with configurations drawn from the probe's. A trial of the probe
stands for its neighbourhood: a drawn one is put among its nearest neighbours (in ranks on every part of the data), so
that how far step 1 can be trusted among the best is taken from the best, not from all. Ranks become errors through
the quantiles of the probe, below its best trial by the power law that its better third follows. Around this, the
trials of the probe themselves are resampled, so that results come with the uncertainty of so few of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hpo.probe import Probe

LEVEL = 0.9  # of all intervals of the plan
_WORLDS = 100  # resamples of the probe's trials
_GAMES = 8  # searches played in each
_MOST_TRIALS = 10_000  # of a search that is played; a larger one is taken to end like this
_TAIL_PART = 1.0 / 3.0
# Fewer than three retrainings would stake all on the luck of a seed, of which a probe that trains everything once knows
# nothing.
TOPS = (3, 4, 5, 7, 10, 15, 20, 30, 50)
_TRIAL_PARTS = (1.0, 0.5, 0.25, 0.1)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """A setting, and what to expect of it; intervals hold `LEVEL`.

    Attributes
    ----------
    p_subset : float
    trials, top : int
    seconds : float
        Worker time of both steps, expected; `seconds_low`, `seconds_high` its interval.
    longest : float
        Worker seconds of the longest retraining, expected: no number of workers makes a search shorter.
    cost : float
        `seconds` as a part of the one-step search that everything is compared with.
    excess : float
        How far the best error lies above that of the one-step search, as the median of all games: 0.1 is 10 % above.
        (A mean would be that of a few games that ended in a network which learned nothing.) `excess_low` and
        `excess_high`: interval of the median over what the probe may have missed.
    within : float
        Probability that a search ends within the tolerance.
    """

    p_subset: float
    trials: int
    top: int
    seconds: float
    seconds_low: float
    seconds_high: float
    longest: float
    cost: float
    excess: float
    excess_low: float
    excess_high: float
    within: float

    def hours(self, workers: int) -> float:
        """Wall time on so many workers, at best."""
        return max(self.seconds / workers, self.longest) / 3600.0


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """All settings that were looked at, and the one-step search that they are measured against.

    Attributes
    ----------
    outlooks : list of Outlook
        In order of cost.
    one_step_seconds : float
        Worker time of `trials` trials on the reference, expected.
    one_step_error : (3,)
        Its best error: expected, and the interval.
    trials : int
    """

    outlooks: list[Outlook]
    one_step_seconds: float
    one_step_error: tuple[float, float, float]
    trials: int


def forecast(
    probe: Probe,
    trials: int,
    *,
    tolerance: float,
    tops: Sequence[int] = TOPS,
    worlds: int = _WORLDS,
    seed: int = 0,
) -> Forecast:
    """Play searches with the probe's fractions, all and fewer trials, and several numbers of retrainings.

    Parameters
    ----------
    probe : Probe
    trials : int
        Of the full search.
    tolerance : float
        0.2: within 20 % of the one-step search's best error.
    tops : sequence of int
        Increasing.
    worlds : int
        How often the trials of the probe are resampled.
    seed : int

    Returns
    -------
    Forecast
    """
    rng = np.random.default_rng(seed)
    n = min(trials, _MOST_TRIALS)
    counts = sorted({max(min(n, 2 * tops[0]), round(part * n)) for part in _TRIAL_PARTS})
    rows_of = {}  # of each part and number of trials, the numbers of retrainings
    settings = []
    for k in range(len(probe.fractions)):
        for count in counts:
            allowed = [top for top in tops if top <= max(tops[0], count // 2) and top <= count]
            rows_of[k, count] = len(settings), np.array(allowed)
            settings += [(k, count, top) for top in allowed]
    excess = np.empty((len(settings), worlds, _GAMES))
    seconds, longest = np.empty_like(excess), np.empty_like(excess)
    full_error, full_seconds = np.empty((worlds, _GAMES)), np.empty((worlds, _GAMES))
    for world in range(worlds):
        rows = rng.integers(0, len(probe), len(probe))
        errors, times = probe.errors[rows], probe.seconds[rows]
        times = times * (probe.mean_weight / probe.weights[rows].mean())
        for game in range(_GAMES):
            drawn, source = _population(errors, n, rng)
            last, paid = drawn[:, -1], times[source]
            full_error[world, game] = last.min()
            full_seconds[world, game] = paid[:, -1].sum()
            for (k, count), (first, allowed) in rows_of.items():
                best = np.argpartition(drawn[:count, k], allowed[-1] - 1)[: allowed[-1]]
                best = best[np.argsort(drawn[best, k])]
                at = slice(first, first + len(allowed)), world, game
                excess[at] = np.minimum.accumulate(last[best])[allowed - 1] / full_error[world, game] - 1.0
                longest[at] = np.maximum.accumulate(paid[best, -1])[allowed - 1]
                seconds[at] = paid[:count, k].sum() + np.cumsum(paid[best, -1])[allowed - 1]
    scale = trials / n
    one_step = float(full_seconds.mean()) * scale
    outlooks = []
    for j, (k, count, top) in enumerate(settings):
        cost = seconds[j] * scale if count == n else seconds[j]
        typical = np.median(excess[j], axis=1)
        outlooks.append(
            Outlook(
                p_subset=float(probe.fractions[k] / probe.reference),
                trials=trials if count == n else count,
                top=top,
                seconds=float(cost.mean()),
                seconds_low=float(np.quantile(cost.mean(axis=1), (1 - LEVEL) / 2)),
                seconds_high=float(np.quantile(cost.mean(axis=1), (1 + LEVEL) / 2)),
                longest=float(longest[j].mean()),
                cost=float(cost.mean()) / one_step,
                excess=float(np.median(excess[j])),
                excess_low=float(np.quantile(typical, (1 - LEVEL) / 2)),
                excess_high=float(np.quantile(typical, (1 + LEVEL) / 2)),
                within=float((excess[j] <= tolerance).mean()),
            )
        )
    of_worlds = full_error.mean(axis=1)
    interval = np.quantile(of_worlds, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Forecast(
        outlooks=sorted(outlooks, key=lambda o: (o.seconds, o.top)),
        one_step_seconds=one_step,
        one_step_error=(float(of_worlds.mean()), float(interval[0]), float(interval[1])),
        trials=trials,
    )


def _population(errors_NF: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Errors (count, F) of configurations like the given ones, and which of those each is like."""
    n, parts = errors_NF.shape
    ranks = np.column_stack([stats.rankdata(e) for e in errors_NF.T])
    scores = stats.norm.ppf((ranks - 0.5) / n)
    near = max(3, n // 6)
    distance = ((scores[:, None, :] - scores[None, :, :]) ** 2).sum(axis=2)
    neighbours = np.argsort(distance, axis=1, kind="stable")[:, :near]
    source = rng.integers(0, n, count)
    first = rng.integers(0, near, count)
    second = (first + rng.integers(1, near, count)) % near  # another one
    a, b = neighbours[source, first], neighbours[source, second]
    # a difference of two neighbours has twice the variance of one: halved, the spread is that of the neighbourhood
    drawn = scores[source] + rng.standard_normal((count, 1)) * (scores[a] - scores[b]) * np.sqrt(0.5)
    drawn = drawn + 1e-9 * rng.standard_normal((count, 1))  # no ties: a trial may be there twice
    found = np.empty_like(drawn)
    places = (np.arange(count) + rng.random(count)) / count
    for k in range(parts):
        order = np.argsort(drawn[:, k])
        found[order, k] = _quantiles(errors_NF[:, k], np.sort(places))
    return found, source


def _quantiles(errors: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Errors at quantiles u: interpolated between those given, below them by a power law of the better third."""
    y, n = np.log(np.sort(errors)), len(errors)
    x = np.log((np.arange(n) + 0.5) / n)
    tail = max(4, round(_TAIL_PART * n))
    slope = max(0.0, float(np.polyfit(x[:tail], y[:tail], 1)[0]))
    v = np.log(u)
    return np.exp(np.where(v < x[0], y[0] + slope * (v - x[0]), np.interp(v, x, y)))


def recommended(found: Forecast, *, confidence: float, max_cost: float) -> tuple[Outlook, bool]:
    """The cheapest setting that probably ends within the tolerance; else the likeliest for that money.

    Parameters
    ----------
    found : Forecast
    confidence : float
        Probability that is wanted.
    max_cost : float
        As a part of the one-step search.

    Returns
    -------
    Outlook, bool
        The setting, and whether it has the probability that is wanted.
    """
    allowed = [o for o in found.outlooks if o.cost <= max_cost] or found.outlooks[:1]
    sure = [o for o in allowed if o.within >= confidence]
    if sure:
        return min(sure, key=lambda o: o.seconds), True
    most = max(o.within for o in allowed)
    # probabilities come from some hundreds of games: those within 2 % of the largest are equal
    return min((o for o in allowed if o.within >= most - 0.02), key=lambda o: o.seconds), False


def alternatives(found: Forecast, chosen: Outlook, count: int = 12) -> list[Outlook]:
    """Settings that no cheaper one beats in probability, the chosen one among them, in order of cost."""
    front: list[Outlook] = []
    for o in found.outlooks:
        if o is chosen or not front or o.within > max(f.within for f in front):
            front.append(o)
    while len(front) > count:
        gaps = [
            (front[k + 1].seconds / front[k - 1].seconds, k) for k in range(1, len(front) - 1) if front[k] is not chosen
        ]
        front.pop(min(gaps)[1])
    return front
