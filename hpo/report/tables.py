"""The report's tables: the studies, all retrained networks, the best thirty as in Table S1, the worst samples."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hpo import statistics
from hpo.report.holdout import NUM_TABLE, Holdout, pool
from hpo.report.ranks import flat_of, for_error, measured_cost
from hpo.report.studies import StudyView
from hpo.report.words import number

# What stands in the page, in Markdown and in LaTeX: column, heading.
SHOWN = {
    "rank": "rank",
    "study": "study",
    "trial": "trial",
    "step1_rank": "rank in step 1",
    "layers": "layers",
    "hidden": "hidden layers",
    "num_parameters": "parameters",
    "step1_mse": "MSE step 1",
    "validation_mse": "MSE step 2",
    "holdout_mse": "MSE hold-out",
    "ns_batch_16": "ns per sample",
    "promoted": "promoted for",
}


def model_rows(studies: Sequence[StudyView], of: Holdout | None) -> list[dict]:
    """One row for each retrained network, least validation error first; only columns that have something to say."""
    ranks = [{r["trial"]: k for k, r in enumerate(s.first, start=1)} for s in studies]
    before = [{r["trial"]: r["validation_mse"] for r in s.first} for s in studies]
    sizes = sorted({b for s in studies if s.latency for b in s.latency["batch_sizes"]})
    rows = []
    for rank, (k, r) in enumerate(pool(studies), start=1):
        trial, study = r["trial"], studies[k]
        row = {"rank": rank} | ({"study": study.label} if len(studies) > 1 else {})
        row |= {
            "trial": trial,
            "validation_mse": r["validation_mse"],
            "step1_mse": before[k].get(trial, r.get("step1_mse")),
            "step1_rank": ranks[k].get(trial, r.get("step1_rank")),
            "promoted": r.get("promoted"),
            "num_parameters": r["num_parameters"],
            "layers": len(r["hidden"]),
            "hidden": "-".join(map(str, r["hidden"])),
            "activation": r["activation"],
            "best_epoch": r["best_epoch"],
            "epochs": r["epochs"],
            "seconds": r["seconds"],
            "model": r["model"],
        }
        if of is not None:
            row["holdout_mse"] = of.mse.get((k, trial))
        if sizes:
            timed = (study.latency or {"trials": {}})["trials"].get(str(trial), {})
            row |= {f"ns_batch_{b}": timed.get(str(b)) for b in sizes}
        rows.append(row)
    return rows


# What the page shows of several studies.
STUDY_SHOWN = {
    "study": "study",
    "trials": "trials of step 1",
    "near": "within twice the best",
    "flat": "flat up to rank",
    "best_step1": "best MSE step 1",
    "retrained": "retrained",
    "correlation": "rank correlation of the steps",
    "best_step2": "best MSE step 2",
    "worker_s": "worker time [s]",
    "cost": "part of a one-step search",
}


def study_rows(studies: Sequence[StudyView]) -> list[dict]:
    """One row for each study: what its figures say, in numbers; None where there is nothing to say."""
    rows = []
    for study in studies:
        errors, flat, pairs = [r["validation_mse"] for r in study.first], flat_of(study), for_error(study)
        correlation, measured = statistics.rank_correlation(pairs.step1, pairs.step2), measured_cost(study)
        rows.append(
            {
                "study": study.label,
                "trials": len(errors),
                "near": sum(e <= 2 * errors[0] for e in errors),
                "flat": flat.rank if flat else None,
                "flat_low": flat.low if flat else None,
                "flat_high": flat.high if flat else None,
                "best_step1": errors[0] if errors else None,
                "retrained": len(study.second),
                "correlation": correlation.value if correlation else None,
                "correlation_low": correlation.low if correlation else None,
                "correlation_high": correlation.high if correlation else None,
                "best_step2": study.second[0]["validation_mse"] if study.second else None,
                "worker_s": measured.step1 + measured.step2 if measured else None,
                "cost": measured.fraction if measured else None,
            }
        )
    return rows


def interval(row: Mapping, column: str) -> str:
    """A value of `study_rows` as the page shows it, with its interval if it has one."""
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    if column == "correlation" and row[column] is not None:
        return f"{row[column]:.2f}" + (f" ({low:.2f} to {high:.2f})" if low is not None else "")
    text = number(row[column]) if isinstance(row[column], float) else cell(row[column])
    return text if low is None or low == high else f"{text} ({cell(low)} to {cell(high)})"


def worst_rows(of: Holdout, index: np.ndarray) -> list[dict]:
    """One row for each of the worst samples: where it stands in the file, its inputs, truth and predictions."""
    shown = {"network": of.best} | {j.name: j for j in of.judged if j.record is None}
    rows = []
    for i in index.tolist():
        row = {"row": int(of.rows[i])} | {c.name: v for c, v in zip(of.input_columns, of.x_NI[i].tolist(), strict=True)}
        for o, column in enumerate(of.output_columns):
            row[f"{column.name} true"] = float(of.truth_NO[i, o])
            row |= {f"{column.name} {name}": float(j.predicted_NO[i, o]) for name, j in shown.items()}
        rows.append(row)
    return rows


def write_csv(path: Path, rows: Sequence[Mapping], columns: Sequence[str] = ()) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else list(columns))
        writer.writeheader()
        writer.writerows(rows)


def cell(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        if 0 < abs(value) < 1e-2:
            mantissa, _, exponent = f"{value:.3e}".partition("e")
            return f"{mantissa}e{int(exponent)}"
        return f"{value:.4g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def shown_columns(rows: Sequence[Mapping]) -> list[str]:
    """Of `SHOWN`, those that the rows have; why a network was retrained only where not all were for their error."""
    if not rows:
        return []
    one_reason = {r["promoted"] for r in rows} <= {"error", None}
    return [c for c in SHOWN if c in rows[0] and not (c == "promoted" and one_reason)]


def markdown(rows: Sequence[Mapping]) -> str:
    columns = shown_columns(rows)
    lines = ["| " + " | ".join(SHOWN[c] for c in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(cell(row[c]) for c in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def latex(rows: Sequence[Mapping]) -> str:
    """Table S1: the best thirty, a `tabular` that needs no package."""
    columns = shown_columns(rows)
    align = "".join("l" if c in ("study", "hidden", "promoted") else "r" for c in columns)
    lines = [
        f"% the best {min(len(rows), NUM_TABLE)} of {len(rows)} retrained networks",
        rf"\begin{{tabular}}{{{align}}}",
        r"\hline",
        " & ".join(SHOWN[c] for c in columns) + r" \\",
        r"\hline",
    ]
    lines += [" & ".join(_latex(cell(row[c])) for c in columns) + r" \\" for row in rows[:NUM_TABLE]]
    return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def _latex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return re.sub(r"^(-?[\d.]+)e(-?\d+)$", r"$\1\\times10^{\2}$", text)
