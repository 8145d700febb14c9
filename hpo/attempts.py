"""Trials that end the whole member that runs them (for want of memory, say): so that they are not tried for ever.

What a dead member had leased is suspect. Whoever takes such a trial up first leaves a note of it,
`OUT/attempts/step<s>-<trial>.<n>`, with its name and the time of the trial's checkpoint. A note whose member died, and
after which the trial came no further, is a death. From the first on a member runs such trials one at a time, so that
the blame falls on the right one; after three a trial is recorded as failed. Members that leave in good order cost a
trial nothing. Rungs (see `hpo.rungs`) keep notes of their own, in `OUT/rung<k>/attempts`.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from hpo import groups
from hpo.checkpoint import checkpoint_path
from hpo.leases import Leases
from hpo.members import Roster
from hpo.trial import Task

FOLDER = "attempts"
_MOST_DEATHS = 3
_TAKEN_OVER = "taken-over.json"  # leases that dead members had in earlier runs


def begin_run(study: Path, rungs: int, me: str, leases: Leases, roster: Roster) -> None:
    """Keep what leases and members tell of deaths, and forget both: a new run of the search begins.

    Parameters
    ----------
    study : Path
        Its folder, in which no other member is at work.
    rungs : int
        How many there are below step 1.
    me, leases, roster
        As of `Attempts`.
    """
    places = {"step": study} | {f"rung{k}-": study / f"rung{k}" for k in range(1, rungs + 1)}
    for prefix, folder in places.items():
        Attempts(folder, me, leases, roster).keep(prefix)
    for prefix in places:
        leases.forget(prefix)
    leases.forget("rungs-ended")
    roster.bury()


class Attempts:
    """The suspect trials of one member.

    Parameters
    ----------
    study : Path
        Its folder, or that of one of its rungs.
    me : str
        Name of the member.
    leases : Leases
    roster : Roster
    """

    def __init__(self, study: Path, me: str, leases: Leases, roster: Roster):
        self._study, self._me, self._leases, self._roster = study, me, leases, roster
        self._folder = study / FOLDER
        self._taken_over = set(groups.read(self._folder / _TAKEN_OVER) or ())
        self._under_way: tuple[int, int] | None = None  # one that has cost a life

    def is_suspect(self, key: str) -> bool:
        """Whether a lease of ours was a dead member's before."""
        return key in self._taken_over or self._leases.is_inherited(key)

    def admit(self, task: Task) -> Task | None:
        """A suspect to run now, or with the reason why it is hopeless; None: first another one has to end."""
        key = (task.step, task.trial)
        deaths = self._deaths(*key)
        if deaths and self._under_way not in (None, key):
            return None
        if deaths >= _MOST_DEATHS:
            return replace(task, hopeless=f"{deaths} members of the search died while they ran it")
        content, number = {"member": self._me, "checkpoint": self._checkpointed(*key)}, len(self._notes(*key))
        self._folder.mkdir(parents=True, exist_ok=True)
        while not groups.publish(self._path(*key, number), content):
            self._folder.mkdir(parents=True, exist_ok=True)  # its remover may have thought that we were dead
            number += 1
        if deaths:
            self._under_way = key
        return task

    def ended(self, step: int, trial: int) -> None:
        """A trial of ours has ended."""
        if self._under_way == (step, trial):
            self._under_way = None

    def keep(self, prefix: str) -> None:
        """Keep what leases whose key starts with `prefix`, and their members, tell of deaths."""
        for path in self._folder.glob("step*.*"):
            note = groups.read(path)
            if note is not None and self._has_left(note["member"]):
                self._write(path, note | {"member": None})
        holders = {key: self._leases.holder(key) for key in self._leases.taken(prefix)}
        dead = {key for key, name in holders.items() if name not in (None, self._me) and not self._has_left(name)}
        if dead - self._taken_over:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._taken_over |= dead
            self._write(self._folder / _TAKEN_OVER, sorted(self._taken_over))

    def _write(self, path: Path, content) -> None:
        temporary = path.with_name(f".{path.name}.{self._me}")
        temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        os.replace(temporary, path)

    def _has_left(self, member: str) -> bool:
        content = self._roster.read(member)
        return content is not None and content["state"] == "left"

    def _deaths(self, step: int, trial: int) -> int:
        """Members that died with the trial since its checkpoint was last written."""
        now = self._checkpointed(step, trial)
        members = [note["member"] for note in self._notes(step, trial) if note["checkpoint"] == now]
        return sum(self._died(m) for m in members if m not in (None, self._me))

    def _died(self, member: str) -> bool:
        content = self._roster.read(member)  # None: its file was cleared away with the dead
        return content is None or (content["state"] != "left" and self._roster.is_dead(member))

    def _notes(self, step: int, trial: int) -> list[dict]:
        found: list[dict] = []
        while note := groups.read(self._path(step, trial, len(found))):
            found.append(note)
        return found

    def _path(self, step: int, trial: int, number: int) -> Path:
        return self._folder / f"step{step}-{trial}.{number:03d}"

    def _checkpointed(self, step: int, trial: int) -> float:
        try:
            return checkpoint_path(self._study, step, trial).stat().st_mtime
        except OSError:
            return 0.0
