"""The figure of `python -m emulator.activation online`: global means over time, and how far the runs move apart."""

import re

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emulator.activation.online_measures import PERTURBED, REFERENCE

GRID = "#dfe3e8"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# The reference is wide and lies below: what follows it closely stays within.
FIXED = {
    REFERENCE: {"color": "#22272e", "linewidth": 3.0, "zorder": 2},
    PERTURBED: {"color": "#a9b4c2", "linewidth": 1.2, "zorder": 3},
    "arg": {"color": "#c93c50", "linewidth": 1.2, "zorder": 4},
}
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
    power = 3 * int(np.log10(max(means[REFERENCE].max(), 1.0)) // 3)
    for run, label in labels.items():
        steps = np.arange(1, len(means[run]) + 1)
        look = _look(run, labels)
        left.plot(steps, means[run] / 10.0**power, **look, label=label)
        if run in differences:
            apart = np.where(differences[run] > 0.0, differences[run], np.nan)
            right.plot(steps, apart, **look)
    left.set(title=f"Global mean {name}", xlabel="step", ylabel=f"{name} [{_unit(unit, power)}]")
    right.set(title="Distance from the run with the parcel model", xlabel="step", ylabel="relative rms difference [1]")
    left.set_ylim(bottom=0.0)
    right.set_yscale("log")
    for axes in (left, right):
        axes.set_xlim(0, len(means[REFERENCE]))
        axes.grid(True, which="major", color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles, texts = left.get_legend_handles_labels()
    columns = len(texts) if len(texts) <= 5 else -(-len(texts) // 2)
    figure.legend(handles, texts, loc="outside lower center", ncols=columns, frameon=False)
    FigureCanvasAgg(figure).print_png(str(path))


def _unit(unit, power):
    """kg-1 in units of 10^power, with exponents raised."""
    raised = re.sub(r"-?\d+", lambda exponent: exponent[0].translate(_SUPERSCRIPT), unit)
    return f"10{str(power).translate(_SUPERSCRIPT)} {raised}" if power else raised


def _look(run, labels):
    if run in FIXED:
        return FIXED[run]
    place = [name for name in labels if name not in FIXED].index(run)
    return {"color": EMULATORS[place % len(EMULATORS)], "linewidth": 1.2, "zorder": 5}
