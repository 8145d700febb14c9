"""Input states of the parcel model: their container and the distribution they are drawn from.

Sample i of a seed is point i of a scrambled Sobol sequence (Owen 1998, doi:10.1006/jcom.1998.0487; scipy's LMS +
shift scrambling) taken through the marginals of `_e3sm_states`: it depends on (seed, i) alone, so any block of
samples can be made anywhere. One dimension of the sequence per input, 16 in all.

Values are rounded to float32 *before* they are simulated, so a file that stores float32 holds exactly what was
simulated; rounding never leaves the stated range.
"""

import dataclasses
import warnings

import numpy as np
from scipy.special import ndtr, ndtri

from emulator.activation.modes import DRY_RADIUS_MAX_UM, DRY_RADIUS_MIN_UM, NUM_MODES

NUM_DIMENSIONS = 16

SEQUENCE_BITS = 32  # scipy 1.17 cannot skip ahead in a 64-bit sequence

MAX_SAMPLES = 2**SEQUENCE_BITS

SAMPLERS = ("e3sm",)

SAMPLER_VERSION = 1
"""Raised when a marginal changes: files of different versions hold different states for the same seed."""

SCALAR_NAMES = ("tair", "pressure", "rh", "wbar")
MODAL_NAMES = ("num_aer", "r_aer", "kappa")

RH_RANGE = (0.70, 0.999)
UPDRAFT_RANGE = (5.0, 1000.0)  # [cm s-1]
PRESSURE_RANGE = (400.0, 1013.0)  # [hPa]
TEMPERATURE_RANGE = (235.0, 305.0)  # [K]
NUMBER_MIN = np.array([1.0, 1.0, 1e-3, 1e-2])  # [cm-3]
NUMBER_MAX = np.array([5e3, 3e4, 2e1, 3e3])  # [cm-3]


@dataclasses.dataclass(frozen=True)
class States:
    """Physical inputs of num_samples parcels, named and in units as in a samples file.

    Attributes
    ----------
    tair, pressure, rh, wbar : array (num_samples,)
        Temperature [K], pressure [hPa], relative humidity over liquid [1], updraft [cm s-1], at the start.
    num_aer, r_aer, kappa : array (num_samples, 4)
        Number [cm-3], number-median dry radius [um], hygroscopicity [1] per mode.

    Raises
    ------
    ValueError
        For a wrong shape, or a value outside what the parcel model can take; names variable, sample and value.
    """

    tair: np.ndarray
    pressure: np.ndarray
    rh: np.ndarray
    wbar: np.ndarray
    num_aer: np.ndarray
    r_aer: np.ndarray
    kappa: np.ndarray

    def __post_init__(self):
        num_samples = np.shape(self.tair)[0] if np.ndim(self.tair) else None
        for name in SCALAR_NAMES + MODAL_NAMES:
            value = np.asarray(getattr(self, name))
            object.__setattr__(self, name, value)
            expected = (num_samples,) if name in SCALAR_NAMES else (num_samples, NUM_MODES)
            if value.shape != expected:
                raise ValueError(
                    f"'{name}' has shape {value.shape}; expected {expected} "
                    f"(num_samples from 'tair', {NUM_MODES} modes)"
                )
        self._check("tair", "150 < tair < 350 K", (self.tair > 150.0) & (self.tair < 350.0))
        self._check("pressure", "50 < pressure < 1200 hPa", (self.pressure > 50.0) & (self.pressure < 1200.0))
        self._check("rh", "0 < rh < 1: the parcel starts below saturation", (self.rh > 0.0) & (self.rh < 1.0))
        self._check("wbar", "0 < wbar < 1e5 cm/s", (self.wbar > 0.0) & (self.wbar < 1e5))
        self._check("num_aer", "0 <= num_aer < 1e9 cm-3", (self.num_aer >= 0.0) & (self.num_aer < 1e9))
        self._check("r_aer", "1e-4 < r_aer < 100 um", (self.r_aer > 1e-4) & (self.r_aer < 100.0))
        self._check("kappa", "0 <= kappa <= 2", (self.kappa >= 0.0) & (self.kappa <= 2.0))

    def _check(self, name, expected, good):
        if not good.all():
            at = tuple(int(i) for i in np.argwhere(~good)[0])
            raise ValueError(
                f"'{name}' is {float(getattr(self, name)[at])!r} at index {at}, and {int((~good).sum())} value(s) in "
                f"all are out of range; expected {expected}. Clip the inputs, or leave these samples out."
            )

    @property
    def num_samples(self):
        return self.tair.shape[0]

    def arrays(self):
        """Return the seven arrays in the order of the attributes."""
        return [getattr(self, name) for name in SCALAR_NAMES + MODAL_NAMES]

    def take(self, indices):
        """Return the states at `indices` (anything numpy takes as an index of the first axis)."""
        return States(*(x[indices] for x in self.arrays()))


