"""A host builds against the installed library and against its source tree, from C and Fortran, shared and static."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.python.onnx_models import emulator_graph, random_net

ROOT = Path(__file__).parents[2]
CONSUMER = Path(__file__).parent / "consumer"
FORTRAN = shutil.which(os.environ.get("FC", "gfortran"))

pytestmark = [
    pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake; Debian: apt install cmake"),
    pytest.mark.skipif(FORTRAN is None, reason="needs a Fortran compiler; Debian: apt install gfortran"),
]


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=600, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def configure_and_build(source, build, *options):
    run("cmake", "-S", source, "-B", build, *options)
    run("cmake", "--build", build, "--parallel", "2")


@pytest.fixture(scope="module", params=["shared", "static"])
def installed(request, tmp_path_factory):
    """The prefix of an installation, moved after installing: nothing in it may remember where it was."""
    build, first = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix") / "first"
    shared = "ON" if request.param == "shared" else "OFF"
    configure_and_build(ROOT, build, "-DLIBEMULATOR_TESTS=OFF", f"-DBUILD_SHARED_LIBS={shared}")
    run("cmake", "--install", build, "--prefix", first)
    moved = first.with_name(request.param)
    first.rename(moved)
    shutil.rmtree(build)
    return moved


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    path.write_bytes(emulator_graph(random_net(1, [7, 30, 2], input_transforms=["log"] * 7)))
    return path


@pytest.fixture(scope="module")
def expected(model):
    import numpy as np

    from emulator.libemulator import LibEmulator

    return LibEmulator(model).infer(np.full((1, 7), 0.5))[0, 0]


def library_folder(prefix):
    (found,) = [p.parent for p in prefix.glob("lib*/**/libemulator.*") if p.suffix in (".so", ".a")]
    return found


def test_find_package_serves_c_and_fortran(installed, model, expected, tmp_path):
    configure_and_build(CONSUMER, tmp_path, "-DHOW=find", f"-DCMAKE_PREFIX_PATH={installed}")
    assert float(run(tmp_path / "consumer_c", model)) == expected
    assert float(run(tmp_path / "consumer_fortran", model)) == expected


def test_find_package_serves_a_host_without_fortran(installed, model, expected, tmp_path):
    options = ["-DHOW=find", "-DWITH_FORTRAN=OFF", f"-DCMAKE_PREFIX_PATH={installed}"]
    configure_and_build(CONSUMER, tmp_path, *options)
    assert float(run(tmp_path / "consumer_c", model)) == expected


@pytest.mark.parametrize("language", ["c", "fortran"])
def test_pkg_config_serves_c_and_fortran(installed, model, expected, tmp_path, language):
    library = library_folder(installed)
    environment = os.environ | {"PKG_CONFIG_PATH": str(library / "pkgconfig"), "LD_LIBRARY_PATH": str(library)}
    package = "libemulator" if language == "c" else "libemulator-fortran"
    flags = run("pkg-config", "--cflags", "--libs", package, env=environment).split()
    assert run("pkg-config", "--modversion", package, env=environment).strip() == "0.1.0"
    compiler, source = ("cc", "consumer.c") if language == "c" else (FORTRAN, "consumer.f90")
    run(compiler, CONSUMER / source, "-o", tmp_path / "host", *flags)
    assert float(run(tmp_path / "host", model, env=environment)) == expected


@pytest.mark.parametrize("fortran", ["ON", "OFF"])
def test_add_subdirectory_serves_a_host_and_changes_nothing_of_it(model, expected, tmp_path, fortran):
    options = ["-DHOW=subdirectory", f"-DLIBEMULATOR_SOURCE={ROOT}", f"-DWITH_FORTRAN={fortran}"]
    configure_and_build(CONSUMER, tmp_path, *options)
    assert float(run(tmp_path / "consumer_c", model)) == expected
    if fortran == "ON":
        assert float(run(tmp_path / "consumer_fortran", model)) == expected


def test_installed_tools_run_and_installed_files_name_no_build_folder(installed, model):
    assert "7-30-2" in run(installed / "bin" / "emu-info", model)
    assert "ns per sample" in run(installed / "bin" / "emu-bench", "--batch", "3", "--seconds", "0.01", model)
    for wanted in ("include/libemulator.h", "include/libemulator/libemulator.mod",
                   "share/libemulator/fortran/libemulator.F90"):  # fmt: skip
        assert (installed / wanted).is_file()
    for path in installed.rglob("*"):
        if path.suffix in (".cmake", ".pc", ".h"):
            assert "/first" not in path.read_text(), f"{path} names the prefix it was installed to"
            assert str(ROOT) not in path.read_text(), f"{path} names the source tree"


def symbols(path, *options):
    lines = run("nm", "--defined-only", "--extern-only", *options, path).splitlines()
    return {line.split()[-1] for line in lines if len(line.split()) == 3}


def test_every_symbol_starts_with_the_prefix(installed):
    """E3SM ships symbols that start with ``emulator_``; ours must not, nor may anything lack the prefix."""
    folder = library_folder(installed)
    shared = (folder / "libemulator.so").exists()
    found = symbols(folder / "libemulator.so", "-D") if shared else symbols(folder / "libemulator.a")
    assert len(found) >= 30
    assert {s for s in found if not s.startswith("emu_")} == set()
    fortran = symbols(folder / "libemulator_fortran.so", "-D") if shared else symbols(folder / "libemulator_fortran.a")
    assert "__libemulator_MOD_load" in fortran
    assert {s for s in fortran if not s.startswith(("__libemulator", "emu_"))} == set()
