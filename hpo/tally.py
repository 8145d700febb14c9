"""Finished trials of a step or a rung, counted as their records come."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from hpo.latency_model import KEY

MOST_LATEST = 1_000
_NUM_BEST = 5


@dataclass(frozen=True, kw_only=True)
class Best:
    """A finished trial among the best of its step."""

    trial: int
    mse: float
    num_parameters: int
    hidden: tuple[int, ...]
    epochs: int
    latency_ns: float | None = None  # as the study's latency model has it

    @classmethod
    def of(cls, record: Mapping) -> Best:
        return cls(
            trial=record["trial"],
            mse=record["validation_mse"],
            num_parameters=record["num_parameters"],
            hidden=tuple(record["hidden"]),
            epochs=record["epochs"],
            latency_ns=record.get(KEY),
        )


@dataclass
class Done:
    """What is kept of a record: what a promotion needs, and what time it took."""

    record: dict
    flop: float
    used: float | None  # part of its epochs after which it was stopped
    finished: float
    seconds: float

    @property
    def failed(self) -> bool:
        return self.record["state"] == "failed"


class Tally:
    """Finished trials of a step, counted as they come, so that a look costs the same however many there are."""

    def __init__(self):
        self.done: dict[int, Done] = {}
        self.failed = self.pruned = 0
        self.errors: Counter[str] = Counter()
        self.best: list[Best] = []
        self.begun: float | None = None
        self.ended: float | None = None
        self._latest: list[tuple[float, int]] = []  # heap of (finished, trial)
        self._used = [0.0, 0]

    def add(self, d: Done) -> None:
        r = d.record
        self.done[r["trial"]] = d
        if d.failed:
            self.failed += 1
            self.errors[r["error"]] += 1
        elif r["state"] == "pruned":
            self.pruned += 1
        else:
            best = Best.of(r)
            if len(self.best) < _NUM_BEST or best.mse <= self.best[-1].mse:
                self.best = sorted([*self.best, best], key=lambda b: (b.mse, b.trial))[:_NUM_BEST]
        if not d.failed:
            self._used[0] += d.used
            self._used[1] += 1
        self.begun = min(d.finished - d.seconds, self.begun or math.inf)
        self.ended = max(d.finished, self.ended or 0.0)
        heapq.heappush(self._latest, (d.finished, r["trial"]))
        if len(self._latest) > MOST_LATEST:
            heapq.heappop(self._latest)

    def window(self, begin: float) -> tuple[float, list[Done]]:
        """Recent trials finished after `begin`, or after a later time since which all of them are known."""
        if len(self._latest) == MOST_LATEST:
            begin = max(begin, self._latest[0][0])
        return begin, [self.done[trial] for finished, trial in self._latest if finished > begin]

    def front(self) -> tuple[Best, ...]:
        """Complete trials that no other beats in error and lightness, lightest first."""
        from hpo.promotion import pareto_front

        records = (d.record for d in self.done.values())
        return tuple(Best.of(r) for r in pareto_front([r for r in records if r["state"] == "complete"]))

    @property
    def used(self) -> float:
        """Part of its epochs that a trial takes on average."""
        return self._used[0] / self._used[1] if self._used[1] and self._used[0] else 1.0
