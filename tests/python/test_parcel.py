"""The parcel model by itself: Koehler theory in closed form, limits, symmetries, convergence, settings."""

import dataclasses
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest

from emulator.activation import growth, integrator, kohler, parcel, rosenbrock
from emulator.activation.constants import Constants
from emulator.activation.modes import LN_SIGMA_G
from emulator.activation.parcel import bin_table, simulate
from emulator.activation.settings import ParcelSettings
from emulator.activation.states import States, sample_states

KELVIN = 1.2e-9  # [m], about that of water at 280 K


@pytest.fixture(scope="module")
def drawn():
    return sample_states(400, seed=11)


@pytest.fixture(scope="module")
def produced(drawn):
    return simulate(drawn)


def difference(a, b):
    """Largest and root-mean-square difference of fn, per mode; every parcel must have finished."""
    assert (a.status == 0).all()
    assert (b.status == 0).all()
    d = a.fn - b.fn
    return np.abs(d).max(axis=0), np.sqrt((d**2).mean(axis=0))


# Koehler theory


@pytest.mark.parametrize("rh", [0.70, 0.95, 0.999])
@pytest.mark.parametrize("kappa", [1e-6, 1e-3, 0.3, 1.16])
def test_equilibrium_radius_satisfies_koehler(rh, kappa):
    dry = np.geomspace(8e-10, 3e-5, 64)
    wet = np.empty_like(dry)
    assert kohler.equilibrium_radii(rh - 1.0, dry, np.full(64, kappa), KELVIN, wet)
    assert (wet > dry).all()
    reached = [kohler.equilibrium_supersaturation(r, d, kappa, KELVIN) for r, d in zip(wet, dry, strict=True)]
    # Rounding of r alone (2e-16) moves S_eq by r dS_eq/dr of that, up to 3 / kappa for the smallest kappa.
    np.testing.assert_allclose(reached, rh - 1.0, rtol=0.0, atol=1e-12 + 1e-15 / kappa)
    # The stable branch: S_eq rises with r.
    above = [kohler.equilibrium_supersaturation(1.0001 * r, d, kappa, KELVIN) for r, d in zip(wet, dry, strict=True)]
    assert (np.array(above) > reached).all()


def test_equilibrium_of_a_large_particle_is_the_closed_form():
    # Without curvature: u = kappa a / (1 - a) with water activity a = rh.
    wet = np.empty(1)
    assert kohler.equilibrium_radii(-0.2, np.array([1e-2]), np.array([0.5]), KELVIN, wet)
    assert wet[0] == pytest.approx(1e-2 * (1.0 + 0.5 * 0.8 / 0.2) ** (1 / 3), rel=1e-6)  # A / r is 1e-7


@pytest.mark.parametrize("kappa", [0.1, 1.0])
def test_critical_supersaturation_of_large_particles_is_the_closed_form(kappa):
    # Petters & Kreidenweis 2007, eq. 10: ln(1 + S) = sqrt(4 A^3 / (27 kappa r_d^3)), as r_d grows.
    for dry, tolerance in ((1e-6, 2e-2), (1e-5, 2e-3), (1e-4, 2e-4)):
        closed = math.sqrt(4.0 * KELVIN**3 / (27.0 * kappa * dry**3))
        assert math.log1p(kohler.critical_supersaturation(dry, kappa, KELVIN)) == pytest.approx(closed, rel=tolerance)


def test_critical_supersaturation_without_solute_is_kelvins():
    # Insoluble and wettable: A / r_d, less 2 sqrt(kappa r_d / (3 A)) of it.
    assert kohler.critical_supersaturation(5e-8, 1e-10, KELVIN) == pytest.approx(
        math.expm1(KELVIN / 5e-8), rel=3 * math.sqrt(1e-10 * 5e-8 / (3 * KELVIN))
    )


