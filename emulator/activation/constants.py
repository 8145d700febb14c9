"""Physical constants of the parcel model; the default set is pyrcel's, so that both models can be compared."""

import dataclasses
from typing import NamedTuple

TRIPLE_OFFSET_K = 273.15
"""0 degrees Celsius in kelvin."""


class ConstantValues(NamedTuple):
    """`Constants` in the form that compiled code takes; same fields, same units."""

    gravity: float
    heat_capacity: float
    latent_heat: float
    water_density: float
    gas_constant: float
    molar_mass_water: float
    molar_mass_air: float
    molar_mass_ratio: float
    condensation_coefficient: float
    thermal_accommodation: float
    surface_tension: float
    surface_tension_slope: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """Constants of air and water used by the parcel model.

    The defaults are those of pyrcel 2.0 (Rothenberg & Wang 2016, doi:10.1175/JAS-D-15-0223.1), whose latent
    heat is that of about 30 degrees Celsius. `Constants.e3sm()` gives a host's set instead.

    Attributes
    ----------
    gravity : float
        [m s-2]
    heat_capacity : float
        Of dry air at constant pressure, [J kg-1 K-1].
    latent_heat : float
        Of vaporization, [J kg-1].
    water_density : float
        [kg m-3]
    gas_constant : float
        Universal, [J mol-1 K-1].
    molar_mass_water, molar_mass_air : float
        [kg mol-1]
    molar_mass_ratio : float
        Of water to dry air, used only for the initial vapour mixing ratio, [1].
    condensation_coefficient, thermal_accommodation : float
        Chance that a molecule that hits the drop sticks, respectively exchanges its heat, [1].
    surface_tension : float
        Of water against air at 0 degrees Celsius, [J m-2].
    surface_tension_slope : float
        Its change with temperature, [J m-2 K-1].
    """

    gravity: float = 9.81
    heat_capacity: float = 1004.0
    latent_heat: float = 2.25e6
    water_density: float = 1.0e3
    gas_constant: float = 8.314
    molar_mass_water: float = 18.0e-3
    molar_mass_air: float = 28.9e-3
    molar_mass_ratio: float = 0.622
    condensation_coefficient: float = 1.0
    thermal_accommodation: float = 0.96
    surface_tension: float = 0.0761
    surface_tension_slope: float = -1.55e-4

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "surface_tension_slope" and not 0.0 < value < float("inf"):
                raise ValueError(f"constant '{field.name}' is {value!r}; expected a finite positive number")
        for name in ("condensation_coefficient", "thermal_accommodation"):
            if getattr(self, name) > 1.0:
                raise ValueError(f"constant '{name}' is {getattr(self, name)!r}; expected a probability, (0, 1]")

    @classmethod
    def e3sm(cls):
        """The set of E3SM: `shr_const_mod.F90`, and the surface tension of `ndrop.F90` (constant in T)."""
        boltzmann_times_avogadro = 1.38065e-23 * 6.02214e26 * 1e-3
        return cls(
            gravity=9.80616,
            heat_capacity=1.00464e3,
            latent_heat=2.501e6,
            gas_constant=boltzmann_times_avogadro,
            molar_mass_water=18.016e-3,
            molar_mass_air=28.966e-3,
            molar_mass_ratio=18.016 / 28.966,
            surface_tension=0.076,
            surface_tension_slope=0.0,
        )

    def values(self):
        """Return the same numbers as the named tuple that compiled code takes (`ConstantValues`)."""
        return ConstantValues(**{name: float(value) for name, value in dataclasses.asdict(self).items()})


CONSTANT_SETS = {"pyrcel": Constants, "e3sm": Constants.e3sm}
"""Named sets, for command lines."""
