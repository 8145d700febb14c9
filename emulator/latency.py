"""Measured cost of a network in the host: nanoseconds per sample through libemulator, one thread.

The timing loop is `emu-bench`, a C program of the library: no Python stands between the clock and the call.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from emulator.libemulator import find_tool

BATCH_SIZES = (1, 16, 128, 1024)  # one point; an E3SM chunk's level (pcols 16); a larger one; a GPU-era block
SCHEMA = 1


class MeasurementError(RuntimeError):
    """`emu-bench` failed."""


def measure(model: str | os.PathLike, batch_sizes: Sequence[int] = BATCH_SIZES) -> dict[int, float]:
    """Median nanoseconds per sample of `model.onnx` for each batch size, float64 arrays in and out.

    Raises
    ------
    MeasurementError
        `emu-bench` failed; its message is quoted.
    """
    return {int(row["batch"]): float(row["ns_per_sample"]) for row in bench(model, batch_sizes)["results"]}


def bench(model: str | os.PathLike, batch_sizes: Sequence[int], *, seconds: float = 0.2) -> dict:
    """What `emu-bench --json` says: `library` (its version), `isa`, `results` (by batch size) and more.

    Parameters
    ----------
    model : path
    batch_sizes : sequence of int
    seconds : float
        Spent on each batch size.

    Raises
    ------
    MeasurementError
        As `measure` does.
    """
    sizes = ",".join(map(str, batch_sizes))
    command = [find_tool("emu-bench"), "--json", "--batch", sizes, "--seconds", seconds, model]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MeasurementError(f"emu-bench failed on {model}: {done.stderr.strip() or done.stdout.strip()}")
    return json.loads(done.stdout)


def machine() -> str:
    """The processor that latencies belong to."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def measure_study(
    study: str | os.PathLike,
    models: Iterable[tuple[int, Callable[[Path], None]]],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    *,
    again: bool = False,
    variant: str = "",
    progress: Callable[[int], None] = lambda trial: None,
) -> dict[int, dict[int, float]]:
    """Latencies of a study's networks, measured where missing and kept in `latency.json`.

    Parameters
    ----------
    study : path
    models : iterable of (trial, write)
        `write(path)` writes the trial's `model.onnx`.
    batch_sizes : sequence of int
    again : bool
        Measure all anew. Also done when the file was made on another kind of processor.
    variant : str
        What the files are rather than the networks as they were trained (with bounds, say): kept apart by this text.
    progress : function of the trial number, called before each measurement

    Returns
    -------
    dict of trial to {batch size: ns per sample}
    """
    path = Path(study) / "latency.json"
    here = machine()
    kept: dict[str, dict[str, dict[str, float]]] = {"": {}}  # by variant, trial and batch size
    if path.exists():
        data = json.loads(path.read_text())
        if data.get("machine") == here and data.get("schema") == SCHEMA:
            kept = {"": data["trials"]} | data.get("variants", {})
    rows = kept.setdefault(variant, {})
    if again:
        rows.clear()
    result = {}
    for trial, write in models:
        known = {int(b): ns for b, ns in rows.get(str(trial), {}).items()}
        missing = [b for b in batch_sizes if b not in known]
        if missing:
            progress(trial)
            with tempfile.TemporaryDirectory() as folder:
                model = Path(folder) / "model.onnx"
                write(model)
                known |= measure(model, missing)
            rows[str(trial)] = {str(b): ns for b, ns in sorted(known.items())}
            _write(path, here, kept)
        result[trial] = {b: known[b] for b in batch_sizes}
    return result


def _write(path: Path, here: str, kept: dict) -> None:
    trials, variants = kept[""], {text: rows for text, rows in kept.items() if text}
    sizes = sorted({int(b) for row in trials.values() for b in row})
    data = {"schema": SCHEMA, "machine": here, "unit": "ns per sample", "batch_sizes": sizes, "trials": trials}
    data |= {"variants": variants} if variants else {}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    os.replace(temporary, path)
