"""What the runs of an online study show: a JSON file, a figure, a table on standard output."""

import json
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from emulator.activation.online_figure import draw
from emulator.activation.online_measures import (
    FIELDS,
    FIRST_STEPS,
    PERTURBED,
    REFERENCE,
    measure,
    read_history,
    relative_rms,
)
from emulator.activation.online_run import piece_path, write_atomically
from emulator.activation.provenance import commit, versions

FIGURE_FIELD = "droplet_number"
MOST_POINTS = 250
"""Of a series in the JSON file."""

LABELS = {REFERENCE: "parcel model", PERTURBED: "parcel model, perturbed", "arg": "ARG"}


def report(folder, ends, tasks, request):
    """Measure complete runs and write `online.json` and `online.png` into the folder.

    Parameters
    ----------
    folder : pathlib.Path
    ends : list of int
        Last step of each piece.
    tasks : dict
        Run: Task; the reference among them.
    request : dict
        What was asked for; goes into the JSON file.

    Returns
    -------
    dict
        What the JSON file holds.

    Raises
    ------
    ValueError, OSError
        See `read_history`.
    """
    reference, units = read_history(folder / REFERENCE, ends)
    every = max(1, ends[-1] // MOST_POINTS)
    runs, means, differences = {}, {}, {}
    for name, task in tasks.items():
        fields = reference if name == REFERENCE else read_history(folder / name, ends)[0]
        rms = {field: relative_rms(fields[field], reference[field]) for field in FIELDS}
        averages = {field: fields[field].mean(axis=(1, 2)) for field in FIELDS}
        runs[name] = {
            "scheme": task.namelist["scheme"],
            "model": task.namelist.get("model"),
            "fields": {field: measure(fields[field], reference[field]) for field in FIELDS},
            "counts": _counts(folder / name, ends),
            "series": {
                field: {"mean": averages[field][::every].tolist(), "rms_difference": rms[field][::every].tolist()}
                for field in FIELDS
            },
        }
        means[name] = averages[FIGURE_FIELD]
        if name != REFERENCE:
            differences[name] = rms[FIGURE_FIELD]
    summary = {
        "request": request,
        "commit": commit(),
        "versions": versions(),
        "units": units,
        "series_steps": np.arange(1, ends[-1] + 1)[::every].tolist(),
        "runs": runs,
    }
    write_atomically(folder / "online.json", json.dumps(summary, indent=1, allow_nan=False) + "\n")
    labels = {name: LABELS.get(name, f"emulator '{name}'") for name in tasks}
    draw(folder / "online.png", labels, means, differences, name="droplet number", unit=units[FIGURE_FIELD])
    _print(summary, labels)
    print(f"wrote {folder / 'online.json'} and {folder / 'online.png'}")
    return summary


def _counts(folder, ends):
    """Sums over the pieces of what the host and the scheme counted."""
    return _sums([json.loads(piece_path(folder, "counts", step, "json").read_text()) for step in ends])


def _sums(counts):
    """Add up trees of numbers with the same names."""
    first = counts[0]
    if isinstance(first, dict):
        return {name: _sums([tree[name] for tree in counts]) for name in first}
    return sum(counts)


def _print(summary, labels):
    console = Console(width=None if sys.stdout.isatty() else 130)
    table = Table(
        title=f"{summary['request']['steps']} steps: their second half, differences from the parcel model's run",
        title_justify="left",
    )
    table.add_column("")
    for heading in ("droplet number", "difference %", "drift % / 1000", "cloud water %", "aerosol %", "first", "last"):
        table.add_column(heading, justify="right")
    for name, label in labels.items():
        number, water, aerosol = (
            summary["runs"][name]["fields"][field] for field in ("droplet_number", "cloud_water", "aerosol_number")
        )
        row = [f"{number['mean']:.3e} ({number['sd']:.0e})"]
        if name != REFERENCE:
            row += [
                _percent(number, "difference_percent"),
                _percent(number, "drift_percent"),
                _percent(water, "difference_percent"),
                _percent(aerosol, "difference_percent"),
                f"{number['rms_first']:.1e}",
                f"{number['rms_last']:.1e}",
            ]
        table.add_row(label, *row)
    console.print(table)
    console.print(
        f"Droplet number ({summary['units'][FIGURE_FIELD]}): global mean and its standard deviation in time. Drift: "
        "change of the difference. ±: standard error over the columns. first, last: relative rms difference of droplet "
        f"number, in the first {FIRST_STEPS} steps and in the second half."
    )
    for name, run in summary["runs"].items():
        if run["scheme"] == "emulator":
            console.print(f"{labels[name]}: {_outside(run['counts'])}")


def _percent(measures, name):
    error = measures[f"{name}_uncertainty"]
    return f"{measures[name]:+.2f}" + (f" ± {error:.2f}" if error is not None else "")


def _outside(counts):
    """How many points lay outside of the training range, and by which inputs."""
    inputs = [
        f"{name} {ends['low']} below, {ends['high']} above, {ends['nan']} NaN"
        for name, ends in counts["outside"].items()
        if any(ends.values())
    ]
    said = f"{counts['points']:,} points, {counts['fallbacks']:,} outside of the training range and left to ARG"
    return said + (f" ({'; '.join(inputs)})" if inputs else "")
