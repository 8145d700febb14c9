"""How networks do on the hold-out: predictions, and what the figures and sentences need of them.

Axis legend: N samples, I inputs, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from emulator.bundle import load_bundle
from emulator.candidates import holdout
from emulator.evaluate import Scores, ScoreSum
from emulator.export import baselines
from emulator.variables import Column
from hpo.report.architecture import WRONG
from hpo.report.studies import StudyView
from hpo.report.style import NothingToDraw
from hpo.report.words import number, unit

MOST_SAMPLES = 100_000
# A minute of arithmetic on one core in large layers; heavier networks are judged on fewer samples.
_MOST_FLOP = 2e12
_LEAST_SAMPLES = 5_000
NUM_BEST, NUM_TABLE, NUM_WORST = 3, 30, 100


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A network, or the scheme it replaces (`record` is None), on the hold-out samples read."""

    name: str
    record: dict | None
    scores: Scores
    predicted_NO: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Hold-out samples and what was predicted for them.

    Attributes
    ----------
    rows : (N,) int array
        Row numbers in the samples file.
    total : int
        Size of the whole hold-out part.
    x_NI, truth_NO : float64 arrays, physical units
    judged : tuple of Judged
        The best networks, the lightest, the heaviest, then the schemes.
    mse : mapping of (position of the study, trial) to float
        Of all networks in the table.
    """

    input_columns: tuple[Column, ...]
    output_columns: tuple[Column, ...]
    rows: np.ndarray
    total: int
    x_NI: np.ndarray
    truth_NO: np.ndarray
    judged: tuple[Judged, ...]
    mse: Mapping[tuple[int, int], float]

    @property
    def best(self) -> Judged:
        return self.judged[0]

    @property
    def baseline(self) -> Judged | None:
        return next((j for j in self.judged if j.record is None), None)

    @property
    def varying(self) -> list[int]:
        """Outputs with a variance to explain."""
        return [o for o, r2 in enumerate(self.best.scores.r2_per_output) if r2 is not None]

    @property
    def words(self) -> str:
        n = len(self.rows)
        return f"the {n:,} hold-out samples" if n == self.total else f"{n:,} of the {self.total:,} hold-out samples"


def pool(studies: Sequence[StudyView]) -> list[tuple[int, dict]]:
    """Retrained networks of all studies with the positions of their studies, least validation error first."""
    rows = [(k, r) for k, s in enumerate(studies) for r in s.second]
    return sorted(rows, key=lambda row: (row[1]["validation_mse"], row[0], row[1]["trial"]))


def roles(networks: Sequence[tuple[int, dict]]) -> dict[str, tuple[int, dict]]:
    """Best three, lightest and heaviest (in parameters), the latter two among those that did not go wrong."""
    chosen = dict(zip(("best", "second best", "third best"), _distinct(networks), strict=False))
    good = [row for row in networks if row[1]["validation_mse"] <= WRONG * networks[0][1]["validation_mse"]]
    by_size = sorted(good, key=lambda row: row[1]["num_parameters"])
    return chosen | {"lightest": by_size[0], "heaviest": by_size[-1]}


def _distinct(networks: Sequence[tuple[int, dict]]) -> list[tuple[int, dict]]:
    """Without those that another study trained in the same way: same number, seed and data give the same network."""
    found = {}
    for row in networks:
        found.setdefault((row[1]["validation_mse"], tuple(row[1]["hidden"])), row)
    return list(found.values())


def judge(studies: Sequence[StudyView], *, data: Path | None, most: int, progress: Callable[[str], None]) -> Holdout:
    """Run the networks that the figures and the table show, and the schemes they replace, on hold-out samples.

    At most `most` samples, drawn at random with a fixed seed; fewer where the networks are so heavy that it would take
    more than about a minute.

    Raises
    ------
    NothingToDraw
        No retrained network, no hold-out part, the samples are gone or changed, or the studies differ in them.
    """
    networks = pool(studies)
    if not networks:
        raise NothingToDraw("step 2 has no completed network yet")
    parts = {(s.description["data"]["checksum"], s.description["data"].get("seed"),
              s.description["data"].get("test_fraction")) for s in studies}  # fmt: skip
    if len(parts) > 1:
        raise NothingToDraw("the studies were made from different samples or hold other parts of them out")
    try:
        bundle = load_bundle(_path(studies, networks[0]))
        samples, rows = holdout(bundle.provenance, data)
    except (OSError, ValueError) as error:
        raise NothingToDraw(f"the hold-out samples cannot be read: {error}") from None
    if not len(rows):
        raise NothingToDraw("the study holds no samples out (test_fraction = 0)")
    table, shown = networks[:NUM_TABLE], roles(networks)
    run = {(k, r["trial"]): (k, r) for k, r in (*table, *shown.values())}
    flop = 2.0 * sum(r["num_parameters"] for _, r in run.values())
    wanted = min(len(rows), most, max(_LEAST_SAMPLES, int(_MOST_FLOP / flop)))
    chosen = rows if wanted == len(rows) else np.sort(np.random.default_rng(0).choice(rows, wanted, replace=False))
    x, truth = samples.read(chosen)
    mse, judged, wanted_for = {}, {}, {}
    for role, (k, r) in shown.items():
        wanted_for.setdefault((k, r["trial"]), []).append(role)
    for key, row in run.items():
        progress(f"predicting the hold-out with trial {row[1]['trial']}")
        predicted = load_bundle(_path(studies, row)).predict(x)
        scores = score(truth, predicted)
        mse[key] = scores.mse
        if key in wanted_for:
            of = f" of {studies[row[0]].label}" if len(studies) > 1 else ""
            name = f"trial {row[1]['trial']}{of} ({' and '.join(wanted_for[key])})"
            judged[key] = Judged(name=name, record=row[1], scores=scores, predicted_NO=predicted)
    schemes = []
    for name, predict in baselines(bundle).items():
        progress(f"running {name} on the hold-out")
        predicted = predict(x)
        schemes.append(Judged(name=name, record=None, scores=score(truth, predicted), predicted_NO=predicted))
    return Holdout(
        input_columns=bundle.input_columns,
        output_columns=bundle.output_columns,
        rows=chosen,
        total=len(rows),
        x_NI=x,
        truth_NO=truth,
        judged=(*(judged[key] for key in wanted_for), *schemes),
        mse=mse,
    )


def _path(studies: Sequence[StudyView], row: tuple[int, dict]) -> Path:
    return studies[row[0]].folder / row[1]["model"]


def score(truth_NO: np.ndarray, predicted_NO: np.ndarray) -> Scores:
    total = ScoreSum(truth_NO.shape[1])
    total.add(truth_NO, predicted_NO)
    return total.scores()


# -- along which inputs errors vary -------------------------------------------------------------------------------


def inputs_of_error(x_NI: np.ndarray, squared_N: np.ndarray, parts: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Along which inputs the mean squared error varies.

    Samples are cut into parts of equally many along each input.

    Returns
    -------
    explained_I : array
        Correlation ratio (eta squared) of the squared errors over the parts, from 0 to 1.
    factor_I : array
        Mean squared error of the worst part divided by that of the best.
    """
    total = ((squared_N - squared_N.mean()) ** 2).sum()
    explained, factor = np.zeros(x_NI.shape[1]), np.ones(x_NI.shape[1])
    if total == 0.0:
        return explained, factor
    for i, x_N in enumerate(x_NI.T):
        edges = np.unique(np.quantile(x_N, np.linspace(0, 1, parts + 1)[1:-1]))
        part_N = np.searchsorted(edges, x_N, side="right")
        counts = np.bincount(part_N)
        held = counts > 0
        means = np.bincount(part_N, squared_N)[held] / counts[held]
        explained[i] = (counts[held] * (means - squared_N.mean()) ** 2).sum() / total
        factor[i] = means.max() / means.min() if means.min() > 0 else np.inf
    return explained, factor


