"""kappa-Koehler theory, exact: equilibrium radius, critical supersaturation, activated part of a lognormal.

Petters & Kreidenweis (2007, doi:10.5194/acp-7-1961-2007), eq. 6: over a drop of radius r on a particle of dry
radius r_d

    1 + S_eq = (r^3 - r_d^3) / (r^3 - r_d^3 (1 - kappa)) exp(A / r),

with the Kelvin length A. With the volume growth u = (r / r_d)^3 - 1 the first factor is u / (u + kappa), which
needs no cancellation. At the critical radius the derivative with respect to r vanishes:

    A / r = 3 kappa (1 + u) / (u (u + kappa)),

so that the critical supersaturation is a function of u and kappa alone (`_log_critical_saturation`), monotonic
in u, and both directions (S of r_d, r_d of S) are one-dimensional Newton iterations.
"""

import math

import numpy as np
from numba import njit

from emulator.activation.thermodynamics import INLINED

KAPPA_TINY = 1e-12
"""Smaller kappa is taken as this: a wettable insoluble particle, S_crit within 1e-5 of A / r_d (relative)."""


def _expm1_series():
    """Coefficients of exp(y) = 1 + y + y^2 (p0 + p1 y + ... + p5 y^5), exact at Chebyshev points of [0, 1/2]."""
    y = 0.25 - 0.25 * np.cos(np.pi * (np.arange(6) + 0.5) / 6.0)
    # (exp(y) - 1 - y) / y^2 from its own series: no cancellation.
    exact = sum(y**k / math.factorial(k + 2) for k in range(20))
    return np.linalg.solve(np.vander(y, increasing=True), exact)


P0, P1, P2, P3, P4, P5 = (float(p) for p in _expm1_series())


@njit(**INLINED)
def expm1_of_kelvin(x):
    """exp(x) - 1 without a call, so that loops over bins vectorise; relative error below 2e-10 for 0 <= x <= 2.

    A polynomial at x / 4, then e(2y) = e(y)(e(y) + 2) twice. A / r reaches 1.8 for the smallest Aitken bins at
    235 K and is below 0.2 wherever a drop can form (there the error is below 2e-11).
    """
    y = 0.25 * x
    series = P0 + y * (P1 + y * (P2 + y * (P3 + y * (P4 + y * P5))))
    e = y + y * y * series
    e = e * (e + 2.0)
    return e * (e + 2.0)


@njit(**INLINED)
def equilibrium_supersaturation(radius, dry_radius, kappa, kelvin):
    """S_eq of one drop, [1]; radii and `kelvin` in m. For kappa = 0 the Kelvin term alone."""
    if kappa <= 0.0:
        return math.expm1(kelvin / radius)
    growth = (radius - dry_radius) * (radius * radius + radius * dry_radius + dry_radius * dry_radius)
    solute = kappa * dry_radius * dry_radius * dry_radius
    activity_minus_1 = -solute / (growth + solute)
    return (1.0 + activity_minus_1) * math.expm1(kelvin / radius) + activity_minus_1


@njit(**INLINED)
def _newton_move(r, dry, kappa, kelvin, supersaturation, e):
    """Newton step towards S_eq(r) = S, [m]; `e` is exp(A / r) - 1."""
    solute = kappa * dry * dry * dry
    inverse = 1.0 / ((r - dry) * (r * r + r * dry + dry * dry) + solute)
    activity_minus_1 = -solute * inverse
    excess = (1.0 + activity_minus_1) * e + activity_minus_1 - supersaturation
    slope = (e + 1.0) * (3.0 * r * r * solute * inverse * inverse - (1.0 + activity_minus_1) * kelvin / (r * r))
    return -excess / slope


