"""Activated fractions of mass: by the parcel model's criterion, and those that belong to fractions of number.

In the parcel model a particle activates whose critical supersaturation lies below S_max. Within a mode, which has one
hygroscopicity, these are the particles above one size, so that the true fm follows from the true fn alone: from fn in
single precision, as samples files hold it, within 1e-7 of what S_max gives (measured: 8e-8 over 40,000 states).

Axis legend: N samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from emulator.activation.constants import Constants
from emulator.activation.modes import LN_SIGMA_G


def exact_mass_fractions(smax, temperature, r_aer, kappa, constants: Constants) -> np.ndarray:
    """Activated fraction of mass of every mode, (N, 4), [1], by the parcel model's own criterion.

    Parameters
    ----------
    smax, temperature : (N,) arrays
        Maximum supersaturation, [1], and the temperature there, [K].
    r_aer, kappa : (N, 4) arrays
        Number-median dry radius, [um]; hygroscopicity, [1].
    constants : Constants
        The parcel model's.
    """
    from scipy.special import erfc

    thresholds = _thresholds()(smax, temperature, np.ascontiguousarray(kappa), constants.values())
    z = np.log(1e6 * thresholds / r_aer) / (math.sqrt(2.0) * LN_SIGMA_G)
    return 0.5 * erfc(z - 3.0 * LN_SIGMA_G / math.sqrt(2.0))


def _thresholds() -> Callable:
    """Compiled: the smallest dry radius that activates, [m], of every sample and mode."""
    from numba import njit

    from emulator.activation.kohler import critical_dry_radius
    from emulator.activation.thermodynamics import kelvin_length

    @njit
    def thresholds(smax, temperature, kappa, constants):
        radius = np.empty(kappa.shape)
        for n in range(kappa.shape[0]):
            kelvin = kelvin_length(temperature[n], constants)
            for m in range(kappa.shape[1]):
                radius[n, m] = critical_dry_radius(smax[n], kappa[n, m], kelvin)
        return radius

    return thresholds


def mass_from_number(fn: np.ndarray) -> np.ndarray:
    """fm of every mode that a fraction of number implies, (N, 4), [1]; 0 and 1 stay what they are."""
    from scipy.special import ndtr, ndtri

    return ndtr(ndtri(np.clip(fn, 0.0, 1.0)) + 3.0 * LN_SIGMA_G)
