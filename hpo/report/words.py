"""Numbers as the report's sentences write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

TIMES, MINUS = "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"


def count(n: int, noun: str, plural: str | None = None) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {plural or noun + 's'}"


def number(value: float) -> str:
    """Three significant digits."""
    if value == 0.0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def percent(part: float) -> str:
    """12 %, 1.2 %, 0.12 %."""
    value = 100.0 * part
    return f"{value:.2g} %" if value < 10.0 else f"{value:.0f} %"


def listed(items: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def superscript(exponent: int) -> str:
    return str(exponent).translate(_SUPERSCRIPT)


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def typeset(text: str) -> str:
    """2.19×10⁻⁵ for 2.19e-5, and a true minus sign, as figures have them."""
    text = re.sub(r"(?<![\w.])(-?[\d.]+)e(-?\d+)\b", lambda m: f"{m[1]}{TIMES}10{superscript(int(m[2]))}", text)
    return re.sub(r"(?<![\w.])-(?=\d)", MINUS, text)


def unit(units: str) -> str:
    """` cm s⁻¹` for `cm s-1`, to stand behind a number; nothing for a pure number."""
    if units in ("", "1"):
        return ""
    return " " + re.sub(r"(?<=[A-Za-z])(?:\^|(?=-))(-?\d+)\b", lambda m: superscript(int(m[1])), units)


def units_label(units: str) -> str:
    return f" [{unit(units)[1:]}]" if unit(units) else ""
