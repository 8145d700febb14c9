"""Moist air and the growth of one drop, as compiled scalar functions. SI units throughout.

Equations as pyrcel 2.0 states them (Rothenberg & Wang 2016, doi:10.1175/JAS-D-15-0223.1), after Ghan et al.
(2011, doi:10.1029/2011MS000074) and Pruppacher & Klett (1997, chapters 5 and 13).
"""

import math

from numba import njit

from emulator.activation.constants import TRIPLE_OFFSET_K

# No "nnan", no "ninf": the step control must be able to see a NaN.
FAST = {"reassoc", "contract", "arcp", "nsz"}
INLINED = {"fastmath": FAST, "error_model": "numpy", "forceinline": True}
"""Options of every compiled function below `parcel.simulate`, which thus becomes one piece of machine code.

A function that is not inlined is compiled twice, alone and within its caller, and optimised differently in the two. In
the process that compiles, the linker takes the first; in one that loads the caller from numba's cache, the second: the
last bits of a result then depend on the state of the cache.
"""


@njit(**INLINED)
def saturation_vapor_pressure(temperature):
    """Over liquid water, [Pa]; Magnus form of Bolton (1980), eq. 10, with 611.2 Pa."""
    celsius = temperature - TRIPLE_OFFSET_K
    return 611.2 * math.exp(17.67 * celsius / (celsius + 243.5))


@njit(**INLINED)
def initial_vapor_mixing_ratio(temperature, pressure, supersaturation, constants):
    """Vapour mixing ratio of air at a supersaturation, [kg kg-1]."""
    saturation = saturation_vapor_pressure(temperature)
    return (1.0 + supersaturation) * constants.molar_mass_ratio * saturation / (pressure - saturation)


@njit(**INLINED)
def kelvin_length(temperature, constants):
    """Curvature parameter A of the Koehler equation, [m]; Petters & Kreidenweis 2007, eq. 6, for radii."""
    surface_tension = constants.surface_tension + constants.surface_tension_slope * (temperature - TRIPLE_OFFSET_K)
    return (
        2.0 * constants.molar_mass_water * surface_tension
        / (constants.gas_constant * temperature * constants.water_density)
    )  # fmt: skip


@njit(**INLINED)
def parcel_coefficients(temperature, pressure, vapor, supersaturation, constants):
    """Everything in the parcel equations that does not depend on a drop's size.

    Growth of a drop of radius r is dr/dt = G/r (S - S_eq(r)) with non-continuum diffusivity D' and
    conductivity k' (Pruppacher & Klett 1997, eqs. 13-14, 13-20). As 1/D' = 1/D + d1/(D r), and likewise k', G/r
    is exactly 1/(resistance * r + kinetic): no other size enters.

    Parameters
    ----------
    temperature, pressure, vapor, supersaturation : float
        [K], [Pa], [kg kg-1], [1]
    constants : ConstantValues

    Returns
    -------
    resistance, kinetic : float
        Of dr/dt = (S - S_eq) / (resistance * r + kinetic), [s m-2] and [s m-1].
    kelvin : float
        Kelvin length A, [m].
    source, sink : float
        alpha [m-1] and gamma [1] of dS/dt = alpha V - gamma dw/dt (Ghan et al. 2011, section 2).
    condensation : float
        4 pi rho_w / rho_dry of dw/dt = condensation * sum(N r^2 dr/dt).
    density : float
        Of the moist air, [kg m-3].
    """
    gas = constants.gas_constant
    rt = gas * temperature
    water = constants.molar_mass_water
    air = constants.molar_mass_air
    latent = constants.latent_heat
    cp = constants.heat_capacity
    rho_water = constants.water_density
    gas_dry = gas / air

    saturation = saturation_vapor_pressure(temperature)
    density = pressure / (gas_dry * temperature * (1.0 + 0.61 * vapor))
    density_dry = (pressure - (1.0 + supersaturation) * saturation) / (gas_dry * temperature)

    # Continuum diffusivity (Pruppacher & Klett eq. 13-3) and conductivity (Seinfeld & Pandis 2006, eq. 17.71).
    diffusivity = 1e-4 * 0.211 / (pressure * 1.01325e-5) * (temperature / 273.0) ** 1.94
    conductivity = 1e-3 * (4.39 + 0.071 * temperature)
    diffusion_jump = diffusivity / constants.condensation_coefficient * math.sqrt(2.0 * math.pi * water / rt)
    heat_jump = (
        conductivity / (constants.thermal_accommodation * density * cp) * math.sqrt(2.0 * math.pi * air / rt)
    )
    of_diffusion = rho_water * rt / (saturation * water * diffusivity)
    of_heat = latent * rho_water * (latent * water / rt - 1.0) / (conductivity * temperature)

    source = constants.gravity * water * latent / (cp * rt * temperature) - constants.gravity * air / rt
    sink = pressure * air / (water * saturation) + water * latent * latent / (cp * rt * temperature)
    return (
        of_diffusion + of_heat,
        of_diffusion * diffusion_jump + of_heat * heat_jump,
        kelvin_length(temperature, constants),
        source,
        sink,
        4.0 * math.pi * rho_water / density_dry,
        density,
    )
