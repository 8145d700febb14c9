"""One trial, from its number to its record: the work of a worker."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from emulator.bundle import save_bundle
from emulator.mlp import MLPSpec
from emulator.variables import Column
from hpo.checkpoint import Checkpoint, checkpoint_path
from hpo.checkpoint import remove_checkpoint as remove_checkpoint
from hpo.config import Config
from hpo.errors import Interrupted
from hpo.prepare import Prepared
from hpo.recipe import Recipe
from hpo.space import Space, torch_seed
from hpo.train import Diverged, Outcome, Progress, Training, TrainingData, outcome_of, training_flop

RECORD_SCHEMA = 1
# A worker looks at its signals and messages this often.
_ADVANCE_SECONDS = 0.2
# A trial of step 1 that has come no further than this is begun anew rather than written down when it is interrupted.
_WORTH_WRITING_SECONDS = 1.0
# Between two looks at a device on which all trials are at work.
_POLL_SECONDS = 1e-4


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A worker's place in the group of processes that train one trial together.

    `folder` is where the group meets, `attempt` tells its meetings apart.
    """

    rank: int
    size: int
    attempt: str
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trial to run in step 1 or 2; `extra` goes into the record (step 2: why it was promoted).

    With a `seat`, this worker is one of several that train it together.
    """

    step: int
    trial: int
    flop: float
    extra: Mapping[str, object]
    seat: Seat | None = None


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """What every worker of a study needs to know; can be sent to another process.

    `prepared` holds the data of steps 1 and 2, `provenance` what every saved network says of its origin.
    """

    folder: Path
    config: Config
    prepared: Mapping[int, Prepared]
    input_columns: tuple[Column, ...]
    output_columns: tuple[Column, ...]
    provenance: Mapping[str, object]

    @property
    def space(self) -> Space:
        return Space(self.config)

    def spec(self, space: Space, params: Mapping[str, object]) -> MLPSpec:
        return MLPSpec(
            num_inputs=len(self.input_columns),
            hidden=space.hidden(params),
            num_outputs=len(self.output_columns),
            activation=space.activation(params),
            output_activation=self.prepared[2].output_activation,
        )

    def flop(self, space: Space, trial: int, step: int) -> float:
        """Arithmetic of a trial if it runs all its epochs, plus what small layers cost beyond their arithmetic."""
        params = space.draw(trial)
        spec, recipe, data = self.spec(space, params), space.recipe(params, step), self.prepared[step]
        steps = -(-data.num_train // recipe.batch_size) * recipe.max_epochs
        overhead = _OVERHEAD_FLOP * steps * (len(spec.hidden) + 2)
        return training_flop(spec, data.num_train, data.num_validation, recipe.max_epochs) + overhead


# A step costs about 50 us per layer however narrow (measured, one core that does 60 GFLOP/s in such layers).
_OVERHEAD_FLOP = 3e6


@dataclass
class _Flight:
    """A trial under way."""

    task: Task
    params: Mapping[str, object]
    spec: MLPSpec
    recipe: Recipe
    training: Progress
    checkpoint: Checkpoint
    since: float
    seconds: float


class TrialRunner:
    """Runs the trials of one study in this process: one after the other, or several at once.

    Parameters
    ----------
    context : StudyContext
    device : torch.device
    name : str
        Of the worker, for the records.
    capacity : int, optional
        Trials that may be under way at once.

    Attributes
    ----------
    capacity : int
    """

    def __init__(self, context: StudyContext, device: torch.device, name: str, capacity: int | None = None):
        self.context, self.device, self.name = context, device, name
        self.capacity = capacity or 1
        self.space = context.space
        self._data: dict[tuple[int, int], TrainingData] = {}
        self._flights: list[_Flight] = []
        self._alone: deque[Task] = deque()  # for which there was no memory beside others
        self._later: deque[Task] = deque()  # which came while one of those waits or runs
        self._finished: list[tuple[Task, dict | Exception | None]] = []

    def start(self, task: Task) -> None:
        """Take a trial on. It goes on from its checkpoint, if there is one."""
        (self._later.append if self._alone else self._begin)(task)

    def advance(self) -> list[tuple[Task, dict | Exception | None]]:
        """Work for about 0.2 s, less when a trial ends; what has ended comes with its record.

        The record is None for a seat other than the first: the first one's says it all. Networks are saved before.
        An exception is something unforeseen in that trial alone.
        """
        until = time.monotonic() + _ADVANCE_SECONDS
        while not self._finished and time.monotonic() < until:
            if not self._flights and not self._begin_waiting():
                break
            start, flying = time.perf_counter(), list(self._flights)
            ready = [f for f in flying if not f.training.waiting]
            for flight in ready:
                self._advance(flight)
            if not ready:
                time.sleep(_POLL_SECONDS)
            share = (time.perf_counter() - start) / max(1, len(flying))
            for flight in flying:
                flight.seconds += share
        finished, self._finished = self._finished, []
        return finished

    def running(self) -> list[dict]:
        """What is under way: plain data for people to see."""
        return [
            {
                "step": f.task.step,
                "trial": f.task.trial,
                "epoch": f.training.epoch,
                "max_epochs": f.recipe.max_epochs,
                "best_mse": f.training.best_mse if f.training.best_epoch else None,
                "since": f.since,
            }
            for f in self._flights
        ]

    def interrupt(self) -> None:
        """Write down what is under way, if it ran long enough to matter, and forget it."""
        for flight in self._flights:
            flight.training.agree_to_stop()
            flight.training.wait()
            if flight.task.step == 2 or flight.seconds >= _WORTH_WRITING_SECONDS:
                self._write(flight)
        for store in (self._flights, self._alone, self._later):
            store.clear()

    def run(self, task: Task, stopping: Callable[[], bool]) -> dict | None:
        """One trial from start to end.

        Raises
        ------
        Interrupted
            `stopping` returned true; the trial can be taken up again.
        """
        self.start(task)
        while not (finished := self.advance()):
            if stopping():
                self.interrupt()
                raise Interrupted
        ((_, result),) = finished
        if isinstance(result, Exception):
            raise result
        return result

    def _begin(self, task: Task) -> None:
        try:
            self._flights.append(self._flight(task))
        except (MemoryError, torch.OutOfMemoryError) as error:
            self._out_of_memory(task, error)
        except Exception as error:
            self._finished.append((task, error))

    def _begin_waiting(self) -> bool:
        """Begin the next trial that needs the device alone, or all that waited for those; false if there is none."""
        if self._alone:
            self._begin(self._alone.popleft())
            return True
        waited, self._later = self._later, deque()
        for task in waited:
            self.start(task)
        return bool(waited)

    def _out_of_memory(self, task: Task, error: Exception) -> None:
        """Run it again when nothing else is under way; if nothing else was, it has failed."""
        if self._flights:
            self._alone.append(task)
            return
        record = failed_record(self.context, task, f"out of memory on {self.device}: {error}", self.name)
        self._finished.append((task, record))

    def _flight(self, task: Task) -> _Flight:
        context, space = self.context, self.space
        params = space.draw(task.trial)
        spec, recipe = context.spec(space, params), space.recipe(params, task.step)
        data = self._samples(task.step, space.input_transforms.index(space.transforms(params)))
        seeds = {
            f"{what}_seed": torch_seed(space.seed, task.trial, f"{what} of step {task.step}")
            for what in ("weights", "batch")
        }
        training = Training(spec, recipe, data, **seeds)
        path = checkpoint_path(context.folder, task.step, task.trial)
        checkpoint = Checkpoint(path, context.config.search.checkpoint_seconds, self.name)
        return _Flight(
            task=task,
            params=params,
            spec=spec,
            recipe=recipe,
            training=training,
            checkpoint=checkpoint,
            since=time.time(),
            seconds=checkpoint.restore(training),
        )

    def _advance(self, flight: _Flight) -> None:
        """The next piece of a trial's work; one that ends leaves."""
        training = flight.training
        result: dict | Exception | None
        try:
            training.advance()
            if not training.done:
                if self._writes(flight):
                    flight.checkpoint.write_if_due(training, flight.seconds)
                return
            result = self._result(flight, None)
        except Diverged as reason:
            result = self._result(flight, str(reason))
        except (MemoryError, torch.OutOfMemoryError) as error:
            self._flights.remove(flight)
            self._out_of_memory(flight.task, error)
            return
        except Interrupted as reason:  # by another seat
            self._write(flight)
            result = reason
        except Exception as error:
            result = error
        self._flights.remove(flight)
        self._finished.append((flight.task, result))

    @staticmethod
    def _writes(flight: _Flight) -> bool:
        return flight.task.seat is None or flight.task.seat.rank == 0

    def _write(self, flight: _Flight) -> None:
        if self._writes(flight):
            flight.checkpoint.write(flight.training, flight.seconds)

    def _result(self, flight: _Flight, error: str | None) -> dict | None:
        if not self._writes(flight):
            return None
        task, search = flight.task, self.context.config.search
        outcome = outcome_of(flight.training, flight.seconds, error)
        model = None
        if outcome.weights is not None and (task.step == 2 or search.keep_step1_models):
            model = f"step{task.step}/models/trial-{task.trial:06d}.pt"
            self._save(self.context.folder / model, task, flight.params, flight.spec, flight.recipe, outcome)
        return make_record(task, flight.params, flight.spec, flight.recipe, outcome, worker=self.name, model=model)

    def _samples(self, step: int, variant: int) -> TrainingData:
        if (step, variant) not in self._data:
            for other in [k for k in self._data if k[0] != step]:
                del self._data[other]
            arrays = self.context.prepared[step].arrays(variant)
            tensors = {k: torch.from_numpy(v).to(self.device) for k, v in arrays.items()}
            self._data[step, variant] = TrainingData(
                x_train_NI=tensors["x_train"],
                y_train_NO=tensors["y_train"],
                x_validation_NI=tensors["x_validation"],
                y_validation_NO=tensors["y_validation"],
            )
        return self._data[step, variant]

    def _save(self, path, task, params, spec, recipe, outcome) -> None:
        context = self.context
        prepared = context.prepared[task.step]
        save_bundle(
            path,
            spec=spec,
            state=outcome.weights,
            inputs=prepared.inputs[self.space.input_transforms.index(self.space.transforms(params))],
            outputs=prepared.outputs,
            input_columns=context.input_columns,
            output_columns=context.output_columns,
            provenance=dict(context.provenance)
            | {
                "step": task.step,
                "trial": task.trial,
                "params": params,
                "train": recipe_dict(recipe),
                "num_train": prepared.num_train,
                "num_validation": prepared.num_validation,
                "validation_mse": outcome.validation_mse,
                "best_epoch": outcome.best_epoch,
                "epochs": outcome.epochs,
                **task.extra,
            },
        )


