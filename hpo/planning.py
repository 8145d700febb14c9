"""What a probe says about searches that have not been run: cost, and how far from the best they may end.

A search of n trials is played many times over with configurations drawn from the probe's. A trial of the probe
stands for its neighbourhood: a drawn one is put among its nearest neighbours (in ranks on every part of the data), so
that how far step 1 can be trusted among the best is taken from the best, not from all. Ranks become errors through
the quantiles of the probe, below its best trial by the power law that its best sixth follows. Around this, the
trials of the probe themselves are resampled, so that results come with the uncertainty of so few of them.

Two trainings of one network end differently. The full search and the retraining of the planned one are two: how they
differ is taken from the networks that the probe trained twice, so that a planned search that retrains the same networks
need not end with the same errors.

Where the probe trained networks with a learning rate that decays, too, retraining with it is played beside. What a
search may be expected to reach is then more than the full search's own best: that of its best networks, retrained with
the same schedule. All are measured against it.

The size of a network is drawn with its errors, as one more rank, and becomes arithmetic and seconds through the sizes
of the search space, which are known: what a search retrains costs what networks cost that are its best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hpo.probe import Probe

LEVEL = 0.9  # of all intervals of the plan
SURE_OF_COST = (1.0 + LEVEL) / 2.0  # what may be spent is a bound: the upper end of a cost's interval keeps to it
_WORLDS = 100  # resamples of the probe's trials
_GAMES = 8  # searches played in each
_MOST_TRIALS = 10_000  # of a search that is played; a larger one is taken to end like this
# Errors flatten towards the best. For 24 of the 100 networks that EXPERIMENTS.md has on all its data, with each of
# three seeds, the best sixth foretells the best of 50 and of 100 to 7 %; the best third makes it 10 to 26 % too good.
_TAIL_PART = 1.0 / 6.0
TOPS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50)
_TRIAL_PARTS = (0.5, 0.25, 0.1)
# Least trials of a smaller search, as a multiple of the probe's: the probe's networks, with which every search begins,
# are trained on all data already.
_BEYOND_PROBE = 2


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """A setting, and what to expect of it; intervals hold `LEVEL`.

    Attributes
    ----------
    p_subset : float
    trials, top : int
    decays : bool
        Whether step 2's learning rate does.
    seconds : float
        Worker time of both steps, expected.
    longest : float
        Worker seconds of the longest retraining, expected: no number of workers makes a search shorter.
    cost_flop, cost_seconds : float
        Arithmetic and worker time of both steps, expected, as a part of the one-step search that everything is compared
        with.
    cost_low, cost_high : float
        Interval of the larger of both, over single searches: their best differ in size.
    affordable : float
        Probability that both are at most what may be spent.
    excess : float
        How far the best error lies above that of the one-step search (with its own best retrained at the decaying rate,
        if the probe tried one), as the median of all games: 0.1 is 10 % above. (A mean would be that of a few games
        that ended in a network which learned nothing.) `excess_low` and `excess_high`: interval of the median over what
        the probe may have missed.
    within : float
        Probability that a search ends within the tolerance of it.
    configured, configured_within : float
        Excess and probability against the one-step search as configured, nothing retrained.
    """

    p_subset: float
    trials: int
    top: int
    decays: bool
    seconds: float
    longest: float
    cost_flop: float
    cost_seconds: float
    cost_low: float
    cost_high: float
    affordable: float
    excess: float
    excess_low: float
    excess_high: float
    within: float
    configured: float
    configured_within: float

    @property
    def cost(self) -> float:
        """The larger of both."""
        return max(self.cost_flop, self.cost_seconds)

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
        Its best error as configured: expected, and the interval.
    retrained_error : (3,)
        The same when its best are retrained at the decaying rate; `one_step_error` if none was tried.
    trials : int
    """

    outlooks: list[Outlook]
    one_step_seconds: float
    one_step_error: tuple[float, float, float]
    retrained_error: tuple[float, float, float]
    trials: int


