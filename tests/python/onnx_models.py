"""Random emulators as ONNX files, built node by node with ``onnx.helper``, for the tests of libemulator.

Two shapes: :func:`emulator_graph` is the graph that the exporter writes (float64 in physical units, masked
transforms, normalisation, float32 layers, inverse transforms); :func:`plain_graph` is what ``torch.onnx.export``
makes of an ``nn.Sequential``. Axes: B samples, I inputs, O outputs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ACTIVATION_NODES = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}
FLOORED = ("log", "log10", "sqrt", "logit")  # transforms that need a lower limit; logit an upper one too


@dataclass
class Net:
    """A multilayer perceptron with its transforms and statistics; float32 weights, float64 everything else."""

    widths: list[int]
    activation: str = "relu"
    output_activation: str = "none"
    input_transforms: list[str] = field(default_factory=list)
    output_transforms: list[str] = field(default_factory=list)
    normalise_outputs: bool = False
    weights: list[np.ndarray] = field(default_factory=list)  # [out, in]
    biases: list[np.ndarray] = field(default_factory=list)
    mean_I: np.ndarray | None = None
    std_I: np.ndarray | None = None
    low_I: np.ndarray | None = None
    high_I: np.ndarray | None = None
    mean_O: np.ndarray | None = None
    std_O: np.ndarray | None = None


def random_net(
    seed: int,
    widths: list[int],
    *,
    activation: str = "relu",
    output_activation: str = "none",
    input_transforms: list[str] | None = None,
    output_transforms: list[str] | None = None,
    normalise_outputs: bool = False,
) -> Net:
    """Weights of such a size that activations keep their spread from layer to layer (He et al. 2015)."""
    rng = np.random.default_rng(seed)
    n_in, n_out = widths[0], widths[-1]
    net = Net(list(widths), activation, output_activation)
    net.input_transforms = list(input_transforms or ["none"] * n_in)
    net.output_transforms = list(output_transforms or ["none"] * n_out)
    net.normalise_outputs = normalise_outputs
    gain = 2.0 if activation == "relu" else 1.0
    for n, m in itertools.pairwise(widths):
        net.weights.append(rng.normal(0, np.sqrt(gain / n), (m, n)).astype(np.float32))
        net.biases.append(rng.normal(0, 0.1, m).astype(np.float32))
    net.low_I = np.empty(n_in)
    net.high_I = np.empty(n_in)
    for i, kind in enumerate(net.input_transforms):
        low = rng.uniform(-300, 300)
        net.low_I[i], net.high_I[i] = {
            "none": (low, low + rng.uniform(0.1, 50)),
            "log": (10 ** rng.uniform(-6, 0), 10 ** rng.uniform(1, 5)),
            "log10": (10 ** rng.uniform(-6, 0), 10 ** rng.uniform(1, 5)),
            "sqrt": (rng.uniform(0, 1), rng.uniform(10, 1000)),
            "logit": (rng.uniform(1e-6, 1e-3), 1 - rng.uniform(1e-6, 1e-3)),
        }[kind]
    t_low, t_high = transform(net, net.low_I[None])[0], transform(net, net.high_I[None])[0]
    net.mean_I, net.std_I = (t_low + t_high) / 2, np.abs(t_high - t_low) / 4
    net.mean_O, net.std_O = rng.normal(0, 1, n_out), rng.uniform(0.5, 2.0, n_out)
    return net


def sample_inputs(net: Net, n: int, seed: int) -> np.ndarray:
    """Inputs within the ranges, uniform in the transformed variable for the log-like ones."""
    rng = np.random.default_rng(seed)
    u_BI = rng.uniform(0, 1, (n, net.widths[0]))
    x_BI = net.low_I + u_BI * (net.high_I - net.low_I)
    for i, kind in enumerate(net.input_transforms):
        if kind in ("log", "log10"):
            x_BI[:, i] = np.exp(np.log(net.low_I[i]) + u_BI[:, i] * np.log(net.high_I[i] / net.low_I[i]))
    return np.clip(x_BI, net.low_I, net.high_I)


def transform(net: Net, x_BI: np.ndarray) -> np.ndarray:
    t_BI = x_BI.copy()
    for i, kind in enumerate(net.input_transforms):
        column = x_BI[:, i]
        if kind != "none":
            column = np.where(column < net.low_I[i], net.low_I[i], column)
        if kind == "logit":
            column = np.where(column > net.high_I[i], net.high_I[i], column)
        t_BI[:, i] = {
            "none": lambda c: c,
            "log": np.log,
            "log10": np.log10,
            "sqrt": np.sqrt,
            "logit": lambda c: -np.log(1 / c - 1),
        }[kind](column)
    return t_BI


def reference(net: Net, x_BI: np.ndarray) -> np.ndarray:
    """The emulator in float64 throughout (weights are the float32 ones)."""
    functions = {
        "none": lambda v: v,
        "relu": lambda v: np.maximum(0, v),
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "tanh": np.tanh,
    }
    a = (transform(net, np.asarray(x_BI, dtype=np.float64)) - net.mean_I) / net.std_I
    for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        last = i == len(net.weights) - 1
        a = functions[net.output_activation if last else net.activation](a @ w.astype(float).T + b.astype(float))
    if net.normalise_outputs:
        a = a * net.std_O + net.mean_O
    for j, kind in enumerate(net.output_transforms):
        a[:, j] = {
            "none": lambda c: c,
            "log": np.exp,
            "log10": lambda c: 10.0**c,
            "sqrt": lambda c: np.maximum(0, c) ** 2,
            "logit": lambda c: 1 / (1 + np.exp(-c)),
        }[kind](a[:, j])
    return a


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.count = 0

    def constant(self, value, name: str | None = None) -> str:
        name = name or f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, *inputs: str, out: str | None = None, **attributes) -> str:
        self.count += 1
        out = out or f"t{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"{op.lower()}_{self.count}", **attributes))
        return out


def finish(graph: _Graph, dtype: int, n_in: int, n_out: int, metadata: dict[str, str] | None = None) -> bytes:
    proto = helper.make_graph(
        graph.nodes,
        "emulator",
        [helper.make_tensor_value_info("x", dtype, ["ncol", n_in])],
        [helper.make_tensor_value_info("y", dtype, ["ncol", n_out])],
        graph.constants,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _masked(g: _Graph, kinds: list[str], kind: str, source: str, previous: str, apply) -> str:
    """``Where(mask, f(Where(mask, source, 1)), previous)``: the function sees only columns that want it."""
    mask = g.constant(np.array([[k == kind for k in kinds]]))
    one = g.constant(np.float64(1.0))
    return g.node("Where", mask, apply(g.node("Where", mask, source, one)), previous)


def emulator_graph(net: Net, metadata: dict[str, str] | None = None) -> bytes:
    g = _Graph()
    n_in, n_out = net.widths[0], net.widths[-1]
    kinds = net.input_transforms
    t = "x"
    if any(k in FLOORED for k in kinds):
        floor = g.constant(np.where([k in FLOORED for k in kinds], net.low_I, -np.inf)[None])
        t = g.node("Where", g.node("Less", t, floor), floor, t)
    if "logit" in kinds:
        top = g.constant(np.where([k == "logit" for k in kinds], net.high_I, np.inf)[None])
        t = g.node("Where", g.node("Greater", t, top), top, t)
    limited = t
    for kind in dict.fromkeys(k for k in kinds if k != "none"):
        t = _masked(g, kinds, kind, limited, t, {
            "log": lambda s: g.node("Log", s),
            "log10": lambda s: g.node("Mul", g.node("Log", s), g.constant(np.float64(1 / np.log(10)))),
            "sqrt": lambda s: g.node("Sqrt", s),
            "logit": lambda s: g.node("Neg", g.node("Log", g.node("Sub", g.node("Reciprocal", s),
                                                                    g.constant(np.float64(1.0))))),
        }[kind])  # fmt: skip
    t = g.node("Div", g.node("Sub", t, g.constant(net.mean_I[None])), g.constant(net.std_I[None]))
    t = g.node("Cast", t, to=TensorProto.FLOAT)
    for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        t = g.node("Gemm", t, g.constant(w, f"W{i}"), g.constant(b, f"b{i}"), transB=1)
        act = net.output_activation if i == len(net.weights) - 1 else net.activation
        if act != "none":
            t = g.node(ACTIVATION_NODES[act], t)
    t = g.node("Cast", t, to=TensorProto.DOUBLE)
    if net.normalise_outputs:
        t = g.node("Add", g.node("Mul", t, g.constant(net.std_O[None])), g.constant(net.mean_O[None]))
    raw, kinds = t, net.output_transforms
    for kind in dict.fromkeys(k for k in kinds if k != "none"):
        t = _masked(g, kinds, kind, raw, t, {
            "log": lambda s: g.node("Exp", s),
            "log10": lambda s: g.node("Exp", g.node("Mul", s, g.constant(np.float64(np.log(10))))),
            "sqrt": lambda s: (lambda r: g.node("Mul", r, r))(g.node("Relu", s)),
            "logit": lambda s: g.node("Sigmoid", s),
        }[kind])  # fmt: skip
    g.node("Identity", t, out="y")
    return finish(g, TensorProto.DOUBLE, n_in, n_out, metadata)


def plain_graph(net: Net, *, matmul: bool = False) -> bytes:
    """float32 in and out, normalisation as Sub and Div, layers as Gemm or as MatMul and Add."""
    g = _Graph()
    t = g.node("Div", g.node("Sub", "x", g.constant(net.mean_I.astype(np.float32))),
               g.constant(net.std_I.astype(np.float32)))  # fmt: skip
    for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        if matmul:
            t = g.node("Add", g.node("MatMul", t, g.constant(np.ascontiguousarray(w.T))), g.constant(b))
        else:
            t = g.node("Gemm", t, g.constant(np.ascontiguousarray(w.T)), g.constant(b))
        act = net.output_activation if i == len(net.weights) - 1 else net.activation
        if act != "none":
            t = g.node(ACTIVATION_NODES[act], t)
    g.node("Identity", t, out="y")
    return finish(g, TensorProto.FLOAT, net.widths[0], net.widths[-1])
