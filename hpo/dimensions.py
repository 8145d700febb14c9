"""What a hyperparameter may be: one of several choices, or a number in a range."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hpo.errors import SearchError

RANGE_KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True, kw_only=True)
class Choices:
    """One of `values`, all equally likely.

    `when` says for which values of other hyperparameters this one is there at all, by name; all of them must hold.
    """

    values: tuple
    when: Mapping[str, Choices | Range] = field(default_factory=dict)

    def __post_init__(self):
        object.__setattr__(self, "values", tuple(self.values))
        if not self.values:
            raise SearchError("an empty list has nothing to choose from; name at least one value")
        if len(set(self.values)) != len(self.values):
            raise SearchError(f"{list(self.values)} names a value twice; expected different values")

    def draw(self, rng: np.random.Generator):
        return self.values[int(rng.integers(len(self.values)))]

    def contains(self, value) -> bool:
        return value in self.values

    def samples(self) -> tuple:
        """Values that must all be valid for the dimension to be valid."""
        return self.values

    def distribution(self):
        """The same as an Optuna distribution."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)

    def to_plain(self):
        """As it stands in a config file."""
        if self.when:
            return {"choices": list(self.values), "when": _plain_conditions(self.when)}
        return list(self.values) if len(self.values) != 2 else {"choices": list(self.values)}


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number from `low` to `high`, both included; whole if both are.

    Attributes
    ----------
    low, high : int or float
    log : bool
        Uniform in the logarithm.
    step : int, float or None
        Only `low + k step`; 1 for whole numbers unless given. Excludes `log`.
    when : mapping of str to Choices or Range
        As in `Choices`.
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None
    when: Mapping[str, Choices | Range] = field(default_factory=dict)

    def __post_init__(self):
        for key in ("low", "high"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise SearchError(f"range {key} is {value!r}; expected a finite number")
        if not isinstance(self.log, bool):
            raise SearchError(f"range log is {self.log!r}; expected true or false")
        if not self.low <= self.high:
            raise SearchError(f"range low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            raise SearchError(f"range low is {self.low}; a logarithmic range starts above 0")
        if self.step is None:
            return
        if isinstance(self.step, bool) or not isinstance(self.step, (int, float)) or not self.step > 0:
            raise SearchError(f"range step is {self.step!r}; expected a positive number")
        if self.log:
            raise SearchError("a range has either log or step, not both")
        if self.is_integer and not isinstance(self.step, int):
            raise SearchError(f"range step is {self.step}; a range of whole numbers needs a whole step")
        intervals = (self.high - self.low) / self.step
        if abs(intervals - round(intervals)) > 1e-9 * max(1.0, intervals):
            raise SearchError(f"range {self.low} to {self.high} is not a whole number of steps of {self.step}")

    @property
    def is_integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, rng: np.random.Generator):
        if self.step is not None or (self.is_integer and not self.log):
            step = self.step if self.step is not None else 1
            value = self.low + step * int(rng.integers(round((self.high - self.low) / step) + 1))
            return value if self.is_integer else float(min(value, self.high))
        if self.is_integer:  # as Optuna does: every whole number owns the half unit around it
            value = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
            return min(max(round(value), self.low), self.high)
        if self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return float(min(max(value, self.low), self.high))

    def contains(self, value) -> bool:
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def samples(self) -> tuple:
        return (self.low, self.high)

    def distribution(self):
        """The same as an Optuna distribution."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.is_integer:
            return IntDistribution(self.low, self.high, log=self.log, step=self.step or 1)
        return FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def to_plain(self):
        plain = {"low": self.low, "high": self.high}
        if self.log:
            plain["log"] = True
        if self.step is not None:
            plain["step"] = self.step
        if self.when:
            plain["when"] = _plain_conditions(self.when)
        return plain


def parse_dimension(value, *, numeric: bool, refuse_pair: bool = False):
    """A TOML value as a fixed value, `Choices` (a list, or {choices = [...]}) or `Range` (a table).

    Either table may hold `when`, a table of conditions: see `parse_condition`. With `refuse_pair`, a list of two whole
    numbers that are not neighbours is refused, since it could mean two choices or a range: `{low = 1, high = 8}` and
    `{choices = [1, 8]}` say which.

    Raises
    ------
    SearchError
        Not one of these forms.
    """
    if isinstance(value, (Choices, Range)):
        return value
    if isinstance(value, list):
        if refuse_pair and len(value) == 2 and all(type(v) is int for v in value) and value[1] - value[0] > 1:
            low, high = value
            raise SearchError(
                f"{value} could be a range or two choices; write {{low = {low}, high = {high}}} or "
                f"{{choices = [{low}, {high}]}}"
            )
        return Choices(values=tuple(value))
    if isinstance(value, dict):
        table = dict(value)
        when = _conditions(table.pop("when", {}))
        if set(table) == {"choices"} and isinstance(table["choices"], list):
            return Choices(values=tuple(table["choices"]), when=when)
        if not numeric:
            raise SearchError(
                f"{value!r} is a table; expected a value, a list of values to choose from, or {{choices = [...], "
                "when = {...}}"
            )
        unknown = sorted(set(table) - set(RANGE_KEYS))
        if unknown or not {"low", "high"} <= set(table):
            raise SearchError(
                f"{value!r} is no range; expected {{low = ..., high = ...}}, optionally with log = true or step = ..., "
                "or {choices = [...]}; either may have when = {...}"
            )
        return Range(**table, when=when)
    return value


def _conditions(when) -> dict[str, Choices | Range]:
    if not isinstance(when, dict):
        raise SearchError(f'when is {when!r}; expected a table, as in when = {{optimizer = "sgd"}}')
    found = {}
    for name, value in when.items():
        try:
            found[name] = parse_condition(value)
        except SearchError as error:
            raise SearchError(f"when {name}: {error}") from None
    return found


def parse_condition(value) -> Choices | Range:
    """Values for which a condition holds: one value, a list, or {low = ..., high = ...}, both included."""
    if isinstance(value, dict):
        if set(value) != {"low", "high"}:
            raise SearchError(f"{value!r}; expected a value, a list of values or {{low = ..., high = ...}}")
        return Range(**value)
    return Choices(values=tuple(value) if isinstance(value, list) else (value,))


def _plain_conditions(when: Mapping[str, Choices | Range]) -> dict:
    return {
        name: {"low": c.low, "high": c.high} if isinstance(c, Range) else list(c.values) for name, c in when.items()
    }
