"""A bundle as an ONNX graph: transforms and normalisation in float64, layers in float32, metadata beside them.

The graph uses elementary operators only, so that any runtime opens it and `libemulator` can read it. Constants
of one value per column have shape [1, columns].
"""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from emulator.bundle import Bundle
from emulator.constraints import OutputConstraints
from emulator.mlp import NORM_EPSILON, fold_batch_norm, layer_names
from emulator.normalise import Normaliser

OPSET = 17  # Aug 2022: every current runtime reads it
IR_VERSION = 8  # the IR version published with opset 17
SCHEMA = "1"
# Activations that are one operator, with its attributes where the defaults are not PyTorch's.
_ACTIVATION_OPS = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.01}),
    "elu": ("Elu", {"alpha": 1.0}),
    "selu": ("Selu", {}),
    "hardswish": ("HardSwish", {}),
    "softplus": ("Softplus", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
}


def build_onnx(bundle: Bundle, check_x: np.ndarray, check_tolerance: float) -> onnx.ModelProto:
    """ONNX model of a bundle.

    Parameters
    ----------
    bundle : Bundle
    check_x : (n, I) float64
        Inputs, physical units, kept in the file with their float64 results, for a host to check itself.
    check_tolerance : float
        Largest difference from them, as a fraction of an output's training range, that a host should accept.

    Returns
    -------
    onnx.ModelProto
        Input `x` float64 [ncol, I], output `y` float64 [ncol, O], physical units; passes onnx.checker.
    """
    graph = _Graph()
    value = _forward_transforms(graph, "x", bundle.inputs)
    value = graph.node("Cast", [value], "normalised", to=TensorProto.FLOAT)
    value = _layers(graph, value, bundle)
    value = graph.node("Cast", [value], "outputs", to=TensorProto.DOUBLE)
    value = _inverse_transforms(graph, value, bundle.network_outputs)
    if bundle.head is not None:
        value = bundle.head.outputs(Expression(graph, "x"), Expression(graph, value)).name
    if bundle.constraints is not None:
        value = _constrain(graph, value, bundle.constraints)
    graph.node("Identity", [value], "y")
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "emulator",
            [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["ncol", bundle.spec.num_inputs])],
            [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["ncol", len(bundle.output_columns)])],
            initializer=graph.initializers,
        ),
        producer_name="libemulator",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, metadata(bundle, check_x, check_tolerance))
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and initializers under construction; every value gets a name of its own."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._taken = {"x", "y"}

    def node(self, op: str, inputs: list[str], output: str, **attributes) -> str:
        output = output if output == "y" else self._free(output)
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{len(self.nodes)}", **attributes))
        return output

    def constant(self, array: np.ndarray, name: str) -> str:
        name = self._free(name)
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def row(self, array: np.ndarray, name: str) -> str:
        """Constant of one value per column."""
        return self.constant(np.asarray(array)[None, :], name)

    def _free(self, name: str) -> str:
        for k in itertools.count():
            candidate = name if k == 0 else f"{name}_{k}"
            if candidate not in self._taken:
                self._taken.add(candidate)
                return candidate
        raise AssertionError("unreachable")


class Expression:
    """A float64 value [ncol, columns] of the graph, with the operations that `emulator.heads` names: nodes are added.

    `erfc` is one of single precision, as no runtime has Erf for float64: within 1e-7, absolute.
    """

    def __init__(self, graph: _Graph, name: str):
        self.graph, self.name = graph, name

    def row(self, values) -> Expression:
        """Constants of one value per column."""
        return Expression(self.graph, self.graph.row(np.asarray(values, np.float64), "constants"))

    def __getitem__(self, key) -> Expression:
        """`value[:, [0, 2]]`: some of the columns."""
        rows, columns = key
        assert rows == slice(None), rows
        index = self.graph.constant(np.asarray(columns, np.int64), "columns")
        return Expression(self.graph, self.graph.node("Gather", [self.name, index], "chosen", axis=1))

    def __add__(self, other) -> Expression:
        return self._node("Add", self, other)

    def __radd__(self, other) -> Expression:
        return self._node("Add", other, self)

    def __sub__(self, other) -> Expression:
        return self._node("Sub", self, other)

    def __rsub__(self, other) -> Expression:
        return self._node("Sub", other, self)

    def __mul__(self, other) -> Expression:
        return self._node("Mul", self, other)

    def __rmul__(self, other) -> Expression:
        return self._node("Mul", other, self)

    def __truediv__(self, other) -> Expression:
        return self._node("Div", self, other)

    def __rtruediv__(self, other) -> Expression:
        return self._node("Div", other, self)

    def exp(self) -> Expression:
        return self._node("Exp", self)

    def log(self) -> Expression:
        return self._node("Log", self)

    def sqrt(self) -> Expression:
        return self._node("Sqrt", self)

    def erfc(self) -> Expression:
        single = self.graph.node("Cast", [self.name], "single", to=TensorProto.FLOAT)
        single = self.graph.node("Erf", [single], "erf")
        double = self.graph.node("Cast", [single], "double", to=TensorProto.DOUBLE)
        return 1.0 - Expression(self.graph, double)

    def clamp(self, *, min: float, max: float) -> Expression:
        """NaN stays NaN."""
        value = self
        for op, limit in (("Less", min), ("Greater", max)):
            bound = self._operand(limit)
            beyond = self.graph.node(op, [value.name, bound], "beyond")
            value = Expression(self.graph, self.graph.node("Where", [beyond, bound, value.name], "clamped"))
        return value

    def _node(self, op: str, *operands) -> Expression:
        return Expression(self.graph, self.graph.node(op, [self._operand(v) for v in operands], op.lower()))

    def _operand(self, value) -> str:
        return (
            value.name if isinstance(value, Expression) else self.graph.constant(np.array([[float(value)]]), "number")
        )


