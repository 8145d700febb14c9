"""Conditions between hyperparameters: one that is only there for some values of others."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hpo.dimensions import Choices, Range
from hpo.errors import SearchError

# How a condition may also name a hyperparameter.
_ALIASES = {"depth": "num_hidden"}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A hyperparameter that is searched.

    Attributes
    ----------
    name : str
        As in a trial's parameters.
    dimension : Choices or Range
    when : mapping of str to Choices or Range
        Values of other parameters for which it is there, all of them; a parameter that is not there has no value.
    """

    name: str
    dimension: Choices | Range
    when: Mapping[str, Choices | Range] = field(default_factory=dict)

    def is_active(self, params: Mapping[str, object]) -> bool:
        """Whether a trial with these parameters, drawn before it, has it too."""
        return all(name in params and allowed.contains(params[name]) for name, allowed in self.when.items())


def possible(value) -> tuple:
    """Values of a setting, fixed or searched; of a range, both ends."""
    return value.samples() if isinstance(value, (Choices, Range)) else (value,)


def conditions_of(value) -> dict[str, Choices | Range]:
    """Conditions of a setting, fixed or searched, by the name of the parameter."""
    return {_ALIASES.get(name, name): allowed for name, allowed in getattr(value, "when", {}).items()}


def resolved(parameters: Iterable[Parameter], fixed: Mapping[str, object]) -> list[Parameter]:
    """The same in an order in which conditions come after what they name, without conditions on what is fixed.

    Parameters that such a condition rules out, or one that never holds, are left out, and those that depend on them;
    else the order is kept.
    """
    waiting, done, settled, gone = list(parameters), [], set(fixed), set()
    dimensions = {p.name: p.dimension for p in waiting}
    while waiting:
        ready = (k for k, p in enumerate(waiting) if settled.issuperset(p.when))
        parameter = waiting.pop(next(ready))  # there is one: check_conditions refuses circles
        settled.add(parameter.name)
        if not gone.isdisjoint(parameter.when) or not all(
            allowed.contains(fixed[name]) if name in fixed else _can_hold(allowed, dimensions[name])
            for name, allowed in parameter.when.items()
        ):
            gone.add(parameter.name)
            continue
        when = {name: allowed for name, allowed in parameter.when.items() if name not in fixed}
        done.append(Parameter(name=parameter.name, dimension=parameter.dimension, when=when))
    return done


def _can_hold(allowed: Choices | Range, dimension: Choices | Range) -> bool:
    if isinstance(dimension, Choices):
        return any(allowed.contains(v) for v in dimension.values)
    if isinstance(allowed, Choices):
        return any(dimension.contains(v) for v in allowed.values)
    return allowed.low <= dimension.high and dimension.low <= allowed.high


def check_conditions(settings: Mapping[str, object], check_value: Callable[[str, object], None]) -> None:
    """Refuse conditions that name nothing, can never hold, or go in a circle.

    Parameters
    ----------
    settings : mapping
        Fixed value, Choices or Range of every hyperparameter, by name.
    check_value : function
        Raises SearchError for a name and a value that it can never have.

    Raises
    ------
    SearchError
    """
    conditions = {name: conditions_of(value) for name, value in settings.items()}
    for name, when in conditions.items():
        for parent, allowed in when.items():
            if parent not in settings:
                near = difflib.get_close_matches(parent, list(settings), n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise SearchError(
                    f"{name}: when names {parent!r}, which is no hyperparameter{hint}; expected one of "
                    f"{', '.join(settings)}"
                )
            try:
                for value in allowed.values if isinstance(allowed, Choices) else ():
                    check_value(parent, value)
            except SearchError as error:
                raise SearchError(f"{name}: when: {error}") from None
            _check_condition(name, parent, allowed, settings[parent])
    for name in conditions:
        _check_no_circle(name, conditions, ())


def _check_condition(name: str, parent: str, allowed: Choices | Range, value) -> None:
    """Whether a condition can hold. One on a fixed value may fail: that value is then changed without touching it."""
    if isinstance(allowed, Range):
        ends = possible(value)
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in ends)
        if isinstance(value, Range):
            met = allowed.low <= value.high and value.low <= allowed.high
        else:
            met = numbers and (not isinstance(value, Choices) or any(allowed.contains(v) for v in ends))
        wrong = [] if met else [f"{allowed.low} to {allowed.high}"]
    elif isinstance(value, (Choices, Range)):
        wrong = [repr(v) for v in allowed.values if not value.contains(v)]
    else:
        wrong = []
    if wrong:
        found = value.to_plain() if isinstance(value, Range) else list(possible(value))
        raise SearchError(f"{name}: when wants {parent} = {', '.join(wrong)}, which it never is: it is from {found}")


def _check_no_circle(name: str, conditions: Mapping[str, Mapping], path: tuple[str, ...]) -> None:
    if name in path:
        circle = " -> ".join((*path[path.index(name) :], name))
        raise SearchError(f"conditions go in a circle: {circle}; leave one when out")
    for parent in conditions[name]:
        _check_no_circle(parent, conditions, (*path, name))
