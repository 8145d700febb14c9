"""ARG in numpy: limits that can be worked out by hand, E3SM's thresholds, and pyrcel's own ARG as a second opinion."""

import math

import numpy as np
import pytest

from emulator.activation import arg
from emulator.activation.modes import DRY_RADIUS_MAX_UM, DRY_RADIUS_MIN_UM, LN_SIGMA_G, SIGMA_G
from emulator.activation.saturation import (
    saturation,
    vapour_pressure_mixed_phase,
    vapour_pressure_over_ice,
    vapour_pressure_over_water,
)


def states(num_states, seed=0):
    """States over the whole range that a host can pass, in the units of the case study."""
    rng = np.random.default_rng(seed)

    def log_uniform(low, high, shape):
        return np.exp(rng.uniform(np.log(low), np.log(high), shape))

    tair = rng.uniform(235.0, 305.0, num_states)
    pressure = rng.uniform(400.0, 1013.0, num_states)
    wbar = log_uniform(5.0, 1000.0, num_states)
    num_aer = log_uniform(1e-1, 1e4, (num_states, 4))
    r_aer = log_uniform(DRY_RADIUS_MIN_UM, DRY_RADIUS_MAX_UM, (num_states, 4))
    kappa = rng.uniform(0.05, 1.2, (num_states, 4))
    return tair, pressure, wbar, num_aer, r_aer, kappa


# Saturation


def test_saturation_over_water_and_ice_meets_published_values():
    # Smithsonian Meteorological Tables (List 1951), tables 94 and 96, hPa; printed to 5 digits
    assert vapour_pressure_over_water(293.16) / 100 == pytest.approx(23.373, abs=1e-3)
    assert vapour_pressure_over_water(273.16) / 100 == pytest.approx(6.1078, abs=3e-4)
    assert vapour_pressure_over_ice(253.16) / 100 == pytest.approx(1.032, abs=1e-3)
    assert vapour_pressure_over_water(373.16) / 100 == pytest.approx(1013.246, abs=1e-3)


def test_saturation_is_over_water_above_freezing_over_ice_below_minus_20_and_half_way_between():
    assert vapour_pressure_mixed_phase(280.0) == vapour_pressure_over_water(280.0)
    assert vapour_pressure_mixed_phase(250.0) == vapour_pressure_over_ice(250.0)
    middle = 263.15
    half = 0.5 * (vapour_pressure_over_water(middle) + vapour_pressure_over_ice(middle))
    assert vapour_pressure_mixed_phase(middle) == pytest.approx(half, rel=1e-13)  # the share is 0.5 to rounding


def test_saturation_table_lies_above_the_curve_by_its_interpolation_error_and_no_more():
    temperature = np.linspace(274.0, 310.0, 5001)
    table, _ = saturation(temperature, 1e5)
    excess = table / vapour_pressure_over_water(temperature) - 1.0
    assert excess.min() > -1e-12  # a convex curve: chords lie above it, up to rounding
    # h^2/8 of the relative curvature, (L/(Rv T^2))^2 = 0.0053 K-2 at 274 K
    assert 3e-4 < excess.max() < 7.5e-4


def test_saturation_keeps_to_the_ends_of_its_table_and_to_the_pressure():
    cold, _ = saturation(100.0, 1e5)
    assert cold == pytest.approx(float(vapour_pressure_over_ice(127.16)), rel=1e-12)
    vapour_pressure, humidity = saturation(380.0, 9e4)
    assert vapour_pressure == 9e4
    assert humidity == 1.0


# ARG by hand


def test_half_of_a_mode_activates_at_its_own_critical_supersaturation():
    radius, kappa = 0.05e-6, 0.5
    kelvin = 2 * 18.016 * 0.076 / (6.02214e26 * 1.38065e-23 * 273.0 * 1000.0)
    critical = 2 * kelvin * math.sqrt(kelvin / (27 * kappa * radius**3))
    assert critical == pytest.approx(2.040e-3, rel=1e-3)  # worked out on paper
    number = np.full((1, 4), 1e8)
    volume = 4 / 3 * np.pi * np.exp(4.5 * LN_SIGMA_G**2) * radius**3 * number
    fn, fm, smax = arg.activate_modal(
        [1.0], [280.0], [1.1], number, volume, np.full((1, 4), kappa), smax_prescribed=[critical]
    )
    np.testing.assert_allclose(fn, 0.5, atol=1e-14)  # a logarithm of about 1, times at most 0.5
    # mass is distributed about exp(3 ln^2 sigma) of the number median: fm = Phi(3 ln sigma)
    expected = [0.5 * (1 + math.erf(3 * ls / math.sqrt(2))) for ls in LN_SIGMA_G]
    np.testing.assert_allclose(fm[0], expected, atol=1e-14)
    np.testing.assert_allclose(smax, critical, rtol=1e-15)


