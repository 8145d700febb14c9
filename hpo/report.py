"""`python -m hpo.report`: figures, tables and one page about a study, finished or not."""

from __future__ import annotations

import argparse
import base64
import csv
import functools
import html
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from hpo import figures
from hpo.errors import SearchError
from hpo.figures import NothingToDraw
from hpo.study import Study, ranking

# An E3SM chunk holds 16 columns: the batch that a host calls with.
_BATCH_SIZE = 16
_COLUMNS = (
    "rank",
    "trial",
    "validation_mse",
    "step1_mse",
    "step1_rank",
    "promoted",
    "num_parameters",
    "hidden",
    "activation",
    "best_epoch",
    "epochs",
    "seconds",
    "model",
)


@dataclass(frozen=True)
class Drawn:
    """A figure's file name, title and sentence; no file if there was nothing to draw."""

    file: str | None
    title: str
    sentence: str


def write_report(folder: Path) -> list[Drawn]:
    """Write figures, `models.csv`, `models.md` and `report.html` into `folder/report`.

    Raises
    ------
    SearchError
        Not a study, or nothing finished in it.
    """
    study = Study(folder)
    if study.description is None:
        raise SearchError(f"{folder} is not a study (it has no study.json); give the --out of hpo.search")
    step1, step2 = study.records(1), study.records(2)
    if not ranking(step1):
        raise SearchError(f"{folder} has no finished trial yet; run `python -m hpo.search --out {folder}`")
    out = folder / "report"
    out.mkdir(exist_ok=True)
    for old in out.glob("*.png"):
        old.unlink()
    latency = _latency(folder)
    drawn = [_draw(out, name, title, draw) for name, title, draw in _figures(study.description, step1, step2, latency)]
    rows = _rows(step2, latency)
    _write_csv(out / "models.csv", rows)
    (out / "models.md").write_text(_markdown(rows), encoding="utf-8")
    (out / "report.html").write_text(_page(folder, study.description, step1, step2, drawn, rows, out), encoding="utf-8")
    return drawn


def _figures(description: dict, step1, step2, latency) -> list[tuple[str, str, Callable[[], tuple[Figure, str]]]]:
    prepared = description.get("prepared") or {}
    units = _units(description) if prepared.get("error_units") == "physical" else "standardised outputs"
    both = functools.partial(functools.partial, step1=step1, step2=step2, units=units)
    listed = [
        ("error-rank", "Step-1 error against rank", both(figures.error_against_rank)),
        ("error-steps", "Error after retraining", both(figures.error_of_both_steps)),
        ("error-parameters", "Error against size", both(figures.error_against_parameters)),
        ("error-layers", "Error against depth", both(figures.error_against_layers)),
        ("learning-curves", "Learning curves", both(figures.learning_curves)),
    ]
    if latency is not None:
        timed = functools.partial(figures.error_against_latency, step2, latency, _batch_size(latency), units)
        listed.append(("error-latency", "Error against latency", timed))
    return listed


def _draw(out: Path, name: str, title: str, draw: Callable[[], tuple[Figure, str]]) -> Drawn:
    try:
        figure, sentence = draw()
    except NothingToDraw as reason:
        return Drawn(None, title, f"not drawn: {reason}")
    figure.savefig(out / f"{name}.png")
    return Drawn(f"{name}.png", title, sentence)


def _units(description: dict) -> str:
    """Units of the MSE: the outputs' squared, where all outputs have the same."""
    units = {c["units"] for c in description["columns"]["outputs"]}
    if len(units) > 1:
        return "output units squared"
    unit = units.pop()
    return "1" if unit in ("1", "") else f"({unit})²"


def _latency(folder: Path) -> dict | None:
    path = folder / "latency.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SearchError(f"{path} cannot be read: {error}; remove it and measure again") from None


def _batch_size(latency: dict) -> int:
    sizes = latency["batch_sizes"]
    return _BATCH_SIZE if _BATCH_SIZE in sizes else sizes[0]


def _rows(step2: Sequence[dict], latency: dict | None) -> list[dict]:
    rows = []
    for rank, record in enumerate(ranking(list(step2)), start=1):
        row = {"rank": rank} | {c: record.get(c) for c in _COLUMNS[1:]}
        row["hidden"] = "-".join(map(str, record["hidden"]))
        if latency is not None:
            timed = latency["trials"].get(str(record["trial"]), {})
            row |= {f"ns_batch_{b}": timed.get(str(b)) for b in latency["batch_sizes"]}
        rows.append(row)
    return rows


def _write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]) if rows else list(_COLUMNS))
        writer.writeheader()
        writer.writerows(rows)


def _cell(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _shown(rows: list[dict]) -> list[str]:
    hide = {"model", "seconds", "activation"}
    return [c for c in (rows[0] if rows else _COLUMNS) if c not in hide]


def _markdown(rows: list[dict]) -> str:
    columns = _shown(rows)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row[c]) for c in columns) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _page(folder, description, step1, step2, drawn, rows, out) -> str:
    """One HTML file with everything in it."""
    data = description["data"]
    failed = sum(r["state"] == "failed" for r in (*step1, *step2))
    parts = [
        f"<h1>Study {html.escape(folder.resolve().name)}</h1>",
        f"<p>{len(step1)} trials in step 1, {len(step2)} retrained in step 2, {failed} failed. Samples: "
        f"{html.escape(Path(data['path']).name)}, {data['num_samples']:,}, {html.escape(data['checksum'][:23])}…. "
        f"Commit {html.escape(str(description['commit'])[:12])}, begun {html.escape(description['created'])}.</p>",
    ]
    for figure in drawn:
        parts.append(f"<h2>{html.escape(figure.title)}</h2><p>{html.escape(figure.sentence)}</p>")
        if figure.file:
            content = base64.b64encode((out / figure.file).read_bytes()).decode()
            alt = html.escape(figure.sentence, quote=True)
            parts.append(f'<img src="data:image/png;base64,{content}" alt="{alt}">')
    columns = _shown(rows)
    head = "".join(f"<th>{html.escape(c.replace('_', ' '))}</th>" for c in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_cell(r[c]))}</td>" for c in columns) + "</tr>" for r in rows)
    parts.append(f"<h2>Retrained networks</h2><table><tr>{head}</tr>{body}</table>")
    style = (
        "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}img{max-width:100%}"
        "table{border-collapse:collapse;font-size:14px;display:block;overflow-x:auto}"
        "td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(folder.resolve().name)}</title>'
        f"<style>{style}</style><body>{''.join(parts)}</body></html>\n"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hpo.report",
        description="Draw the figures and tables of a study into STUDY/report. A search may be running meanwhile.",
        epilog="example: python -m hpo.report study",
    )
    parser.add_argument("study", type=Path, nargs="?", default=Path("study"), help="study folder (default: study)")
    args = parser.parse_args(argv)
    try:
        drawn = write_report(args.study)
    except SearchError as error:
        print(f"hpo.report: {error}", file=sys.stderr)
        return 2
    out = args.study / "report"
    for figure in drawn:
        print(f"{figure.title}: {figure.sentence}" + (f"\n  {out / figure.file}" if figure.file else ""))
    if not (args.study / "latency.json").exists():
        print(f"Error against latency: after `python -m emulator.export {args.study}`, which measures it.")
    print(f"tables: {out / 'models.csv'}, {out / 'models.md'}\npage: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
