"""`python -m emulator.activation online`: the Fortran host run for many steps with the parcel model, emulators and ARG.

An emulator that is accurate on samples may still drift once its results come back as its inputs. Here nothing but the
scheme differs between runs of the same climate; one more run with the parcel model, its first temperatures changed in
the last bits, shows what the system makes of any difference.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from emulator.activation.fortran_hosts import model_argument

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", type=Path, required=True, metavar="LIBRARY", help="the built libclimate_host.so")
    add(
        "--model",
        type=model_argument,
        action="append",
        default=[],
        metavar="NAME=ONNX",
        help="an emulator; repeat for more",
    )
    add("--steps", type=int, default=1000, help="time steps (default: 1000)")
    add("--columns", type=int, default=48, help="columns of the grid (default: 48)")
    add("--levels", type=int, default=12, help="its levels (default: 12)")
    add("--seed", type=int, default=1, help="of the climate's first state (default: 1)")
    add("--perturbation", type=float, default=1e-14, metavar="X", help="of the second parcel run (default: 1e-14)")
    add("--constants", default="pyrcel", metavar="SET", help="of the parcel model: pyrcel (default) or e3sm")
    add("--piece", type=int, default=100, metavar="STEPS", help="what a stop loses at most (default: 100)")
    add("--workers", type=int, metavar="W", help="runs at a time (default: one per core)")
    add("--out", type=Path, default=Path("online"), metavar="FOLDER", help="results and runs (default: online)")


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit status."""
    from emulator.activation.online_study import OnlineError, Request, run_study

    try:
        request = Request.build(
            host=args.host,
            models=args.model,
            steps=args.steps,
            columns=args.columns,
            levels=args.levels,
            seed=args.seed,
            perturbation=args.perturbation,
            constants=args.constants,
            piece=args.piece,
        )
        run_study(request, args.out, args.workers)
    except KeyboardInterrupt:
        print(f"interrupted; finished pieces are kept in '{args.out}': the same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (OnlineError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    return 0
