"""`python -m emulator.activation compare`: emulators against ARG in the Fortran hosts, errors and cost in one table.

Every number is that of the drop-in for E3SM's `activate_modal`, as a host gets it: activated fractions of number (fn)
and of mass (fm) of every mode, fluxes too. The truth is the parcel model's: fn of the samples file, and fm of the
same threshold (`mass.py`). What the host gives is held against Python's evaluation of the same network.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from emulator.activation import compare_table
from emulator.activation.baselines import INPUT_NAMES, physical
from emulator.activation.fortran_hosts import CLIMATE, activation_in_a_step, model_argument, run_activation_host
from emulator.activation.mass import mass_from_number
from emulator.candidates import holdout
from emulator.evaluate import ScoreSum
from emulator.heads import head_of_network
from emulator.libemulator import LibEmulator

BATCHINGS = ("level", "point")
_MBN_SAMPLES = 10_000  # about 80 µs each
# The same float32 layers from inputs that a host has converted to SI units and back: the last bit of an input may
# differ, and fm amplifies what that makes of fn (up to 50 times, where few activate).
_SAME_FN = 1e-5
_SAME_FM = 5e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", type=Path, required=True, metavar="PROGRAM", help="the built activation_host")
    step = "the built climate_host: adds what share of a step activation is (default: the one beside --host, if any)"
    add("--climate-host", type=Path, metavar="PROGRAM", help=step)
    what = "an emulator, exported with or without its head; repeat for more"
    add("--model", type=model_argument, action="append", required=True, metavar="NAME=ONNX", help=what)
    add("--data", type=Path, metavar="FILE", help="samples file, if it was moved since the search")
    add("--pcols", type=int, default=16, help="columns in a chunk of the host (default: 16)")
    add("--repeats", type=int, default=20, help="timed passes over all points (default: 20)")
    add("--out", type=Path, required=True, metavar="JSON", help="where the summary goes")


def run(args: argparse.Namespace) -> int:
    """Run the comparison; 0, or 2 with a message on standard error."""
    try:
        return _compare(args)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"emulator.activation compare: {error}", file=sys.stderr)
        return 2


def _compare(args: argparse.Namespace) -> int:
    models = dict(args.model)
    for name, path in models.items():
        if name in ("arg", "mbn2014") or len(models) < len(args.model):
            raise ValueError(f"--model {name}=...: names are to differ from each other, and from arg and mbn2014")
        if not path.exists():
            raise FileNotFoundError(f"--model {name}={path}: no such file; python -m emulator.export writes it")
    schemes: dict[str, dict] = {"arg": {}}
    arg_ns: dict[str, list[float]] = {batching: [] for batching in BATCHINGS}
    compared = None
    for name, path in models.items():
        model = LibEmulator(path)
        provenance = json.loads(model.metadata("libemulator.provenance"))
        samples, rows = holdout(provenance, args.data)
        if compared not in (None, (samples.checksum(), rows.tobytes())):
            raise ValueError(
                f"--model {name}={path}: its hold-out samples are others than those of the models before it; compare "
                "networks of one split"
            )
        compared = samples.checksum(), rows.tobytes()
        x_NI, fn = samples.read(rows)
        ns = {}
        for batching in BATCHINGS:
            host, found = run_activation_host(
                args.host, path, samples.path, rows, batching=batching, pcols=args.pcols, repeats=args.repeats
            )
            arg_ns[batching].append(host["arg"]["ns_per_point"])
            ns[batching] = host["emulator"]["ns_per_point"]
        _check_fractions(name, model, provenance, samples, x_NI, found)
        for scheme in ("arg", "emulator"):
            _check_errors(name, scheme, host[scheme], found, fn)
        schemes["arg"] = _entry(host["arg"])
        schemes[name] = _entry(host["emulator"]) | {
            "ns_per_point": ns,
            "parameters": model.num_parameters,
            "hidden": list(model.layer_widths[:-1]),
            "model": str(path),
            "fallbacks": host["emulator"]["fallbacks"],
        }
    schemes["arg"]["ns_per_point"] = {batching: float(np.median(v)) for batching, v in arg_ns.items()}
    mbn = _mbn(samples, x_NI, fn)
    if mbn is not None:
        schemes["mbn2014"] = mbn
    step = _add_steps(schemes, models, args)
    told = ("samples", "points", "pcols", "pver", "threads", "compiler", "compiler_options")
    summary = {"schema": 2, "host": {k: host[k] for k in told} | {"isa": model.isa}, "step": step, "schemes": schemes}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(f".{args.out.name}.{os.getpid()}")
    temporary.write_text(json.dumps(summary, indent=2) + "\n")
    os.replace(temporary, args.out)
    console = Console(width=None if sys.stdout.isatty() else 130)
    compare_table.show(console, summary)
    console.print(f"wrote {args.out}")
    return 0


def _entry(result: dict) -> dict:
    return {k: result[k] for k in ("fn", "fm", "number_rmse_cm3")}


def _check_fractions(name: str, model: LibEmulator, provenance: dict, samples, x_NI, found: dict) -> None:
    """The host's fractions are those of the network, wherever no input is beyond its training range."""
    y = model.infer(x_NI)
    if "head_to_apply" in provenance:
        head = head_of_network(provenance["head_to_apply"], samples.input_columns, samples.output_columns)
        fn, fm = head.fractions(x_NI, y)
    else:
        fn, fm = y, mass_from_number(y)
    low, high = model.input_range
    inside = ~((x_NI < low) | (x_NI > high)).any(axis=1)
    for what, by_python, tolerance in (("fn", fn, _SAME_FN), ("fm", fm, _SAME_FM)):
        difference = np.abs(found[f"{what}_emulator"] - by_python)[inside].max(initial=0.0)
        if not difference <= tolerance:
            raise RuntimeError(
                f"{name}: {what} of the Fortran host and of Python differ by up to {difference:.2g} on the same rows; "
                "they must agree"
            )


