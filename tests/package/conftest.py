"""What a host gets: an installation with everything in it, a model with names, units and ranges, and its results."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.python.onnx_models import emulator_graph, random_net

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def prefix(tmp_path_factory):
    """An installation of everything, by the commands of fortran_bridge/E3SM.md, run in build/recipes."""
    if shutil.which("cmake") is None or shutil.which(os.environ.get("FC", "gfortran")) is None:
        pytest.skip("needs cmake and a Fortran compiler; Debian: apt install cmake gfortran")
    folder, installed = ROOT / "build" / "recipes", tmp_path_factory.mktemp("installed")
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"libemulator_ROOT": str(installed), "CMAKE_BUILD_PARALLEL_LEVEL": "2"}
    commands = re.search(r"```sh\n(.*?)```", (ROOT / "fortran_bridge/E3SM.md").read_text(), re.DOTALL)[1]
    commands = commands.replace("-S libemulator ", f"-S '{ROOT}' ")
    done = subprocess.run(["sh", "-euc", commands], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return installed


@pytest.fixture(scope="session")
def environment(prefix):
    """Variables by which a host finds that installation."""
    return os.environ | {"PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig"), "libemulator_ROOT": str(prefix)}


@pytest.fixture(scope="session")
def described_model(tmp_path_factory):
    """A model of 7 inputs and 2 outputs that says what they are: fields of one column and of several."""
    net = random_net(1, [7, 30, 2], input_transforms=["none", "log", *["log"] * 5])
    numbers = {"input_min": net.low_I, "input_max": net.high_I, "output_min": [-9, -9], "output_max": [9, 9]}
    lines = {
        "schema": ["1"],
        "input_names": ["temperature", "pressure", "wind", "tracer_1", "tracer_2", "tracer_3", "tracer_4"],
        "input_units": ["K", "hPa", "m s-1", "cm-3", "cm-3", "cm-3", "cm-3"],
        "output_names": ["rate_1", "rate_2"],
        "output_units": ["s-1", "s-1"],
    } | {name: [repr(float(value)) for value in values] for name, values in numbers.items()}
    path = tmp_path_factory.mktemp("described") / "model.onnx"
    path.write_bytes(emulator_graph(net, {f"libemulator.{key}": "\n".join(value) for key, value in lines.items()}))
    return path
