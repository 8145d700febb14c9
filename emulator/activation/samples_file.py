"""The samples file: netCDF, with the names, dimensions and units of the paper's data set (Zenodo 7627577).

Dimensions `nsamples` and `nmodes`; inputs `tair` [K], `pressure` [hPa], `rh` [1], `wbar` [cm s-1], `num_aer` [cm-3],
`r_aer` [um], `kappa` [1]; output `fn` [1]. Beyond the paper: `smax` [1], `tair_smax` [K], `sample_index`, and the group
`unfinished` with the states whose parcel found no maximum.
"""

import contextlib
import json
import os
import tempfile

import netCDF4
import numpy as np

from emulator.activation.modes import MODE_NAMES, NUM_MODES, SIGMA_G
from emulator.activation.parcel import STATUS_NAMES
from emulator.activation.states import MODAL_NAMES, SCALAR_NAMES

SCHEMA = 1

MODES = ", ".join(f"{i + 1} {name}" for i, name in enumerate(MODE_NAMES))

VARIABLES = {
    "tair": ("f4", "K", "air temperature at the parcel's start"),
    "pressure": ("f4", "hPa", "air pressure at the parcel's start"),
    "rh": ("f4", "1", "relative humidity over liquid water at the parcel's start"),
    "wbar": ("f4", "cm s-1", "updraft speed"),
    "num_aer": ("f4", "cm-3", f"aerosol number concentration; modes: {MODES}"),
    "r_aer": ("f4", "um", "number-median dry radius of the lognormal mode"),
    "kappa": ("f4", "1", "volume-mean hygroscopicity"),
    "fn": ("f4", "1", "activated number fraction of the mode"),
    "smax": ("f8", "1", "maximum supersaturation"),
    "tair_smax": ("f4", "K", "air temperature at maximum supersaturation"),
    "sample_index": ("i8", "1", "number of the sample in the sequence of its seed and sampler"),
    "status": ("i1", "1", "why the parcel did not finish"),
}
"""Type on disk, unit and long name of every variable."""

INPUTS = SCALAR_NAMES + MODAL_NAMES
OUTPUTS = ("fn", "smax", "tair_smax")
MODAL = (*MODAL_NAMES, "fn")

BYTES_PER_SAMPLE = 16 * 4 + 4 * 4 + 8 + 4 + 8
"""Of one sample on disk, before compression."""


def write(path, blocks, num_finished, unfinished, attributes):
    """Write a complete samples file: to a temporary file beside `path`, then renamed.

    Parameters
    ----------
    path : pathlib.Path
    blocks : iterable of dict
        Finished samples in order: inputs, outputs and `sample_index`, arrays with the samples first.
    num_finished : int
        Samples in all blocks.
    unfinished : dict
        Arrays of `INPUTS`, `sample_index` and `status` for the samples that did not finish; may be empty arrays.
    attributes : dict
        Global attributes.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    try:
        with netCDF4.Dataset(temporary, "w", format="NETCDF4") as file:
            file.setncatts(attributes)
            file.createDimension("nsamples", num_finished)
            file.createDimension("nmodes", NUM_MODES)
            sigma = file.createVariable("sigma_g", "f8", ("nmodes",))
            sigma.setncatts({"units": "1", "long_name": "geometric standard deviation of the mode (fixed)"})
            sigma[:] = SIGMA_G
            names = (*INPUTS, *OUTPUTS, "sample_index")
            variables = {name: _create(file, name, "nsamples") for name in names}
            position = 0
            for block in blocks:
                end = position + len(block["sample_index"])
                for name in names:
                    variables[name][position:end] = block[name]
                position = end
            assert position == num_finished, (position, num_finished)
            group = file.createGroup("unfinished")
            group.description = (
                "states whose parcel found no supersaturation maximum, at any of the tolerances; not among the samples"
            )
            group.createDimension("nunfinished", len(unfinished["sample_index"]))
            for name in (*INPUTS, "sample_index", "status"):
                _create(group, name, "nunfinished")[:] = unfinished[name]
            flags = group.variables["status"]
            flags.flag_values = np.array(list(STATUS_NAMES), np.int8)
            flags.flag_meanings = " ".join(name.replace(" ", "_") for name in STATUS_NAMES.values())
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _create(group, name, samples):
    kind, units, long_name = VARIABLES[name]
    dimensions = (samples, "nmodes") if name in MODAL else (samples,)
    # Random single-precision numbers hardly compress: level 1 and byte shuffling take what there is.
    variable = group.createVariable(name, kind, dimensions, zlib=True, complevel=1, shuffle=True)
    variable.setncatts({"units": units, "long_name": long_name})
    return variable


def _umask():
    value = os.umask(0)
    os.umask(value)
    return value


def read_attributes(path):
    """Return the global attributes of a samples file as a dict, with `settings` decoded from JSON.

    Raises
    ------
    ValueError
        If the file is no samples file of this generator.
    """
    try:
        with netCDF4.Dataset(path) as file:
            attributes = {name: file.getncattr(name) for name in file.ncattrs()}
    except OSError as error:
        raise ValueError(f"'{path}' exists but is no netCDF file ({error}); give another --out or remove it") from error
    try:
        attributes["settings"] = json.loads(attributes["settings"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"'{path}' exists but was not made by this generator (no readable attribute 'settings'); "
            "give another --out, or --overwrite"
        ) from error
    return attributes
