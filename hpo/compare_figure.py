"""Cost against configurations drawn, and best error against cost: figures 3 and 4 of Wulff et al. (2023,
doi:10.1088/1742-6596/2438/1/012092)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from hpo.compare import Group, mean_course

# Okabe & Ito's colours, which the colour-blind can tell apart.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
_STYLES = ("-", "--", ":", "-.")


def draw(path: Path, groups: Sequence[Group], unit: str) -> None:
    """Write both panels as one image."""
    figure = Figure(figsize=(11.0, 4.8), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set(title="Cost of the search", xlabel="configurations drawn", ylabel=f"cost [{unit}]")
    right.set(title="Best error on all the data", xlabel=f"cost [{unit}]", ylabel="validation MSE")
    for k, group in enumerate(groups):
        look = {"color": _COLORS[k % len(_COLORS)], "linestyle": _STYLES[k // len(_COLORS) % len(_STYLES)]}
        label = f"{group.name} ({len(group.studies)})" if len(group.studies) > 1 else group.name
        for study in group.studies:
            left.plot(study.drawn, study.cost, **look, linewidth=1.0, alpha=0.8)
            known = np.isfinite(study.error)
            right.step(study.cost[known], study.error[known], where="post", **look, linewidth=0.6, alpha=0.4)
        cost, mean, least, largest = mean_course(group)
        right.plot(cost, mean, **look, linewidth=2.0)
        if len(group.studies) > 1:
            right.fill_between(cost, least, largest, color=look["color"], alpha=0.12, linewidth=0)
        right.plot([], [], **look, linewidth=2.0, label=label)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(1.5, 0.4)))  # else labels overlap
        axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)
