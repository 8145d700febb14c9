"""Output heads: the hook, the case study's closed form against the parcel's own criterion, and what is exported."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from emulator.activation import kohler
from emulator.activation.constants import Constants
from emulator.activation.head import ATTRIBUTES, KAPPA_LIMITS, RADIUS_LIMITS, ActivationHead, newton_step
from emulator.activation.mass import exact_mass_fractions, mass_from_number
from emulator.activation.modes import LN_SIGMA_G, NUM_MODES
from emulator.activation.states import sample_states
from emulator.activation.thermodynamics import kelvin_length
from emulator.bundle import Bundle, load_bundle, save_bundle
from emulator.export import export, training_range_samples, write_onnx
from emulator.heads import DIRECT, Head, head_of_network, known_heads, load_head, row
from emulator.libemulator import LibEmulator
from emulator.mlp import MLPSpec, build_mlp
from emulator.normalise import Normaliser
from emulator.onnx_graph import Expression, _Graph
from emulator.variables import columns_of

CONSTANTS = Constants()
SCALARS = {"tair": "K", "pressure": "hPa", "rh": "1", "wbar": "cm s-1"}
MODAL = {"num_aer": "cm-3", "r_aer": "um", "kappa": "1"}
INPUTS = tuple(c for n, u in SCALARS.items() for c in columns_of(n, u, None)) + tuple(
    c for n, u in MODAL.items() for c in columns_of(n, u, NUM_MODES)
)
OUTPUTS = tuple(columns_of("fn", "1", NUM_MODES))
FILE_ATTRIBUTES = {name: getattr(CONSTANTS, name.removeprefix("constant_")) for name in ATTRIBUTES} | {"title": "x"}


@pytest.fixture(scope="module")
def head():
    return ActivationHead(INPUTS, OUTPUTS, FILE_ATTRIBUTES)


@pytest.fixture(scope="module")
def samples(head):
    """Inputs (N, 16), ln S_max at the reference temperature (N, 1), and that temperature (N,)."""
    states = sample_states(3000, seed=7)
    x = np.column_stack([np.asarray(a, np.float64) for a in states.arrays()])
    rng = np.random.default_rng(0)
    t = np.log(10.0 ** rng.uniform(-4, -1, (len(x), 1)))
    return x, t, head.reference_temperature(torch.from_numpy(x)).numpy()[:, 0]


def by_the_parcel(x, t, temperature):
    """fn as the parcel model computes it, exact kappa-Koehler theory."""
    fn = np.empty((len(x), NUM_MODES))
    for n in range(len(x)):
        kelvin = kelvin_length(temperature[n], CONSTANTS.values())
        for m in range(NUM_MODES):
            fn[n, m] = kohler.activated_fraction(
                math.exp(t[n, 0]), 1e-6 * x[n, 8 + m], LN_SIGMA_G[m], x[n, 12 + m], kelvin
            )
    return fn


def bundle_of(head, samples, hidden=(12, 8)):
    x, t, temperature = samples
    spec = MLPSpec(num_inputs=16, hidden=hidden, num_outputs=1, output_activation="identity")
    return Bundle(
        spec=spec,
        state=build_mlp(spec, torch.Generator().manual_seed(0)).state_dict(),
        inputs=Normaliser.fit(x, INPUTS, "auto"),
        outputs=Normaliser.fit(by_the_parcel(x[:300], t, temperature), OUTPUTS, standardise=False),
        input_columns=INPUTS,
        output_columns=OUTPUTS,
        provenance={},
        head=head,
        targets=Normaliser.fit(t, head.targets),
    )


# -- the closed form -------------------------------------------------------------------------------------------------


def test_fn_is_the_parcels_own_criterion(head, samples):
    x, t, temperature = samples
    fn, _ = head.fractions(x, t)
    # one Newton step in place of convergence: 1.3e-4 at S = 10 %, kappa > 1; less elsewhere (2e-5 rms at most)
    np.testing.assert_allclose(fn, by_the_parcel(x, t, temperature), rtol=0, atol=2e-4)
    assert np.mean((fn > 0.01) & (fn < 0.99)) > 0.2


def test_one_newton_step_is_all_but_the_root():
    supersaturation = torch.logspace(-6, math.log10(0.3), 200, dtype=torch.float64)[:, None]
    kappa = torch.logspace(-12, math.log10(1.3), 150, dtype=torch.float64)[None, :]
    l = torch.log1p(supersaturation)  # noqa: E741
    u = (kappa + (kappa * (kappa + l * (3.0 - 2.5 * kappa))).sqrt()) / l
    once = u - newton_step(u, kappa, l)
    converged = once
    for _ in range(5):
        converged = converged - newton_step(converged, kappa, l)
    assert (once / converged - 1.0).abs().max() < 2e-3  # at S = 30 %
    realistic = supersaturation[:, 0] < 0.03
    assert (once / converged - 1.0).abs()[realistic].max() < 1e-5


def test_target_and_outputs_give_the_parcels_fractions_back(head, samples):
    x, t, temperature = samples
    hot = temperature + 0.5  # the parcel found its maximum somewhat away from the reference
    v = np.column_stack([np.exp(t[:, 0]), hot])
    soluble = x[:, 12:] > 0.1  # for which r_c ~ A S^(-2/3)
    fn, _ = head.fractions(x, head.target(x, v))
    # A differs by 0.3 %: to first order taken up by the target
    np.testing.assert_allclose(fn[soluble], by_the_parcel(x, t, hot)[soluble], rtol=0, atol=1e-4)
    unreferred, _ = head.fractions(x, t)
    assert np.abs(unreferred - by_the_parcel(x, t, hot))[soluble].max() > 1e-3


def test_mass_follows_from_number_as_the_lognormal_says(head, samples):
    x, t, temperature = samples
    fn, fm = head.fractions(x[:200], t[:200])
    kelvin = np.array([kelvin_length(T, CONSTANTS.values()) for T in temperature[:200]])
    quantile = np.linspace(-7.0, 7.0, 40001)  # of the normal; the third moment by a sum over it
    density = np.exp(-0.5 * quantile**2)
    for n in range(0, 200, 10):
        for m in range(NUM_MODES):
            threshold = kohler.critical_dry_radius(math.exp(t[n, 0]), x[n, 12 + m], kelvin[n])
            radius = 1e-6 * x[n, 8 + m] * np.exp(LN_SIGMA_G[m] * quantile)
            share = [((radius > threshold) * density * radius**p).sum() / (density * radius**p).sum() for p in (0, 3)]
            # steps of the sum: 3.5e-4 of a standard deviation
            np.testing.assert_allclose([fn[n, m], fm[n, m]], share, rtol=0, atol=6e-4)


def test_both_ends_keep_their_digits(head, samples):
    x = samples[0][:1].copy()
    x[:, 8:12], x[:, 12:16] = 0.01, 0.5
    t = np.full((1, 1), math.log(1e-4))
    low = head.fractions(x, t)[0][0, 1]
    z = float(head.distance(torch.from_numpy(x), torch.from_numpy(t))[0, 1])
    assert 0.0 < low < 1e-9
    assert low == pytest.approx(0.5 * math.erfc(z), rel=1e-13)
    x[:, 8:12] = 2.0
    high = head.fractions(x, t + math.log(100))[0]
    assert (high <= 1.0).all()
    assert (high > 1.0 - 1e-9).all()


def test_nothing_that_a_host_may_give_leaves_the_numbers(head):
    rng = np.random.default_rng(3)
    x = rng.choice([0.0, -1.0, 1e-300, 1.0, 1e300], (4000, 16))
    t = rng.choice([-1e300, -700.0, -5.0, 0.0, 700.0, 1e300], (4000, 1))
    with np.errstate(all="raise"):
        fn, fm = head.fractions(x, t)
    assert np.isfinite(fn).all()
    assert np.isfinite(fm).all()
    assert ((fn >= 0) & (fn <= 1) & (fm >= 0) & (fm <= 1)).all()
    x[:, 9] = 0.0  # a mode without aerosol
    assert (head.fractions(x, np.full((4000, 1), -5.0))[0][:, 1] < 1e-6).all()
    x[0, 0], t[1, 0] = np.nan, np.nan
    assert np.isnan(head.fractions(x, t)[0][:2]).all()
    assert RADIUS_LIMITS[0] > 0
    assert KAPPA_LIMITS[0] > 0


# -- what is exported ------------------------------------------------------------------------------------------------


def test_exported_files_hold_the_head_and_every_runtime_agrees(head, samples, tmp_path):
    bundle = bundle_of(head, samples)
    targets = {"onnx": tmp_path / "model.onnx", "torchscript": tmp_path / "model.pt"}
    checked = export(bundle, targets, samples[0], 1e-5)
    # single-precision Erf and sums: 6e-8 each
    assert max(checked.differences.values()) < 2e-6
    model = LibEmulator(targets["onnx"])
    assert model.output_names == tuple(c.name for c in OUTPUTS)
    assert model.infer(samples[0]).shape == (3000, 4)


def test_a_network_exported_without_its_head_gives_the_targets_and_says_what_must_follow(head, samples, tmp_path):
    bundle = bundle_of(head, samples)
    bare = bundle.without_head()
    write_onnx(bare, tmp_path / "bare.onnx")
    model = LibEmulator(tmp_path / "bare.onnx")
    assert model.output_names == ("ln_smax",)
    lines = model.metadata("libemulator.head").splitlines()
    assert lines[0] == "activation"
    assert {a: float(v) for a, v in (line.split() for line in lines[1:])} == head.attributes
    fn, _ = head.fractions(samples[0], model.infer(samples[0]))
    np.testing.assert_allclose(fn, bundle.predict(samples[0]), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="no output head to leave out"):
        bare.without_head()


def test_a_bundle_keeps_its_head(head, samples, tmp_path):
    bundle = bundle_of(head, samples)
    values = {k: v for k, v in vars(bundle).items() if k != "constraints"}
    save_bundle(tmp_path / "b.pt", **values)
    again = load_bundle(tmp_path / "b.pt")
    assert again.head.to_dict() == head.to_dict()
    x = training_range_samples(bundle, 50, np.random.default_rng(0))
    assert (again.predict(x) == bundle.predict(x)).all()
    assert again.predict(x[:0]).shape == (0, 4)


def test_the_table_of_heads_knows_the_true_mass_and_what_a_number_implies(head, samples):
    x, t, temperature = samples
    fm = exact_mass_fractions(np.exp(t[:, 0]), temperature, x[:, 8:12], x[:, 12:16], CONSTANTS)
    fn, found = head.fractions(x, t)
    np.testing.assert_allclose(found, fm, rtol=0, atol=2e-4)  # as fn: one Newton step
    partly = (fn > 1e-12) & (fn < 1 - 1e-9)  # beyond, 1 - fn has lost its digits
    np.testing.assert_allclose(mass_from_number(fn)[partly], found[partly], rtol=0, atol=1e-6)
    assert mass_from_number(np.array([[0.0, 1.0, 0.0, 1.0]])).tolist() == [[0.0, 1.0, 0.0, 1.0]]


# -- the hook ----------------------------------------------------------------------------------------------------------


def test_heads_are_found_by_name_and_others_are_refused():
    assert known_heads()[0] == DIRECT
    assert "activation" in known_heads()
    assert load_head("activation", INPUTS, OUTPUTS, FILE_ATTRIBUTES).name == "activation"
    with pytest.raises(ValueError, match=r"'activatoin' is unknown.*did you mean 'activation'"):
        load_head("activatoin", INPUTS, OUTPUTS, FILE_ATTRIBUTES)


@pytest.mark.parametrize(
    ("inputs", "outputs", "attributes", "message"),
    [
        (INPUTS[:8], OUTPUTS, FILE_ATTRIBUTES, "needs the inputs r_aer_1"),
        (INPUTS, OUTPUTS[:3], FILE_ATTRIBUTES, "gives fn_1, fn_2, fn_3, fn_4; the outputs are fn_1, fn_2, fn_3"),
        (INPUTS, OUTPUTS, {"constant_gas_constant": 8.3}, "needs the attributes constant_molar_mass_water"),
        ((*columns_of("tair", "degC", None), *INPUTS[1:]), OUTPUTS, FILE_ATTRIBUTES, "tair in 'degC', expected 'K'"),
    ],
)
def test_a_head_says_why_it_does_not_fit(inputs, outputs, attributes, message):
    with pytest.raises(ValueError, match=message):
        load_head("activation", inputs, outputs, attributes)


def test_a_head_from_plain_data_is_the_same(head, samples):
    again = head_of_network(head.to_dict(), INPUTS, OUTPUTS)
    x, t, _ = samples
    assert (again.fractions(x, t)[0] == head.fractions(x, t)[0]).all()


class Everything(Head):
    """A head that uses every operation there is."""

    name, targets, variables, attributes = "everything", tuple(columns_of("t", "1", 2)), (), {}

    def target(self, x_NI, v_NV):
        raise NotImplementedError

    def outputs(self, x_NI, t_NT):
        a, b = x_NI[:, [0, 2]].clamp(min=0.5, max=3.0), t_NT
        c = (1.0 + a) * b - 2.0 * (3.0 - b) / a + (b.exp() + 1.0).log() + a.sqrt() + (2.0 / a - b) * 0.25
        return c + row(b, [10.0, 20.0]) * b.erfc() + (b - 1.0)


def test_an_expression_computes_what_the_tensors_do(tmp_path):
    graph = _Graph()
    rng = np.random.default_rng(0)
    x, t = rng.normal(1.5, 1.5, (200, 3)), rng.normal(0, 1, (200, 2))
    both = Expression(graph, "x")
    graph.node("Identity", [Everything().outputs(both[:, [0, 1, 2]], both[:, [3, 4]]).name], "y")
    kinds = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, ["n", w]) for n, w in (("x", 5), ("y", 2))]
    made = onnx.helper.make_graph(graph.nodes, "g", kinds[:1], kinds[1:], initializer=graph.initializers)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"x": np.hstack([x, t])})[0]
    want = Everything().outputs(torch.from_numpy(x), torch.from_numpy(t)).numpy()
    np.testing.assert_allclose(found, want, rtol=0, atol=20 * 1.2e-7)  # erfc in single precision, times 20 at most
