"""How one network is trained: the numbers, validated, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from hpo.errors import SearchError

OPTIMIZERS = ("adam", "adamw", "nadam", "radam", "rmsprop", "sgd")
SCHEDULES = ("constant", "cosine", "exponential", "step", "one_cycle", "plateau")
LOSSES = ("mse", "mae", "huber")
INITIALIZATIONS = ("glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal")
# Where one_cycle begins, as a fraction of the highest rate: 1/25 in PyTorch and in fastai.
_ONE_CYCLE_START = 1.0 / 25.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of one training; the defaults are the paper's (Yu et al. 2023, section 3).

    Attributes
    ----------
    learning_rate : float
    batch_size : int
    max_epochs : int
    patience : int
        Training ends after this many epochs without a lower validation MSE; 0: never early.
    optimizer : {'adam', 'adamw', 'nadam', 'radam', 'rmsprop', 'sgd'}
        As PyTorch defines them.
    beta1, beta2 : float
        Decay of the means of gradient and squared gradient (adam, adamw, nadam, radam).
    rho : float
        Decay of the mean squared gradient (rmsprop).
    epsilon : float
        Added to the root of the mean squared gradient (all but sgd). The default is Keras', with which the paper
        trained; PyTorch's is 1e-8.
    momentum : float
        Of sgd.
    nesterov : bool
        Whether sgd looks ahead by its momentum (Nesterov 1983).
    learning_rate_schedule : {'constant', 'cosine', 'exponential', 'step', 'one_cycle', 'plateau'}
        Course of the learning rate over `max_epochs`, step by step. step: times `step_factor` after every
        `step_epochs` epochs. one_cycle (Smith & Topin 2018, arXiv:1708.07120): from a 25th up to `learning_rate` at
        `one_cycle_peak`, then down, both as a half cosine; the momentum stays. plateau: times `step_factor` after every
        `plateau_epochs` epochs without a lower validation MSE; more than `patience` of them never come.
    final_learning_rate_fraction : float
        Where cosine, exponential and one_cycle end, as a fraction of `learning_rate`.
    step_epochs : int
    step_factor : float
    plateau_epochs : int
    one_cycle_peak : float
        As a fraction of `max_epochs`.
    warmup_fraction : float
        Part of `max_epochs` over which the learning rate first rises linearly from 0 to what the schedule says.
    weight_decay : float
        Decays the weights directly (adamw) or is added to the gradient (the others).
    gradient_clip : float
        Largest norm of the gradient; 0: no limit.
    dropout : float
        Probability with which each output of a hidden layer is left out of a training step (Srivastava et al. 2014).
    loss : {'mse', 'mae', 'huber'}
        What is minimised, in the units in which outputs are trained. Errors are reported, compared and stopped by as
        MSE whatever the loss.
    huber_delta : float
        Error up to which huber is quadratic.
    initialization : str
        How weights are drawn, by the numbers of a layer's inputs and outputs: one of `INITIALIZATIONS`. glorot is for
        tanh and the like (Glorot & Bengio 2010), he for relu (He et al. 2015, arXiv:1502.01852), lecun for selu
        (Klambauer et al. 2017, arXiv:1706.02515).
    """

    learning_rate: float = 1e-3
    batch_size: int = 1024
    max_epochs: int = 100
    patience: int = 5
    optimizer: str = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    rho: float = 0.9
    epsilon: float = 1e-7
    momentum: float = 0.9
    nesterov: bool = False
    learning_rate_schedule: str = "constant"
    final_learning_rate_fraction: float = 0.01
    step_epochs: int = 30
    step_factor: float = 0.1
    plateau_epochs: int = 3
    one_cycle_peak: float = 0.3
    warmup_fraction: float = 0.0
    weight_decay: float = 0.0
    gradient_clip: float = 0.0
    dropout: float = 0.0
    loss: str = "mse"
    huber_delta: float = 1.0
    initialization: str = "glorot_uniform"

    def __post_init__(self):
        for name in ("batch_size", "max_epochs", "patience", "step_epochs", "plateau_epochs"):
            value, least = getattr(self, name), 0 if name == "patience" else 1
            if type(value) is not int or value < least:
                raise SearchError(f"{name} is {value!r}; expected a whole number of at least {least}")
        for name in ("weight_decay", "gradient_clip"):
            self._number(name, lambda v: v >= 0.0, "0 or more")
        for name in ("learning_rate", "epsilon", "huber_delta"):
            self._number(name, lambda v: v > 0.0, "a number above 0")
        for name in ("final_learning_rate_fraction", "step_factor"):
            self._number(name, lambda v: 0.0 < v <= 1.0, "above 0, at most 1")
        for name in ("beta1", "beta2", "rho", "momentum", "dropout", "warmup_fraction"):
            self._number(name, lambda v: 0.0 <= v < 1.0, "from 0, below 1")
        self._number("one_cycle_peak", lambda v: 0.0 < v < 1.0, "between 0 and 1")
        if not isinstance(self.nesterov, bool):
            raise SearchError(f"nesterov is {self.nesterov!r}; expected true or false")
        for name, known in NAMED.items():
            if getattr(self, name) not in known:
                raise SearchError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")

    def _number(self, name, valid, expected):
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SearchError(f"{name} is {value!r}; expected {expected}, a number")
        if not (math.isfinite(value) and valid(value)):
            raise SearchError(f"{name} is {value!r}; expected {expected}")
        object.__setattr__(self, name, float(value))

    @property
    def rate_varies(self) -> bool:
        """Whether the learning rate changes from step to step."""
        return self.learning_rate_schedule != "constant" or self.warmup_fraction > 0.0

    def rate_at(self, progress: float, validation_curve: Sequence[float] = ()) -> float:
        """Learning rate when `progress` (0 to 1) of `max_epochs` is done and these validation MSEs were found."""
        rate = self._scheduled_rate(progress)
        if self.learning_rate_schedule == "plateau":
            rate *= self.step_factor ** self._plateaus(validation_curve)
        return rate if progress >= self.warmup_fraction else rate * (progress / self.warmup_fraction)

    def _scheduled_rate(self, progress: float) -> float:
        kind, end, peak = self.learning_rate_schedule, self.final_learning_rate_fraction, self.one_cycle_peak
        if kind == "cosine":
            return self.learning_rate * _half_cosine(1.0, end, progress)
        if kind == "exponential":
            return self.learning_rate * end**progress
        if kind == "step":
            # progress is a quotient: its product with max_epochs may fall short of a whole number by a rounding
            return self.learning_rate * self.step_factor ** int((progress * self.max_epochs + 1e-6) / self.step_epochs)
        if kind == "one_cycle":
            if progress < peak:
                return self.learning_rate * _half_cosine(_ONE_CYCLE_START, 1.0, progress / peak)
            return self.learning_rate * _half_cosine(1.0, end, (progress - peak) / (1.0 - peak))
        return self.learning_rate

    def _plateaus(self, validation_curve: Sequence[float]) -> int:
        found, waited, best = 0, 0, math.inf
        for mse in validation_curve:
            waited = 0 if mse < best else waited + 1
            best = min(best, mse)
            if waited == self.plateau_epochs:
                found, waited = found + 1, 0
        return found


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * progress))


