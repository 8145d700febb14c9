"""Step 2: the promoted trials on all the data, one worker each or several together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hpo import groups
from hpo.attempts import Attempts
from hpo.checkpoint import checkpoint_path
from hpo.groups import Seat
from hpo.promotion import Promotion, promote
from hpo.tail import FolderTail
from hpo.train import training_flop
from hpo.trial import StudyContext, Task

__all__ = ["Promotion", "Step2Source", "largest_group", "promote", "tasks"]

# Another seat may still be claimed so long after the last one; a wish of the user's is waited for longer.
_PATIENCE_S = {"auto": 5.0, "asked": 30.0}
# So many attempts of a group that got no further than the one before; then one worker tries alone.
_MOST_LOSSES = 3
_LOOK_S = 1.0
# `auto`: a rank has at least so many rows of every batch, and so much arithmetic in every step, or the sum over all
# ranks takes longer than the work it saves. The first follows from rates (6 operations per weight and row against 8
# bytes per weight moved), the second from the time that a sum takes at least. CPU: measured, README; GPU: from the data
# sheet of an H200 (float32 and NVLink), not yet measured.
_LEAST_ROWS = {"cpu": 128, "cuda": 2048}
_LEAST_FLOP = {"cpu": 1e8, "cuda": 5e9}


def tasks(context: StudyContext, promotions: list[Promotion], finished: Iterable[int]) -> list[Task]:
    """Retrainings still to run, most arithmetic first: a large one started last would keep all others waiting."""
    space, done = context.space, set(finished)
    todo = [
        Task(
            step=2,
            trial=p.trial,
            flop=context.flop(space, p.params, 2),
            params=p.params,
            extra={"promoted": p.promoted, "step1_mse": p.step1_mse, "step1_rank": p.step1_rank}
            | context.modelled(space, p.params),
        )
        for p in promotions
        if p.trial not in done
    ]
    return sorted(todo, key=lambda t: (-t.flop, t.trial))


def largest_group(context: StudyContext, params: Mapping[str, object], device: str) -> int:
    """The most ranks, a power of two, that still make a trial with those parameters faster on devices of that kind
    ('cpu' or 'cuda')."""
    space = context.space
    spec, recipe = context.spec(space, params), space.recipe(params, 2)
    batch = min(recipe.batch_size, context.prepared[2].num_train)
    ranks = min(batch / _LEAST_ROWS[device], training_flop(spec, batch, 0, 1) / _LEAST_FLOP[device])
    return _power_of_two(ranks)


def _power_of_two(most: float) -> int:
    return 1 << (max(1, int(most)).bit_length() - 1)


@dataclass
class _Forming:
    """A group that is not yet complete, in which we have claimed seats."""

    folder: Path
    task: Task
    ranks: list[int]
    ours: bool  # we opened it
    patience: float
    seats: int = 0
    changed: float = 0.0


class Step2Source:
    """The retrainings as one member of the search sees them.

    A member leases a trial and gives it to one worker, or looks for seats for a group (see `hpo.groups`). Idle
    workers first complete a group that others have opened.

    Parameters
    ----------
    context : StudyContext
    promotions : list of Promotion
        The same for all members.
    crew : hpo.members.Crew
        member, roster and leases.
    ranks_per_trial : int or 'auto'
        Workers that train one network together. auto: one, until there are more workers than trials; then as many as
        there are for each, if the network is large enough to gain by it.
    clock : function
        Monotonic seconds.
    """

    def __init__(
        self,
        context: StudyContext,
        promotions: list[Promotion],
        crew,
        ranks_per_trial: int | str = "auto",
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._context, self._ranks, self._clock = context, ranks_per_trial, clock
        self._me, self._roster, self._leases = crew.member.name, crew.roster, crew.leases
        self._devices = list(crew.member["devices"])
        self._groups = context.folder / "groups"
        self._attempts = Attempts(context.folder, self._me, crew.leases, crew.roster)
        self._tasks = {t.trial: t for t in tasks(context, promotions, ())}
        self._tail = FolderTail(context.folder / "step2", curves=False)
        self._tail.poll()
        self._finished: set[int] = set(self._tail.trials)
        self._looked = clock()
        self._nothing_since: float | None = None
        self._running: set[int] = set()
        self._forming: _Forming | None = None
        self._counted: tuple[float, int] | None = None
        self._losses: dict[int, tuple[int, float]] = {}  # of a trial's groups, since its checkpoint was last written

    # -- what a pool asks -----------------------------------------------------------------------------------------

    def take(self, free: int) -> list[Task]:
        """Trials, and seats in groups that are complete, for idle workers."""
        taken: list[Task] = []
        while len(taken) < free:
            if self._forming is None and not self._join(free - len(taken)):
                task = self._next()
                if task is None:
                    break
                size = self._size(task) if task.hopeless is None else 1
                if size == 1:
                    self._running.add(task.trial)
                    taken.append(task)
                    continue
                self._open(task, size)
            seats = self._form(free - len(taken))
            taken += seats
            if not seats:
                break  # until it is complete the other idle workers wait too, for they may be wanted
        return taken

    def record(self, record: dict) -> None:
        """A trial of ours is finished and on disk."""
        trial = record["trial"]
        self._finished.add(trial)
        self._running.discard(trial)
        self._attempts.ended(2, trial)
        if trial in self._losses or self._groups.is_dir():
            groups.remove_groups(self._groups, trial)

    def lost(self, task: Task, reason: str) -> None:
        """A seat of ours has ended without a result; if it was the first one, the group forms anew."""
        seat = task.seat
        groups.end(seat.folder, reason)
        if seat.rank == 0:
            trial = task.trial
            losses, before = self._losses.get(trial, (0, 0.0))
            now = self._checkpointed(trial)
            self._losses[trial] = (losses + 1 if now == before else 1, now)
            self._running.discard(trial)
            self._attempts.ended(2, trial)
            self._nothing_since = None

    def done(self) -> bool:
        """Whether every retraining is finished, whoever ran it."""
        if not self._tasks.keys() <= self._finished:
            self._look()
        return self._tasks.keys() <= self._finished

    def leave(self) -> None:
        """We stop: nobody is to wait for our seats."""
        if self._forming is not None:
            groups.end(self._forming.folder, f"{self._me} leaves")
            self._forming = None

    # -- trials ---------------------------------------------------------------------------------------------------

    def _look(self, at_once: bool = False) -> None:
        now = self._clock()
        if at_once or now - self._looked >= _LOOK_S:
            self._tail.poll()
            self._finished |= self._tail.trials
            self._looked = now

    def _next(self) -> Task | None:
        """Lease the largest trial that nobody works on."""
        now = self._clock()
        if self._nothing_since is not None and now - self._nothing_since < _LOOK_S:
            return None
        self._look()
        for trial, task in self._tasks.items():
            if trial in self._finished or trial in self._running:
                continue
            if self._leases.take(f"step2-{trial}"):
                self._look(at_once=True)  # its last owner may have died with the record written
                if trial in self._finished:
                    continue
                admitted = self._attempts.admit(task) if self._attempts.is_suspect(f"step2-{trial}") else task
                if admitted is not None:
                    self._nothing_since = None
                    return admitted
        self._nothing_since = now
        return None

    def _size(self, task: Task) -> int:
        """Ranks that should train a trial."""
        if self._context.config.search.precision == "bf16":  # groups train in float32
            return 1
        losses, written = self._losses.get(task.trial, (0, 0.0))
        if losses >= _MOST_LOSSES and written == self._checkpointed(task.trial):
            return 1
        workers = self._workers()
        if self._ranks != "auto":
            return max(1, min(self._ranks, workers))
        left = sum(trial not in self._finished for trial in self._tasks)
        kind = self._devices[0].partition(":")[0]
        return min(_power_of_two(workers / max(1, left)), largest_group(self._context, task.params, kind))

    def _workers(self) -> int:
        """Workers of all members that are alive."""
        now = self._clock()
        if self._counted is None or now - self._counted[0] >= _LOOK_S:
            others = sum(_num_devices(m["devices"]) for m in self._roster.others())
            self._counted = now, _num_devices(self._devices) + others
        return self._counted[1]

    def _checkpointed(self, trial: int) -> float:
        try:
            return checkpoint_path(self._context.folder, 2, trial).stat().st_mtime
        except OSError:
            return 0.0

    # -- groups ---------------------------------------------------------------------------------------------------

    def _open(self, task: Task, size: int) -> None:
        folder = groups.open_group(self._groups, task.trial, size, self._me)
        patience = _PATIENCE_S["auto" if self._ranks == "auto" else "asked"]
        self._forming = _Forming(folder, task, [0], True, patience, changed=self._clock())

    def _join(self, free: int) -> bool:
        """Claim seats in a group that another member has opened."""
        for folder in self._open_groups():
            trial = groups.attempt_of(folder)[0]
            if trial in self._tasks and (ranks := groups.claim(folder, self._me, free)):
                self._forming = _Forming(folder, self._tasks[trial], ranks, False, 0.0)
                return True
        return False

    def _open_groups(self) -> list[Path]:
        """Groups of other members that look for seats."""
        found = []
        for folder in groups.group_folders(self._groups):
            if (folder / "closed.json").exists() or (folder / "ended.json").exists():
                continue
            wish = groups.read(folder / "open.json")
            if wish is None or wish["opener"] == self._me or self._roster.is_dead(wish["opener"]):
                continue
            if len(groups.claimed(folder)) < wish["size"]:
                found.append(folder)
        return found

    def _form(self, free: int) -> list[Task]:
        """Go on with the group that is forming; its seats, once it is complete."""
        forming = self._forming
        folder = forming.folder
        wish = groups.read(folder / "open.json")
        if groups.ended(folder) is not None or wish is None or len(forming.ranks) > free:
            return self._give_up("too few workers are left")
        closed = groups.read(folder / "closed.json")
        if closed is None:
            forming.ranks += groups.claim(folder, self._me, free - len(forming.ranks))
            if not forming.ours:
                return self._give_up("its opener died") if self._roster.is_dead(wish["opener"]) else []
            closed = self._close(wish["size"])
        if closed is None or self._forming is None:
            return []
        self._forming = None
        size, task = closed["size"], forming.task
        if forming.ours:
            self._running.add(task.trial)
        if size == 1:
            groups.end(folder, "nobody else came")
            return [task] if forming.ours else []
        return [
            replace(task, seat=Seat(rank=rank, size=size, attempt=folder.name, folder=folder))
            for rank in forming.ranks
            if rank < size
        ]

    def _close(self, wish: int) -> dict | None:
        """Decide who belongs to our group, when it is full or nobody comes any more."""
        forming, now = self._forming, self._clock()
        members = groups.claimed(forming.folder)
        if len(members) != forming.seats:
            forming.seats, forming.changed = len(members), now
        if len(members) < min(wish, self._workers()):
            if any(groups.attempt_of(f) < groups.attempt_of(forming.folder) for f in self._open_groups()):
                self._give_up("its opener helps another group to form")
                self._leases.release(f"step2-{forming.task.trial}")
                return None
            if now - forming.changed < forming.patience:
                return None
        dead = [m for m in members if self._roster.is_dead(m)]
        if dead:
            self._give_up(f"{dead[0]} died")
            return None
        closed = {"size": len(members), "members": members}
        groups.publish(forming.folder / "closed.json", closed)
        return closed

    def _give_up(self, reason: str) -> list[Task]:
        groups.end(self._forming.folder, reason)
        self._forming = None
        self._nothing_since = None
        return []


def _num_devices(devices: list[str]) -> int:
    """Workers of a member that can take part in step 2: all of a CPU, one on each GPU."""
    return len(devices) if "cpu" in devices else len(set(devices))
