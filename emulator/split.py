"""Which rows of a samples file go where: a seeded shuffle that is never held whole, and its parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Parts:
    """Row numbers (increasing) of the training, validation and hold-out test parts."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(
    num_samples: int, *, seed: int, test_fraction: float, validation_fraction: float, subset: float = 1.0
) -> Parts:
    """Split the rows of a file into training, validation and test parts.

    Rows are shuffled by `seed`. The first `test_fraction` of the shuffled order is the hold-out test part;
    `subset` of the rest is used, its last `validation_fraction` for validation. The test part does not depend
    on `subset`, and smaller subsets lie inside larger ones.

    Raises
    ------
    ValueError
        A fraction outside its range, or a part that would be empty.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1")
    for name, value, low_open in (
        ("test_fraction", test_fraction, False),
        ("validation_fraction", validation_fraction, True),
    ):
        if not (0.0 <= value < 1.0) or (low_open and value == 0.0):
            raise ValueError(f"{name} is {value}; expected a number {'above' if low_open else 'from'} 0, below 1")
    if not 0.0 < subset <= 1.0:
        raise ValueError(f"subset is {subset}; expected a fraction above 0, at most 1")
    num_test = round(num_samples * test_fraction)
    num_used = round((num_samples - num_test) * subset)
    num_validation = round(num_used * validation_fraction)
    num_train = num_used - num_validation
    if num_train < 2 or num_validation < 1 or (test_fraction > 0 and num_test < 1):
        raise ValueError(
            f"too few samples: {num_samples} rows give {num_train} for training, {num_validation} for validation and "
            f"{num_test} for testing (subset {subset}, validation {validation_fraction}, test {test_fraction}); use "
            "more samples or a larger subset"
        )
    order = RowOrder(num_samples, seed)
    first = num_test
    return Parts(
        train=np.sort(order.rows(first, first + num_train)),
        validation=np.sort(order.rows(first + num_train, first + num_used)),
        test=np.sort(order.rows(0, num_test)),
    )


class RowOrder:
    """A seeded shuffle of 0..num_rows-1 of which any stretch can be had without making the whole.

    A Feistel network permutes the integers of an even number of bits; values outside the range are permuted
    again until they fall inside (cycle walking: Black & Rogaway 2002, doi:10.1007/3-540-45760-7_9).
    """

    _ROUNDS = 8

    def __init__(self, num_rows: int, seed: int):
        self.num_rows = num_rows
        self._half_bits = np.uint64(max(1, (max(num_rows - 1, 1).bit_length() + 1) // 2))
        self._keys = np.random.Generator(np.random.Philox(key=[seed, 0x5EED])).integers(
            0, 1 << 63, self._ROUNDS, dtype=np.uint64
        )

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows at positions start..stop-1 of the shuffled order, as (stop-start,) int64."""
        if not 0 <= start <= stop <= self.num_rows:
            raise ValueError(f"positions {start}..{stop} are not within 0..{self.num_rows}")
        value = self._permute(np.arange(start, stop, dtype=np.uint64))
        outside = np.flatnonzero(value >= self.num_rows)
        while outside.size:
            value[outside] = self._permute(value[outside])
            outside = outside[value[outside] >= self.num_rows]
        return value.astype(np.int64)

    def _permute(self, value: np.ndarray) -> np.ndarray:
        bits = self._half_bits
        mask = np.uint64((1 << int(bits)) - 1)
        left, right = value >> bits, value & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << bits) | right


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
