"""Builds, namelists and runs of climate_host, for its tests."""

import json
import os
import shutil
import subprocess
import types

import netCDF4
import numpy as np

from emulator.activation import namelist
from tests.host import host_fixtures as fixtures

STEPS = 12
SETTINGS = {
    "num_columns": 37,  # no layout of the tests divides it
    "num_levels": 6,
    "num_steps": STEPS,
    "model": "../model.onnx",
    "timing": "timing.json",
}


def missing_tools():
    for tool in ("cmake", os.environ.get("FC", "gfortran"), "mpifort", "mpirun"):
        if shutil.which(tool) is None:
            return f"needs {tool}; Debian: apt install cmake gfortran libopenmpi-dev openmpi-bin"
    if shutil.which("nf-config") is None:
        return "needs netCDF-Fortran; Debian: apt install libnetcdff-dev"
    return None


def build(build_type):
    """climate_host, compare_history and the library, built as a user would; their paths."""
    folder = fixtures.REPOSITORY / "build" / f"host-{build_type.lower()}"
    options = [f"-DCMAKE_BUILD_TYPE={build_type}", "-DLIBEMULATOR_EXAMPLES=ON", "-DLIBEMULATOR_TESTS=OFF"]
    targets = ["climate_host", "compare_history"]
    for command in (
        ["cmake", "-S", str(fixtures.REPOSITORY), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "--parallel", "2", "--target", *targets],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    found = folder / "fortran_bridge" / "examples" / "host"
    return types.SimpleNamespace(
        host=found / "climate_host", compare=found / "compare_history", library=found / "libclimate_host.so"
    )


def write_model(path, **changes):
    """A small network in the project's graph. Its training range leaves out the coldest levels: ARG falls in there."""
    samples = fixtures.make_samples(500)
    fixtures.write_model(path, samples, **changes)
    x = fixtures.flat_inputs(samples)
    low, high = x.min(axis=0), x.max(axis=0)
    low[fixtures.COLUMNS.index("tair")] = 268.0
    model = fixtures.onnx.load(str(path))
    for name, values in (("input_min", low), ("input_max", high)):
        model.metadata_props.add(key=f"libemulator.{name}", value="\n".join(map(repr, map(float, values))))
    fixtures.onnx.save(model, str(path))


def write_namelist(path, **settings):
    namelist.write_namelist(path, "climate_nl", {**SETTINGS, **settings})


def run(host, folder, ranks=1, threads=1, environment=None, **settings):
    """Run climate_host in `folder` with the given namelist; the completed process."""
    write_namelist(folder / "climate.nml", **settings)
    variables = {"OMP_NUM_THREADS": str(threads), **{k: str(v) for k, v in (environment or {}).items()}}
    command = ["env", *(f"{name}={value}" for name, value in variables.items()), host]
    if ranks > 1:
        command = ["mpirun", "--oversubscribe", "-n", ranks, *command]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=os.environ | allowed, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip


def fields(path):
    """Variables of a history or restart file by name."""
    with netCDF4.Dataset(path) as dataset:
        return {name: np.array(variable[:]) for name, variable in dataset.variables.items()}


def counters(folder):
    """What the run counted, without times."""
    counted = json.loads((folder / "timing.json").read_text())
    return {name: value for name, value in counted.items() if not name.endswith("_ns")}
