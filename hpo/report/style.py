"""How the report's figures look, on paper and on a page in light or dark.

Every colour has a name and two values. Figures are drawn with the light ones; in the page's SVG they become CSS
variables, so that a figure follows the reader's colour scheme, and print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from hpo.report.words import TIMES, superscript

# name: (on white, on black)
COLORS = {
    "ink": ("#22272e", "#d8dee6"),
    "faint": ("#656d77", "#99a3af"),
    "grid": ("#dfe3e8", "#343b44"),
    "step1": ("#8a97a8", "#7d8b9d"),
    "step2": ("#0b6fb8", "#58b0f0"),
    "front": ("#c93c50", "#ff7b8a"),
    "band": ("#f0e3c0", "#4a4020"),
    # told apart without red or green cones too, the first five above all; see MARKERS
    "study0": ("#0b6fb9", "#58b0f1"),
    "study1": ("#d9660a", "#ff9a3d"),
    "study2": ("#8d0f1f", "#e8455c"),
    "study3": ("#14937f", "#a5f2d3"),
    "study4": ("#2a1f7a", "#d6ccff"),
    "study5": ("#c23cb0", "#c45fd6"),
    "study6": ("#8f8000", "#f7e94d"),
}
INK, FAINT, GRID, STEP1, STEP2, FRONT, BAND = (COLORS[n][0] for n in list(COLORS)[:7])
MARKERS = "o^sDvPX"
_STUDIES = [light for name, (light, _) in COLORS.items() if name.startswith("study")]

# Without viridis's darkest part, which a dark page would swallow.
COLOR_MAP = LinearSegmentedColormap.from_list("report", matplotlib.colormaps["viridis"](np.linspace(0.28, 1.0, 128)))

# A figure is drawn at the width at which a phone shows it, so that its text is readable there.
WIDE, SMALL = (4.6, 3.6), (3.4, 3.0)
# Of the PNG files, and of pictures within the SVG and PDF.
_DPI = 150
# More markers than this are drawn as a picture inside the SVG.
MOST_MARKERS = 1_500

_RC = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


class NothingToDraw(Exception):
    """The study does not hold yet what the figure shows; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture: its file name (without ending), what a reader who does not see it should know, and itself."""

    name: str
    alt: str
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class Section:
    """A figure of the report: one or more panels and the sentences that say what they show.

    Attributes
    ----------
    title : str
    sentences : tuple of str
    panels : tuple of Panel
    small : bool
        Panels stand several in a row.
    stacked : bool
        Small panels are pairs, which stand one above the other where there is room.
    folded : tuple of Section
        Parts that a reader opens, one of each output; the first is open.
    gist : tuple of int
        Sentences that the head of the page repeats.
    """

    title: str
    sentences: tuple[str, ...]
    panels: tuple[Panel, ...] = ()
    small: bool = False
    stacked: bool = False
    folded: tuple[Section, ...] = ()
    gist: tuple[int, ...] = ()

    def all_panels(self) -> list[Panel]:
        return [*self.panels, *(p for part in self.folded for p in part.all_panels())]

    def all_sentences(self) -> list[str]:
        return [*self.sentences, *(s for part in self.folded for s in part.all_sentences())]


def study_color(k: int) -> str:
    return _STUDIES[k % len(_STUDIES)]


def study_marker(k: int) -> str:
    return MARKERS[k % len(MARKERS)]


def axes(xlabel: str, ylabel: str, *, size=WIDE, title: str = "") -> tuple[Figure, Axes]:
    """A figure with one pair of axes."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        drawn = figure.add_subplot()
    drawn.set_xlabel(xlabel)
    drawn.set_ylabel(ylabel)
    if title:
        drawn.set_title(title)
    drawn.grid(True, which="major", color=GRID, linewidth=0.6)
    drawn.set_axisbelow(True)
    for side in ("top", "right"):
        drawn.spines[side].set_visible(False)
    return figure, drawn


