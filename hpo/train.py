"""Training of one network: the plain loop, which every faster one is measured against.

Data lie on the device as whole tensors; a batch is a gather by a shuffled index; nothing waits for the device
inside an epoch. Initial weights and batch order come from generators on the CPU, so that they are the same on any
device.

Axis legend: N samples, B batch, I inputs, O outputs.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from emulator.heads import Head
from emulator.mlp import ColumnTransform, MLPSpec
from emulator.normalise import Normaliser
from hpo.network import TrainedNetwork, loss_sum
from hpo.optimizers import Optimizer
from hpo.recipe import Recipe

# Validation rows taken through the network at a time: on a CPU few enough for the activations of a wide layer to
# stay in the cache, on a GPU enough to fill it.
VALIDATION_ROWS = {"cpu": 2048, "cuda": 1 << 16}
# An epoch is cut into pieces of about 0.1 s of one core, between which a training can be left and written down.
_PIECE_FLOP = 1e10
_MAX_PIECE_STEPS = 32
_VALIDATION_PIECE_ROWS = 2048
# Weights of this squared norm are divergence, though a sigmoid output may hide it from the MSE: what is left of a
# float32 number after a sum with them is nothing.
_LARGEST_SQUARED_NORM = 1e30


class DirectOutputs:
    """From what networks with an output head give to the outputs, both normalised, as validation needs them.

    Parameters
    ----------
    head : Head
    inputs, targets, outputs : Normaliser
        Of the network's inputs, of what it gives, of the outputs.
    device : torch.device
    dtype : torch.dtype
        Of the arithmetic: float32 is good to 1e-6 of an output's range.
    """

    def __init__(self, head: Head, inputs: Normaliser, targets: Normaliser, outputs: Normaliser, device, dtype):
        self._head, self.num_outputs = head, len(outputs.transforms)
        self._inputs, self._targets = (ColumnTransform(n, inverse=True).to(device, dtype) for n in (inputs, targets))
        self._outputs = ColumnTransform(outputs, inverse=False).to(device, dtype)

    def __call__(self, x_BI: torch.Tensor, t_BT: torch.Tensor) -> torch.Tensor:
        """Outputs (B, O) of inputs and what a network gave for them."""
        return self._outputs(self._head.outputs(self._inputs(x_BI), self._targets(t_BT.to(x_BI.dtype))))


def direct_outputs(data, x_BI: torch.Tensor, y_BO: torch.Tensor) -> torch.Tensor:
    """Outputs that a network's result means, with a head or without, for data of any kind."""
    return y_BO if data.direct is None else data.direct(x_BI, y_BO)


@dataclass(frozen=True)
class TrainingData:
    """Normalised samples on one device, float32 (or float64: the deterministic mode of tests).

    With an output head `y_train_NO` is what the network is to predict, `y_validation_NO` still the outputs, and
    `direct` leads from the one to the other.
    """

    x_train_NI: torch.Tensor
    y_train_NO: torch.Tensor
    x_validation_NI: torch.Tensor
    y_validation_NO: torch.Tensor
    direct: DirectOutputs | None = None

    @property
    def device(self) -> torch.device:
        return self.x_train_NI.device

    @property
    def dtype(self) -> torch.dtype:
        return self.x_train_NI.dtype

    @property
    def num_train(self) -> int:
        return len(self.x_train_NI)

    @property
    def num_validation(self) -> int:
        return len(self.x_validation_NI)

    @property
    def num_outputs(self) -> int:
        return self.y_train_NO.shape[1]

    @property
    def num_direct(self) -> int:
        """Outputs that the validation MSE is a mean over."""
        return self.num_outputs if self.direct is None else self.direct.num_outputs


class Diverged(Exception):
    """A loss became infinite or NaN, or the weights beyond all bounds; the message says which and when."""


