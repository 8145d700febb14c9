"""What `emulator.evaluate` found, as a table of 80 columns, as JSON, and as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.models import Model
from emulator.scores import QUANTILES, AbsoluteErrorQuantiles, Case, Scores, WorstCases
from emulator.variables import names

if TYPE_CHECKING:
    from emulator.evaluate import Evaluation

WIDTH = 80
_SCHEMA = 1
_SHOWN_QUANTILES = (0.5, 0.99, 0.999)
_ACCURACY = f"{100 * AbsoluteErrorQuantiles.RELATIVE_ERROR:.1f} %"


@dataclass(frozen=True, kw_only=True)
class About:
    """What was evaluated: samples file, its part, condition, models by label, and what to know about them."""

    samples: Path
    part: str
    where: str | None
    models: Mapping[str, Model]
    notes: tuple[str, ...]


# -- table ------------------------------------------------------------------------------------------------------


def as_table(about: About, found: Evaluation) -> str:
    lines = list(_heading(about, found))
    lines += ["", *_errors(found)]
    if "outside" in found.scores:
        lines += ["", *_ranges(about, found)]
    label = next(iter(about.models))
    if found.worst[label].over_all:
        lines += ["", *_worst(label, found.worst[label], found)]
    return "\n".join(lines) + "\n"


def _heading(about: About, found: Evaluation) -> Iterator[str]:
    part = {"all": "all samples", "test": "hold-out"}.get(about.part, f"{about.part} part")
    text = f"{about.samples}, {part}: {found.num_read:,} samples"
    if about.where is not None:
        text += f", {found.num_selected:,} of them with {about.where}"
    yield from _wrapped(text)
    for note in about.notes:
        yield from _wrapped(f"note: {note}")
    for label, scores in found.scores["all"].items():
        if scores.num_nan:
            yield from _wrapped(
                f"note: {label} gives NaN or infinity for {scores.num_nan:,} samples; its means are no numbers"
            )


def _errors(found: Evaluation) -> Iterator[str]:
    headings = ("MSE", "MAE", "R²", "bias", *(f"{100 * q:g} %" for q in _SHOWN_QUANTILES), "largest")
    yield _row("error", headings)
    shown = [QUANTILES.index(q) for q in _SHOWN_QUANTILES]
    comparable = _one_unit(found)
    for label, s in found.scores["all"].items():
        yield from _wrapped(label)
        for o, column in enumerate(found.output_columns):
            cells = [_number(s.mse_per_output[o]), _number(s.mae_per_output[o]), _r2(s.r2_per_output[o])]
            cells += [_number(s.bias_per_output[o]), *(_number(s.quantiles_per_output[o][q]) for q in shown)]
            yield _row(f"  {column.name}", [*cells, _number(s.max_error_per_output[o])])
        if len(found.output_columns) > 1 and comparable:
            cells = [_number(s.mse), _number(s.mae), "", "", *(_number(s.quantiles[q]) for q in shown)]
            yield _row("  all", [*cells, _number(_largest(s))])
    units = {f"{c.name} [{c.units}]" if not comparable else f"[{c.units}]" for c in found.output_columns}
    yield from _wrapped(
        f"Units: {', '.join(sorted(units))}; MSE: squared. Percentages: quantiles of the absolute error, good to "
        f"{_ACCURACY} of their size. R² '-': the output hardly varies."
    )


def _ranges(about: About, found: Evaluation) -> Iterator[str]:
    first = next(iter(about.models))
    inside, outside = found.scores.get("inside"), found.scores["outside"]
    count = next(iter(outside.values())).num_samples
    yield from _wrapped(f"{count:,} of {found.num_selected:,} samples lie outside the training ranges of {first}:")
    for column, below, above in found.outside:
        sides = [f"{n:,} {side}" for n, side in ((below, "below"), (above, "above")) if n]
        yield f"  {column.name}: {', '.join(sides)}"
    yield _row("", ("inside", "", "", "outside", "", ""), width=9)
    yield _row("error", ("MSE", "99 %", "largest", "MSE", "99 %", "largest"), width=9)
    at = QUANTILES.index(0.99)
    for label in outside:
        yield from _wrapped(label)
        for o, column in enumerate(found.output_columns):
            cells = []
            for s in (inside and inside[label], outside[label]):
                if not s:
                    cells += ["-", "-", "-"]
                    continue
                cells += [s.mse_per_output[o], s.quantiles_per_output[o][at], s.max_error_per_output[o]]
            texts = [c if isinstance(c, str) else _number(c) for c in cells]
            yield _row(f"  {column.name}", texts, width=9)


def _worst(label: str, worst: WorstCases, found: Evaluation) -> Iterator[str]:
    yield from _wrapped(f"worst samples of {label}, over all outputs and of each (more: --json)")
    shown = set()
    for case in [*worst.over_all, *(cases[0] for cases in worst.per_output)]:
        if (case.row, case.output) in shown:
            continue
        shown.add((case.row, case.output))
        name = found.output_columns[case.output].name
        yield (
            f"  row {case.row}: {name} is {_number(case.truth[case.output])}, predicted "
            f"{_number(case.predicted[case.output])} (error {_number(case.error)})"
        )
        inputs = ", ".join(f"{c.name}\u00a0{v:.4g}" for c, v in zip(found.input_columns, case.x, strict=True))
        indent = " " * 6
        text = textwrap.wrap(inputs, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        yield from (line.replace("\u00a0", " ") for line in text)


def _row(name: str, cells, width: int = 8) -> str:
    """A name, cut where it is too long, and right-aligned cells, within 80 columns."""
    room = WIDTH - width * len(cells)
    name = name if len(name) <= room else name[: room - 1] + "…"
    return (f"{name:<{room}}" + "".join(f"{cell:>{width}}" for cell in cells)).rstrip()


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False)


def _number(value: float) -> str:
    """At most seven characters."""
    if not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 9999.5 and abs(value) < 99999:
        return f"{value:.0f}"
    if value == 0.0 or 0.001 <= abs(value) < 99999:
        return next(text for text in (f"{value:.{digits}g}" for digits in (4, 3, 2)) if len(text) <= 7)
    texts = (f"{value:.{digits}e}".partition("e") for digits in (1, 0))
    return next(t for t in (f"{mantissa}e{int(exponent)}" for mantissa, _, exponent in texts) if len(t) <= 7)


def _r2(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if value > -9.9999 else f"{value:.2g}"


def _largest(s: Scores) -> float:
    values = s.max_error_per_output
    return math.nan if any(math.isnan(v) for v in values) else max(values)


def _one_unit(found: Evaluation) -> bool:
    return len({c.units for c in found.output_columns}) == 1


# -- JSON and CSV -----------------------------------------------------------------------------------------------


def as_json(about: About, found: Evaluation) -> str:
    """Everything; numbers that JSON has no word for (NaN, infinity) are null."""
    inputs, outputs = names(found.input_columns), names(found.output_columns)
    data = {
        "schema": _SCHEMA,
        "samples": str(about.samples),
        "part": about.part,
        "where": about.where,
        "num_read": found.num_read,
        "num_selected": found.num_selected,
        "notes": list(about.notes),
        "inputs": [{"name": c.name, "units": c.units} for c in found.input_columns],
        "outputs": [{"name": c.name, "units": c.units} for c in found.output_columns],
        "quantile_accuracy": AbsoluteErrorQuantiles.RELATIVE_ERROR,
        "models": {
            label: {"path": str(m.path), "kind": m.kind, "backend": m.backend} for label, m in about.models.items()
        },
        "outside_training_ranges": [{"name": c.name, "below": b, "above": a} for c, b, a in found.outside],
        "scores": {
            group: {label: _scores(s, outputs) for label, s in by_label.items()}
            for group, by_label in found.scores.items()
        },
        "worst": {
            label: {
                "over_all": [_case(c, inputs, outputs) for c in worst.over_all],
                "per_output": {
                    name: [_case(c, inputs, outputs) for c in cases]
                    for name, cases in zip(outputs, worst.per_output, strict=True)
                },
            }
            for label, worst in found.worst.items()
        },
    }
    return json.dumps(_finite(data), indent=1, ensure_ascii=False) + "\n"


def as_csv(about: About, found: Evaluation) -> str:
    """One line for each model, group of samples and output, and one ('all') for all outputs together."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    quantiles = [f"quantile_{q:g}" for q in QUANTILES]
    metrics = ("num_samples", "num_nan", "mse", "mae", "r2", "bias", *quantiles, "largest")
    writer.writerow(("model", "group", "output", "units", *metrics))
    for group, by_label in found.scores.items():
        for label, s in by_label.items():
            for name, row in _scores(s, names(found.output_columns)).items():
                unit = {c.name: c.units for c in found.output_columns}.get(name, "")
                cells = {**row, **{k: row["quantiles"][f"{q:g}"] for k, q in zip(quantiles, QUANTILES, strict=True)}}
                writer.writerow((label, group, name, unit, *("" if cells[m] is None else cells[m] for m in metrics)))
    return stream.getvalue()


