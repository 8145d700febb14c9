"""`python -m emulator.activation generate`: arguments and exit status."""

import argparse
import sys

EXIT_ERROR = 1
EXIT_USAGE = 2


def _four_counts(text):
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 4:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of four counts, such as 80,72,48,56")
    return values


def _say(text):
    print(text, file=sys.stderr, flush=True)


def add_arguments(parser):
    parser.add_argument("--samples", type=int, required=True, metavar="N", help="number of samples")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the states (default 0)")
    parser.add_argument("--out", default="samples.nc", metavar="FILE", help="file to write (default samples.nc)")
    parser.add_argument("--workers", type=int, metavar="W", help="processes (default: one per core)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that was made with other settings")
    parser.add_argument("--sampler", default="e3sm", metavar="NAME", help="distribution of the states (default e3sm)")
    parser.add_argument("--constants", default="pyrcel", metavar="SET", help="pyrcel (default) or e3sm")
    parser.add_argument("--bins", type=_four_counts, metavar="B,B,B,B", help="bins per mode (default 80,72,48,56)")
    parser.add_argument("--rtol", type=float, metavar="X", help="relative tolerance of a step (default 2e-6)")
    parser.add_argument("--atol", type=float, metavar="X", help="absolute tolerance of the supersaturation (2e-9)")
    parser.add_argument("--max-steps", type=int, metavar="N", help="steps before a parcel is retried (default 5000)")
    parser.add_argument("--block-size", type=int, default=4096, metavar="N", help="samples per block (default 4096)")


def run(args):
    """Run the command; return the exit status."""
    # Here, so that --help and the other commands need not wait for numba.
    from emulator.activation.constants import CONSTANT_SETS
    from emulator.activation.generate import GenerateError, generate
    from emulator.activation.settings import ParcelSettings

    chosen = {
        "bins": args.bins,
        "relative_tolerance": args.rtol,
        "absolute_tolerance_s": args.atol,
        "max_steps": args.max_steps,
    }
    try:
        if args.constants not in CONSTANT_SETS:
            raise ValueError(f"unknown --constants '{args.constants}'; expected one of: {', '.join(CONSTANT_SETS)}")
        settings = ParcelSettings(
            constants=CONSTANT_SETS[args.constants](), **{k: v for k, v in chosen.items() if v is not None}
        )
        generate(
            args.out,
            args.samples,
            args.seed,
            args.workers,
            settings=settings,
            sampler=args.sampler,
            block_size=args.block_size,
            overwrite=args.overwrite,
        )
    except KeyboardInterrupt:
        _say(f"interrupted; finished blocks are kept in '{args.out}.parts': the same command goes on from there")
        return 128 + 2
    except ValueError as error:
        _say(f"error: {error}")
        return EXIT_USAGE
    except (GenerateError, OSError) as error:
        _say(f"error: {error}")
        return EXIT_ERROR
    return 0
