"""`python -m emulator.activation compare`: emulators against ARG in the Fortran host, errors and cost in one table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from emulator.activation.modes import MODE_NAMES
from emulator.candidates import holdout
from emulator.evaluate import Scores, ScoreSum
from emulator.libemulator import LibEmulator

# The host sums errors in another order than numpy: 1e5 roundings of 1e-16, on differences from float32 networks.
_SAME_MSE = 1e-6
_MBN_SAMPLES = 10_000  # about 80 µs each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", type=Path, required=True, metavar="PROGRAM", help="the built activation_host")
    add("--lightest", type=Path, required=True, metavar="ONNX", help="model.onnx exported with --pick lightest")
    add("--best", type=Path, required=True, metavar="ONNX", help="model.onnx exported with --pick best")
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
    console = Console(width=None if sys.stdout.isatty() else 130)
    models = {"lightest": args.lightest, "best": args.best}
    summary: dict = {}
    for name, path in models.items():
        if not path.exists():
            raise FileNotFoundError(f"--{name} {path}: no such file; python -m emulator.export writes it")
        model = LibEmulator(path)
        samples, rows = holdout(json.loads(model.metadata("libemulator.provenance")), args.data)
        host = run_host(args.host, path, samples.path, rows, pcols=args.pcols, repeats=args.repeats)
        _check_against_python(name, model, samples, rows, host["emulator"]["mse"])
        if not summary:
            summary["arg"] = _entry(host["arg"])
            summary["arg"]["ns_per_point_number_only"] = host["arg"]["ns_per_point_number_only"]
        summary[name] = _entry(host["emulator"]) | {
            "parameters": model.num_parameters,
            "hidden": list(model.layer_widths[:-1]),
            "model": str(path),
        }
    told = ("samples", "pcols", "pver", "threads", "compiler", "compiler_options", "isa")
    summary["host"] = {k: host[k] for k in told}
    mbn = _mbn(samples, rows)
    if mbn is not None:
        summary["mbn2014"] = {
            "mse": mbn.mse,
            "mse_per_mode": list(mbn.mse_per_output),
            "r2_per_mode": list(mbn.r2_per_output),
            "samples": mbn.num_samples,
        }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(f".{args.out.name}.{os.getpid()}")
    temporary.write_text(json.dumps(summary, indent=2) + "\n")
    os.replace(temporary, args.out)
    _print(console, summary)
    console.print(f"wrote {args.out}")
    return 0


def run_host(
    program: Path, model: Path, samples: Path, rows: np.ndarray, *, pcols: int = 16, repeats: int = 20, threads: int = 1
) -> dict:
    """Run `activation_host` with both schemes on the given rows of a samples file; its JSON results.

    Raises
    ------
    RuntimeError
        The host failed; its message is quoted.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savetxt(folder / "rows.txt", rows, fmt="%d")
        settings = {
            "scheme": "both",
            "model": model.resolve(),
            "samples": samples.resolve(),
            "sample_rows": folder / "rows.txt",
            "output": folder / "host.json",
            "pcols": pcols,
            "repeats": repeats,
        }
        lines = [f"  {k} = {v if isinstance(v, int) else _quoted(v)}" for k, v in settings.items()]
        (folder / "host.nml").write_text("&host_nl\n" + "\n".join(lines) + "\n/\n")
        done = subprocess.run(
            [str(program.resolve()), str(folder / "host.nml")],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stderr.strip() or done.stdout.strip()}")
        return json.loads((folder / "host.json").read_text())


def _quoted(value) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _entry(result: dict) -> dict:
    return {k: result[k] for k in ("mse", "mse_per_mode", "r2_per_mode", "ns_per_point")}


def _check_against_python(name: str, model: LibEmulator, samples, rows: np.ndarray, host_mse: float) -> None:
    total = ScoreSum(len(samples.output_columns))
    x, y = samples.read(rows)
    total.add(y, model.infer(x))
    mse = total.scores().mse
    if not abs(host_mse - mse) <= _SAME_MSE * mse + 1e-15:
        raise RuntimeError(
            f"{name}: the Fortran host finds an MSE of {host_mse!r}, Python {mse!r} on the same rows; they must agree"
        )


def _mbn(samples, rows: np.ndarray) -> Scores | None:
    """Scores of Morales Betancourt & Nenes (2014) on the first hold-out rows; None without pyrcel."""
    from emulator.activation import mbn
    from emulator.activation.baselines import physical

    if not mbn.is_available():
        return None
    x, y = samples.read(rows[:_MBN_SAMPLES])
    total = ScoreSum(y.shape[1])
    total.add(y, mbn.activate(**physical(x))[0])
    return total.scores()


def _print(console: Console, summary: dict) -> None:
    host = summary["host"]
    table = Table(
        title=f"hold-out error over {host['samples']:,} samples (MSE and R² of fn) and cost in the Fortran host",
        title_justify="left",
    )
    table.add_column("")
    modes = [m.replace("_", " ") for m in MODE_NAMES]
    for heading in ("MSE", "times below ARG", *modes, "ns/point", "parameters"):
        table.add_column(heading, justify="right")
    labels = {"arg": "ARG", "mbn2014": "MBN 2014", "lightest": "lightest", "best": "best"}
    for key, label in labels.items():
        if key not in summary:
            continue
        s = summary[key]
        modes = [
            f"{mse:.1e} ({'-' if r2 is None else f'{r2:.4f}'})"
            for mse, r2 in zip(s["mse_per_mode"], s["r2_per_mode"], strict=True)
        ]
        ratio = summary["arg"]["mse"] / s["mse"]
        cost = f"{s['ns_per_point']:.0f}" if "ns_per_point" in s else ""
        parameters = f"{s['parameters']:,}" if "parameters" in s else ""
        table.add_row(label, f"{s['mse']:.2e}", f"{ratio:,.0f}" if key != "arg" else "", *modes, cost, parameters)
    console.print(table)
    console.print(
        f"Chunks of {host['pcols']} columns x {host['pver']} levels, {host['threads']} thread, {host['compiler']}, "
        f"libemulator on {host['isa']}.\n'-': the parcel model's fn of that mode hardly varies, so R² has no meaning."
    )
    console.print(
        "ns/point: from the host's variables to activated number. ARG: a call per point, as E3SM makes it, mass "
        f"fractions and fluxes included; fn alone, a call per level: {summary['arg']['ns_per_point_number_only']:.0f} "
        "ns."
    )
    if "mbn2014" in summary:
        console.print(f"MBN 2014 (pyrcel) on the first {summary['mbn2014']['samples']} of the samples.")