def _scores(s: Scores, outputs: list[str]) -> dict:
    def entry(mse, mae, r2, bias, quantiles, largest) -> dict:
        return {
            "num_samples": s.num_samples,
            "num_nan": s.num_nan,
            "mse": mse,
            "mae": mae,
            "r2": r2,
            "bias": bias,
            "quantiles": {f"{q:g}": v for q, v in zip(QUANTILES, quantiles, strict=True)},
            "largest": largest,
        }

    columns = zip(
        outputs,
        s.mse_per_output,
        s.mae_per_output,
        s.r2_per_output,
        s.bias_per_output,
        s.quantiles_per_output,
        s.max_error_per_output,
        strict=True,
    )
    return {name: entry(*values) for name, *values in columns} | {
        "all": entry(s.mse, s.mae, None, None, s.quantiles, _largest(s))
    }


def _case(case: Case, inputs: list[str], outputs: list[str]) -> dict:
    return {
        "row": case.row,
        "output": outputs[case.output],
        "error": case.error,
        "inputs": dict(zip(inputs, case.x.tolist(), strict=True)),
        "truth": dict(zip(outputs, case.truth.tolist(), strict=True)),
        "predicted": dict(zip(outputs, case.predicted.tolist(), strict=True)),
    }


def _finite(value):
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