def test_smax_of_one_mode_follows_the_papers_equations():
    """Eq. 6 written out for one mode, all coefficients from the text book relations."""
    temperature, pressure, updraft, number, radius, kappa = 283.0, 9e4, 0.7, 3e8, 0.06e-6, 0.6
    fn, _, smax = arg.activate(
        [temperature], [pressure / 100], [updraft * 100], [[number / 1e6, 0, 0, 0]], [[radius * 1e6, 1, 1, 1]],
        [[kappa, 1, 1, 1]],
    )  # fmt: skip
    es = float(saturation(temperature, pressure)[0])
    es /= 1 - (1 - 18.016 / 28.966) * es / pressure  # the paper drops es against p, E3SM does not
    rd, rv, lv, cp, g = 8314.472 / 28.966, 8314.472 / 18.016, 2.501e6, 1004.64, 9.80616
    alpha = g * lv / (cp * rv * temperature**2) - g / (rd * temperature)
    gamma = rv * temperature / es + rd / rv * lv**2 / (cp * pressure * temperature)
    diffusivity = 0.211e-4 * (101325 / pressure) * (temperature / 273) ** 1.94
    conductivity = (5.69 + 0.017 * (temperature - 273)) * 418.6e-5
    growth = 1 / (
        1000 * rv * temperature / (es * diffusivity)
        + lv * 1000 / (conductivity * temperature) * (lv / (rv * temperature) - 1)
    )
    kelvin = 2 * 0.076 / (rv * 273 * 1000)
    zeta = 2 / 3 * kelvin * math.sqrt(alpha * updraft / growth)
    eta = (alpha * updraft / growth) ** 1.5 / (2 * math.pi * 1000 * gamma * number)
    critical = 2 / math.sqrt(kappa) * (kelvin / (3 * radius)) ** 1.5
    f, h = 0.5 * math.exp(2.5 * LN_SIGMA_G[0] ** 2), 1 + 0.25 * LN_SIGMA_G[0]
    expected = critical / math.sqrt(f * (zeta / eta) ** 1.5 + h * (critical**2 / (eta + 3 * zeta)) ** 0.75)
    # the gas constant: 8314.472 against Avogadro times Boltzmann, 5e-7, in eta and zeta to at most the power 3/2
    np.testing.assert_allclose(smax[0], expected, rtol=3e-6)
    expected_fn = 0.5 * (1 - math.erf(2 * math.log(critical / smax[0]) / (3 * math.sqrt(2) * LN_SIGMA_G[0])))
    assert fn[0, 0] == pytest.approx(expected_fn, abs=1e-6)


def test_more_updraft_activates_more_and_everything_in_the_end():
    tair, pressure, _, num_aer, r_aer, kappa = (a[:1].repeat(60, axis=0) for a in states(1, seed=3))
    wbar = np.geomspace(1.0, 1e9, 60)
    fn, fm, smax = arg.activate(tair, pressure, wbar, num_aer, r_aer, kappa)
    assert (np.diff(smax) > 0).all()
    assert (np.diff(fn, axis=0) >= 0).all()
    assert (fm >= fn).all()  # the large ones go first, and they hold the mass
    np.testing.assert_allclose(fn[-1], 1.0, atol=1e-6)


def test_modes_of_equal_width_can_be_exchanged():
    tair, pressure, wbar, num_aer, r_aer, kappa = states(200)
    swap = [2, 3, 0, 1]
    assert (SIGMA_G[swap] == SIGMA_G).all()
    fn, fm, smax = arg.activate(tair, pressure, wbar, num_aer, r_aer, kappa)
    fn2, fm2, smax2 = arg.activate(tair, pressure, wbar, num_aer[:, swap], r_aer[:, swap], kappa[:, swap])
    np.testing.assert_allclose(smax2, smax, rtol=1e-14)  # four terms summed in another order
    np.testing.assert_allclose(fn2[:, swap], fn, atol=1e-14)
    np.testing.assert_allclose(fm2[:, swap], fm, atol=1e-14)


def test_a_mode_without_aerosol_takes_no_water_from_the_others():
    tair, pressure, wbar, num_aer, r_aer, kappa = states(200, seed=4)
    num_aer[:, 1:] = 0.0
    _, _, alone = arg.activate(tair, pressure, wbar, num_aer, r_aer, kappa)
    num_aer[:, 1:] = 1e-12
    _, _, with_traces = arg.activate(tair, pressure, wbar, num_aer, r_aer, kappa)
    np.testing.assert_allclose(alone, with_traces, rtol=1e-7)  # E3SM's stand-in eta is large, not infinite


# E3SM's thresholds


def test_nothing_activates_without_updraft_or_without_accumulation_mode():
    tair, pressure, wbar, num_aer, r_aer, kappa = states(4)
    wbar[0], wbar[1], num_aer[2, 0] = 0.0, -20.0, 0.9e-26  # the last is 0.9e-20 m-3
    fn, fm, smax = arg.activate(tair, pressure, wbar, num_aer, r_aer, kappa)
    assert (fn[:3] == 0).all()
    assert (fm[:3] == 0).all()
    assert (smax[:3] == 0).all()
    assert (fn[3] > 0).any()


