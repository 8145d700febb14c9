"""Step 1: many configurations on a small part of the data.

All members compute the same order of trials and the same blocks of it. A member leases a block at a time and hands
its trials to its workers. Where trials depend on earlier ones (see `hpo.proposals`), every block is one trial, and
can be had when its batch is known.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from hpo.attempts import Attempts
from hpo.history import Finished
from hpo.leases import Leases
from hpo.members import Crew
from hpo.proposals import Proposals, Run, in_thread
from hpo.rungs import Chosen
from hpo.tail import FolderTail
from hpo.trial import StudyContext, Task

# The last trials go largest first, so that no worker ends long after the others: an eighth of all, at most so many.
_MOST_BALANCED = 512
# A block is this part of what remains, so that blocks end as single trials; a member that dies leaves little behind.
_BLOCK_PART = 256
_LARGEST_BLOCK = 16
_LOOK_S = 1.0


def order(context: StudyContext, proposals: Proposals | Chosen) -> list[int]:
    """All trials in the order in which they run.

    They go in order of their number: what is finished after any time is then a fair draw from the space, and the
    Optuna study grows without gaps. Only the last go largest first; of a batch, its own.
    """
    numbers = proposals.numbers
    if proposals.is_batched:
        return list(numbers)
    split = len(numbers) - min(_MOST_BALANCED, len(numbers) // 8)
    flop = {i: context.flop(context.space, proposals.trial(i).params, 1) for i in numbers[split:]}
    return [*numbers[:split], *sorted(flop, key=lambda i: (-flop[i], i))]


def blocks(trials: int) -> list[tuple[int, int]]:
    """First and last place in the order of each block."""
    found, first = [], 0
    while first < trials:
        size = min(max((trials - first) // _BLOCK_PART, 1), _LARGEST_BLOCK)
        found.append((first, first + size - 1))
        first += size
    return found


class Step1Source:
    """The trials of step 1 as one member of the search sees them.

    Parameters
    ----------
    context : StudyContext
    crew : Crew
    trials : Proposals or Chosen, optional
        None: all of the study, by its sampler.
    name : str
        Of what is leased.
    propose : function
        Where proposals are computed: see `hpo.proposals.Proposals`.
    clock : function
        Monotonic seconds.
    """

    def __init__(
        self,
        context: StudyContext,
        crew: Crew,
        trials: Proposals | Chosen | None = None,
        *,
        name: str = "step1",
        propose: Run = in_thread,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._context, self._space, self._clock = context, context.space, clock
        self._leases: Leases = crew.leases
        self._is_dead, self._verify_s = crew.roster.is_dead, crew.roster.lease_seconds / 2
        self._name = name
        self._proposals = trials or Proposals(
            context.folder,
            self._space,
            run=propose,
            may_compute=lambda number: self._leases.take(f"{name}-batch-{number}"),
        )
        batched = self._proposals.is_batched
        self._order = order(context, self._proposals)
        self._blocks = [(t, t) for t in self._order] if batched else blocks(len(self._order))
        self._tail = FolderTail(context.folder / "step1", curves=batched)
        self._wanted = frozenset(self._order)
        self._finished: set[int] = set()  # of those
        self._known: set[int] = set()  # finished, and taken into the proposals
        self._opened = 0  # trials of batches that are known
        self._read()
        self._fresh = deque(() if batched else range(len(self._blocks)))
        self._taken: set[str] = set()  # keys that somebody had leased when we last looked
        self._theirs: dict[int, str | None] = {}  # blocks that another member has, and who
        self._orphans: deque[int] = deque()  # those whose owner died
        self._mine: deque[tuple[int, int]] = deque()  # block and trial, still to be handed out
        self._attempts = Attempts(context.folder, crew.leases.owner, crew.leases, crew.roster)
        self._held: list[tuple[int, int]] = []  # of ours: suspects, until another one has ended
        self._looked = self._verified = clock()

    def take(self, free: int) -> list[Task]:
        """Trials for idle workers, from our block or the next that is free."""
        self._verify_if_due()
        self._open()  # while there are others: proposing takes a while
        tasks: list[Task] = []
        while len(tasks) < free and (self._mine or self._claim()):
            block, trial = self._mine.popleft()
            if trial in self._finished:
                continue
            task: Task | None = self._task(trial)
            if self._attempts.is_suspect(self._key(block)):
                task = self._attempts.admit(task)
            if task is None:
                self._held.append((block, trial))
            else:
                tasks.append(task)
        return tasks

    def _task(self, trial: int) -> Task:
        t = self._proposals.trial(trial)
        flop, extra = self._context.flop(self._space, t.params, 1), self._context.modelled(self._space, t.params)
        return Task(step=1, trial=trial, flop=flop, extra=extra, params=t.params, limits=t.limits)

    def record(self, record: dict) -> None:
        """A trial of ours is finished."""
        self._finished.add(record["trial"])
        self._attempts.ended(1, record["trial"])
        self._mine.extendleft(reversed(self._held))
        self._held.clear()

    def lost(self, task: Task, reason: str) -> None:
        raise AssertionError("step 1 trains no groups")

    def leave(self) -> None:
        """The member is done with the step, or leaves it."""
        self._proposals.close()

    def done(self) -> bool:
        """Whether every trial is finished, whoever ran it."""
        if len(self._finished) < len(self._order):
            self._look_if_due()
        return len(self._finished) >= len(self._order)

    def _key(self, block: int) -> str:
        first, last = self._blocks[block]
        return f"{self._name}-{first}-{last}"

    def _missing(self, block: int) -> list[int]:
        first, last = self._blocks[block]
        return [t for t in self._order[first : last + 1] if t not in self._finished]

    def _claim(self) -> bool:
        """Lease a block with something left to do."""
        self._look_if_due()
        while self._orphans:
            if self._lease(self._orphans.popleft()):
                return True
        while self._fresh or self._open():
            block = self._fresh.popleft()
            if self._key(block) in self._taken:
                self._theirs[block] = None
            elif self._lease(block):
                return True
            elif block in self._theirs:  # somebody was faster: who else is there?
                self._taken = self._leases.taken(f"{self._name}-")
        return False

    def _open(self) -> bool:
        """Whether another batch can be known by now; its trials go largest first."""
        if not self._proposals.is_batched:
            return False
        if len(self._known) < len(self._finished):
            self._read()  # of our own trials we were told no curves
        trials = self._proposals.open_next() if self._opened < len(self._order) else None
        if trials is None:
            return False
        self._opened = trials.stop
        new = [t for t in trials if t < len(self._order) and t not in self._finished]
        flop = {t: self._task(t).flop for t in new}
        self._fresh.extend(sorted(new, key=lambda t: (-flop[t], t)))
        return bool(self._fresh) or self._open()

    def _lease(self, block: int) -> bool:
        """Whether we have the block now, with something left to do."""
        if not self._missing(block):
            return False
        if not self._leases.take(self._key(block)):
            self._theirs[block] = None
            return False
        if self._leases.is_inherited(self._key(block)):
            self._read()  # what its last owner wrote before it died
        self._mine.extend((block, t) for t in self._missing(block))
        return bool(self._mine)

    def _look_if_due(self) -> None:
        """Take in what others have finished, and whose owners died."""
        now = self._clock()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        self._read()
        for block, owner in list(self._theirs.items()):
            if not self._missing(block):
                del self._theirs[block]
                continue
            if owner is None:
                owner = self._theirs[block] = self._leases.holder(self._key(block))
            if owner is None or self._is_dead(owner):
                del self._theirs[block]
                self._orphans.append(block)

    def _read(self) -> None:
        for r in self._tail.poll():
            if self._proposals.is_batched:
                self._known.add(r["trial"])
                self._proposals.finished(r["trial"], Finished.of(r))
            if r["trial"] in self._wanted:
                self._finished.add(r["trial"])

    def _verify_if_due(self) -> None:
        """After a long pause others may have thought us dead: leave to them what they took."""
        now = self._clock()
        if now - self._verified < self._verify_s:
            return
        self._verified = now
        for block in dict.fromkeys(block for block, _ in (*self._mine, *self._held)):
            if not self._leases.is_mine(self._key(block)):
                self._mine = deque(m for m in self._mine if m[0] != block)
                self._held = [m for m in self._held if m[0] != block]
                self._theirs[block] = None
