"""Samples files: which variables, in which units, and reading rows without holding the whole file.

Axis legend: N samples, I input columns, O output columns.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import netCDF4
import numpy as np

from emulator.variables import Column, columns_of

# The case study's names (Yu et al. 2023, data set doi:10.5281/zenodo.7627577), taken when a config names none.
DEFAULT_INPUTS = ("tair", "pressure", "rh", "wbar", "num_aer", "r_aer", "kappa")
DEFAULT_OUTPUTS = ("fn",)

_SLAB_ROWS = 1 << 17  # rows read at a time: 16 float64 columns are 16 MiB
_MAX_GAP = 4096  # rows read and thrown away rather than seeking: about one HDF5 chunk
_FULL_CHECKSUM_BYTES = 1 << 30  # larger files are hashed by evenly spaced blocks
_CHECKSUM_BLOCK = 1 << 20


class SampleFile:
    """A netCDF file of process-model samples: named inputs with units, named outputs with units.

    Parameters
    ----------
    path : path
        netCDF file. Every variable used has the sample dimension first and at most one more (modes).
    inputs, outputs : sequence of str, optional
        Variable names, in the order in which the network takes and gives them. By default the case study's.
    units : mapping of str to str, optional
        Units that the variables must have. Needed for a variable whose file gives none; where the file gives
        some, they must be equal.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not netCDF; a missing variable, wrong dimensions, no or other units, no samples.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        units: Mapping[str, str] | None = None,
    ):
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"samples file {self.path}: no such file")
        self.inputs = tuple(inputs) if inputs is not None else DEFAULT_INPUTS
        self.outputs = tuple(outputs) if outputs is not None else DEFAULT_OUTPUTS
        self._unnamed = {"inputs"} if inputs is None else set()
        self._unnamed |= {"outputs"} if outputs is None else set()
        _check_name_lists(self.inputs, self.outputs)
        units = dict(units or {})
        unused = sorted(set(units) - set(self.inputs) - set(self.outputs))
        if unused:
            raise ValueError(f"units given for {unused}, which are neither inputs nor outputs")
        with self._open() as file:
            self.sample_dimension = self._sample_dimension(file)
            self.num_samples = file.dimensions[self.sample_dimension].size
            self.input_columns = self._columns(file, self.inputs, units)
            self.output_columns = self._columns(file, self.outputs, units)
        if self.num_samples == 0:
            raise ValueError(f"{self.path}: dimension {self.sample_dimension!r} has no samples")

    # -- what is in the file ---------------------------------------------------------------------------------

    def _open(self) -> netCDF4.Dataset:
        try:
            return netCDF4.Dataset(self.path, "r")
        except OSError as error:
            raise ValueError(f"{self.path}: cannot be read as netCDF ({error})") from error

    def _variable(self, file: netCDF4.Dataset, name: str) -> netCDF4.Variable:
        if name in file.variables:
            return file.variables[name]
        have = sorted(file.variables)
        listed = f"{self.path}: no variable {name!r} (it has {', '.join(have) or 'none'})"
        if ("inputs" if name in self.inputs else "outputs") in self._unnamed:
            raise ValueError(
                f"{listed}, which the case study's samples have and which is wanted since inputs and outputs were not "
                "named; name them in the [data] table of the config: inputs = ['...'], outputs = ['...']"
            )
        near = difflib.get_close_matches(name, have, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{listed}; {hint}correct inputs or outputs in the [data] table of the config")

    def _sample_dimension(self, file: netCDF4.Dataset) -> str:
        first = {}
        for name in self.inputs + self.outputs:
            variable = self._variable(file, name)
            if variable.ndim not in (1, 2):
                raise ValueError(
                    f"{self.path}: variable {name!r} has dimensions {variable.dimensions}; expected the sample "
                    "dimension and at most one more"
                )
            if not np.issubdtype(variable.dtype, np.number):
                raise ValueError(f"{self.path}: variable {name!r} has type {variable.dtype}; expected numbers")
            first[name] = variable.dimensions[0]
        if len(set(first.values())) > 1:
            raise ValueError(
                f"{self.path}: the first dimension must be the same sample dimension for all variables; found "
                + ", ".join(f"{n}: {d}" for n, d in first.items())
            )
        return next(iter(first.values()))

    def _columns(self, file: netCDF4.Dataset, variables: Sequence[str], units: Mapping[str, str]) -> tuple[Column, ...]:
        columns: list[Column] = []
        for name in variables:
            variable = self._variable(file, name)
            found = str(getattr(variable, "units", "")).strip()
            wanted = units.get(name, "").strip()
            if found and wanted and found != wanted:
                raise ValueError(
                    f"{self.path}: variable {name!r} has units {found!r}, the config expects {wanted!r}; convert "
                    "the data or correct the config"
                )
            if not (found or wanted):
                raise ValueError(
                    f"{self.path}: variable {name!r} has no units attribute; add one, or give units in the "
                    "[data.units] table of the config ('1' if dimensionless)"
                )
            size = variable.shape[1] if variable.ndim == 2 else None
            columns += columns_of(name, found or wanted, size)
        return tuple(columns)

    def checksum(self) -> str:
        """SHA-256 of the file; over 1 GiB, of its size and 256 evenly spaced blocks (`sampled-sha256:`)."""
        size = self.path.stat().st_size
        digest = hashlib.sha256()
        with open(self.path, "rb") as stream:
            if size <= _FULL_CHECKSUM_BYTES:
                while block := stream.read(_CHECKSUM_BLOCK):
                    digest.update(block)
                return f"sha256:{digest.hexdigest()}"
            digest.update(str(size).encode())
            for k in range(256):
                stream.seek(k * (size - _CHECKSUM_BLOCK) // 255)
                digest.update(stream.read(_CHECKSUM_BLOCK))
        return f"sampled-sha256:{digest.hexdigest()}"

    # -- reading ----------------------------------------------------------------------------------------------

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read samples.

        Only the stretches of the file that hold a wanted row are read, one slab at a time.

        Parameters
        ----------
        rows : (N,) int array
            Row numbers, strictly increasing.

        Returns
        -------
        x_NI, y_NO : float64 arrays
            Inputs and outputs, physical units.

        Raises
        ------
        ValueError
            A value is missing (`_FillValue`), NaN or infinite; rows are out of order or outside the file.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.ndim != 1 or (rows.size > 1 and not (np.diff(rows) > 0).all()):
            raise ValueError("rows must be a strictly increasing one-dimensional array")
        if rows.size and (rows[0] < 0 or rows[-1] >= self.num_samples):
            raise ValueError(f"rows reach from {rows[0]} to {rows[-1]}; {self.path} has 0..{self.num_samples - 1}")
        both_NC = self.read_variables(self.inputs + self.outputs, rows)
        x_NI, y_NO = np.split(both_NC, [len(self.input_columns)], axis=1)
        return np.ascontiguousarray(x_NI), np.ascontiguousarray(y_NO)

    def read_variables(self, names: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Further variables of one dimension, as `read` reads inputs: (N, V) float64."""
        with self._open() as file:
            return self._read_columns(file, tuple(names), np.asarray(rows, dtype=np.int64))

    def check_variables(self, names: Sequence[str], wanted_by: str) -> None:
        """Whether further variables are there.

        Raises
        ------
        ValueError
            One is missing or has another dimension than the samples alone; `wanted_by` is named.
        """
        with self._open() as file:
            missing = [name for name in names if name not in file.variables]
            if missing:
                raise ValueError(
                    f"{self.path}: {wanted_by} needs the variables {', '.join(names)}, and the file has no "
                    f"{', '.join(missing)}; make the samples with a program that writes them, or do without it"
                )
            for name in names:
                if file.variables[name].dimensions != (self.sample_dimension,):
                    raise ValueError(
                        f"{self.path}: {wanted_by} needs one number a sample; variable {name!r} has the dimensions "
                        f"{file.variables[name].dimensions}"
                    )

    def attributes(self) -> dict[str, object]:
        """Global attributes of the file."""
        with self._open() as file:
            return {name: file.getncattr(name) for name in file.ncattrs()}

    def _read_columns(self, file: netCDF4.Dataset, variables: Sequence[str], rows: np.ndarray) -> np.ndarray:
        blocks = []
        missing: dict[str, np.ndarray] = {}
        for name in variables:
            variable = file.variables[name]
            block = np.empty((rows.size, *variable.shape[1:]))
            for start, stop in _slabs(rows):
                part = rows[start:stop]
                slab = variable[part[0] : part[-1] + 1]
                slab = np.ma.filled(np.ma.asarray(slab, dtype=np.float64), np.nan)
                block[start:stop] = slab[part - part[0]]
            bad = ~np.isfinite(block).reshape(rows.size, -1).all(axis=1)
            if bad.any():
                missing[name] = bad
            blocks.append(block.reshape(rows.size, -1))
        if missing:
            each = (f"{n!r} in {bad.sum():,} (first at row {rows[np.argmax(bad)]})" for n, bad in missing.items())
            raise ValueError(
                f"{self.path}: values are missing, NaN or infinite; of {rows.size:,} samples read, {', '.join(each)}. "
                "Other rows may have some too: leave all such samples out of the file, for instance with xarray's "
                f"dataset.dropna({self.sample_dimension!r})"
            )
        return np.concatenate(blocks, axis=1)


def _check_name_lists(inputs: Sequence[str], outputs: Sequence[str]) -> None:
    for what, given in (("inputs", inputs), ("outputs", outputs)):
        if not given:
            raise ValueError(f"{what}: at least one variable is needed")
        if isinstance(given, str) or len(set(given)) != len(given):
            raise ValueError(f"{what}: expected a list of different names, found {given!r}")
    both = sorted(set(inputs) & set(outputs))
    if both:
        raise ValueError(f"{both} are named both as inputs and as outputs")


def _slabs(rows: np.ndarray):
    """Ranges [start, stop) of positions in `rows` that are read together."""
    start = 0
    while start < rows.size:
        stop = int(np.searchsorted(rows, rows[start] + _SLAB_ROWS))
        wide = np.flatnonzero(np.diff(rows[start:stop]) > _MAX_GAP)
        if wide.size:
            stop = start + int(wide[0]) + 1
        yield start, stop
        start = stop
