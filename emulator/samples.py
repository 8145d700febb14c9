"""A samples file as models see it: columns found by the models' names, units compared, rows read block by block.

Axis legend: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import netCDF4
import numpy as np

from emulator.dataset import SampleFile
from emulator.models import Model
from emulator.variables import Column

_BLOCK_ROWS = 1 << 16  # 16 + 4 float64 columns are 10 MiB


class ModelSamples:
    """The columns of a samples file that some models take and give, under their names, in any order in the file.

    A model's column is the variable of that name, or, for `num_aer_2`, the second column of `num_aer`.

    Parameters
    ----------
    path : path
    models : sequence of Model
        The first one's outputs are compared, and the others must have them too.

    Attributes
    ----------
    input_columns : tuple of Column
        Those of the first model, in its order, then what others take besides.
    output_columns : tuple of Column
        Those of the first model.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file, not netCDF; columns that the file or a model lacks; units that differ.
    """

    def __init__(self, path: Path, models: Sequence[Model]):
        first = models[0]
        self._inputs = list(dict.fromkeys(name for m in models for name in m.input_names))
        self._outputs = list(first.output_names)
        for other in models[1:]:
            missing = [n for n in self._outputs if n not in other.output_names]
            if missing:
                raise ValueError(
                    f"{other.path} gives {', '.join(other.output_names)}; to be compared with {first.path} it lacks "
                    f"{', '.join(missing)}"
                )
        units: dict[str, str] = {}
        if not Path(path).exists():
            raise FileNotFoundError(f"samples file {path}: no such file")
        try:
            file = netCDF4.Dataset(path, "r")
        except OSError as error:
            raise ValueError(f"{path}: cannot be read as netCDF ({error})") from None
        with file:
            found = {name: _find(file, path, name) for name in (*self._inputs, *self._outputs)}
            for model in models:
                _check_units(file, path, model, found, units)
        variables = [list(dict.fromkeys(found[n][0] for n in names)) for names in (self._inputs, self._outputs)]
        self.file = SampleFile(path, *variables, units=units)
        self._input_at, self.input_columns = _places(self.file.input_columns, self._inputs, found)
        self._output_at, self.output_columns = _places(self.file.output_columns, self._outputs, found)

    def predict(self, model: Model, x_NI: np.ndarray) -> np.ndarray:
        """Outputs (N, O), in the order of `output_columns`, for inputs in the order of `input_columns`."""
        y = model.predict(x_NI[:, [self._inputs.index(n) for n in model.input_names]])
        if y.shape != (len(x_NI), len(model.output_names)):
            raise ValueError(
                f"{model.path} gives {y.shape[1]} columns; expected {len(model.output_names)} "
                f"({', '.join(model.output_names)})"
            )
        return np.asarray(y, np.float64)[:, [model.output_names.index(n) for n in self._outputs]]

    def blocks(self, rows: np.ndarray | range) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows (N,), inputs (N, I) and outputs (N, O) of increasing row numbers, block by block."""
        for start in range(0, len(rows), _BLOCK_ROWS):
            part = np.asarray(rows[start : start + _BLOCK_ROWS])
            x, y = self.file.read(part)
            yield part, x[:, self._input_at], y[:, self._output_at]


def _find(file: netCDF4.Dataset, path: Path, name: str) -> tuple[str, int | None]:
    """Variable and index along its second dimension (None: it has none)."""
    variables = file.variables
    if name in variables and variables[name].ndim == 1:
        return name, None
    parts = re.fullmatch(r"(.+)_(\d+)", name)
    if parts and parts[1] in variables and variables[parts[1]].ndim == 2:
        size = variables[parts[1]].shape[1]
        if 1 <= int(parts[2]) <= size:
            return parts[1], int(parts[2]) - 1
        raise ValueError(f"{path}: the model has a column {name!r}, but variable {parts[1]!r} has {size} columns")
    near = difflib.get_close_matches(name, list(variables), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{path}: no variable for the model's column {name!r} (it has {', '.join(variables)}){hint}")


def _check_units(file, path: Path, model: Model, found: dict, units: dict[str, str]) -> None:
    """Compare the units of a model with the file's, and note them for variables that have none in the file."""
    differ = []
    for names, wanted in ((model.input_names, model.input_units), (model.output_names, model.output_units)):
        for name, unit in zip(names, wanted, strict=True):
            if name not in found or not unit:
                continue
            variable = found[name][0]
            here = str(getattr(file.variables[variable], "units", "")).strip() or units.setdefault(variable, unit)
            if here != unit:
                differ.append(f"{name} is in {here!r}, the model has {unit!r}")
    if differ:
        raise ValueError(f"{path}: units differ from those of {model.path}: {'; '.join(differ)}; convert the data")


def _places(columns: Sequence[Column], names: Sequence[str], found: dict) -> tuple[list[int], tuple[Column, ...]]:
    at = {(c.variable, c.index): k for k, c in enumerate(columns)}
    places = [at[found[name]] for name in names]
    renamed = (
        Column(name=n, units=columns[k].units, variable=columns[k].variable, index=columns[k].index)
        for n, k in zip(names, places, strict=True)
    )
    return places, tuple(renamed)
