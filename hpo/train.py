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
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from emulator.mlp import MLPSpec, build_mlp
from hpo.recipe import Recipe

# Keras' Adam, with which the paper trained, adds 1e-7 where PyTorch adds 1e-8.
ADAM_EPSILON = 1e-7
# Validation rows taken through the network at a time: on a CPU few enough for the activations of a wide layer to
# stay in the cache, on a GPU enough to fill it.
_VALIDATION_ROWS = {"cpu": 2048, "cuda": 1 << 16}
# In a long epoch the stop signal is looked for every so many steps.
_STEPS_BETWEEN_LOOKS = 64


@dataclass(frozen=True)
class TrainingData:
    """Normalised float32 samples on one device."""

    x_train_NI: torch.Tensor
    y_train_NO: torch.Tensor
    x_validation_NI: torch.Tensor
    y_validation_NO: torch.Tensor

    @property
    def device(self) -> torch.device:
        return self.x_train_NI.device


class Diverged(Exception):
    """A loss became infinite or NaN; the message says which and when."""


class Training:
    """One training, advanced epoch by epoch, which can be written down and taken up again between epochs.

    Parameters
    ----------
    spec : MLPSpec
    recipe : Recipe
    data : TrainingData
    weights_seed, batch_seed : int
        Of the initial weights and of the order of samples.
    """

    def __init__(self, spec: MLPSpec, recipe: Recipe, data: TrainingData, *, weights_seed: int, batch_seed: int):
        self.recipe, self.data = recipe, data
        network = build_mlp(spec, torch.Generator().manual_seed(weights_seed))
        for module in network:
            if isinstance(module, nn.ReLU):
                module.inplace = True  # the layer's own output is not needed again: saves an allocation
        self.network = network.to(data.device)
        self._weights = list(self.network.parameters())
        self._best = [torch.empty_like(w) for w in self._weights]
        kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
        self._optimizer = kind(
            self._weights,
            lr=recipe.learning_rate,
            eps=ADAM_EPSILON,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._order = torch.Generator().manual_seed(batch_seed)
        self.epoch = 0
        self.best_epoch = 0
        self.best_mse = math.inf
        self.train_curve: list[float] = []
        self.validation_curve: list[float] = []

    @property
    def done(self) -> bool:
        recipe = self.recipe
        stale = recipe.patience > 0 and self.epoch - self.best_epoch >= recipe.patience
        return self.epoch >= recipe.max_epochs or stale

    def run_epoch(self, look: Callable[[], None] = lambda: None) -> None:
        """Train one epoch, validate, keep the best weights.

        `look` is called now and then; an exception it raises leaves the epoch unfinished and the training unusable.

        Raises
        ------
        Diverged
            The training or validation MSE is NaN or infinite.
        """
        train_mse = self._train_epoch(look)
        mse = self._validate(look)
        self.epoch += 1
        for name, value in (("training", train_mse), ("validation", mse)):
            if not math.isfinite(value):
                raise Diverged(
                    f"{name} MSE is {value} in epoch {self.epoch} (learning rate {self.recipe.learning_rate:g})"
                )
        self.train_curve.append(train_mse)
        self.validation_curve.append(mse)
        if mse < self.best_mse:
            self.best_mse, self.best_epoch = mse, self.epoch
            with torch.no_grad():
                torch._foreach_copy_(self._best, self._weights)

    def _train_epoch(self, look) -> float:
        recipe, data, network, optimizer = self.recipe, self.data, self.network, self._optimizer
        num_samples = len(data.x_train_NI)
        order_N = torch.randperm(num_samples, generator=self._order).to(data.device, non_blocking=True)
        num_steps = math.ceil(num_samples / recipe.batch_size)
        total = torch.zeros((), device=data.device)
        for step, rows_B in enumerate(order_N.split(recipe.batch_size)):
            if step % _STEPS_BETWEEN_LOOKS == _STEPS_BETWEEN_LOOKS - 1:
                look()
            if recipe.learning_rate_schedule != "constant":
                progress = (self.epoch * num_steps + step) / (recipe.max_epochs * num_steps)
                optimizer.param_groups[0]["lr"] = recipe.rate_at(progress)
            y_BO = network(data.x_train_NI.index_select(0, rows_B))
            loss = functional.mse_loss(y_BO, data.y_train_NO.index_select(0, rows_B))
            loss.backward()
            if recipe.gradient_clip > 0.0:
                nn.utils.clip_grad_norm_(self._weights, recipe.gradient_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            total.add_(loss.detach(), alpha=len(rows_B))
        return float(total) / num_samples

    def _validate(self, look) -> float:
        data = self.data
        total = torch.zeros((), dtype=torch.float64, device=data.device)
        rows = _VALIDATION_ROWS[data.device.type]
        chunks = zip(data.x_validation_NI.split(rows), data.y_validation_NO.split(rows), strict=True)
        with torch.inference_mode():
            for k, (x_BI, y_BO) in enumerate(chunks):
                if k % _STEPS_BETWEEN_LOOKS == _STEPS_BETWEEN_LOOKS - 1:
                    look()
                total += (self.network(x_BI) - y_BO).square_().sum(dtype=torch.float64)
        return float(total) / data.y_validation_NO.numel()

    def best_weights(self) -> dict[str, torch.Tensor]:
        """Weights of the epoch with the least validation MSE, by name, on the CPU."""
        names = [name for name, _ in self.network.named_parameters()]
        return {n: w.detach().cpu().clone() for n, w in zip(names, self._best, strict=True)}

    # -- being written down and taken up again --------------------------------------------------------------------

    def state(self) -> dict:
        """Everything that the rest of the training depends on: tensors and plain data."""
        return {
            "weights": [w.detach().cpu().clone() for w in self._weights],
            "best": [w.cpu() for w in self._best],
            "optimizer": self._optimizer.state_dict(),
            "order": self._order.get_state(),
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_mse": self.best_mse,
            "train_curve": self.train_curve,
            "validation_curve": self.validation_curve,
        }

    def restore(self, state: dict) -> None:
        """Go on from `state()` of a training with the same spec, recipe and data."""
        with torch.no_grad():
            for ours, theirs in itertools.chain(
                zip(self._weights, state["weights"], strict=True), zip(self._best, state["best"], strict=True)
            ):
                ours.copy_(theirs)
        self._optimizer.load_state_dict(state["optimizer"])
        self._order.set_state(state["order"])
        for name in ("epoch", "best_epoch", "best_mse"):
            setattr(self, name, state[name])
        self.train_curve, self.validation_curve = list(state["train_curve"]), list(state["validation_curve"])


@dataclass(frozen=True)
class Outcome:
    """What one training came to.

    `error` is None, or why it failed; `weights` are those of the best epoch, None after a failure.
    """

    validation_mse: float | None
    best_epoch: int
    epochs: int
    train_curve: list[float]
    validation_curve: list[float]
    seconds: float
    error: str | None
    weights: dict[str, torch.Tensor] | None


def train(
    training: Training,
    *,
    look: Callable[[], None] = lambda: None,
    after_epoch: Callable[[Training, float], None] = lambda training, seconds: None,
    seconds_before: float = 0.0,
) -> Outcome:
    """Run a training to its end.

    Parameters
    ----------
    training : Training
        Fresh, or restored from a checkpoint.
    look : function
        Called inside long epochs; may raise to abandon the training.
    after_epoch : function of the training and the seconds spent so far
        Called after every epoch but the last; may write checkpoints, may raise.
    seconds_before : float
        Spent before a checkpoint was restored.
    """
    start = time.perf_counter() - seconds_before
    error = None
    try:
        while not training.done:
            training.run_epoch(look)
            if not training.done:
                after_epoch(training, time.perf_counter() - start)
    except Diverged as reason:
        error = str(reason)
    return Outcome(
        validation_mse=None if error else training.best_mse,
        best_epoch=training.best_epoch,
        epochs=training.epoch,
        train_curve=training.train_curve,
        validation_curve=training.validation_curve,
        seconds=time.perf_counter() - start,
        error=error,
        weights=None if error else training.best_weights(),
    )


def training_flop(spec: MLPSpec, num_train: int, num_validation: int, epochs: int) -> float:
    """Floating-point operations of `epochs` epochs: three products per layer and training sample (forward, by
    weights, by inputs; the last not for the first layer), one per validation sample."""
    products = sum(_products(spec))
    first = spec.widths[0] * spec.widths[1]
    return 2.0 * epochs * (num_train * (3 * products - first) + num_validation * products)


def _products(spec: MLPSpec) -> Iterator[int]:
    return (a * b for a, b in itertools.pairwise(spec.widths))
