"""`python -m hpo.experiments`: run an experiment of EXPERIMENTS.md, write its tables. Argument wiring only."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hpo.errors import Interrupted, SearchError

_NAMES = {
    "projects": "(a) and (b): the paper's projects at p = 1 ... 0.005, rank groups, and the luck of seeds",
    "algorithms": "(c): random, TPE, ASHA, Hyperband, BOHB and subset rungs",
    "training": "(c): the same algorithms where optimizer, learning rate, batch size and activation are searched too",
    "sizes": "(d): the projects on 5, 20 and 80 % of the samples",
    "light": "(e): how small a network can be, and its nanoseconds",
    "plan": "what hpo.plan recommends, run and held against the full search",
    "calibration": "how often the plan is right, from probes and searches drawn from the projects",
}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m hpo.experiments",
        description="Run an experiment of hpo/EXPERIMENTS.md and write its tables. Each is resumable: the same command "
        "goes on.",
        epilog="experiments: " + "; ".join(f"{k} - {v}" for k, v in _NAMES.items()),
    )
    add = p.add_argument
    add("name", choices=_NAMES, metavar="NAME", help=", ".join(_NAMES))
    add("--data", type=Path, metavar="FILE", help="samples; not needed with --tables-only")
    add("--out", type=Path, default=Path("experiments"), metavar="DIR", help="for studies and tables")
    add(
        "--used", type=float, default=0.8, metavar="P", help="part of the samples taken for all the data (default: 0.8)"
    )
    add("--trials", type=int, metavar="N", help="instead of those of the experiment's TOML file")
    add("--workers", type=int, metavar="N", help="processes (default: one per usable core)")
    add("--device", default="auto", help="as in hpo.search")
    add("--tables-only", action="store_true", help="from what has finished")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    from hpo.experiments import searches, tables

    data = args.data.resolve() if args.data is not None else None
    machine = searches.Machine(args.out, data, args.used, args.trials, args.workers, args.device)
    try:
        if data is None and not args.tables_only:
            raise SearchError("no samples are named; give --data FILE, or --tables-only for what has finished")
        if not 0.0 < args.used < 1.0:
            raise SearchError(f"--used is {args.used}; expected a number between 0 and 1: the rest is held out")
        if not args.tables_only:
            getattr(searches, args.name)(machine)
        for name, text in _tables(tables, machine, args.name).items():
            path = args.out / f"{name}.md"
            path.write_text(text, encoding="utf-8")
            print(f"\n{path}\n\n{text}")
        if args.name in searches.ALGORITHM_SPACES:
            from hpo import compare, compare_figure

            path = args.out / f"{args.name}.png"
            compare_figure.draw(path, tables.read_algorithms(machine, args.name), compare.COSTS["flop"])
            print(path)
    except SearchError as error:
        print(f"hpo.experiments: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


def _tables(tables, machine, name: str) -> dict[str, str]:
    if name == "projects":
        found = tables.read_projects(machine)
        kinds = ("projects", "groups", "seeds")
        return {kind: getattr(tables, f"{kind}_table")(found) for kind in kinds}
    if name == "calibration":
        from hpo.experiments.calibration import calibration_table

        return {name: calibration_table(tables.read_projects(machine))}
    return {name: getattr(tables, f"{name}_table")(machine)}


if __name__ == "__main__":
    sys.exit(main())
