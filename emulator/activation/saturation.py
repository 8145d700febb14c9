"""Saturation vapour pressure and specific humidity as E3SM's physics looks them up: mixed phase, from a table.

Goff & Gratch (1946) over water and over ice, with the coefficients of the Smithsonian tables (List 1951, p. 350).
Between the melting point and 20 K below it the two are blended linearly; the table has one entry per kelvin and
is interpolated linearly, which by itself lifts the vapour pressure by up to 0.07 % near 273 K: a baseline that
is to stand for E3SM's has to carry that too.
"""

import numpy as np

MELTING_POINT_K = 273.15
BOILING_POINT_K = 373.16  # steam point that the Goff-Gratch fit was made with
TRIPLE_POINT_K = 273.16
BLEND_RANGE_K = 20.0

MOLAR_MASS_DRY_AIR = 28.966  # kg kmol-1, SHR_CONST_MWDAIR
MOLAR_MASS_WATER = 18.016  # kg kmol-1, SHR_CONST_MWWV
EPSILON = MOLAR_MASS_WATER / MOLAR_MASS_DRY_AIR

TABLE_START_K = 127.16
TABLE_END_K = 375.16
TABLE_SIZE = 250  # one entry per kelvin, and one past the end, so that interpolation may look one up


def vapour_pressure_over_water(temperature):
    """Goff-Gratch saturation vapour pressure over a plane of liquid water.

    Parameters
    ----------
    temperature : array_like
        Temperature, [K]. The fit is uncertain below about 203 K.

    Returns
    -------
    numpy.ndarray
        Vapour pressure, [Pa], shape of `temperature`.
    """
    boiling_ratio = BOILING_POINT_K / np.asarray(temperature, dtype=np.float64)
    exponent = (
        -7.90298 * (boiling_ratio - 1.0)
        + 5.02808 * np.log10(boiling_ratio)
        - 1.3816e-7 * (10.0 ** (11.344 * (1.0 - 1.0 / boiling_ratio)) - 1.0)
        + 8.1328e-3 * (10.0 ** (-3.49149 * (boiling_ratio - 1.0)) - 1.0)
        + np.log10(1013.246)
    )
    return 100.0 * 10.0**exponent


def vapour_pressure_over_ice(temperature):
    """Goff-Gratch saturation vapour pressure over a plane of ice.

    Parameters
    ----------
    temperature : array_like
        Temperature, [K]. The fit is good down to about 173 K.

    Returns
    -------
    numpy.ndarray
        Vapour pressure, [Pa], shape of `temperature`.
    """
    triple_ratio = TRIPLE_POINT_K / np.asarray(temperature, dtype=np.float64)
    exponent = (
        -9.09718 * (triple_ratio - 1.0)
        - 3.56654 * np.log10(triple_ratio)
        + 0.876793 * (1.0 - 1.0 / triple_ratio)
        + np.log10(6.1071)
    )
    return 100.0 * 10.0**exponent


def vapour_pressure_mixed_phase(temperature):
    """Saturation vapour pressure that passes linearly from water to ice between 273.15 and 253.15 K.

    Parameters
    ----------
    temperature : array_like
        Temperature, [K].

    Returns
    -------
    numpy.ndarray
        Vapour pressure, [Pa], shape of `temperature`.
    """
    temperature = np.asarray(temperature, dtype=np.float64)
    ice_share = np.clip((MELTING_POINT_K - temperature) / BLEND_RANGE_K, 0.0, 1.0)
    return ice_share * vapour_pressure_over_ice(temperature) + (1.0 - ice_share) * vapour_pressure_over_water(
        temperature
    )


_TABLE = vapour_pressure_mixed_phase(TABLE_START_K + np.arange(TABLE_SIZE))
_TABLE.setflags(write=False)


def saturation(temperature, pressure):
    """Vapour pressure and specific humidity at saturation, mixed phase, as E3SM's `qsat` gives them.

    Parameters
    ----------
    temperature : array_like
        Air temperature, [K]; outside 127.16-375.16 K the end of the table is used.
    pressure : array_like
        Air pressure, [Pa], broadcastable against `temperature`.

    Returns
    -------
    vapour_pressure : numpy.ndarray
        [Pa], never above `pressure`.
    specific_humidity : numpy.ndarray
        [kg kg-1], 1 where the vapour pressure reaches the pressure.
    """
    temperature = np.asarray(temperature, dtype=np.float64)
    pressure = np.asarray(pressure, dtype=np.float64)
    position = np.maximum(np.minimum(temperature, TABLE_END_K) - TABLE_START_K, 0.0)
    below = position.astype(np.int64)
    weight = position - below
    vapour_pressure = (1.0 - weight) * _TABLE[below] + weight * _TABLE[below + 1]
    boiling = pressure - vapour_pressure <= 0.0
    safe_pressure = np.where(boiling, vapour_pressure + 1.0, pressure)  # only so that nothing divides by zero
    specific_humidity = np.where(
        boiling, 1.0, EPSILON * vapour_pressure / (safe_pressure - (1.0 - EPSILON) * vapour_pressure)
    )
    return np.minimum(vapour_pressure, pressure), specific_humidity
