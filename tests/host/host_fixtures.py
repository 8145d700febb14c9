"""States, a small model in the project's graph, and runs of activation_host, for the host's tests."""

import itertools
import json
import os
import subprocess
from pathlib import Path

import netCDF4
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from emulator.activation import arg
from emulator.activation.modes import DRY_RADIUS_MAX_UM, DRY_RADIUS_MIN_UM
from emulator.activation.namelist import write_namelist

REPOSITORY = Path(__file__).resolve().parents[2]
PER_MODE = ("num_aer", "r_aer", "kappa")
UNITS = {
    "tair": "K", "pressure": "hPa", "rh": "1", "wbar": "cm s-1", "num_aer": "cm-3", "r_aer": "um", "kappa": "1",
    "fn": "1",
}  # fmt: skip
COLUMNS = ["tair", "pressure", "rh", "wbar", *(f"{name}_{mode}" for name in PER_MODE for mode in (1, 2, 3, 4))]
LOG_COLUMNS = {"wbar", *(f"{name}_{mode}" for name in ("num_aer", "r_aer") for mode in (1, 2, 3, 4))}


def make_samples(num_samples, seed=0):
    """Random states of the case study; fn is ARG's, disturbed, so that errors are known and not zero; mode 3 is 1."""
    rng = np.random.default_rng(seed)

    def log_uniform(low, high, shape):
        return np.exp(rng.uniform(np.log(low), np.log(high), shape))

    shape = (num_samples, 4)
    samples = {
        "tair": rng.uniform(235.0, 305.0, num_samples),
        "pressure": rng.uniform(400.0, 1013.0, num_samples),
        "rh": rng.uniform(0.7, 0.999, num_samples),
        "wbar": log_uniform(5.0, 1000.0, num_samples),
        "num_aer": log_uniform(1.0, 1e4, shape),
        "r_aer": log_uniform(DRY_RADIUS_MIN_UM, DRY_RADIUS_MAX_UM, shape),
        "kappa": rng.uniform(0.0, 1.2, shape),
    }
    fn, _, _ = arg.activate(*(samples[k] for k in ("tair", "pressure", "wbar", "num_aer", "r_aer", "kappa")))
    samples["fn"] = np.clip(fn + rng.normal(0.0, 0.05, shape), 0.0, 1.0)
    samples["fn"][:, 2] = 1.0
    return samples


def write_samples(path, samples, units=None, num_modes=4):
    with netCDF4.Dataset(path, "w") as dataset:
        dataset.createDimension("nsamples", len(samples["tair"]))
        dataset.createDimension("nmodes", num_modes)
        for name, values in samples.items():
            dims = ("nsamples", "nmodes")[: values.ndim]
            variable = dataset.createVariable(name, "f8", dims)
            variable.units = {**UNITS, **(units or {})}[name]
            variable[:] = values[:, :num_modes] if values.ndim == 2 else values


def flat_inputs(samples, columns=COLUMNS):
    """Inputs (n, I) of a model that takes `columns`."""
    flat = {name: samples[name] for name in ("tair", "pressure", "rh", "wbar")}
    flat |= {f"{name}_{mode + 1}": samples[name][:, mode] for name in PER_MODE for mode in range(4)}
    return np.column_stack([flat[name] for name in columns])


def write_model(path, samples, columns=COLUMNS, units=None, outputs=("fn_1", "fn_2", "fn_3", "fn_4"), hidden=(24, 20)):
    """A network of random weights in the graph that emulator.export writes: log, z-score, Gemm, Relu, Sigmoid.

    Weights are drawn per column name, so a model of other column order computes the same function.
    """
    x = flat_inputs(samples, columns)
    is_log = np.array([name in LOG_COLUMNS for name in columns])
    floor = np.where(is_log, x.min(axis=0), -np.inf)
    transformed = np.where(is_log, np.log(np.where(is_log, x, 1.0)), x)
    constants = {
        "floor": floor[None, :],
        "is_log": is_log[None, :],
        "one": np.array([[1.0]]),
        "mean": transformed.mean(axis=0)[None, :],
        "std": transformed.std(axis=0)[None, :],
    }
    nodes = [
        helper.make_node("Less", ["x", "floor"], ["below"], name="below"),
        helper.make_node("Where", ["below", "floor", "x"], ["floored"], name="floored"),
        helper.make_node("Where", ["is_log", "floored", "one"], ["safe"], name="safe"),
        helper.make_node("Log", ["safe"], ["log"], name="log"),
        helper.make_node("Where", ["is_log", "log", "floored"], ["transformed"], name="transformed"),
        helper.make_node("Sub", ["transformed", "mean"], ["centred"], name="centred"),
        helper.make_node("Div", ["centred", "std"], ["z64"], name="z64"),
        helper.make_node("Cast", ["z64"], ["z"], name="z", to=TensorProto.FLOAT),
    ]
    rng = np.random.default_rng(7)
    widths = [len(columns), *hidden, len(outputs)]
    value = "z"
    for k, (fan_in, width) in enumerate(itertools.pairwise(widths)):
        last = k == len(widths) - 2
        shape = (4 if last else width, fan_in if k else len(COLUMNS))  # drawn whole, then picked by name
        weights = rng.normal(0.0, np.sqrt(2.0 / fan_in), shape)
        if k == 0:
            weights = weights[:, [COLUMNS.index(name) for name in columns]]
        if last:
            weights = weights[[int(name[-1]) - 1 for name in outputs]]
        constants[f"w{k}"] = weights.astype(np.float32)
        constants[f"b{k}"] = np.zeros(width, dtype=np.float32)
        nodes.append(helper.make_node("Gemm", [value, f"w{k}", f"b{k}"], [f"a{k}"], name=f"layer_{k}", transB=1))
        nodes.append(helper.make_node("Sigmoid" if last else "Relu", [f"a{k}"], [f"h{k}"], name=f"activation_{k}"))
        value = f"h{k}"
    nodes.append(helper.make_node("Cast", [value], ["y"], name="y", to=TensorProto.DOUBLE))
    graph = helper.make_graph(
        nodes,
        "emulator",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["ncol", len(columns)])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["ncol", len(outputs)])],
        initializer=[numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    column_units = [(units or {}).get(name, UNITS[name.rsplit("_", 1)[0] if name[-1].isdigit() else name])
                    for name in columns]  # fmt: skip
    helper.set_model_props(model, {
        "libemulator.schema": "1",
        "libemulator.input_names": "\n".join(columns),
        "libemulator.input_units": "\n".join(column_units),
        "libemulator.output_names": "\n".join(outputs),
        "libemulator.output_units": "\n".join("1" for _ in outputs),
    })  # fmt: skip
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def run_host(program, folder, threads=1, **settings):
    """Run activation_host in `folder` with the given namelist; completed process, results, fractions by name."""
    settings = {
        "samples": "samples.nc",
        "model": "model.onnx",
        "repeats": 1,
        "fractions": "fractions.nc",
        **settings,
    }
    for name in ("host.json", "fractions.nc"):
        (folder / name).unlink(missing_ok=True)
    write_namelist(folder / "host.nml", "host_nl", settings)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([program], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        return done, None, None
    with netCDF4.Dataset(folder / "fractions.nc") as dataset:
        fractions = {name: np.array(variable[:]) for name, variable in dataset.variables.items()}
    return done, json.loads((folder / "host.json").read_text()), fractions
