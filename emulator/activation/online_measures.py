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

FIRST_STEPS = 10
"""Before chaos has made anything of a difference."""

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

    The climate is chaotic: two runs that differ in the last bits have other weather soon, and their means differ by
    chance. Columns do not know of each other, so that their spread tells by how much: uncertainties are standard errors
    over the columns.

    Returns
    -------
    dict
        `mean`, `sd`: over the second half of the run, of the global mean, in the field's units;
        `difference_percent`: of that mean from the reference's, relative to the reference's;
        `drift_percent`: change of the difference over 1,000 steps, by least squares over the second half;
        `..._uncertainty`: of both, null for a single column;
        `rms_first`, `rms_last`: relative rms difference, mean over the first FIRST_STEPS and over the second half;
        `first_step_above`: of THRESHOLDS, null if never.
    """
    half = len(field_TZC) // 2
    series, reference = field_TZC.mean(axis=(1, 2))[half:], reference_TZC.mean(axis=(1, 2))[half:]
    apart_TC = (field_TZC - reference_TZC)[half:].mean(axis=1)
    steps = np.arange(len(apart_TC)) - 0.5 * (len(apart_TC) - 1)
    slope_C = steps @ apart_TC / max(np.sum(steps**2), 1.0)
    percent = 100.0 / reference.mean()
    rms = relative_rms(field_TZC, reference_TZC)
    above = {f"{t:g}": np.flatnonzero(rms > t) for t in THRESHOLDS}
    return {
        "mean": float(series.mean()),
        "sd": float(series.std()),
        **_with_uncertainty("difference_percent", percent * apart_TC.mean(axis=0)),
        **_with_uncertainty("drift_percent", percent * 1000.0 * slope_C),
        "rms_first": float(rms[:FIRST_STEPS].mean()),
        "rms_last": float(rms[half:].mean()),
        "first_step_above": {t: int(steps[0]) + 1 if len(steps) else None for t, steps in above.items()},
    }


def _with_uncertainty(name, values_C):
    """Mean of the columns' values, and its standard error."""
    num_columns = len(values_C)
    error = float(values_C.std(ddof=1) / np.sqrt(num_columns)) if num_columns > 1 else None
    return {name: float(values_C.mean()), f"{name}_uncertainty": error}
