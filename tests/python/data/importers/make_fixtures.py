"""Write the Keras models of this folder: the files that tf2onnx and Keras' own exporter make of small networks.

TensorFlow is far too large for the test environment, so its exports are stored; those of PyTorch and scikit-learn
are made by the tests themselves (``test_importers.py``). To write the files again::

    python3 -m venv /tmp/keras && /tmp/keras/bin/pip install tensorflow tf2onnx onnxruntime
    /tmp/keras/bin/python tests/python/data/importers/make_fixtures.py

``<network>.<exporter>.onnx``
    The exporter is ``tf2onnx13`` (``tf2onnx.convert.from_keras``, operator set 13), ``tf2onnx18``, or
    ``keras`` (``model.export(format="onnx")``, which takes tf2onnx and its own choice of operator set).
``checks.npz``
    ``x`` [50, 4], the inputs of every check; ``<network>/keras`` [50, 3], Keras' own prediction;
    ``<network>.<exporter>/onnxruntime`` [50, 3], ONNX Runtime's result; absent where ONNX Runtime refuses the file.
``versions.json``
    The versions that wrote the files.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow
import tf2onnx

HERE = Path(__file__).parent
layers = keras.layers
ACTIVATIONS = [
    "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "tanh", "sigmoid", "softplus", "hard_sigmoid", "hard_silu",
    "mish", "softsign", "relu6", "log_sigmoid",
]  # fmt: skip
EXPORTERS = ("tf2onnx13", "tf2onnx18", "keras")


def dense(activation) -> keras.Model:
    x = layers.Input((4,))
    return keras.Model(x, layers.Dense(3)(layers.Dense(20, activation=activation)(x)))


def gelu_tanh() -> keras.Model:
    return dense(lambda x: keras.activations.gelu(x, approximate=True))


def batch_normalized() -> keras.Model:
    x = layers.Input((4,))
    normalise = layers.Normalization()
    normalise.adapt(np.array([[0.5, 1.0, -1.0, 2.0], [1.5, 4.0, 1.0, 2.5], [-1.0, 2.0, 0.0, -2.0]]))
    h = normalise(x)
    h = layers.ReLU()(layers.BatchNormalization()(layers.Dense(20, use_bias=False)(h)))
    return keras.Model(x, layers.Rescaling(2.0, 1.0)(layers.Dense(3)(layers.Dropout(0.1)(h))))


def residual() -> keras.Model:
    x = layers.Input((4,))
    h = layers.Dense(16, activation="relu")(x)
    h = layers.Add()([h, layers.Dense(16, activation="tanh")(h)])
    h = layers.Add()([h, layers.Dense(16, activation="silu")(h)])
    return keras.Model(x, layers.Dense(3)(h))


def layer_normalized() -> keras.Model:
    x = layers.Input((4,))
    h = layers.LayerNormalization()(layers.Dense(16)(x))
    h = layers.LayerNormalization()(layers.Dense(16, activation="relu")(h))
    return keras.Model(x, layers.Dense(3)(h))


def branched() -> keras.Model:
    """Branches over parts of the input, joined; a parametric ReLU; a gate; reshapes that change nothing."""
    x = layers.Input((4,))
    first = layers.Dense(8, activation="elu")(x[:, :2])
    second = layers.Dense(8, activation="tanh")(x[:, 1:])
    h = layers.Concatenate()([first, x, second])
    h = layers.PReLU()(layers.LeakyReLU()(h))
    g = layers.Multiply()([layers.Dense(8)(h), layers.Dense(8, activation="sigmoid")(h)])
    g = layers.Reshape((8,))(layers.Flatten()(g))
    return keras.Model(x, layers.Dense(3)(layers.Subtract()([g, first])))


NETWORKS = {name: (lambda name=name: dense(name)) for name in ACTIVATIONS} | {
    "gelu_tanh": gelu_tanh,
    "batch_normalized": batch_normalized,
    "residual": residual,
    "layer_normalized": layer_normalized,
    "branched": branched,
}


def randomise(model: keras.Model, rng: np.random.Generator) -> None:
    """Every weight a random number: exporters drop what is 0 or 1, as weights before training are."""
    for weight in model.weights:
        if "normalization" in weight.path and weight.path.endswith(("mean", "variance", "count")):
            if "batch" not in weight.path:
                continue  # what Normalization has adapted to
            low, high = (0.5, 2.0) if weight.path.endswith("variance") else (-0.5, 0.5)
            weight.assign(rng.uniform(low, high, weight.shape))
        elif len(weight.shape) == 2:
            weight.assign(rng.normal(0, 1.5 / np.sqrt(weight.shape[0]), weight.shape))
        else:
            weight.assign(rng.uniform(0.1, 0.9, weight.shape))


def export(model: keras.Model, exporter: str) -> onnx.ModelProto:
    if exporter == "keras":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.onnx"
            model.export(path, format="onnx", verbose=False)
            return onnx.load(path)
    proto, _ = tf2onnx.convert.from_keras(model, opset=int(exporter.removeprefix("tf2onnx")))
    return proto


def main() -> None:
    rng = np.random.default_rng(20260)
    checks = {"x": rng.uniform(-2, 2, (50, 4)).astype(np.float32)}
    for name, make in NETWORKS.items():
        keras.utils.clear_session()
        model = make()
        randomise(model, rng)
        checks[f"{name}/keras"] = np.asarray(model(checks["x"], training=False))
        # the exporters differ in operator set; where that changes nothing, one file is enough
        for exporter in EXPORTERS if name not in ACTIVATIONS else ("tf2onnx18",):
            if (name, exporter) == ("batch_normalized", "keras"):
                continue  # Keras' own export makes graph inputs of what Normalization holds: nothing can run that
            content = export(model, exporter).SerializeToString()
            (HERE / f"{name}.{exporter}.onnx").write_bytes(content)
            try:
                session = onnxruntime.InferenceSession(content)
            except onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph as error:
                print(f"{name}.{exporter}: ONNX Runtime refuses it: {error}")
                continue
            (result,) = session.run(None, {session.get_inputs()[0].name: checks["x"]})
            checks[f"{name}.{exporter}/onnxruntime"] = result
            print(f"{name}.{exporter}: {len(content)} bytes")
    np.savez_compressed(HERE / "checks.npz", **checks)
    versions = {m.__name__: m.__version__ for m in (keras, np, onnx, onnxruntime, tensorflow, tf2onnx)}
    text = json.dumps({"python": platform.python_version(), **versions}, indent=2)
    (HERE / "versions.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