class StateSampler:
    """Draws blocks of states; each call depends on (seed, start, count) alone.

    Moving forward in the sequence is cheap, moving back starts it again.

    Parameters
    ----------
    seed : int
        Non-negative.
    sampler : str
        One of `SAMPLERS`.
    """

    def __init__(self, seed, sampler="e3sm"):
        if sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {sampler!r}; expected one of: {', '.join(SAMPLERS)}")
        if seed < 0:
            raise ValueError(f"seed is {seed}; expected a non-negative integer")
        self.seed = seed
        self.sampler = sampler
        self._engine = None

    def block(self, start, count):
        """Return `States` of the samples start ... start + count - 1 (float32 arrays)."""
        if start < 0 or count < 1:
            raise ValueError(f"block starts at {start} and has {count} samples; expected start >= 0 and count >= 1")
        from scipy.stats import qmc  # here: it takes a second, and who brings states of their own needs it not

        if self._engine is None or self._engine.num_generated > start:
            generator = np.random.default_rng(self.seed)
            self._engine = qmc.Sobol(NUM_DIMENSIONS, scramble=True, bits=SEQUENCE_BITS, rng=generator)
        if self._engine.num_generated < start:
            self._engine.fast_forward(start - self._engine.num_generated)
        with warnings.catch_warnings():
            # The balance of a whole power of two is not at stake in a block of a longer sequence.
            warnings.filterwarnings("ignore", message="The balance properties of Sobol")
            unit = self._engine.random(count)
        return _e3sm_states(np.clip(unit, 1e-12, 1.0 - 1e-12))


def sample_states(num_samples, seed, start=0, sampler="e3sm"):
    """Return `States` of the samples start ... start + num_samples - 1 of a seed."""
    return StateSampler(seed, sampler).block(start, num_samples)


def _rounded(values, low, high):
    """Round to float32 without leaving [low, high]."""
    low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
    low32, high32 = low.astype(np.float32), high.astype(np.float32)
    low32 = np.where(low32 < low, np.nextafter(low32, np.float32(np.inf)), low32)
    high32 = np.where(high32 > high, np.nextafter(high32, np.float32(-np.inf)), high32)
    return np.clip(values.astype(np.float32), low32, high32)


def _logistic(x):
    return 1.0 / (1.0 + np.exp(-x))


# Number: median at 1.5 km [cm-3], geometric standard deviation, correlation with a common pollution factor, and
# height over which the median falls by e [km]. Medians and spreads cover remote ocean to polluted continent; sea salt
# and dust (coarse) follow wind, not pollution, and settle faster.
NUMBER_MEDIAN = np.array([110.0, 350.0, 0.06, 6.0])
NUMBER_SPREAD = np.array([2.8, 3.5, 4.0, 6.0])
NUMBER_LOADING = np.array([0.6, 0.5, 0.0, 0.6])
NUMBER_SCALE_HEIGHT_KM = np.array([6.0, 8.0, 4.0, 5.0])

# Radius: median [um] and geometric standard deviation. Near the sizes at which MAM4 emits or nucleates (primary carbon
# is emitted at 0.08 um diameter), clamped to the mode's bounds as the host does, so states *at* a bound are common.
RADIUS_MEDIAN_UM = np.array([0.065, 0.018, 0.62, 0.040])
RADIUS_SPREAD = np.array([1.3, 1.4, 1.25, 1.35])


