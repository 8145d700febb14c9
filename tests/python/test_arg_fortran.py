"""The Fortran twin of ARG and the host's mapping, compared with numpy through a shared library built here."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from emulator.activation import arg
from emulator.activation.modes import DRY_RADIUS_MAX_UM, DRY_RADIUS_MIN_UM
from tests.host.activation_states import host_states

REPOSITORY = Path(__file__).resolve().parents[2]
EPS = np.spacing(1.0)

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("FC", "gfortran")) is None or shutil.which("cmake") is None,
    reason="needs a Fortran compiler and cmake; Debian: apt install gfortran cmake",
)


@pytest.fixture(scope="module", params=["Release", "Debug"])
def library(request, tmp_path_factory):
    """The activation routines, compiled with CMake as a host would."""
    build = tmp_path_factory.mktemp(f"activation-{request.param}")
    source = REPOSITORY / "tests/host/activation_c"
    for command in (
        ["cmake", "-S", str(source), "-B", str(build), f"-DCMAKE_BUILD_TYPE={request.param}"],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return ctypes.CDLL(str(build / "libactivation_c.so"))


def pointer(array):
    assert array.flags.f_contiguous or array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.c_void_p)


def fortran_modal(library, updraft, tair, density, number, volume, kappa, max_updraft=10.0, needs_first_mode=True):
    """Every output of the point routine over (n,) states with (n, nmode) modes."""
    n, nmode = number.shape
    inputs = [np.ascontiguousarray(a, dtype=np.float64) for a in (updraft, tair, density, number, volume, kappa)]
    fn, fm, fluxn, fluxm = (np.empty((n, nmode)) for _ in range(4))
    full, smax = np.empty(n), np.empty(n)
    library.c_activate_modal(
        n, nmode, pointer(inputs[0]), ctypes.c_double(max_updraft), *map(pointer, inputs[1:]),
        *map(pointer, (fn, fm, fluxn, fluxm, full, smax)), int(needs_first_mode),
    )  # fmt: skip
    return {"fn": fn, "fm": fm, "fluxn": fluxn, "fluxm": fluxm, "flux_fullact": full, "smax": smax}


def test_fortran_equals_numpy_to_round_off(library):
    states = host_states(20_000, seed=1)
    fn, fm, smax = arg.activate_modal(*states)
    fortran = fortran_modal(library, *states)
    # Worst chain: about 30 roundings and a pow in the coefficients, raised to 3/2 twice (a few tens of eps relative in
    # 1/S_max^2, more where its logarithm's argument is huge); erf's slope times erf_scale turns that into at most
    # 0.45 as much in fn. gfortran takes log and erf from libmvec here, 4 ulp. Measured: 5 eps in smax, 3 in fn and fm.
    np.testing.assert_allclose(fortran["smax"], smax, rtol=32 * EPS, atol=0)
    np.testing.assert_allclose(fortran["fn"], fn, rtol=0, atol=16 * EPS)
    np.testing.assert_allclose(fortran["fm"], fm, rtol=0, atol=16 * EPS)
    assert 0.2 < (fn == 0).mean() < 0.8  # both sides of the thresholds are there
    assert ((fn > 0.01) & (fn < 0.99)).mean() > 0.1
    assert np.isfinite(fortran["fn"]).all()


def test_fluxes_are_fractions_times_updraft_and_zero_after_early_returns(library):
    updraft, tair, density, number, volume, kappa = host_states(5_000, seed=2)
    fortran = fortran_modal(library, updraft, tair, density, number, volume, kappa)
    returned = (updraft <= 0) | (number[:, 0] < 1e-20)
    assert 100 < returned.sum() < 4000
    w = np.where(returned, 0.0, updraft)
    assert (fortran["fluxn"] == fortran["fn"] * w[:, None]).all()
    assert (fortran["fluxm"] == fortran["fm"] * w[:, None]).all()
    assert (fortran["flux_fullact"] == w).all()
    assert all((fortran[name][returned] == 0).all() for name in fortran)


def test_without_a_first_mode_the_others_activate_where_the_host_wants_it_so(library):
    states = host_states(5_000, seed=6)
    states[3][:1000, 0] = 0.0
    empty = (states[3][:, 0] < 1e-20) & (states[0] > 0)
    fn, fm, smax = arg.activate_modal(*states, needs_first_mode=False)
    fortran = fortran_modal(library, *states, needs_first_mode=False)
    np.testing.assert_allclose(fortran["smax"], smax, rtol=32 * EPS, atol=0)
    np.testing.assert_allclose(fortran["fn"], fn, rtol=0, atol=16 * EPS)
    np.testing.assert_allclose(fortran["fm"], fm, rtol=0, atol=16 * EPS)
    assert (fortran["fn"][empty, 1:] > 0.1).any(axis=1).mean() > 0.1
    assert (fortran["flux_fullact"][empty] == states[0][empty]).all()
    assert (fortran_modal(library, *states)["flux_fullact"][empty] == 0).all()
    one = (*states[:3], *(np.ascontiguousarray(a[:, :1]) for a in states[3:]))
    assert (fortran_modal(library, *one, needs_first_mode=False)["flux_fullact"][empty] == 0).all()


@pytest.mark.parametrize("nmode", [1, 2, 3])
def test_fewer_modes_equal_numpy_with_as_many(library, nmode, monkeypatch):
    states = host_states(5_000, seed=3)
    states = (*states[:3], *(np.ascontiguousarray(a[:, :nmode]) for a in states[3:]))
    fortran = fortran_modal(library, *states)
    monkeypatch.setattr(arg, "NUM_MODES", nmode)
    for name in ("F_MODE", "G_MODE", "EXP45_MODE", "ERF_SCALE", "ERF_MASS_SHIFT"):
        monkeypatch.setattr(arg, name, getattr(arg, name)[:nmode])
    fn, fm, _ = arg.activate_modal(*states)
    np.testing.assert_allclose(fortran["fn"], fn, rtol=0, atol=16 * EPS)
    np.testing.assert_allclose(fortran["fm"], fm, rtol=0, atol=16 * EPS)


def test_a_number_of_modes_that_does_not_exist_gives_nan_everywhere(library):
    updraft, tair, density, number, volume, kappa = (a[:3] for a in host_states(100, seed=3))
    five = [np.hstack([a, a[:, :1]]) for a in (number, volume, kappa)]
    fortran = fortran_modal(library, updraft, tair, density, *five)
    for name in ("fn", "fm", "fluxn", "fluxm", "flux_fullact"):
        assert np.isnan(fortran[name]).all(), name


def test_prescribed_supersaturation_equals_numpy(library):
    states = [np.ascontiguousarray(a) for a in host_states(3_000, seed=4)]
    n = len(states[0])
    for prescribed in (0.003, 0.0, -1.0):
        fn, fm = np.empty((n, 4)), np.empty((n, 4))
        library.c_activate_prescribed(
            n, 4, ctypes.c_double(prescribed), *map(pointer, states), pointer(fn), pointer(fm)
        )
        expected_fn, expected_fm, _ = arg.activate_modal(*states, smax_prescribed=np.full(n, prescribed))
        np.testing.assert_allclose(fn, expected_fn, rtol=0, atol=16 * EPS)
        np.testing.assert_allclose(fm, expected_fm, rtol=0, atol=16 * EPS)
        assert (fn > 0).any() == (prescribed > 0)


def test_the_smallest_prescribed_supersaturation_raises_nothing_that_hosts_trap(library):
    states = [np.ascontiguousarray(a) for a in host_states(1_000, seed=4)]
    fn, fm = (np.full((1_000, 4), -7.0) for _ in range(2))
    libm = ctypes.CDLL("libm.so.6")
    for prescribed in (1e-100, 1e-160, np.finfo(float).tiny, np.nextafter(0.0, 1.0)):
        libm.feclearexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW)
        library.c_activate_prescribed(
            1_000, 4, ctypes.c_double(prescribed), *map(pointer, states), pointer(fn), pointer(fm)
        )
        assert libm.fetestexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW) == 0
        assert (fn == 0).all()
        assert (fm == 0).all()


def test_batched_number_equals_the_point_routine_and_leaves_the_other_columns(library):
    pcols, ncol = 16, 11
    for seed in range(50):
        states = host_states(pcols, seed=100 + seed)
        point = fortran_modal(library, *states)["fn"]
        columns = [np.asfortranarray(a) for a in states]
        for a in columns:
            a[ncol:] = np.nan
        fn = np.full((pcols, 4), -7.0, order="F")
        library.c_activate_number(pcols, ncol, *map(pointer, columns), pointer(fn))
        # not the same bits: gfortran may take log and erf from libmvec (4 ulp) in one of the two, libm in the other
        np.testing.assert_allclose(fn[:ncol], point[:ncol], rtol=0, atol=16 * EPS)
        assert (fn[ncol:] == -7.0).all()


def test_inverse_cube_root_is_good_to_4_units_in_the_last_place(library):
    rng = np.random.default_rng(0)
    x = np.concatenate([
        rng.uniform(1, 8, 200_000),  # every start of the iteration occurs within a factor of 8
        np.exp(rng.uniform(-690, 690, 100_000)),
        [np.finfo(float).tiny, 1.0, 8.0, 1e-300, 1e300],
    ])  # fmt: skip
    z = np.empty_like(x)
    library.c_inverse_cube_root(x.size, pointer(x), pointer(z))
    exact = 1.0 / np.cbrt(x.astype(np.longdouble))
    assert np.abs((z - exact) / np.spacing(np.abs(exact.astype(float)))).max() <= 4
    assert z[-4] == 1.0
    assert z[-3] == 0.5


def emulator_inputs(library, chunk, first, ncol, level, column, offset, ldx, num_inputs):
    pcols, pver = chunk["t"].shape
    x = np.full((ldx, num_inputs), -7.0, order="F")
    library.c_emulator_inputs(
        pcols, pver, first, ncol, level, *(pointer(chunk[k]) for k in ("t", "rho", "w", "rh", "na", "volume", "hygro")),
        pointer(np.asarray(column, dtype=np.int32)), offset, ldx, num_inputs, pointer(x),
    )  # fmt: skip
    return x


@pytest.fixture
def chunk_and_inputs():
    """A chunk (pcols, pver[, mode]) in the host's units and the case study's inputs that it was made of."""
    rng = np.random.default_rng(5)
    shape = (16, 3)
    tair, pressure = rng.uniform(235, 305, shape), rng.uniform(400, 1013, shape)
    rh, wbar = rng.uniform(0.7, 1, shape), rng.uniform(5, 1000, shape)
    num_aer = np.exp(rng.uniform(np.log(1e-4), np.log(1e5), (*shape, 4)))
    r_aer = np.exp(rng.uniform(np.log(DRY_RADIUS_MIN_UM), np.log(DRY_RADIUS_MAX_UM), (*shape, 4)))
    kappa = rng.uniform(0, 1.2, (*shape, 4))
    updraft, density, number, volume = arg.host_state(tair, pressure, wbar, num_aer, r_aer)
    chunk = {"t": tair, "rho": density, "w": updraft, "rh": rh, "na": number, "volume": volume, "hygro": kappa}
    inputs = np.concatenate([np.stack([tair, pressure, rh, wbar], axis=-1), num_aer, r_aer, kappa], axis=-1)
    return {k: np.asfortranarray(v) for k, v in chunk.items()}, inputs


def test_mapping_gives_back_the_inputs_that_the_host_state_was_made_of(library, chunk_and_inputs):
    chunk, inputs = chunk_and_inputs
    x = emulator_inputs(library, chunk, 1, 16, 2, range(1, 17), 0, 16, 16)
    # a handful of conversions, an exp(4.5 ln^2 sigma) and a cube root of 4 ulp, there and back
    np.testing.assert_allclose(x, inputs[:, 1], rtol=16 * EPS)


def test_mapping_puts_columns_where_the_model_wants_them_and_touches_nothing_else(library, chunk_and_inputs):
    chunk, inputs = chunk_and_inputs
    column = np.zeros(16, dtype=np.int32)
    column[[0, 3, 8, 15]] = 3, 1, 4, 2  # tair, wbar, r_aer_1, kappa_4 of a model with four inputs
    x = emulator_inputs(library, chunk, 5, 7, 3, column, 10, 32, 4)
    np.testing.assert_allclose(x[10:17], inputs[4:11, 2][:, [3, 15, 0, 8]], rtol=16 * EPS)
    x[10:17] = -7.0
    assert (x == -7.0).all()


def test_mapping_gives_radius_zero_to_absent_modes_and_passes_nan_on(library, chunk_and_inputs):
    chunk, _ = chunk_and_inputs
    chunk["na"][0, 0, 0] = chunk["volume"][1, 0, 1] = 0.0
    chunk["na"][2, 0, 2] = chunk["volume"][3, 0, 3] = np.nan
    x = emulator_inputs(library, chunk, 1, 16, 1, range(1, 17), 0, 16, 16)
    assert x[0, 8] == 0.0
    assert x[1, 9] == 0.0
    assert np.isnan(x[2, 10])
    assert np.isnan(x[3, 11])
    assert np.isnan(x).sum() == 3  # and the number of the third


# -- the output head -------------------------------------------------------------------------------------------------

FE_INVALID, FE_DIVBYZERO, FE_OVERFLOW = 1, 4, 8  # fenv.h of glibc on x86-64: what E3SM's debug builds trap


def head_and_states(n, seed):
    """The head of the case study and points of it: inputs (n, 16) and ln S_max (n, 1)."""
    from emulator.activation.constants import Constants
    from emulator.activation.head import ATTRIBUTES, ActivationHead
    from emulator.activation.modes import NUM_MODES
    from emulator.activation.states import sample_states
    from emulator.variables import columns_of

    units = {"tair": "K", "pressure": "hPa", "rh": "1", "wbar": "cm s-1"}
    modal = {"num_aer": "cm-3", "r_aer": "um", "kappa": "1"}
    columns = [c for name, u in units.items() for c in columns_of(name, u, None)]
    columns += [c for name, u in modal.items() for c in columns_of(name, u, NUM_MODES)]
    constants = {name: getattr(Constants.e3sm(), name.removeprefix("constant_")) for name in ATTRIBUTES}
    head = ActivationHead(columns, columns_of("fn", "1", NUM_MODES), constants)
    x = np.column_stack([np.asarray(a, float) for a in sample_states(n, seed=seed).arrays()])
    return head, x, np.random.default_rng(seed).uniform(np.log(1e-4), np.log(0.1), (n, 1))


def fortran_head(library, head, x, t, ncol=None, text=None):
    """fn and fm (n, 4) of the first ncol points, -7 beyond; status 1 where the head's text was refused."""
    lines = [head.name, *(f"{k} {v:.17g}" for k, v in head.attributes.items())]
    text = ("\n".join(lines) if text is None else text).encode()
    n = len(x)
    arrays = [np.asfortranarray(a) for a in (t[:, 0], x[:, 0], x[:, 2], x[:, 8:12], x[:, 12:16])]
    fn, fm = (np.full((n, 4), -7.0, order="F") for _ in range(2))
    status = ctypes.c_int()
    library.c_activated_fractions(
        len(text), text, n, n if ncol is None else ncol, *map(pointer, (*arrays, fn, fm)), ctypes.byref(status)
    )
    return fn, fm, status.value