def _forward_transforms(graph: _Graph, value: str, columns: Normaliser) -> str:
    if np.isfinite(columns.lower).any():
        bound = graph.row(columns.lower, "lower_bound")
        below = graph.node("Less", [value, bound], "below")
        value = graph.node("Where", [below, bound, value], "bounded_below")
    if np.isfinite(columns.upper).any():
        bound = graph.row(columns.upper, "upper_bound")
        above = graph.node("Greater", [value, bound], "above")
        value = graph.node("Where", [above, bound, value], "bounded")
    result = value
    for kind in sorted(set(columns.transforms) - {"none"}):
        # The other columns pass through as 0.5, valid for every function, so that none of them can trap.
        mask = graph.row(np.array([k == kind for k in columns.transforms]), f"is_{kind}")
        half = graph.constant(np.array([[0.5]]), "half")
        t = graph.node("Where", [mask, value, half], f"for_{kind}")
        if kind == "sqrt":
            t = graph.node("Sqrt", [t], "sqrt")
        elif kind == "logit":
            t = graph.node("Reciprocal", [t], "reciprocal")
            t = graph.node("Sub", [t, graph.constant(np.array([[1.0]]), "one")], "odds_against")
            t = graph.node("Neg", [graph.node("Log", [t], "log_odds_against")], "logit")
        else:
            t = graph.node("Log", [t], "log")
            if kind == "log10":
                t = graph.node("Mul", [t, graph.constant(np.array([[1.0 / math.log(10.0)]]), "log10_e")], "log10")
        result = graph.node("Where", [mask, t, result], "transformed")
    if columns.mean.any():
        result = graph.node("Sub", [result, graph.row(columns.mean, "mean")], "centred")
    if (columns.std != 1.0).any():
        result = graph.node("Div", [result, graph.row(columns.std, "std")], "standardised")
    return result


def _layers(graph: _Graph, value: str, bundle: Bundle) -> str:
    spec, state = fold_batch_norm(bundle.spec, bundle.state)
    names = layer_names(spec)
    for k, layer in enumerate(names, start=1):
        before = value
        weight = graph.constant(state[f"{layer.linear}.weight"].numpy(), f"weight_{k}")
        bias = graph.constant(state[f"{layer.linear}.bias"].numpy(), f"bias_{k}")
        value = graph.node("Gemm", [value, weight, bias], f"linear_{k}", transB=1)
        if layer.norm is not None:
            scale = graph.constant(state[f"{layer.norm}.weight"].numpy(), f"scale_{k}")
            shift = graph.constant(state[f"{layer.norm}.bias"].numpy(), f"shift_{k}")
            options = {"axis": -1, "epsilon": NORM_EPSILON}
            value = graph.node("LayerNormalization", [value, scale, shift], f"normalized_{k}", **options)
        value = _activation(graph, value, spec.output_activation if layer is names[-1] else spec.activation, k)
        if layer.adds_input:
            value = graph.node("Add", [value, before], f"residual_{k}")
    return value


def _activation(graph: _Graph, value: str, kind: str, k: int) -> str:
    """Those that have no operator in this operator set are written as PyTorch's exporter writes them."""
    if kind == "identity":
        return value
    if kind == "gelu":  # (Hendrycks & Gimpel 2016, arXiv:1606.08415): x (1 + erf(x / sqrt(2))) / 2
        root = graph.constant(np.array(math.sqrt(2.0), np.float32), "sqrt2")
        t = graph.node("Erf", [graph.node("Div", [value, root], f"scaled_{k}")], f"erf_{k}")
        t = graph.node("Add", [t, graph.constant(np.array(1.0, np.float32), "one")], f"shifted_{k}")
        t = graph.node("Mul", [value, t], f"product_{k}")
        return graph.node("Mul", [t, graph.constant(np.array(0.5, np.float32), "half")], f"layer_{k}")
    if kind == "silu":
        return graph.node("Mul", [value, graph.node("Sigmoid", [value], f"gate_{k}")], f"layer_{k}")
    if kind == "mish":
        gate = graph.node("Tanh", [graph.node("Softplus", [value], f"softplus_{k}")], f"gate_{k}")
        return graph.node("Mul", [value, gate], f"layer_{k}")
    op, attributes = _ACTIVATION_OPS[kind]
    return graph.node(op, [value], f"layer_{k}", **attributes)


