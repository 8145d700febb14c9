"""Transforms and standardisation of columns, fitted on training data only and kept with the model.

Axis legend: N samples, C columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from emulator.variables import Column

TRANSFORMS = ("none", "log", "log10", "sqrt", "logit")
# `auto` takes the logarithm of a positive column whose largest training value is at least this many times its
# smallest. Temperature (1.3), pressure (2.5) and humidity (1.4) of the case study stay linear; updraft, number,
# radius and hygroscopicity do not.
AUTO_LOG_RATIO = 3.0
_LOGIT_MARGIN = 1e-6  # distance kept from 0 and 1, where logit is infinite
_BLOCK_ROWS = 1 << 16  # rows looked at together: they and what is computed of them stay in the cache of a core


@dataclass(frozen=True)
class Normaliser:
    """Column-wise `z = (transform(x) - mean) / std`, evaluated in float64.

    Inputs outside a transform's domain are held at its edge: `lower` is the training minimum for log, log10
    (a logarithm has no value at 0, and a network none beyond its data), 0 for sqrt; logit keeps 1e-6 from both
    ends; -inf and inf elsewhere. NaN stays NaN.

    Attributes
    ----------
    transforms : tuple of str, (C,)
    lower, upper : (C,) float64 arrays, physical units
    mean, std : (C,) float64 arrays, of the transformed column
    minimum, maximum : (C,) float64 arrays, physical units, the training range
    """

    transforms: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray

    @classmethod
    def fit(
        cls,
        x_NC: np.ndarray,
        columns: Sequence[Column],
        transforms: str | Mapping[str, str] = "none",
        *,
        standardise: bool = True,
        allow_constant: bool = False,
    ) -> Normaliser:
        """Statistics of training samples.

        Parameters
        ----------
        x_NC : (N, C) array
            Training samples, physical units. Anything that has a shape and gives float64 arrays for ranges of rows
            will do: samples are looked at in blocks, never as a whole, and the result does not depend on the blocks.
        columns : (C,) sequence of Column
        transforms : str or mapping
            One name for all columns, or a name per variable or column, `default` for the rest. `auto` chooses
            log for positive columns that span a factor of 3 or more, none otherwise.
        standardise : bool
            False leaves mean 0 and standard deviation 1.
        allow_constant : bool
            A constant column is an error unless True (then its standard deviation counts as 1).

        Raises
        ------
        ValueError
            An unknown transform or name, values outside a transform's domain, a constant column.
        """
        if not hasattr(x_NC, "shape"):
            x_NC = np.asarray(x_NC, dtype=np.float64)
        if len(x_NC.shape) != 2 or x_NC.shape[1] != len(columns):
            raise ValueError(f"samples have shape {tuple(x_NC.shape)}; expected (samples, {len(columns)})")
        chosen = resolve_transforms(transforms, columns)
        minimum, maximum = _range(x_NC)
        kinds, lower, upper = [], np.full(len(columns), -np.inf), np.full(len(columns), np.inf)
        for k, (column, kind) in enumerate(zip(columns, chosen, strict=True)):
            if kind == "auto":
                kind = "log" if minimum[k] > 0 and maximum[k] >= AUTO_LOG_RATIO * minimum[k] else "none"
            _check_domain(column, kind, minimum[k], maximum[k])
            if minimum[k] == maximum[k] and not allow_constant:
                raise ValueError(
                    f"column {column.name!r} is constant ({minimum[k]:g} {column.units}) over the {x_NC.shape[0]} "
                    "training samples: it tells a network nothing; leave it out of the inputs"
                )
            if kind in ("log", "log10"):
                lower[k] = minimum[k]
            elif kind == "sqrt":
                lower[k] = 0.0
            elif kind == "logit":
                lower[k], upper[k] = _LOGIT_MARGIN, 1.0 - _LOGIT_MARGIN
            kinds.append(kind)
        unit = np.ones(len(columns))
        fitted = cls(tuple(kinds), lower, upper, 0 * unit, unit, minimum, maximum)
        if not standardise:
            return fitted
        ends = fitted.transform(np.stack([minimum, maximum]))  # every transform is monotonic
        total = ExactSum(np.abs(ends).max(axis=0))
        for block in _blocks(x_NC):
            total.add(fitted.transform(block))
        mean = total.mean()
        squares = ExactSum(np.abs(ends - mean).max(axis=0) ** 2)
        for block in _blocks(x_NC):
            squares.add((fitted.transform(block) - mean) ** 2)
        std = np.sqrt(squares.mean())
        std[minimum == maximum] = 1.0
        return cls(tuple(kinds), lower, upper, mean, std, minimum, maximum)

    def transform(self, x_NC: np.ndarray) -> np.ndarray:
        """Transformed, not yet standardised, (N, C) float64."""
        t_NC = np.array(x_NC, dtype=np.float64)
        t_NC = np.where(t_NC < self.lower, self.lower, t_NC)
        t_NC = np.where(t_NC > self.upper, self.upper, t_NC)
        for k, kind in enumerate(self.transforms):
            t = t_NC[:, k]
            if kind == "log":
                t_NC[:, k] = np.log(t)
            elif kind == "log10":
                t_NC[:, k] = np.log10(t)
            elif kind == "sqrt":
                t_NC[:, k] = np.sqrt(t)
            elif kind == "logit":
                t_NC[:, k] = -np.log(1.0 / t - 1.0)
        return t_NC

    def forward(self, x_NC: np.ndarray) -> np.ndarray:
        """Physical units to what the network sees, (N, C) float64."""
        return (self.transform(x_NC) - self.mean) / self.std

    def inverse(self, z_NC: np.ndarray) -> np.ndarray:
        """What the network gives to physical units, (N, C) float64."""
        t_NC = np.asarray(z_NC, dtype=np.float64) * self.std + self.mean
        for k, kind in enumerate(self.transforms):
            t = t_NC[:, k]
            if kind == "log":
                t_NC[:, k] = np.exp(t)
            elif kind == "log10":
                t_NC[:, k] = 10.0**t
            elif kind == "sqrt":
                t_NC[:, k] = np.maximum(t, 0.0) ** 2
            elif kind == "logit":
                t_NC[:, k] = 1.0 / (1.0 + np.exp(-t))
        return t_NC

    @property
    def is_identity(self) -> bool:
        return set(self.transforms) <= {"none"} and not self.mean.any() and (self.std == 1.0).all()

    def to_dict(self) -> dict:
        """Plain lists, exact: `from_dict(to_dict())` has the same bits."""
        arrays = ("lower", "upper", "mean", "std", "minimum", "maximum")
        return {"transforms": list(self.transforms), **{a: getattr(self, a).tolist() for a in arrays}}

    @classmethod
    def from_dict(cls, data: dict) -> Normaliser:
        arrays = {k: np.asarray(v, dtype=np.float64) for k, v in data.items() if k != "transforms"}
        return cls(transforms=tuple(data["transforms"]), **arrays)


class ExactSum:
    """Column sums that do not depend on the order of rows or on how they are grouped.

    Numbers of known size are added as integers, in units of 2^-61 of the power of two above the bound. All digits of
    a float64 fit in unless it is below 1/256 of the bound, and then those beyond are rounded off.

    Parameters
    ----------
    bound_C : (C,) array
        No number is larger in size.
    """

    def __init__(self, bound_C: np.ndarray):
        # 62 bits for twice the bound: what is above it by a rounding fits in too
        self._shift_C = 61 - np.frexp(bound_C)[1]
        self._high = [0] * len(bound_C)
        self._low = [0] * len(bound_C)
        self.count = 0

    def add(self, x_NC: np.ndarray) -> None:
        """Add rows, at most 2^31 at a time."""
        q_NC = np.rint(np.ldexp(x_NC, self._shift_C)).astype(np.int64)
        for part, digits in ((self._high, q_NC >> 32), (self._low, q_NC & 0xFFFFFFFF)):
            for k, more in enumerate(digits.sum(axis=0).tolist()):
                part[k] += more
        self.count += len(x_NC)

    def mean(self) -> np.ndarray:
        """Mean of all rows added, (C,) float64, rounded once."""
        totals = ((high << 32) + low for high, low in zip(self._high, self._low, strict=True))
        exact = (Fraction(t, self.count) * Fraction(2) ** -int(s) for t, s in zip(totals, self._shift_C, strict=True))
        return np.array([float(m) for m in exact])


def _blocks(x_NC) -> Iterator[np.ndarray]:
    for start in range(0, x_NC.shape[0], _BLOCK_ROWS):
        yield np.asarray(x_NC[start : start + _BLOCK_ROWS], dtype=np.float64)


def _range(x_NC) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest value of each column; NaN where there is one."""
    minimum, maximum = np.full(x_NC.shape[1], np.inf), np.full(x_NC.shape[1], -np.inf)
    for block in _blocks(x_NC):
        minimum, maximum = np.minimum(minimum, block.min(axis=0)), np.maximum(maximum, block.max(axis=0))
    return minimum, maximum


