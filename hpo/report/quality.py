"""Figures of the hold-out: parity (figure 3), error maps over two inputs, and the worst samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LogNorm

from hpo.report.holdout import (
    LEAST_IN_CELL,
    Holdout,
    Judged,
    error_map,
    inputs_of_error,
    is_log,
    worst_samples,
)
from hpo.report.style import (
    COLOR_MAP,
    FAINT,
    FRONT,
    INK,
    SMALL,
    STEP2,
    NothingToDraw,
    Panel,
    Section,
    axes,
    color_bar,
    dots,
    log_scale,
)
from hpo.report.words import count, listed, number, percent, typeset, unit, units_label

_MOST_OUTPUTS = 4
_MAP_INPUTS = 3


def _outputs(of: Holdout) -> tuple[list[int], list[str]]:
    """Outputs to draw, at most four, and sentences about those left out."""
    said = []
    flat = [c.name for o, c in enumerate(of.output_columns) if o not in of.varying]
    if flat:
        verb, is_not = ("varies", "is") if len(flat) == 1 else ("vary", "are")
        said.append(
            f"{listed([f'`{n}`' for n in flat])} hardly {verb} on the hold-out (R² would have no meaning) and "
            f"{is_not} not drawn."
        )
    mse = of.best.scores.mse_per_output
    shown = sorted(sorted(of.varying, key=lambda o: -mse[o])[:_MOST_OUTPUTS])
    if len(shown) < len(of.varying):
        said.append(f"Drawn are the {len(shown)} of {len(of.varying)} outputs in which the best network errs most.")
    return shown, said


# -- parity -----------------------------------------------------------------------------------------------------------


def parity(of: Holdout) -> Section:
    """Predicted against true values, in hexagonal bins (figure 3)."""
    shown, left_out = _outputs(of)
    best, base = of.best, of.baseline
    sentences = [f"On {of.words}, {best.name} has an MSE of {number(best.scores.mse)}{_of_units(of)} over all outputs."]
    networks = [j for j in of.judged if j.record is not None]
    others = [j for j in networks[1:] if j.scores.mse > 0]
    if others:
        each = listed([f"{j.name} has {number(j.scores.mse)}" for j in others])
        sentences.append(
            f"{each[0].upper() + each[1:]}; the {len(networks)} networks span a factor of "
            f"{number(_span([j.record['num_parameters'] for j in networks]))} in parameters and "
            f"{number(_span([j.scores.mse for j in networks]))} in error."
        )
    if base is not None and best.scores.mse > 0:
        sentences.append(
            f"{base.name} has an MSE of {number(base.scores.mse)}, {number(base.scores.mse / best.scores.mse)} times "
            f"that of the best network{_r2_words(of, best, base)}."
        )
    groups = []
    for o in shown:
        panels = [_hexagons(of, j, o) for j in of.judged]
        title = of.output_columns[o].name
        groups.append(Section(title=title, sentences=(), panels=tuple(panels), small=True))
    gist = (0,) if base is None else (0, len(sentences) - 1)
    return Section(title="Predicted against true", sentences=(*sentences, *left_out), folded=tuple(groups), gist=gist)


def _of_units(of: Holdout) -> str:
    """Of a squared error of all outputs together."""
    units = {unit(c.units) for c in of.output_columns}
    if len(units) > 1:
        return " (each in its own unit, squared)"
    only = units.pop()
    return f" ({only[1:]})²" if only else ""


def _span(values: Sequence[float]) -> float:
    return max(values) / min(values)


def _r2_words(of: Holdout, best: Judged, base: Judged) -> str:
    if not of.varying:
        return ""
    r2 = [min(j.scores.r2_per_output[o] for o in of.varying) for j in (best, base)]
    return f"; the least R² of an output is {r2[1]:.4f} against {r2[0]:.4f}"


def _hexagons(of: Holdout, judged: Judged, o: int) -> Panel:
    column = of.output_columns[o]
    truth, predicted = of.truth_NO[:, o], judged.predicted_NO[:, o]
    label = f"{column.name}{units_label(column.units)}"
    heading = judged.name.replace(" (", "\n").replace(")", "")
    figure, drawn = axes(f"true {label}", f"predicted {label}", size=SMALL, title=heading)
    ends = float(min(truth.min(), predicted.min())), float(max(truth.max(), predicted.max()))
    cells = drawn.hexbin(
        truth, predicted, gridsize=45, extent=(*ends, *ends), norm=LogNorm(), mincnt=1, cmap=COLOR_MAP, linewidths=0,
        rasterized=True,
    )  # fmt: skip
    drawn.plot(ends, ends, "--", color=FRONT, linewidth=1)
    drawn.grid(visible=False)
    color_bar(drawn, cells, "samples")
    mse, r2 = judged.scores.mse_per_output[o], judged.scores.r2_per_output[o]
    lines = [typeset(f"MSE {number(mse)}"), f"R² {r2:.5f}"]
    drawn.text(0.04, 0.98, "\n".join(lines), transform=drawn.transAxes, va="top", fontsize=8.5)
    if judged.record is not None:
        lines += [f"{len(judged.record['hidden'])} layers", f"{judged.record['num_parameters']:,} parameters"]
        drawn.text(0.98, 0.03, "\n".join(lines[2:]), transform=drawn.transAxes, ha="right", fontsize=8.5)
    alt = f"Predicted against true {column.name} of {judged.name}: {', '.join(lines)}."
    return Panel(name=f"parity-{column.name}-{_slug(judged)}", alt=alt, figure=figure)


def _slug(judged: Judged) -> str:
    name = judged.name.partition("(")[2].rstrip(")") if judged.record is not None else judged.name
    return "".join(c if c.isalnum() else "-" for c in name.lower())


# -- maps -------------------------------------------------------------------------------------------------------------


def error_maps(of: Holdout, wanted: Sequence[tuple[str, str]]) -> Section:
    """Errors of the best network, and of the scheme it replaces, over two inputs at a time, per output."""
    shown, left_out = _outputs(of)
    if not shown:
        raise NothingToDraw("no output varies on the hold-out")
    squared_NO = (of.best.predicted_NO - of.truth_NO) ** 2
    names = [c.name for c in of.input_columns]
    explained, factor = inputs_of_error(of.x_NI, squared_NO.sum(axis=1))
    sentences = []
    if wanted:
        pairs = [(names.index(a), names.index(b)) for a, b in wanted]
    else:
        most = np.argsort(-explained, kind="stable")[: min(_MAP_INPUTS, len(names))].tolist()
        if len(most) < 2:
            raise NothingToDraw("a map needs two inputs")
        pairs = [(a, b) for k, a in enumerate(most) for b in most[k + 1 :]]
        along = listed([f"`{names[i]}` ({_factor(factor[i])})" for i in most])
        sentences.append(
            f"The mean squared error of the best network varies most along {along}, from the best to the worst twelfth "
            "of the samples in the order of that input."
        )
    sentences.append(f"A cell with fewer than {LEAST_IN_CELL} samples is empty.")
    groups = []
    for o in shown:
        panels, said = [], []
        for a, b in pairs:
            drawn, sentence = _maps(of, o, a, b)
            panels += drawn
            said.append(sentence)
        groups.append(
            Section(
                title=of.output_columns[o].name,
                sentences=tuple(said),
                panels=tuple(panels),
                small=True,
                stacked=of.baseline is not None,
            )
        )
    return Section(title="Error maps", sentences=(*sentences, *left_out), folded=tuple(groups))


def _factor(value: float) -> str:
    return f"a factor of {number(value)}" if np.isfinite(value) else "from nothing"


def _maps(of: Holdout, o: int, a: int, b: int) -> tuple[list[Panel], str]:
    shown = [j for j in (of.best, of.baseline) if j is not None]
    maps = [error_map(of.x_NI[:, a], of.x_NI[:, b], (j.predicted_NO[:, o] - of.truth_NO[:, o]) ** 2) for j in shown]
    positive = np.concatenate([m.rmse[np.nan_to_num(m.rmse) > 0] for m in maps])
    norm = LogNorm(positive.min(), max(positive.max(), positive.min() * 1.01)) if len(positive) else None
    cx, cy, out = of.input_columns[a], of.input_columns[b], of.output_columns[o]
    panels = []
    for k, (judged, m) in enumerate(zip(shown, maps, strict=True)):
        title = judged.name if judged.record is None else f"best network, trial {judged.record['trial']}"
        labels = [f"{c.name}{units_label(c.units)}" for c in (cx, cy)]
        figure, drawn = axes(*labels, size=SMALL, title=title)
        cells = drawn.pcolormesh(m.x_edges, m.y_edges, m.rmse, norm=norm, cmap=COLOR_MAP, rasterized=True)
        drawn.grid(visible=False)
        logs = [name for name, i in (("x", a), ("y", b)) if is_log(of.x_NI[:, i])]
        log_scale(drawn, *logs)
        color_bar(drawn, cells, f"RMSE of {out.name}{units_label(out.units)}")
        which = "network" if k == 0 else _slug(judged)
        panels.append(
            Panel(
                name=f"map-{out.name}-{cx.name}-{cy.name}-{which}",
                alt=f"Root-mean-square error of {out.name} by {title} over {cx.name} and {cy.name}.",
                figure=figure,
            )
        )
    return panels, _map_sentence(of, maps, cx, cy, out)


def _map_sentence(of: Holdout, maps: list, cx, cy, output) -> str:
    if not np.isfinite(maps[0].rmse).any():
        return f"Over `{cx.name}` and `{cy.name}` no cell has enough samples."
    worst, xs, ys = maps[0].cell(worst=True)
    text = (
        f"Over `{cx.name}` and `{cy.name}`, the network's RMSE of `{output.name}` is from "
        f"{number(maps[0].cell(worst=False)[0])} to {number(worst)}, largest at {_range(cx, xs)} and {_range(cy, ys)}"
    )
    if len(maps) < 2:
        return f"{text}."
    cells = np.isfinite(maps[0].rmse)
    better = int((maps[0].rmse[cells] < maps[1].rmse[cells]).sum())
    return f"{text}; it errs less than {of.baseline.name} in {better} of {count(int(cells.sum()), 'cell')}."


def _range(column, ends: tuple[float, float]) -> str:
    return f"`{column.name}` {number(ends[0])} to {number(ends[1])}{unit(column.units)}"


# -- the worst --------------------------------------------------------------------------------------------------------


def worst(of: Holdout) -> Section:
    """What the worst hundred samples of the best network share."""
    squared_N = ((of.best.predicted_NO - of.truth_NO) ** 2).sum(axis=1)
    found = worst_samples(of.x_NI, of.input_columns, squared_N)
    if found is None:
        raise NothingToDraw(f"the hold-out has {count(len(of.rows), 'sample')}; worst cases need 50")
    n = len(found.index)
    errors = np.abs(of.best.predicted_NO - of.truth_NO)[found.index]
    outputs = np.bincount(errors.argmax(axis=1), minlength=errors.shape[1])
    o = int(outputs.argmax())
    sentences = [
        f"The worst {n} of {len(of.rows):,} samples ({percent(n / len(of.rows))}) carry {percent(found.share)} of the "
        f"best network's squared error; their largest error is {number(errors.max())}, and {outputs[o]} of them err "
        f"most in `{of.output_columns[o].name}`."
    ]
    shared = found.shared
    sentences.append(
        f"The worst samples share {listed([s.words for s in shared[:4]])}."
        if shared
        else "No single input sets the worst samples apart from the others."
    )
    if of.baseline is not None:
        scheme = ((of.baseline.predicted_NO - of.truth_NO) ** 2).sum(axis=1)[found.index]
        better = int((scheme < squared_N[found.index]).sum())
        sentences.append(f"On {better} of these {n}, {of.baseline.name} is closer to the truth than the network.")
    return Section(title=f"The worst {n} samples", sentences=tuple(sentences), panels=(_shift_panel(found),), gist=(1,))


def _shift_panel(found) -> Panel:
    shown = found.shifts[:12][::-1]
    figure, drawn = axes("rank-biserial correlation: worst against the others", "", size=(4.6, 1.5 + 0.17 * len(shown)))
    drawn.axvline(0.0, color=FAINT, linewidth=1)
    y = np.arange(len(shown))
    drawn.hlines(y, 0.0, [s.biserial for s in shown], color=STEP2, linewidth=2)
    dots(drawn, [s.biserial for s in shown], y, STEP2, size=7)
    drawn.set_yticks(y, [s.column.name for s in shown], color=INK)
    drawn.set_xlim(-1.02, 1.02)
    drawn.grid(visible=False, axis="y")
    alt = "How the inputs of the worst samples are shifted: " + ", ".join(
        f"{s.column.name} {s.biserial:+.2f}" for s in shown[::-1]
    )
    return Panel(name="worst", alt=alt + ".", figure=figure)
