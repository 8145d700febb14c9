"""The ONNX graph in ONNX Runtime against PyTorch, and its metadata."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from emulator.export import training_range_samples
from emulator.onnx_graph import build_onnx

NETWORKS = [
    {},
    {"activation": "tanh", "output_activation": "sigmoid"},
    {"hidden": (8,) * 20},
    {"hidden": (300,), "scale_outputs": False, "output_activation": "sigmoid"},
    {"activation": "identity", "output_activation": "tanh"},
]


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("network", NETWORKS)
def test_onnxruntime_gives_what_pytorch_gives_in_physical_units(make_bundle, network):
    bundle = make_bundle(**network)
    rng = np.random.default_rng(1)
    x = training_range_samples(bundle, 500, rng)
    x[0] = [0.0, 0.0, -1.0, -2.0, 0.0]  # beyond the domains of log, sqrt, logit
    y = run(build_onnx(bundle, x[:3], 1e-5), x)
    truth = bundle.predict(x, torch.float64)
    # float32 layers: 20 of them, 1e-7 each; relative to each output's size after exp
    np.testing.assert_allclose(y, truth, rtol=1e-4, atol=1e-5)
    assert y.dtype == np.float64


def test_nan_in_gives_nan_out_for_that_sample_only(make_bundle):
    bundle = make_bundle()
    x = training_range_samples(bundle, 6, np.random.default_rng(1))
    model = build_onnx(bundle, x[:3], 1e-5)
    clean = run(model, x)
    x[2, 1] = np.nan
    y = run(model, x)
    assert np.isnan(y[2]).any()
    keep = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(y[keep], clean[keep], rtol=1e-6)


def test_metadata_tells_names_units_ranges_checks_and_provenance(make_bundle):
    bundle = make_bundle()
    x = training_range_samples(bundle, 3, np.random.default_rng(1))
    model = onnx.load_from_string(build_onnx(bundle, x, 1e-5).SerializeToString())
    meta = {p.key.removeprefix("libemulator."): p.value for p in model.metadata_props}
    assert meta["input_names"].split("\n") == [c.name for c in bundle.input_columns]
    assert meta["output_units"].split("\n") == [c.units for c in bundle.output_columns]
    np.testing.assert_array_equal([float(v) for v in meta["input_min"].split("\n")], bundle.inputs.minimum)
    kept_x = np.array([[float(v) for v in row.split()] for row in meta["check_inputs"].split("\n")])
    kept_y = np.array([[float(v) for v in row.split()] for row in meta["check_outputs"].split("\n")])
    np.testing.assert_array_equal(kept_x, x)
    np.testing.assert_array_equal(kept_y, bundle.predict(x, torch.float64))
    assert json.loads(meta["provenance"]) == bundle.provenance


def test_an_identity_normalisation_leaves_no_node(make_bundle):
    bundle = make_bundle(scale_outputs=False, output_activation="sigmoid")
    ops = [n.op_type for n in build_onnx(bundle, np.ones((1, 5)), 1e-5).graph.node]
    assert ops[-3:] == ["Sigmoid", "Cast", "Identity"]


def test_training_range_samples_stay_inside_and_spread_evenly_in_the_logarithm(make_bundle):
    bundle = make_bundle()
    x = training_range_samples(bundle, 4000, np.random.default_rng(1))
    assert (x >= bundle.inputs.minimum).all()
    assert (x <= bundle.inputs.maximum).all()
    middle = np.sqrt(bundle.inputs.minimum[1] * bundle.inputs.maximum[1])
    assert abs((x[:, 1] < middle).mean() - 0.5) < 0.04  # binomial, 5 sigma
