"""The network while it is trained by PyTorch's autograd: dropout, batch normalization over ranks, the loss.

Axis legend: B batch, O outputs, W features of a layer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from emulator.mlp import NORM_EPSILON, BatchNorm, MLPSpec, build_mlp, layer_names
from hpo import products
from hpo.recipe import Recipe

# 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming 3, 6.4): seeds of neighbouring steps differ
# in all their bits.
_SEED_STRIDE = 0x9E3779B97F4A7C15


class TrainedNetwork:
    """A network as `build_mlp` makes it, and what only its training knows.

    What is left out by dropout depends on the seed, the number of the step and the place in the batch alone: not on
    what ran before, nor on how many ranks share the batch.

    Parameters
    ----------
    spec : MLPSpec
    recipe : Recipe
    device : torch.device
    dtype : torch.dtype
    weights_seed, batch_seed : int
    add_up : function, optional
        Replaces a tensor by its sum over all ranks; None: there are no others.

    Attributes
    ----------
    module : torch.nn.Sequential
    weights : list of torch.nn.Parameter
    running : list of torch.Tensor
        Running statistics of batch normalization.
    best_running : list of torch.Tensor
        The same of the best epoch.
    """

    def __init__(
        self,
        spec: MLPSpec,
        recipe: Recipe,
        *,
        device: torch.device,
        dtype: torch.dtype,
        weights_seed: int,
        batch_seed: int,
        add_up: Callable[[torch.Tensor], None] | None = None,
    ):
        generator = torch.Generator().manual_seed(weights_seed)
        self.module = build_mlp(spec, generator, _SharedBatchNorm, recipe.initialization)
        for layer in self.module:
            if isinstance(layer, nn.ReLU):
                layer.inplace = True  # the layer's own output is not needed again: saves an allocation
        products.with_wide_layers(self.module.to(device, dtype))
        self.weights = list(self.module.parameters())
        self.running = list(self.module.buffers())
        self.best_running = [b.clone() for b in self.running]
        self._norms = [m for m in self.module if isinstance(m, _SharedBatchNorm)]
        for norm in self._norms:
            norm.add_up = add_up
        self._drop, self._seed = recipe.dropout, batch_seed
        self._masks = torch.Generator(device)
        self._batch = (0, 0)  # rows of the whole batch, and the first that is ours
        if self._drop > 0.0:
            for layer in layer_names(spec)[:-1]:
                self.module.get_submodule(layer.activation).register_forward_hook(self._drop_some)

    @property
    def is_shared(self) -> bool:
        """Whether all ranks must take part in every step, those without rows too."""
        return bool(self._norms)

    def begin_step(self, step: int, num_batch: int, first: int = 0) -> None:
        """Before the forward pass of a training step.

        Parameters
        ----------
        step : int
            Counted from the begin of the training.
        num_batch : int
            Rows of the whole batch.
        first : int
            The first of them that is ours.
        """
        if not self.module.training:
            self.module.train()
        for norm in self._norms:
            norm.num_batch = num_batch
            norm.train(num_batch > 1)  # one sample has no variance: it is scaled as in validation
        if self._drop > 0.0:
            self._batch = (num_batch, first)
            self._masks.manual_seed((self._seed + _SEED_STRIDE * (step + 1)) % (1 << 63))

    def begin_validation(self) -> None:
        self.module.eval()

    def keep_best(self) -> None:
        for best, now in zip(self.best_running, self.running, strict=True):
            best.copy_(now)

    def named_running(self) -> dict[str, torch.Tensor]:
        """Running statistics of the best epoch, by name, on the CPU."""
        names = [name for name, _ in self.module.named_buffers()]
        return {n: b.cpu().clone() for n, b in zip(names, self.best_running, strict=True)}

    def _drop_some(self, module: nn.Module, arguments: tuple, y_BW: torch.Tensor) -> torch.Tensor | None:
        if not module.training:
            return None
        num_batch, first = self._batch
        kept, size = 1.0 - self._drop, (num_batch, y_BW.shape[1])
        mask_BW = torch.empty(size, dtype=y_BW.dtype, device=y_BW.device)
        mask_BW.bernoulli_(kept, generator=self._masks).div_(kept)
        return y_BW * mask_BW[first : first + len(y_BW)]


def loss_sum(recipe: Recipe, y_BO: torch.Tensor, target_BO: torch.Tensor) -> torch.Tensor:
    """The loss, added up over samples and outputs."""
    if recipe.loss == "mae":
        return functional.l1_loss(y_BO, target_BO, reduction="sum")
    if recipe.loss == "huber":
        return functional.huber_loss(y_BO, target_BO, reduction="sum", delta=recipe.huber_delta)
    return (y_BO - target_BO).square().sum()


class _SharedBatchNorm(BatchNorm):
    """Batch normalization by the statistics of the whole batch, of which every rank has a part."""

    add_up: Callable[[torch.Tensor], None] | None = None
    num_batch = 0

    def forward(self, x_BW: torch.Tensor) -> torch.Tensor:
        if not self.training or self.add_up is None:
            return super().forward(x_BW)
        mean_W = _Sum.apply(x_BW.sum(0), self.add_up) / self.num_batch
        x_BW = x_BW - mean_W
        var_W = _Sum.apply(x_BW.square().sum(0), self.add_up) / self.num_batch
        self.update(mean_W.detach(), var_W.detach() * (self.num_batch / (self.num_batch - 1)))
        return x_BW * torch.rsqrt(var_W + NORM_EPSILON) * self.weight + self.bias


class _Sum(torch.autograd.Function):
    """Sum over ranks; what depends on it in any of them counts for the gradient in all."""

    @staticmethod
    def forward(ctx, value, add_up):
        ctx.add_up = add_up
        value = value.clone()
        add_up(value)
        return value

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        ctx.add_up(gradient)
        return gradient, None
