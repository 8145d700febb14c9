"""The explicit parcel model: what fraction of each aerosol mode becomes drops in an adiabatic updraft.

    result = simulate(states)              # production settings
    result.fn                              # (num_samples, 4)

Aerosol is four lognormal modes (`modes.py`), cut into bins. A parcel starts at rest with the air, each bin at its
equilibrium radius, and rises at constant speed until the supersaturation is largest. The activated fraction of a
mode is the part of its *continuous* lognormal whose critical supersaturation is at most that maximum.
"""

import dataclasses
import hashlib
import pathlib

import numpy as np
from numba import njit
from scipy.special import ndtr

from emulator.activation import integrator
from emulator.activation.integrator import FINISHED, NO_EQUILIBRIUM, NUM_WORK_ROWS, rise_to_maximum
from emulator.activation.kohler import activated_fraction, equilibrium_radii
from emulator.activation.modes import LN_SIGMA_G, NUM_MODES
from emulator.activation.settings import ParcelSettings
from emulator.activation.thermodynamics import kelvin_length

STATUS_NAMES = {
    FINISHED: "finished",
    integrator.TOO_MANY_STEPS: "too many steps",
    integrator.STEP_TOO_SMALL: "step too small",
    integrator.NO_MAXIMUM: "no maximum within the ascent",
    integrator.NO_EQUILIBRIUM: "no equilibrium at the start",
}

_COMPILED_FILES = tuple(
    f"{name}.py"
    for name in ("constants", "thermodynamics", "kohler", "rosenbrock", "growth", "integrator", "parcel")
)


@dataclasses.dataclass(frozen=True)
class ParcelResult:
    """What `simulate` returns; samples in the order given.

    Attributes
    ----------
    fn : float64 array (num_samples, 4)
        Activated number fraction per mode, [1]; NaN where `status` is not 0.
    smax : float64 array (num_samples,)
        Maximum supersaturation, [1]; NaN where `status` is not 0.
    tair_smax : float64 array (num_samples,)
        Temperature there, [K]; NaN where `status` is not 0.
    steps : int32 array (num_samples,)
        Attempted steps.
    status : int8 array (num_samples,)
        0 finished; others: `STATUS_NAMES`.
    """

    fn: np.ndarray
    smax: np.ndarray
    tair_smax: np.ndarray
    steps: np.ndarray
    status: np.ndarray


def bin_table(settings):
    """Cut each mode into bins equally wide in ln(dry radius).

    A bin holds the number of its slice of the lognormal, at the root-mean-square dry radius of the slice: number
    and surface are exact. Compared with the slice's middle this takes out most of the bias that a finite number
    of bins has in the water uptake (4 times less error in the fn of mode 1 at 80 bins).

    Parameters
    ----------
    settings : ParcelSettings

    Returns
    -------
    mode : int64 array (num_bins,)
        Mode of each bin, 0-based.
    scale : float64 array (num_bins,)
        Dry radius of the bin over the mode's median, [1].
    weight : float64 array (num_bins,)
        Part of the mode's number in the bin, [1]; the tails outside the bins are left out.
    """
    mode, scale, weight = [], [], []
    for m in range(NUM_MODES):
        edges = np.linspace(settings.lower[m], settings.upper[m], settings.bins[m] + 1)
        ln_sigma = LN_SIGMA_G[m]
        number = _normal_between(edges)
        # Second moment of a lognormal's slice: exp(2 ln^2 sigma) and the normal shifted by 2 ln sigma.
        surface = np.exp(2.0 * ln_sigma**2) * _normal_between(edges - 2.0 * ln_sigma)
        mode.append(np.full(settings.bins[m], m))
        scale.append(np.sqrt(surface / number))
        weight.append(number)
    return np.concatenate(mode), np.concatenate(scale), np.concatenate(weight)


def _normal_between(edges):
    """Probability of the standard normal between consecutive edges, without cancellation in the upper tail."""
    below, above = edges[:-1], edges[1:]
    return np.where(below > 0.0, ndtr(-below) - ndtr(-above), ndtr(above) - ndtr(below))


