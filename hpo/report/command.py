"""`python -m hpo.report`: figures, tables and one page about one study or several, finished or not."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from hpo.command import make_folder
from hpo.errors import SearchError
from hpo.report import architecture, cost, front, hyperparameters, quality, ranks, rungs, tables
from hpo.report.holdout import MOST_SAMPLES, Holdout, judge, worst_samples
from hpo.report.page import page
from hpo.report.studies import StudyView, read_latency, read_studies
from hpo.report.style import NothingToDraw, Section, save

SEARCH_FIGURES = (
    ("Error against rank", ranks.error_against_rank),
    ("Error after retraining", ranks.error_of_both_steps),
    ("Ranks of the two steps", ranks.rank_against_rank),
    ("Error by rank group", ranks.error_by_rank_group),
    ("Error against depth", architecture.error_against_layers),
    ("Error against size", architecture.error_against_parameters),
    ("Cost against a one-step search", ranks.cost),
    ("Error against latency", cost.error_against_latency),
    ("Inference time", cost.inference_time),
    ("Pareto front of the search", front.front_of_search),
    ("How many trials would have sufficed", ranks.trials_needed),
    ("Error against other hyperparameters", hyperparameters.hyperparameters),
    ("Rungs of step 1", rungs.rungs),
    ("Learning curves", architecture.learning_curves),
)
# After the hold-out: what most readers come to last.
LATER_FIGURES = (
    ("Depth and size of the networks", architecture.histograms),
    ("What fewer trials would have shown", architecture.subsets_of_trials),
)


def write_report(
    folders: Sequence[Path],
    out: Path,
    *,
    latency: bool = True,
    holdout: bool = True,
    data: Path | None = None,
    samples: int = MOST_SAMPLES,
    maps: Sequence[tuple[str, str]] = (),
    tolerance: float = 1.0,
    say: Callable[[str], None] = lambda text: None,
) -> list[Section]:
    """Write figures (PNG and PDF), tables (CSV, Markdown, LaTeX) and `report.html` into `out`.

    Parameters
    ----------
    folders : sequence of Path
        Studies.
    out : Path
        Made if missing; figures of an earlier report in it are removed.
    latency : bool
        Measure the latencies that `latency.json` lacks; else only those it has are drawn.
    holdout : bool
        Run networks on the hold-out samples.
    data : Path, optional
        Samples file, if it was moved since the search.
    samples : int
        Most hold-out samples to use.
    maps : sequence of (str, str)
        Inputs of the error maps; by default, those along which the error varies most.
    tolerance : float
        The pick is the fastest network within (1 + tolerance) times the best error.
    say : function
        Told what is going on.

    Raises
    ------
    SearchError
        Not a study, nothing finished in it, or an input that there is none of.
    """
    studies = read_studies(folders)
    _check_maps(studies[0], maps)
    make_folder(out)
    notes = []
    if latency:
        studies, notes = _with_latencies(studies, say)
    say("drawing the search")
    options = {cost.error_against_latency: (tolerance,)}
    sections = [
        _draw(title, draw, studies, *options.get(draw, ()))
        for title, draw in SEARCH_FIGURES
        if _concerns(draw, studies)
    ]
    judged, more = _holdout(studies, holdout, data, samples, maps, say)
    sections += [*more, *(_draw(title, draw, studies) for title, draw in LATER_FIGURES)]
    rows = tables.model_rows(studies, judged)
    _write(out, studies, sections, rows, judged, notes, say)
    return sections


def _check_maps(study: StudyView, maps: Sequence[tuple[str, str]]) -> None:
    known = [c["name"] for c in study.description["columns"]["inputs"]]
    unknown = sorted({name for pair in maps for name in pair} - set(known))
    if unknown:
        raise SearchError(f"--maps: there is no input {', '.join(unknown)}; expected two of {', '.join(known)}")


def _with_latencies(studies: list[StudyView], say) -> tuple[list[StudyView], list[str]]:
    notes, measured = [], []
    for study in studies:
        note = cost.measure_latencies(study, lambda t: say(f"measuring the latency of trial {t}"))
        notes += [note] if note else []
        measured.append(StudyView(**(vars(study) | {"latency": read_latency(study.folder)})))
    return measured, notes


def _concerns(draw: Callable[..., Section], studies: Sequence[StudyView]) -> bool:
    """Whether the studies have what the figure is about at all."""
    if draw is rungs.rungs:
        return any(s.rungs for s in studies)
    if draw is front.front_of_search:
        return any(front.has_two_objectives(s) for s in studies)
    return draw is not hyperparameters.hyperparameters or any(hyperparameters.has_any(s) for s in studies)


def _draw(title: str, draw: Callable[..., Section], *arguments) -> Section:
    try:
        return draw(*arguments)
    except NothingToDraw as reason:
        return Section(title=title, sentences=(f"Not drawn: {reason}.",))


def _holdout(studies, wanted: bool, data, samples: int, maps, say) -> tuple[Holdout | None, list[Section]]:
    titles = ("Predicted against true", "Error maps", "The worst samples")
    if not wanted:
        reason = "the hold-out was not asked for (--no-holdout)"
        return None, [Section(title=t, sentences=(f"Not drawn: {reason}.",)) for t in titles]
    try:
        judged = judge(studies, data=data, most=samples, progress=say)
    except NothingToDraw as reason:
        return None, [Section(title=t, sentences=(f"Not drawn: {reason}.",)) for t in titles]
    say("drawing the hold-out")
    return judged, [
        _draw(titles[0], quality.parity, judged),
        _draw(titles[1], quality.error_maps, judged, maps),
        _draw(titles[2], quality.worst, judged),
    ]


def _write(out: Path, studies, sections: Sequence[Section], rows, judged: Holdout | None, notes, say) -> None:
    overview = tables.study_rows(studies)
    tables.write_csv(out / "studies.csv", overview)
    tables.write_csv(out / "models.csv", rows, ("rank", "trial", "validation_mse"))
    (out / "models.md").write_text(
        tables.markdown(rows) if rows else "No network is retrained yet.\n", encoding="utf-8"
    )
    (out / "top30.tex").write_text(tables.latex(rows), encoding="utf-8")
    if judged is not None:
        squared_N = ((judged.best.predicted_NO - judged.truth_NO) ** 2).sum(axis=1)
        found = worst_samples(judged.x_NI, judged.input_columns, squared_N)
        index = found.index if found is not None else np.empty(0, int)
        tables.write_csv(out / "worst.csv", tables.worst_rows(judged, index), ("row",))
    say("writing the page")
    about = [*_about(studies), *notes]
    text = page(_title(studies), about, sections, rows, overview if len(studies) > 1 else ())
    (out / "report.html").write_text(text, encoding="utf-8")
    figures = out / "figures"
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir()
    for panel in [p for s in sections for p in s.all_panels()]:
        say(f"writing {panel.name}")
        save(panel.figure, str(figures / panel.name))


def _title(studies: Sequence[StudyView]) -> str:
    names = [s.folder.resolve().name for s in studies]
    return f"Study {names[0]}" if len(names) == 1 else f"Studies {', '.join(names)}"


def _about(studies: Sequence[StudyView]) -> list[str]:
    said = []
    for study in studies:
        data, of = study.description["data"], study.description
        text = ranks.prefix(studies, study) + study.stage
        states = [study.states(1), study.states(2)]
        if any(state != "complete" for found in states for state in found):  # else the stage says it all
            counts = [", ".join(f"{n:,} {state}" for state, n in sorted(found.items())) for found in states]
            text += f" Step 1: {counts[0] or 'nothing yet'}; step 2: {counts[1] or 'nothing yet'}."
        said.append(text)
    begun = datetime.fromisoformat(of["created"]).strftime("%Y-%m-%d %H:%M %Z")
    commit = f", by commit {of['commit'][:12]}" if of["commit"] else ""
    said.append(
        f"Samples: {data['num_samples']:,} in {Path(data['path']).name} ({data['checksum'][:23]}…). Begun "
        f"{begun}{commit}."
    )
    return said


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hpo.report",
        description="Draw the figures and tables of a study, or of several on one page. A search may be running.",
        epilog="example: python -m hpo.report study",
    )
    add = parser.add_argument
    add("study", type=Path, nargs="*", default=[Path("study")], help="study folders (default: study)")
    add("--out", type=Path, metavar="DIR", help="where to write (default: STUDY/report; of several studies: ./report)")
    add("--no-latency", action="store_true", help="measure no latencies; draw those that are known")
    add("--no-holdout", action="store_true", help="run no network: no parity, error maps and worst samples")
    add("--samples", type=int, default=MOST_SAMPLES, metavar="N", help=f"most hold-out samples ({MOST_SAMPLES:,})")
    add("--tolerance", type=float, default=1.0, metavar="T", help="pick within (1 + T) times the best error (1)")
    add("--data", type=Path, metavar="FILE", help="samples file, if it was moved since the search")
    add(
        "--maps", type=_pair, action="append", default=[], metavar="A,B", help="inputs of an error map; may be repeated"
    )
    return parser


def _pair(text: str) -> tuple[str, str]:
    names = tuple(n.strip() for n in text.split(","))
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two input names, as in tair,wbar")
    return names


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    out = args.out or (args.study[0] / "report" if len(args.study) == 1 else Path("report"))
    console = Console(stderr=True)
    try:
        if args.samples < 100:
            raise SearchError(f"--samples is {args.samples}; expected at least 100")
        if not args.tolerance >= 0.0:
            raise SearchError(f"--tolerance is {args.tolerance:g}; expected 0 or more")
        with console.status("reading") as status:
            sections = write_report(
                args.study,
                out,
                latency=not args.no_latency,
                holdout=not args.no_holdout,
                data=args.data,
                samples=args.samples,
                maps=args.maps,
                tolerance=args.tolerance,
                say=status.update,
            )
    except SearchError as error:
        print(f"hpo.report: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; latencies measured so far are kept", file=sys.stderr)
        return 130
    for section in sections:
        brief = [*section.sentences, *(s for part in section.folded for s in part.sentences[:1])]
        print(f"{section.title}: {' '.join(brief)}")
    print(f"figures: {out / 'figures'} (PNG and PDF)")
    names = ("studies.csv", "models.csv", "models.md", "top30.tex")
    print(f"tables: {', '.join(str(out / name) for name in names)}")
    print(f"page: {out / 'report.html'}")
    return 0
