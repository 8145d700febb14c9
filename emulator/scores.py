"""Errors of predictions against the process model, accumulated over any number of samples.

Axis legend: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

QUANTILES = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True)
class Scores:
    """Errors over samples.

    Attributes
    ----------
    num_samples : int
    num_nan : int
        Samples with a prediction that is NaN or infinite: they make every mean NaN or infinite.
    mse, mae : float
        Means over outputs of `mse_per_output` (squared output units) and `mae_per_output`.
    mse_per_output, mae_per_output, bias_per_output : tuple of float, (O,)
        Mean squared, mean absolute and mean error (prediction less truth).
    r2_per_output : tuple of float or None, (O,)
        Coefficient of determination; None where the truth varies by less than 0.1 % of its mean: R² has no
        meaning there.
    max_error_per_output : tuple of float, (O,)
    quantiles : tuple of float, (len(QUANTILES),)
        Of the absolute errors of all outputs together, as `AbsoluteErrorQuantiles` gives them.
    quantiles_per_output : tuple of such tuples, (O,)
    """

    num_samples: int
    num_nan: int
    mse: float
    mae: float
    mse_per_output: tuple[float, ...]
    mae_per_output: tuple[float, ...]
    bias_per_output: tuple[float, ...]
    r2_per_output: tuple[float | None, ...]
    max_error_per_output: tuple[float, ...]
    quantiles: tuple[float, ...]
    quantiles_per_output: tuple[tuple[float, ...], ...]


class ScoreSum:
    """Accumulates `Scores` block by block."""

    # A standard deviation below 0.1 % of the mean is no variance to explain: R² would be a ratio of two noises.
    _NO_VARIANCE = 1e-3

    def __init__(self, num_outputs: int):
        self._n = 0
        self._num_nan = 0
        self._mean = np.zeros(num_outputs)
        self._m2 = np.zeros(num_outputs)
        self._bias = np.zeros(num_outputs)
        self._absolute = np.zeros(num_outputs)
        self._square = np.zeros(num_outputs)
        self._largest = np.zeros(num_outputs)
        self._quantiles = [AbsoluteErrorQuantiles() for _ in range(num_outputs)]

    @property
    def num_samples(self) -> int:
        return self._n

    def add(self, truth_NO: np.ndarray, predicted_NO: np.ndarray) -> None:
        """Add samples; both (N, O)."""
        if truth_NO.shape != predicted_NO.shape:
            raise ValueError(f"truth has shape {truth_NO.shape}, prediction {predicted_NO.shape}; expected equal")
        n = len(truth_NO)
        if n == 0:
            return
        error = predicted_NO - truth_NO
        size = np.abs(error)
        self._num_nan += int((~np.isfinite(error)).any(axis=1).sum())
        self._bias += error.sum(axis=0)
        self._absolute += size.sum(axis=0)
        self._square += (error**2).sum(axis=0)
        # np.maximum passes NaN on: a NaN prediction must not look perfect
        self._largest = np.maximum(self._largest, size.max(axis=0))
        for quantiles, column in zip(self._quantiles, size.T, strict=True):
            quantiles.add(column)
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
        mae = self._absolute / self._n
        variance = self._m2 / self._n
        spread = np.sqrt(variance) > self._NO_VARIANCE * np.abs(self._mean)
        r2 = [float(1.0 - m / v) if ok else None for m, v, ok in zip(mse, variance, spread, strict=True)]
        together = AbsoluteErrorQuantiles()
        for quantiles in self._quantiles:
            together.merge(quantiles)
        return Scores(
            num_samples=self._n,
            num_nan=self._num_nan,
            mse=float(mse.mean()),
            mae=float(mae.mean()),
            mse_per_output=tuple(mse.tolist()),
            mae_per_output=tuple(mae.tolist()),
            bias_per_output=tuple((self._bias / self._n).tolist()),
            r2_per_output=tuple(r2),
            max_error_per_output=tuple(self._largest.tolist()),
            quantiles=together.at(QUANTILES),
            quantiles_per_output=tuple(q.at(QUANTILES) for q in self._quantiles),
        )


class AbsoluteErrorQuantiles:
    """Quantiles of numbers >= 0 that are seen once and not kept.

    Numbers are counted in buckets of equal leading bits (sign, exponent, 8 bits of the mantissa); positive floats are
    ordered as their bits are. The quantile q of n numbers is the ceil(q n)-th smallest of them. What is given for it is
    the middle of its bucket, at most 2^-9 (0.2 %) of the exact value away from it (down to 1e-300). The order and the
    grouping of the numbers do not matter. (DDSketch, Masson et al. 2019, doi:10.14778/3352063.3352135, has the same
    guarantee with logarithmic buckets.)
    """

    RELATIVE_ERROR = 2.0**-9
    _SHIFT = 52 - 8  # bits of a float64's mantissa that do not count

    def __init__(self):
        self._low = 0  # bucket that _counts[0] belongs to
        self._counts = np.zeros(0, np.int64)
        self._num_zero = 0
        self._num_nan = 0
        self._largest = 0.0

    def add(self, values_N: np.ndarray) -> None:
        """Count numbers; NaN and infinity count as the largest of all."""
        good = values_N[np.isfinite(values_N)]
        self._num_nan += len(values_N) - len(good)
        positive = good[good > 0.0]
        self._num_zero += len(good) - len(positive)
        if len(positive):
            self._largest = max(self._largest, float(positive.max()))
            buckets = np.ascontiguousarray(positive, dtype=np.float64).view(np.int64) >> self._SHIFT
            low = int(buckets.min())
            self._add_counts(low, np.bincount(buckets - low))

    def merge(self, other: AbsoluteErrorQuantiles) -> None:
        """Count what another has counted."""
        self._num_zero += other._num_zero
        self._num_nan += other._num_nan
        self._largest = max(self._largest, other._largest)
        if len(other._counts):
            self._add_counts(other._low, other._counts)

    def at(self, fractions: Sequence[float]) -> tuple[float, ...]:
        """The quantiles; NaN where one falls among numbers that are not finite, or there are no numbers."""
        ends = self._num_zero + np.cumsum(self._counts)
        finite = int(ends[-1]) if len(ends) else self._num_zero
        total = finite + self._num_nan
        found = []
        for q in fractions:
            rank = max(1, math.ceil(q * total))
            if rank > finite:
                found.append(math.nan)
            elif rank <= self._num_zero:
                found.append(0.0)
            else:
                bucket = self._low + int(np.searchsorted(ends, rank))
                edges = (np.array([bucket, bucket + 1], np.int64) << self._SHIFT).view(np.float64)
                found.append(min(float(edges[0] + 0.5 * (edges[1] - edges[0])), self._largest))
        return tuple(found)

    def _add_counts(self, low: int, counts: np.ndarray) -> None:
        if not len(self._counts):
            self._low, self._counts = low, counts.astype(np.int64)
            return
        first = min(low, self._low)
        last = max(low + len(counts), self._low + len(self._counts))
        if (first, last) != (self._low, self._low + len(self._counts)):
            wider = np.zeros(last - first, np.int64)
            wider[self._low - first : self._low - first + len(self._counts)] = self._counts
            self._low, self._counts = first, wider
        self._counts[low - first : low - first + len(counts)] += counts


@dataclass(frozen=True)
class Case:
    """One sample: its row in the file, inputs (I,), truth and prediction (O,), and the output whose error counts."""

    row: int
    x: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    output: int

    @property
    def error(self) -> float:
        """Prediction less truth, of that output."""
        return float(self.predicted[self.output] - self.truth[self.output])


class WorstCases:
    """Keeps the samples with the largest absolute errors, of each output and over all.

    Parameters
    ----------
    count : int
    scale_O : (O,) array
        What an error is divided by before outputs are compared with each other.
    """

    def __init__(self, count: int, scale_O: np.ndarray):
        self.count = count
        self._scale_O = np.asarray(scale_O, dtype=np.float64)
        # lists of (size, case), largest first; the last one is over all outputs
        self._kept: list[list[tuple[float, Case]]] = [[] for _ in range(len(self._scale_O) + 1)]

    def add(self, rows_N: np.ndarray, x_NI: np.ndarray, truth_NO: np.ndarray, predicted_NO: np.ndarray) -> None:
        """Look at samples; of equal errors the first row of the file counts."""
        if self.count == 0 or len(rows_N) == 0:
            return
        size_NO = np.abs(predicted_NO - truth_NO)
        size_NO[np.isnan(size_NO)] = np.inf
        scaled_NO = size_NO / self._scale_O
        output_N = scaled_NO.argmax(axis=1)
        columns = [*((size, np.full(len(rows_N), o)) for o, size in enumerate(size_NO.T)), (scaled_NO.max(1), output_N)]
        for k, (size_N, counts_N) in enumerate(columns):
            kept = self._kept[k]
            near = np.arange(len(size_N)) if len(kept) < self.count else np.flatnonzero(size_N >= kept[-1][0])
            near = near[np.lexsort((rows_N[near], -size_N[near]))][: self.count]
            new = [
                (
                    float(size_N[n]),
                    Case(int(rows_N[n]), x_NI[n].copy(), truth_NO[n].copy(), predicted_NO[n].copy(), int(counts_N[n])),
                )
                for n in near
            ]
            self._kept[k] = sorted(kept + new, key=lambda c: (-c[0], c[1].row))[: self.count]

    @property
    def over_all(self) -> list[Case]:
        return [case for _, case in self._kept[-1]]

    @property
    def per_output(self) -> list[list[Case]]:
        return [[case for _, case in kept] for kept in self._kept[:-1]]