def test_the_fortran_head_equals_the_python_one_to_round_off_with_the_models_own_constants(library):
    head, x, t = head_and_states(5000, seed=1)
    fn, fm, status = fortran_head(library, head, x, t)
    want_fn, want_fm = head.fractions(x, t)
    assert status == 0
    # some 30 roundings in z, 1e-16 / S of them in L; libmvec's erfc 4 ulp. Measured: 3 eps
    np.testing.assert_allclose(fn, want_fn, rtol=0, atol=32 * EPS)
    np.testing.assert_allclose(fm, want_fm, rtol=0, atol=32 * EPS)
    small = (want_fn > 1e-200) & (want_fn < 1e-3)
    assert small.sum() > 1000
    np.testing.assert_allclose(fn[small], want_fn[small], rtol=1e-10)  # a rounding of z, 2 z^2 times as large


def test_a_point_of_the_fortran_head_has_the_same_bits_wherever_it_stands(library):
    head, x, t = head_and_states(37, seed=2)
    fn, fm, _ = fortran_head(library, head, x, t)
    for first in (0, 1, 2, 3, 36):
        alone = fortran_head(library, head, x[first:], t[first:], ncol=1)
        assert (alone[0][0] == fn[first]).all()
        assert (alone[1][0] == fm[first]).all()
        assert (alone[0][1:] == -7.0).all()


