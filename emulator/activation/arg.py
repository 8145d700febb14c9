"""Abdul-Razzak & Ghan (2000), "ARG": the scheme that E3SM calls today and that an emulator has to beat.

Supersaturation maximum of a single updraft over several lognormal modes, then the activated number and mass
fraction of each. Equations: Abdul-Razzak & Ghan (2000), doi:10.1029/1999JD901161 (Eqs. 5-13); growth
coefficient: Abdul-Razzak et al. (1998), doi:10.1029/98JD03735, Eq. 16. What the papers leave open
(saturation, transport coefficients, thresholds, the weak-forcing branch) is done as in `activate_modal` of E3SM's
atmosphere model, single-updraft branch, with the corrected exponent of the first term of Eq. 6 (E3SM's
`fix_g1_err_ndrop = .true.`, its production setting).

The Fortran twin is `fortran_bridge/activation/aerosol_activation_arg.F90`; a test holds the two together. Both
form ln(S_c / S_max) from squares, which saves E3SM's square roots and changes the last digits only.
"""

import numpy as np
from scipy.special import erf

from emulator.activation.modes import LN_SIGMA_G, NUM_MODES
from emulator.activation.saturation import MOLAR_MASS_DRY_AIR, MOLAR_MASS_WATER, saturation

# E3SM's shared constants (shr_const_mod), so that the baseline is the host's and not a textbook's.
GRAVITY = 9.80616  # m s-2
GAS_CONSTANT = 6.02214e26 * 1.38065e-23  # J K-1 kmol-1: Avogadro's number times Boltzmann's constant
GAS_CONSTANT_DRY_AIR = GAS_CONSTANT / MOLAR_MASS_DRY_AIR  # J kg-1 K-1
GAS_CONSTANT_VAPOUR = GAS_CONSTANT / MOLAR_MASS_WATER  # J kg-1 K-1
HEAT_CAPACITY_DRY_AIR = 1.00464e3  # J kg-1 K-1
LATENT_HEAT = 2.501e6  # J kg-1
DENSITY_WATER = 1.0e3  # kg m-3

# E3SM's ndrop: constants of the scheme itself.
REFERENCE_PRESSURE = 1013.25e2  # Pa
REFERENCE_TEMPERATURE = 273.0  # K: rounded in E3SM, and kept
SURFACE_TENSION = 0.076  # N m-1
KELVIN_LENGTH = (
    2.0 * MOLAR_MASS_WATER * SURFACE_TENSION / (GAS_CONSTANT * REFERENCE_TEMPERATURE * DENSITY_WATER)
)  # m
NEGLIGIBLE_NUMBER = 1.0e-20  # m-3, in mode 1: no activation at all
ABSENT_MODE = 1.0e-39  # m-3 and m3 m-3: the mode takes up no water
INERT_KAPPA = 1.0e-10
INERT_SUPERSATURATION = 100.0
WEAK_FORCING_RATIO = 1.0e5
WEAK_FORCING_SUPERSATURATION = 1.0e-20
SMALL_ETA = 1.0e-20
MAX_UPDRAFT = 10.0  # m s-1, upper end of E3SM's updraft spectrum; sets eta of an absent mode

F_MODE = 0.5 * np.exp(2.5 * LN_SIGMA_G**2)  # Eq. 7
G_MODE = 1.0 + 0.25 * LN_SIGMA_G  # Eq. 8
EXP45_MODE = np.exp(4.5 * LN_SIGMA_G**2)
ERF_SCALE = 1.0 / (3.0 * np.sqrt(2.0) * LN_SIGMA_G)  # of ln(S_c^2 / S_max^2), Eq. 13
ERF_MASS_SHIFT = 1.5 * np.sqrt(2.0) * LN_SIGMA_G


