"""The optimizers of a recipe, and their state as flat tensors that a checkpoint keeps.

PyTorch's own. What they remember of each weight is called its first and second moment, whatever the optimizer: the
running mean of gradients (sgd: its momentum) and of their squares.
"""

from __future__ import annotations

import torch

from hpo.recipe import Recipe

# PyTorch's names of the first and second moment; None where an optimizer has none.
_MOMENTS = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "nadam": ("exp_avg", "exp_avg_sq"),
    "radam": ("exp_avg", "exp_avg_sq"),
    "rmsprop": (None, "square_avg"),
    "sgd": ("momentum_buffer", None),
}
_FUSED = ("adam", "adamw")


class Optimizer:
    """One of PyTorch's, set up as a recipe says, with its moments in order.

    Parameters
    ----------
    recipe : Recipe
    weights : list of torch.Tensor
    """

    def __init__(self, recipe: Recipe, weights: list[torch.Tensor]):
        self._name, self._weights = recipe.optimizer, weights
        self._optimizer = _pytorch_optimizer(recipe, weights)
        self.step, self.zero_grad = self._optimizer.step, self._optimizer.zero_grad

    def set_rate(self, learning_rate: float) -> None:
        self._optimizer.param_groups[0]["lr"] = learning_rate

    def plain_state(self) -> dict:
        """All but the moments: `updates`, 0 before the first, and what else the next update depends on."""
        first = self._optimizer.state[self._weights[0]]
        if not any(key in first for key in _MOMENTS[self._name]):
            return {"updates": 0}
        state = {"updates": int(first.get("step", 1))}  # sgd counts none
        if "mu_product" in first:
            state["mu_product"] = float(first["mu_product"])
        return state

    def moments(self) -> dict[str, list[torch.Tensor] | None]:
        """`first_moment` and `second_moment` of each weight, None where there is none yet or ever."""
        keys = _MOMENTS[self._name] if self.plain_state()["updates"] else (None, None)
        return {
            name: None if key is None else [self._optimizer.state[w][key] for w in self._weights]
            for name, key in zip(("first_moment", "second_moment"), keys, strict=True)
        }

    def begin_at(self, state: dict) -> None:
        """Take up `plain_state()`; moments are there then, for the owner to fill."""
        if not state["updates"]:
            return
        for w in self._weights:
            has = {key: torch.zeros_like(w, requires_grad=False) for key in _MOMENTS[self._name] if key}
            if self._name != "sgd":
                has["step"] = torch.tensor(float(state["updates"]), device=w.device if self._name in _FUSED else "cpu")
            if "mu_product" in state:
                has["mu_product"] = torch.tensor(state["mu_product"])
            self._optimizer.state[w] = has


def _pytorch_optimizer(recipe: Recipe, weights: list[torch.Tensor]) -> torch.optim.Optimizer:
    common = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0.0  # without momentum there is nothing to look ahead by
        return torch.optim.SGD(weights, momentum=recipe.momentum, nesterov=nesterov, fused=True, **common)
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(weights, alpha=recipe.rho, eps=recipe.epsilon, foreach=True, **common)
    kinds = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "nadam": torch.optim.NAdam,
        "radam": torch.optim.RAdam,
    }
    engine = {"fused": True} if recipe.optimizer in _FUSED else {"foreach": True}
    betas = (recipe.beta1, recipe.beta2)
    return kinds[recipe.optimizer](weights, betas=betas, eps=recipe.epsilon, **engine, **common)


def update_flat(recipe: Recipe, weights, gradient, moments, updates, rate) -> None:
    """One update in place, for all weights in one tensor: what `Optimizer` does, without its dispatch.

    Parameters
    ----------
    recipe : Recipe
        Its optimizer is one that `hpo.engine.FLAT` names.
    weights, gradient : torch.Tensor
        The gradient is used up.
    moments : tuple of torch.Tensor
        First and second, zero before the first update.
    updates : torch.Tensor
        Number of updates, this one included.
    rate : float or torch.Tensor
        Learning rate.
    """
    if recipe.optimizer in _FUSED:
        update = torch._fused_adamw_ if recipe.optimizer == "adamw" else torch._fused_adam_
        update(
            [weights],
            [gradient],
            [moments[0]],
            [moments[1]],
            [],
            [updates],
            lr=rate,
            beta1=recipe.beta1,
            beta2=recipe.beta2,
            weight_decay=recipe.weight_decay,
            eps=recipe.epsilon,
            amsgrad=False,
            maximize=False,
        )
        return
    if recipe.weight_decay > 0.0:
        gradient.add_(weights, alpha=recipe.weight_decay)
    if recipe.optimizer == "rmsprop":
        second = moments[1].mul_(recipe.rho).addcmul_(gradient, gradient, value=1.0 - recipe.rho)
        gradient.div_(second.sqrt().add_(recipe.epsilon)).mul_(rate)
    elif recipe.optimizer == "sgd":
        first = moments[0].mul_(recipe.momentum).add_(gradient)
        if recipe.nesterov:
            gradient.add_(first, alpha=recipe.momentum).mul_(rate)
        else:
            torch.mul(first, rate, out=gradient)
    weights.sub_(gradient)
