"""E3SM's own ndrop.F90 against ours: ARG to round-off, and the file with the drop-in in place of its routine.

The file is E3SM's and not part of this repository. Whoever wants to try brings it and says where it lies:

    E3SM_NDROP=$E3SM/components/eam/src/physics/cam/ndrop.F90 pytest tests/host/test_e3sm_ndrop.py

It is compiled as it is; what it uses of E3SM is stood in for in tests/host/e3sm.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from emulator import export
from emulator.activation import arg
from emulator.activation.saturation import saturation, vapour_pressure_over_water
from emulator.activation.states import sample_states
from emulator.bundle import Bundle
from emulator.mlp import MLPSpec, build_mlp
from emulator.normalise import Normaliser
from emulator.variables import Column, columns_of
from tests.conftest import NO_NDROP
from tests.host import host_fixtures as fixtures
from tests.host.activation_states import host_states
from tests.package import test_recipes

EPS = np.spacing(1.0)
PCOLS, NCOL, PVER, NUM_CONSTITUENTS, NUM_CLOUD_BORNE = 16, 11, 12, 30, 25  # of the stand-ins
ARG_INPUTS = ("tair", "pressure", "wbar", "num_aer", "r_aer", "kappa")
OUTPUTS = ("fn", "fm", "fluxn", "fluxm", "flux_fullact")

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("FC", "gfortran")) is None or shutil.which("cmake") is None,
    reason="needs a Fortran compiler and cmake; Debian: apt install gfortran cmake",
)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Function that builds targets of tests/host/e3sm; returns the loaded libraries."""
    folder = tmp_path_factory.mktemp("e3sm")

    def make(*targets, **options):
        definitions = [f"-D{name}={value}" for name, value in options.items()]
        for command in (
            ["cmake", "-S", str(fixtures.REPOSITORY / "tests/host/e3sm"), "-B", str(folder), *definitions],
            ["cmake", "--build", str(folder), "--parallel", "2", "--target", *targets],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        return [ctypes.CDLL(str(folder / f"lib{target}.so")) for target in targets]

    return make


@pytest.fixture(scope="module")
def ndrop_source():
    """The file that the user has brought."""
    if not os.environ.get("E3SM_NDROP"):
        pytest.skip(NO_NDROP)
    return Path(os.environ["E3SM_NDROP"]).resolve(strict=True)


@pytest.fixture(scope="module")
def original(build, ndrop_source):
    """ndrop.F90 as it is."""
    (library,) = build("ndrop_original", NDROP=ndrop_source)
    library.c_ndrop_init(PCOLS)
    return library


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Our ARG, compiled as a host would."""
    folder = tmp_path_factory.mktemp("ours")
    for command in (
        ["cmake", "-S", str(fixtures.REPOSITORY / "tests/host/activation_c"), "-B", str(folder)],
        ["cmake", "--build", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return ctypes.CDLL(str(folder / "libactivation_c.so"))


def pointer(array):
    assert array.dtype == np.float64
    assert array.flags.f_contiguous or array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.c_void_p)


def test_the_stand_in_of_qsat_is_our_saturation_to_round_off(build):
    (library,) = build("saturation")
    rng = np.random.default_rng(0)
    tair, pressure = rng.uniform(100.0, 400.0, 50_000), rng.uniform(1e3, 1.05e5, 50_000)
    es, qs = np.empty_like(tair), np.empty_like(tair)
    library.c_qsat(tair.size, *map(pointer, (tair, pressure, es, qs)))
    our_es, our_qs = saturation(tair, pressure)
    # powers of ten of numbers up to 11 at the cold end, by another road: 11 ln(10) eps twice. Measured: 23 eps
    np.testing.assert_allclose(es, our_es, rtol=64 * EPS)
    np.testing.assert_allclose(qs, our_qs, rtol=64 * EPS)
    assert 0.05 < (qs == 1).mean() < 0.5


# -- activate_modal --------------------------------------------------------------------------------------------------


def realistic_states(n, seed):
    """The case study's: updraft, temperature, density, number, volume, hygroscopicity."""
    states = sample_states(n, seed=seed)
    arrays = [np.asarray(a, float) for a in states.arrays()]
    tair, pressure, _, wbar, num_aer, r_aer, kappa = arrays
    updraft, density, number, volume = arg.host_state(tair, pressure, wbar, num_aer, r_aer)
    return updraft, tair, density, number, volume, kappa


def extreme_states(n, seed):
    return host_states(n, seed, more_numbers=(1e30,))


def many_states(seed):
    """10,000: half of each kind."""
    both = zip(realistic_states(5_000, seed), extreme_states(5_000, seed), strict=True)
    return tuple(np.concatenate(pair) for pair in both)


def first_modes(states, nmode):
    return (*states[:3], *(np.ascontiguousarray(a[:, :nmode]) for a in states[3:]))


def e3sm_modal(routine, states, smax=None, wdiab=None, sigw=0.0, max_updraft=10.0):
    """Outputs by name of a routine with the arguments of E3SM's current one, each point a call."""
    updraft, tair, density, number, volume, kappa = (np.ascontiguousarray(a) for a in states)
    n, nmode = number.shape
    modal = [np.full((n, nmode), -7.0) for _ in range(4)]
    full = np.full(n, -7.0)
    wdiab = np.zeros(n) if wdiab is None else wdiab
    prescribed = np.zeros(n) if smax is None else np.ascontiguousarray(smax)
    real = ctypes.c_double
    routine(
        n, nmode, pointer(updraft), real(sigw), pointer(wdiab), real(0.0), real(max_updraft),
        *map(pointer, (tair, density, number, volume, kappa)), int(smax is not None),
        *map(pointer, (prescribed, *modal, full)),
    )  # fmt: skip
    return dict(zip(OUTPUTS, (*modal, full), strict=True))


def our_modal(library, states, max_updraft=10.0, needs_first_mode=False):
    """The same of activate_modal_arg, with its S_max."""
    updraft, tair, density, number, volume, kappa = (np.ascontiguousarray(a) for a in states)
    n, nmode = number.shape
    modal = [np.full((n, nmode), -7.0) for _ in range(4)]
    full, smax = np.full(n, -7.0), np.full(n, -7.0)
    library.c_activate_modal(
        n, nmode, pointer(updraft), ctypes.c_double(max_updraft),
        *map(pointer, (tair, density, number, volume, kappa, *modal, full, smax)), int(needs_first_mode),
    )  # fmt: skip
    return {**dict(zip(OUTPUTS, (*modal, full), strict=True)), "smax": smax}


def assert_equal_to_round_off(found, expected, updraft):
    # fn = (1 - erf(x)) / 2, x = ln(S_c/S_max) (2/3) / (sqrt(2) ln sigma). E3SM takes two logarithms, each up to 15
    # where x is of order 1, ours one of a ratio of squares; S_max comes from some 30 roundings, raised to powers up to
    # 3/4. That is 30 eps in x; fn's slope is at most 1/sqrt(pi). erf and log of libmvec: 4 ulp. Measured: 5 eps
    atol = 16 * EPS
    np.testing.assert_allclose(found["fn"], expected["fn"], rtol=0, atol=atol)
    np.testing.assert_allclose(found["fm"], expected["fm"], rtol=0, atol=atol)
    scale = np.maximum(updraft, np.finfo(float).tiny)[:, None]
    for name in ("fluxn", "fluxm"):
        np.testing.assert_allclose(found[name] / scale, expected[name] / scale, rtol=0, atol=atol)
    np.testing.assert_array_equal(found["flux_fullact"], expected["flux_fullact"])


@pytest.mark.parametrize("seed", [1, 2])
def test_arg_equals_e3sms_single_updraft_branch_to_round_off_on_10000_states(original, ours, seed):
    states = many_states(seed)
    expected, found = e3sm_modal(original.c_activate_modal_e3sm, states), our_modal(ours, states)
    assert_equal_to_round_off(found, expected, states[0])
    updraft, _, _, number, volume, kappa = states
    absent = (number <= 1e-39) | (volume <= 1e-39)
    weak = np.isclose(found["smax"], 1e-20, rtol=1e-12, atol=0)
    for branch in (updraft <= 0, weak, absent.any(axis=1), (~absent & (kappa <= 1e-10)).any(axis=1),
                   number[:, 0] < 1e-20, (number >= 1e29).any(axis=1) & (found["smax"] > 0)):  # fmt: skip
        assert 50 < branch.sum() < 5_000  # every branch has its states
    assert ((expected["fn"] > 0.01) & (expected["fn"] < 0.99)).mean() > 0.2


@pytest.mark.parametrize("nmode", [1, 2, 3])
def test_arg_equals_e3sms_with_fewer_modes_and_the_lone_mode_returns_early_when_empty(original, ours, nmode):
    states = first_modes(extreme_states(10_000, seed=3), nmode)
    expected, found = e3sm_modal(original.c_activate_modal_e3sm, states), our_modal(ours, states)
    assert_equal_to_round_off(found, expected, states[0])
    empty = (states[3][:, 0] < 1e-20) & (states[0] > 0)
    assert empty.sum() > 50
    assert (expected["flux_fullact"][empty] == 0).all() == (nmode == 1)


@pytest.mark.parametrize("max_updraft", [0.5, 25.0])
def test_arg_equals_e3sms_whatever_the_hosts_largest_updraft(original, ours, max_updraft):
    states = extreme_states(10_000, seed=4)
    expected = e3sm_modal(original.c_activate_modal_e3sm, states, max_updraft=max_updraft)
    assert_equal_to_round_off(our_modal(ours, states, max_updraft), expected, states[0])


def test_the_refactored_routines_rule_differs_only_where_the_first_mode_is_empty(original, ours):
    states = extreme_states(10_000, seed=5)
    expected = e3sm_modal(original.c_activate_modal_e3sm, states)
    found = our_modal(ours, states, needs_first_mode=True)
    empty = states[3][:, 0] < 1e-20
    assert (np.concatenate([found[name][empty].ravel() for name in OUTPUTS]) == 0).all()
    assert (expected["fn"][empty] > 0.1).any()
    for part in (found, expected):
        part.update({name: part[name][~empty] for name in OUTPUTS})
    assert_equal_to_round_off(found, expected, states[0][~empty])


@pytest.mark.parametrize("smax", [1e-160, 1e-20, 1e-5, 0.003, 1.0, 0.0, -1.0])
def test_arg_equals_e3sms_with_a_prescribed_supersaturation(original, ours, smax):
    states = [np.ascontiguousarray(a) for a in many_states(seed=6)]
    n = len(states[0])
    states[3][states[3][:, 0] < 1e-20, 0] = 1.0  # the rule of the refactored routine, tested above, has no say here
    expected = e3sm_modal(original.c_activate_modal_e3sm, states, smax=np.full(n, smax))
    fn, fm = np.empty((n, 4)), np.empty((n, 4))
    ours.c_activate_prescribed(n, 4, ctypes.c_double(smax), *map(pointer, states), pointer(fn), pointer(fm))
    np.testing.assert_allclose(fn, expected["fn"], rtol=0, atol=16 * EPS)
    np.testing.assert_allclose(fm, expected["fm"], rtol=0, atol=16 * EPS)
    assert (fn > 0).any() == (smax >= 1e-20)


# -- the drop-in in its place ----------------------------------------------------------------------------------------


def with_the_drop_in(text):
    """ndrop.F90 as a host's developer would change it: one `use` more, and the call's name."""
    anchor = "\nuse wv_saturation,"
    assert text.count(anchor) == 1
    text = text.replace(anchor, f"\nuse aerosol_activation_emulator, only: activate_modal_emulator{anchor}")
    return text.replace("call activate_modal(", "call activate_modal_emulator(")


def as_the_recipe_has_it(text):
    """With the lines of fortran_bridge/E3SM.md, which pass the relative humidity over liquid along."""
    return test_recipes.apply(text, f"{test_recipes.EAM}/ndrop.F90")


@pytest.fixture(scope="module")
def drop_ins(build, original, ndrop_source, tmp_path_factory):
    """ndrop.F90 with the drop-in, without humidity and as the recipe has it; nothing is connected yet."""
    folder = tmp_path_factory.mktemp("changed")
    for name, change in (("ndrop", with_the_drop_in), ("ndrop_recipe", as_the_recipe_has_it)):
        (folder / f"{name}.F90").write_text(change(ndrop_source.read_text()))
    libraries = build(
        "ndrop_emulator", "ndrop_recipe", NDROP_EMULATOR=folder / "ndrop.F90", NDROP_RECIPE=folder / "ndrop_recipe.F90"
    )
    for library in libraries:
        library.c_ndrop_init(PCOLS)
    return libraries


@pytest.fixture(scope="module")
def changed(drop_ins):
    """The one in which nothing but one `use` and the call's name is changed."""
    return drop_ins[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small network that has learnt ARG, so that what it gives can be told from nonsense."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    states = sample_states(20_000, seed=9)
    x = np.column_stack([np.asarray(a, float) for a in states.arrays()])
    fn = arg.activate(*(np.asarray(getattr(states, name), float) for name in ARG_INPUTS))[0]
    inputs = [Column(name=name, units=fixtures.UNITS[name.rstrip("_1234")], variable=name) for name in fixtures.COLUMNS]
    outputs = columns_of("fn", "1", 4)
    normaliser = Normaliser.fit(x, inputs, "auto")
    spec = MLPSpec(num_inputs=16, hidden=(64, 32), num_outputs=4, activation="silu", output_activation="sigmoid")
    network = build_mlp(spec, torch.Generator().manual_seed(1))
    z, y = torch.from_numpy(normaliser.forward(x)).float(), torch.from_numpy(fn).float()
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(1500):
        batch = slice(step % 10 * 2000, step % 10 * 2000 + 2000)
        optimiser.zero_grad()
        torch.nn.functional.mse_loss(network(z[batch]), y[batch]).backward()
        optimiser.step()
    bundle = Bundle(
        spec=spec,
        state=network.state_dict(),
        inputs=normaliser,
        outputs=Normaliser.fit(fn, outputs, "none", standardise=False),
        input_columns=tuple(inputs),
        output_columns=tuple(outputs),
        provenance={"study": "test", "trial": 0},
    )
    export.write_onnx(bundle, path)
    return path


def use(library, path):
    """Connect the drop-in to a model; None: ARG."""
    name = b"" if path is None else str(path).encode()
    assert library.c_use_model(len(name), name) == 0


def test_one_use_and_the_calls_name_are_all_that_changes_in_the_file(ndrop_source):
    before = ndrop_source.read_text().splitlines()
    after = with_the_drop_in(ndrop_source.read_text()).splitlines()
    removed, added = (sorted(set(a) - set(b)) for a, b in ((before, after), (after, before)))
    assert len(after) == len(before) + 1
    assert [line.strip() for line in removed] == ["call activate_modal( &"] * len(removed)
    assert [line.strip() for line in added] == ["call activate_modal_emulator( &"] * len(removed) + [
        "use aerosol_activation_emulator, only: activate_modal_emulator"
    ]
    assert sum("call activate_modal_emulator(" in line for line in after) == 2  # growing cloud, cloud base


@pytest.mark.parametrize("nmode", [1, 4])
def test_the_drop_in_without_a_model_is_e3sms_routine_to_round_off(changed, nmode):
    states = first_modes(many_states(seed=7), nmode)
    updraft = states[0]
    rng = np.random.default_rng(7)
    wdiab = rng.choice([0.0, 0.3, -0.05, -30.0], updraft.size)
    expected = e3sm_modal(changed.c_activate_modal_e3sm, states, wdiab=wdiab)
    use(changed, None)
    found = e3sm_modal(changed.c_activate_modal_drop_in, states, wdiab=wdiab)
    assert_equal_to_round_off(found, expected, updraft)
    idle = (updraft > 0) & (updraft + wdiab <= 0)
    assert idle.sum() > 1000
    assert (found["flux_fullact"][idle] == 0).all()


@pytest.mark.parametrize("smax", [1e-160, 1e-5, 0.003, 0.0, -1.0])
def test_the_drop_in_keeps_e3sms_prescribed_supersaturation_with_and_without_a_model(changed, model, smax):
    states = many_states(seed=8)
    prescribed = np.full(states[0].size, smax)
    expected = e3sm_modal(changed.c_activate_modal_e3sm, states, smax=prescribed)
    for path in (None, model):
        use(changed, path)
        found = e3sm_modal(changed.c_activate_modal_drop_in, states, smax=prescribed)
        assert_equal_to_round_off(found, expected, states[0])


def test_a_spectrum_of_updrafts_is_e3sms_alone(changed):
    states = realistic_states(200, seed=9)
    assert np.isfinite(e3sm_modal(changed.c_activate_modal_e3sm, states, sigw=0.5)["fn"]).all()
    refused = e3sm_modal(changed.c_activate_modal_drop_in, states, sigw=0.5)
    assert all(np.isnan(refused[name]).all() for name in OUTPUTS)
    assert np.isfinite(e3sm_modal(changed.c_activate_modal_drop_in, states, sigw=1e-5)["fn"]).all()


# -- dropmixnuc, which calls it --------------------------------------------------------------------------------------

NUMLIQ, FIRST_AEROSOL = 3, 5  # constituents of the stand-ins, from 0; each mode's species, then its number
NUM_SPECIES = (7, 4, 7, 3)
DENSITY = {"so4": 1770, "pom": 1000, "soa": 1000, "bc": 1700, "dst": 2600, "ncl": 1900, "mom": 1601}  # kg m-3
SPECIES = ("so4 pom soa bc dst ncl mom", "so4 soa ncl mom", "dst ncl so4 bc pom soa mom", "pom bc mom")
LEAST_NUMBER, LARGEST_NUMBER = (1e7, 1e8, 1e4, 1e7), (2e9, 5e9, 1e6, 1e9)  # kg-1
NUMBER_OF_MODE = [FIRST_AEROSOL + sum(NUM_SPECIES[: m + 1]) + m for m in range(4)]
TIME_STEP = 300.0  # s


def columns():
    """Arguments of dropmixnuc: NCOL cloudy columns, NaN in the rest of the chunk."""
    rng = np.random.default_rng(11)
    shape = (PCOLS, PVER)

    def field(values):
        values = np.array(values, dtype=float, order="F")
        values[NCOL:] = np.nan
        return values

    pint = np.linspace(4.2e4, 1.0e5, PVER + 1) * rng.uniform(0.98, 1.0, (PCOLS, 1))
    pmid, pdel = 0.5 * (pint[:, 1:] + pint[:, :-1]), np.diff(pint, axis=1)
    tair = rng.uniform(280.0, 300.0, (PCOLS, 1)) * (pmid / 1e5) ** 0.19
    thickness = arg.GAS_CONSTANT_DRY_AIR * tair * pdel / (arg.GRAVITY * pmid)
    zm = np.cumsum(thickness[:, ::-1], axis=1)[:, ::-1] - 0.5 * thickness
    cldo, cldn = (np.where(rng.random(shape) < 0.4, 0.0, rng.random(shape)) for _ in range(2))
    q = np.zeros((PCOLS, PVER, NUM_CONSTITUENTS), order="F")
    cloud_borne = np.zeros((PCOLS, PVER, NUM_CLOUD_BORNE), order="F")
    q[:, :, NUMLIQ] = np.where(cldo > 0, rng.uniform(1e7, 3e8, shape), 0.0)
    radii = sample_states(PCOLS * PVER, seed=11).r_aer.reshape(*shape, 4) * 1e-6
    first = FIRST_AEROSOL
    for m, names in enumerate(name.split() for name in SPECIES):
        number = np.exp(rng.uniform(np.log(LEAST_NUMBER[m]), np.log(LARGEST_NUMBER[m]), shape))
        share = rng.dirichlet(np.full(len(names), 5.0), shape)
        volume = 4 / 3 * np.pi * arg.EXP45_MODE[m] * radii[:, :, m] ** 3 * number
        for k, name in enumerate(names):
            q[:, :, first + k] = share[:, :, k] * volume * DENSITY[name]
        q[:, :, first + len(names)] = number
        activated = np.where(cldo > 0, rng.uniform(0.0, 0.5, shape), 0.0)[:, :, None]
        part = slice(first, first + len(names) + 1)
        cloud_borne[:, :, part.start - FIRST_AEROSOL : part.stop - FIRST_AEROSOL] = activated * q[:, :, part]
        q[:, :, part] *= 1 - activated
        first = part.stop
    kvh = rng.uniform(0.0, 20.0, (PCOLS, PVER + 1))
    wsub = np.exp(rng.uniform(np.log(0.05), np.log(3.0), shape))
    arguments = {
        "t": tair, "pmid": pmid, "pint": pint, "pdel": pdel, "zm": zm, "q": q, "kvh": kvh, "cloud_borne": cloud_borne,
        "wsub": wsub, "cldn": cldn, "cldo": cldo,
    }  # fmt: skip
    return {name: field(values) for name, values in arguments.items()}  # in the order of c_dropmixnuc


def dropmixnuc(library, arguments):
    """What one step leaves, for the columns that hold data: its outputs and what it has put into the history."""
    arguments = {name: values.copy(order="F") for name, values in arguments.items()}
    found = {
        "tendency": np.full((PCOLS, PVER, NUM_CONSTITUENTS), -7.0, order="F"),
        "tendnd": np.full((PCOLS, PVER), -7.0, order="F"),
        "factnum": np.full((PCOLS, PVER, 4), -7.0, order="F"),
    }
    library.c_dropmixnuc(
        NCOL, ctypes.c_double(TIME_STEP), *map(pointer, arguments.values()), *map(pointer, found.values())
    )
    found["cloud_borne"] = arguments["cloud_borne"]
    modes = [f"num_{phase}{m}_mixnuc1" for phase in "ac" for m in (1, 2, 3, 4)]
    for name in ("NDROPSRC", "NDROPMIX", "CCN3", "WTKE", "NDROPCOL", *modes):
        num_levels = 1 if name in ("NDROPCOL", *modes) else PVER
        found[name] = np.empty((PCOLS, num_levels), order="F")
        library.c_history_field(len(name), name.encode(), num_levels, pointer(found[name]))
    return {name: values[:NCOL] for name, values in found.items()}


@pytest.fixture(scope="module")
def with_arg(original):
    return dropmixnuc(original, columns())


def test_e3sms_step_with_the_drop_in_and_no_model_is_its_own_to_round_off(changed, with_arg):
    use(changed, None)
    found = dropmixnuc(changed, columns())
    for name, expected in with_arg.items():
        # a few eps of fn, through some hundred substeps of mixing that add up and subtract
        scale = np.abs(expected).max(axis=tuple(range(min(2, expected.ndim))), keepdims=True)
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-12 * scale.max(), err_msg=name)


def test_e3sms_step_runs_with_an_emulator_and_stays_sane(changed, with_arg, model):
    use(changed, model)
    before = columns()
    found = dropmixnuc(changed, before)
    assert all(np.isfinite(values).all() for values in found.values())
    assert ((found["factnum"] >= 0) & (found["factnum"] <= 1)).all()
    assert (found["factnum"].any(axis=2) == with_arg["factnum"].any(axis=2)).all()  # at the same points
    assert 20 < found["factnum"].any(axis=2).sum() < NCOL * PVER

    # a network that has learnt ARG gives nearly what ARG gives, and not the same
    difference = np.abs(found["factnum"] - with_arg["factnum"])[found["factnum"].any(axis=2)]
    assert (difference.max(axis=1) > 1e-9).mean() > 0.8  # elsewhere out of its training range: ARG's
    assert difference.mean() < 0.02
    source = [fields["NDROPSRC"] for fields in (found, with_arg)]
    assert np.corrcoef(source[0].ravel(), source[1].ravel())[0, 1] > 0.98

    # nothing is made of nothing: what activation and mixing take from the interstitial particles the droplets hold
    for m in range(4):
        lost, gained = (found[f"num_{phase}{m + 1}_mixnuc1"] for phase in "ac")
        np.testing.assert_allclose(lost + gained, 0.0, atol=1e-9 * np.abs(gained).max())
        after = before["q"][:NCOL, :, NUMBER_OF_MODE[m]] + TIME_STEP * found["tendency"][:, :, NUMBER_OF_MODE[m]]
        assert (after >= -1e-9 * before["q"][:NCOL, :, NUMBER_OF_MODE[m]].max()).all()
    assert (found["cloud_borne"] >= 0).all()
    assert (before["q"][:NCOL, :, NUMLIQ] + TIME_STEP * found["tendnd"] >= 0).all()
    np.testing.assert_array_equal(found["WTKE"], with_arg["WTKE"])  # activation has no say in it


def test_with_the_recipes_lines_the_humidity_at_the_call_reaches_the_network(drop_ins, model):
    dry, humid = columns(), columns()
    # 2 % above saturation: the table that the drop-in looks up lies up to 0.07 % above the curve
    liquid = 1.02 * vapour_pressure_over_water(humid["t"])
    humid["q"][:, :, 0] = 0.622 * liquid / (humid["pmid"] - 0.378 * liquid)
    for library in drop_ins:
        use(library, model)
    as_it_is = [dropmixnuc(drop_ins[0], arguments)["factnum"] for arguments in (dry, humid)]
    passed = [dropmixnuc(drop_ins[1], arguments)["factnum"] for arguments in (dry, humid)]
    np.testing.assert_array_equal(*as_it_is)  # the routine without rh takes the air as saturated
    np.testing.assert_array_equal(passed[1], as_it_is[1])
    assert (passed[0] != as_it_is[0]).any(axis=2).mean() > 0.2


def test_the_recipes_lines_leave_the_file_as_it_was_where_libemulator_is_off(ndrop_source, tmp_path):
    (tmp_path / "ndrop.F90").write_text(as_the_recipe_has_it(ndrop_source.read_text()))
    command = [test_recipes.FC, "-E", "-P", "-cpp"]
    compiled = [
        subprocess.run([*command, str(path)], capture_output=True, text=True, check=True).stdout
        for path in (ndrop_source, tmp_path / "ndrop.F90")
    ]
    assert compiled[0].split() == compiled[1].split()
    assert "activate_modal" in compiled[0]
