"""`python -m hpo.bench`: what the search costs. Writes build/bench/search.json and prints tables.

python -m hpo.bench                     all of it, about ten minutes on an otherwise idle machine
python -m hpo.bench --only storage      what keeping trials costs, beside Optuna's storages
python -m hpo.bench --only agreement --minutes 3
                                        three more minutes of 64 trials to their ends, in fleet and plain loop:
                                        hours in all; every call goes on where the last one ended
python -m hpo.bench --quick             seconds: does it work? Its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
from pathlib import Path

from emulator.latency import machine
from hpo.placement import usable_cores
from hpo.study import commit, versions

REPOSITORY = Path(__file__).resolve().parents[2]
PARTS = ("training", "storage")  # of a run without --only
PIECEMEAL = "agreement"
SCHEMA = 1


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m hpo.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--only", choices=(*PARTS, PIECEMEAL), help="one part; others are kept as the file has them")
    p.add_argument("--minutes", type=float, default=3.0, help="of --only agreement (default: %(default)g)")
    p.add_argument("--quick", action="store_true", help="storage alone, few trials: a check, not a measurement")
    p.add_argument("--folder", type=Path, default=REPOSITORY / "build/bench", help="default: build/bench")
    p.add_argument("--out", type=Path, metavar="FILE", help="default: FOLDER/search.json")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    out = args.out or args.folder / ("search-quick.json" if args.quick else "search.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = (args.only,) if args.only else ("storage",) if args.quick else PARTS
    result = {part: found for part, found in _earlier(out).items() if args.only or part == PIECEMEAL}
    result |= {
        "schema": SCHEMA,
        "quick": args.quick,
        "machine": {"cpu": machine(), "cores": usable_cores(), "system": " ".join(os.uname()[i] for i in (0, 2, 4))},
        "versions": versions() | {"SQLAlchemy": importlib.metadata.version("SQLAlchemy")},
        "commit": commit(),
    }
    for part in parts:
        if part == "training":
            from hpo.bench import training

            _say("training: fleet, plain loop, DataLoader loop")
            result[part] = training.measure()
            print(training.table(result[part]) + "\n")
        elif part == PIECEMEAL:
            from hpo.bench import agreement

            _say("agreement: fleet and plain loop to their ends")
            result[part] = agreement.measure(args.folder.resolve() / "agreement", 60.0 * args.minutes)
            print(agreement.table(result[part]) + "\n")
        else:
            from hpo.bench import storage

            result[part] = storage.measure(args.folder.resolve() / "search-studies", _say, quick=args.quick)
            print(storage.markdown(result[part]) + "\n")
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, out)
    print(f"wrote {os.path.relpath(out)}")
    return 0


def _earlier(path: Path) -> dict:
    """Parts that an earlier run measured, each with the machine that it was measured on."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {part: found[part] for part in (*PARTS, PIECEMEAL) if part in found}


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
