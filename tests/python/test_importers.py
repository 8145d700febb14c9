"""Networks exported by PyTorch, scikit-learn and Keras load as they are and equal ONNX Runtime.

PyTorch's (both exporters) and scikit-learn's files are made here; Keras' are stored, `data/importers/make_fixtures.py`
says how they were made. Each is evaluated at batches of 1, 7 and 100 by every instruction set of this machine.
"""

import copy
import ctypes
import functools
import io
import itertools
import json
import logging
import os
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from torch import nn
from torch.nn import functional as F

from emulator.libemulator import LibEmulator

STORED = Path(__file__).parent / "data" / "importers"
BATCHES = (1, 7, 100)


def available_isas() -> list[str]:
    content = tiny_model([helper.make_node("MatMul", ["x", "W"], ["y"])])
    found = []
    for isa in ("avx512", "avx2", "portable"):
        try:
            evaluate(content, np.zeros((1, 4), np.float32), isa)
            found.append(isa)
        except ValueError as error:
            assert "LIBEMULATOR_ISA" in str(error)
    return found


def evaluate(content: bytes, x_BI: np.ndarray, isa: str) -> np.ndarray:
    before = os.environ.get("LIBEMULATOR_ISA")
    os.environ["LIBEMULATOR_ISA"] = isa
    try:
        return LibEmulator(content).infer(x_BI)
    finally:
        del os.environ["LIBEMULATOR_ISA"]
        if before is not None:
            os.environ["LIBEMULATOR_ISA"] = before


def onnx_runtime(content: bytes, x_BI: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x_BI})[0]


def assert_equals(content: bytes, x_BI: np.ndarray, truth_BO: np.ndarray) -> None:
    """Both evaluate in float32, in different orders, with different approximations of exp, tanh and erf: each value
    on the way carries some 2^-24 of its size, and a layer of 20 or a normalisation adds up at most a few tens."""
    tolerance = 4e-6 * max(1.0, np.abs(truth_BO).max())
    everything = evaluate(content, x_BI, ISAS[0])
    for isa in ISAS:
        for batch in BATCHES:
            y_BO = evaluate(content, x_BI[:batch], isa)
            np.testing.assert_allclose(y_BO, truth_BO[:batch], rtol=0, atol=tolerance, err_msg=f"{isa}, {batch}")
            np.testing.assert_array_equal(y_BO, everything[:batch], err_msg=f"{isa}, {batch}: the bits differ")


def tiny_model(nodes, *, opset=17, domains=(), **constants) -> bytes:
    constants.setdefault("W", np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


ISAS = available_isas()


# ---- PyTorch ---------------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(0.1),
    "prelu": nn.PReLU(20),
    "elu": nn.ELU(0.7),
    "celu": nn.CELU(0.5),
    "selu": nn.SELU(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "softplus": nn.Softplus(),
    "softplus_steep": nn.Softplus(beta=2.0, threshold=15.0),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "hardtanh": nn.Hardtanh(),
    "relu6": nn.ReLU6(),
    "softsign": nn.Softsign(),
    "logsigmoid": nn.LogSigmoid(),
    "tanhshrink": nn.Tanhshrink(),
}


class Dense(nn.Module):
    """One hidden layer with the activation"""

    def __init__(self, activation):
        super().__init__()
        self.first, self.activation, self.last = nn.Linear(4, 20), activation, nn.Linear(20, 3)

    def forward(self, x):
        return self.last(self.activation(self.first(x)))


class Residual(nn.Module):
    """Skip connections around one and two layers, the result normalised"""

    def __init__(self):
        super().__init__()
        self.first, self.a, self.b, self.c = nn.Linear(4, 20), nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 20)
        self.norm, self.dropout, self.last = nn.LayerNorm(20), nn.Dropout(0.1), nn.Linear(20, 3)

    def forward(self, x):
        h = F.relu(self.first(x))
        h = h + F.gelu(self.a(h))
        h = self.norm(h + self.dropout(self.c(F.silu(self.b(h)))))
        return self.last(h)


class LayerNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 20), nn.Linear(20, 33), nn.Linear(33, 3)
        self.norm, self.norm2 = nn.LayerNorm(20), nn.LayerNorm(33, elementwise_affine=False)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.uniform_(self.norm.bias, -0.5, 0.5)

    def forward(self, x):
        return self.last(self.norm2(torch.tanh(self.second(F.relu(self.norm(self.first(x)))))))


class BatchNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last, self.norm2 = (
            nn.Linear(4, 20), nn.BatchNorm1d(20), nn.Linear(20, 3), nn.BatchNorm1d(3),
        )  # fmt: skip
        for norm in (self.norm, self.norm2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
            nn.init.uniform_(norm.running_mean, -0.5, 0.5)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)

    def forward(self, x):
        return self.norm2(self.last(F.relu(self.norm(self.first(x)))))


