"""Where a step's trials come from: what a pool of workers asks of it."""

from __future__ import annotations

from typing import Protocol

from hpo.trial import Task


class Source(Protocol):
    """The trials of one step, as one member of the search sees them.

    Members of a search share a step through the study folder alone. A source hands this member its part, and knows
    when the step is finished for all of them.
    """

    def take(self, free: int) -> list[Task]:
        """Up to `free` trials for workers that have nothing to do; none: nothing right now, ask again."""

    def record(self, record: dict) -> None:
        """A trial of ours is finished and on disk."""

    def lost(self, task: Task, reason: str) -> None:
        """A seat of ours in a group has ended without a result: its worker died, or another seat went away.

        A trial without a seat never comes here: it is tried once more and then recorded as failed.
        """

    def done(self) -> bool:
        """Whether every trial of the step is finished, whoever ran it. Cheap: looks at the disk once a second."""
