"""libemulator.hpp and libemulator_e3sm.hpp, compiled as a C++ host compiles it, against the installed library."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.python.onnx_models import plain_graph, random_net

CPP = Path(__file__).parent / "cpp"
INFERENCE = CPP.parent / "hosts/e3sm/components/emulators/common/src/inference"  # stand-ins of E3SM's headers
STRICT = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-pthread"]
KOKKOS = Path("/usr/include/trilinos/Kokkos_Core.hpp")  # Debian has Kokkos as a part of Trilinos


def flags(environment, what):
    command = ["pkg-config", what, "libemulator"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()


def build(compiler, source, program, environment, *options):
    """Compile one file as it should be, warnings included; skip where the compiler is missing."""
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}; Debian: apt install g++ clang")
    command = [compiler, *STRICT, *options, *flags(environment, "--cflags"), CPP / source, "-o", program]
    return subprocess.run([*map(str, command), *flags(environment, "--libs")], capture_output=True, text=True)


def run(environment, *command):
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("options", [[], ["-fno-exceptions"]], ids=["exceptions", "no-exceptions"])
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_any_array_of_the_host_gives_the_bits_of_the_c_library(
    compiler, options, environment, described_model, tmp_path
):
    done = build(compiler, "header.cpp", tmp_path / "header", environment, *options)
    assert done.returncode == 0, done.stderr
    run(environment, tmp_path / "header", described_model, "nowhere.onnx")


@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_the_backend_for_e3sm_emulators_gives_the_bits_of_the_c_library_and_refuses_what_does_not_fit(
    compiler, environment, described_model, tmp_path
):
    done = build(compiler, "e3sm_backend.cpp", tmp_path / "backend", environment, "-I", INFERENCE)
    assert done.returncode == 0, done.stderr
    run(environment, tmp_path / "backend", described_model)


@pytest.mark.parametrize("space", ["HostSpace", "DeviceSpace"])
def test_a_view_of_device_memory_does_not_compile(space, environment, tmp_path):
    done = build("g++", "device.cpp", tmp_path / "device", environment, f"-DSPACE={space}")
    if space == "HostSpace":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode != 0
        assert "pass a host mirror of this view" in done.stderr


def test_views_of_kokkos_itself_give_the_bits_of_the_c_library(environment, described_model, tmp_path):
    if not KOKKOS.exists():
        pytest.skip("needs Kokkos; Debian: apt install libtrilinos-kokkos-dev")
    page = (CPP.parents[2] / "fortran_bridge/E3SM.md").read_text()
    example = re.search(r"^```cpp\n(libemulator::Model model;\n.*?)^```$", page, re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "page.inc").write_text(example)
    (tmp_path / "small.onnx").write_bytes(plain_graph(random_net(2, [3, 10, 1])))
    kokkos = ["-isystem", KOKKOS.parent, "-I", tmp_path, "-Wl,--no-as-needed", "-ltrilinos_kokkoscore"]
    done = build("g++", "kokkos.cpp", tmp_path / "kokkos", environment, *kokkos)
    assert done.returncode == 0, done.stderr
    run(environment, tmp_path / "kokkos", described_model, tmp_path / "small.onnx")
