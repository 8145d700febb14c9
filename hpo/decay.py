"""A learning rate that decays in step 2: what a probe tries, and how it does against a constant one.

At a constant rate the errors of a network's last epochs scatter, and where early stopping leaves it is in part luck. A
rate that begins higher and ends near zero goes further in as many epochs and leaves less to luck; how high it may begin
depends on the data and is tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpo.config import Config

# Rates with which the cosine begins, as multiples of the constant one. With four networks of the case study and a split
# of its samples that EXPERIMENTS.md does not use, each doubling from 1 to 8 ended lower; with 16, two of eight did not
# learn.
MULTIPLES = (2.0, 4.0, 8.0)
# Networks with which each rate is tried.
PILOTS = 2
_RESAMPLES = 4000


def constant_rate(config: Config) -> float | None:
    """The learning rate of step 2; None if it varies already, or is searched."""
    values = {**config.train.values, **config.step2}
    rate = values["learning_rate"]
    if values["learning_rate_schedule"] != "constant" or values["warmup_fraction"] != 0.0:
        return None
    return rate if isinstance(rate, float) else None


def step2_settings(rate: float) -> dict[str, object]:
    """What [step2] says beyond other settings.

    A training that decays is not to be stopped before it has. It begins with a warm-up: at a high rate some networks'
    first steps leave an output stuck. With narrow layers and another split, as above, 9 of 24 were after eight epochs
    at eight times the constant rate, 3 with the warm-up.
    """
    return {"learning_rate": rate, "learning_rate_schedule": "cosine", "warmup_fraction": 0.05, "patience": 0}


def decaying(config: Config, rate: float) -> Config:
    """The same search, whose step 2 begins with that rate and decays."""
    return replace(config, step2={**config.step2, **step2_settings(rate)})


def best_rate(tried: Mapping[float, Mapping[int, float]]) -> float:
    """The rate with the least geometric mean of the errors of the networks that were trained with all.

    Parameters
    ----------
    tried : mapping of float to mapping of int to float
        Validation MSE by rate and trial; infinite if it failed.
    """
    common = set.intersection(*(set(errors) for errors in tried.values()))
    return min(tried, key=lambda rate: (sum(np.log(tried[rate][t]) for t in common), rate))


@dataclass(frozen=True)
class Decay:
    """Networks of a probe trained on the reference with a learning rate that decays.

    Attributes
    ----------
    constant, rate : float
        The learning rate of the search, and the best of those tried to begin with.
    tried : tuple of float
    constant_errors : (N,)
        Validation MSE at the constant rate: the geometric mean, if it was trained twice.
    errors : (N, 2)
        Validation MSE with the decaying rate, of a first and a second training; NaN for networks that had none.
    lengths : (N,)
        All epochs, as such a training has them, over those of the one at the constant rate.
    failed : int
        Trainings of the chosen rate that failed; each counts as the worst network of the probe.
    """

    constant: float
    rate: float
    tried: Sequence[float]
    constant_errors: np.ndarray
    errors: np.ndarray
    lengths: np.ndarray
    failed: int

    def ratios(self) -> np.ndarray:
        """Errors over those at the constant rate, one for each network that has both."""
        both = np.isfinite(self.errors[:, 0])
        return np.exp(np.nanmean(np.log(self.errors[both]), axis=1)) / self.constant_errors[both]

    def advantage(self, level: float, *, seed: int = 0) -> tuple[float, float, float]:
        """Median of the ratios, and its interval by resampling the networks."""
        ratios = self.ratios()
        medians = np.median(np.random.default_rng(seed).choice(ratios, (_RESAMPLES, len(ratios))), axis=1)
        low, high = np.quantile(medians, ((1.0 - level) / 2.0, (1.0 + level) / 2.0))
        return float(np.median(ratios)), float(low), float(high)

    def seed_ratios(self) -> np.ndarray:
        """The larger error divided by the smaller one, of each network that was trained twice."""
        twice = np.isfinite(self.errors).all(axis=1)
        return np.exp(np.abs(np.log(self.errors[twice, 0] / self.errors[twice, 1])))