# -- error maps -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ErrorMap:
    """Root-mean-square error (Y, X) over two inputs; NaN in cells with fewer than `LEAST_IN_CELL` samples."""

    x_edges: np.ndarray
    y_edges: np.ndarray
    rmse: np.ndarray

    def cell(self, worst: bool) -> tuple[float, tuple[float, float], tuple[float, float]]:
        """Error of the worst (or best) cell, and its ranges of x and y."""
        pick = np.nanargmax if worst else np.nanargmin
        j, i = np.unravel_index(pick(self.rmse), self.rmse.shape)
        return float(self.rmse[j, i]), tuple(self.x_edges[i : i + 2].tolist()), tuple(self.y_edges[j : j + 2].tolist())


LEAST_IN_CELL = 8
_CELLS = 14


def is_log(x_N: np.ndarray) -> bool:
    """Whether an input is better seen on a logarithmic axis."""
    low, middle, high = np.quantile(x_N, (0.005, 0.5, 0.995))
    return bool(low > 0 and high / low > 20 and (high - middle) > 2 * (middle - low))


def edges_of(x_N: np.ndarray, cells: int = _CELLS) -> np.ndarray:
    """Equal steps, of the logarithm where `is_log`, between the 0.5th and the 99.5th percentile."""
    low, high = np.quantile(x_N, (0.005, 0.995))
    if low == high:
        return np.array([low - 0.5, low + 0.5])
    return np.geomspace(low, high, cells + 1) if is_log(x_N) else np.linspace(low, high, cells + 1)


