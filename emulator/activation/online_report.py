"""What the runs of an online study show: a JSON file, a figure, a table on standard output."""

import json
import sys

import numpy as np
from rich.console import Console
from rich.table import Table

from emulator.activation.online_figure import draw
from emulator.activation.online_measures import FIELDS, PERTURBED, REFERENCE, measure, read_history, relative_rms
from emulator.activation.online_run import piece_path, write_atomically

FIGURE_FIELD = "droplet_number"
MOST_POINTS = 250
"""Of a series in the JSON file."""

LABELS = {REFERENCE: "parcel model", PERTURBED: "parcel model, perturbed at round-off", "arg": "ARG"}


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
    """Sums over the pieces of what the scheme counted."""
    total = {}
    for step in ends:
        for name, value in json.loads(piece_path(folder, "counts", step, "json").read_text()).items():
            total[name] = total.get(name, 0) + value
    return total


def _print(summary, labels):
    console = Console(width=None if sys.stdout.isatty() else 130)
    table = Table(
        title=f"{summary['request']['steps']} steps, the second half; differences from the run with the parcel model",
        title_justify="left",
    )
    table.add_column("")
    for heading in ("droplet number", "sd", "difference", "drift", "cloud water", "aerosol", "rms difference"):
        table.add_column(heading, justify="right")
    for name, label in labels.items():
        number, water, aerosol = (
            summary["runs"][name]["fields"][field] for field in ("droplet_number", "cloud_water", "aerosol_number")
        )
        percents = [
            f"{v:+.2f} %"
            for v in (
                number["difference_percent"],
                number["drift_percent"],
                water["difference_percent"],
                aerosol["difference_percent"],
            )
        ]
        if name == REFERENCE:
            percents = [""] * 4
        rms = "" if name == REFERENCE else f"{number['rms_difference']:.1e}"
        table.add_row(label, f"{number['mean']:.4e}", f"{number['sd']:.1e}", *percents, rms)
    console.print(table)
    console.print(
        f"droplet number [{summary['units'][FIGURE_FIELD]}] and its standard deviation: of the global mean. drift: "
        "change over the whole run of the difference from the parcel model's run. rms difference: of droplet number, "
        "relative, over the grid."
    )
