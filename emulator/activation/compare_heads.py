"""`python -m emulator.activation heads`: networks with and without the output head, side by side with ARG.

Errors of number and of mass fractions per mode on the hold-out samples, and nanoseconds per point. The true mass
fraction is that of the lognormal above the critical radius at the parcel's S_max (exact kappa-Koehler theory). A
network that predicts fn gives fm = Phi(Phi^-1(fn) + 3 ln(sigma)), exact for a lognormal with any sharp size threshold.

Axis legend: N samples, I inputs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from emulator.activation.baselines import INPUT_NAMES, physical
from emulator.activation.constants import Constants
from emulator.activation.mass import exact_mass_fractions, mass_from_number
from emulator.activation.modes import LN_SIGMA_G, MODE_NAMES, NUM_MODES
from emulator.bundle import Bundle, load_bundle
from emulator.candidates import holdout, retrained_networks

BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("study", type=Path, help="folder of a search, such as that of emulator/activation/heads.toml")
    add("--data", type=Path, metavar="FILE", help="samples file, if it was moved since the search")
    add("--cost", type=Path, metavar="PROGRAM", help="the built activation_cost: adds what ARG and the routine cost")
    add("--out", type=Path, metavar="JSON", help="where the numbers go")


def run(args: argparse.Namespace) -> int:
    """Make the table; 0, or 2 with a message on standard error."""
    try:
        _run(args, Console(width=None if sys.stdout.isatty() else 150))
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"emulator.activation heads: {error}", file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace, console: Console) -> None:
    bundles = [(n.trial, load_bundle(n.model)) for n in retrained_networks(args.study)]
    samples, rows = holdout(bundles[0][1].provenance, args.data)
    if tuple(c.name for c in samples.input_columns) != INPUT_NAMES:
        raise ValueError(f"the study has the inputs {[c.name for c in samples.input_columns]}; expected {INPUT_NAMES}")
    x_NI, fn = samples.read(rows)
    constants = Constants(**{k.removeprefix("constant_"): v for k, v in _constants(samples.attributes()).items()})
    smax, temperature = samples.read_variables(("smax", "tair_smax"), rows).T
    fm = exact_mass_fractions(smax, temperature, x_NI[:, 8:12], x_NI[:, 12:16], constants)
    cost = json.loads(_output_of([args.cost])) if args.cost else {}
    entries = [_arg_entry(x_NI, fn, fm, cost), *_closed_forms(x_NI, smax, temperature, fn, fm, samples, constants)]
    num_references = len(entries)
    for trial, bundle in bundles:
        entries.append({"trial": trial} | _entry(bundle, x_NI, fn, fm, cost))
    networks = entries[num_references:]
    entries[num_references:] = sorted(networks, key=lambda e: (-e["parameters"] // 1000, e["head"], e["mse_fn"]))
    _print(console, entries, len(rows))
    if args.out:
        temporary = args.out.with_name(f".{args.out.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"samples": len(rows), "batch": BATCH, "schemes": entries}, indent=1) + "\n")
        os.replace(temporary, args.out)


def _closed_forms(x_NI, smax, temperature, fn, fm, samples, constants: Constants) -> list[dict]:
    """What the head makes of the parcel's own S_max, and ARG's approximation of the critical supersaturation."""
    from scipy.special import erfc

    from emulator.activation.head import MASS_SHIFT, ActivationHead

    head = ActivationHead(samples.input_columns, samples.output_columns, samples.attributes())
    found = head.fractions(x_NI, head.target(x_NI, np.column_stack([smax, temperature])))
    # S_c^2 = 4 A^3 / (27 kappa r^3), solved for r
    kelvin = head.kelvin_length_um(temperature)[:, None]
    radius = kelvin * (4.0 / (27.0 * x_NI[:, 12:16] * smax[:, None] ** 2)) ** (1.0 / 3.0)
    z = np.log(radius / x_NI[:, 8:12]) / (math.sqrt(2.0) * LN_SIGMA_G)
    approximate = 0.5 * erfc(z), 0.5 * erfc(z - MASS_SHIFT)
    return [
        {"head": name} | _errors(by[0], fn, "fn") | _errors(by[1], fm, "fm")
        for name, by in (("true S_max", found), ("4A³/27κr³", approximate))
    ]


def _constants(attributes: dict) -> dict[str, float]:
    return {k: float(v) for k, v in attributes.items() if k.startswith("constant_")}


def _entry(bundle: Bundle, x_NI, fn, fm, cost: dict) -> dict:
    from emulator.export import write_onnx
    from emulator.latency import measure

    def nanoseconds(which: Bundle) -> float:
        with tempfile.TemporaryDirectory() as folder:
            write_onnx(which, Path(folder) / "model.onnx")
            return measure(Path(folder) / "model.onnx", (BATCH,))[BATCH]

    found_fn = bundle.predict(x_NI)
    entry = {
        "head": "direct" if bundle.head is None else bundle.head.name,
        "hidden": list(bundle.spec.hidden),
        "parameters": bundle.spec.num_parameters,
        "ns": nanoseconds(bundle),
    }
    if bundle.head is None:
        found_fm = mass_from_number(found_fn)
        if cost:
            entry["ns_with_routine"] = entry["ns"] + cost["mass_from_number"]
    else:
        bare = bundle.without_head()
        _, found_fm = bundle.head.fractions(x_NI, bare.predict(x_NI))
        if cost:
            entry["ns_with_routine"] = nanoseconds(bare) + cost["head"]
    return entry | _errors(found_fn, fn, "fn") | _errors(found_fm, fm, "fm")


def _arg_entry(x_NI, fn, fm, cost: dict) -> dict:
    from emulator.activation.arg import activate

    arg_fn, arg_fm, _ = activate(**physical(x_NI))
    entry = {"head": "ARG"} | _errors(arg_fn, fn, "fn") | _errors(arg_fm, fm, "fm")
    return entry | ({"ns": cost["arg_number"], "ns_with_routine": cost["arg"]} if cost else {})


def _errors(found, truth, name: str) -> dict:
    square = ((found - truth) ** 2).mean(axis=0)
    return {
        f"mse_{name}": float(square.mean()),
        f"mse_{name}_per_mode": square.tolist(),
        f"max_{name}": float(np.abs(found - truth).max()),
    }


def _output_of(command: list) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _print(console: Console, entries: list[dict], num_samples: int) -> None:
    table = Table(title=f"output heads: MSE over {num_samples:,} hold-out samples", title_justify="left")
    for heading in ("", "hidden", "parameters", "fn", "fm"):
        table.add_column(heading, justify="right")
    for m in range(NUM_MODES):
        table.add_column(f"{MODE_NAMES[m].replace('_', ' ')}\nfn / fm", justify="right")
    table.add_column("ns\nfn", justify="right")
    table.add_column("ns\nfn, fm", justify="right")
    for e in entries:
        modes = zip(e["mse_fn_per_mode"], e["mse_fm_per_mode"], strict=True)
        table.add_row(
            e["head"],
            "-".join(map(str, e.get("hidden", ()))),
            f"{e['parameters']:,}" if "parameters" in e else "",
            f"{e['mse_fn']:.2e}",
            f"{e['mse_fm']:.2e}",
            *(f"{a:.1e} / {b:.1e}" for a, b in modes),
            f"{e['ns']:.0f}" if "ns" in e else "",
            f"{e['ns_with_routine']:.0f}" if "ns_with_routine" in e else "",
        )
    console.print(table)
    console.print(
        f"ns per point in calls of {BATCH}, one thread. fn: model.onnx, with its head if it has one, through "
        "libemulator; ARG for\nnumber only. fn, fm: the network without its head and activated_fractions of "
        "aerosol_activation_head after it; direct\nnetworks and mass_from_number of aerosol_activation_mass; ARG as "
        "E3SM calls it, a point at a time."
    )
