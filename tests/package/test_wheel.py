"""The installed wheel, away from the source tree: it carries its library and tools, and the commands start."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, build_folder):
    """Built where no Fortran compiler can be had."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder]
    command += [f"--config-settings=build-dir={build_folder}", ROOT]
    environment = os.environ | {"FC": "/nowhere/gfortran"}
    subprocess.run(list(map(str, command)), check=True, timeout=600, env=environment)
    (built,) = folder.glob("libemulator-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """Interpreter of a new environment that holds the wheel, and this environment's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
    subprocess.run(list(map(str, command)), check=True, timeout=300)
    # A path named in a .pth file is searched, but its own .pth files (the editable install) are not run.
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python, *arguments, folder):
    return subprocess.run(
        [str(python), *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


def test_the_wheel_holds_the_library_its_header_and_its_tools(wheel):
    files = zipfile.ZipFile(wheel).namelist()
    for wanted in ("emulator/lib/libemulator.so", "emulator/include/libemulator.h", "emu-bench", "emu-info"):
        assert any(wanted in f for f in files), f"{wanted} is not among {files}"
    assert not any(f.startswith(("tests/", "build/")) for f in files)


def test_the_wheel_needs_no_fortran_and_no_particular_python(wheel, build_folder, tmp_path):
    assert "CMAKE_Fortran_COMPILER:" not in (build_folder / "CMakeCache.txt").read_text()
    assert "-py3-none-" in wheel.name
    with zipfile.ZipFile(wheel) as file:
        others = [f for f in file.namelist() if not f.endswith(".py")]
        files = [f for f in others if "fortran" in f.lower() or f.endswith((".mod", ".F90"))]
        library = file.extract("emulator/lib/libemulator.so", tmp_path)
    assert files == []
    said = subprocess.run(["readelf", "--dynamic", library], check=True, capture_output=True, text=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", said))
    assert {name for name in needed if not name.startswith("ld-linux")} == {"libc.so.6", "libm.so.6"}


def test_the_installed_package_finds_its_own_library(python, tmp_path):
    code = "import emulator.libemulator as l; print(l.__file__); print(l.library_path())"
    done = run(python, "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    module, library = map(Path, done.stdout.split())
    assert python.parents[1] in module.parents
    assert python.parents[1] in library.parents


@pytest.mark.parametrize("tool", ["emu-info", "emu-bench"])
def test_the_tools_are_commands_of_the_environment(python, tmp_path, tool):
    done = run(python.parent / tool, "--help", folder=tmp_path)
    assert done.returncode == 0 and f"usage: {tool} " in done.stdout, done.stderr


@pytest.mark.parametrize(
    "module", ["hpo.search", "hpo.report", "emulator.export", "emulator.activation"]
)
def test_each_command_has_help(python, tmp_path, module):
    done = run(python, "-m", module, "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"python -m {module}" in done.stdout


def test_the_baselines_are_registered(python, tmp_path):
    code = "from importlib.metadata import entry_points as e; print([p.value for p in e(group='emulator.baselines')])"
    done = run(python, "-c", code, folder=tmp_path)
    assert "emulator.activation.baselines:baselines" in done.stdout