def test_no_number_given_to_the_fortran_head_raises_what_hosts_trap(library):
    head, _, _ = head_and_states(1, seed=3)
    rng = np.random.default_rng(3)
    x = rng.choice([0.0, -1.0, 1e-300, 1.0, 273.0, 1e300], (4000, 16))
    t = rng.choice([-1e300, -700.0, -5.0, 0.0, 700.0, 1e300], (4000, 1))
    libm = ctypes.CDLL("libm.so.6")
    libm.feclearexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW)
    fn, fm, _ = fortran_head(library, head, x, t)
    raised = libm.fetestexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW)
    assert raised == 0
    assert ((fn >= 0) & (fn <= 1) & (fm >= 0) & (fm <= 1)).all()
    absent = np.tile(head_and_states(1, seed=3)[1], (10, 1))
    absent[:, 9] = 0.0  # what the mapping gives a mode without aerosol
    assert (fortran_head(library, head, absent, np.full((10, 1), -5.0))[0][:, 1] < 1e-6).all()
    t[:5] = np.nan
    assert np.isnan(fortran_head(library, head, x, t)[0][:5]).all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "other\nconstant_gas_constant 8.3",
        "activation\nconstant_gas_constant 8.3",
        "activation\nconstant_nothing 1\n",
        "activation\nconstant_gas_constant many\n",
    ],
)
def test_the_fortran_head_refuses_constants_that_are_not_its_own(library, text):
    head, x, t = head_and_states(3, seed=4)
    fn, _, status = fortran_head(library, head, x, t, text=text)
    assert status == 1
    assert (fn == -7.0).all()


