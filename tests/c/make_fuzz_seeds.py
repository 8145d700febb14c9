"""Writes fuzz_seeds/*.onnx: small models, from which the fuzzer starts. usage: python -m tests.c.make_fuzz_seeds

Files named crash_* are kept counterexamples, not made here.
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.python.onnx_models import emulator_graph, plain_graph, random_net

FOLDER = pathlib.Path(__file__).parent / "fuzz_seeds"
RNG = np.random.default_rng(1)
X, Y = "x", "t"


DESCRIPTION = {
    "libemulator.schema": "1",
    "libemulator.input_names": "temperature\npressure",
    "libemulator.input_units": "K\nhPa",
    "libemulator.output_names": "rate",
    "libemulator.output_units": "kg m-2 s-1",
    "libemulator.input_min": "-1.5\n0x1p-3",
    "libemulator.input_max": "1e3\nnan",
    "libemulator.output_min": "0",
    "libemulator.output_max": "inf",
    "libemulator.check_inputs": "0.5 1\n2 3",
    "libemulator.check_outputs": "0.25\n0.125",
    "libemulator.check_tolerance": "0.001",
    "title": "a seed",
}


def f32(*shape):
    return RNG.normal(0, 0.5, shape).astype(np.float32)


def seed(name, nodes, *, opset=17, width=3, **constants):
    """x (4 columns) -> nodes -> t (`width` columns) -> a layer -> y (2 columns)"""
    constants = {name: np.asarray(value) for name, value in constants.items()} | {"W": f32(width, 2)}
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["t", "W"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    (FOLDER / f"{name}.onnx").write_bytes(model.SerializeToString())


def node(op, inputs, *outputs, **attributes):
    return helper.make_node(op, inputs, list(outputs) or ["t"], **attributes)


def main():
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.onnx"):
        if not old.name.startswith("crash_"):
            old.unlink()

    mixed = ["none", "log", "log10", "sqrt", "logit"]
    net = random_net(
        1, [5, 6, 5, 5], activation="tanh", output_activation="sigmoid", input_transforms=mixed,
        output_transforms=mixed, normalise_outputs=True,
    )  # fmt: skip
    (FOLDER / "emulator.onnx").write_bytes(emulator_graph(net))
    (FOLDER / "described.onnx").write_bytes(emulator_graph(random_net(4, [2, 3, 1]), DESCRIPTION))
    (FOLDER / "gemm.onnx").write_bytes(plain_graph(random_net(2, [3, 4, 2])))
    (FOLDER / "matmul.onnx").write_bytes(plain_graph(random_net(3, [3, 20, 2]), matmul=True))
    (FOLDER / "empty.onnx").write_bytes(b"")

    same = {"width": 4}
    for op in ("Abs", "Elu", "Erf", "Exp", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Neg",
               "Reciprocal", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh"):  # fmt: skip
        seed(op.lower(), [node(op, [X])], **same)
    for op in ("Mish",):
        seed(op.lower(), [node(op, [X])], opset=18, **same)
    seed("gelu", [node("Gelu", [X], approximate="tanh")], opset=20, **same)
    seed("gelu_exact", [node("Gelu", [X])], opset=20, **same)
    seed("leakyrelu_slope", [node("LeakyRelu", [X], alpha=0.3)], **same)
    seed("hardsigmoid_slope", [node("HardSigmoid", [X], alpha=0.3, beta=0.4)], **same)
    seed("prelu", [node("PRelu", [X, "s"])], s=f32(4), **same)
    seed("silu", [node("Sigmoid", [X], "s"), node("Mul", [X, "s"])], **same)
    for op in ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"):
        row = np.array([[2, 3, 0.5, -1]], np.float32) if op == "Pow" else f32(1, 4)
        seed(op.lower() + "_row", [node(op, [X, "c"])], c=row, **same)
        seed(op.lower() + "_scalar", [node(op, [X, "c"])], c=np.float32(2), **same)
    seed("clip", [node("Clip", [X, "a", "b"])], a=np.float32(-1), b=np.float32(1), **same)
    seed("where", [node("Less", [X, "a"], "m"), node("Where", ["m", "a", X])], a=f32(1, 4), **same)
    seed("greater", [node("Greater", [X, "a"], "m"), node("Where", ["m", "a", X])], a=f32(1, 4), **same)
    seed("cast", [node("Cast", [X], "d", to=TensorProto.DOUBLE), node("Cast", ["d"], to=TensorProto.FLOAT)], **same)
    constant = numpy_helper.from_array(f32(1, 4))
    seed("constant", [node("Constant", [], "c", value=constant), node("Add", [X, "c"])], **same)
    four = [1.0, 2.0, 3.0, 4.0]
    seed("constant_floats", [node("Constant", [], "c", value_floats=four), node("Mul", [X, "c"])], **same)
    seed("gemm_scaled", [node("Gemm", [X, "A", "b"], alpha=0.5, beta=2.0, transB=1)], A=f32(3, 4), b=f32(3))
    seed("two_layers", [node("MatMul", [X, "A"], "h"), node("Relu", ["h"], "r"), node("MatMul", ["r", "B"])],
         A=f32(4, 5), B=f32(5, 3))  # fmt: skip
    seed("residual", [node("MatMul", [X, "A"], "h"), node("Add", [X, "h"])], A=f32(4, 4), **same)
    seed("product", [node("MatMul", [X, "A"], "h"), node("Mul", [X, "h"])], A=f32(4, 4), **same)
    seed("concat", [node("MatMul", [X, "A"], "h"), node("Tanh", [X], "r"), node("Concat", ["h", "r"], axis=1)],
         A=f32(4, 3), width=7)  # fmt: skip
    seed("slice", [node("Slice", [X, "a", "b", "c"])], width=2, a=np.array([1]), b=np.array([3]), c=np.array([1]))
    seed("split", [node("Split", [X, "p"], "t", "u", axis=1)], width=3, p=np.array([3, 1]))
    seed("gather", [node("Gather", [X, "p"], axis=1)], width=3, p=np.array([3, 1, 0]))
    seed("layernorm", [
        node("MatMul", [X, "A"], "h"),
        node("LayerNormalization", ["h", "s", "b"], axis=-1, epsilon=1e-5)],
         A=f32(4, 6), s=f32(6), b=f32(6), width=6)  # fmt: skip
    seed("layernorm_by_hand", [
        node("MatMul", [X, "A"], "h"), node("ReduceMean", ["h"], "m", axes=[-1], keepdims=1),
        node("Sub", ["h", "m"], "d"),
        node("Pow", ["d", "two"], "q"), node("ReduceMean", ["q"], "v", axes=[-1], keepdims=1),
        node("Add", ["v", "e"], "w"), node("Sqrt", ["w"], "r"), node("Div", ["d", "r"])],
        A=f32(4, 6), two=np.float32(2), e=np.float32(1e-5), width=6)  # fmt: skip
    seed("batchnorm", [node("BatchNormalization", [X, "s", "b", "m", "v"], epsilon=1e-3)],
         s=f32(4), b=f32(4), m=f32(4), v=np.abs(f32(4)), **same)  # fmt: skip
    seed("reshape", [node("Reshape", [X, "s"])], s=np.array([-1, 4]), **same)
    seed("flatten", [node("Flatten", [X], axis=1)], **same)
    seed("squeeze", [node("Unsqueeze", [X, "a"], "u"), node("Squeeze", ["u", "a"])], a=np.array([1]), **same)
    seed("transpose", [node("Transpose", [X], "u", perm=[1, 0]), node("Transpose", ["u"], perm=[1, 0])], **same)
    seed("celu", [node("Celu", [X], alpha=0.5)], **same)
    seed("elu_slope", [node("Elu", [X], alpha=0.5)], **same)
    seed("sum", [node("Sum", [X, "c", X])], c=f32(1, 4), **same)
    seed("constant_of_shape", [
        node("Shape", [X], "s"), node("ConstantOfShape", ["s"], "c", value=numpy_helper.from_array(np.float32([2]))),
        node("Add", [X, "c"])], **same)  # fmt: skip
    seed("slice_by_shape", [
        node("Shape", [X], "s"), node("Gather", ["s", "one"], "w", axis=0), node("Sub", ["w", "one"], "e"),
        node("Slice", [X, "zero", "e", "one"])], zero=np.array([0]), one=np.array([1]))  # fmt: skip
    seed("gather_nd", [node("Transpose", [X], "u", perm=[1, 0]), node("GatherND", ["u", "p"], "v"),
         node("Transpose", ["v"], perm=[1, 0])], p=np.array([[3], [1], [0]]))  # fmt: skip
    four = {"offset": [1.0, 2.0, 3.0, 4.0], "scale": [0.5, 1.0, 2.0, 4.0]}
    seed("scaler", [node("Scaler", [X], domain="ai.onnx.ml", **four)], **same)
    seed("features", [node("ArrayFeatureExtractor", [X, "p"], domain="ai.onnx.ml")], p=np.array([3, 1, 0]))
    seed("gelu_by_hand", [
        node("Div", [X, "r"], "a"), node("Erf", ["a"], "e"), node("Add", ["e", "one"], "f"), node("Mul", [X, "f"], "g"),
        node("Mul", ["g", "half"])],
        r=np.float32(2**0.5), one=np.float32(1), half=np.float32(0.5), **same)  # fmt: skip
    seed("gelu_tanh_by_hand", [
        node("Pow", [X, "three"], "a"), node("Mul", ["a", "c"], "b"), node("Add", [X, "b"], "d"),
        node("Mul", ["d", "r"], "e"), node("Tanh", ["e"], "f"), node("Add", ["f", "one"], "g"),
        node("Mul", [X, "g"], "h"), node("Mul", ["h", "half"])],
        three=np.float32(3), c=np.float32(0.044715), r=np.float32((2 / np.pi) ** 0.5),
        one=np.float32(1), half=np.float32(0.5), **same)  # fmt: skip
    seed("mish_by_hand", [node("Softplus", [X], "a"), node("Tanh", ["a"], "b"), node("Mul", [X, "b"])], **same)
    seed("hardswish_by_hand", [
        node("Add", [X, "c"], "a"), node("Clip", ["a", "zero", "six"], "b"), node("Mul", [X, "b"], "d"),
        node("Div", ["d", "six"])], c=np.float32(3), zero=np.float32(0), six=np.float32(6), **same)  # fmt: skip
    seed("softmax", [node("Softmax", [X], axis=-1)], **same)
    seed("dropout", [node("Dropout", [X])], **same)
    print(sum(p.stat().st_size for p in FOLDER.glob("*")), "bytes in", len(list(FOLDER.glob("*"))), "files")


if __name__ == "__main__":
    main()
