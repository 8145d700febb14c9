"""The physically tied output head of the case study: the network predicts ln S_max, and `fn` of every mode follows.

    fn = erfc(z) / 2,   fm = erfc(z - 3 ln(sigma) / sqrt(2)) / 2,   z = ln(r_c / r) / (sqrt(2) ln(sigma)),

where r_c is the smallest dry radius that activates at S_max by kappa-Koehler theory and r the mode's median: the
parcel model's own criterion (`kohler.activated_fraction`). One number decides about all modes, so that they are
consistent with each other, and number with mass.

Temperature. r_c is proportional to the Kelvin length A at the place of S_max, and cloud base is up to 9 K colder than
the parcel's start. It is taken at the temperature of the lifting condensation level (Bolton 1980, doi:10.1175/
1520-0493(1980)108<1046:TCOEPT>2.0.CO;2, Eq. 22), which needs no second output. What remains (0.12 K rms) goes into the
target: S_max is referred to that temperature by r_c ~ A S^(-2/3), the law of soluble particles.

Critical radius. With the volume growth u of `kohler.py`, L = ln(1 + S) = 3 kappa (1 + u) / (u (u + kappa))
- ln(1 + kappa / u). As kappa / u is at most L / 2, the second order in it gives the quadratic equation
L u^2 - 2 kappa u - kappa (3 - 5/2 kappa) = 0, and one Newton step from its root is enough, with four terms of the
logarithm. ARG's approximation S_c^2 = 4 A^3 / (27 kappa r^3) is not: for the nearly insoluble particles of primary
carbon it is wrong by up to 0.86 in fn. (Numbers: hpo/EXPERIMENTS.md.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from emulator.activation.baselines import OUTPUT_NAMES
from emulator.activation.modes import LN_SIGMA_G, NUM_MODES
from emulator.heads import Head, row
from emulator.variables import Column

NAME = "activation"
ATTRIBUTES = (
    "constant_molar_mass_water",
    "constant_gas_constant",
    "constant_water_density",
    "constant_surface_tension",
    "constant_surface_tension_slope",
)
"""Attributes of a samples file that the Kelvin length depends on."""

UNITS = {"tair": "K", "rh": "1", **{f"r_aer_{m + 1}": "um" for m in range(NUM_MODES)}}
UNITS |= {f"kappa_{m + 1}": "1" for m in range(NUM_MODES)}

# Limits that keep the closed form within numbers whatever a host or an untrained network gives: far outside of what
# can be. A mode without aerosol, which hosts give the radius 0, activates nothing.
TEMPERATURE_LIMITS = (150.0, 400.0)  # K
RH_LIMITS = (0.01, 1.0)
RADIUS_LIMITS = (1e-4, 100.0)  # um
KAPPA_LIMITS = (1e-12, 3.0)
LN_SMAX_LIMITS = (math.log(1e-6), math.log(0.3))

TRIPLE_OFFSET_K = 273.15


class ActivationHead(Head):
    """See the head of this file.

    Parameters
    ----------
    input_columns, output_columns : sequence of Column
        Of the network. Inputs must have tair, rh, and r_aer and kappa of every mode; outputs must be fn of every mode.
    attributes : mapping
        Holds those of ATTRIBUTES.

    Raises
    ------
    ValueError
        Other columns, other units, a missing attribute.
    """

    name = NAME
    targets = (Column(name="ln_smax", units="1", variable="ln_smax"),)
    variables = ("smax", "tair_smax")

    def __init__(self, input_columns: Sequence[Column], output_columns: Sequence[Column], attributes: Mapping):
        names = [c.name for c in input_columns]
        missing = [name for name in UNITS if name not in names]
        if missing:
            raise ValueError(f"output head {NAME!r} needs the inputs {', '.join(missing)}; the data have {names}")
        found = tuple(c.name for c in output_columns)
        if found != OUTPUT_NAMES:
            raise ValueError(
                f"output head {NAME!r} gives {', '.join(OUTPUT_NAMES)}; the outputs are {', '.join(found)}"
            )
        units = {c.name: c.units for c in input_columns}
        wrong = [f"{n} in {units[n]!r}, expected {u!r}" for n, u in UNITS.items() if units[n] != u]
        if wrong:
            raise ValueError(f"output head {NAME!r} was given {'; '.join(wrong)}")
        lacking = [name for name in ATTRIBUTES if name not in attributes]
        if lacking:
            raise ValueError(
                f"output head {NAME!r} needs the attributes {', '.join(lacking)} of the samples file, the parcel "
                "model's constants; `python -m emulator.activation generate` writes them"
            )
        self.attributes = {name: float(attributes[name]) for name in ATTRIBUTES}
        c = self.attributes
        self._slope = c["constant_surface_tension_slope"]
        # of the surface tension at 0 K, extrapolated
        self._offset = c["constant_surface_tension"] - self._slope * TRIPLE_OFFSET_K
        # um N^-1 m K: Kelvin length in um = factor * surface tension / temperature
        self._kelvin_factor = (
            1e6 * 2.0 * c["constant_molar_mass_water"] / (c["constant_gas_constant"] * c["constant_water_density"])
        )
        self._tair, self._rh = [names.index("tair")], [names.index("rh")]
        self._radius, self._kappa = (
            [names.index(f"{v}_{m + 1}") for m in range(NUM_MODES)] for v in ("r_aer", "kappa")
        )

    def kelvin_length_um(self, temperature):
        """Kelvin length, [um], at a temperature in K; arrays, tensors and expressions alike."""
        return (self._kelvin_factor * self._offset) / temperature + self._kelvin_factor * self._slope

    def reference_temperature(self, x_NI):
        """Temperature to which S_max is referred, (N, 1), [K]: that of the lifting condensation level."""
        tair = x_NI[:, self._tair].clamp(min=TEMPERATURE_LIMITS[0], max=TEMPERATURE_LIMITS[1])
        rh = x_NI[:, self._rh].clamp(min=RH_LIMITS[0], max=RH_LIMITS[1])
        return 1.0 / (1.0 / (tair - 55.0) - rh.log() / 2840.0) + 55.0

    def target(self, x_NI: np.ndarray, v_NV: np.ndarray) -> np.ndarray:
        """ln S_max, referred to `reference_temperature`; `v_NV` holds smax [1] and tair_smax [K]."""
        import torch

        reference = self.reference_temperature(torch.from_numpy(np.asarray(x_NI, np.float64))).numpy()
        smax, temperature = v_NV[:, :1], v_NV[:, 1:]
        if not (smax > 0.0).all():
            raise ValueError(f"smax reaches down to {smax.min():g}; a maximum supersaturation is above 0")
        return np.log(smax) + 1.5 * np.log(self.kelvin_length_um(reference) / self.kelvin_length_um(temperature))

    def distance(self, x_NI, t_N1):
        """z of every mode (N, 4): how far its median is from the smallest radius that activates."""
        kelvin = self.kelvin_length_um(self.reference_temperature(x_NI))
        radius = x_NI[:, self._radius].clamp(min=RADIUS_LIMITS[0], max=RADIUS_LIMITS[1])
        kappa = x_NI[:, self._kappa].clamp(min=KAPPA_LIMITS[0], max=KAPPA_LIMITS[1])
        l = log1p(t_N1.clamp(min=LN_SMAX_LIMITS[0], max=LN_SMAX_LIMITS[1]).exp())  # noqa: E741  L of this file's head
        u = (kappa + (kappa * (kappa + l * (3.0 - 2.5 * kappa))).sqrt()) / l
        u = u - newton_step(u, kappa, l)
        ratio = kelvin * u * (u + kappa) / (3.0 * kappa * radius * (u + 1.0))
        return (ratio * ratio * ratio / (u + 1.0)).log() * row(t_N1, 1.0 / (3.0 * math.sqrt(2.0) * LN_SIGMA_G))

    def outputs(self, x_NI, t_N1):
        """fn of every mode, (N, 4), [1]."""
        return 0.5 * self.distance(x_NI, t_N1).erfc()

    def fractions(self, x_NI: np.ndarray, t_N1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """fn and fm of every mode, both (N, 4) float64, accurate to round-off at both ends."""
        import torch

        z = self.distance(*(torch.from_numpy(np.ascontiguousarray(a, np.float64)) for a in (x_NI, t_N1)))
        return (0.5 * z.erfc()).numpy(), (0.5 * (z - row(z, MASS_SHIFT)).erfc()).numpy()


MASS_SHIFT = 3.0 * LN_SIGMA_G / math.sqrt(2.0)
"""Of z, from number to mass: the third moment of a lognormal is a lognormal with its median 3 ln^2(sigma) higher."""


def log1p(s):
    """ln(1 + s) for 0 <= s <= 0.3, within 4e-11 (relative), in single precision too: 2 artanh(s / (2 + s))."""
    w = s / (s + 2.0)
    q = w * w
    return w * (2.0 + q * (2.0 / 3.0 + q * (0.4 + q * (2.0 / 7.0 + q * (2.0 / 9.0 + q * (2.0 / 11.0))))))


def newton_step(u, kappa, l):  # noqa: E741
    """Newton's step from u towards f(u) = L, f as at the head of this file."""
    v = kappa / u
    logarithm = v * (1.0 - v * (0.5 - v * (1.0 / 3.0 - v * 0.25)))
    product = u * (u + kappa)
    value = 3.0 * kappa * (u + 1.0) / product - logarithm
    slope = kappa * (u * (kappa - 6.0 - 2.0 * u) - 3.0 * kappa) / (product * product)
    return (value - l) / slope
