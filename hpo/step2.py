"""Step 2: the promoted trials on all the data, in what order."""

from __future__ import annotations

from collections.abc import Iterable

from hpo.promotion import Promotion, promote
from hpo.trial import StudyContext, Task

__all__ = ["Promotion", "promote", "tasks"]


def tasks(context: StudyContext, promotions: list[Promotion], finished: Iterable[int]) -> list[Task]:
    """Retrainings still to run, most arithmetic first: a large one started last would keep all others waiting."""
    space, done = context.space, set(finished)
    todo = [
        Task(
            step=2,
            trial=p.trial,
            flop=context.flop(space, p.trial, 2),
            extra={"promoted": p.promoted, "step1_mse": p.step1_mse, "step1_rank": p.step1_rank},
        )
        for p in promotions
        if p.trial not in done
    ]
    return sorted(todo, key=lambda t: (-t.flop, t.trial))