class Branched(nn.Module):
    """Branches over parts of the input, a gate, parts of a layer joined in another order; normalisation before"""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.last = nn.Linear(2, 20), nn.Linear(3, 20), nn.Linear(34, 3)
        self.register_buffer("mean", torch.tensor([0.1, 0.2, -0.3, 0.4]))
        self.register_buffer("std", torch.tensor([0.9, 1.2, 1.3, 0.8]))
        self.register_buffer("pick", torch.tensor([3, 1]))

    def forward(self, x):
        x = (x - self.mean) / self.std
        a, b = F.silu(self.a(x[:, self.pick])), torch.tanh(self.b(x[..., 1:]))
        u, v = torch.split(torch.cat([a, b], -1), [14, 26], -1)
        gate = torch.sigmoid(v[:, -14:]) * u
        p, q = b.chunk(2, -1)
        return self.last(torch.cat([q, gate, a[:, 5:9], p / (1 + p * p)], 1).flatten(1)[:, :34])


class Identities(nn.Module):
    """Operations that change no number: views, squeezes, dropout"""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 20), nn.Linear(20, 3)

    def forward(self, x):
        h = F.relu(self.first(x.reshape(-1, 4))).view(-1, 20)
        h = F.dropout(h.unsqueeze(1).squeeze(1), 0.5, self.training).contiguous()
        return self.last(h.flatten(1)).to(torch.float32)


NETWORKS = {name: (lambda a=a: Dense(a)) for name, a in ACTIVATIONS.items()} | {
    "residual": Residual, "layer_normed": LayerNormed, "batch_normed": BatchNormed, "branched": Branched,
    "identities": Identities,
}  # fmt: skip
EXPORTERS = ("torchscript11", "torchscript17", "torchscript20", "dynamo18", "dynamo20")


@functools.cache
def exported(name: str, exporter: str) -> tuple[bytes, nn.Module]:
    torch.manual_seed(3)
    network = NETWORKS[name]().eval()
    if (name, exporter) == ("celu", "torchscript11"):  # operator set 11 has none, and PyTorch says so
        exporter = "torchscript12"
    return export_torch(network, exporter), network


def export_torch(network: nn.Module, exporter: str) -> bytes:
    x_BI = torch.zeros(5, 4)
    opset = int(exporter[-2:])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter.startswith("torchscript"):
            stream = io.BytesIO()
            torch.onnx.export(
                network, (x_BI,), stream, dynamo=False, opset_version=opset, input_names=["x"],
                dynamic_axes={"x": {0: "n"}},
            )  # fmt: skip
            return stream.getvalue()
        program = torch.onnx.export(
            network, (x_BI,), dynamo=True, opset_version=opset, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("n")},),
        )  # fmt: skip
        return program.model_proto.SerializeToString()


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_pytorch_equal_onnx_runtime_and_pytorch(name, exporter):
    content, network = exported(name, exporter)
    x_BI = torch.empty(max(BATCHES), 4).uniform_(-4, 4)
    assert_equals(content, x_BI.numpy(), onnx_runtime(content, x_BI.numpy()))
    assert_equals(content, x_BI.numpy(), network(x_BI).detach().numpy())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_pytorch_can_be_evaluated_in_float64(name):
    content, network = exported(name, "torchscript17")
    x_BI = torch.empty(max(BATCHES), 4, dtype=torch.float64).uniform_(-4, 4)
    truth_BO = copy.deepcopy(network).double()(x_BI).detach().numpy()
    y_BO = LibEmulator(content, precision=64).infer(x_BI.numpy())
    # 2^-24: the file holds parameters (slope 0.1, epsilon 1e-5) in float32, and one network ends in .to(float32)
    np.testing.assert_allclose(y_BO, truth_BO, rtol=0, atol=6e-8 * max(1.0, np.abs(truth_BO).max()))


# ---- scikit-learn ----------------------------------------------------------------------------------------------