def resolve_transforms(transforms: str | Mapping[str, str], columns: Sequence[Column]) -> list[str]:
    """Transform name (`auto` included) of each column. Raises ValueError for unknown names."""
    known = (*TRANSFORMS, "auto")
    table = {"default": transforms} if isinstance(transforms, str) else dict(transforms)
    for name, kind in table.items():
        if kind not in known:
            raise ValueError(f"transform {kind!r} for {name!r} is unknown; expected one of {', '.join(known)}")
    names = {"default"} | {c.name for c in columns} | {c.variable for c in columns}
    unknown = sorted(set(table) - names)
    if unknown:
        raise ValueError(f"transforms name {unknown}; the columns are {', '.join(c.name for c in columns)}")
    default = table.get("default", "none")
    return [table.get(c.name, table.get(c.variable, default)) for c in columns]


def _check_domain(column: Column, kind: str, minimum: float, maximum: float) -> None:
    needs = {"log": "positive values", "log10": "positive values", "sqrt": "values of at least 0"}
    wrong = (kind in ("log", "log10") and minimum <= 0.0) or (kind == "sqrt" and minimum < 0.0)
    if kind == "logit" and (minimum < 0.0 or maximum > 1.0):
        wrong, needs = True, {"logit": "values from 0 to 1"}
    if wrong:
        raise ValueError(
            f"column {column.name!r} reaches from {minimum:g} to {maximum:g} {column.units}; transform {kind!r} "
            f"needs {needs[kind]}; choose another transform"
        )
