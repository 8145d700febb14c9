"""How one network is trained: the numbers, validated, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from hpo.errors import SearchError

OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine", "exponential")


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
    optimizer : {'adam', 'adamw'}
        `weight_decay` is added to the gradient (adam) or decays the weights directly (adamw).
    learning_rate_schedule : {'constant', 'cosine', 'exponential'}
        Course of the learning rate over `max_epochs`, step by step.
    final_learning_rate_fraction : float
        Where cosine and exponential end, as a fraction of `learning_rate`.
    weight_decay : float
    gradient_clip : float
        Largest norm of the gradient; 0: no limit.
    """

    learning_rate: float = 1e-3
    batch_size: int = 1024
    max_epochs: int = 100
    patience: int = 5
    optimizer: str = "adam"
    learning_rate_schedule: str = "constant"
    final_learning_rate_fraction: float = 0.01
    weight_decay: float = 0.0
    gradient_clip: float = 0.0

    def __post_init__(self):
        for name, least in (("batch_size", 1), ("max_epochs", 1), ("patience", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise SearchError(f"{name} is {value!r}; expected a whole number of at least {least}")
        for name, least in (("weight_decay", 0.0), ("gradient_clip", 0.0)):
            self._number(name, lambda v, least=least: v >= least, "0 or more")
        self._number("learning_rate", lambda v: v > 0.0, "a number above 0")
        self._number("final_learning_rate_fraction", lambda v: 0.0 < v <= 1.0, "above 0, at most 1")
        for name, known in (("optimizer", OPTIMIZERS), ("learning_rate_schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise SearchError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(known)}")

    def _number(self, name, valid, expected):
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise SearchError(f"{name} is {value!r}; expected {expected}, a number")
        if not (math.isfinite(value) and valid(value)):
            raise SearchError(f"{name} is {value!r}; expected {expected}")
        object.__setattr__(self, name, float(value))

    def rate_at(self, progress: float) -> float:
        """Learning rate when `progress` (0 to 1) of the training is done."""
        end = self.final_learning_rate_fraction
        if self.learning_rate_schedule == "cosine":
            return self.learning_rate * (end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * progress)))
        if self.learning_rate_schedule == "exponential":
            return self.learning_rate * end**progress
        return self.learning_rate


RECIPE_FIELDS = tuple(f.name for f in fields(Recipe))
NUMERIC_FIELDS = tuple(n for n in RECIPE_FIELDS if n not in ("optimizer", "learning_rate_schedule"))