class Progress:
    """What all kinds of training share: epochs counted, curves kept, the end decided, and the state between.

    A training is advanced piece by piece, each bounded in time, and can be written down between any two of them.
    A subclass gives the four methods below that raise NotImplementedError, and `_keep_best`.

    Attributes
    ----------
    limits : mapping of int to float
        Largest least validation MSE after so many epochs with which the training goes on.
    """

    def __init__(self, recipe: Recipe, *, batch_seed: int):
        self.recipe = recipe
        self._order = torch.Generator().manual_seed(batch_seed)
        self.epoch = 0
        self.best_epoch = 0
        self.best_mse = math.inf
        self.train_curve: list[float] = []
        self.validation_curve: list[float] = []
        self.limits: Mapping[int, float] = {}

    @property
    def done(self) -> bool:
        return self._complete or self._beyond_limit

    @property
    def pruned(self) -> bool:
        """Whether it ended at one of its limits, and would have gone on."""
        return self._beyond_limit and not self._complete

    @property
    def _complete(self) -> bool:
        recipe = self.recipe
        stale = recipe.patience > 0 and self.epoch - self.best_epoch >= recipe.patience
        return self.epoch >= recipe.max_epochs or stale

    @property
    def _beyond_limit(self) -> bool:
        return self.best_mse > self.limits.get(self.epoch, math.inf)

    @property
    def waiting(self) -> bool:
        """The device has work of this training that is not through: `advance` would do nothing."""
        return False

    def wait(self) -> None:
        """Until `waiting` is false."""

    def settle(self) -> None:
        """Wait for the device and take in what it has done, so that `state` can be asked for.

        Raises
        ------
        Diverged
        """

    def close(self) -> None:
        """It is not needed any more, whether done or not."""

    def agree_to_stop(self) -> None:
        """Come to a point at which all processes that train this together can stop; alone, any point will do."""

    def advance(self) -> bool:
        """Do the next piece of work; true when it ended an epoch.

        Raises
        ------
        Diverged
            The epoch ended with an MSE that is NaN or infinite, or with unbounded weights.
        """
        raise NotImplementedError

    def run_epoch(self) -> None:
        """Train to the end of the epoch, validate, keep the best weights.

        Raises
        ------
        Diverged
        """
        while not self.advance():
            self.wait()

    def best_weights(self) -> dict[str, torch.Tensor]:
        """Weights of the epoch with the least validation MSE, by name, on the CPU."""
        raise NotImplementedError

    def _keep_best(self) -> None:
        raise NotImplementedError

    def _rate(self, step: int, num_steps: int) -> float:
        """Learning rate of a step counted from the begin of the training; `num_steps` are an epoch."""
        return self.recipe.rate_at(step / (self.recipe.max_epochs * num_steps), self.validation_curve)

    def _end_epoch(self, train_mse: float, mse: float, squared_norm: float) -> None:
        self.epoch += 1
        for name, value in (("training", train_mse), ("validation", mse)):
            if not math.isfinite(value):
                raise Diverged(
                    f"{name} MSE is {value} in epoch {self.epoch} (learning rate {self.recipe.learning_rate:g})"
                )
        if not squared_norm < _LARGEST_SQUARED_NORM:
            raise Diverged(
                f"weights are beyond all bounds in epoch {self.epoch} (learning rate {self.recipe.learning_rate:g})"
            )
        self.train_curve.append(train_mse)
        self.validation_curve.append(mse)
        if mse < self.best_mse:
            self.best_mse, self.best_epoch = mse, self.epoch
            self._keep_best()

    # -- being written down and taken up again --------------------------------------------------------------------

    def state(self) -> dict:
        """Everything that the rest of the training depends on: tensors and plain data, the same for all kinds.

        Weights, best weights and the optimizer's two moments are each one flat tensor, layer by layer, weight (O, I)
        before bias; so are the running statistics of batch normalization, where there are any. `order` is the generator
        at the start of the epoch, `position` the pieces done since, and `sums` the sums of squared errors so far.
        """
        raise NotImplementedError

    def restore(self, state: dict) -> None:
        """Go on from `state()` of a training with the same spec, recipe and data."""
        raise NotImplementedError

    def _progress_state(self) -> dict:
        return {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_mse": self.best_mse,
            "train_curve": list(self.train_curve),
            "validation_curve": list(self.validation_curve),
        }

    def _restore_progress(self, state: dict) -> None:
        self._order.set_state(state["order"])
        for name in ("epoch", "best_epoch", "best_mse"):
            setattr(self, name, state[name])
        self.train_curve, self.validation_curve = list(state["train_curve"]), list(state["validation_curve"])