def sklearn_case(scaler, activation, num_outputs, hidden=(16, 9)):
    rng = np.random.default_rng(1)
    x_BI = rng.uniform(0.2, 5, (200, 4))
    y_BO = np.sin(x_BI[:, :num_outputs])
    regressor = MLPRegressor(hidden_layer_sizes=hidden, activation=activation, max_iter=20, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        return make_pipeline(scaler, regressor).fit(x_BI, y_BO[:, 0] if num_outputs == 1 else y_BO), x_BI


def sklearn_truth(content, x_BI, num_outputs) -> np.ndarray:
    """ONNX Runtime's result. skl2onnx writes several outputs as one column, [B * O, 1]: sample after sample."""
    return onnx_runtime(content, x_BI).reshape(len(x_BI), num_outputs)


def export_sklearn(pipeline, dtype, opset=None) -> bytes:
    from skl2onnx import to_onnx

    return to_onnx(pipeline, np.zeros((1, 4), dtype), target_opset=opset).SerializeToString()


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_scaled_regressors_of_scikit_learn_equal_onnx_runtime(activation, num_outputs):
    pipeline, x_BI = sklearn_case(StandardScaler(), activation, num_outputs)
    content = export_sklearn(pipeline, np.float32)
    x_BI = x_BI.astype(np.float32)
    assert_equals(content, x_BI, sklearn_truth(content, x_BI, num_outputs))
    assert_equals(content, x_BI, pipeline.predict(x_BI).reshape(len(x_BI), num_outputs))


def test_float64_exports_of_scikit_learn_load_in_either_precision():
    """The default of skl2onnx: scikit-learn works in float64."""
    pipeline, x_BI = sklearn_case(StandardScaler(), "tanh", 3)
    content = export_sklearn(pipeline, np.float64)
    truth_BO = sklearn_truth(content, x_BI, 3)
    assert_equals(content, x_BI, truth_BO)
    y_BO = LibEmulator(content, precision=64).infer(x_BI)
    np.testing.assert_allclose(y_BO, truth_BO, rtol=0, atol=1e-13)  # sums of 16 terms of size 1 in float64


@pytest.mark.parametrize("opset", [9, 11, 13, 15, 18, 21])
def test_scikit_learn_exports_of_every_operator_set_equal_onnx_runtime(opset):
    pipeline, x_BI = sklearn_case(StandardScaler(), "relu", 2)
    content = export_sklearn(pipeline, np.float32, opset)
    x_BI = x_BI.astype(np.float32)
    assert_equals(content, x_BI, sklearn_truth(content, x_BI, 2))


@pytest.mark.parametrize(
    "scaler", [MinMaxScaler(), MaxAbsScaler(), RobustScaler(), StandardScaler(with_std=False)], ids=str
)
def test_the_other_scalers_of_scikit_learn_load(scaler):
    pipeline, x_BI = sklearn_case(scaler, "tanh", 2)
    content = export_sklearn(pipeline, np.float32)
    x_BI = x_BI.astype(np.float32)
    assert_equals(content, x_BI, sklearn_truth(content, x_BI, 2))


# ---- Keras -----------------------------------------------------------------------------------------------------

KERAS = sorted(p.stem for p in STORED.glob("*.onnx"))


def test_the_stored_files_are_all_there():
    assert len(KERAS) == 29
    assert set(json.loads((STORED / "versions.json").read_text())) >= {"keras", "tensorflow", "tf2onnx", "onnxruntime"}


@pytest.mark.parametrize("name", KERAS)
def test_networks_of_keras_equal_onnx_runtime_and_keras(name):
    content = (STORED / f"{name}.onnx").read_bytes()
    checks = np.load(STORED / "checks.npz")
    x_BI = checks["x"]
    assert_equals(content, x_BI, checks[f"{name.partition('.')[0]}/keras"])
    if "Erfc" in [n.op_type for n in onnx.load_from_string(content).graph.node]:
        # tf2onnx writes an operator that ONNX does not have: nothing but libemulator runs this file
        assert f"{name}/onnxruntime" not in checks
        with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph):
            onnx_runtime(content, x_BI)
        return
    assert_equals(content, x_BI, checks[f"{name}/onnxruntime"])
    assert_equals(content, x_BI, onnx_runtime(content, x_BI))


# ---- what exporters write out ----------------------------------------------------------------------------------


def workspace(content: bytes) -> int:
    """Bytes per call: what is no step of a layer's own needs columns of the row for its operands and its result."""
    model = LibEmulator(content)
    size = model._c.emu_workspace_size
    size.restype, size.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    return size(model._handle)


def workspace_of_relu() -> int:
    return workspace(exported("relu", "torchscript17")[0])


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "hardsigmoid", "hardswish", "softplus", "selu"])
def test_activations_written_out_by_pytorch_cost_what_relu_costs(name, exporter):
    assert workspace(exported(name, exporter)[0]) == workspace_of_relu()
    assert workspace(exported("mish", exporter)[0]) > workspace_of_relu()


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "hard_sigmoid", "hard_silu"])
def test_activations_written_out_by_keras_cost_what_relu_costs(name):
    assert workspace((STORED / f"{name}.tf2onnx18.onnx").read_bytes()) == workspace_of_relu()


def test_a_chain_of_layers_needs_its_two_widest_neighbours_only():
    def chain(*widths):
        layers = [nn.Linear(n, m) for n, m in itertools.pairwise(widths)]
        return workspace(export_torch(nn.Sequential(*layers).eval(), "torchscript17"))

    assert chain(4, 100, 30, 200, 64, 3) == chain(4, 200, 64, 3)
    assert chain(4, 100, 30, 200, 64, 3) < chain(4, 200, 100, 3)


def test_written_out_layer_normalisation_is_one_operation():
    """Otherwise each of its two means would be a layer of one output."""
    for exporter in EXPORTERS:
        assert LibEmulator(exported("layer_normed", exporter)[0]).layer_widths == (20, 33, 3), exporter
    for exporter in ("keras", "tf2onnx13", "tf2onnx18"):
        assert LibEmulator(STORED / f"layer_normalized.{exporter}.onnx").layer_widths == (16, 16, 3), exporter
