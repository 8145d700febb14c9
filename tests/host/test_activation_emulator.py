"""The drop-in for `activate_modal`: the emulator's numbers, the original's early returns, ARG where it must be."""

import ctypes
import os
import shutil
import subprocess

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from emulator.activation import arg
from emulator.libemulator import LibEmulator
from tests.host import activation_emulator_fixtures as fixtures
from tests.host.activation_emulator_fixtures import DropIn, host_states, training_inputs
from tests.host.host_fixtures import COLUMNS, REPOSITORY, make_samples, write_model
from tests.host.test_activation_host import missing_tools

pytestmark = pytest.mark.skipif(missing_tools() is not None, reason=str(missing_tools()))

EPS = np.spacing(1.0)
FE_INVALID, FE_DIVBYZERO, FE_OVERFLOW = 1, 4, 8  # fenv.h of glibc on x86-64: what E3SM's debug builds trap
DIRECT, TIED, HEADED, BOTH, BOTH_ARG, FRESH, CLAMPED, SPARE = range(1, 9)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    fixtures.write_models(folder)
    return folder


def built(build_type, target="activation_emulator_c", product="libactivation_emulator_c.so"):
    """Path of the product, built as the hosts are; Debug checks bounds and starts every real from signalling NaN."""
    build = REPOSITORY / "build" / f"host-{build_type.lower()}"
    options = [f"-DCMAKE_BUILD_TYPE={build_type}", "-DLIBEMULATOR_EXAMPLES=ON", "-DLIBEMULATOR_TESTS=OFF"]
    for command in (
        ["cmake", "-S", str(REPOSITORY), "-B", str(build), *options],
        ["cmake", "--build", str(build), "--target", target, "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return next(build.rglob(product))


def engine():
    """libemulator.so, to be linked by other compilers."""
    built("Release")
    return next((REPOSITORY / "build" / "host-release").rglob("libemulator.so"))


@pytest.fixture(scope="module", params=["Release", "Debug", "flang"])
def dropin(request, models, tmp_path_factory):
    if request.param == "flang":
        if fixtures.flang() is None:
            pytest.skip("needs flang 19 or later; Debian: apt install flang-19")
        folder = tmp_path_factory.mktemp("flang")
        flags = ("-O2", "-std=f2018", "-pedantic")
        return connected(DropIn(fixtures.compile_sources(folder, engine(), fixtures.flang(), *flags)), models)
    return connected(DropIn(built(request.param)), models)


def connected(library, models):
    for handle, name, settings in (
        (DIRECT, "direct", {}),
        (TIED, "ln_smax", {}),
        (HEADED, "headed", {}),
        (BOTH, "direct", {"scheme": "both"}),
        (BOTH_ARG, "direct", {"scheme": "both", "result_of": "arg"}),
        (CLAMPED, "direct", {"fallback": False}),
    ):
        assert library.connect(handle, models / f"{name}.onnx", **settings) == (0, "")
    return library


def arg_fractions(states, **options):
    fn, fm, _ = arg.activate_modal(
        states.w, states.tair, states.rhoair, states.na, states.volume, states.hygro, **options
    )
    return fn, fm


def test_numbers_are_the_models_with_fm_of_the_lognormal(dropin, models):
    x = training_inputs(2000, seed=3)
    states = host_states(x)
    found = dropin.batched(DIRECT, states)
    assert (found.stat, found.message) == (0, "")
    assert found.counts["emulated"] == 2000, found.counts
    fn = LibEmulator(models / "direct.onnx").infer(np.clip(x, *LibEmulator(models / "direct.onnx").input_range))
    # the mapping's radius and pressure are a few ulp off: a float32 of the network's first layer may round otherwise
    np.testing.assert_allclose(found.fn, fn, rtol=0, atol=5e-6)
    assert ((found.fn > 0.01) & (found.fn < 0.99)).mean() > 0.2
    want = ndtr(ndtri(found.fn) + 3.0 * np.log(fixtures.SIGMA))
    np.testing.assert_allclose(found.fm, want, rtol=1e-11, atol=0)


def test_fractions_from_ln_smax_are_those_of_the_head_in_the_graph(dropin):
    states = host_states(training_inputs(2000, seed=4))
    tied, headed = dropin.batched(TIED, states), dropin.batched(HEADED, states)
    assert tied.counts["emulated"] == headed.counts["emulated"] == 2000
    np.testing.assert_allclose(tied.fn, headed.fn, rtol=0, atol=2e-6)  # float32 Erf and sums in the graph
    assert ((tied.fn > 0.01) & (tied.fn < 0.99)).mean() > 0.2
    partly = (headed.fn > 1e-3) & (headed.fn < 0.999)
    np.testing.assert_allclose(tied.fm[partly], headed.fm[partly], rtol=0, atol=1e-4)  # fm from a rounded fn


def test_mass_of_the_emulator_belongs_to_number_as_args_own_does(dropin):
    states = host_states(training_inputs(5000, seed=5))
    fn, fm = arg_fractions(states)
    mass = np.empty_like(fn)
    dropin.c.c_mass(len(fn), fn.ctypes.data_as(ctypes.c_void_p), mass.ctypes.data_as(ctypes.c_void_p))
    partly = (fn > 1e-10) & (fn < 1 - 1e-6)  # numpy's 1 - erf has lost its digits beyond
    assert partly.mean() > 0.5
    np.testing.assert_allclose(mass[partly], fm[partly], rtol=0, atol=1e-9)


@pytest.mark.parametrize("handle", [DIRECT, TIED, BOTH])
def test_bits_do_not_depend_on_batch_position_or_routine(dropin, handle):
    x = training_inputs(300, seed=6)
    x[::7, 3] = 0.0  # early returns and points outside among them
    x[::11, 0] = 200.0
    x[::13, 5] = 1e-3
    states = host_states(x)
    whole = dropin.batched(handle, states)
    assert whole.counts["early_returns"] > 30
    assert whole.counts["fallbacks"] > 20
    assert dropin.points(handle, states).same_bits(whole)
    assert dropin.points(handle, states, form=1).same_bits(whole)
    for size in (1, 2, 3, 5, 7, 16, 64, 65, 128):
        first = 11 % size
        for k in (0, first, 300 - size):
            part = dropin.batched(handle, states[k : k + size])
            for a, b in zip(part.arrays(), whole.arrays(), strict=True):
                assert np.array_equal(a, b[k : k + size]), (size, k)
    order = np.random.default_rng(0).permutation(300)
    mixed = dropin.batched(handle, states[order])
    assert all(np.array_equal(a, b[order]) for a, b in zip(mixed.arrays(), whole.arrays(), strict=True))


@pytest.mark.parametrize("build_type", ["Release", "Debug"])
def test_no_call_allocates_memory_after_a_threads_first(build_type, models):
    program = built(build_type, "activation_allocations", "activation_allocations")
    networks = [str(models / f"{name}.onnx") for name in ("direct", "ln_smax")]
    done = subprocess.run([program, *networks], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    for line in lines:
        scheme, *allocations = line.split(",")[0].split()
        assert allocations == ["0"] * 5, (
            lines
        )  # batches of 100 and 7, both forms of single points, and a batch of no extras
        early_returns, num_calls = int(line.split("early ")[1]), 207
        assert 5 <= early_returns <= 20
        if scheme != "arg":
            emulated, fallbacks = (int(line.split(f"{name} ")[1].split(",")[0]) for name in ("emulated", "fallbacks"))
            assert emulated > 50
            assert fallbacks > 20
            assert emulated + fallbacks + early_returns == num_calls


def test_only_the_first_ncol_points_are_touched(dropin):
    states = host_states(training_inputs(100, seed=7))
    states.na[70:] = states.tair[70:] = states.rh[70:] = states.volume[70:] = np.nan
    found = dropin.batched(DIRECT, states, ncol=70)
    for values in found.arrays():
        assert (values[70:] == -7.0).all()
        assert np.isfinite(values[:70]).all()
        assert (values[:70] != -7.0).all()
    nothing = dropin.batched(DIRECT, states, ncol=0)
    assert (nothing.stat, nothing.counts["points"]) == (0, 0)
    assert (nothing.fn == -7.0).all()


def test_an_emulator_that_was_not_connected_is_arg_bit_for_bit(dropin):
    states = host_states(training_inputs(500, seed=8))
    states.w[:50] = -0.1
    states.na[50:100, 0] = 0.0
    found = dropin.batched(FRESH, states)
    assert dropin.describe(FRESH) == (False, "arg", "aerosol activation: scheme arg")
    assert found.counts == {
        "points": 500, "early_returns": 100, "prescribed": 0, "arg": 400, "emulated": 0, "fallbacks": 0, "failures": 0,
    }  # fmt: skip
    both = dropin.batched(BOTH_ARG, states)
    assert np.array_equal(found.fn, both.fn)  # ARG's numbers wherever ARG is asked for
    assert np.array_equal(found.fm, both.fm)
    fn, fm = arg_fractions(states)
    np.testing.assert_allclose(found.fn, fn, rtol=0, atol=16 * EPS)
    np.testing.assert_allclose(found.fm, fm, rtol=0, atol=16 * EPS)
    assert dropin.connect(SPARE, "/no/such/file", scheme="arg") == (0, "")  # inert: nothing is read
    assert dropin.points(SPARE, states).same_bits(found)


@pytest.mark.parametrize("handle", [DIRECT, TIED, FRESH])
def test_early_returns_and_thresholds_are_the_originals(dropin, handle):
    x = training_inputs(60, seed=9)
    x[:, 4] = np.maximum(x[:, 4], 200.0)  # or the Aitken mode that is taken away below is missed
    states = host_states(x)
    states.w[:10] = [-1.0, 0.0, -0.0, -1e-300, *[-5.0] * 6]
    states.na[10:20, 0] = [0.0, 9.9e-21, *[1e-30] * 8]
    states.hygro[20:30, 3] = [1e-10, 1e-11, 0.0, *[1e-10] * 7]
    states.na[30:35, 1] = states.volume[35:40, 1] = 1e-39
    states.volume[30:35, 1] = 0.0
    for found in (dropin.batched(handle, states), dropin.points(handle, states)):
        assert all((values[:20] == 0.0).all() for values in found.arrays())
        assert found.counts["early_returns"] == 20
        assert (found.full[20:] == states.w[20:]).all()
        assert (found.fn[20:30, 3] == 0.0).all()
        assert (found.fm[20:30, 3] == 0.0).all()
        assert (found.fn[20:30, 0] > 0.0).all()
        assert (found.fn[30:40, 1] < 1e-5).all()  # absent: ARG has a critical supersaturation of 1 there
        assert (found.fluxn == found.fn * found.full[:, None]).all()
        assert (found.fluxm == found.fm * found.full[:, None]).all()
    if handle != FRESH:
        assert (found.fn[30:40, 1] == 0.0).all()
        assert found.counts["emulated"] == 40


def test_the_current_form_lets_other_modes_activate_without_the_first(dropin):
    x = training_inputs(40, seed=10)
    x[:, 5] = 1000.0
    states = host_states(x)
    states.na[:, 0] = states.volume[:, 0] = 0.0
    for handle in (DIRECT, FRESH):
        current = dropin.points(handle, states, form=1)
        assert current.counts["early_returns"] == 0
        assert (current.full == states.w).all()
        assert current.same_bits(dropin.batched(handle, states, needs_first_mode=False))
        one = dropin.points(handle, states, form=1, nmode=1)
        assert one.counts["early_returns"] == 40
        assert (one.fn == 0).all()
    assert dropin.points(DIRECT, states, form=1).counts["emulated"] == 40
    assert dropin.points(DIRECT, states, form=2).counts["early_returns"] == 40


def test_a_prescribed_supersaturation_keeps_the_closed_form(dropin):
    states = host_states(training_inputs(300, seed=11))
    states.w[:10] = 0.0
    want = arg_fractions(states, smax_prescribed=np.full(300, 0.003))
    for found in (
        dropin.batched(DIRECT, states, smax=0.003),
        dropin.points(TIED, states, smax=0.003),
        dropin.points(DIRECT, states, smax=0.003, form=1),
    ):
        np.testing.assert_allclose(found.fn, want[0], rtol=0, atol=16 * EPS)
        np.testing.assert_allclose(found.fm, want[1], rtol=0, atol=16 * EPS)
        assert found.counts["prescribed"] == 290
        assert found.counts["emulated"] == 0
        assert (found.full[10:] == states.w[10:]).all()
    for none in (0.0, -1.0):
        found = dropin.batched(DIRECT, states, smax=none)
        assert all((values == 0.0).all() for values in found.arrays())
        assert dropin.points(DIRECT, states, smax=none).same_bits(found)
        assert found.counts["early_returns"] == 300


def test_a_diabatic_updraft_activates_and_carries_no_flux(dropin):
    states = host_states(training_inputs(50, seed=12))
    faster = states[:]
    faster.w = states.w + 0.25
    for handle in (DIRECT, FRESH):
        found, want = dropin.points(handle, states, form=1, wdiab=0.25), dropin.points(handle, faster)
        assert np.array_equal(found.fn, want.fn)
        assert (found.fluxn == found.fn * states.w[:, None]).all()
        assert (found.full == states.w).all()
        still = dropin.points(handle, states, form=1, wdiab=-100.0)
        assert all((values == 0.0).all() for values in still.arrays())
        falling = states[:]
        falling.w = -states.w  # below 0 before the diabatic part is added
        assert all((a == 0.0).all() for a in dropin.points(handle, falling, form=1, wdiab=100.0).arrays())


def test_what_cannot_be_done_is_nan_with_a_reason_and_never_a_stop(dropin):
    states = host_states(training_inputs(5, seed=13))
    for handle in (DIRECT, FRESH):
        for nmode in (0, 5):
            found = dropin.points(handle, states, nmode=nmode)
            assert (found.stat, found.counts["failures"], found.counts["points"]) == (1, 5, 5)
            assert f"nmode = {nmode}, expected 1 to 4" in found.message
            assert all(np.isnan(values).all() for values in found.arrays())
        found = dropin.points(handle, states, form=1, sigw=0.5)
        assert (found.stat, found.counts["failures"], found.counts["points"]) == (1, 5, 5)
        assert "one updraft, not a spectrum (sigw =  5.00E-01" in found.message
        assert all(np.isnan(values).all() for values in found.arrays())
        assert dropin.points(handle, states, form=1, sigw=1e-5).same_bits(dropin.points(handle, states))
        found = dropin.batched(handle, states, ncol=6)
        assert found.stat == 1
        assert "ncol" in found.message


@pytest.mark.parametrize("nmode", [1, 2, 3])
def test_fewer_modes_are_emulated_with_the_others_absent(dropin, nmode):
    x = training_inputs(200, seed=14)
    x[:, 4] = np.maximum(x[:, 4], 200.0)
    states = host_states(x)
    found = dropin.batched(DIRECT, states, nmode=nmode)
    assert found.counts["emulated"] == 200, found.counts
    states.na[:, nmode:] = states.volume[:, nmode:] = states.hygro[:, nmode:] = 0.0
    assert np.array_equal(dropin.batched(DIRECT, states).fn[:, :nmode], found.fn)
    points = dropin.points(DIRECT, states, nmode=nmode)
    assert np.array_equal(points.fn[:, :nmode], found.fn)
    assert np.array_equal(points.fluxm[:, :nmode], found.fluxm)
    assert (points.fn[:, nmode:] == 0.0).all()


# -- outside of the training range -----------------------------------------------------------------------------------


def test_points_outside_are_args_and_are_counted_by_input(dropin, models):
    x = training_inputs(100, seed=15)
    lowest, highest = LibEmulator(models / "direct.onnx").input_range
    x = np.clip(x, lowest, highest)
    for k, (column, value) in enumerate([
        ("tair", 220.0), ("tair", 320.0), ("pressure", 300.0), ("wbar", 1.0), ("wbar", 2000.0), ("num_aer_1", 1e5),
        ("r_aer_1", 0.01), ("r_aer_4", 0.2), ("kappa_1", 1e-3), ("kappa_2", 1.5),
    ]):  # fmt: skip
        x[k, fixtures.NAMES.index(column)] = value
    states = host_states(x)
    found, arg_alone, inside = (dropin.batched(h, states) for h in (DIRECT, FRESH, CLAMPED))
    assert np.array_equal(found.fn[:10], arg_alone.fn[:10])
    assert np.array_equal(found.fm[:10], arg_alone.fm[:10])
    assert np.array_equal(found.fn[10:], inside.fn[10:])
    assert (found.counts["fallbacks"], found.counts["emulated"]) == (10, 90)
    assert {k: v for k, v in found.low.items() if v} == {
        "tair": 1, "pressure": 1, "wbar": 1, "r_aer_1": 1, "kappa_1": 1
    }  # fmt: skip
    assert {k: v for k, v in found.high.items() if v} == {
        "tair": 1, "wbar": 1, "num_aer_1": 1, "r_aer_4": 1, "kappa_2": 1
    }  # fmt: skip
    assert (inside.counts["fallbacks"], inside.counts["emulated"]) == (0, 100)
    assert inside.low == found.low
    held = dropin.batched(CLAMPED, host_states(np.clip(x, lowest, highest)))
    np.testing.assert_allclose(inside.fn[:10], held.fn[:10], rtol=0, atol=5e-6)
    cut = [dropin.batched(DIRECT, states[k : k + 13]) for k in range(0, 100, 13)]
    for name in found.counts:
        assert sum(part.counts[name] for part in cut) == found.counts[name]


def test_an_input_just_beyond_an_end_counts_as_at_it(dropin, models):
    lowest, highest = LibEmulator(models / "direct.onnx").input_range
    x = training_inputs(32, seed=16)
    x[:16] = np.where(np.eye(16, dtype=bool), lowest * 0.995, np.clip(x[:16], lowest, highest))
    x[16:] = np.where(np.eye(16, dtype=bool), highest * 1.005, np.clip(x[16:], lowest, highest))
    states = host_states(x)
    found = dropin.batched(DIRECT, states)
    assert found.counts["emulated"] == 32
    assert not any(found.low.values())
    assert not any(found.high.values())
    assert dropin.connect(SPARE, models / "direct.onnx", margin=1e-6) == (0, "")
    strict = dropin.batched(SPARE, states)
    # not rh (2 points), nor what takes up no water: too few particles of modes 3 and 4, inert kappa of mode 4
    assert strict.counts["fallbacks"] >= 24
    assert strict.counts["emulated"] >= 2
    assert sum(strict.low.values()) == sum(strict.high.values()) == 16


def test_what_takes_up_no_water_is_emulated(dropin):
    x = training_inputs(200, seed=17)
    x[:, 4] = np.maximum(x[:, 4], 300.0)
    plain = dropin.batched(DIRECT, host_states(x))
    lower = x.copy()
    lower[:, 6:8] = 1e-6  # cm-3: far below the training range
    found = dropin.batched(DIRECT, host_states(lower))
    assert found.counts["emulated"] == 200
    assert found.low["num_aer_3"] == found.low["num_aer_4"] == 200
    assert plain.counts["emulated"] == 200
    inert = x.copy()
    inert[:, 15] = 1e-10
    found = dropin.batched(DIRECT, host_states(inert))
    assert found.counts["emulated"] == 200
    assert (found.fn[:, 3] == 0.0).all()
    empty = x.copy()
    empty[:, 4:8] = 1e-3  # nothing but what would be added
    found = dropin.batched(DIRECT, host_states(empty))
    assert found.counts["fallbacks"] == 200


def test_rh_is_cut_to_the_training_range_and_saturated_where_it_is_not_given(dropin, models):
    x = training_inputs(50, seed=18)
    highest = LibEmulator(models / "direct.onnx").input_range[1, 2]
    for handle in (DIRECT, TIED):
        for given in (highest, 1.0, 1.3):
            x[:, 2] = given
            found = dropin.batched(handle, host_states(x))
            assert found.counts["emulated"] == 50
            assert found.same_bits(dropin.batched(handle, host_states(x), with_rh=False))
            assert found.same_bits(dropin.points(handle, host_states(x), with_rh=False))
    x[:, 2] = 0.8
    drier = dropin.batched(DIRECT, host_states(x))
    assert (drier.fn != found.fn).any()
    assert dropin.connect(SPARE, models / "direct.onnx", rh=0.8) == (0, "")
    assert dropin.batched(SPARE, host_states(x), with_rh=False).same_bits(drier)


def test_nan_goes_through_arg_and_is_counted(dropin):
    check_nan(dropin)


def check_nan(dropin):
    states = host_states(training_inputs(7, seed=19))
    states.tair[1] = states.hygro[2, 1] = states.na[4, 2] = states.volume[5, 3] = states.w[6] = np.nan
    by_arg = dropin.batched(FRESH, states)
    for handle in (DIRECT, CLAMPED):
        found = dropin.batched(handle, states)
        for points in (found, dropin.points(handle, states)):
            assert np.array_equal(points.fn[[1, 2, 4, 5, 6]], by_arg.fn[[1, 2, 4, 5, 6]], equal_nan=True)
            assert np.isfinite(points.fn[[0, 3]]).all()
            assert (points.counts["emulated"], points.counts["fallbacks"]) == (2, 5)
            assert {name for name, count in points.nan.items() if count} == {
                "tair", "pressure", "kappa_2", "num_aer_3", "r_aer_3", "r_aer_4", "wbar",
            }  # fmt: skip


def test_fast_math_of_a_host_that_compiles_the_sources_hides_no_nan(models, tmp_path):
    """Such flags turn ieee_is_nan and x /= x into .false., and a model without training ranges names them as NaN."""
    compiler = os.environ.get("FC", "gfortran")
    dropin = connected(DropIn(fixtures.compile_sources(tmp_path, engine(), compiler, "-Ofast")), models)
    check_nan(dropin)
    write_model(tmp_path / "no_ranges.onnx", make_samples(100))
    assert dropin.connect(SPARE, tmp_path / "no_ranges.onnx") == (0, "")
    assert dropin.batched(SPARE, host_states(np.full((3, 16), 5.0))).counts["emulated"] == 3


def test_no_number_that_a_host_may_give_raises_what_hosts_trap(dropin):
    rng = np.random.default_rng(20)
    n = 4000
    states = fixtures.States(
        w=rng.choice([-1.0, 0.0, 1e-300, 0.1, 10.0, 1e3], n),
        tair=rng.choice([180.0, 235.0, 273.15, 310.0, 350.0], n),
        rhoair=rng.choice([1e-3, 0.4, 1.2, 2.0], n),
        rh=rng.choice([-1.0, 0.0, 0.7, 1.0, 1e30], n),
        na=rng.choice([0.0, 1e-40, 1e-20, 1e3, 1e8, 1e12], (n, 4)),
        volume=rng.choice([0.0, 1e-45, 1e-30, 1e-17, 1e-12, 1e-6], (n, 4)),
        hygro=rng.choice([0.0, 1e-10, 1e-3, 0.5, 2.0, 100.0], (n, 4)),
    )
    libm = ctypes.CDLL("libm.so.6")
    for handle in (DIRECT, TIED, BOTH, CLAMPED):
        libm.feclearexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW)
        found = dropin.batched(handle, states)
        assert libm.fetestexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW) == 0
        assert found.stat == 0
        assert ((found.fn >= 0) & (found.fn <= 1) & (found.fm >= 0) & (found.fm <= 1)).all()


# -- schemes, sharing, start -----------------------------------------------------------------------------------------


def test_both_gives_the_differences_to_arg_where_both_ran(dropin):
    x = training_inputs(100, seed=21)
    x[:5, 0] = 200.0
    x[5:10, 3] = 0.0
    states = host_states(x)
    emulator, arg_alone = dropin.batched(DIRECT, states), dropin.batched(FRESH, states)
    both, both_arg = dropin.batched(BOTH, states), dropin.batched(BOTH_ARG, states)
    assert np.array_equal(both.fn, emulator.fn)
    assert np.array_equal(both_arg.fm, arg_alone.fm)
    for found in (both, both_arg):
        assert np.array_equal(found.fn_difference, emulator.fn - arg_alone.fn)
        assert np.array_equal(found.fm_difference, emulator.fm - arg_alone.fm)
        assert (found.fn_difference[:10] == 0.0).all()
        assert (found.fn_difference[10:] != 0.0).any()
        assert (found.counts["emulated"], found.counts["fallbacks"]) == (90, 5)
    assert (emulator.fn_difference == 0.0).all()
    assert dropin.describe(BOTH)[1] == "both"


def test_the_per_point_form_uses_what_was_set_once(dropin):
    states = host_states(training_inputs(20, seed=22))
    arg_alone = dropin.points(FRESH, states)
    dropin.c.c_use(FRESH)
    assert dropin.points(0, states, form=1).same_bits(arg_alone)
    dropin.c.c_use(TIED)
    assert dropin.points(0, states, form=1).same_bits(dropin.points(TIED, states))
    dropin.c.c_use(FRESH)
    assert dropin.points(0, states, form=1).same_bits(arg_alone)


def test_a_copy_shares_the_model_and_outlives_the_original(dropin, models):
    states = host_states(training_inputs(20, seed=23))
    assert dropin.connect(SPARE, models / "ln_smax.onnx") == (0, "")
    dropin.c.c_share(SPARE, SPARE + 1)
    dropin.c.c_free(SPARE)
    assert dropin.batched(SPARE + 1, states).same_bits(dropin.batched(TIED, states))
    assert dropin.describe(SPARE)[:2] == (False, "arg")


def test_bytes_are_as_good_as_the_file(dropin, models):
    states = host_states(training_inputs(20, seed=24))
    data = (models / "ln_smax.onnx").read_bytes()
    assert dropin.connect_bytes(SPARE, data) == (0, "")
    assert dropin.batched(SPARE, states).same_bits(dropin.batched(TIED, states))
    stat, message = dropin.connect_bytes(SPARE, data[:100])
    assert stat != 0
    assert message
    assert dropin.describe(SPARE)[:2] == (False, "arg")


def test_inputs_in_another_order_are_the_same_function(dropin, tmp_path):
    states = host_states(training_inputs(50, seed=25))
    order = np.random.default_rng(1).permutation(16)
    head = fixtures.write_models(tmp_path, order.tolist())
    assert dropin.connect(SPARE, tmp_path / "headed.onnx") == (0, "")
    assert dropin.connect(SPARE + 1, tmp_path / "ln_smax.onnx") == (0, "")
    a, b = dropin.batched(SPARE, states), dropin.batched(SPARE + 1, states)
    assert a.counts["emulated"] == 50
    np.testing.assert_allclose(a.fn, b.fn, rtol=0, atol=2e-6)
    x = training_inputs(50, seed=25)[:, order]
    t = LibEmulator(tmp_path / "ln_smax.onnx").infer(x)
    np.testing.assert_allclose(b.fn, head.fractions(x, t)[0], rtol=0, atol=5e-6)


def test_a_model_that_does_not_fit_is_refused_with_the_reason(dropin, models, tmp_path):
    samples = make_samples(50)

    def refusal(columns=COLUMNS, **settings):
        write_model(tmp_path / "m.onnx", samples, columns, **settings)
        stat, message = dropin.connect(SPARE, tmp_path / "m.onnx")
        assert stat == 7
        assert dropin.describe(SPARE)[:2] == (False, "arg")
        return message

    write_model(tmp_path / "m.onnx", samples)
    assert dropin.connect(SPARE, tmp_path / "m.onnx") == (0, "")  # no ranges: nothing is ever outside
    assert dropin.batched(SPARE, host_states(np.full((3, 16), 5.0))).counts["emulated"] == 3
    assert "wbar" in refusal(units={"wbar": "m s-1"})
    assert "no output 'fn_4'" in refusal(outputs=("fn_1", "fn_2", "fn_3"))
    assert "missing" in dropin.connect(SPARE, tmp_path / "missing.onnx")[1]
    model = models / "direct.onnx"
    assert "expected 'arg', 'emulator' or 'both'" in dropin.connect(SPARE, model, scheme="neither")[1]
    assert "result_of" in dropin.connect(SPARE, model, result_of="arg")[1]
    assert "margin" in dropin.connect(SPARE, model, margin=-0.1)[1]
    assert "rh_if_absent" in dropin.connect(SPARE, model, rh=80.0)[1]


def test_the_line_for_the_log_says_what_runs(dropin):
    line = dropin.describe(DIRECT)[2]
    assert line.startswith("aerosol activation: scheme emulator, network of 992 parameters that gives fn, ")
    assert "gives ln_smax, " in dropin.describe(TIED)[2]
    assert dropin.describe(TIED)[2].endswith("ARG outside of the training range")
    assert dropin.describe(CLAMPED)[2].endswith("held at the ends of the training range")


def test_relative_humidity_is_over_liquid_and_cut_to_0_to_1(dropin):
    rng = np.random.default_rng(26)
    tair, pressure = rng.uniform(235.0, 305.0, 200), rng.uniform(4e4, 1e5, 200)
    # Murphy and Koop (2005), doi:10.1256/qj.04.94, Eq. 10: over liquid, Pa; 0.2 % from Goff and Gratch's at these
    vapour = np.exp(
        54.842763 - 6763.22 / tair - 4.210 * np.log(tair) + 0.000367 * tair
        + np.tanh(0.0415 * (tair - 218.8)) * (53.878 - 1331.22 / tair - 9.44523 * np.log(tair) + 0.014025 * tair)
    )  # fmt: skip
    saturated = 18.016 / 28.966 * vapour / (pressure - (1 - 18.016 / 28.966) * vapour)
    np.testing.assert_allclose(dropin.relative_humidity(0.8 * saturated, tair, pressure), 0.8, rtol=4e-3)
    assert (dropin.relative_humidity(1.2 * saturated, tair, pressure) == 1.0).all()
    assert (dropin.relative_humidity(-saturated, tair, pressure) == 0.0).all()


def test_threads_share_one_emulator(dropin):
    from concurrent.futures import ThreadPoolExecutor  # ctypes lets other threads run during a call

    parts = [host_states(training_inputs(3000, seed=30 + k)) for k in range(4)]
    alone = [dropin.batched(TIED, part) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            together = pool.map(lambda part: dropin.batched(TIED, part), parts)
            assert all(a.same_bits(b) for a, b in zip(alone, together, strict=True))


def test_no_symbol_of_the_module_writes_output_or_stops(dropin):
    """No stop, no print, no write to a unit: only what formats texts in memory."""
    tool = shutil.which(os.environ.get("NM", "nm"))
    if tool is None:
        pytest.skip("needs nm; Debian: apt install binutils")
    archive = next((REPOSITORY / "build").glob("host-*/**/libaerosol_activation_emulator.a"))  # gfortran's
    symbols = subprocess.run([tool, "-u", str(archive)], capture_output=True, text=True, check=True).stdout
    assert "_gfortran_error_stop" not in symbols
    assert "_gfortran_stop" not in symbols
    assert "_gfortran_st_open" not in symbols
