"""What a network's outputs have to obey, made part of the exported graph: bounds, and an order among outputs.

Every runtime applies the same operations. NaN stays NaN.

Axis legend: N samples, O outputs.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from emulator.variables import Column, column_index, column_indices

_TOO_MANY = "join them: 'a <= b <= c'"


@dataclass(frozen=True, kw_only=True)
class OutputConstraints:
    """Order first, then bounds.

    Attributes
    ----------
    lower, upper : tuple of float, (O,)
        Outputs beyond are moved to the bound; -inf and inf: none.
    chains : tuple of tuple of int
        Positions of outputs that must not decrease from one to the next: a later one that is below is raised to the
        one before it. The outputs concerned are rounded to the precision of the layers (float32) first, so that the
        order holds to the bit.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    chains: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def parse(
        cls, bounds: Sequence[str], orders: Sequence[str], columns: Sequence[Column]
    ) -> OutputConstraints | None:
        """From texts such as `fn=0:1` (`fn=0:`, `fn[2]=:1`) and `cloud_low <= cloud_mid <= cloud_high`; None if none.

        Raises
        ------
        ValueError
            A text is not understood, names no output, or contradicts another one.
        """
        lower, upper = [-math.inf] * len(columns), [math.inf] * len(columns)
        bounded: set[int] = set()
        for text in bounds:
            positions, low, high = _parse_bounds(text, columns)
            twice = [columns[k].name for k in positions if k in bounded]
            if twice:
                raise ValueError(f"bounds {text!r}: {', '.join(twice)} has bounds already")
            bounded.update(positions)
            for k in positions:
                lower[k], upper[k] = low, high
        chains = tuple(_parse_order(text, columns) for text in orders)
        for k in {k for k in itertools.chain(*chains) if sum(chain.count(k) for chain in chains) > 1}:
            raise ValueError(f"{columns[k].name} stands in two orders; {_TOO_MANY}")
        for a, b in itertools.chain(*(itertools.pairwise(chain) for chain in chains)):
            if lower[a] > lower[b] or upper[a] > upper[b]:
                raise ValueError(
                    f"{columns[a].name} <= {columns[b].name} contradicts their bounds: {lower[a]:g}:{upper[a]:g} and "
                    f"{lower[b]:g}:{upper[b]:g}; neither bound may decrease along an order"
                )
        return cls(lower=tuple(lower), upper=tuple(upper), chains=chains) if bounded or chains else None

    def to_dict(self) -> dict:
        return {"lower": list(self.lower), "upper": list(self.upper), "chains": [list(chain) for chain in self.chains]}

    @classmethod
    def from_dict(cls, data: dict) -> OutputConstraints:
        chains = tuple(tuple(chain) for chain in data["chains"])
        return cls(lower=tuple(data["lower"]), upper=tuple(data["upper"]), chains=chains)

    def to_json(self, columns: Sequence[Column]) -> str:
        """As the model file records it: `{"bounds": {"fn_1": [0.0, 1.0]}, "order": [["a", "b"]]}`, null: no bound."""
        ends = zip(columns, self.lower, self.upper, strict=True)
        bounds = {
            c.name: [low if math.isfinite(low) else None, high if math.isfinite(high) else None]
            for c, low, high in ends
            if math.isfinite(low) or math.isfinite(high)
        }
        return json.dumps({"bounds": bounds, "order": [[columns[k].name for k in chain] for chain in self.chains]})

    def module(self, dtype: torch.dtype) -> nn.Module:
        """The constraints on (N, O) float64 tensors; an order is kept in `dtype`."""
        return _Constrain(self, dtype)


class _Constrain(nn.Module):
    def __init__(self, constraints: OutputConstraints, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype
        self.chains = [list(chain) for chain in constraints.chains]
        for name in ("lower", "upper"):
            self.register_buffer(name, torch.tensor(getattr(constraints, name), dtype=torch.float64))

    def forward(self, y_NO: torch.Tensor) -> torch.Tensor:
        if self.chains:
            columns = list(y_NO.unbind(1))
            for chain in self.chains:
                before = columns[chain[0]].to(self.dtype)
                columns[chain[0]] = before.to(torch.float64)
                for k in chain[1:]:
                    step = columns[k].to(self.dtype) - before
                    before = before + torch.where(step < 0, torch.zeros_like(step), step)
                    columns[k] = before.to(torch.float64)
            y_NO = torch.stack(columns, 1)
        y_NO = torch.where(y_NO < self.lower, self.lower, y_NO)
        return torch.where(y_NO > self.upper, self.upper, y_NO)


def _parse_bounds(text: str, columns: Sequence[Column]) -> tuple[list[int], float, float]:
    name, equals, ends = text.partition("=")
    low, colon, high = ends.partition(":")
    try:
        if not (equals and colon and (low.strip() or high.strip())):
            raise ValueError
        lower, upper = float(low) if low.strip() else -math.inf, float(high) if high.strip() else math.inf
    except ValueError:
        raise ValueError(f"bounds {text!r}: expected NAME=LOW:HIGH, for instance fn=0:1, fn=0: or fn[2]=:1") from None
    if not lower <= upper or math.inf in (lower, -upper):
        raise ValueError(f"bounds {text!r}: expected a lower bound that is not above the upper one")
    try:
        return column_indices(name, columns), lower, upper
    except ValueError as error:
        raise ValueError(f"bounds {text!r}: among the outputs {error}") from None


def _parse_order(text: str, columns: Sequence[Column]) -> tuple[int, ...]:
    try:
        chain = tuple(column_index(name, columns) for name in text.split("<="))
    except ValueError as error:
        raise ValueError(f"order {text!r}: among the outputs {error}") from None
    if len(chain) < 2:
        raise ValueError(f"order {text!r}: expected at least two outputs, for instance 'a <= b'")
    units = {columns[k].units for k in chain}
    if len(units) > 1:
        raise ValueError(f"order {text!r}: the outputs have different units ({', '.join(sorted(units))})")
    return chain