NAMED = {
    "optimizer": OPTIMIZERS,
    "learning_rate_schedule": SCHEDULES,
    "loss": LOSSES,
    "initialization": INITIALIZATIONS,
}
RECIPE_FIELDS = tuple(f.name for f in fields(Recipe))
NUMERIC_FIELDS = tuple(n for n in RECIPE_FIELDS if n not in NAMED and n != "nesterov")

_ADAMS = ("adam", "adamw", "nadam", "radam")
# Settings that mean something for some values of another one only.
APPLIES = {
    "beta1": ("optimizer", _ADAMS),
    "beta2": ("optimizer", _ADAMS),
    "rho": ("optimizer", ("rmsprop",)),
    "epsilon": ("optimizer", (*_ADAMS, "rmsprop")),
    "momentum": ("optimizer", ("sgd",)),
    "nesterov": ("optimizer", ("sgd",)),
    "final_learning_rate_fraction": ("learning_rate_schedule", ("cosine", "exponential", "one_cycle")),
    "step_epochs": ("learning_rate_schedule", ("step",)),
    "step_factor": ("learning_rate_schedule", ("step", "plateau")),
    "plateau_epochs": ("learning_rate_schedule", ("plateau",)),
    "one_cycle_peak": ("learning_rate_schedule", ("one_cycle",)),
    "huber_delta": ("loss", ("huber",)),
}
