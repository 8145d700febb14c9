"""Columns: what each number that goes into or comes out of a network is called and measured in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Column:
    """One scalar input or output of an emulator.

    Attributes
    ----------
    name : str
        Name in the model file: the variable's own, with `_1`, `_2`, ... appended where the variable has a
        second dimension (aerosol modes, say). Indices count from 1, as a Fortran host counts.
    units : str
        Units as the samples file gives them.
    variable : str
        Variable of the samples file.
    index : int or None
        Position (from 0) along the variable's second dimension; None if it has none.
    """

    name: str
    units: str
    variable: str
    index: int | None = None

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict) -> Column:
        return cls(**data)


def columns_of(variable: str, units: str, size: int | None) -> list[Column]:
    """Columns of one variable; `size` is the extent of its second dimension, None without one."""
    if size is None:
        return [Column(name=variable, units=units, variable=variable)]
    return [Column(name=f"{variable}_{k + 1}", units=units, variable=variable, index=k) for k in range(size)]


def names(columns: Sequence[Column]) -> list[str]:
    return [c.name for c in columns]


def units(columns: Sequence[Column]) -> list[str]:
    return [c.units for c in columns]
