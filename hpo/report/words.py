"""Numbers as the report's sentences write them."""

from __future__ import annotations

from collections.abc import Sequence


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


def units_label(units: str) -> str:
    return f" [{units}]" if units not in ("", "1") else ""
