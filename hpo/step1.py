"""Step 1: many configurations on a small part of the data."""

from __future__ import annotations

from collections.abc import Iterable

from hpo.trial import StudyContext, Task

# The last so many trials per worker go largest first, so that no worker ends long after the others.
_BALANCED_TAIL = 8


def tasks(context: StudyContext, finished: Iterable[int], num_workers: int) -> list[Task]:
    """Trials still to run.

    They go in order of their number: what is finished after any time is then a fair draw from the space, and the
    Optuna study grows without gaps. Only the last few go largest first.
    """
    space = context.space
    missing = sorted(set(range(context.config.search.trials)) - set(finished))
    todo = [Task(step=1, trial=i, flop=context.flop(space, i, 1), extra={}) for i in missing]
    tail = min(len(todo), _BALANCED_TAIL * num_workers) if num_workers > 1 else 0
    split = len(todo) - tail
    return todo[:split] + sorted(todo[split:], key=lambda t: (-t.flop, t.trial))