def forecast(
    probe: Probe,
    trials: int,
    *,
    tolerance: float,
    max_cost: float = 1.0,
    retrained: int = 10,
    tops: Sequence[int] = TOPS,
    worlds: int = _WORLDS,
    seed: int = 0,
) -> Forecast:
    """Play searches with the probe's fractions, all and fewer trials, several numbers of retrainings of either kind.

    Parameters
    ----------
    probe : Probe
    trials : int
        Of the full search.
    tolerance : float
        0.2: within 20 % of the one-step search's best error.
    max_cost : float
        What may be spent, as a part of the one-step search.
    retrained : int
        Best networks of the full search that are retrained at the decaying rate for comparison.
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
    counts = [n, *(c for c in (round(part * n) for part in _TRIAL_PARTS) if c >= _BEYOND_PROBE * len(probe))]
    ways = (False, True) if probe.decay is not None else (False,)
    rows_of = {}  # of each part, number of trials and way of retraining, the numbers of retrainings
    settings = []
    for k in range(len(probe.fractions)):
        for count in counts:
            allowed = [top for top in tops if top <= max(tops[0], count // 2)]
            for decays in ways:
                rows_of[k, count, decays] = len(settings), np.array(allowed)
                settings += [(k, count, decays, top) for top in allowed]
    least = np.empty((len(settings), worlds, _GAMES))
    longest = np.empty_like(least)
    spent = np.empty((2, *least.shape))  # arithmetic and seconds
    # best errors of the full search, as configured and with its best retrained
    full_error, full_spent = np.empty((2, worlds, _GAMES)), np.empty((2, worlds, _GAMES))
    for world in range(worlds):
        rows = rng.integers(0, len(probe), len(probe))
        errors, trainings = probe.errors[rows], _trainings(probe, rows, rng)
        for game in range(_GAMES):
            drawn, size, source = _population(errors, trainings, probe.sizes[rows, 0], n, rng)
            paid = _paid(probe, rows[source], size, rng)
            full = drawn[:, len(probe.fractions)]
            again = dict(zip(ways, drawn[:, -len(ways) :].T, strict=True))
            cost = {False: paid[:, :, -1]}
            if probe.decay is not None:
                cost[True] = cost[False] * probe.decay.lengths[rows[source]]
            best = np.argsort(full)[:retrained]
            decayed = again[True][best].min() if probe.decay is not None else np.inf
            full_error[:, world, game] = full[best[0]], min(full[best[0]], decayed)
            full_spent[:, world, game] = cost[False].sum(axis=1)
            for (k, count, decays), (first, allowed) in rows_of.items():
                best = np.argpartition(drawn[:count, k], allowed[-1] - 1)[: allowed[-1]]
                best = best[np.argsort(drawn[best, k])]
                at = slice(first, first + len(allowed)), world, game
                least[at] = np.minimum.accumulate(again[decays][best])[allowed - 1]
                longest[at] = np.maximum.accumulate(cost[decays][1, best])[allowed - 1]
                step1 = paid[:, :count, k].sum(axis=1) * (trials / n if count == n else 1.0)
                spent[:, *at] = step1[:, None] + np.cumsum(cost[decays][:, best], axis=1)[:, allowed - 1]
    one_step = full_spent * (trials / n)
    share = (spent / one_step[:, None]).max(axis=0)
    low, high = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    configured, excess = (least / error - 1.0 for error in full_error)
    outlooks = []
    for j, (k, count, decays, top) in enumerate(settings):
        arithmetic, seconds = spent[:, j]
        typical = np.median(excess[j], axis=1)
        outlooks.append(
            Outlook(
                p_subset=float(probe.fractions[k] / probe.reference),
                trials=trials if count == n else count,
                top=top,
                decays=decays,
                seconds=float(seconds.mean()),
                longest=float(longest[j].mean()),
                cost_flop=float((arithmetic / one_step[0]).mean()),
                cost_seconds=float((seconds / one_step[1]).mean()),
                cost_low=float(np.quantile(share[j], low)),
                cost_high=float(np.quantile(share[j], high)),
                affordable=float((share[j] <= max_cost).mean()),
                excess=float(np.median(excess[j])),
                excess_low=float(np.quantile(typical, low)),
                excess_high=float(np.quantile(typical, high)),
                within=float((excess[j] <= tolerance).mean()),
                configured=float(np.median(configured[j])),
                configured_within=float((configured[j] <= tolerance).mean()),
            )
        )
    of_worlds = full_error.mean(axis=2)
    expected = [tuple(float(v) for v in (of.mean(), *np.quantile(of, (low, high)))) for of in of_worlds]
    return Forecast(
        outlooks=sorted(outlooks, key=lambda o: (o.cost, o.top)),
        one_step_seconds=float(one_step[1].mean()),
        one_step_error=expected[0],
        retrained_error=expected[1],
        trials=trials,
    )


def _trainings(probe: Probe, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Errors on the reference, of the probe's `rows`: a training, another one, and one at a decaying rate if tried.

    A network that was trained once gets a second error that differs from its first as those of some other do. Which of
    two trainings came first says nothing: they change places at random. One that was not trained at the decaying rate
    gains from it what some other did.
    """
    first, second = probe.errors[rows, -1], probe.again[rows]
    ratios = probe.seed_ratios()
    if len(ratios) == 0:
        pairs = np.column_stack([first, first])
    else:
        some = rng.choice(ratios, len(rows)) ** rng.choice((-1.0, 1.0), len(rows))
        pairs = np.column_stack([first, np.where(np.isfinite(second), second, first * some)])
    decay = probe.decay
    if decay is None:
        return rng.permuted(pairs, axis=1)
    found = rng.permuted(decay.errors[rows], axis=1)
    known = np.where(np.isfinite(found[:, 0]), found[:, 0], found[:, 1])
    gained = np.exp(np.log(pairs).mean(axis=1)) * rng.choice(decay.ratios(), len(rows))
    return np.column_stack([rng.permuted(pairs, axis=1), np.where(np.isfinite(known), known, gained)])


