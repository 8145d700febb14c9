"""Configurations that are functions of the seed and the trial's number alone: random, grid, Sobol.

Any trial can be had at any time, without those before it. Samplers that learn from earlier trials are in
`hpo.adaptive`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

from hpo.conditions import Parameter
from hpo.config import ADAPTIVE_SAMPLERS
from hpo.dimensions import Choices, Range
from hpo.errors import SearchError
from hpo.space import Space

_FEISTEL_ROUNDS = 8
_MAX_SOBOL_BITS = 30  # of torch.quasirandom.SobolEngine: as many points as it can tell apart


class Sampler(Protocol):
    """`params(i)` are those of trial i. `size`: how many trials there are at most, None: no limit."""

    size: int | None

    def params(self, trial: int) -> dict[str, object]: ...


def sampler_of(space: Space) -> Sampler | None:
    """The sampler of a search; None: it is adaptive.

    Raises
    ------
    SearchError
        The space is none that it can sample, or it has fewer configurations than trials are asked for.
    """
    search = space.config.search
    if search.sampler in ADAPTIVE_SAMPLERS:
        return None
    sampler = {"random": Random, "grid": Grid, "sobol": Sobol}[search.sampler](space)
    if sampler.size is not None and search.trials > sampler.size:
        raise SearchError(
            f"the {search.sampler} has {sampler.size} configurations, and trials is {search.trials}; give trials = "
            f"{sampler.size} for all of them, or fewer for a part in random order"
        )
    return sampler


class Random:
    """Independent draws."""

    size = None

    def __init__(self, space: Space):
        self.params = space.draw


class Grid:
    """Every combination of values once, in an order shuffled by the seed.

    Only parameters that a configuration has count: with one layer there is no second width. The combinations are
    numbered by mixed radix (a value's place has as many numbers as there are ways to go on from it), so that any can
    be had without listing all.

    Raises
    ------
    SearchError
        A range of real numbers has no `step`.
    """

    def __init__(self, space: Space):
        self._space, self._parameters = space, space.parameters()
        self._values = {p.name: values_of(p) for p in self._parameters}
        # what later parameters depend on: combinations that agree in it go on in as many ways
        parents = [set(p.when) for p in self._parameters]
        self._matters = [set().union(*parents[k:]) for k in range(len(parents) + 1)]
        self._known: dict[tuple, int] = {}
        self.size = self._ways(0, {})
        self._order = Permutation(self.size, space.seed)

    def params(self, trial: int) -> dict[str, object]:
        place, params = self._order(trial), {}
        for k, parameter in enumerate(self._parameters):
            if not parameter.is_active(params):
                continue
            for value in self._values[parameter.name]:
                ways = self._ways(k + 1, params | {parameter.name: value})
                if place < ways:
                    params[parameter.name] = value
                    break
                place -= ways
        return self._space.assemble(lambda p: params[p.name])

    def _ways(self, k: int, params: dict) -> int:
        """Combinations of the parameters from number k on, given those before it."""
        if k == len(self._parameters):
            return 1
        key = (k, *((n, params[n]) for n in sorted(self._matters[k] & params.keys())))
        if key not in self._known:
            parameter = self._parameters[k]
            if not parameter.is_active(params):
                ways = self._ways(k + 1, params)
            elif parameter.name not in self._matters[k + 1]:
                ways = len(self._values[parameter.name]) * self._ways(k + 1, params)
            else:
                ways = sum(self._ways(k + 1, params | {parameter.name: v}) for v in self._values[parameter.name])
            self._known[key] = ways
        return self._known[key]


def values_of(parameter: Parameter) -> tuple:
    """Every value of a parameter.

    Raises
    ------
    SearchError
        There is no end of them.
    """
    dimension = parameter.dimension
    if isinstance(dimension, Choices):
        return dimension.values
    if not (dimension.is_integer or dimension.step is not None or dimension.low == dimension.high):
        raise SearchError(
            f"sampler 'grid' needs a finite number of values, and {parameter.name} is a range of real numbers from "
            f"{dimension.low} to {dimension.high}; list its values, or give the range a step"
        )
    if dimension.low == dimension.high:
        return (dimension.low,)
    step = dimension.step if dimension.step is not None else 1
    values = (dimension.low + k * step for k in range(round((dimension.high - dimension.low) / step) + 1))
    return tuple(v if dimension.is_integer else float(min(v, dimension.high)) for v in values)


class Permutation:
    """A shuffled order of the whole numbers below `size`, however large: a Feistel network that walks on until it is
    back below `size` (Black & Rogaway 2002, doi:10.1007/3-540-45760-7_9)."""

    def __init__(self, size: int, seed: int):
        self.size, self._key = size, seed.to_bytes(8, "little")
        self._bits = max(1, math.ceil(max(size - 1, 1).bit_length() / 2))
        self._bytes = -(-self._bits // 8)

    def __call__(self, k: int) -> int:
        assert 0 <= k < self.size
        while True:
            k = self._encrypt(k)
            if k < self.size:
                return k

    def _encrypt(self, k: int) -> int:
        mask = (1 << self._bits) - 1
        left, right = k >> self._bits, k & mask
        for number in range(_FEISTEL_ROUNDS):
            text = right.to_bytes(self._bytes, "little")
            digest = hashlib.blake2b(text, key=self._key, salt=bytes([number]), digest_size=self._bytes).digest()
            left, right = right, left ^ (int.from_bytes(digest, "little") & mask)
        return left << self._bits | right


class Sobol:
    """Scrambled Sobol points (Sobol 1967; Owen's scrambling as in torch.quasirandom), which fill the space evenly.

    Every parameter that may occur has a coordinate of its own; those that a configuration does not have are left out.
    """

    size = 1 << _MAX_SOBOL_BITS

    def __init__(self, space: Space):
        self._space = space
        self._place = {p.name: k for k, p in enumerate(space.parameters())}

    @cached_property
    def _engine(self):
        from torch.quasirandom import SobolEngine  # imports take a while, and hpo.status needs none

        # the engine's seed has 32 bits in some versions of PyTorch
        return SobolEngine(max(1, len(self._place)), scramble=True, seed=self._space.seed & 0x7FFFFFFF)

    def point(self, trial: int) -> list[float]:
        """Coordinates of a point, each from 0 to below 1: direction numbers, one for each bit of the Gray code."""
        gray, bits = trial ^ trial >> 1, self._engine.shift.clone()
        for k in range(gray.bit_length()):
            if gray >> k & 1:
                bits ^= self._engine.sobolstate[:, k]
        return [b / self.size for b in bits.tolist()]

    def params(self, trial: int) -> dict[str, object]:
        point = self.point(trial)
        return self._space.assemble(lambda p: value_at(p.dimension, point[self._place[p.name]]))


def value_at(dimension: Choices | Range, u: float):
    """Value below which a part `u` (0 to 1) of the dimension lies, as `draw` weighs it."""
    if isinstance(dimension, Choices):
        return dimension.values[min(int(u * len(dimension.values)), len(dimension.values) - 1)]
    low, high, step = dimension.low, dimension.high, dimension.step
    if step is not None or (dimension.is_integer and not dimension.log):
        step = step if step is not None else 1
        count = round((high - low) / step) + 1
        value = low + step * min(int(u * count), count - 1)
        return value if dimension.is_integer else float(min(value, high))
    scale: tuple[Callable, Callable] = (math.log, math.exp) if dimension.log else (float, float)
    half = 0.5 if dimension.is_integer else 0.0  # every whole number owns the half unit around it
    first, last = scale[0](low - half), scale[0](high + half)
    value = scale[1](first + u * (last - first))
    return min(max(round(value) if dimension.is_integer else value, low), high)
