"""What the reader of libemulator takes and what it refuses, operator by operator, against ONNX Runtime."""

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


@pytest.mark.parametrize(
    ("nodes", "constants", "message"),
    [
        (
            [*LAYER, node("Softmax", ["h"], "y")],
            {},
            r"node 'the_Softmax_y' \(Softmax\).*does not evaluate.*Gemm, MatMul",
        ),
        ([*LAYER, node("Erf", ["h"], "y")], {}, "'the_Erf_y' .*ONNX Runtime"),
        ([*LAYER, node("LeakyRelu", ["h"], "y")], {}, "LeakyRelu"),
        ([*LAYER, node("Add", ["h", "h"], "y")], {}, "the_Add.*combines two results"),
        ([*LAYER, node("Relu", ["h"], "r"), node("Add", ["h", "r"], "y")], {}, "combines two results"),
        (
            [*LAYER, node("MatMul", ["h", "V"], "k"), node("MatMul", ["h", "V"], "y")],
            {"V": np.eye(3, dtype=np.float32)},
            "plain chain of layers",
        ),
        ([node("MatMul", ["x", "x2"], "y")], {"x2": np.zeros((2, 4, 3), np.float32)}, "two dimensions"),
        ([node("MatMul", ["x", "D"], "y")], {"D": np.zeros((4, 3))}, "'D'.*data type 11.*float32"),
        ([node("MatMul", ["x", "H"], "y")], {"H": np.zeros((4, 3), np.float16)}, "'H'.*data type 10"),
        ([node("MatMul", ["x", "V"], "y")], {"V": np.zeros((5, 3), np.float32)}, "'V' take 5 inputs, but 4 columns"),
        ([node("Gemm", ["x", "W"], "y", alpha=2.0)], {}, "alpha"),
        ([node("Gemm", ["x", "W"], "y", transA=1)], {}, "transA"),
        ([node("Gemm", ["x", "W", "b"], "y")], {"b": np.zeros(2, np.float32)}, "bias 'b'.*3 values"),
        ([*LAYER, node("Add", ["h", "b"], "y")], {"b": np.zeros(2, np.float32)}, "3 and 2 columns"),
        ([*LAYER, node("Pow", ["h", "p"], "y")], {"p": np.float32(3)}, "power 3"),
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
        (
            [*LAYER, node("Add", ["h", "b"], "h2"), node("Abs", ["h"], "y")],
            {"b": np.zeros(3, np.float32)},
            "both with and without its bias",
        ),
    ],
)
def test_what_is_not_evaluated_is_refused_by_name(nodes, constants, message):
    content = model(nodes, named(W=W0[:, :3], **constants))
    with pytest.raises(ModelFileError, match=message):
        LibEmulator(content)


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