def _e3sm_states(unit):
    """Take points of the unit cube through E3SM-like marginals.

    - pressure: 400 to 1013 hPa, denser low down, where most liquid cloud bases are.
    - tair: between bounds that fall with height (8 km scale height): 248 - 6.5 z, at least 235 K (colder drops
      freeze), to 305 - 5.5 z; weighted towards warm: about 30 % below freezing at the surface.
    - rh: 0.70 to 0.999, densest at saturation: E3SM calls activation in cloudy layers and at cloud base; the
      host's call site clips grid means above 0.999.
    - wbar: lognormal about 25 cm/s, factor 2.8, truncated to 5 to 1000 cm/s: the host floors at 10 cm/s and caps at
      10 m/s; half the floor leaves room so that the network does not end at an edge.
    - num_aer: lognormal, correlated between modes, falling with height (constants above).
    - r_aer: lognormal, clamped to MAM4's bounds (constants above).
    - kappa, volume means of E3SM's species (sulfate 0.507, SOA 0.14, sea salt 1.16, dust 0.068, marine organic 0.1,
      POM and BC 1e-10): accumulation 0.10 to 1.05, mostly 0.2 to 0.6; Aitken 0.12 to 0.92, correlated with it;
      coarse from dust to sea salt, weighted to salt; primary carbon: 60 % clean (POM and BC), log-uniform 1e-10 to
      1e-6, so that a network sees no atom, 40 % with marine organics, 1e-6 to 0.1, weighted to the upper end.

    Parameters
    ----------
    unit : float64 array (num_samples, 16)
        In (0, 1).

    Returns
    -------
    States
        float32 arrays.
    """
    pressure = PRESSURE_RANGE[1] - (PRESSURE_RANGE[1] - PRESSURE_RANGE[0]) * unit[:, 0] ** 1.4
    height_km = 8.0 * np.log(PRESSURE_RANGE[1] / pressure)
    coldest = np.maximum(TEMPERATURE_RANGE[0], 248.0 - 6.5 * height_km)
    warmest = TEMPERATURE_RANGE[1] - 5.5 * height_km
    tair = coldest + (warmest - coldest) * unit[:, 1] ** 0.7

    rh = 1.0 - 0.30 * unit[:, 2] ** 1.8

    ends = ndtr(np.log(np.array(UPDRAFT_RANGE) / 25.0) / np.log(2.8))
    wbar = 25.0 * 2.8 ** ndtri(ends[0] + (ends[1] - ends[0]) * unit[:, 3])

    correlation = np.outer(NUMBER_LOADING, NUMBER_LOADING)
    np.fill_diagonal(correlation, 1.0)
    normal = ndtri(unit[:, 4:8]) @ np.linalg.cholesky(correlation).T
    fall = np.exp(-(height_km[:, None] - 1.5) / NUMBER_SCALE_HEIGHT_KM)
    num_aer = NUMBER_MEDIAN * NUMBER_SPREAD**normal * fall

    r_aer = RADIUS_MEDIAN_UM * RADIUS_SPREAD ** ndtri(unit[:, 8:12])

    kappa = np.empty((len(unit), NUM_MODES))
    composition = ndtri(unit[:, 12:14])
    kappa[:, 0] = 0.10 + 0.95 * _logistic(-1.0 + 0.9 * composition[:, 0])
    kappa[:, 1] = 0.12 + 0.80 * _logistic(-0.9 + 0.9 * (0.6 * composition[:, 0] + 0.8 * composition[:, 1]))
    kappa[:, 2] = 0.068 + 1.092 * unit[:, 14] ** 0.45
    share = unit[:, 15]
    kappa[:, 3] = np.where(
        share < 0.6, 10.0 ** (-10.0 + 4.0 * share / 0.6), 10.0 ** (-6.0 + 5.0 * np.sqrt(np.abs(share - 0.6) / 0.4))
    )

    return States(
        tair=_rounded(tair, *TEMPERATURE_RANGE),
        pressure=_rounded(pressure, *PRESSURE_RANGE),
        rh=_rounded(rh, *RH_RANGE),
        wbar=_rounded(wbar, *UPDRAFT_RANGE),
        num_aer=_rounded(num_aer, NUMBER_MIN, NUMBER_MAX),
        r_aer=_rounded(r_aer, DRY_RADIUS_MIN_UM, DRY_RADIUS_MAX_UM),
        kappa=_rounded(kappa, 1e-10, 1.16),
    )
