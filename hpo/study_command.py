"""`python -m hpo.study`: list studies, compare them, train a choice again. Argument wiring only."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from hpo.command import console, make_folder, run_stoppable
from hpo.errors import SearchError

_EPOCHS_SHOWN = (1, 2, 3, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m hpo.study", description="What lies in study folders, one beside the other, or trained again."
    )
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add = commands.add_parser(
        "list",
        help="studies in a folder, with their best errors and what they cost",
        description="Studies in folders and below: trials, best errors of both steps, and what they cost.",
    ).add_argument
    add("folder", type=Path, nargs="*", default=[Path()], help="folders to look in, and below (default: this one)")

    compare = commands.add_parser(
        "compare",
        help="best error against cost, several studies side by side",
        description="Best error on all the data against what was spent, as figures and tables. Studies that differ in "
        "their seed alone are taken together: mean and spread. A study may be given as NAME=STUDY.",
        epilog="example: python -m hpo.study compare random=r1 random=r2 tpe=t1 tpe=t2 --out comparison",
    )
    add = compare.add_argument
    add("study", nargs="+", metavar="[NAME=]STUDY", help="study folders")
    add(
        "--out",
        type=Path,
        default=Path("comparison"),
        metavar="DIR",
        help="for figure and tables (default: comparison)",
    )
    add("--cost", choices=("seconds", "flop"), default="seconds", help="worker time (default), or arithmetic")
    add("--near", type=float, default=1.2, metavar="F", help="cost of coming within F times the best (default: 1.2)")

    retrain = commands.add_parser(
        "retrain",
        help="train one trial with several other seeds: mean and standard deviation per epoch",
        description="Train one trial of a study with other initial weights and orders of samples, on all the data with "
        "step 2's recipe. Results stay in STUDY/repeats; the same command goes on after a kill, or adds seeds.",
    )
    add = retrain.add_argument
    add("study", type=Path, help="study folder")
    add("--trial", default="best", metavar="N", help="a number, best (default) or lightest (within twice the best)")
    add("--seeds", type=int, default=10, metavar="K", help="trainings in all (default: 10)")
    add("--workers", type=int, metavar="N", help="processes (default: one per usable core, at most 8 per GPU)")
    add("--device", default="auto", help="cpu, cuda (all GPUs), cuda:0 or auto (default)")
    add("--quiet", action="store_true", help="only the final table")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    run = {"list": _list, "compare": _compare, "retrain": _retrain}[args.command]
    stopped = "stopped; what is finished is kept, the same command goes on"
    return run_stoppable("hpo.study", lambda stop: run(args, console(), stop), stopped)


def _list(args: argparse.Namespace, console: Console, _) -> None:
    from hpo.progress import duration
    from hpo.study import Study, ranking

    found = sorted({p.parent for folder in args.folder for p in folder.glob("**/study.json")})
    if not found:
        raise SearchError(f"no study in {', '.join(map(str, args.folder))}: no study.json there or below")
    table = _table("studies", "study", "trials", "p_subset", "step 1\ndone", "step 2\ndone", "best\nMSE", "worker time")
    for folder in found:
        study = Study(folder)
        first, second = (study.records(step, curves=False) for step in (1, 2))
        best = (ranking(second) or ranking(first))[:1]
        search = study.description["config"]["search"]
        table.add_row(
            str(folder),
            f"{search['trials']:,}",
            f"{search['p_subset']:g}",
            f"{len(first):,}",
            f"{len(second):,}",
            f"{best[0]['validation_mse']:.3e}" if best else "-",
            duration(sum(r["seconds"] for r in (*first, *second))),
        )
    console.print(table)


def _compare(args: argparse.Namespace, console: Console, _) -> None:
    from hpo import compare, compare_figure

    if args.near < 1.0:
        raise SearchError(f"--near is {args.near}; expected 1 or more")
    names, folders = zip(*(_named(text) for text in args.study), strict=True)
    studies = [compare.spent(folder, args.cost) for folder in folders]
    compare.check_comparable(studies)
    groups = compare.grouped(studies, names)
    rows = compare.rows(groups, args.near)
    unit = compare.COSTS[args.cost]
    make_folder(args.out)
    with open(args.out / "compare.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("group", "study", "seed", "drawn", f"cost_{args.cost}", "best_validation_mse"))
        for g in groups:
            for s in g.studies:
                for drawn, cost, error in zip(s.drawn, s.cost, s.error, strict=True):
                    known = error if error < float("inf") else ""
                    writer.writerow((g.name, s.folder, s.seed, drawn, cost, known))
    compare_figure.draw(args.out / "compare.png", groups, unit)
    table = _table(
        f"best error on all the data; cost in {unit}; mean ± standard deviation over seeds",
        "setting",
        "seeds",
        "drawn",
        "cost",
        "of it\nstep 1",
        "best MSE",
        "best MSE at\nequal cost",
        f"cost to {args.near:g} times\nthe best of all",
    )
    for r in rows:
        cost, seeds = r.near_cost
        table.add_row(
            r.name,
            str(r.seeds),
            f"{r.drawn:g}",
            _with_deviation(r.cost),
            f"{r.step1_share:.0%}",
            _with_deviation(r.error),
            _with_deviation(r.equal_cost_error),
            f"{cost:.3g} ({seeds} of {r.seeds})" if seeds else "not reached",
        )
    console.print(table)
    least = min(s.cost[-1] for s in studies)
    console.print(f"equal cost: {least:.3g} {unit}, those of the cheapest study", highlight=False, soft_wrap=True)
    written = ", ".join(str(args.out / name) for name in ("compare.csv", "compare.png"))
    console.print(f"written: {written}", highlight=False, soft_wrap=True)


def _named(text: str) -> tuple[str | None, Path]:
    name, given, folder = text.partition("=")
    return (name, Path(folder)) if given and not Path(text).exists() else (None, Path(text))


def _with_deviation(value: tuple[float, float | None]) -> str:
    mean, deviation = value
    if mean == float("inf"):
        return "-"
    return f"{mean:.3g}" if deviation is None else f"{mean:.3g} ± {float(f'{deviation:.1g}'):g}"


def _retrain(args: argparse.Namespace, console: Console, stop) -> None:
    from hpo.placement import worker_devices
    from hpo.retrain import chosen_trial, repeats_folder, retrain

    if args.seeds < 1:
        raise SearchError(f"--seeds is {args.seeds}; expected at least 1")
    trial = chosen_trial(args.study, args.trial)
    devices = worker_devices(args.device, args.workers)

    def say(text: str) -> None:
        if not args.quiet:
            console.print(text, highlight=False, soft_wrap=not console.is_terminal)

    records = retrain(args.study, trial, args.seeds, devices, stop=stop, say=say)
    with stop.held():
        _print_repeats(console, trial, records, repeats_folder(args.study, trial))


def _print_repeats(console: Console, trial: int, records: list[dict], home: Path) -> None:
    """Table and figure of the repeats; files beside them."""
    from hpo.retrain import epoch_rows, mean_and_deviation
    from hpo.retrain_figure import draw

    complete = [r for r in records if r["state"] == "complete"]
    if not complete:
        raise SearchError(f"all {len(records)} repeats of trial {trial} failed; the last: {records[-1]['error']}")
    rows = epoch_rows(complete)
    with open(home / "epochs.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("epoch", "repeats", "mean_validation_mse", "standard_deviation"))
        writer.writerows((r.epoch, r.repeats, r.mean, r.deviation) for r in rows)
    draw(home / "epochs.png", trial, complete)
    table = _table(
        f"trial {trial}, trained {len(complete)} times", "epoch", "repeats", "mean MSE", "standard\ndeviation"
    )
    for r in rows:
        if r.epoch in _EPOCHS_SHOWN or r.epoch == len(rows):
            table.add_row(str(r.epoch), str(r.repeats), f"{r.mean:.3e}", _number(r.deviation))
    mean, deviation = mean_and_deviation([r["validation_mse"] for r in complete])
    table.add_section()
    table.add_row("best", str(len(complete)), f"{mean:.3e}", _number(deviation))
    console.print(table)
    if len(complete) < len(records):
        console.print(f"{len(records) - len(complete)} of {len(records)} repeats failed", highlight=False)
    console.print(f"written: {home / 'epochs.csv'}, {home / 'epochs.png'}", highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for k, heading in enumerate(headings):
        left = k == 0
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    return table
