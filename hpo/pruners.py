"""Pruners: which trainings end early, as limits that a trial gets when it starts.

A limit (epoch, MSE) ends a training whose least validation MSE after that epoch is larger. Limits follow from the
trials that were finished then, so that they do not depend on what else is under way, and a search with a pruner can be
repeated. A trial that ended earlier for want of progress counts with its last error from then on; one that was pruned
counts up to its end; failed ones do not count.

- `median` (Golovin et al. 2017, doi:10.1145/3097983.3098043): the median of complete trials, after every epoch.
- `asha` (Li et al. 2018, arXiv:1810.05934), the variant that stops: rungs at `min_epochs` times powers of
  `reduction`, of whose trials the best one in `reduction` goes on.
- `hyperband` (Li et al. 2018, jmlr.org/papers/v18/16-558.html): several such ladders, each beginning a rung later;
  a trial's number says which is its own, so that each ladder has its share of all epochs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Protocol

from hpo.config import SearchSettings
from hpo.history import Finished

Limits = list[tuple[int, float]]


class Pruner(Protocol):
    def limits(self, trial: int, max_epochs: int, finished: Mapping[int, Finished]) -> Limits:
        """Limits of a trial that may train for `max_epochs`, given those that are finished."""


def pruner_of(search: SearchSettings, most_epochs: int) -> Pruner | None:
    """The pruner that the search asks for; `most_epochs`: of the longest training."""
    if search.pruner == "hyperband":
        return Hyperband(search, most_epochs)
    kinds = {"median": Median, "asha": Asha}
    return kinds[search.pruner](search) if search.pruner in kinds else None


def _least_after(epoch: int, finished: Iterable[Finished], *, complete: bool = False) -> list[float]:
    """Least MSE after an epoch of all trials that count there, in order."""
    found = []
    for f in finished:
        if f.state == "failed" or (complete and f.state != "complete"):
            continue
        if len(f.best) >= epoch:
            found.append(f.best[epoch - 1])
        elif f.state == "complete":
            found.append(f.best[-1])
    return sorted(found)


class Median:
    """The median of complete trials."""

    def __init__(self, search: SearchSettings):
        self._first, self._startup = search.min_epochs, search.startup

    def limits(self, trial: int, max_epochs: int, finished: Mapping[int, Finished]) -> Limits:
        found = []
        for epoch in range(self._first, max_epochs):
            errors = _least_after(epoch, finished.values(), complete=True)
            if len(errors) >= self._startup:
                found.append((epoch, statistics.median(errors)))
        return found


class Asha:
    """Asynchronous successive halving."""

    def __init__(self, search: SearchSettings):
        self._first, self._startup, self._reduction = search.min_epochs, search.startup, search.reduction

    def limits(self, trial: int, max_epochs: int, finished: Mapping[int, Finished]) -> Limits:
        return self._ladder(self._first, max_epochs, finished.values())

    def _ladder(self, first: int, max_epochs: int, finished: Iterable[Finished]) -> Limits:
        found, epoch, finished = [], first, list(finished)
        while epoch < max_epochs:
            errors = _least_after(epoch, finished)
            if len(errors) >= self._startup:  # with the trial itself they are one more
                found.append((epoch, errors[max(1, (len(errors) + 1) // self._reduction) - 1]))
            epoch *= self._reduction
        return found


class Hyperband(Asha):
    """Several ladders of successive halving; each compares its own trials only.

    There are as many as the longest training has rungs. Where `max_epochs` is searched, a trial's ladder is still that
    of its number, and it climbs as far as its own epochs reach.
    """

    def __init__(self, search: SearchSettings, most_epochs: int):
        super().__init__(search)
        rungs = max(0, int(math.log(most_epochs / self._first, self._reduction) + 1e-9))
        self._cycle = _cycle(rungs, self._reduction)

    def limits(self, trial: int, max_epochs: int, finished: Mapping[int, Finished]) -> Limits:
        ladder = self.ladder(trial)
        own = [f for t, f in finished.items() if self.ladder(t) == ladder]
        return self._ladder(self._first * self._reduction**ladder, max_epochs, own)

    def ladder(self, trial: int) -> int:
        """Which ladder a trial climbs: 0 begins at `min_epochs`, the last trains all to the end."""
        return self._cycle[trial % len(self._cycle)]


@cache
def _cycle(last: int, reduction: int) -> tuple[int, ...]:
    """Ladders of consecutive trials: as many of each as Hyperband begins, spread evenly."""
    begun = [math.ceil((last + 1) * reduction**s / (s + 1)) for s in range(last, -1, -1)]
    places = [((k + 0.5) / n, ladder) for ladder, n in enumerate(begun) for k in range(n)]
    return tuple(ladder for _, ladder in sorted(places))
