"""States for tests that hold implementations of ARG against each other."""

import numpy as np

from emulator.activation import arg
from emulator.activation.modes import DRY_RADIUS_MAX_UM, DRY_RADIUS_MIN_UM


def host_states(n, seed, more_numbers=()):
    """Updraft, temperature, density, number, volume and hygroscopicity that a host might pass, at random (SI).

    A good part of them lies on or around the scheme's thresholds; `more_numbers` are further values of number.
    """
    rng = np.random.default_rng(seed)

    def log_uniform(low, high, shape):
        return np.exp(rng.uniform(np.log(low), np.log(high), shape))

    tair = rng.uniform(180.0, 320.0, n)
    density = rng.uniform(1e4, 1.05e5, n) / (arg.GAS_CONSTANT_DRY_AIR * tair)
    updraft = log_uniform(1e-4, 20.0, n)
    number = log_uniform(1e2, 1e11, (n, 4))
    radius = log_uniform(DRY_RADIUS_MIN_UM, DRY_RADIUS_MAX_UM, (n, 4)) * 1e-6
    volume = 4 / 3 * np.pi * arg.EXP45_MODE * radius**3 * number
    kappa = log_uniform(1e-4, 1.5, (n, 4))
    for array, values in (
        (updraft, [0.0, -1.0, 1e-300, 1e-12]),
        (number, [0.0, 1e-39, 1.01e-39, 0.99e-20, 1e-20, 1e-3, *more_numbers]),
        (volume, [0.0, 1e-39, 1.01e-39, 1e-30]),
        (kappa, [0.0, 1e-10, 1.01e-10]),
    ):
        chosen = rng.random(array.shape) < 0.05
        array[chosen] = rng.choice(values, chosen.sum())
    tair[: n // 50] = rng.choice([127.16, 100.0, 253.15, 263.15, 273.15, 274.16, 375.16, 390.0], n // 50)
    return updraft, tair, density, number, volume, kappa
