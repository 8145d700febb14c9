"""Write the benchmark's models and states into a folder: what every backend is timed on.

    NAME/model.onnx   physical units, float64 in and out, by the toolkit's exporter: native and ONNX Runtime
    NAME/model.pt     the same as TorchScript: LibTorch and FTorch
    NAME/bare.onnx    the float32 layers alone: a peer's best case, where the benchmark normalises for it in C
    NAME/bare.pt      the same as TorchScript
    NAME/network.txt  layer widths and normalisation, read by the benchmark program
    NAME/weights.f32  per layer the weights (outputs, inputs), then the biases, as raw float32
    NAME/reference.f64  outputs of PyTorch in float64, (samples, outputs)
    states.f64        inputs, (samples, inputs)

Axis legend: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from emulator.activation.states import sample_states
from emulator.bundle import Bundle
from emulator.export import write_onnx, write_torchscript
from emulator.mlp import MLPSpec, build_mlp
from emulator.normalise import Normaliser
from emulator.variables import columns_of

NUM_SAMPLES = 16384
SEED = 1
# The models of the issue: L is what a host would take, B what the paper's search found at the large end.
WIDTHS = {
    "L": (16, 64, 64, 32, 4),
    "M": (16, 256, 256, 16, 32, 16, 2048, 4),
    "B": (16, 1024, 512, 256, 1024, 64, 256, 512, 64, 1024, 512, 4),
    "L+log": (16, 64, 64, 32, 4),
}
LOG_VARIABLES = ("wbar", "num_aer", "r_aer")  # 1 + 4 + 4 of the sixteen columns
UNITS = {"tair": "K", "pressure": "hPa", "rh": "1", "wbar": "cm s-1", "num_aer": "cm-3", "r_aer": "um", "kappa": "1"}
MODES = {"num_aer": 4, "r_aer": 4, "kappa": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", default=",".join(WIDTHS), help=f"default: {','.join(WIDTHS)}")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    states = sample_states(NUM_SAMPLES, SEED)
    x_NI = np.column_stack([np.asarray(getattr(states, v), np.float64) for v in UNITS])
    x_NI.tofile(args.folder / "states.f64")
    for name in args.models.split(","):
        write_model(args.folder / name, name, x_NI)


def write_model(folder: Path, name: str, x_NI: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    bundle = make_bundle(name, x_NI)
    write_onnx(bundle, folder / "model.onnx")
    write_torchscript(bundle, folder / "model.pt")
    write_bare_onnx(bundle, folder / "bare.onnx")
    traced = torch.jit.trace(bundle.mlp(), torch.zeros(4, bundle.spec.num_inputs))
    torch.jit.save(traced, str(folder / "bare.pt"))
    bundle.predict(x_NI, torch.float64).tofile(folder / "reference.f64")
    with open(folder / "weights.f32", "wb") as file:
        for k in range(len(bundle.spec.hidden) + 1):
            file.write(bundle.state[f"{2 * k}.weight"].numpy().tobytes())
            file.write(bundle.state[f"{2 * k}.bias"].numpy().tobytes())
    inputs, widths = bundle.inputs, bundle.spec.widths
    lines = [f"{len(widths) - 1}", " ".join(map(str, widths))]
    for k in range(widths[0]):
        is_log = int(inputs.transforms[k] == "log")
        lower = inputs.lower[k] if is_log else 0.0
        lines.append(f"{is_log} {lower:.17g} {inputs.mean[k]:.17g} {inputs.std[k]:.17g}")
    (folder / "network.txt").write_text("\n".join(lines) + "\n")


def make_bundle(name: str, x_NI: np.ndarray) -> Bundle:
    """Network with random weights of trained size: activations neither die nor explode, outputs spread over (0, 1)."""
    input_columns = [c for v, u in UNITS.items() for c in columns_of(v, u, MODES.get(v))]
    output_columns = columns_of("fn", "1", 4)
    transforms = dict.fromkeys(LOG_VARIABLES, "log") if name.endswith("+log") else "none"
    inputs = Normaliser.fit(x_NI, input_columns, transforms)
    widths = WIDTHS[name]
    spec = MLPSpec(num_inputs=widths[0], hidden=widths[1:-1], num_outputs=widths[-1])
    generator = torch.Generator().manual_seed(SEED)
    mlp = build_mlp(spec, generator)
    with torch.no_grad():
        h_NI = torch.from_numpy(inputs.forward(x_NI[:2048]))
        for linear in (m for m in mlp if isinstance(m, torch.nn.Linear)):
            # He et al. (2015): keeps the variance through ReLU
            linear.weight.normal_(0.0, (2.0 / linear.in_features) ** 0.5, generator=generator)
            linear.bias.normal_(0.0, 0.05, generator=generator)
            z_NO = h_NI @ linear.weight.double().T + linear.bias.double()
            if linear is mlp[-2]:  # the last one: logits of mean 0 and standard deviation 1
                scale = 1.0 / z_NO.std(0)
                linear.bias.copy_((linear.bias.double() - z_NO.mean(0)) * scale)
                linear.weight.mul_(scale[:, None].float())
            h_NI = torch.relu(z_NO)
    bundle = Bundle(
        spec=spec,
        state=mlp.state_dict(),
        inputs=inputs,
        outputs=Normaliser.fit(np.array([[0.0] * 4, [1.0] * 4]), output_columns, standardise=False),
        input_columns=tuple(input_columns),
        output_columns=tuple(output_columns),
        provenance={"benchmark": name, "seed": SEED},
    )
    y_NO = bundle.predict(x_NI, torch.float64)
    outputs = Normaliser.fit(y_NO, output_columns, standardise=False)  # the true output ranges
    return Bundle(**(bundle.__dict__ | {"outputs": outputs}))


def write_bare_onnx(bundle: Bundle, path: Path) -> None:
    """The layers without normalisation, float32: input z, output y."""
    nodes, constants, value = [], [], "z"
    last = len(bundle.spec.hidden)
    for k in range(last + 1):
        for kind in ("weight", "bias"):
            constants.append(numpy_helper.from_array(bundle.state[f"{2 * k}.{kind}"].numpy(), f"{kind}_{k}"))
        nodes.append(helper.make_node("Gemm", [value, f"weight_{k}", f"bias_{k}"], [f"linear_{k}"], transB=1))
        value = "y" if k == last else f"layer_{k}"
        nodes.append(helper.make_node("Sigmoid" if k == last else "Relu", [f"linear_{k}"], [value]))
    graph = helper.make_graph(
        nodes,
        "bare",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["ncol", bundle.spec.num_inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["ncol", bundle.spec.num_outputs])],
        initializer=constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


if __name__ == "__main__":
    main()
