"""Learning curves of one trial trained with several seeds: each of them, their mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hpo.retrain import epoch_rows

_EACH, _MEAN = "#8a97a8", "#0b6fb8"


def draw(path: Path, trial: int, records: Sequence[dict]) -> None:
    """Write the figure of complete repeats."""
    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    axes = figure.add_subplot(
        title=f"Trial {trial} trained {len(records)} times", xlabel="epoch", ylabel="validation MSE"
    )
    for r in records:
        curve = r["curve"]["validation_mse"]
        axes.plot(range(1, len(curve) + 1), curve, color=_EACH, linewidth=0.6, alpha=0.7)
    rows = epoch_rows(records)
    x, mean = [r.epoch for r in rows], np.array([r.mean for r in rows])
    deviation = np.array([r.deviation or 0.0 for r in rows])
    axes.plot(x, mean, color=_MEAN, linewidth=2.0, label="mean")
    # where the deviation exceeds the mean, the band ends at the least value rather than at minus infinity
    least = np.array([min(r["curve"]["validation_mse"][e - 1] for r in records if r["epochs"] >= e) for e in x])
    low = np.maximum(mean - deviation, least)
    axes.fill_between(x, low, mean + deviation, color=_MEAN, alpha=0.2, label="± one standard deviation")
    axes.set_yscale("log")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False)
    figure.savefig(path)