class Training(Progress):
    """The plain loop: PyTorch's modules, autograd and optimizer.

    Parameters
    ----------
    spec : MLPSpec
    recipe : Recipe
    data : TrainingData
    weights_seed, batch_seed : int
        Of the initial weights and of the order of samples.
    """

    def __init__(self, spec: MLPSpec, recipe: Recipe, data: TrainingData, *, weights_seed: int, batch_seed: int):
        super().__init__(recipe, batch_seed=batch_seed)
        self.data = data
        self._network = TrainedNetwork(
            spec, recipe, device=data.device, dtype=data.dtype, weights_seed=weights_seed, batch_seed=batch_seed
        )
        self.network, self._weights = self._network.module, self._network.weights
        self._best = [torch.empty_like(w) for w in self._weights]
        self._optimizer = Optimizer(recipe, self._weights)
        self._pieces = pieces_of_an_epoch(spec, recipe, data)
        self._position = 0
        self._order_state = self._order.get_state()
        self._train_sum = self._validation_sum = None

    def advance(self) -> bool:
        if self._position == 0:
            self._begin_epoch()
        piece = self._pieces[self._position]
        (self._train if piece.train else self._validate)(piece)
        self._position += 1
        if self._position < len(self._pieces):
            return False
        self._position = 0
        with torch.no_grad():
            squared_norm = float(torch.stack([w.flatten().dot(w.flatten()) for w in self._weights]).sum())
        self._end_epoch(
            float(self._train_sum) / len(self.data.x_train_NI),
            float(self._validation_sum) / self.data.y_validation_NO.numel(),
            squared_norm,
        )
        return True

    def _begin_epoch(self) -> None:
        data = self.data
        self._order_state = self._order.get_state()
        order_N = epoch_order(data.num_train, self._order)
        self._order_N = order_N.to(data.device, non_blocking=True)
        self._train_sum = torch.zeros((), dtype=torch.float64, device=data.device)
        self._validation_sum = torch.zeros((), dtype=torch.float64, device=data.device)

    def _train(self, piece: Piece) -> None:
        recipe, data, optimizer = self.recipe, self.data, self._optimizer
        num_steps = math.ceil(len(data.x_train_NI) / recipe.batch_size)
        batches = self._order_N[piece.start : piece.stop].split(recipe.batch_size)
        first = self.epoch * num_steps + piece.start // recipe.batch_size
        for step, rows_B in enumerate(batches, start=first):
            if recipe.rate_varies:
                optimizer.set_rate(self._rate(step, num_steps))
            self._network.begin_step(step, len(rows_B))
            y_BO = self.network(data.x_train_NI.index_select(0, rows_B))
            target_BO = data.y_train_NO.index_select(0, rows_B)
            if recipe.loss == "mse":
                loss = functional.mse_loss(y_BO, target_BO)
                mse = loss.detach()
            else:
                loss = loss_sum(recipe, y_BO, target_BO) / target_BO.numel()
                mse = functional.mse_loss(y_BO.detach(), target_BO)
            loss.backward()
            if recipe.gradient_clip > 0.0:
                nn.utils.clip_grad_norm_(self._weights, recipe.gradient_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self._train_sum.add_(mse, alpha=len(rows_B))

    def _validate(self, piece: Piece) -> None:
        data, rows = self.data, VALIDATION_ROWS[self.data.device.type]
        x_NI, y_NO = (t[piece.start : piece.stop] for t in (data.x_validation_NI, data.y_validation_NO))
        self._network.begin_validation()
        with torch.inference_mode():
            for x_BI, y_BO in zip(x_NI.split(rows), y_NO.split(rows), strict=True):
                found_BO = direct_outputs(data, x_BI, self.network(x_BI))
                self._validation_sum += (found_BO - y_BO).square_().sum(dtype=torch.float64)

    def _keep_best(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self._best, self._weights)
            self._network.keep_best()

    def best_weights(self) -> dict[str, torch.Tensor]:
        names = [name for name, _ in self.network.named_parameters()]
        weights = {n: w.detach().cpu().clone() for n, w in zip(names, self._best, strict=True)}
        return weights | self._network.named_running()

    def state(self) -> dict:
        moments = self._optimizer.moments()
        return {
            **self._progress_state(),
            **self._optimizer.plain_state(),
            "weights": flat_weights(self._weights),
            "best": flat_weights(self._best),
            **{name: m and flat_weights(m) for name, m in moments.items()},
            **running_state(self._network),
            "order": self._order_state if self._position else self._order.get_state(),
            "position": self._position,
            "sums": [float(self._train_sum), float(self._validation_sum)] if self._position else [0.0, 0.0],
        }

    def restore(self, state: dict) -> None:
        self._restore_progress(state)
        unflatten(state["weights"], self._weights)
        unflatten(state["best"], self._best)
        restore_running(self._network, state)
        self._optimizer.begin_at(state)
        for name, moments in self._optimizer.moments().items():
            if moments is not None:
                unflatten(state[name], moments)
        self._position = state["position"]
        if self._position:
            self._begin_epoch()
            self._train_sum += state["sums"][0]
            self._validation_sum += state["sums"][1]


def flat_weights(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """One after the other, on the CPU."""
    return torch.cat([t.detach().flatten() for t in tensors]).cpu()


def running_state(network: TrainedNetwork) -> dict[str, torch.Tensor]:
    """Running statistics, now and in the best epoch, of a network that has any."""
    if not network.running:
        return {}
    return {"running": flat_weights(network.running), "best_running": flat_weights(network.best_running)}


def restore_running(network: TrainedNetwork, state: dict) -> None:
    """Take up `running_state`."""
    if network.running:
        unflatten(state["running"], network.running)
        unflatten(state["best_running"], network.best_running)


def unflatten(flat: torch.Tensor, tensors: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for part, tensor in zip(flat.split([t.numel() for t in tensors]), tensors, strict=True):
            tensor.copy_(part.view_as(tensor))


@dataclass(frozen=True)
class Piece:
    """Rows `start` to `stop` of the shuffled training part, whole batches, or of the validation part."""

    train: bool
    start: int
    stop: int


def epoch_order(num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """Order of the samples in the next epoch, on the CPU: the same for every kind of training and device."""
    return torch.randperm(num_samples, generator=generator)


def pieces_of_an_epoch(spec: MLPSpec, recipe: Recipe, data: TrainingData) -> list[Piece]:
    """How an epoch is cut up so that no piece takes long; the same for every kind of training and device."""
    pieces = []
    for train, batch, num_samples in (
        (True, recipe.batch_size, data.num_train),
        (False, _VALIDATION_PIECE_ROWS, data.num_validation),
    ):
        one = training_flop(spec, batch, 0, 1) if train else training_flop(spec, 0, batch, 1)
        rows = batch * max(1, min(_MAX_PIECE_STEPS, int(_PIECE_FLOP / one)))
        pieces += [Piece(train, k, min(k + rows, num_samples)) for k in range(0, num_samples, rows)]
    return pieces


@dataclass(frozen=True)
class Outcome:
    """What one training came to.

    `error` is None, or why it failed; `weights` are those of the best epoch, None after a failure; `pruned`: it ended
    at one of its limits.
    """

    validation_mse: float | None
    best_epoch: int
    epochs: int
    train_curve: list[float]
    validation_curve: list[float]
    seconds: float
    error: str | None
    weights: dict[str, torch.Tensor] | None
    pruned: bool = False


def outcome_of(training: Progress, seconds: float, error: str | None = None) -> Outcome:
    """Of a training that is done, or that failed for the reason given."""
    return Outcome(
        validation_mse=None if error else training.best_mse,
        best_epoch=training.best_epoch,
        epochs=training.epoch,
        train_curve=training.train_curve,
        validation_curve=training.validation_curve,
        seconds=seconds,
        error=error,
        weights=None if error else training.best_weights(),
        pruned=not error and training.pruned,
    )


def train(training: Progress) -> Outcome:
    """Run a training to its end."""
    start = time.perf_counter()
    error = None
    try:
        while not training.done:
            training.run_epoch()
    except Diverged as reason:
        error = str(reason)
    return outcome_of(training, time.perf_counter() - start, error)


def training_flop(spec: MLPSpec, num_train: int, num_validation: int, epochs: int) -> float:
    """Floating-point operations of `epochs` epochs: three products per layer and training sample (forward, by
    weights, by inputs; the last not for the first layer), one per validation sample."""
    products = sum(_products(spec))
    first = spec.widths[0] * spec.widths[1]
    return 2.0 * epochs * (num_train * (3 * products - first) + num_validation * products)


def _products(spec: MLPSpec) -> Iterator[int]:
    return (a * b for a, b in itertools.pairwise(spec.widths))
