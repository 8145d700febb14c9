"""Bounds and order of outputs: the same in PyTorch, TorchScript, ONNX Runtime and libemulator's own engine."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

from emulator.bundle import load_bundle, save_bundle
from emulator.constraints import OutputConstraints
from emulator.export import export, training_range_samples, write_onnx, write_torchscript
from emulator.libemulator import LibEmulator
from emulator.models import load_model
from emulator.variables import Column, columns_of

COLUMNS = (*columns_of("fn", "1", 3), Column(name="smax", units="%", variable="smax"))
NAMES = [c.name for c in COLUMNS]
OUT = ["out_none", "out_log", "out_log10", "out_sqrt", "out_logit"]


def parse(bounds=(), orders=(), columns=COLUMNS):
    return OutputConstraints.parse(bounds, orders, columns)


def test_texts_become_bounds_chains_and_json():
    c = parse(["fn=0:1", "smax=:3.5"], ["fn_1 <= fn[2]<=fn_3"])
    assert c.lower == (0.0, 0.0, 0.0, -math.inf)
    assert c.upper == (1.0, 1.0, 1.0, 3.5)
    assert c.chains == ((0, 1, 2),)
    assert json.loads(c.to_json(COLUMNS)) == {
        "bounds": {"fn_1": [0.0, 1.0], "fn_2": [0.0, 1.0], "fn_3": [0.0, 1.0], "smax": [None, 3.5]},
        "order": [["fn_1", "fn_2", "fn_3"]],
    }
    assert parse() is None


@pytest.mark.parametrize(
    ("bounds", "orders", "message"),
    [
        (["fn"], [], "expected NAME=LOW:HIGH"),
        (["fn=1"], [], "expected NAME=LOW:HIGH"),
        (["fn=:"], [], "expected NAME=LOW:HIGH"),
        (["fn=a:b"], [], "expected NAME=LOW:HIGH"),
        (["fn=1:0"], [], "a lower bound that is not above"),
        (["fn=nan:1"], [], "a lower bound that is not above"),
        (["fm=0:1"], [], "there is no 'fm'"),
        (["fn=0:1", "fn_2=0:2"], [], "fn_2 has bounds already"),
        ([], ["fn_1"], "at least two outputs"),
        ([], ["fn <= smax"], "'fn' has 3 columns"),
        ([], ["fn_1 <= smax"], "different units (%, 1)"),
        ([], ["fn_1 <= fn_2", "fn_2 <= fn_3"], "fn_2 stands in two orders; join them"),
        ([], ["fn_1 <= fn_2 <= fn_1"], "fn_1 stands in two orders"),
        (["fn_1=0.5:1", "fn_2=0:1"], ["fn_1 <= fn_2"], "contradicts their bounds"),
        (["fn_2=0:1"], ["fn_1 <= fn_2"], "contradicts their bounds"),
    ],
)
def test_contradictions_are_refused(bounds, orders, message):
    with pytest.raises(ValueError) as error:
        parse(bounds, orders)
    assert message in str(error.value)


@pytest.fixture
def constrained(make_bundle):
    def make(bounds=(), orders=(), **network):
        bundle = make_bundle(**network)
        c = OutputConstraints.parse(bounds, orders, bundle.output_columns)
        return bundle, dataclasses.replace(bundle, constraints=c)

    return make


def runtimes(bundle, folder):
    """Predictions by runtime, of the files as exported."""
    write_onnx(bundle, folder / "model.onnx")
    write_torchscript(bundle, folder / "model.pt")
    return {
        "PyTorch": bundle.predict,
        "native": load_model(folder / "model.onnx").predict,
        "onnxruntime": load_model(folder / "model.onnx", "onnxruntime").predict,
        "TorchScript": load_model(folder / "model.pt").predict,
        "native, 64 bits": LibEmulator(folder / "model.onnx", precision=64).infer,
    }


NETWORKS = [{}, {"scale_outputs": False, "output_activation": "sigmoid"}, {"hidden": (64,) * 3, "activation": "tanh"}]


@pytest.mark.parametrize("network", NETWORKS)
def test_bounds_hold_exactly_in_every_runtime_and_change_nothing_within(constrained, network, tmp_path):
    free, bundle = constrained(["out_none=4:6", "out_log=0.6:", "out_logit=:0.5"], **network)
    if not network.get("scale_outputs", True):
        free, bundle = constrained(["out_none=0.45:0.55", "out_log=0.5:", "out_logit=:0.5"], **network)
    x = training_range_samples(bundle, 500, np.random.default_rng(3))
    low, high = np.array(bundle.constraints.lower), np.array(bundle.constraints.upper)
    truth = free.predict(x, torch.float64)
    clipped = np.clip(truth, low, high)
    assert ((truth != clipped).sum(0)[[0, 1, 4]] > 5).all()
    (tmp_path / "free").mkdir()
    without = runtimes(free, tmp_path / "free")
    for name, predict in runtimes(bundle, tmp_path).items():
        np.testing.assert_array_equal(predict(x), np.clip(without[name](x), low, high), err_msg=name)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_order_holds_exactly_in_every_runtime(constrained, network, tmp_path):
    chain = ["out_none", "out_log10", "out_sqrt", "out_log"]
    free, bundle = constrained(orders=[" <= ".join(chain)], **network)
    x = training_range_samples(bundle, 500, np.random.default_rng(3))
    at = [OUT.index(c) for c in chain]
    want = free.predict(x, torch.float64)
    want[:, at] = np.maximum.accumulate(want[:, at], axis=1)
    assert (want != free.predict(x, torch.float64)).any(axis=0)[at[1:]].all()
    for name, predict in runtimes(bundle, tmp_path).items():
        y = predict(x)
        for a, b in itertools.pairwise(at):
            assert (y[:, a] <= y[:, b]).all(), name
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5, err_msg=name)  # float32 layers, then exp


def test_order_and_bounds_together_hold_both(constrained, tmp_path):
    _, bundle = constrained(["out_none=2:5", "out_log=3:5.5"], ["out_none <= out_log"])
    x = training_range_samples(bundle, 500, np.random.default_rng(3))
    for name, predict in runtimes(bundle, tmp_path).items():
        y = predict(x)[:, :2]
        assert (y >= [2, 3]).all(), name
        assert (y <= [5, 5.5]).all(), name
        assert (y[:, 0] <= y[:, 1]).all(), name


def test_nan_stays_nan_in_every_runtime(constrained, tmp_path):
    _, bundle = constrained(["out_none=:6", "out_logit=0:0.5"], ["out_none <= out_log <= out_log10"])
    x = training_range_samples(bundle, 6, np.random.default_rng(1))
    x[2] = np.nan
    for name, predict in runtimes(bundle, tmp_path).items():
        y = predict(x)
        if "onnxruntime" not in name:  # its Relu turns NaN into 0, before anything of ours
            assert np.isnan(y[2]).all(), name
        assert not np.isnan(y[[0, 1, 3, 4, 5]]).any(), name


def test_native_bits_do_not_depend_on_batch_or_instruction_set(constrained, tmp_path):
    _, bundle = constrained(["out_none=:6"], ["out_none <= out_log <= out_log10"])
    write_onnx(bundle, tmp_path / "model.onnx")
    x = training_range_samples(bundle, 100, np.random.default_rng(1))
    whole = LibEmulator(tmp_path / "model.onnx").infer(x)
    portable = LibEmulator(tmp_path / "model.onnx", isa="portable")
    assert whole.tobytes() == portable.infer(x).tobytes()
    assert whole.tobytes() == b"".join(portable.infer(x[k : k + 1]).tobytes() for k in range(100))


def test_the_file_records_its_constraints_and_its_checks_obey_them(constrained, tmp_path):
    free, bundle = constrained(["out_none=4.9:5"])
    x = training_range_samples(bundle, 50, np.random.default_rng(1))
    export(bundle, {"onnx": tmp_path / "model.onnx", "torchscript": tmp_path / "model.pt"}, x)
    model = LibEmulator(tmp_path / "model.onnx")
    key = "libemulator.output_constraints"
    assert json.loads(model.metadata(key)) == {"bounds": {"out_none": [4.9, 5.0]}, "order": []}
    extra = {key: ""}
    torch.jit.load(str(tmp_path / "model.pt"), _extra_files=extra)
    assert json.loads(extra[key])["bounds"] == {"out_none": [4.9, 5.0]}
    assert model.self_check() < 1e-5
    write_onnx(free, tmp_path / "free.onnx")
    assert LibEmulator(tmp_path / "free.onnx").metadata(key) is None


def test_a_bundle_on_disk_keeps_its_constraints(constrained, tmp_path):
    _, bundle = constrained(["out_none=:6"], ["out_none <= out_log"])
    save_bundle(tmp_path / "bundle.pt", **vars(bundle))
    assert load_bundle(tmp_path / "bundle.pt").constraints == bundle.constraints


def test_guards_look_at_inputs_as_before(constrained, tmp_path):
    free, bundle = constrained(["out_none=4:6"])
    for b, name in ((free, "free"), (bundle, "model")):
        write_onnx(b, tmp_path / f"{name}.onnx")
    x = training_range_samples(bundle, 20, np.random.default_rng(1))
    x[3, 0] = 1e3
    y, counts = LibEmulator(tmp_path / "model.onnx").infer_guarded(x, clamp=True)
    want, same = LibEmulator(tmp_path / "free.onnx").infer_guarded(x, clamp=True)
    want[:, 0] = np.clip(want[:, 0], 4, 6)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(counts.outside, same.outside)
    assert counts.num_outside == 1
