"""One trial, from its number to its record: the work of a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from emulator.bundle import save_bundle
from emulator.heads import DIRECT, Head
from emulator.mlp import MLPSpec
from emulator.variables import Column
from hpo.checkpoint import Checkpoint, checkpoint_path
from hpo.checkpoint import remove_checkpoint as remove_checkpoint
from hpo.config import Config
from hpo.distributed import group_training
from hpo.engine import flat_refuses
from hpo.errors import GroupLost, Interrupted
from hpo.flat import FlatTraining
from hpo.fleet import Fleet, Flight, Landing, check_precision, is_out_of_memory, use_precision
from hpo.groups import Seat
from hpo.latency_model import KEY, LatencyModel, counts
from hpo.prepare import Prepared
from hpo.recipe import Recipe
from hpo.space import Space, torch_seed
from hpo.stream import StreamedData, open_data
from hpo.train import DirectOutputs, Diverged, Outcome, Progress, Training, TrainingData, outcome_of, training_flop

RECORD_SCHEMA = 1
# A worker looks at its signals and messages this often.
_ADVANCE_SECONDS = 0.2
# A trial of step 1 that has come no further than this is begun anew rather than written down when it is interrupted.
_WORTH_WRITING_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """A trial to run in step 1 or 2; `extra` goes into the record (step 2: why it was promoted).

    With a `seat`, this worker is one of several that train it together. `params`: None stands for what the space
    draws for that number. `limits`: see `hpo.train.Progress`. `hopeless`: why it is not run but recorded as failed.
    """

    step: int
    trial: int
    flop: float
    extra: Mapping[str, object]
    seat: Seat | None = None
    params: Mapping[str, object] | None = None
    limits: tuple[tuple[int, float], ...] = ()
    hopeless: str | None = None

    def params_in(self, space: Space) -> Mapping[str, object]:
        """Its parameters."""
        return space.draw(self.trial) if self.params is None else self.params


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """What every worker of a study needs to know; can be sent to another process.

    `prepared` holds the data of steps 1 and 2, `provenance` what every saved network says of its origin, `latency` is
    there in searches that minimise it.
    """

    folder: Path
    config: Config
    prepared: Mapping[int, Prepared]
    input_columns: tuple[Column, ...]
    output_columns: tuple[Column, ...]
    provenance: Mapping[str, object]
    latency: LatencyModel | None = None

    @property
    def heads(self) -> Mapping[str, Head]:
        """Output heads that networks may have, by name."""
        return self.prepared[2].heads

    @property
    def space(self) -> Space:
        return Space(self.config)

    def spec(self, space: Space, params: Mapping[str, object]) -> MLPSpec:
        head = self.heads.get(space.head(params))
        # what a head's networks give is standardised
        outputs = (
            {"num_outputs": len(self.output_columns), "output_activation": self.prepared[2].output_activation}
            if head is None
            else {"num_outputs": len(head.targets), "output_activation": "identity"}
        )
        return MLPSpec(
            num_inputs=len(self.input_columns),
            **outputs,
            **space.architecture(params),
        )

    def counts(self, space: Space, params: Mapping[str, object]) -> dict[str, float]:
        """What takes time in the network of a trial, once it is exported: see `hpo.latency_model.counts`."""
        inputs = self.prepared[2].inputs[space.input_transforms.index(space.transforms(params))]
        return counts(self.spec(space, params), space.head(params), inputs.transforms)

    def modelled(self, space: Space, params: Mapping[str, object]) -> dict[str, float]:
        """What the record of a trial says of its latency; nothing in a search that does not ask."""
        return {} if self.latency is None else {KEY: self.latency.ns(self.counts(space, params))}

    def flop(self, space: Space, params: Mapping[str, object], step: int) -> float:
        """Arithmetic of a trial if it runs all its epochs, plus what small layers cost beyond their arithmetic."""
        spec, recipe, data = self.spec(space, params), space.recipe(params, step), self.prepared[step]
        arithmetic = training_flop(spec, data.num_train, data.num_validation, recipe.max_epochs)
        return arithmetic + overhead_flop(spec.hidden, recipe, data.num_train)


# A step costs about 50 us per layer however narrow (measured, one core that does 60 GFLOP/s in such layers).
_OVERHEAD_FLOP = 3e6


def overhead_flop(hidden: Sequence[int], recipe: Recipe, num_train: int) -> float:
    """What the layers of a training of all its epochs cost beyond their arithmetic, as arithmetic."""
    steps = -(-num_train // recipe.batch_size) * recipe.max_epochs
    return _OVERHEAD_FLOP * steps * (len(hidden) + 2)


@dataclass(frozen=True)
class _Plan:
    """A task and what follows from it."""

    task: Task
    params: Mapping[str, object]
    spec: MLPSpec
    recipe: Recipe
    checkpoint: Checkpoint

    @property
    def writes(self) -> bool:
        """Whether checkpoints and the record are this worker's affair."""
        return self.task.seat is None or self.task.seat.rank == 0


