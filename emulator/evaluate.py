"""Errors of predictions against the process model, accumulated over any number of samples.

Axis legend: N samples, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emulator.dataset import SampleFile

_BLOCK_ROWS = 1 << 18


@dataclass(frozen=True)
class Scores:
    """Errors over samples.

    Attributes
    ----------
    num_samples : int
    mse : float
        Mean over outputs of `mse_per_output` (squared output units).
    mse_per_output, bias_per_output : tuple of float, (O,)
    r2_per_output : tuple of float or None, (O,)
        Coefficient of determination; None where the truth varies by less than 0.1 % of its mean: R² has no
        meaning there.
    max_error_per_output : tuple of float, (O,)
    """

    num_samples: int
    mse: float
    mse_per_output: tuple[float, ...]
    bias_per_output: tuple[float, ...]
    r2_per_output: tuple[float | None, ...]
    max_error_per_output: tuple[float, ...]


class ScoreSum:
    """Accumulates `Scores` block by block."""

    # A standard deviation below 0.1 % of the mean is no variance to explain: R² would be a ratio of two noises.
    _NO_VARIANCE = 1e-3

    def __init__(self, num_outputs: int):
        self._n = 0
        self._mean = np.zeros(num_outputs)
        self._m2 = np.zeros(num_outputs)
        self._bias = np.zeros(num_outputs)
        self._square = np.zeros(num_outputs)
        self._largest = np.zeros(num_outputs)

    def add(self, truth_NO: np.ndarray, predicted_NO: np.ndarray) -> None:
        """Add samples; both (N, O)."""
        if truth_NO.shape != predicted_NO.shape:
            raise ValueError(f"truth has shape {truth_NO.shape}, prediction {predicted_NO.shape}; expected equal")
        n = len(truth_NO)
        if n == 0:
            return
        error = predicted_NO - truth_NO
        self._bias += error.sum(axis=0)
        self._square += (error**2).sum(axis=0)
        # np.maximum passes NaN on: a NaN prediction must not look perfect
        self._largest = np.maximum(self._largest, np.abs(error).max(axis=0))
        # pairwise update of mean and variance (Chan et al. 1979)
        mean = truth_NO.mean(axis=0)
        delta = mean - self._mean
        total = self._n + n
        self._m2 += ((truth_NO - mean) ** 2).sum(axis=0) + delta**2 * self._n * n / total
        self._mean += delta * n / total
        self._n = total

    def scores(self) -> Scores:
        if self._n == 0:
            raise ValueError("no samples to score")
        mse = self._square / self._n
        variance = self._m2 / self._n
        spread = np.sqrt(variance) > self._NO_VARIANCE * np.abs(self._mean)
        r2 = [float(1.0 - m / v) if ok else None for m, v, ok in zip(mse, variance, spread, strict=True)]
        return Scores(
            num_samples=self._n,
            mse=float(mse.mean()),
            mse_per_output=tuple(mse.tolist()),
            bias_per_output=tuple((self._bias / self._n).tolist()),
            r2_per_output=tuple(r2),
            max_error_per_output=tuple(self._largest.tolist()),
        )


def evaluate(
    predictors: dict[str, Callable[[np.ndarray], np.ndarray]], samples: SampleFile, rows: np.ndarray
) -> dict[str, Scores]:
    """Scores of several predictors on the same rows of a samples file, one block of rows at a time.

    Parameters
    ----------
    predictors : mapping of name to function
        Each takes inputs (N, I) and returns outputs (N, O), float64, physical units.
    rows : (N,) increasing int array
    """
    sums = {name: ScoreSum(len(samples.output_columns)) for name in predictors}
    for start in range(0, len(rows), _BLOCK_ROWS):
        x, y = samples.read(rows[start : start + _BLOCK_ROWS])
        for name, predict in predictors.items():
            sums[name].add(y, predict(x))
    return {name: total.scores() for name, total in sums.items()}