def _check_errors(name: str, scheme: str, result: dict, found: dict, fn: np.ndarray) -> None:
    """The errors that the host reports are those of its fractions against the truth."""
    for what, truth in (("fn", fn), ("fm", mass_from_number(fn))):
        mse = float(((found[f"{what}_{scheme}"] - truth) ** 2).mean())
        # sums in another order; fm of the truth by another formula, to 1e-14
        if not abs(result[what]["mse"] - mse) <= 1e-8 * mse + 1e-20:
            raise RuntimeError(
                f"{name}: the Fortran host reports an MSE of {what} of {result[what]['mse']!r} for {scheme}, and gives "
                f"fractions with {mse!r}; they must agree"
            )


def _mbn(samples, x_NI: np.ndarray, fn: np.ndarray) -> dict | None:
    """Errors of Morales Betancourt & Nenes (2014) on the first hold-out rows; None without pyrcel or its inputs."""
    from emulator.activation import mbn

    if not mbn.is_available() or tuple(c.name for c in samples.input_columns) != INPUT_NAMES:
        return None
    x_NI, fn = x_NI[:_MBN_SAMPLES], fn[:_MBN_SAMPLES]
    entry = {"samples": len(fn)}
    by_mbn = mbn.activate(**physical(x_NI))
    for what, found, truth in (("fn", by_mbn[0], fn), ("fm", by_mbn[1], mass_from_number(fn))):
        total = ScoreSum(truth.shape[1])
        total.add(truth, found)
        scores = total.scores()
        entry[what] = {
            "mse": scores.mse,
            "mse_per_mode": list(scores.mse_per_output),
            "r2_per_mode": list(scores.r2_per_output),
        }
    return entry


def _add_steps(schemes: dict, models: dict[str, Path], args: argparse.Namespace) -> dict:
    """What each scheme takes of a step of climate_host, into its entry; returns what was run, or why it was not."""
    program = args.climate_host
    if program is None:
        program = args.host.with_name("climate_host")
        if not program.exists():
            return {"missing": f"there is no {program}, which is built where MPI is found"}
    for name, step in activation_in_a_step(program, {"arg": None, **models}).items():
        schemes[name]["step"] = step
    return {"program": str(program)} | CLIMATE
