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
from emulator.normalise import Normaliser

OPSET = 17  # Aug 2022: every current runtime reads it
IR_VERSION = 8  # the IR version published with opset 17
SCHEMA = "1"
_ACTIVATION_OPS = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "identity": None}


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
    spec = bundle.spec
    for k in range(len(spec.hidden) + 1):
        # `build_mlp` alternates linear layers and activations, so linear layer k is module 2 k.
        weight = graph.constant(bundle.state[f"{2 * k}.weight"].numpy(), f"weight_{k + 1}")
        bias = graph.constant(bundle.state[f"{2 * k}.bias"].numpy(), f"bias_{k + 1}")
        value = graph.node("Gemm", [value, weight, bias], f"linear_{k + 1}", transB=1)
        op = _ACTIVATION_OPS[spec.output_activation if k == len(spec.hidden) else spec.activation]
        if op:
            value = graph.node(op, [value], f"layer_{k + 1}")
    return value


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


def metadata(bundle: Bundle, check_x: np.ndarray, check_tolerance: float) -> dict[str, str]:
    """What a host may ask a model file for, by key: the same in `model.onnx` and `model.pt`; see `build_onnx`."""
    check_y = bundle.predict(check_x, dtype=torch.float64)

    def lines(values) -> str:
        return "\n".join(values)

    def numbers(array) -> str:
        return lines(_number(v) for v in array)

    def table(array) -> str:
        return lines(" ".join(_number(v) for v in row) for row in array)

    return {
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
