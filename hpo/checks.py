"""Checks that the tables of a config share: what is wrong is named, with what was found and what was expected."""

from __future__ import annotations

import difflib
import math

from hpo.dimensions import parse_dimension
from hpo.errors import SearchError


def expect(name, value, valid: bool, expected: str) -> None:
    """Refuse a value that is not valid."""
    if not valid:
        raise SearchError(f"{name} is {value!r} ({type(value).__name__}); expected {expected}")


def is_in(value, low, high, *, low_open=False, high_open=False) -> bool:
    """Whether it is a finite number in that interval."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    return above and below and math.isfinite(value)


def dimension(name, value, **options):
    """`parse_dimension`, whose errors say the name."""
    try:
        return parse_dimension(value, **options)
    except SearchError as error:
        raise SearchError(f"{name}: {error}") from None


def unknown_keys(table: str, given: set[str], known) -> None:
    """Refuse keys that a table does not have; table "" is the whole file."""
    unknown = sorted(given - set(known))
    if not unknown:
        return
    where = f"[{table}]" if table else "the file"
    hints = []
    for key in unknown:
        near = difflib.get_close_matches(key, list(known), n=1)
        hints.append(f"{key!r}" + (f" (did you mean {near[0]!r}?)" if near else ""))
    raise SearchError(f"{where} has no {', '.join(hints)}; it may have {', '.join(known)}")
