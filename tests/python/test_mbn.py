"""Morales Betancourt & Nenes (2014), many states at once, against pyrcel called state by state."""

import numpy as np
import pytest

from emulator.activation import arg, mbn
from emulator.activation.mass import mass_from_number
from emulator.activation.modes import DRY_RADIUS_MAX_UM, DRY_RADIUS_MIN_UM, LN_SIGMA_G, SIGMA_G


def states(num_states, seed=0):
    """Moderate states, arguments of `activate` in their order."""
    rng = np.random.default_rng(seed)
    shape = (num_states, 4)
    return (
        rng.uniform(270.0, 300.0, num_states),
        rng.uniform(600.0, 1000.0, num_states),
        np.exp(rng.uniform(np.log(10.0), np.log(300.0), num_states)),
        np.exp(rng.uniform(np.log([50, 50, 0.1, 10]), np.log([2000, 3000, 5, 500]), shape)),
        np.exp(rng.uniform(np.log(1.5 * DRY_RADIUS_MIN_UM), np.log(0.8 * DRY_RADIUS_MAX_UM), shape)),
        rng.uniform(0.1, 1.0, shape),
    )


@pytest.fixture
def mbn2014():
    pytest.importorskip("pyrcel", reason="pyrcel holds the scheme; pip install pyrcel")
    from pyrcel.activation import mbn2014

    return mbn2014


def test_batches_equal_pyrcel_state_by_state_whatever_the_block(mbn2014, monkeypatch):
    tair, pressure, wbar, num_aer, r_aer, kappa = states(19)
    expected = [
        mbn2014(wbar[i] / 100, tair[i], 100 * pressure[i], r_aer[i], SIGMA_G, num_aer[i], kappa[i]) for i in range(19)
    ]
    for block in (4096, 8):  # all at once; two full blocks and a short one
        monkeypatch.setattr(mbn, "STATES_AT_ONCE", block)
        fn, _, smax = mbn.activate(tair, pressure, wbar, num_aer, r_aer, kappa)
        # the compiled residual may differ in rounding, and bisection stops within 1e-6 of the root
        np.testing.assert_allclose(smax, [float(e[0]) for e in expected], rtol=2e-6)
        np.testing.assert_allclose(fn, [np.asarray(e[2]) for e in expected], rtol=0, atol=2e-6)


def test_mass_fraction_follows_from_number_fraction_as_in_arg(mbn2014):
    fn, fm, _ = mbn.activate(*states(50))
    fn_arg, fm_arg, _ = arg.activate(*states(50))
    inside = (fn_arg > 1e-6) & (fn_arg < 1 - 1e-6)
    # the same relation as ARG's two error functions
    np.testing.assert_allclose(mass_from_number(fn_arg)[inside], fm_arg[inside], rtol=0, atol=1e-9)
    assert (fm >= fn).all()
    assert mass_from_number(np.zeros(4)).tolist() == [0.0] * 4
    assert mass_from_number(np.ones(4)).tolist() == [1.0] * 4
    half = mass_from_number(np.full(4, 0.5))
    np.testing.assert_allclose(half, 0.5 * (1 + arg.erf(3 * LN_SIGMA_G / np.sqrt(2))), rtol=1e-14)


def test_supersaturation_lies_above_args_in_the_middle_as_published(mbn2014):
    # ARG underestimates S_max against parcel models (Ghan et al. 2011, doi:10.1029/2011MS000074, Fig. 5), MBN does not
    ratio = mbn.activate(*states(300))[2] / arg.activate(*states(300))[2]
    assert 1.0 < np.median(ratio) < 1.8


def test_inert_modes_neither_activate_nor_disturb_the_others(mbn2014):
    tair, pressure, wbar, num_aer, r_aer, kappa = states(50)
    num_aer[:, 3] = 1e-6
    fn_without, _, smax_without = mbn.activate(tair, pressure, wbar, num_aer, r_aer, kappa)
    num_aer[:, 3], kappa[:, 3] = 100.0, 1e-10
    fn, _, smax = mbn.activate(tair, pressure, wbar, num_aer, r_aer, kappa)
    assert (fn[:, 3] < 1e-3).all()
    change = np.abs(smax / smax_without - 1)
    assert np.quantile(change, 0.9) < 1e-3  # their swelling takes a little water
    assert change.max() < 0.1  # the scheme jumps where a population passes from one regime to the other
    assert np.quantile(np.abs(fn - fn_without)[:, :3], 0.9) < 1e-3


def test_shapes_that_do_not_fit_are_refused_by_name(mbn2014):
    tair, pressure, wbar, num_aer, r_aer, kappa = states(5)
    with pytest.raises(ValueError, match=r"kappa has shape \(5, 2\), expected \(5, 4\)"):
        mbn.activate(tair, pressure, wbar, num_aer, r_aer, kappa[:, :2])


def test_without_pyrcel_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not mbn.is_available()
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pyrcel>=2\.0'"):
        mbn.activate(*states(3))
