"""One trial, from its number to its record: the work of a worker."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from emulator.bundle import save_bundle
from emulator.mlp import MLPSpec
from emulator.variables import Column
from hpo.config import Config
from hpo.errors import Interrupted
from hpo.prepare import Prepared
from hpo.recipe import Recipe
from hpo.space import Space, torch_seed
from hpo.train import Outcome, Training, TrainingData, train, training_flop

RECORD_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trial to run in step 1 or 2; `extra` goes into the record (step 2: why it was promoted)."""

    step: int
    trial: int
    flop: float
    extra: Mapping[str, object]


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


class TrialRunner:
    """Runs the trials of one study in this process, one after the other.

    Parameters
    ----------
    context : StudyContext
    device : torch.device
    name : str
        Of the worker, for the records.
    """

    def __init__(self, context: StudyContext, device: torch.device, name: str):
        self.context, self.device, self.name = context, device, name
        self.space = context.space
        self._data: dict[tuple[int, int], TrainingData] = {}

    def run(self, task: Task, stopping: Callable[[], bool]) -> dict:
        """Train the trial and return its record; networks are saved before.

        Raises
        ------
        Interrupted
            `stopping` returned true; a checkpoint was written if the step has them.
        """
        context, space = self.context, self.space
        params = space.draw(task.trial)
        spec, recipe = context.spec(space, params), space.recipe(params, task.step)
        data = self._samples(task.step, space.input_transforms.index(space.transforms(params)))
        try:
            outcome = self._train(task, spec, recipe, data, stopping)
        except (MemoryError, torch.OutOfMemoryError) as error:
            outcome = _failure(f"out of memory on {self.device}: {error}")
        model = None
        if outcome.weights is not None and (task.step == 2 or context.config.search.keep_step1_models):
            model = f"step{task.step}/models/trial-{task.trial:06d}.pt"
            self._save(context.folder / model, task, params, spec, recipe, outcome)
        return make_record(task, params, spec, recipe, outcome, worker=self.name, model=model)

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

    def _train(self, task: Task, spec: MLPSpec, recipe: Recipe, data: TrainingData, stopping) -> Outcome:
        seeds = {
            f"{what}_seed": torch_seed(self.space.seed, task.trial, f"{what} of step {task.step}")
            for what in ("weights", "batch")
        }
        training = Training(spec, recipe, data, **seeds)
        if task.step == 1:

            def look(*_):
                if stopping():
                    raise Interrupted

            return train(training, look=look, after_epoch=look)
        checkpoint = Checkpoint(self.context, task)
        before = checkpoint.restore(training)

        def after_epoch(training, seconds):
            if stopping():
                checkpoint.write(training, seconds)
                raise Interrupted
            checkpoint.write_if_due(training, seconds)

        return train(training, after_epoch=after_epoch, seconds_before=before)

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


class Checkpoint:
    """A retraining in the middle, in one file that is replaced whole; removed when the trial is recorded."""

    def __init__(self, context: StudyContext, task: Task):
        self.path = checkpoint_path(context.folder, task.trial)
        self._seconds = context.config.search.checkpoint_seconds
        self._last = time.monotonic()

    def restore(self, training: Training) -> float:
        """Take the training up where it was left; returns the seconds spent before."""
        if not self.path.exists():
            return 0.0
        data = torch.load(self.path, map_location="cpu", weights_only=True)
        training.restore(data["training"])
        return data["seconds"]

    def write_if_due(self, training: Training, seconds: float) -> None:
        if time.monotonic() - self._last >= self._seconds:
            self.write(training, seconds)

    def write(self, training: Training, seconds: float) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with open(temporary, "wb") as stream:
            torch.save({"training": training.state(), "seconds": seconds}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, self.path)
        self._last = time.monotonic()


def checkpoint_path(folder: Path, trial: int) -> Path:
    return folder / "step2" / "checkpoints" / f"trial-{trial:06d}.pt"


def remove_checkpoint(folder: Path, trial: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        checkpoint_path(folder, trial).unlink()


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