@njit(**INLINED)
def equilibrium_radii(supersaturation, dry_radii, kappas, kelvin, radii):
    """Wet radii in equilibrium with a subsaturated air, on the stable branch.

    S_eq(r) is concave below the critical radius for kappa < 3, so Newton started below the root climbs to it
    monotonically. The start takes the Kelvin term at the dry radius, which is too large. All bins iterate
    together (vectorised) until none moves.

    Parameters
    ----------
    supersaturation : float
        [1], negative.
    dry_radii, kappas : array (num_bins,)
        [m], [1]
    kelvin : float
        [m]
    radii : array (num_bins,)
        Result, [m].

    Returns
    -------
    bool
        Whether every bin converged.
    """
    num_bins = dry_radii.shape[0]
    for i in range(num_bins):
        activity = (1.0 + supersaturation) * math.exp(-kelvin / dry_radii[i])
        radii[i] = dry_radii[i] * (1.0 + kappas[i] * activity / (1.0 - activity)) ** (1.0 / 3.0)
    for _ in range(60):
        largest = 0.0
        for i in range(num_bins):
            r = radii[i]
            move = _newton_move(r, dry_radii[i], kappas[i], kelvin, supersaturation, expm1_of_kelvin(kelvin / r))
            radii[i] = r + move
            largest = max(largest, abs(move) / r)
        if largest < 1e-9:
            # Last step with the library's expm1.
            for i in range(num_bins):
                r = radii[i]
                radii[i] = r + _newton_move(r, dry_radii[i], kappas[i], kelvin, supersaturation, math.expm1(kelvin / r))
            return True
    return False


@njit(**INLINED)
def _log_critical_saturation(growth, kappa):
    """ln(1 + S_crit) and its derivative, for the volume growth u at the critical radius (head of this file)."""
    product = growth * (growth + kappa)
    value = 3.0 * kappa * (1.0 + growth) / product - math.log1p(kappa / growth)
    slope = kappa * (-2.0 * growth * growth + (kappa - 6.0) * growth - 3.0 * kappa) / (product * product)
    return value, slope


@njit(**INLINED)
def critical_dry_radius(supersaturation, kappa, kelvin):
    """Smallest dry radius that activates at a supersaturation > 0, [m]; `kelvin` in m, kappa in (0, 3).

    Newton in ln u from the root of the small-solute limit S u^2 - 2 kappa u - 3 kappa = 0.
    """
    kappa = max(kappa, KAPPA_TINY)
    target = math.log1p(supersaturation)
    growth = (kappa + math.sqrt(kappa * (kappa + 3.0 * target))) / target
    for _ in range(50):
        value, slope = _log_critical_saturation(growth, kappa)
        # In logarithms of both sides the curve is nearly straight.
        step = value * math.log(value / target) / (slope * growth)
        growth *= math.exp(-max(-2.0, min(2.0, step)))
        if abs(step) < 1e-13:
            break
    critical_radius = kelvin * growth * (growth + kappa) / (3.0 * kappa * (1.0 + growth))
    return critical_radius / (1.0 + growth) ** (1.0 / 3.0)


@njit(**INLINED)
def critical_supersaturation(dry_radius, kappa, kelvin):
    """Maximum of the Koehler curve of a particle, [1]; `dry_radius` and `kelvin` in m, kappa in (0, 3).

    Solves A / (r_d (1 + u)^(1/3)) = 3 kappa (1 + u) / (u (u + kappa)) for u by Newton in logarithms.
    """
    kappa = max(kappa, KAPPA_TINY)
    ratio = kelvin / (3.0 * kappa * dry_radius)
    growth = (3.0 * kappa * dry_radius / kelvin) ** 0.5 + (3.0 * kappa * dry_radius / kelvin) ** 1.5
    for _ in range(100):
        excess = math.log(ratio * growth * (growth + kappa)) - 4.0 / 3.0 * math.log1p(growth)
        slope = 1.0 + growth / (growth + kappa) - 4.0 / 3.0 * growth / (1.0 + growth)
        step = max(-2.0, min(2.0, excess / slope))
        growth *= math.exp(-step)
        if abs(step) < 1e-14:
            break
    return math.expm1(_log_critical_saturation(growth, kappa)[0])


@njit(**INLINED)
def activated_fraction(supersaturation, median_dry_radius, ln_sigma_g, kappa, kelvin):
    """Number fraction of a lognormal mode whose critical supersaturation is at most S, [1].

    The equilibrium criterion of Ghan et al. (2011, doi:10.1029/2011MS000074), taken of the continuous
    distribution, so that bins put no steps into it. Zero for S <= 0.
    """
    if not supersaturation > 0.0:
        return 0.0
    threshold = critical_dry_radius(supersaturation, kappa, kelvin)
    return 0.5 * math.erfc(math.log(threshold / median_dry_radius) / (math.sqrt(2.0) * ln_sigma_g))