def _source_digest():
    """Number that changes with any file that the compiled entry point depends on."""
    folder = pathlib.Path(__file__).parent
    text = b"".join((folder / name).read_bytes() for name in _COMPILED_FILES)
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")


def _build_simulate_block(source_digest):
    """Compile the entry point; numba keeps the machine code on disk, in __pycache__.

    Numba renews a cached function when the file that *defines* it changes, not those of the functions it calls.
    Numbers in a closure are part of its key, hence the digest.
    """

    @njit(cache=True, error_model="numpy")
    def simulate_block(
        tair, pressure, rh, wbar, num_aer, r_aer, kappa, mode, scale, weight, ln_sigma_g, constants,
        relative_tolerance, absolute_tolerance_s, radius_factor, max_ascent_scale, max_steps, kappa_floor,
        fn, smax, tair_smax, steps, status,
    ):  # fmt: skip
        num_bins = mode.shape[0]
        bins = np.empty((3, num_bins))
        work = np.empty((NUM_WORK_ROWS, num_bins))
        dry_radius = np.empty(num_bins)
        growth_kappa = np.empty(num_bins)
        key = source_digest  # noqa: F841  part of the cache key, see above
        for n in range(tair.shape[0]):
            for i in range(num_bins):
                m = mode[i]
                dry_radius[i] = r_aer[n, m] * 1e-6 * scale[i]
                growth_kappa[i] = max(kappa[n, m], kappa_floor)
                cubed = dry_radius[i] ** 3
                bins[0, i] = cubed * (1.0 - growth_kappa[i])
                bins[1, i] = cubed * growth_kappa[i]
                bins[2, i] = num_aer[n, m] * 1e6 * weight[i]
            s0 = rh[n] - 1.0
            if not equilibrium_radii(s0, dry_radius, growth_kappa, kelvin_length(tair[n], constants), work[0]):
                steps[n], status[n] = 0, NO_EQUILIBRIUM
            else:
                smax[n], tair_smax[n], steps[n], status[n] = rise_to_maximum(
                    tair[n], pressure[n] * 100.0, s0, wbar[n] * 0.01, constants, bins, work,
                    relative_tolerance, absolute_tolerance_s, radius_factor,
                    max_ascent_scale * (300.0 + 9000.0 * (1.02 - rh[n])), max_steps,
                )  # fmt: skip
            if status[n] == FINISHED:
                kelvin = kelvin_length(tair_smax[n], constants)
                for m in range(fn.shape[1]):
                    fn[n, m] = activated_fraction(smax[n], r_aer[n, m] * 1e-6, ln_sigma_g[m], kappa[n, m], kelvin)
            else:
                smax[n] = tair_smax[n] = np.nan
                fn[n, :] = np.nan

    return simulate_block


SOURCE_DIGEST = _source_digest()

_simulate_block = _build_simulate_block(SOURCE_DIGEST)


def simulate(states, settings=None):
    """Run the parcel model on each state.

    Parameters
    ----------
    states : emulator.activation.states.States
        Validated physical inputs of num_samples parcels.
    settings : ParcelSettings, optional
        Default: production settings.

    Returns
    -------
    ParcelResult
        A parcel that did not finish has NaN and a status that says why; nothing is raised for it.
    """
    settings = settings or ParcelSettings()
    num_samples = states.num_samples
    result = ParcelResult(
        fn=np.empty((num_samples, NUM_MODES)),
        smax=np.empty(num_samples),
        tair_smax=np.empty(num_samples),
        steps=np.empty(num_samples, np.int32),
        status=np.empty(num_samples, np.int8),
    )
    inputs = [np.ascontiguousarray(x, np.float64) for x in states.arrays()]
    _simulate_block(
        *inputs,
        *bin_table(settings),
        np.array(LN_SIGMA_G),
        settings.constants.values(),
        settings.relative_tolerance,
        settings.absolute_tolerance_s,
        settings.radius_factor,
        settings.max_ascent_scale,
        settings.max_steps,
        settings.growth_kappa_floor,
        result.fn,
        result.smax,
        result.tair_smax,
        result.steps,
        result.status,
    )
    return result
