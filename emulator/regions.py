"""Conditions on named columns, as text: `tair < 260 and (wbar < 20 or not 800 <= pressure)`.

Axis legend: N samples, C columns.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence

import numpy as np

from emulator.variables import Column, column_index

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<compare><=|>=|==|!=|<|>)|(?P<bracket>[()])"
    r"|(?P<name>[^\W\d]\w*(?:\[\d+\])?)|'(?P<quoted>[^']*)')"
)
_COMPARE: dict[str, Callable] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
_MOST_NESTED = 50

Condition = Callable[[np.ndarray], np.ndarray]
Operand = Callable[[np.ndarray], np.ndarray | float]


class Region:
    """The samples that satisfy a condition.

    Parameters
    ----------
    text : str
        Comparisons (`<  <=  >  >=  ==  !=`, also in a chain: `230 < tair <= 260`) of names and numbers, joined by
        `and`, `or`, `not` and parentheses. A name is that of a column (`num_aer_2`), `num_aer[2]` for the second column
        of a variable, or in single quotes if it has other characters ('wind speed'). Nothing else is understood, and
        nothing is executed.
    columns : (C,) sequence of Column

    Raises
    ------
    ValueError
        The text is no condition, or names something that is no column; the message points at the place.
    """

    def __init__(self, text: str, columns: Sequence[Column]):
        self.text = " ".join(text.split())
        self._columns = columns
        self._tokens = list(_tokens(text))
        self._at = 0
        self._nested = 0
        self._holds = self._any()
        if self._kind != "end":
            self._wrong("'and', 'or' or the end")

    def mask(self, x_NC: np.ndarray) -> np.ndarray:
        """Which samples (N, C) are inside, (N,) bool."""
        return np.broadcast_to(self._holds(x_NC), (len(x_NC),))

    # -- any: all ("or" all)*;  all: one ("and" one)*;  one: "not" one | "(" any ")" | a < b ... ---------------------

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._take("name", "or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else lambda x: np.logical_or.reduce([p(x) for p in parts])

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._take("name", "and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda x: np.logical_and.reduce([p(x) for p in parts])

    def _one(self) -> Condition:
        self._nested += 1
        if self._nested > _MOST_NESTED:
            raise ValueError(f"condition {self.text!r}: nested more than {_MOST_NESTED} times")
        if self._take("name", "not"):
            negated = self._one()
            found: Condition = lambda x: np.logical_not(negated(x))  # noqa: E731
        elif self._take("bracket", "("):
            found = self._any()
            if not self._take("bracket", ")"):
                self._wrong("')'")
        else:
            found = self._comparison()
        self._nested -= 1
        return found

    def _comparison(self) -> Condition:
        operands, compares = [self._operand()], []
        while self._kind == "compare":
            compares.append(_COMPARE[self._next()])
            operands.append(self._operand())
        if not compares:
            self._wrong("a comparison (<, <=, >, >=, ==, !=)")
        return lambda x: np.logical_and.reduce(
            [compare(operands[k](x), operands[k + 1](x)) for k, compare in enumerate(compares)]
        )

    def _operand(self) -> Operand:
        if self._kind == "number":
            number = float(self._next())
            return lambda x: number
        if self._kind not in ("name", "quoted") or self._word in ("and", "or", "not"):
            self._wrong("a name or a number")
        name = self._next()
        try:
            column = column_index(name, self._columns)
        except ValueError as error:
            raise ValueError(f"condition {self.text!r}: {error}") from None
        return lambda x: x[:, column]

    # -- tokens -----------------------------------------------------------------------------------------------------

    @property
    def _kind(self) -> str:
        return self._tokens[self._at][0]

    @property
    def _word(self) -> str:
        kind, word, _ = self._tokens[self._at]
        return word if kind != "quoted" else ""

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _take(self, kind: str, word: str) -> bool:
        if (self._kind, self._word) != (kind, word):
            return False
        self._at += 1
        return True

    def _wrong(self, expected: str):
        kind, word, place = self._tokens[self._at]
        found = "the end" if kind == "end" else repr(word)
        hint = ""
        if kind == "name" and word not in ("and", "or", "not"):
            near = difflib.get_close_matches(word.lower(), ("and", "or", "not"), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"condition {self.text!r}: found {found} at character {place + 1}, expected {expected}{hint}")


def _tokens(text: str):
    place = 0
    while text[place:].strip():
        match = _TOKEN.match(text, place)
        if match is None:
            at = place + len(text[place:]) - len(text[place:].lstrip())
            raise ValueError(
                f"condition {text!r}: {text[at]!r} at character {at + 1} is not understood; write comparisons such as "
                "'tair < 260 and wbar < 20'"
            )
        kind = match.lastgroup
        yield kind, match[kind], match.start(kind)
        place = match.end()
    yield "end", "", len(text)
