"""The report's figures, each with one sentence computed from the same numbers.

Errors are validation MSEs. Every function takes records (and what it is told to label them with), and returns a
figure and its sentence, or raises `NothingToDraw` with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from scipy import stats

from hpo.study import ranking

STEP1, STEP2, FRONT, GUIDE = "#8a97a8", "#0b6fb8", "#d1495b", "#444444"
_SIZE = (7.2, 4.6)
_NUM_CURVES = 10


class NothingToDraw(Exception):
    """The study does not hold yet what the figure shows; the message says what is missing."""


def error_against_rank(step1: Sequence[dict], step2: Sequence[dict], units: str) -> tuple[Figure, str]:
    """Step-1 error of every trial, sorted; those retrained are marked."""
    ranked = _needs(step1, 2, "step 1")
    errors = np.array([r["validation_mse"] for r in ranked])
    ranks = np.arange(1, len(ranked) + 1)
    promoted = {r["trial"] for r in step2}
    chosen = np.array([r["trial"] in promoted for r in ranked])
    figure, axes = _axes("Step-1 error against rank", "rank in step 1", _error("step 1", units))
    axes.plot(ranks, errors, ".", color=STEP1, markersize=5, label=f"step 1, {len(ranked)} trials")
    if chosen.any():
        axes.plot(ranks[chosen], errors[chosen], "o", color=STEP2, markersize=5, label=f"retrained ({chosen.sum()})")
    axes.set_yscale("log")
    _legend(axes)
    spread = errors[-1] / errors[0]
    near = int((errors <= 2 * errors[0]).sum())
    return figure, (
        f"{len(ranked)} trials span a factor of {spread:.3g} in error, from {errors[0]:.3g} to {errors[-1]:.3g}; "
        f"{near} of them ({near / len(ranked):.1%}) lie within a factor of two of the best."
    )


def error_of_both_steps(step1: Sequence[dict], step2: Sequence[dict], units: str) -> tuple[Figure, str]:
    """Error after retraining against the error that promoted the trial."""
    ranked = _needs(step2, 2, "step 2")
    before = {r["trial"]: r["validation_mse"] for r in step1}
    x = np.array([before[r["trial"]] for r in ranked])
    y = np.array([r["validation_mse"] for r in ranked])
    figure, axes = _axes("Error after retraining", _error("step 1", units), _error("step 2", units))
    for why, marker, color in (("error", "o", STEP2), ("light", "D", FRONT)):
        of = np.array([r.get("promoted") == why for r in ranked])
        if of.any():
            axes.plot(x[of], y[of], marker, color=color, markersize=6, label=f"promoted for being {_REASON[why]}")
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    axes.plot([low, high], [low, high], "--", color=GUIDE, linewidth=1, label="no change")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _legend(axes)
    gain = np.median(x / y)
    order = (
        f"the order of step 1 is kept with a rank correlation of {stats.spearmanr(x, y).statistic:.2f}"
        if len(ranked) > 2
        else "two networks have no rank correlation to speak of"
    )
    return figure, f"Retraining on all the data lowers the error {gain:.3g} times (median); {order}."


_REASON = {"error": "good", "light": "light"}


def error_against_parameters(step1: Sequence[dict], step2: Sequence[dict], units: str) -> tuple[Figure, str]:
    """Error of both steps against the number of weights and biases."""
    first = _needs(step1, 2, "step 1")
    second = ranking(step2)
    figure, axes = _axes("Error against size", "parameters (weights and biases)", f"validation MSE [{units}]")
    _scatter(axes, first, second, lambda r: r["num_parameters"])
    axes.set_xscale("log")
    _legend(axes)
    best = (second or first)[0]
    near = [r for r in (second or first) if r["validation_mse"] <= 2 * best["validation_mse"]]
    least = min(near, key=lambda r: (r["num_parameters"], r["validation_mse"]))
    ratio = best["num_parameters"] / least["num_parameters"]
    which = "retrained " if second else ""
    return figure, (
        f"The best {which}network has {best['num_parameters']:,} parameters (trial {best['trial']}); the smallest one "
        f"within twice its error has {least['num_parameters']:,} (trial {least['trial']}), {ratio:.3g} times fewer."
    )


def error_against_layers(step1: Sequence[dict], step2: Sequence[dict], units: str) -> tuple[Figure, str]:
    """Error of both steps against the number of hidden layers, with the median of step 1."""
    first = _needs(step1, 2, "step 1")
    second = ranking(step2)
    figure, axes = _axes("Error against depth", "hidden layers", f"validation MSE [{units}]")
    _scatter(axes, first, second, lambda r: len(r["hidden"]))
    depths = sorted({len(r["hidden"]) for r in first})
    medians = [np.median([r["validation_mse"] for r in first if len(r["hidden"]) == d]) for d in depths]
    axes.plot(depths, medians, "-", color=GUIDE, linewidth=1.5, label="median of step 1")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes)
    best_depth = depths[int(np.argmin(medians))]
    best = (second or first)[0]
    return figure, (
        f"The median step-1 error is least with {_count(best_depth, 'hidden layer')} ({min(medians):.3g}); the best "
        f"{'retrained ' if second else ''}network has {len(best['hidden'])}."
    )


def learning_curves(step1: Sequence[dict], step2: Sequence[dict], units: str) -> tuple[Figure, str]:
    """Validation error of the best retrained networks epoch by epoch (of step 1 while there are none)."""
    step = 2 if ranking(step2) else 1
    ranked = _needs(step2 if step == 2 else step1, 1, "any step")
    figure, axes = _axes(f"Learning curves of step {step}", "epoch", f"MSE [{units}]")
    for r in ranked[_NUM_CURVES:100]:
        curve = r["curve"]["validation_mse"]
        axes.plot(range(1, len(curve) + 1), curve, color=STEP1, linewidth=0.5, alpha=0.5)
    for k, r in reversed(list(enumerate(ranked[:_NUM_CURVES]))):
        curve = r["curve"]["validation_mse"]
        label = (
            f"best, trial {r['trial']}: validation"
            if k == 0
            else (f"ranks 2 to {min(len(ranked), _NUM_CURVES)}" if k == 1 else None)
        )
        color, width = (STEP2, 2.0) if k == 0 else ("#86b8dd", 1.0)
        axes.plot(range(1, len(curve) + 1), curve, color=color, linewidth=width, label=label)
    best = ranked[0]
    train = best["curve"]["train_mse"]
    axes.plot(range(1, len(train) + 1), train, "--", color=FRONT, linewidth=1.2, label="best: training")
    axes.plot(best["best_epoch"], best["validation_mse"], "o", color=STEP2, markersize=7, label="weights kept")
    axes.set_yscale("log")
    _legend(axes)
    capped = sum(r["epochs"] >= r["train"]["max_epochs"] for r in ranked)
    return figure, (
        f"The best network had its least error in epoch {best['best_epoch']} of {best['epochs']}; {capped} of "
        f"{len(ranked)} trainings ran into their limit of epochs instead of stopping early."
    )


def error_against_latency(step2: Sequence[dict], latency: Mapping, batch_size: int, units: str) -> tuple[Figure, str]:
    """Error of retrained networks against measured nanoseconds per sample, with the Pareto front."""
    timed = {int(t): row[str(batch_size)] for t, row in latency["trials"].items() if str(batch_size) in row}
    ranked = [r for r in ranking(step2) if r["trial"] in timed]
    if not ranked:
        raise NothingToDraw(f"no retrained network has a measured latency at batch size {batch_size}")
    x = np.array([timed[r["trial"]] for r in ranked])
    y = np.array([r["validation_mse"] for r in ranked])
    front = pareto_front(x, y)
    label = f"time per sample at batch size {batch_size} [ns]"
    figure, axes = _axes(f"Error against latency, {latency['machine']}", label, _error("step 2", units))
    axes.plot(x, y, "o", color=STEP2, markersize=6, label=f"retrained networks ({len(ranked)})")
    axes.plot(x[front], y[front], "-o", color=FRONT, markersize=7, label=f"Pareto front ({len(front)}, by trial)")
    for k in front:
        axes.annotate(str(ranked[k]["trial"]), (x[k], y[k]), textcoords="offset points", xytext=(6, 5), fontsize=9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1.5, 0.6)))
    _legend(axes)
    fast, best = front[0], front[-1]
    return figure, (
        f"The fastest network takes {x[fast]:.3g} ns per sample (trial {ranked[fast]['trial']}, MSE {y[fast]:.3g}), "
        f"the best {x[best]:.3g} ns (trial {ranked[best]['trial']}, MSE {y[best]:.3g}): {x[best] / x[fast]:.3g} times "
        f"the time for {y[fast] / y[best]:.3g} times less error."
    )


def pareto_front(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Positions of the points that no other beats in both x and y, least x first."""
    front: list[int] = []
    for k in np.lexsort((y, x)):
        if not front or y[k] < y[front[-1]]:
            front.append(int(k))
    return front


# -- helpers --------------------------------------------------------------------------------------------------------


def _needs(records: Sequence[dict], least: int, what: str) -> list[dict]:
    ranked = ranking(list(records))
    if len(ranked) < least:
        raise NothingToDraw(f"{what} has {_count(len(ranked), 'completed trial')}; this figure needs {least}")
    return ranked


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _error(step: str, units: str) -> str:
    return f"validation MSE of {step} [{units}]"


def _axes(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=13)
    axes.set_xlabel(xlabel, fontsize=12)
    axes.set_ylabel(ylabel, fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _legend(axes: Axes) -> None:
    """Below the axes, where it hides nothing."""
    axes.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=10, frameon=False
    )


def _scatter(axes: Axes, first: Sequence[dict], second: Sequence[dict], of) -> None:
    for records, color, size, label in (
        (first, STEP1, 4, f"step 1 ({len(first)})"),
        (second, STEP2, 7, f"step 2 ({len(second)})"),
    ):
        if records:
            errors = [r["validation_mse"] for r in records]
            axes.plot([of(r) for r in records], errors, "o", color=color, markersize=size, alpha=0.75, label=label)
    axes.set_yscale("log")