@pytest.mark.parametrize("kappa", [1e-10, 1e-6, 1e-3, 0.1, 0.6, 1.2])
@pytest.mark.parametrize("dry", [1e-9, 1e-8, 1e-7, 1e-6, 1e-5])
def test_critical_supersaturation_is_the_maximum_of_the_curve(dry, kappa):
    critical = kohler.critical_supersaturation(dry, kappa, KELVIN)
    radii = dry * (1.0 + np.geomspace(1e-9, 1e5, 20001))
    curve = [kohler.equilibrium_supersaturation(r, dry, kappa, KELVIN) for r in radii]
    # The grid's spacing is 1.6e-3 in ln(r - r_d): the maximum of the parabola is met to about its square.
    assert critical == pytest.approx(max(curve), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("kappa", [1e-10, 1e-6, 1e-3, 0.1, 0.6, 1.2])
def test_critical_dry_radius_inverts_critical_supersaturation(kappa):
    for s in np.geomspace(1e-5, 0.5, 40):
        dry = kohler.critical_dry_radius(s, kappa, KELVIN)
        assert kohler.critical_supersaturation(dry, kappa, KELVIN) == pytest.approx(s, rel=1e-11)


def test_activated_fraction_is_a_half_at_the_median_and_counts_particles():
    dry, kappa = 6e-8, 0.4
    s = kohler.critical_supersaturation(dry, kappa, KELVIN)
    assert kohler.activated_fraction(s, dry, LN_SIGMA_G[0], kappa, KELVIN) == pytest.approx(0.5, abs=1e-10)
    particles = dry * np.exp(LN_SIGMA_G[0] * np.random.default_rng(1).standard_normal(20000))
    counted = np.mean([kohler.critical_supersaturation(d, kappa, KELVIN) <= 0.7 * s for d in particles])
    # Counting error of 20,000 draws: sqrt(p (1 - p) / n) = 0.003.
    assert kohler.activated_fraction(0.7 * s, dry, LN_SIGMA_G[0], kappa, KELVIN) == pytest.approx(counted, abs=0.012)
    assert kohler.activated_fraction(0.0, dry, LN_SIGMA_G[0], kappa, KELVIN) == 0.0


def test_exponential_of_the_growth_rate_is_as_accurate_as_it_says():
    x = np.linspace(1e-9, 2.0, 4001)
    assert max(abs(kohler.expm1_of_kelvin(v) / math.expm1(v) - 1.0) for v in x) < 2e-10
    x = np.linspace(1e-9, 0.2, 4001)
    assert max(abs(kohler.expm1_of_kelvin(v) / math.expm1(v) - 1.0) for v in x) < 2e-11


# The integrator


def test_rosenbrock_coefficients_meet_the_order_conditions():
    # Rang & Angermann 2005; Hairer & Wanner 1996, section IV.7: order 3 for any matrix.
    alpha, gamma = rosenbrock._ALPHA, rosenbrock._GAMMA_MATRIX
    b, a, beta = rosenbrock._B, alpha.sum(axis=1), gamma.sum(axis=1)
    conditions = {
        "b": (b.sum(), 1.0),
        "b alpha": (b @ a, 1 / 2),
        "b gamma": (b @ beta, 0.0),
        "b alpha^2": (b @ a**2, 1 / 3),
        "b alpha alpha": (b @ (alpha @ a), 1 / 6),
        "b alpha gamma": (b @ (alpha @ beta), 0.0),
        "b gamma alpha": (b @ (gamma @ a), 0.0),
        "b gamma gamma": (b @ (gamma @ beta), 0.0),
        "embedded": (rosenbrock._B_EMBEDDED @ (a + beta), 1 / 2),
    }
    for name, (value, expected) in conditions.items():
        assert value == pytest.approx(expected, abs=2e-15), name  # printed coefficients have 17 digits


def test_jacobian_is_the_derivative_of_the_growth_rate():
    rng = np.random.default_rng(3)
    dry = np.geomspace(2e-9, 2e-6, 50)
    kappa = 0.4
    bins = np.array([dry**3 * (1 - kappa), dry**3 * kappa, rng.uniform(1e6, 1e9, 50)])
    radius = dry * rng.uniform(1.5, 3.0, 50)
    coefficients = (1.3e10, 2.0e3, KELVIN)

    def evaluate(s, r):
        out = [np.empty(50) for _ in range(4)]
        sums = growth.growth_and_jacobian(s, *coefficients, bins, r, *out)
        return *out, *sums

    rate, diagonal, towards_s, water, condensed, condensed_by_s = evaluate(-0.01, radius)
    step = 1e-5 * radius
    up, down = evaluate(-0.01, radius + step), evaluate(-0.01, radius - step)
    # Central differences: truncation 1e-10 relative to the scale of the largest terms.
    np.testing.assert_allclose(diagonal, (up[0] - down[0]) / (2 * step), rtol=1e-6)
    flux = [bins[2] * r**2 * x[0] for r, x in ((radius + step, up), (radius - step, down))]
    np.testing.assert_allclose(water, (flux[0] - flux[1]) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(towards_s, (evaluate(-0.009, radius)[0] - rate) / 0.001, rtol=1e-9)
    assert condensed == pytest.approx((bins[2] * radius**2 * rate).sum(), rel=1e-12)
    assert condensed_by_s == pytest.approx((bins[2] * radius**2 * towards_s).sum(), rel=1e-12)


def test_fn_converges_with_tolerance(drawn, produced, capsys):
    reference = simulate(drawn, ParcelSettings(relative_tolerance=1e-9, absolute_tolerance_s=1e-12, max_steps=100_000))
    errors = []
    with capsys.disabled():
        print("\n  tolerance   steps   largest |fn difference| per mode           rms per mode")
        for tolerance in (1e-4, 1e-5, 2e-6, 1e-7):
            settings = ParcelSettings(relative_tolerance=tolerance, absolute_tolerance_s=1e-3 * tolerance)
            result = simulate(drawn, settings)
            largest, rms = difference(result, reference)
            errors.append(rms.max())
            print(f"  {tolerance:9.0e}  {result.steps.mean():6.0f}  {_row(largest)}  {_row(rms)}")
    assert all(later < 0.5 * earlier for earlier, later in itertools.pairwise(errors)), errors
    largest, rms = difference(produced, reference)
    # Production error of the integration: ten times below that of 256 bins (next test).
    assert largest.max() < 5e-5
    assert rms.max() < 5e-6


def test_fn_converges_with_bins(drawn, produced, capsys):
    def with_bins(factor, **keywords):
        default = ParcelSettings()
        bins = tuple(round(factor * n) for n in default.bins)
        return simulate(drawn, dataclasses.replace(default, bins=bins, **keywords))

    # Finer, and wider at both ends, so that the cut of the tails is tested too.
    reference = with_bins(6, lower=(-5.0,) * 4, upper=(6.0, 5.5, 6.0, 5.5))
    errors = []
    with capsys.disabled():
        print("\n  bins   largest |fn difference| per mode           rms per mode")
        for factor in (0.25, 0.5, 1, 2):
            largest, rms = difference(with_bins(factor), reference)
            errors.append(rms.max())
            print(f"  {round(256 * factor):4d}  {_row(largest)}  {_row(rms)}")
    assert all(later < 0.6 * earlier for earlier, later in itertools.pairwise(errors)), errors
    largest, rms = difference(produced, reference)
    # The whole error of production settings; an emulator's own mean error is above 1e-3 (MSE 1e-6).
    assert largest.max() < 1e-3
    assert rms.max() < 1e-4


def _row(values):
    return " ".join(f"{x:9.1e}" for x in values)


# Limits and symmetries


def with_values(states, **values):
    return dataclasses.replace(states, **values)


def test_smax_grows_with_updraft_and_falls_with_number(drawn):
    few = drawn.take(slice(0, 50))
    smax = [simulate(with_values(few, wbar=few.wbar * f)).smax for f in (0.5, 1.0, 2.0)]
    assert (smax[0] < smax[1]).all()
    assert (smax[1] < smax[2]).all()
    smax = [simulate(with_values(few, num_aer=few.num_aer * f)).smax for f in (0.5, 1.0, 2.0)]
    assert (smax[0] > smax[1]).all()
    assert (smax[1] > smax[2]).all()


def test_a_mode_without_particles_has_no_effect_on_the_others(drawn):
    few = drawn.take(slice(0, 50))
    number = few.num_aer.copy()
    number[:, 3] = 0.0
    without = with_values(few, num_aer=number)
    radius = few.r_aer.copy()
    radius[:, 3] *= 0.5
    # Radii of empty bins still steer the step size, so steps differ and with them the error, below tolerance.
    np.testing.assert_allclose(simulate(without).smax, simulate(with_values(without, r_aer=radius)).smax, rtol=1e-4)


def test_air_almost_free_of_particles_reaches_high_supersaturation(drawn):
    few = drawn.take(slice(0, 20))
    lone = simulate(with_values(few, num_aer=few.num_aer * 1e-3, wbar=np.full(20, 100.0)))
    usual = simulate(with_values(few, wbar=np.full(20, 100.0)))
    assert (lone.smax[lone.status == 0] > 3.0 * usual.smax[lone.status == 0]).all()
    assert (lone.status == 0).sum() >= 15  # the rest need the longer ascent of a retry


def test_modes_of_equal_width_may_change_places(drawn):
    # Modes 1 and 3 share sigma_g 1.8, modes 2 and 4 share 1.6; equal bins make the sums the same up to order.
    order = [2, 3, 0, 1]
    settings = ParcelSettings(bins=(60,) * 4, upper=(5.0, 4.5, 5.0, 4.5))
    few = drawn.take(slice(0, 50))
    swapped = with_values(few, **{name: getattr(few, name)[:, order] for name in ("num_aer", "r_aer", "kappa")})
    a, b = simulate(few, settings), simulate(swapped, settings)
    # Round-off in the sums is amplified by step control; far below the tolerance of a step.
    np.testing.assert_allclose(a.fn, b.fn[:, order], rtol=0.0, atol=1e-8)


def test_one_mode_cut_in_two_equal_modes_is_the_same_aerosol(drawn):
    few = drawn.take(slice(0, 50))
    settings = ParcelSettings(bins=(80, 60, 80, 60), upper=(5.0, 4.5, 5.0, 4.5))
    whole, halves = (few.num_aer.copy(), few.num_aer.copy())
    whole[:, 2] = 0.0
    halves[:, [0, 2]] = 0.5 * whole[:, [0]]
    shape = {name: getattr(few, name).copy() for name in ("r_aer", "kappa")}
    for array in shape.values():
        array[:, 2] = array[:, 0]
    a = simulate(with_values(few, num_aer=whole, **shape), settings)
    b = simulate(with_values(few, num_aer=halves, **shape), settings)
    np.testing.assert_allclose(a.fn, b.fn, rtol=0.0, atol=1e-8)


def test_a_sample_does_not_depend_on_its_neighbours(drawn, produced):
    alone = simulate(drawn.take(np.array([123])))
    assert alone.smax[0] == produced.smax[123]
    np.testing.assert_array_equal(alone.fn[0], produced.fn[123])


def test_growth_floor_of_kappa_does_not_matter(drawn, produced):
    lower = simulate(drawn, ParcelSettings(growth_kappa_floor=1e-7))
    # Two integrations differ by up to twice 5e-5 (test_fn_converges_with_tolerance) without any floor.
    assert difference(produced, lower)[0].max() < 1e-4


def test_fractions_are_fractions_and_saturation_lies_between(produced):
    assert ((produced.fn >= 0.0) & (produced.fn <= 1.0)).all()
    assert ((produced.smax > 1e-5) & (produced.smax < 0.3)).all()


def test_bins_hold_all_number_and_surface_of_the_mode():
    settings = ParcelSettings(lower=(-8.0,) * 4, upper=(9.0,) * 4)
    mode, scale, weight = bin_table(settings)
    for m in range(4):
        at = mode == m
        assert at.sum() == settings.bins[m]
        assert weight[at].sum() == pytest.approx(1.0, abs=1e-12)
        assert (weight * scale**2)[at].sum() == pytest.approx(math.exp(2 * LN_SIGMA_G[m] ** 2), rel=1e-9)


# Constants, settings, failures


def test_constants_of_the_host_can_be_used(drawn, produced):
    host = simulate(drawn, ParcelSettings(constants=Constants.e3sm()))
    assert (host.status == 0).all()
    change = host.smax / produced.smax - 1.0
    assert 1e-3 < np.abs(change).mean() < 0.2  # latent heat differs by 11 %


def test_latent_heat_shows_where_thermodynamics_says(drawn):
    # Temperature at the maximum: dry adiabat plus released heat, so warmer than the dry adiabat, by w L / cp.
    few = drawn.take(slice(0, 20))
    result = simulate(few)
    assert (result.tair_smax < few.tair).all()


def test_unfinished_parcels_have_a_status_and_no_numbers(drawn):
    result = simulate(drawn, ParcelSettings(max_steps=20))
    assert (result.status == integrator.TOO_MANY_STEPS).all()
    assert np.isnan(result.fn).all()
    assert np.isnan(result.smax).all()
    assert (result.steps == 20).all()
    low = simulate(drawn, ParcelSettings(max_ascent_scale=0.01))
    assert integrator.NO_MAXIMUM in low.status
    assert np.isnan(low.smax[low.status == integrator.NO_MAXIMUM]).all()
    assert set(parcel.STATUS_NAMES) >= set(low.status)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"bins": (80, 60, 50)}, "'bins' has 3 values; expected 4"),
        ({"bins": (80, 60, 1, 60)}, r"'bins' is 1 for mode 3 \(coarse\)"),
        ({"relative_tolerance": 0.0}, "'relative_tolerance' is 0.0"),
        ({"relative_tolerance": 0.5}, "'relative_tolerance' is 0.5"),
        ({"absolute_tolerance_s": float("nan")}, "'absolute_tolerance_s' is nan"),
        ({"lower": (5, 5, 5, 5)}, "expected lower < upper"),
        ({"max_steps": 0}, "'max_steps' is 0"),
    ],
)
def test_bad_settings_are_refused_by_name(keywords, message):
    with pytest.raises(ValueError, match=message):
        ParcelSettings(**keywords)


def test_bad_constants_are_refused_by_name():
    with pytest.raises(ValueError, match="'latent_heat' is -1"):
        Constants(latent_heat=-1.0)
    with pytest.raises(ValueError, match="'condensation_coefficient' is 2"):
        Constants(condensation_coefficient=2.0)


def test_importing_the_package_does_not_import_numba():
    code = "import sys, emulator.activation, emulator.activation.modes; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_machine_code_is_renewed_when_any_compiled_file_changes():
    # numba looks at the file of the cached function only: the digest of all files is in its closure, which is
    # part of the cache's key.
    closure = [cell.cell_contents for cell in parcel._simulate_block.py_func.__closure__]
    assert parcel.SOURCE_DIGEST in closure
    assert {"thermodynamics.py", "kohler.py", "growth.py", "integrator.py"} <= set(parcel._COMPILED_FILES)


def test_states_may_be_float64():
    drawn = sample_states(3, seed=1)
    double = States(*(x.astype(np.float64) for x in drawn.arrays()))
    np.testing.assert_array_equal(simulate(drawn).fn, simulate(double).fn)