def _inverse_transforms(graph: _Graph, value: str, columns: Normaliser) -> str:
    if (columns.std != 1.0).any():
        value = graph.node("Mul", [value, graph.row(columns.std, "output_std")], "scaled")
    if columns.mean.any():
        value = graph.node("Add", [value, graph.row(columns.mean, "output_mean")], "shifted")
    result = value
    for kind in sorted(set(columns.transforms) - {"none"}):
        mask = graph.row(np.array([k == kind for k in columns.transforms]), f"output_is_{kind}")
        zero = graph.constant(np.array([[0.0]]), "zero")
        t = graph.node("Where", [mask, value, zero], f"output_for_{kind}")
        if kind == "sqrt":
            t = graph.node("Relu", [t], "root")
            t = graph.node("Mul", [t, t], "square")
        elif kind == "logit":
            t = graph.node("Sigmoid", [t], "logistic")
        else:
            if kind == "log10":
                t = graph.node("Mul", [t, graph.constant(np.array([[math.log(10.0)]]), "ln10")], "natural")
            t = graph.node("Exp", [t], "exp")
        result = graph.node("Where", [mask, t, result], "physical")
    return result


def _constrain(graph: _Graph, value: str, constraints: OutputConstraints) -> str:
    """Order, then bounds, on the outputs in physical units."""
    for chain in constraints.chains:
        columns = [
            graph.node("Gather", [value, graph.constant(np.array([k]), "column")], "output_column", axis=1)
            for k in range(len(constraints.lower))
        ]
        zero = graph.constant(np.zeros((1, 1), np.float32), "order_zero")
        before = None
        for k in chain:
            this = graph.node("Cast", [columns[k]], "order_of", to=TensorProto.FLOAT)
            if before is not None:
                # libemulator's own engine does not take the maximum of two results, but a + max(b - a, 0), and a + t is
                # never below a for t >= 0, however it is rounded
                step = graph.node("Sub", [this, before], "order_step")
                down = graph.node("Less", [step, zero], "order_down")
                step = graph.node("Where", [down, zero, step], "order_up")
                this = graph.node("Add", [before, step], "ordered")
            columns[k] = graph.node("Cast", [this], "ordered_column", to=TensorProto.DOUBLE)
            before = this
        value = graph.node("Concat", columns, "ordered_outputs", axis=1)
    if max(constraints.lower) > -math.inf:
        bound = graph.row(np.array(constraints.lower), "output_lower")
        below = graph.node("Less", [value, bound], "output_below")
        value = graph.node("Where", [below, bound, value], "output_bounded_below")
    if min(constraints.upper) < math.inf:
        bound = graph.row(np.array(constraints.upper), "output_upper")
        above = graph.node("Greater", [value, bound], "output_above")
        value = graph.node("Where", [above, bound, value], "output_bounded")
    return value


def metadata(bundle: Bundle, check_x: np.ndarray, check_tolerance: float) -> dict[str, str]:
    """What a host may ask a model file for, by key: the same in `model.onnx` and `model.pt`; see `build_onnx`."""
    check_y = bundle.predict(check_x, dtype=torch.float64)

    def lines(values) -> str:
        return "\n".join(values)

    def numbers(array) -> str:
        return lines(_number(v) for v in array)

    def table(array) -> str:
        return lines(" ".join(_number(v) for v in row) for row in array)

    constraints = bundle.constraints
    recorded = {"libemulator.output_constraints": constraints.to_json(bundle.output_columns)} if constraints else {}
    return recorded | {
        "libemulator.schema": SCHEMA,
        "libemulator.input_names": lines(c.name for c in bundle.input_columns),
        "libemulator.input_units": lines(c.units for c in bundle.input_columns),
        "libemulator.input_min": numbers(bundle.inputs.minimum),
        "libemulator.input_max": numbers(bundle.inputs.maximum),
        "libemulator.output_names": lines(c.name for c in bundle.output_columns),
        "libemulator.output_units": lines(c.units for c in bundle.output_columns),
        "libemulator.output_min": numbers(bundle.outputs.minimum),
        "libemulator.output_max": numbers(bundle.outputs.maximum),
        "libemulator.check_inputs": table(check_x),
        "libemulator.check_outputs": table(check_y),
        "libemulator.check_tolerance": _number(check_tolerance),
        "libemulator.provenance": json.dumps(bundle.provenance, sort_keys=True),
        **_head_to_apply(bundle),
    }


def _head_to_apply(bundle: Bundle) -> dict[str, str]:
    """Of a network exported without its head: the head's name, and beneath it `attribute number` lines."""
    head = bundle.provenance.get("head_to_apply")
    if head is None:
        return {}
    lines = [head["name"], *(f"{name} {_number(value)}" for name, value in head["attributes"].items())]
    return {"libemulator.head": "\n".join(lines)}


def _number(value: float) -> str:
    return format(float(value), ".17g")  # 17 digits give a float64 back exactly