def mass_from_number(library, fn):
    """fm of all points at once, (N, 4)."""
    number = np.asfortranarray(fn, np.float64)
    fm = np.full_like(number, -7.0)
    library.c_mass_from_number(len(number), pointer(number), pointer(fm))
    return fm


def test_mass_from_number_is_the_lognormals_at_both_ends(library):
    from scipy.special import ndtr, ndtri

    rng = np.random.default_rng(5)
    small = 10.0 ** rng.uniform(-250, np.log10(0.5), 3000)
    fn = np.concatenate([small, 1.0 - 10.0 ** rng.uniform(-15, np.log10(0.5), 3000), [0.0, 1.0, 1e-300]])
    for mode, sigma in enumerate((1.8, 1.6, 1.8, 1.6)):
        number = np.tile(rng.random(fn.size)[:, None], (1, 4))
        number[:, mode] = fn
        fm, want = mass_from_number(library, number)[:, mode], ndtr(ndtri(fn) + 3.0 * np.log(sigma))
        np.testing.assert_allclose(
            fm[:3000], want[:3000], rtol=1e-12
        )  # scipy: an error of x is up to x^2 times as large
        np.testing.assert_allclose(fm[:-1], want[:-1], rtol=0, atol=16 * EPS)
        assert fm[-1] < 1e-200
    ends = mass_from_number(library, [[np.nan, -0.1, 1.1, 0.5]])[0]
    assert np.isnan(ends[0])
    assert ends[1:3].tolist() == [0.0, 1.0]


