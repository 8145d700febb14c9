"""A fixed list of trainings, each run once, by whoever works in their folder (a `hpo.source.Source`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hpo.members import Crew
from hpo.tail import FolderTail
from hpo.trial import Task


class Once:
    """Trainings of one step, resumable: what is recorded is not run again.

    Parameters
    ----------
    tasks : sequence of Task
        Of one step, in the order in which they are handed out.
    folder : path
        Of the records.
    crew : Crew
        This member; several may share the list.
    ended : function of a record
        Told of every training of ours that ends.
    """

    def __init__(self, tasks: Sequence[Task], folder: Path, crew: Crew, ended: Callable[[dict], None] = lambda r: None):
        self._tasks, self._leases, self._ended = list(tasks), crew.leases, ended
        self._tail = FolderTail(folder / f"step{tasks[0].step}", curves=False)
        self._tail.poll()
        self._finished = set(self._tail.trials)
        self._running: set[int] = set()

    def take(self, free: int) -> list[Task]:
        taken: list[Task] = []
        for task in self._tasks:
            if len(taken) == free:
                break
            trial = task.trial
            if trial in self._finished or trial in self._running:
                continue
            if not self._leases.take(f"step{task.step}-{trial}"):
                continue
            self._look()  # its last owner may have died with the record written
            if trial not in self._finished:
                self._running.add(trial)
                taken.append(task)
        return taken

    def record(self, record: dict) -> None:
        self._finished.add(record["trial"])
        self._ended(record)

    def lost(self, task: Task, reason: str) -> None:
        raise AssertionError("these trainings have no groups")

    def done(self) -> bool:
        self._look()
        return all(t.trial in self._finished for t in self._tasks)

    def _look(self) -> None:
        self._tail.poll()
        self._finished |= self._tail.trials