def activate(tair, pressure, wbar, num_aer, r_aer, kappa):
    """Activated fractions by ARG, from the inputs of the case study in their units.

    Parameters
    ----------
    tair : array_like, shape (n,)
        Air temperature, [K].
    pressure : array_like, shape (n,)
        Air pressure, [hPa].
    wbar : array_like, shape (n,)
        Updraft speed, [cm s-1].
    num_aer : array_like, shape (n, 4)
        Number concentration of each mode, [cm-3].
    r_aer : array_like, shape (n, 4)
        Number-median dry radius of each mode, [um].
    kappa : array_like, shape (n, 4)
        Hygroscopicity of each mode, [1].

    Returns
    -------
    fn : numpy.ndarray, shape (n, 4)
        Activated fraction of number, [1].
    fm : numpy.ndarray, shape (n, 4)
        Activated fraction of mass (volume), [1].
    smax : numpy.ndarray, shape (n,)
        Maximum supersaturation, [1]; 0 where the scheme returns early.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    tair, pressure, wbar = (np.asarray(a, dtype=np.float64) for a in (tair, pressure, wbar))
    num_aer, r_aer, kappa = (np.asarray(a, dtype=np.float64) for a in (num_aer, r_aer, kappa))
    _check_shapes(tair.size, (), tair=tair, pressure=pressure, wbar=wbar)
    _check_shapes(tair.size, (NUM_MODES,), num_aer=num_aer, r_aer=r_aer, kappa=kappa)
    updraft, density, number, volume = host_state(tair, pressure, wbar, num_aer, r_aer)
    return activate_modal(updraft, tair, density, number, volume, kappa)


def host_state(tair, pressure, wbar, num_aer, r_aer):
    """What E3SM's routine is given, from the inputs of the case study: SI units, volume in place of radius.

    Parameters
    ----------
    tair, pressure, wbar : numpy.ndarray, shape (n,)
        [K], [hPa], [cm s-1].
    num_aer, r_aer : numpy.ndarray, shape (n, 4)
        [cm-3], [um].

    Returns
    -------
    updraft, density : numpy.ndarray, shape (n,)
        [m s-1], [kg m-3].
    number, volume : numpy.ndarray, shape (n, 4)
        [m-3], [m3 m-3]: the third moment of the lognormal mode.
    """
    updraft = 0.01 * wbar
    density = 100.0 * pressure / (GAS_CONSTANT_DRY_AIR * tair)
    number = 1.0e6 * num_aer
    radius = 1.0e-6 * r_aer
    volume = (4.0 / 3.0 * np.pi) * EXP45_MODE * radius * radius * radius * number
    return updraft, density, number, volume


def activate_modal(
    updraft,
    tair,
    density,
    number,
    volume,
    kappa,
    smax_prescribed=None,
    max_updraft=MAX_UPDRAFT,
    needs_first_mode=True,
):
    """ARG from E3SM's own arguments, vectorised over points.

    Parameters
    ----------
    updraft : array_like, shape (n,)
        Updraft speed, [m s-1]; where it is not positive nothing is activated.
    tair : array_like, shape (n,)
        Air temperature, [K].
    density : array_like, shape (n,)
        Air density, [kg m-3].
    number : array_like, shape (n, 4)
        Number concentration, [m-3]; where that of mode 1 is below 1e-20 nothing is activated.
    volume : array_like, shape (n, 4)
        Volume concentration, [m3 m-3].
    kappa : array_like, shape (n, 4)
        Volume-mean hygroscopicity, [1].
    smax_prescribed : array_like, shape (n,), optional
        Supersaturation to use in place of the scheme's own, [1].
    max_updraft : float, optional
        [m s-1]; enters only through modes without aerosol.
    needs_first_mode : bool, optional
        False: nothing is activated for want of mode 1 only where it is the one mode there is, as in E3SM's current
        form; the default is its refactored form's rule.

    Returns
    -------
    fn, fm : numpy.ndarray, shape (n, 4)
        Activated fraction of number and of mass, [1].
    smax : numpy.ndarray, shape (n,)
        Maximum supersaturation, [1]; 0 where the scheme returns early.

    Raises
    ------
    ValueError
        If a shape does not fit.
    """
    updraft, tair, density = (np.asarray(a, dtype=np.float64) for a in (updraft, tair, density))
    number, volume, kappa = (np.asarray(a, dtype=np.float64) for a in (number, volume, kappa))
    num_points = tair.size
    _check_shapes(num_points, (), updraft=updraft, tair=tair, density=density)
    _check_shapes(num_points, (NUM_MODES,), number=number, volume=volume, kappa=kappa)
    fn = np.zeros((num_points, NUM_MODES))
    fm = np.zeros((num_points, NUM_MODES))
    smax = np.zeros(num_points)
    active = updraft > 0.0
    if needs_first_mode or NUM_MODES == 1:
        active &= ~(number[:, 0] < NEGLIGIBLE_NUMBER)
    if smax_prescribed is not None:
        smax_prescribed = np.asarray(smax_prescribed, dtype=np.float64)
        active &= smax_prescribed > 0.0
    if not active.any():
        return fn, fm, smax

    zeta, eta, smc2 = _forcing(
        updraft[active], tair[active], density[active], number[active], volume[active], kappa[active], max_updraft
    )
    inverse_smax2 = (
        _inverse_square_supersaturation(zeta, eta, smc2)
        if smax_prescribed is None
        else 1.0 / smax_prescribed[active] ** 2
    )
    arg_number = ERF_SCALE * np.log(smc2 * inverse_smax2[:, None])
    fn[active] = 0.5 * (1.0 - erf(arg_number))
    fm[active] = 0.5 * (1.0 - erf(arg_number - ERF_MASS_SHIFT))
    smax[active] = 1.0 / np.sqrt(inverse_smax2)
    return fn, fm, smax


def _forcing(updraft, tair, density, number, volume, kappa, max_updraft):
    """zeta (n,), eta (n, 4) of Eqs. 10-11 and the squared critical supersaturation (n, 4) of the modes, all [1]."""
    pressure = GAS_CONSTANT_DRY_AIR * density * tair
    _, qs = saturation(tair, pressure)
    latent_over_rv_t = LATENT_HEAT / (GAS_CONSTANT_VAPOUR * tair)
    dqs_dt = latent_over_rv_t / tair * qs
    alpha = GRAVITY / tair * (latent_over_rv_t / HEAT_CAPACITY_DRY_AIR - 1.0 / GAS_CONSTANT_DRY_AIR)
    gamma = (1.0 + LATENT_HEAT / HEAT_CAPACITY_DRY_AIR * dqs_dt) / (density * qs)
    diffusivity = 0.211e-4 * (REFERENCE_PRESSURE / pressure) * (tair / REFERENCE_TEMPERATURE) ** 1.94
    conductivity = (5.69 + 0.017 * (tair - REFERENCE_TEMPERATURE)) * 4.186e2 * 1.0e-5
    growth = 1.0 / (
        DENSITY_WATER / (diffusivity * density * qs)
        + LATENT_HEAT * DENSITY_WATER / (conductivity * tair) * (latent_over_rv_t - 1.0)
    )
    beta = 2.0 * np.pi * DENSITY_WATER * growth * gamma
    cooling = alpha * updraft
    sqrt_cooling = np.sqrt(cooling)
    sqrt_growth = np.sqrt(growth)
    zeta = (2.0 / 3.0) * KELVIN_LENGTH * sqrt_cooling / sqrt_growth

    present = (volume > ABSENT_MODE) & (number > ABSENT_MODE)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # masked just below
        eta_present = (cooling * sqrt_cooling / (beta * sqrt_growth))[:, None] / number
        # S_c^2 = 4 A^3 / (27 kappa r^3), r^3 = 3 V / (4 pi N exp(4.5 ln^2 sigma))
        smc2_present = (16.0 * np.pi / 81.0 * KELVIN_LENGTH**3) * EXP45_MODE * number / (kappa * volume)
    smc2_present = np.where(kappa > INERT_KAPPA, smc2_present, INERT_SUPERSATURATION**2)
    largest = alpha * max_updraft
    eta_absent = (cooling * sqrt_cooling * 1.0e10 / (largest * np.sqrt(largest)))[:, None]
    return zeta, np.where(present, eta_present, eta_absent), np.where(present, smc2_present, 1.0)


def _inverse_square_supersaturation(zeta, eta, smc2):
    """1 / S_max^2 of Eq. 6, shape (n,), with E3SM's two guards; from zeta (n,), eta (n, 4), S_c^2 (n, 4)."""
    zeta = zeta[:, None]
    weak = ((zeta > WEAK_FORCING_RATIO * eta) | (smc2 > WEAK_FORCING_RATIO * eta)).all(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # eta = 0 is masked below
        ratio = zeta / eta
        first = F_MODE * (ratio * np.sqrt(ratio))
        root = np.sqrt(smc2 / (eta + 3.0 * zeta))
        second = G_MODE * (root * np.sqrt(root))
        terms = (first + second) / smc2
    total = np.zeros(zeta.shape[0])
    for mode in range(NUM_MODES):
        # A mode with next to no eta does not add to the sum, it replaces it: E3SM's order dependence, kept.
        total = np.where(eta[:, mode] > SMALL_ETA, total + terms[:, mode], 1.0e20)
    return np.where(weak, 1.0 / WEAK_FORCING_SUPERSATURATION**2, total)


def _check_shapes(num_points, trailing, **arrays):
    expected = (num_points, *trailing)
    for name, array in arrays.items():
        if array.shape != expected:
            axes = f"one value per point and mode, {NUM_MODES} modes" if trailing else "one value per point"
            raise ValueError(f"{name} has shape {array.shape}, expected {expected}: {axes}, as many as tair has")
