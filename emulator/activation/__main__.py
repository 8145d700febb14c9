"""`python -m emulator.activation COMMAND`: the case study's commands.

A command is a module with `add_arguments(parser)` and `run(args)`, which returns the exit status, and a line in
COMMANDS. It imports what is slow to import inside `run`.
"""

import argparse
import sys

from emulator.activation import compare, compare_heads, generate_command, mass_fit, online

COMMANDS = (
    ("generate", generate_command, "simulate states with the explicit parcel model; writes samples (netCDF)"),
    ("compare", compare, "run emulators and ARG in the Fortran host; errors and cost in one table"),
    ("heads", compare_heads, "compare a study's networks with and without the output head; errors and cost"),
    ("online", online, "run the time-stepping host with the parcel model, emulators and ARG; drift, error growth"),
    ("mass-fit", mass_fit, "print the coefficients of aerosol_activation_mass.F90, fitted for the widths of the modes"),
)


def main(argv=None):
    """Parse the arguments and run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m emulator.activation",
        description="Aerosol activation: samples by explicit physics, and emulators against the scheme they replace.",
    )
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, module, summary in COMMANDS:
        subparser = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