def error_map(x_N: np.ndarray, y_N: np.ndarray, squared_N: np.ndarray) -> ErrorMap:
    """Root-mean-square error in cells of two inputs."""
    x_edges, y_edges = edges_of(x_N), edges_of(y_N)
    counts, _, _ = np.histogram2d(y_N, x_N, bins=(y_edges, x_edges))
    sums, _, _ = np.histogram2d(y_N, x_N, bins=(y_edges, x_edges), weights=squared_N)
    with np.errstate(invalid="ignore", divide="ignore"):
        rmse = np.where(counts >= LEAST_IN_CELL, np.sqrt(sums / counts), np.nan)
    return ErrorMap(x_edges=x_edges, y_edges=y_edges, rmse=rmse)


# -- the worst samples ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Shift:
    """How one input of the worst samples differs from that of the others.

    Attributes
    ----------
    biserial : float
        Rank-biserial correlation: 1 if all of the worst have larger values than all others, -1 if smaller.
    ks : float
        Kolmogorov and Smirnov's distance of the distributions, which also sees a change of width.
    p : float
        Of that distance, corrected for the number of inputs (Bonferroni).
    median_worst, median_rest : float
    width_ratio : float
        Interquartile range of the worst divided by that of the others.
    """

    column: Column
    biserial: float
    ks: float
    p: float
    median_worst: float
    median_rest: float
    width_ratio: float

    @property
    def words(self) -> str:
        name = f"`{self.column.name}`"
        medians = f"median {number(self.median_worst)} against {number(self.median_rest)}{unit(self.column.units)}"
        if abs(self.biserial) >= SHIFTED:
            how = "high" if self.biserial > 0 else "low"
            return f"{how} {name} ({medians}; rank-biserial {self.biserial:+.2f})"
        how = "a narrower range of" if self.width_ratio < 1 else "both ends of"
        return f"{how} {name} (quartiles {self.width_ratio:.2g} times as far apart)"


SHIFTED, _WIDENED = 0.3, 0.2


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The samples with the largest squared error, worst first.

    Attributes
    ----------
    index : (K,) int array
        Positions among the samples read.
    share : float
        Their part of the total squared error.
    shifts : tuple of Shift
        Of all inputs, the most shifted first.
    """

    index: np.ndarray
    share: float
    shifts: tuple[Shift, ...]

    @property
    def shared(self) -> list[Shift]:
        """Inputs that set the worst apart beyond chance."""
        return [
            s
            for s in self.shifts
            if s.p < 0.01 and (abs(s.biserial) >= SHIFTED or (s.ks >= _WIDENED and not 0.8 < s.width_ratio < 1.25))
        ]


def worst_samples(
    x_NI: np.ndarray, columns: Sequence[Column], squared_N: np.ndarray, most: int = NUM_WORST
) -> Worst | None:
    """The `most` worst samples (at most a tenth of all) and how their inputs differ from the others'.

    None if there are fewer than 50 samples: a tenth of them are too few to share anything.
    """
    n = min(most, len(squared_N) // 10)
    if n < 5:
        return None
    index = np.argsort(-squared_N, kind="stable")[:n]
    is_worst = np.zeros(len(squared_N), bool)
    is_worst[index] = True
    shifts = []
    for i, column in enumerate(columns):
        a, b = x_NI[is_worst, i], x_NI[~is_worst, i]
        u = stats.rankdata(x_NI[:, i])[is_worst].sum() - n * (n + 1) / 2
        ks = stats.ks_2samp(a, b, method="asymp")
        quartiles = [np.subtract(*np.quantile(v, (0.75, 0.25))) for v in (a, b)]
        shifts.append(
            Shift(
                column=column,
                biserial=float(2.0 * u / (n * len(b)) - 1.0),
                ks=float(ks.statistic),
                p=float(min(1.0, ks.pvalue * len(columns))),
                median_worst=float(np.median(a)),
                median_rest=float(np.median(b)),
                width_ratio=float(quartiles[0] / quartiles[1]) if quartiles[1] > 0 else 1.0,
            )
        )
    total = squared_N.sum()
    return Worst(
        index=index,
        share=float(squared_N[index].sum() / total) if total > 0 else 0.0,
        shifts=tuple(sorted(shifts, key=lambda s: (-max(abs(s.biserial), s.ks), s.column.name))),
    )
