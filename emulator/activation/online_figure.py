"""The figure of `python -m emulator.activation online`: global means over time, and how far the runs move apart."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emulator.activation.online_measures import PERTURBED, REFERENCE

INK, GRID = "#22272e", "#dfe3e8"
FIXED = {REFERENCE: ("#22272e", "-"), PERTURBED: ("#8a97a8", "-"), "arg": ("#c93c50", "-")}
# Okabe & Ito's, which the colour-blind can tell apart, from each other and from those above.
EMULATORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9")


def draw(path, labels, means, differences, *, name, unit):
    """Write the figure as PNG.

    Parameters
    ----------
    path : path
    labels : dict
        Run: what the legend calls it; drawn in this order.
    means : dict
        Run: global mean of the field at each step, (T,).
    differences : dict
        Run other than the reference: relative rms difference at each step, (T,).
    name, unit : str
        Of the field.
    """
    figure = Figure(figsize=(10.8, 4.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    look = _looks(labels)
    for run, label in labels.items():
        steps = np.arange(1, len(means[run]) + 1)
        width = 1.2 if run in (REFERENCE, PERTURBED) else 1.6
        left.plot(steps, means[run], **look[run], linewidth=width, label=label, zorder=2 if run == PERTURBED else 3)
        if run in differences:
            apart = np.where(differences[run] > 0.0, differences[run], np.nan)
            right.plot(steps, apart, **look[run], linewidth=width)
    left.set(title=f"Global mean {name}", xlabel="step", ylabel=f"{name} [{unit}]")
    right.set(title="Distance from the run with the parcel model", xlabel="step", ylabel="relative rms difference [1]")
    left.set_ylim(bottom=0.0)
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xlim(left=0)
        axes.grid(True, which="major", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles, texts = left.get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=min(len(texts), 5), frameon=False)
    FigureCanvasAgg(figure).print_png(str(path))


def _looks(labels):
    looks = {}
    for run in labels:
        color, style = FIXED.get(run) or (EMULATORS[sum(r not in FIXED for r in looks) % len(EMULATORS)], "-")
        looks[run] = {"color": color, "linestyle": style}
    return looks
