"""What runs of the host with other schemes have in common with the run of the parcel model: means, drift, growth.

Axes: T steps, Z levels, C columns.
"""

import netCDF4
import numpy as np

from emulator.activation.modes import NUM_MODES
from emulator.activation.online_run import piece_path

REFERENCE = "parcel"
PERTURBED = "perturbed"

FIELDS = {
    "droplet_number": ("NUMLIQ",),
    "cloud_water": ("QL",),
    "aerosol_number": tuple(f"NUM_A{m + 1}" for m in range(NUM_MODES)),
    "temperature": ("T",),
}
"""What is reported: names in the history whose sum it is."""

THRESHOLDS = (1e-6, 1e-3, 1e-1)
"""Relative differences; reported is the first step at which a run is that far from the reference."""


def read_history(folder, ends):
    """Read the fields of a run.

    Parameters
    ----------
    folder : path
    ends : list of int
        Last step of each piece.

    Returns
    -------
    fields : dict
        Name of FIELDS: float64 array (T, Z, C).
    units : dict

    Raises
    ------
    ValueError
        A variable is missing, or the steps are not those of the pieces.
    """
    parts = {name: [] for name in FIELDS}
    units = {}
    first = 0
    for last in ends:
        path = piece_path(folder, "history", last)
        with netCDF4.Dataset(path) as dataset:
            for name, variables in FIELDS.items():
                missing = [v for v in variables if v not in dataset.variables]
                if missing:
                    raise ValueError(f"'{path}' has no variable {', '.join(missing)}; was it written by climate_host?")
                total = sum(np.asarray(dataset[v][:], np.float64) for v in variables)
                if len(total) != last - first:
                    raise ValueError(f"'{path}' holds {len(total)} steps; expected {last - first}")
                parts[name].append(total)
                units[name] = dataset[variables[0]].units
        first = last
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}, units


def relative_rms(x_TZC, reference_TZC):
    """Root-mean-square difference of each step over that of the reference itself, (T,), [1]; 0 where both are 0."""
    difference = np.sqrt(np.mean((x_TZC - reference_TZC) ** 2, axis=(1, 2)))
    scale = np.sqrt(np.mean(reference_TZC**2, axis=(1, 2)))
    return np.divide(difference, scale, out=np.zeros_like(difference), where=difference > 0.0)


def measure(field_TZC, reference_TZC):
    """Measures of one field of a run beside the reference's.

    Returns
    -------
    dict
        `mean`, `sd`: of the global mean over the second half of the run, in the field's units; `difference_percent`:
        of that mean from the reference's; `drift_percent`: by which the difference of both global means changes in the
        whole run, by least squares, relative to the reference's mean; `rms_difference`: relative, mean over the second
        half; `first_step_above`: for THRESHOLDS, null if never.
    """
    series, reference = field_TZC.mean(axis=(1, 2)), reference_TZC.mean(axis=(1, 2))
    half = len(series) // 2
    scale = reference[half:].mean()
    slope = np.polyfit(np.arange(len(series)), series - reference, 1)[0] if len(series) > 1 else 0.0
    rms = relative_rms(field_TZC, reference_TZC)
    above = {f"{t:g}": np.flatnonzero(rms > t) for t in THRESHOLDS}
    return {
        "mean": float(series[half:].mean()),
        "sd": float(series[half:].std()),
        "difference_percent": float(100.0 * (series[half:].mean() / scale - 1.0)),
        "drift_percent": float(100.0 * slope * len(series) / scale),
        "rms_difference": float(rms[half:].mean()),
        "first_step_above": {t: int(steps[0]) + 1 if len(steps) else None for t, steps in above.items()},
    }
