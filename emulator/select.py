"""Choosing one network of a study: validation error against measured latency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

RULES = ("best", "lightest", "fastest", "knee")
# Latencies this close are one: repeated measurements of the same network differ by about as much.
LATENCY_TIE = 0.03


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One retrained network.

    Attributes
    ----------
    trial : int
    error : float
        Validation MSE after retraining.
    latency_ns : float
        Measured nanoseconds per sample, at the batch size that the choice is made for.
    num_parameters : int
    hidden : tuple of int
    model : str
        Path of its bundle, relative to the study.
    measures : mapping of str to float
        What else limits may be set on, by name.
    """

    trial: int
    error: float
    latency_ns: float
    num_parameters: int
    hidden: tuple[int, ...] = ()
    model: str = ""
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Limit:
    """Only candidates whose measure of that name is at most so large; NaN never is."""

    name: str
    at_most: float

    def __str__(self) -> str:
        return f"{self.name} of at most {self.at_most:g}"


@dataclass(frozen=True, kw_only=True)
class Choice:
    candidate: Candidate
    reason: str
    cut: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Trials that each limit rules out, by the limit in words; limits that rule out none are left out."""
    front: tuple[int, ...] = field(default=())
    """Trials on the Pareto front of error and latency, fastest first."""


def pick(
    candidates: Sequence[Candidate],
    rule: str,
    *,
    tolerance: float = 1.0,
    max_latency_ns: float = math.inf,
    max_error: float = math.inf,
    limits: Sequence[Limit] = (),
) -> Choice:
    """Choose a network.

    Parameters
    ----------
    candidates : sequence of Candidate
    rule : str
        `best`: least error. `lightest`: least latency among those whose error is at most (1 + tolerance) times
        the best error; latencies within 3 % are a tie, which the smaller number of parameters decides, then the
        error. `fastest`: least latency of all (ties as before). `knee`: the point of the Pareto front farthest
        from the straight line between its ends, both axes logarithmic and scaled to the front (as Satopaa et
        al. 2011, doi:10.1109/ICDCSW.2011.20). `trial:N`: that trial.
    tolerance : float
        For `lightest`.
    max_latency_ns, max_error : float
        Only candidates within both are considered; `trial:N` is refused outside them.
    limits : sequence of Limit
        The same for other measures of the candidates. What the limits rule out is told with the reason.

    Raises
    ------
    ValueError
        Unknown rule or trial, no candidates, or none within the limits.
    """
    if not candidates:
        raise ValueError("there is no retrained network to choose from; run step 2 first")
    if tolerance < 0 or math.isnan(tolerance):
        raise ValueError(f"tolerance is {tolerance}; expected 0 or more")
    cut = _cut(candidates, max_latency_ns, max_error, limits)
    out = set().union(*cut.values())
    allowed = [c for c in candidates if c.trial not in out]
    if not allowed:
        raise ValueError(_none_within(candidates, max_latency_ns, max_error, limits))
    front = pareto_front(allowed)
    best = min(allowed, key=lambda c: (c.error, c.latency_ns))
    if rule == "best":
        chosen, reason = best, f"least validation error of {len(allowed)}"
    elif rule == "lightest":
        limit = (1.0 + tolerance) * best.error
        near = [c for c in allowed if c.error <= limit]
        chosen = _least_latency(near)
        reason = (
            f"least latency among the {len(near)} with an error of at most {limit:.3g}, "
            f"{1.0 + tolerance:g} times the best ({best.error:.3g}, trial {best.trial})"
        )
    elif rule == "fastest":
        chosen, reason = _least_latency(allowed), f"least latency of {len(allowed)}"
    elif rule == "knee":
        chosen = _knee(front)
        reason = f"farthest from the line between the ends of the Pareto front ({len(front)} networks)"
    elif rule.startswith("trial:"):
        chosen, reason = _by_number(rule, candidates, allowed), "asked for by number"
    else:
        raise ValueError(f"rule {rule!r} is unknown; expected one of {', '.join(RULES)} or trial:N")
    if cut:
        told = (f"{text}: {'trial' if len(t) == 1 else 'trials'} {', '.join(map(str, t))}" for text, t in cut.items())
        reason += f"; ruled out by a {'; by a '.join(told)}"
    return Choice(candidate=chosen, reason=reason, cut=cut, front=tuple(c.trial for c in front))


def _cut(candidates, max_latency_ns: float, max_error: float, limits: Sequence[Limit]) -> dict[str, tuple[int, ...]]:
    tests = {
        f"latency of at most {max_latency_ns:g} ns": lambda c: c.latency_ns <= max_latency_ns,
        f"validation MSE of at most {max_error:g}": lambda c: c.error <= max_error,
    } | {str(limit): lambda c, limit=limit: c.measures[limit.name] <= limit.at_most for limit in limits}
    found = {text: tuple(sorted(c.trial for c in candidates if not good(c))) for text, good in tests.items()}
    return {text: trials for text, trials in found.items() if trials}


def _none_within(candidates, max_latency_ns: float, max_error: float, limits: Sequence[Limit]) -> str:
    """What was asked for, and how near to it each network by itself comes."""
    fastest = min(c.latency_ns for c in candidates)
    best = min(c.error for c in candidates)
    asked, found = [], []
    if max_latency_ns < math.inf:
        asked.append(f"a latency of at most {max_latency_ns:g} ns")
        found.append(f"the fastest takes {fastest:.4g} ns")
    if max_error < math.inf:
        asked.append(f"a validation MSE of at most {max_error:g}")
        found.append(f"the least validation MSE is {best:.4g}")
    asked += [f"a {x}" for x in limits]
    found += [f"the least {x.name} is {_least(candidates, x.name):.4g}" for x in limits]
    return f"none of {len(candidates)} networks has {' and '.join(asked)}; {', '.join(found)}: relax a limit"


def _least(candidates: Sequence[Candidate], name: str) -> float:
    return min((c.measures[name] for c in candidates if not math.isnan(c.measures[name])), default=math.nan)


def pareto_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that no other beats in both error and latency, fastest first."""
    front: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (c.latency_ns, c.error, c.trial)):
        if not front or c.error < front[-1].error:
            front.append(c)
    return front


def _least_latency(candidates: Sequence[Candidate]) -> Candidate:
    limit = (1.0 + LATENCY_TIE) * min(c.latency_ns for c in candidates)
    ties = [c for c in candidates if c.latency_ns <= limit]
    return min(ties, key=lambda c: (c.num_parameters, c.error, c.trial))


def _knee(front: Sequence[Candidate]) -> Candidate:
    if len(front) < 3:
        return front[-1]
    x = [math.log(c.latency_ns) for c in front]
    y = [math.log(c.error) for c in front]
    below = [
        1.0 - (x[k] - x[0]) / (x[-1] - x[0]) - (y[k] - y[-1]) / (y[0] - y[-1]) for k in range(len(front))
    ]
    return front[max(range(len(front)), key=below.__getitem__)]


def _by_number(rule: str, candidates: Sequence[Candidate], allowed: Sequence[Candidate]) -> Candidate:
    text = rule.removeprefix("trial:")
    by_trial = {str(c.trial): c for c in candidates}
    if text not in by_trial:
        have = ", ".join(sorted(by_trial, key=int))
        raise ValueError(f"trial {text!r} has no retrained network; those that have: {have}")
    if by_trial[text] not in allowed:
        c = by_trial[text]
        raise ValueError(f"trial {text} (error {c.error:.4g}, {c.latency_ns:.4g} ns) is outside the limits given")
    return by_trial[text]