class TrialRunner:
    """Runs the trials of one study in this process: one after the other on a CPU, several at once on a GPU.

    Parameters
    ----------
    context : StudyContext
    device : torch.device
    name : str
        Of the worker, for the records.
    capacity : int, optional
        Trials that may be under way at once; None: as fits the device.

    Attributes
    ----------
    capacity : int

    Raises
    ------
    SearchError
        The device cannot do what the study wants of it.
    """

    def __init__(self, context: StudyContext, device: torch.device, name: str, capacity: int | None = None):
        self.context, self.device, self.name = context, device, name
        self.space = context.space
        search = context.config.search
        streamed = any(p.stream for p in context.prepared.values())
        check_precision(search.precision, search.engine, device, streamed=streamed)
        use_precision(search.precision, device)
        self._fleet = Fleet(device, capacity)
        self.capacity = self._fleet.capacity
        self._plans: dict[tuple[int, int], _Plan] = {}
        self._data: dict[tuple[int, int, str], TrainingData | StreamedData] = {}

    @property
    def memory_bytes(self) -> int | None:
        """Memory of the device that this process holds; None on a CPU."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else None

    def start(self, task: Task) -> None:
        """Take a trial on. It goes on from its checkpoint, if there is one."""
        context, space = self.context, self.space
        params = task.params_in(space)
        path = checkpoint_path(context.folder, task.step, task.trial)
        plan = _Plan(
            task=task,
            params=params,
            spec=context.spec(space, params),
            recipe=space.recipe(params, task.step),
            checkpoint=Checkpoint(path, context.config.search.checkpoint_seconds, self.name),
        )
        key = (task.step, task.trial)
        self._plans[key] = plan
        self._fleet.start(key, lambda lane: self._training(plan, lane))

    def advance(self) -> list[tuple[Task, dict | Exception | None]]:
        """Work for about 0.2 s, less when a trial ends; what has ended comes with its record.

        The record is None for a seat other than the first: the first one's says it all. Networks are saved before.
        An exception is something unforeseen in that trial alone, or `Interrupted`: another seat stops the trial.
        """
        ended = []
        for landing in self._fleet.advance(_ADVANCE_SECONDS, self._write_if_due):
            plan = self._plans.pop(landing.key)
            try:
                result = self._result(plan, landing)
            except Exception as error:  # a network that cannot be saved
                result = error
            ended.append((plan.task, result))
        return ended

    def running(self) -> list[dict]:
        """What is under way: plain data for people to see."""
        return [
            {
                "step": flight.key[0],
                "trial": flight.key[1],
                "epoch": flight.training.epoch,
                "max_epochs": flight.training.recipe.max_epochs,
                "best_mse": flight.training.best_mse if flight.training.best_epoch else None,
                "since": flight.since,
            }
            for flight in self._fleet.flights
        ]

    def interrupt(self) -> None:
        """Write down what is under way, if it ran long enough to matter, and forget it."""
        for flight in self._fleet.flights:
            plan, training = self._plans[flight.key], flight.training
            with contextlib.suppress(GroupLost, Diverged):  # found out at a repetition
                training.agree_to_stop()
                if plan.writes and (plan.task.step == 2 or flight.seconds >= _WORTH_WRITING_SECONDS):
                    plan.checkpoint.write(training, flight.seconds)
        self._fleet.forget()
        self._plans.clear()

    def _training(self, plan: _Plan, lane) -> tuple[Progress, float]:
        task, space, search = plan.task, self.space, self.context.config.search
        variant = space.input_transforms.index(space.transforms(plan.params))
        data = self._samples(task.step, variant, space.head(plan.params))
        seeds = {
            f"{what}_seed": torch_seed(space.seed, task.trial, f"{what} of step {task.step}")
            for what in ("weights", "batch")
        }
        training: Progress
        if task.seat is not None or isinstance(data, StreamedData):
            training = group_training(task.seat, plan.spec, plan.recipe, data, **seeds)
        elif search.engine == "plain" or flat_refuses(vars(plan.spec) | vars(plan.recipe)):
            training = Training(plan.spec, plan.recipe, data, **seeds)
        else:
            training = FlatTraining(plan.spec, plan.recipe, data, **seeds, precision=search.precision, lane=lane)
        training.limits = dict(task.limits)
        return training, plan.checkpoint.restore(training) if plan.writes else 0.0

    def _write_if_due(self, flight: Flight) -> None:
        plan = self._plans[flight.key]
        if plan.writes:
            plan.checkpoint.write_if_due(flight.training, flight.seconds)

    def _result(self, plan: _Plan, landing: Landing) -> dict | Exception | None:
        """Record of a trial that has ended, or what else became of it."""
        flight, error = landing.flight, landing.error
        if is_out_of_memory(error):
            return failed_record(self.context, plan.task, f"out of memory on {self.device}: {error}", self.name)
        if isinstance(error, Interrupted) and plan.writes:
            plan.checkpoint.write(flight.training, flight.seconds)
        if error is not None and not isinstance(error, Diverged):
            return error
        if not plan.writes:
            return None
        task, search = plan.task, self.context.config.search
        outcome = outcome_of(flight.training, flight.seconds, None if error is None else str(error))
        model = None
        if outcome.weights is not None and (task.step == 2 or search.keep_step1_models):
            model = f"step{task.step}/models/trial-{task.trial:06d}.pt"
            self._save(self.context.folder / model, task, plan.params, plan.spec, plan.recipe, outcome)
        return make_record(task, plan.params, plan.spec, plan.recipe, outcome, worker=self.name, model=model)

    def _samples(self, step: int, variant: int, head: str) -> TrainingData | StreamedData:
        key = (step, variant, head)
        if key not in self._data:
            for other in [k for k in self._data if k[0] != step]:
                del self._data[other]
            self._data[key] = self._open(*key)
        return self._data[key]

    def _open(self, step: int, variant: int, head: str) -> TrainingData | StreamedData:
        prepared = self.context.prepared[step]
        direct = None
        if head != DIRECT:
            normalisers = prepared.inputs[variant], prepared.targets[head], prepared.outputs
            direct = DirectOutputs(self.context.heads[head], *normalisers, self.device, torch.float32)
        if prepared.stream:
            return open_data(prepared, variant, self.device, head, direct)
        tensors = self._resident(step, variant, prepared.files(variant, head))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # lanes have streams of their own
        return TrainingData(
            x_train_NI=tensors["x_train"],
            y_train_NO=tensors["y_train"],
            x_validation_NI=tensors["x_validation"],
            y_validation_NO=tensors["y_validation"],
            direct=direct,
        )

    def _resident(self, step: int, variant: int, files: Mapping[str, Path]) -> dict[str, torch.Tensor]:
        """Samples on the device; what another head's data have there already is shared."""
        names = ("x_train", "y_train", "x_validation", "y_validation")
        there = {}
        for (of_step, of_variant, head), data in self._data.items():
            if of_step == step:
                held = (data.x_train_NI, data.y_train_NO, data.x_validation_NI, data.y_validation_NO)
                paths = self.context.prepared[step].files(of_variant, head)
                there |= {paths[name]: tensor for name, tensor in zip(names, held, strict=True)}
        return {
            name: there[path] if path in there else torch.from_numpy(np.load(path, mmap_mode="c")).to(self.device)
            for name, path in files.items()
        }

    def _save(self, path, task, params, spec, recipe, outcome) -> None:
        context = self.context
        prepared, head = context.prepared[task.step], self.space.head(params)
        save_bundle(
            path,
            spec=spec,
            state=outcome.weights,
            inputs=prepared.inputs[self.space.input_transforms.index(self.space.transforms(params))],
            outputs=prepared.outputs,
            input_columns=context.input_columns,
            output_columns=context.output_columns,
            head=context.heads.get(head),
            targets=prepared.targets.get(head),
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
        "state": "failed" if outcome.error else "pruned" if outcome.pruned else "complete",
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
    params = task.params_in(space)
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