def test_mass_from_number_is_continuous_where_its_formulas_meet(library):
    from scipy.special import ndtr, ndtri

    for edge in (np.exp(-(2.2**2)), np.exp(-(6.5**2)), 0.5):
        fn = np.tile(edge * (1.0 + np.arange(-50, 50)[:, None] * 1e-15), (1, 4))
        want = ndtr(ndtri(fn) + 3.0 * np.log([1.8, 1.6, 1.8, 1.6]))
        np.testing.assert_allclose(mass_from_number(library, fn), want, rtol=1e-13)  # x^2 = 80 roundings, in scipy


def test_bits_of_a_mass_fraction_do_not_depend_on_its_neighbours(library):
    rng = np.random.default_rng(7)
    fn = np.concatenate(
        [10.0 ** rng.uniform(-30, 0, (60, 4)), rng.random((60, 4)), 1.0 - 10.0 ** rng.uniform(-9, 0, (60, 4))]
    )
    rng.shuffle(fn)
    whole = mass_from_number(library, fn)
    for size in (1, 2, 3, 32, 33, 100):  # 32: as many as are taken at once
        parts = np.concatenate([mass_from_number(library, fn[k : k + size]) for k in range(0, len(fn), size)])
        assert np.array_equal(parts, whole), size


def test_no_fn_raises_what_hosts_trap_on_its_way_to_fm(library):
    rng = np.random.default_rng(6)
    fn = np.concatenate([10.0 ** rng.uniform(-320, 0, 2000), 1.0 - 10.0 ** rng.uniform(-17, 0, 2000)])
    fn = np.concatenate([fn, [0.0, 1.0, -1.0, 2.0, 5e-324, -1e300, 1e300, np.nan]]).reshape(-1, 4)
    libm = ctypes.CDLL("libm.so.6")
    libm.feclearexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW)
    fm = mass_from_number(library, fn)
    assert libm.fetestexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW) == 0
    assert ((fm >= 0) & (fm <= 1)).ravel()[:-1].all()
