"""Runs of the example Fortran hosts, `activation_host` and `climate_host`, as programs."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import netCDF4
import numpy as np

from emulator.activation.namelist import write_namelist

CLIMATE = {"num_columns": 128, "num_levels": 72, "num_steps": 24}
"""What `activation_in_a_step` runs: half a day on an E3SM column's number of levels."""


def model_argument(text: str) -> tuple[str, Path]:
    """An emulator on the command line, NAME=FILE."""
    name, equals, path = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise argparse.ArgumentTypeError(f"'{text}' is not NAME=FILE, such as lightest=demo/lightest.onnx")
    return name, Path(path)


def run_activation_host(
    program: Path,
    model: Path,
    samples: Path,
    rows: np.ndarray,
    *,
    batching: str = "level",
    pcols: int = 16,
    repeats: int = 20,
    threads: int = 1,
) -> tuple[dict, dict[str, np.ndarray]]:
    """Run `activation_host` with ARG and an emulator on rows of a samples file.

    Returns
    -------
    results : dict
        Its JSON file.
    fractions : dict of arrays
        Its netCDF file: `fn_emulator` (N, 4) and so on, samples in the order of the rows.

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
            "batching": batching,
            "model": model.resolve(),
            "samples": samples.resolve(),
            "sample_rows": folder / "rows.txt",
            "output": folder / "host.json",
            "fractions": folder / "fractions.nc",
            "pcols": pcols,
            "repeats": repeats,
        }
        write_namelist(folder / "host.nml", "host_nl", settings)
        _run(program, folder / "host.nml", threads)
        with netCDF4.Dataset(folder / "fractions.nc") as file:
            fractions = {name: np.asarray(variable[:]) for name, variable in file.variables.items()}
        return json.loads((folder / "host.json").read_text()), fractions


def activation_in_a_step(program: Path, models: dict[str, Path | None], rounds: int = 3) -> dict[str, dict[str, float]]:
    """What activation takes of a step of `climate_host`, one rank and thread, all points of a call site in a call.

    Parameters
    ----------
    program : path
    models : dict
        Emulator of each scheme; None: ARG.
    rounds : int
        Runs of each, of which the medians count; the schemes take turns.

    Returns
    -------
    dict of dicts
        Of each scheme, averages over columns and steps: `points` activated, `activation_us`, `physics_us` (activation
        included); and `share`, of activation in the physics, 0 to 1.

    Raises
    ------
    RuntimeError
        The host failed; its message is quoted.
    """
    runs: dict[str, list[tuple[float, ...]]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            runs[name].append(_climate_run(program, model))
    found = {}
    for name, numbers in runs.items():
        points, activation_us, physics_us = (float(v) for v in np.median(numbers, axis=0))
        found[name] = {
            "points": points,
            "activation_us": activation_us,
            "physics_us": physics_us,
            "share": activation_us / physics_us,
        }
    return found


def _climate_run(program: Path, model: Path | None) -> tuple[float, ...]:
    """Points, activation and physics in µs, of a column and step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {"history": "", "restart_out": "", "timing": folder / "timing.json", "verbose": False}
        settings |= {"scheme": "arg"} if model is None else {"scheme": "emulator", "model": model.resolve()}
        write_namelist(folder / "climate.nml", "climate_nl", CLIMATE | settings)
        _run(program, folder / "climate.nml", 1)
        counted = json.loads((folder / "timing.json").read_text())
    steps = CLIMATE["num_columns"] * CLIMATE["num_steps"]
    return counted["points"] / steps, 1e-3 * counted["activation_ns"] / steps, 1e-3 * counted["physics_ns"] / steps


def _run(program: Path, namelist: Path, threads: int) -> None:
    done = subprocess.run(
        [str(program.resolve()), str(namelist)],
        cwd=namelist.parent,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program} failed: {done.stderr.strip() or done.stdout.strip()}")
