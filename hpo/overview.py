"""A study at one moment: members, workers, rungs, both steps, failures, the best so far.

Plain data, which `hpo.observer` reads from a study folder and `hpo.view` shows. Nothing here imports PyTorch or Optuna.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpo.tally import Best


@dataclass(frozen=True, kw_only=True)
class Running:
    """A trial under way. `rung`: None on none; `seconds`: for how long, in this run."""

    step: int
    rung: int | None
    trial: int
    epoch: int
    max_epochs: int
    best_mse: float | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker process; one on a GPU may have several trials under way."""

    slot: int
    device: str
    state: str
    trials: tuple[Running, ...]
    memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class MemberView:
    """A member as its file has it. `age_s`: since it last wrote."""

    name: str
    host: str
    state: str  # starting, preparing, rung 1 ..., step 1, step 2, left, dead
    leader: bool
    age_s: float
    started: float
    job: str | None
    workers: tuple[Worker, ...]
    done: int
    failed: int
    error: str | None

    @property
    def alive(self) -> bool:
        return self.state not in ("left", "dead")

    @property
    def busy(self) -> int:
        return sum(bool(w.trials) for w in self.workers)


@dataclass(frozen=True, kw_only=True)
class StepView:
    """One step, or a rung of step 1. `total` is None while it is not known; times are None before anything is known
    of them.

    `rung`, `subset`: None of a step. `begun`, `ended`: of its first and last trial. `errors`: most frequent first.
    `going_on`: of a finished rung, how many trials do. `left_on_rungs`: of step 1, how many ended before it. `front`:
    of step 1 where the sampler minimises two objectives, lightest first.
    """

    step: int
    rung: int | None
    subset: float | None
    total: int | None
    done: int
    failed: int
    pruned: int
    running: int
    best: tuple[Best, ...]
    rate: float | None
    seconds_left: float | None
    begun: float | None
    ended: float | None
    errors: tuple[tuple[str, int], ...]
    going_on: int | None
    left_on_rungs: int
    front: tuple[Best, ...] = ()

    @property
    def name(self) -> str:
        """`step 1`, `rung 2`: what a member at work on it has for its state."""
        return f"step {self.step}" if self.rung is None else f"rung {self.rung}"

    @property
    def finished(self) -> bool:
        return self.total is not None and self.done >= self.total


@dataclass(frozen=True, kw_only=True)
class Group:
    """Ranks that train one network of step 2 together, or look for each other."""

    trial: int
    attempt: int
    state: str  # forming, training
    size: int
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """A study at one moment. `rungs`: those below step 1, if any. `problems`: sentences on what could not be read."""

    folder: Path
    begun: bool
    error_units: str | None
    members: tuple[MemberView, ...]
    rungs: tuple[StepView, ...]
    steps: tuple[StepView, ...]
    groups: tuple[Group, ...]
    problems: tuple[str, ...]

    @property
    def alive(self) -> list[MemberView]:
        return [m for m in self.members if m.alive]

    @property
    def leader(self) -> MemberView | None:
        return next((m for m in self.alive if m.leader), None)

    @property
    def parts(self) -> tuple[StepView, ...]:
        """Rungs and steps in the order in which they run."""
        return self.rungs + self.steps

    @property
    def stage(self) -> str:
        """empty, waiting, running, stopped or finished."""
        if self.steps and all(s.finished for s in self.steps):
            return "finished"
        if self.alive:
            return "running" if any(m.state.startswith(("rung", "step")) for m in self.alive) else "waiting"
        return "stopped" if self.begun else "empty"