def recipe_dict(recipe: Recipe) -> dict:
    return dict(vars(recipe))


def make_record(task: Task, params, spec: MLPSpec, recipe: Recipe, outcome: Outcome, *, worker: str, model) -> dict:
    """The record of a finished trial: plain JSON data, one line of a `worker-*.jsonl`."""
    return {
        "schema": RECORD_SCHEMA,
        "step": task.step,
        "trial": task.trial,
        "state": "failed" if outcome.error else "complete",
        "params": params,
        "hidden": list(spec.hidden),
        "activation": spec.activation,
        "num_parameters": spec.num_parameters,
        "train": recipe_dict(recipe),
        "validation_mse": outcome.validation_mse,
        "best_epoch": outcome.best_epoch,
        "epochs": outcome.epochs,
        "curve": {"train_mse": outcome.train_curve, "validation_mse": outcome.validation_curve},
        "seconds": outcome.seconds,
        "error": outcome.error,
        "worker": worker,
        "model": model,
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **task.extra,
    }


def failed_record(context: StudyContext, task: Task, error: str, worker: str) -> dict:
    """Record of a trial that could not be run to its end."""
    space = context.space
    params = space.draw(task.trial)
    spec, recipe = context.spec(space, params), space.recipe(params, task.step)
    return make_record(task, params, spec, recipe, _failure(error), worker=worker, model=None)


def _failure(error: str) -> Outcome:
    return Outcome(
        validation_mse=None,
        best_epoch=0,
        epochs=0,
        train_curve=[],
        validation_curve=[],
        seconds=0.0,
        error=error,
        weights=None,
    )
