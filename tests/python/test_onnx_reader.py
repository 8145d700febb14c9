"""What the reader of libemulator takes and what it refuses, operator by operator, against ONNX Runtime."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from emulator.libemulator import LibEmulator, ModelFileError
from tests.python.test_libemulator import onnx_runtime

RNG = np.random.default_rng(0)
W0 = RNG.normal(0, 0.5, (4, 6)).astype(np.float32)
B0 = RNG.normal(0, 0.1, 6).astype(np.float32)
W1 = RNG.normal(0, 0.5, (6, 3)).astype(np.float32)
X = RNG.uniform(0.2, 0.9, (50, 4))  # positive, below 1: within the domain of every function


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], name=f"the_{op}_{output}", **attributes)


def model(nodes, constants, *, dtype=TensorProto.FLOAT, n_in=4, n_out=3, opset=17, ir_version=8, extra_inputs=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, ["n", n_in]), *extra_inputs],
        [helper.make_tensor_value_info("y", dtype, ["n", n_out])],
        [c if isinstance(c, TensorProto) else numpy_helper.from_array(np.asarray(v), k) for k, (c, v) in constants],
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    return built.SerializeToString()


def named(**constants):
    return [(k, (None, v)) for k, v in constants.items()]


def between(nodes, **constants):
    """x -> nodes -> t -> one layer -> y, all float32"""
    return model([*nodes, node("MatMul", ["t", "W"], "y")], named(W=W0[:, :3], **constants))


def row(*values):
    return np.array(values, dtype=np.float32)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("Identity", ["x"], "t")], {}),
        ([node("Abs", ["x"], "t")], {}),
        ([node("Neg", ["x"], "t")], {}),
        ([node("Exp", ["x"], "t")], {}),
        ([node("Log", ["x"], "t")], {}),
        ([node("Sqrt", ["x"], "t")], {}),
        ([node("Reciprocal", ["x"], "t")], {}),
        ([node("Relu", ["x"], "t")], {}),
        ([node("Sigmoid", ["x"], "t")], {}),
        ([node("Tanh", ["x"], "t")], {}),
        ([node("Pow", ["x", "c"], "t")], {"c": np.float32(2)}),
        ([node("Pow", ["x", "c"], "t")], {"c": np.float32(0.5)}),
        ([node("Pow", ["x", "c"], "t")], {"c": np.int64(2)}),
        ([node("Add", ["x", "c"], "t")], {"c": row(1, 2, 3, 4)}),
        ([node("Add", ["c", "x"], "t")], {"c": row(1, 2, 3, 4)[None]}),
        ([node("Sub", ["x", "c"], "t")], {"c": np.float32(0.3)}),
        ([node("Sub", ["c", "x"], "t")], {"c": row(0.3)}),
        ([node("Mul", ["x", "c"], "t")], {"c": row(1, -2, 3, 0.5)}),
        ([node("Div", ["x", "c"], "t")], {"c": row(1, -2, 3, 0.5)}),
        ([node("Div", ["c", "x"], "t")], {"c": row(1, -2, 3, 0.5)}),
        ([node("Min", ["x", "c"], "t")], {"c": row(0.3, 0.4, 0.5, 0.6)}),
        ([node("Max", ["c", "x"], "t")], {"c": row(0.3, 0.4, 0.5, 0.6)}),
        ([node("Clip", ["x", "a", "b"], "t")], {"a": np.float32(0.4), "b": np.float32(0.6)}),
        ([node("Clip", ["x", "", "b"], "t")], {"b": np.float32(0.6)}),
        ([node("Mul", ["x", "x"], "t")], {}),
        ([node("Add", ["x", "x"], "t")], {}),
        ([node("Pow", ["x", "c"], "t")], {"c": np.float32(3)}),
        ([node("Pow", ["x", "c"], "t")], {"c": np.float32(4)}),
        ([node("Pow", ["x", "c"], "t")], {"c": np.float32(-1)}),
        ([node("Pow", ["x", "c"], "t")], {"c": np.float32(-0.5)}),
        ([node("Erf", ["x"], "t")], {}),
        ([node("Softplus", ["x"], "t")], {}),
        ([node("Softsign", ["x"], "t")], {}),
        ([node("HardSwish", ["x"], "t")], {}),
        ([node("HardSigmoid", ["x"], "t")], {}),
        ([node("HardSigmoid", ["x"], "t", alpha=0.7, beta=0.1)], {}),
        ([node("Sub", ["x", "c"], "d"), node("LeakyRelu", ["d"], "t")], {"c": np.float32(0.5)}),
        ([node("Sub", ["x", "c"], "d"), node("PRelu", ["d", "a"], "t")], {"c": np.float32(0.5), "a": row(1, -2, 3, 0)}),
        ([node("Sub", ["x", "c"], "d"), node("Elu", ["d"], "t", alpha=0.3)], {"c": np.float32(0.5)}),
        ([node("Sub", ["x", "c"], "d"), node("Celu", ["d"], "t", alpha=0.3)], {"c": np.float32(0.5)}),
        ([node("Sub", ["x", "c"], "d"), node("Selu", ["d"], "t")], {"c": np.float32(0.5)}),
        ([node("Sub", ["x", "c"], "d"), node("Selu", ["d"], "t", alpha=2.0, gamma=0.5)], {"c": np.float32(0.5)}),
        # two results: x and something made of it, or of other columns
        ([node("Exp", ["x"], "e"), node("Add", ["x", "e"], "t")], {}),
        ([node("Exp", ["x"], "e"), node("Sub", ["e", "x"], "t")], {}),
        ([node("Log", ["x"], "e"), node("Mul", ["e", "x"], "t")], {}),
        ([node("Exp", ["x"], "e"), node("Div", ["x", "e"], "t")], {}),
        ([node("Exp", ["x"], "e"), node("Sum", ["x", "e", "c", "x"], "t")], {"c": np.float32(0.5)}),
        ([node("Gather", ["x", "i"], "g", axis=1), node("Mul", ["x", "g"], "t")], {"i": np.array([3, 2, 1, 0])}),
        ([node("Gather", ["x", "i"], "g", axis=1), node("Div", ["x", "g"], "t")], {"i": np.array([-1])}),
        ([node("ReduceMean", ["x"], "g", axes=[1]), node("Div", ["x", "g"], "t")], {}),
        ([node("ReduceMean", ["x"], "g", axes=[-1]), node("Mul", ["g", "c"], "t")], {"c": row(1, 2, 3, 4)}),
        # columns taken and joined
        ([node("Gather", ["x", "i"], "t", axis=1)], {"i": np.array([2, 0, 0, -1])}),
        ([node("Gather", ["x", "i"], "g", axis=-1), node("Concat", ["g", "x"], "h", axis=1),
          node("Slice", ["h", "one", "five", "one"], "t")],
         {"i": np.array([2]), "one": np.array([1]), "five": np.array([5])}),
        ([node("Slice", ["x", "a", "b", "c", "d"], "t")],
         {"a": np.array([0, -1]), "b": np.array([2**31 - 1, -100]), "c": np.array([0, 1]), "d": np.array([1, -1])}),
        ([node("Exp", ["x"], "e"), node("Concat", ["e", "x"], "h", axis=-1),
          node("Slice", ["h", "a", "b", "c", "d"], "t")],
         {"a": np.array([-1]), "b": np.array([0]), "c": np.array([-1]), "d": np.array([-2])}),
        ([node("Split", ["x", "s"], "p", axis=1), node("Concat", ["p", "x", "p"], "h", axis=1),
          node("Gather", ["h", "i"], "t", axis=1)], {"s": np.array([4]), "i": np.array([11, 1, 6, 3])}),
        # shapes that change nothing
        ([node("Reshape", ["x", "s"], "t")], {"s": np.array([-1, 4])}),
        ([node("Reshape", ["x", "s"], "t")], {"s": np.array([0, -1])}),
        ([node("Reshape", ["x", "s"], "u"), node("Reshape", ["u", "r"], "t")],
         {"s": np.array([-1, 1, 4]), "r": np.array([0, 4])}),
        ([node("Shape", ["x"], "s"), node("Reshape", ["x", "s"], "t")], {}),
        ([node("Unsqueeze", ["x", "one"], "u"), node("Exp", ["u"], "e"), node("Squeeze", ["e", "one"], "t")],
         {"one": np.array([1])}),
        ([node("Flatten", ["x"], "t")], {}),
        ([node("Dropout", ["x"], "t")], {}),
        ([node("Transpose", ["x"], "u", perm=[1, 0]), node("Gather", ["u", "i"], "v", axis=0),
          node("Transpose", ["v"], "t", perm=[1, 0])], {"i": np.array([3, 1, 2, 2])}),
        ([node("Shape", ["x"], "s"), node("ConstantOfShape", ["s"], "one"), node("Add", ["x", "one"], "t")], {}),
        ([helper.make_node("Constant", [], ["i"], value_ints=[3, 0, 1, 2]),
          node("Gather", ["x", "i"], "t", axis=1)], {}),
        # normalisations
        ([node("BatchNormalization", ["x", "a", "b", "m", "v"], "t", epsilon=0.1)],
         {"a": row(1, 2, -3, 4), "b": row(4, 3, 2, 1), "m": row(0.1, 0.2, 0.3, 0.4), "v": row(1, 2, 3, 4)}),
        ([node("LayerNormalization", ["x", "a"], "t", epsilon=0.1)], {"a": row(1, 2, -3, 4)}),
        ([node("LayerNormalization", ["x", "a", "b"], "t", axis=1)], {"a": row(1, 2, -3, 4), "b": row(4, 3, 2, 1)}),
        (
            [node("Less", ["x", "c"], "m"), node("Where", ["m", "c", "x"], "t")],
            {"c": row(0.3, 0.4, 0.5, 0.6)},
        ),
        (
            [node("Greater", ["c", "x"], "m"), node("Where", ["m", "c", "x"], "t")],
            {"c": row(0.3, 0.4, 0.5, 0.6)},
        ),
        (
            [node("Log", ["x"], "l"), node("Where", ["m", "l", "x"], "t")],
            {"m": np.array([True, False, False, True])},
        ),
        (
            [node("Exp", ["c"], "e"), node("Mul", ["x", "e"], "t")],  # constants are folded
            {"c": row(0.3, 0.4, 0.5, 0.6)},
        ),
        (
            [
                helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(row(1, 2, 3, 4))),
                node("Mul", ["x", "c"], "t"),
            ],
            {},
        ),
        ([helper.make_node("Constant", [], ["c"], value_float=0.25), node("Sub", ["x", "c"], "t")], {}),
        ([helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2, 3, 4]), node("Mul", ["x", "c"], "t")], {}),
        (
            [node("Cast", ["x"], "d", to=TensorProto.DOUBLE), node("Exp", ["d"], "e"),
             node("Cast", ["e"], "f", to=TensorProto.FLOAT), node("Sub", ["f", "c"], "t")],
            {"c": np.float32(1.25)},
        ),
    ],
)  # fmt: skip
def test_elementwise_operators_equal_onnx_runtime(nodes, constants):
    content = between(nodes, **constants)
    x = X.astype(np.float32)
    # ONNX Runtime evaluates these in float32, libemulator in float64: a few float32 roundings of numbers below 10
    np.testing.assert_allclose(LibEmulator(content).infer(x), onnx_runtime(content, x), rtol=0, atol=4e-6)


def test_the_same_operators_work_between_and_after_layers():
    nodes = [
        node("Gemm", ["x", "W0", "b0"], "s"),
        node("Mul", ["s", "scale"], "s1"),  # as batch normalisation, folded
        node("Add", ["s1", "shift"], "s2"),
        node("Tanh", ["s2"], "h"),
        node("MatMul", ["h", "W1"], "z"),
        node("Add", ["b1", "z"], "z1"),
        node("Sigmoid", ["z1"], "z2"),
        node("Sub", ["z2", "half"], "z3"),
        node("Abs", ["z3"], "y"),
    ]
    content = model(
        nodes,
        named(W0=W0, b0=B0, scale=RNG.normal(1, 0.1, 6).astype(np.float32), shift=B0, W1=W1, b1=row(0.1, 0.2, 0.3),
              half=np.float32(0.5)),
    )  # fmt: skip
    x = X.astype(np.float32)
    ours = LibEmulator(content)
    assert ours.layer_widths == (6, 3)
    assert ours.num_parameters == 4 * 6 + 6 + 6 * 3 + 3
    np.testing.assert_allclose(ours.infer(x), onnx_runtime(content, x), rtol=0, atol=2e-6)


@pytest.mark.parametrize("storage", ["raw", "typed"])
def test_weights_are_read_from_raw_data_and_from_typed_fields(storage):
    def tensor(name, value):
        value = np.asarray(value)
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        raw = storage == "raw"
        return helper.make_tensor(name, kind, value.shape, value.tobytes() if raw else value.ravel().tolist(), raw=raw)

    mask = np.array([True, False, True, False])
    nodes = [
        node("Where", ["mask", "x", "one"], "w"),
        node("Sub", ["w", "mean"], "c"),
        node("Cast", ["c"], "f", to=TensorProto.FLOAT),
        node("Gemm", ["f", "W"], "s", transB=0),
        node("Cast", ["s"], "y", to=TensorProto.DOUBLE),
    ]
    constants = {"mask": mask, "one": np.float64(1), "mean": RNG.normal(size=4), "W": W0[:, :3]}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 3])],
        [tensor(k, v) for k, v in constants.items()],
    )
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    np.testing.assert_allclose(LibEmulator(content).infer(X), onnx_runtime(content, X), rtol=0, atol=1e-6)


def test_initializers_may_also_be_listed_as_inputs():
    content = model(
        [node("MatMul", ["x", "W"], "y")],
        named(W=W0[:, :3]),
        ir_version=3,
        opset=9,
        extra_inputs=[helper.make_tensor_value_info("W", TensorProto.FLOAT, [4, 3])],
    )
    assert LibEmulator(content).num_inputs == 4


LAYER = [node("MatMul", ["x", "W"], "h")]
REFUSED_AS_DAMAGED = re.compile(  # no backend can run these: ONNX forbids them
    "columns arrive|columns$|is not made by any|takes column|splits|have . and . columns"
)


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        ([*LAYER, node("Softmax", ["h"], "y")], {}, r"^node 'the_Softmax_y' \(Softmax\): .*does not evaluate"),
        ([*LAYER, node("Conv", ["h", "W"], "y")], {}, r"^node 'the_Conv_y' \(Conv\): .*does not evaluate"),
        ([*LAYER, node("LSTM", ["h", "W", "W"], "y")], {}, r"^node 'the_LSTM_y' \(LSTM\): .*does not evaluate"),
        ([*LAYER, node("Sin", ["h"], "y")], {}, r"'the_Sin_y' \(Sin\)"),
        ([*LAYER, helper.make_node("Sin", ["h"], ["y"])], {}, r"^node 'y' \(Sin\)"),  # without a name
        ([*LAYER, node("Exp", ["h"], "e"), node("Max", ["h", "e"], "y")], {}, "the_Max.*combines two results"),
        ([*LAYER, node("Add", ["h", "x"], "y")], {}, "3 and 4 columns"),
        ([node("MatMul", ["x", "x2"], "y")], {"x2": np.zeros((2, 4, 3), np.float32)}, "two dimensions"),
        ([node("MatMul", ["x", "x"], "y")], {}, "weights 'x' must be a constant"),
        ([node("MatMul", ["x", "Z"], "y")], {"Z": np.zeros((4, 3), np.int64)}, "'Z'.*data type 7"),
        ([node("MatMul", ["x", "H"], "y")], {"H": np.zeros((4, 3), np.float16)}, "'H'.*data type 10"),
        ([node("MatMul", ["x", "V"], "y")], {"V": np.zeros((5, 3), np.float32)}, "'V' take 5 inputs, but 4 columns"),
        ([node("Gemm", ["x", "W"], "y", transA=1)], {}, "transA"),
        ([node("Gemm", ["x", "W", "b"], "y")], {"b": np.zeros(2, np.float32)}, "bias 'b'.*3 values"),
        ([*LAYER, node("Add", ["h", "b"], "y")], {"b": np.zeros(2, np.float32)}, "3 and 2 columns"),
        ([*LAYER, node("Pow", ["h", "p"], "y")], {"p": np.float32(2.5)}, "power 2.5"),
        ([*LAYER, node("Cast", ["h"], "y", to=TensorProto.FLOAT16)], {}, "data type 10"),
        (
            [*LAYER, node("Less", ["h", "c"], "m"), node("Where", ["m", "h", "c"], "y")],
            {"c": np.float32(0)},
            "Where.*another way than a limit",  # NaN would become c
        ),
        ([*LAYER, node("Clip", ["h", "c"], "y")], {"c": np.zeros(3, np.float32)}, "its min is not one constant"),
        ([node("Relu", ["x"], "y")], {}, "no layer"),
        ([node("Relu", ["nothing"], "y")], {}, "'nothing' is not made by any node before it"),
        ([node("MatMul", ["x", "W"], "x")], {}, "defines 'x' twice"),
        ([*LAYER], {}, "no node makes the graph output 'y'"),
        (
            [*LAYER, helper.make_node("Relu", ["h"], ["y"], name="mine", domain="my.domain")],
            {},
            r"'mine' \(Relu\).*does not evaluate",
        ),
        ([*LAYER, node("Relu", ["h"], "y", axis=1), node("Relu", ["h"], "y")], {}, "defines 'y' twice"),
        ([*LAYER, node("Reshape", ["h", "s"], "y")], {"s": np.array([-1, 9])}, "the_Reshape.*changes the shape"),
        ([*LAYER, node("Reshape", ["h", "s"], "y")], {"s": np.array([50, 3])}, "changes the shape"),
        ([*LAYER, node("Reshape", ["h", "h"], "y")], {}, "'h' must be constant whole numbers"),
        (
            [*LAYER, node("Reshape", ["h", "s"], "r"), node("Exp", ["r"], "y")],
            {"s": np.array([-1, 1])},  # good for an output only
            "the_Exp_y.*one column of all outputs",
        ),
        ([*LAYER, node("Flatten", ["h"], "y", axis=0)], {}, "changes the shape"),
        ([*LAYER, node("Squeeze", ["h"], "y")], {}, "names no axes"),
        ([*LAYER, node("Squeeze", ["h", "s"], "y")], {"s": np.array([1])}, "changes the shape"),
        ([*LAYER, node("Unsqueeze", ["h", "s"], "y")], {"s": np.array([0])}, "changes the shape"),
        ([*LAYER, node("Transpose", ["h"], "t"), node("Exp", ["t"], "y")], {}, "uses the transposed tensor 't'"),
        ([*LAYER, node("Transpose", ["h"], "y")], {}, "graph output 'y' does not have the shape"),
        ([*LAYER, node("Concat", ["h", "x"], "y", axis=0)], {}, "works along axis 0"),
        ([*LAYER, node("Concat", ["h", "W"], "y", axis=1)], {}, "'W' has 2 dimensions"),
        (
            [*LAYER, node("Slice", ["h", "a", "b"], "y")],
            {"a": np.array([1]), "b": np.array([5])},
            "part of the samples",
        ),
        (
            [*LAYER, node("Shape", ["h"], "s"), node("Slice", ["h", "s", "s"], "y")],
            {},
            "the_Slice.*number of samples",
        ),
        ([*LAYER, node("Gather", ["h", "i"], "y", axis=1)], {"i": np.array([3])}, "takes column 3 of 3"),
        ([*LAYER, node("Gather", ["h", "i"], "y")], {"i": np.array([1])}, "works along axis 0"),
        ([*LAYER, node("Split", ["h"], "y", axis=1, split=[2])], {}, "splits"),
        ([*LAYER, node("ReduceMean", ["h"], "y")], {}, "averages over other axes"),
        ([*LAYER, node("ReduceMean", ["h"], "y", axes=[0])], {}, "averages over other axes"),
        ([*LAYER, node("LayerNormalization", ["h", "s"], "y", axis=0)], {"s": row(1, 2, 3)}, "normalises over axis 0"),
        (
            [
                *LAYER,
                helper.make_node("LayerNormalization", ["h", "s"], ["n", "m"], name="ln"),
                node("Sub", ["n", "m"], "y"),
            ],
            {"s": row(1, 2, 3)},
            r"'ln' \(LayerNormalization\): its output 'm' is used",
        ),
        (
            [*LAYER, node("BatchNormalization", ["h", "s", "s", "s", "s"], "y", training_mode=1)],
            {"s": row(1, 2, 3)},
            "training mode",
        ),
        (
            [*LAYER, node("BatchNormalization", ["h", "s", "s", "s", "s"], "y")],
            {"s": row(1, 2)},
            "columns of .ncol, 3.",
        ),
        ([*LAYER, node("BatchNormalization", ["h", "s", "s", "s", "s"], "y")], {"s": row(1, 2, -3)}, "variance of -3"),
        ([*LAYER, node("PRelu", ["h", "s"], "y")], {"s": row(1, 2)}, "constant row of 3"),
        ([*LAYER, node("Celu", ["h"], "y", alpha=-1.0)], {}, "alpha -1"),
        ([*LAYER, node("Gelu", ["h"], "y", approximate="sigmoid")], {}, "another way than by tanh"),
    ],
)
def test_what_is_not_evaluated_is_refused_by_name(nodes, constants, message):
    content = model(nodes, named(W=W0[:, :3], **constants))
    with pytest.raises(ModelFileError, match=message) as caught:
        LibEmulator(content)
    if caught.value.args[0].startswith("node") and REFUSED_AS_DAMAGED.search(caught.value.args[0]) is None:
        assert 'or use the ONNX Runtime backend, which evaluates every operator (backend = "onnxruntime"' in str(
            caught.value
        )


def test_products_with_and_without_their_bias_and_scaled_ones_equal_onnx_runtime():
    nodes = [
        node("MatMul", ["x", "W0"], "p"),  # read by Add and by Abs: the bias stays a separate step
        node("Add", ["p", "b0"], "h"),
        node("Abs", ["p"], "a"),
        node("Sub", ["h", "a"], "d"),
        node("Gemm", ["d", "W1", "b1"], "y", alpha=0.5, beta=3.0),
    ]
    content = model(nodes, named(W0=W0, b0=B0, W1=W1, b1=row(0.1, 0.2, 0.3)))
    x = X.astype(np.float32)
    np.testing.assert_allclose(LibEmulator(content).infer(x), onnx_runtime(content, x), rtol=0, atol=2e-6)


def test_float64_weights_are_rounded_to_float32():
    content = model(
        [node("Cast", ["x"], "d", to=TensorProto.DOUBLE), node("MatMul", ["d", "W0"], "p"),
         node("Add", ["p", "b0"], "h"), node("Tanh", ["h"], "t"), node("Gemm", ["t", "W1"], "y", transB=1)],
        named(W0=RNG.normal(size=(4, 6)), b0=RNG.normal(size=6), W1=RNG.normal(size=(3, 6))),
    )  # fmt: skip
    x = X.astype(np.float32)
    proto = onnx.load_from_string(content)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    content = proto.SerializeToString()
    truth = onnx_runtime(content, x)
    assert truth.dtype == np.float64
    np.testing.assert_allclose(LibEmulator(content).infer(x), truth, rtol=0, atol=2e-6)  # float32 layers


def test_what_nobody_reads_costs_nothing():
    nodes = [node("MatMul", ["x", "W"], "y"), node("MatMul", ["y", "V"], "z"), node("Exp", ["z"], "e")]
    model_ = LibEmulator(model(nodes, named(W=W0[:, :3], V=W0[:3])))
    assert model_.layer_widths == (3,)
    assert model_.num_parameters == 12


def test_graphs_of_another_shape_are_refused():
    def graph(inputs, outputs):
        proto = helper.make_graph(LAYER, "g", inputs, outputs, [numpy_helper.from_array(W0, "W")])
        return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 6])
    other = helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4])
    cases = {
        "several inputs \\('x', 'z'\\)": ([x, other], [y]),
        "2 outputs": ([x], [y, other]),
        "no input": ([], [y]),
        "data type 6": ([helper.make_tensor_value_info("x", TensorProto.INT32, ["n", 4])], [y]),
        "num_inputs is not stated": ([helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "m"])], [y]),
        "it has 3 dimensions": ([helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 4])], [y]),
    }
    assert LibEmulator(graph([x], [y])).num_outputs == 6
    for message, (inputs, outputs) in cases.items():
        with pytest.raises(ModelFileError, match=message):
            LibEmulator(graph(inputs, outputs))


def test_old_operator_sets_and_external_weights_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="operator set 6"):
        LibEmulator(model([node("MatMul", ["x", "W"], "y")], named(W=W0[:, :3]), opset=6))
    big = onnx.load_from_string(model([node("MatMul", ["x", "W"], "y")], named(W=W0[:, :3])))
    onnx.save_model(big, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    with pytest.raises(ModelFileError, match=r"m\.onnx: .*another file"):
        LibEmulator(tmp_path / "m.onnx")


def test_torchs_own_export_of_a_sequential_network_loads(tmp_path):
    import torch

    net = torch.nn.Sequential(
        torch.nn.Linear(4, 20), torch.nn.ReLU(), torch.nn.Linear(20, 70), torch.nn.Tanh(), torch.nn.Linear(70, 3),
        torch.nn.Sigmoid(),
    ).eval()  # fmt: skip
    x = torch.tensor(X, dtype=torch.float32)
    torch.onnx.export(
        net, (x,), tmp_path / "m.onnx", input_names=["x"], dynamic_axes={"x": {0: "n"}}, dynamo=False, opset_version=17
    )
    ours = LibEmulator(tmp_path / "m.onnx").infer(x.numpy())
    np.testing.assert_allclose(ours, net(x).detach().numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", ["h"], "r"), node("Tanh", ["h"], "t"), node("Sub", ["r", "t"], "y")],
        [node("Tanh", ["h"], "t"), node("Sub", ["t", "h"], "y")],
        [node("LeakyRelu", ["h"], "s"), node("LeakyRelu", ["h"], "t", alpha=0.5), node("Sub", ["s", "t"], "y")],
        [node("Split", ["h"], "a b c", axis=1), node("Relu", ["a"], "r"), node("Sigmoid", ["c"], "s"),
         node("Concat", ["s", "b", "r"], "y", axis=1)],
        [node("Relu", ["h"], "r"), node("Neg", ["r"], "n"), node("Exp", ["n"], "e"), node("Sub", ["r", "e"], "y")],
        [node("Sigmoid", ["h"], "s"), node("Add", ["h", "s"], "p"), node("MatMul", ["s", "V"], "v"),
         node("Mul", ["v", "p"], "q"), node("Sub", ["q", "v"], "y")],
    ],
)  # fmt: skip
def test_readers_of_one_layer_may_want_different_activations(nodes):
    for n in nodes:
        outputs = n.output[0].split()
        del n.output[:]
        n.output.extend(outputs)
    content = model(
        [node("Gemm", ["x", "W", "bias"], "h"), *nodes],
        named(W=W0[:, :3] * 2, bias=row(-0.3, 0.1, 0.2), V=W0[:3, :3]),
        opset=13 if nodes[0].op_type != "Split" else 11,
    )
    x = X.astype(np.float32) - 0.5
    np.testing.assert_allclose(LibEmulator(content).infer(x), onnx_runtime(content, x), rtol=0, atol=2e-6)


def test_weights_shared_by_many_layers_may_not_outgrow_the_file():
    wide = np.zeros((60000, 1), np.float32)

    def shared(times):
        nodes = [node("MatMul", ["x", "W"], f"s{i}") for i in range(times)]
        return model([*nodes, node("Sum", [f"s{i}" for i in range(times)], "y")], named(W=wide), n_in=60000, n_out=1)

    assert LibEmulator(shared(50)).num_parameters == 50 * 60000
    with pytest.raises(ModelFileError, match="layers share weights so often that they would take 60000000 numbers"):
        LibEmulator(shared(1000))