def test_inert_particles_do_not_activate():
    tair, pressure, wbar, num_aer, r_aer, kappa = states(100)
    kappa[:, 3] = 1e-10
    fn, _, _ = arg.activate(tair, pressure, wbar, num_aer, r_aer, kappa)
    assert (fn[:, 3] < 1e-12).all()  # critical supersaturation 100 against less than 1


def test_the_threshold_of_inert_particles_is_at_1e_minus_10():
    arguments = [1.0], [280.0], [1.1], np.full((1, 4), 1e8), np.full((1, 4), 1e-12)
    inert, _, _ = arg.activate_modal(*arguments, np.full((1, 4), 1e-10), smax_prescribed=[100.0])
    np.testing.assert_allclose(inert, 0.5, atol=1e-15)  # the critical supersaturation is 100 by decree
    above, _, _ = arg.activate_modal(*arguments, np.full((1, 4), 1.01e-10), smax_prescribed=[100.0])
    assert (np.abs(above - 0.5) > 0.1).all()


def test_weak_forcing_gives_the_tiny_supersaturation():
    tair, pressure, _, _, r_aer, kappa = states(1)
    fn, fm, smax = arg.activate(tair, pressure, [1e-9], np.full((1, 4), 1e6), r_aer, kappa)
    assert smax[0] == pytest.approx(1e-20, rel=1e-15)
    assert (fn == 0).all()
    assert (fm == 0).all()


def test_a_mode_of_vanishing_eta_replaces_what_was_summed_before_it():
    zeta, smc2 = np.array([1e-10]), np.full((1, 4), 1e-6)
    eta = np.full((1, 4), 1e-3)
    usual = arg._inverse_square_supersaturation(zeta, eta, smc2)[0]
    ratio, root = 1e-10 / 1e-3, math.sqrt(1e-6 / (1e-3 + 3e-10))
    assert usual == pytest.approx(sum(arg.F_MODE * ratio**1.5 + arg.G_MODE * root**1.5) / 1e-6, rel=1e-13)
    eta[0, 1] = 0.99e-20
    assert arg._inverse_square_supersaturation(zeta, eta, smc2)[0] == 1e20  # the others are lost in rounding
    eta[0, 1] = 1.01e-20
    assert arg._inverse_square_supersaturation(zeta, eta, smc2)[0] > 1e20  # (zeta/eta)^1.5 of 1e15


def test_shapes_that_do_not_fit_are_refused_by_name():
    tair, pressure, wbar, num_aer, r_aer, kappa = states(5)
    with pytest.raises(ValueError, match=r"r_aer has shape \(5, 3\), expected \(5, 4\)"):
        arg.activate(tair, pressure, wbar, num_aer, r_aer[:, :3], kappa)
    with pytest.raises(ValueError, match=r"wbar has shape \(4,\), expected \(5,\)"):
        arg.activate(tair, pressure, wbar[:4], num_aer, r_aer, kappa)


# pyrcel's own ARG


def pyrcel_smax(arguments):
    from pyrcel.activation import arg2000

    tair, pressure, wbar, num_aer, r_aer, kappa = arguments
    return np.array(
        [
            float(arg2000(wbar[i] / 100, tair[i], pressure[i] * 100, r_aer[i], SIGMA_G, num_aer[i], kappa[i])[0])
            for i in range(len(tair))
        ]
    )


def test_smax_is_pyrcels_once_pyrcel_has_e3sms_constants(monkeypatch):
    pytest.importorskip("pyrcel", reason="pyrcel holds the second implementation of ARG; pip install pyrcel")
    from pyrcel import constants
    from pyrcel.activation import _arg2000, _common

    for name, value in {
        "g": arg.GRAVITY,
        "Cp": arg.HEAT_CAPACITY_DRY_AIR,
        "L": arg.LATENT_HEAT,
        "R": arg.GAS_CONSTANT / 1000,
        "Mw": 0.018016,
        "Ma": 0.028966,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(_arg2000, "es", lambda celsius: saturation(celsius + 273.15, 1e9)[0])
    monkeypatch.setattr(_arg2000, "dv_cont", lambda t, p: 0.211e-4 * (101325 / p) * (t / 273) ** 1.94)
    monkeypatch.setattr(_arg2000, "ka_cont", lambda t: (5.69 + 0.017 * (t - 273)) * 418.6e-5)
    for module in (_arg2000, _common):
        monkeypatch.setattr(module, "sigma_w", lambda t: 0.076 * t / 273)  # E3SM's Kelvin length has no T in it
    arguments = states(40, seed=5)
    ours = arg.activate(*arguments)[2]
    # what is left: qs = eps es/(p - (1 - eps) es) here, eps es/p there; 0.38 es/p is at most 4 % at 305 K and
    # 400 hPa, and about half of it reaches S_max
    np.testing.assert_allclose(ours, pyrcel_smax(arguments), rtol=0.02)
