"""What our own bookkeeping costs a trial: the real members, leases, worker processes and record files, around trials
that do nothing.

A study of the paper's space runs from its first trial to the last; a trial draws its parameters, has a learning curve
of 100 epochs and is recorded. The processor time of all processes (member with its view, workers) is read at every
record, so that the cost at a certain size of the study is that of the trials around it. Start-up is not counted.
"""

from __future__ import annotations

import io
import random
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from emulator.variables import Column
from hpo.config import Config
from hpo.members import Crew, Member
from hpo.progress import LiveView
from hpo.step1 import Step1Source
from hpo.stop import StopSignals
from hpo.study import Study
from hpo.train import Outcome
from hpo.trial import StudyContext, Task, make_record
from hpo.workers import Pool

_EPOCHS = 100
_NUM_COLUMNS = 4


def context(folder: Path, trials: int) -> StudyContext:
    """A study of the paper's space, on samples that nobody reads; its `study.json` is written."""
    config = Config.from_dict({"data": {"path": "none.nc"}, "search": {"trials": trials}})
    columns = tuple(Column(name=f"x{k}", units="1", variable=f"x{k}") for k in range(_NUM_COLUMNS))
    prepared = SimpleNamespace(num_train=2465, num_validation=2465, output_activation="sigmoid", heads={})
    study = Study(folder)
    folder.mkdir(parents=True, exist_ok=True)
    study.description = {
        "schema": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "config": config.to_dict(),
        "data": {"checksum": "none", "seed": 0},
        "columns": {"inputs": [c.to_dict() for c in columns], "outputs": [columns[0].to_dict()]},
        "prepared": {"error_units": "standardised"}
        | {name: {"1": 2465, "2": 2465} for name in ("num_train", "num_validation")},
        "runs": [],
    }
    study.save()
    return StudyContext(
        folder=folder,
        config=config,
        prepared={1: prepared, 2: prepared},
        input_columns=columns,
        output_columns=columns[:1],
        provenance={},
    )


class Trivial:
    """Trains nothing: a runner whose trials cost what surrounds them. All workers begin together."""

    capacity = 1
    memory_bytes = None

    def __init__(self, context: StudyContext, device, name: str, *, num_workers: int):
        self._context, self._space, self._name, self._num_workers = context, context.space, name, num_workers
        self._task: Task | None = None
        self._together = context.folder / "ready"
        self._together.mkdir(exist_ok=True)
        (self._together / name).touch()
        self._waits = True

    def start(self, task: Task) -> None:
        self._task = task

    def advance(self) -> list[tuple[Task, dict]]:
        while self._waits and len(list(self._together.iterdir())) < self._num_workers:
            time.sleep(0.02)
        self._waits = False
        task, self._task = self._task, None
        record = trivial_record(self._context, self._space, task, self._name)
        return [(task, record | {"cpu": time.process_time()})]

    def running(self) -> list[dict]:
        return []

    def interrupt(self) -> None:
        pass


@dataclass(frozen=True)
class MakeTrivial:
    """Makes runners; can be sent to a worker."""

    num_workers: int

    def __call__(self, context: StudyContext, device, name: str) -> Trivial:
        return Trivial(context, device, name, num_workers=self.num_workers)


def trivial_record(context: StudyContext, space, task: Task, worker: str) -> dict:
    """A record of full size: the parameters that the trial has, a curve of 100 epochs."""
    params = space.draw(task.trial)
    rng = random.Random(task.trial)
    curve = [rng.random() for _ in range(_EPOCHS)]
    outcome = Outcome(
        validation_mse=min(curve),
        best_epoch=1,
        epochs=_EPOCHS,
        train_curve=curve,
        validation_curve=curve,
        seconds=0.0,
        error=None,
        weights=None,
    )
    recipe = space.recipe(params, 1)
    return make_record(task, params, context.spec(space, params), recipe, outcome, worker=worker, model=None)


class _Counted:
    """A source that notes the time of every record."""

    def __init__(self, source: Step1Source):
        self._source = source
        self.notes: list[tuple[float, float, str, float]] = []  # wall, CPU of the member, worker, CPU of the worker

    def __getattr__(self, name):
        return getattr(self._source, name)

    def record(self, record: dict) -> None:
        self._source.record(record)
        self.notes.append((time.perf_counter(), time.process_time(), record["worker"], record["cpu"]))


def run_study(folder: Path, trials: int, num_workers: int) -> list[tuple[float, float, str, float]]:
    """Run a study of `trials` trivial trials to its end; notes of every record, in order of arrival."""
    made = context(folder, trials)
    with Member(folder, devices=["cpu"] * num_workers) as member, StopSignals() as stop:
        crew = Crew.of(folder, member)
        source = _Counted(Step1Source(made, crew))
        pool = Pool(made, ["cpu"] * num_workers, name=member.name, stop=stop, runner=MakeTrivial(num_workers))
        member.watch(lambda: {"workers": pool.workers(), "done": pool.done, "failed": pool.failed})
        member.update(state="step 1", leader=True)
        console = Console(file=io.StringIO())
        try:
            with LiveView(folder, me=member.name, is_leader=lambda: True, console=console, quiet=True):
                pool.run(source, 1)
        finally:
            pool.close()
            crew.leases.close()
    return source.notes


def costs(notes, first: int, last: int) -> dict[str, float]:
    """Milliseconds per trial between two places in the order of arrival: processor time of all processes together,
    of the member alone, and wall-clock time."""
    before: dict[str, float] = {}
    for _, _, worker, cpu in notes[: first + 1]:
        before[worker] = cpu
    spent = 0.0
    for _, _, worker, cpu in notes[first + 1 : last + 1]:
        spent += cpu - before.get(worker, cpu)
        before[worker] = cpu
    count = last - first
    member = (notes[last][1] - notes[first][1]) / count
    return {
        "cpu_ms": 1e3 * (spent / count + member),
        "member_ms": 1e3 * member,
        "wall_ms": 1e3 * (notes[last][0] - notes[first][0]) / count,
        "trials_measured": count,
    }
