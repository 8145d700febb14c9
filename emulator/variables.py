"""Columns: what each number that goes into or comes out of a network is called and measured in."""

from __future__ import annotations

import difflib
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


def column_indices(text: str, columns: Sequence[Column]) -> list[int]:
    """Positions of the columns that a text names: a column (`fn_2`), one column of a variable counted from 1 (`fn[2]`),
    or a variable, which means all of its columns (`fn`).

    Raises
    ------
    ValueError
        Nothing has that name; the message says what there is.
    """
    text = text.strip()
    found = [k for k, c in enumerate(columns) if c.name == text] or [
        k for k, c in enumerate(columns) if c.variable == text or f"{c.variable}[{(c.index or 0) + 1}]" == text
    ]
    if not found:
        have = names(columns)
        near = difflib.get_close_matches(text, [*have, *(c.variable for c in columns)], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"there is no {text!r}; there are {', '.join(have)}{hint}")
    return found


def column_index(text: str, columns: Sequence[Column]) -> int:
    """As `column_indices`, but the text must name one column."""
    text = text.strip()
    found = column_indices(text, columns)
    if len(found) > 1:
        raise ValueError(f"{text!r} has {len(found)} columns; name one: {', '.join(columns[k].name for k in found)}")
    return found[0]