def log_scale(drawn: Axes, *which: str) -> None:
    """A logarithmic axis on which ticks are labelled however few decades it spans."""
    for name in which:
        getattr(drawn, f"set_{name}scale")("log")
        _label(getattr(drawn, f"{name}axis"), *sorted(getattr(drawn, f"get_{name}lim")()))


def _label(axis: Axis, low: float, high: float) -> None:
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(_short)
    if high / low < 1.6:  # too few whole multiples, and as good as linear
        axis.set_major_locator(MaxNLocator(nbins=4))
        axis.set_minor_locator(NullLocator())
    elif high / low < 4:
        axis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 6.0)))
        axis.set_minor_locator(NullLocator())
    elif high / low < 30:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        axis.set_major_formatter(_power)


def _short(value: float, position: int | None = None) -> str:
    """500, 20,000, 0.02, 2×10⁻⁵."""
    if 1e-3 <= value < 1e5:
        return f"{value:,.0f}" if value >= 1e4 else f"{value:g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    power = f"10{superscript(int(exponent))}"
    return power if float(mantissa) == 1.0 else f"{float(mantissa):g}{TIMES}{power}"


def _power(value: float, position: int | None = None) -> str:
    """10⁻² in characters of the font: setting it as a formula would take most of the time of drawing."""
    return f"10{superscript(round(np.log10(value)) if value > 0 else 0)}"


def color_bar(drawn: Axes, cells, label: str = "") -> None:
    """A logarithmic colour bar beside the axes."""
    bar = drawn.figure.colorbar(cells, ax=drawn, shrink=0.85, pad=0.02)
    bar.set_label(label, fontsize=8.5)
    _label(bar.ax.yaxis, cells.norm.vmin, cells.norm.vmax)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)


def whole_ticks(drawn: Axes, *which: str) -> None:
    """Ticks at whole numbers only."""
    for name in which:
        getattr(drawn, f"{name}axis").set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))


def legend(drawn: Axes, columns: int = 2) -> None:
    """Below the axes, where it hides nothing."""
    handles, labels = drawn.get_legend_handles_labels()
    if labels:
        drawn.figure.legend(
            handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), frameon=False,
            columnspacing=1.2, handletextpad=0.5,
        )  # fmt: skip


def dots(drawn: Axes, x: Sequence, y: Sequence, color: str, *, size: float = 4.0, marker: str = "o", **more) -> None:
    """Markers without lines; many become a picture."""
    drawn.plot(
        x, y, marker, color=color, markersize=size, markeredgewidth=0, rasterized=len(x) > MOST_MARKERS, **more
    )  # fmt: skip


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element for a page: text is text, colours are CSS variables, identifiers its own."""
    stream = io.StringIO()
    backgrounds = [figure.patch, *(a.patch for a in figure.axes)]
    for patch in backgrounds:
        patch.set_visible(False)
    with matplotlib.rc_context(_RC | {"svg.hashsalt": name}):
        # not savefig: it draws everything twice
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None})
    for patch in backgrounds:
        patch.set_visible(True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for color, (light, _) in COLORS.items():
        text = text.replace(light, f"var(--{color})")
    text = text.replace("#000000", "var(--ink)")  # what matplotlib colours itself: ticks of colour bars
    text = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    return re.sub(r">\s+<", "><", text)  # blanks between the parts of a label would show


def save(figure: Figure, path_without_ending: str) -> None:
    """Write the PNG and the PDF, of a figure that `to_svg` has laid out: finding the layout takes half of the time."""
    figure.set_layout_engine("none")
    with matplotlib.rc_context(_RC):
        figure.set_dpi(_DPI)  # writing SVG or PDF leaves it at 72
        FigureCanvasAgg(figure).print_png(f"{path_without_ending}.png")
        FigureCanvasPdf(figure).print_pdf(f"{path_without_ending}.pdf", metadata={"CreationDate": None})