def _population(
    errors_NF: np.ndarray, trainings_NW: np.ndarray, size_N: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Configurations like the given ones: errors (count, F + W), ranks by size (from 0), and which each is like.

    Errors are those on the F parts and of W trainings on the reference: `trainings_NW` gives the ranks of these. The
    last of `errors_NF` says what errors the ranks of the first two stand for, the third for its own.
    """
    n, known = errors_NF.shape
    ranks = np.column_stack([stats.rankdata(e) for e in (*errors_NF[:, :-1].T, *trainings_NW.T, size_N)])
    scores = stats.norm.ppf((ranks - 0.5) / n)
    near = max(3, n // 6)
    alike = scores[:, :known]  # neighbours are alike in all but size and the luck of another training
    distance = ((alike[:, None, :] - alike[None, :, :]) ** 2).sum(axis=2)
    neighbours = np.argsort(distance, axis=1, kind="stable")[:, :near]
    source = rng.integers(0, n, count)
    first = rng.integers(0, near, count)
    second = (first + rng.integers(1, near, count)) % near  # another one
    a, b = neighbours[source, first], neighbours[source, second]
    # a difference of two neighbours has twice the variance of one: halved, the spread is that of the neighbourhood
    drawn = scores[source] + rng.standard_normal((count, 1)) * (scores[a] - scores[b]) * np.sqrt(0.5)
    drawn = drawn + 1e-9 * rng.standard_normal((count, 1))  # no ties: a trial may be there twice
    values = [*errors_NF.T, errors_NF[:, -1], *trainings_NW.T[2:]]
    found = np.empty((count, len(values)))
    places = np.sort((np.arange(count) + rng.random(count)) / count)
    for k, of in enumerate(values):
        found[np.argsort(drawn[:, k]), k] = _quantiles(of, places)
    size = np.empty(count, int)
    size[np.argsort(drawn[:, -1])] = np.arange(count)
    return found, size, source


def _paid(probe: Probe, source: np.ndarray, size: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Arithmetic and seconds (2, N, F + 1) of trainings of networks like the probe's `source`, of those ranks by size.

    The sizes are random ones of the search space. A network costs what its source did, times the ratio of what the two
    should cost: it trains for as many epochs, and as slowly for its size.
    """
    space = probe.space_sizes[rng.integers(0, len(probe.space_sizes), len(source))]
    space = space[np.argsort(space[:, 0], kind="stable")][size]
    ratio = (space / probe.sizes[source]).T
    return np.stack([probe.flop[source], probe.seconds[source]]) * ratio[:, :, None]


def _quantiles(errors: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Errors at quantiles u: interpolated between those given, below them by a power law of the best sixth."""
    y, n = np.log(np.sort(errors)), len(errors)
    x = np.log((np.arange(n) + 0.5) / n)
    tail = max(4, round(_TAIL_PART * n))
    slope = max(0.0, float(np.polyfit(x[:tail], y[:tail], 1)[0]))
    v = np.log(u)
    return np.exp(np.where(v < x[0], y[0] + slope * (v - x[0]), np.interp(v, x, y)))


def recommended(found: Forecast, *, confidence: float) -> tuple[Outlook, bool]:
    """The cheapest setting that probably ends within the tolerance; else the likeliest that is surely affordable.

    Parameters
    ----------
    found : Forecast
    confidence : float
        Probability of ending within the tolerance that is wanted; that of the cost is `SURE_OF_COST`.

    Returns
    -------
    Outlook, bool
        The setting, and whether it has the probabilities that are wanted.
    """
    affordable = [o for o in found.outlooks if o.affordable >= SURE_OF_COST]
    sure = [o for o in affordable if o.within >= confidence]
    if sure:
        return min(sure, key=lambda o: o.cost), True
    if not affordable:
        return found.outlooks[0], False
    most = max(o.within for o in affordable)
    # probabilities come from some hundreds of games: those within 2 % of the largest are equal
    return min((o for o in affordable if o.within >= most - 0.02), key=lambda o: o.cost), False


def alternatives(found: Forecast, chosen: Outlook, count: int = 12) -> list[Outlook]:
    """Settings that no cheaper one beats in probability, the chosen one among them, in order of cost."""
    front: list[Outlook] = []
    for o in found.outlooks:
        if o is chosen or not front or o.within > max(f.within for f in front):
            front.append(o)
    while len(front) > count:
        gaps = [(front[k + 1].cost / front[k - 1].cost, k) for k in range(1, len(front) - 1) if front[k] is not chosen]
        front.pop(min(gaps)[1])
    return front
