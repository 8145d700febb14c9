"""Processes that train one network together, for the tests of groups."""

import json
import multiprocessing
import os
import signal
import traceback
from dataclasses import replace
from pathlib import Path

import torch

from emulator.mlp import MLPSpec
from hpo import distributed, groups
from hpo.errors import Interrupted
from hpo.recipe import Recipe
from hpo.stream import StreamedData
from hpo.train import Diverged, TrainingData

SPEC = MLPSpec(num_inputs=3, hidden=(24, 16, 8), num_outputs=2)
SEEDS = {"weights_seed": 1, "batch_seed": 2}


def samples(dtype=torch.float32, n=700, m=301):
    """A smooth function; numbers of samples that no number of ranks divides."""
    g = torch.Generator().manual_seed(5)
    x = torch.randn(n + m, 3, generator=g, dtype=torch.float64)
    y = torch.sigmoid(torch.stack([x[:, 0] * x[:, 1], torch.sin(2 * x[:, 2])], dim=1))
    x, y = x.to(dtype), y.to(dtype)
    return TrainingData(x[:n], y[:n], x[n:], y[n:])


def curves(training):
    return {"train": training.train_curve, "validation": training.validation_curve, "best": training.best_epoch}


def seats(folder, size):
    """Seats of a closed group."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [groups.Seat(rank=r, size=size, attempt=folder.name, folder=folder) for r in range(size)]


def start(folder, size, body, *arguments):
    """Start `size` processes that run body(training_of, *arguments), which returns plain data."""
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_run, args=(seat, body, arguments), daemon=True) for seat in seats(folder, size)]
    for process in processes:
        process.start()
    return processes


def results(folder, processes, timeout=300):
    """What each process returned; fails if one does not end."""
    for process in processes:
        process.join(timeout)
        assert process.exitcode is not None, "a rank does not end"
    paths = [Path(folder) / f"result-{r}" for r in range(len(processes))]
    return [json.loads(path.read_text()) if path.exists() else None for path in paths]


def together(folder, size, body, *arguments):
    return results(folder, start(folder, size, body, *arguments))


def _run(seat, body, arguments):
    torch.set_num_threads(1)

    def training_of(recipe, data, spec=SPEC):
        return distributed.group_training(seat, spec, recipe, data, **SEEDS)

    try:
        result = body(training_of, *arguments)
    except Exception as error:
        traceback.print_exc()
        result = {"error": type(error).__name__, "text": str(error)}
    (seat.folder / f"result-{seat.rank}").write_text(json.dumps(result))


# -- bodies --------------------------------------------------------------------------------------------------------


def whole(training_of, recipe, dtype, network=None, num_train=700, checkpoint=None):
    """A training from start, or from where rank 0 takes it up, to end."""
    data = samples(getattr(torch, dtype), n=num_train)
    training = training_of(Recipe(**recipe), data, replace(SPEC, **(network or {})))
    if checkpoint is not None and training.rank == 0:
        training.restore(torch.load(checkpoint, weights_only=True))
    error = None
    try:
        while not training.done:
            training.advance()
    except Diverged as reason:
        error = str(reason)
    weights = [float(w.double().sum()) for w in training.best_weights().values()]
    training.close()
    return curves(training) | {"error": error, "weights": weights}


def stopped(training_of, recipe, stopper, after, checkpoint):
    """One rank wants to stop after so many advances; rank 0 writes the state down."""
    training = training_of(Recipe(**recipe), samples(torch.float64))
    rank = training.rank
    advances = 0
    try:
        while not training.done:
            training.advance()
            advances += training.met
            if rank == stopper and advances >= after:
                training.agree_to_stop()
                break
        how = "done" if training.done else "own"
    except Interrupted:
        how = "other"
    state = training.state()
    if rank == 0:
        torch.save(state, checkpoint)
    training.close()
    return {"how": how, "epoch": state["epoch"], "position": state["position"]}


def resumed(training_of, recipe, checkpoint):
    """Go on from a checkpoint that only rank 0 has."""
    training = training_of(Recipe(**recipe), samples(torch.float64))
    if training.rank == 0:
        training.restore(torch.load(checkpoint, weights_only=True))
    while not training.done:
        training.advance()
    training.close()
    return curves(training)


def killed(training_of, recipe, victim, after, how="SIGKILL", patience=60.0):
    """One rank dies, or stops, without a word."""
    distributed.SILENCE_SECONDS = patience
    training = training_of(Recipe(**recipe), samples(torch.float64))
    while training.epoch < after:
        training.advance()
    if training.rank == victim:
        os.kill(os.getpid(), getattr(signal, how))
    while not training.done:
        training.advance()
    return {}


def fails(training_of, recipe, victim):
    """One rank meets an error of its own."""
    training = training_of(Recipe(**recipe), samples(torch.float64))
    while training.epoch < 2:
        training.advance()
    if training.rank == victim:
        training._optimizer.step = _no_memory
    while not training.done:
        training.advance()
    return {}


def _no_memory():
    raise MemoryError("no memory left")


def streamed(training_of, recipe, folder, sizes):
    """A training from files, from start to end."""
    data = samples(torch.float64)
    data = StreamedData(
        files={n: Path(folder) / f"{n}.npy" for n in ("x_train", "y_train", "x_validation", "y_validation")},
        device=torch.device("cpu"),
        num_train=data.num_train,
        num_validation=data.num_validation,
        num_outputs=data.num_outputs,
        dtype=data.dtype,
        **sizes,
    )
    training = training_of(Recipe(**recipe), data)
    while not training.done:
        training.advance()
    training.close()
    return curves(training)
