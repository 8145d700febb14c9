"""A host builds against the installed library and against its source tree, from C and Fortran, shared and static."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
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
    said = run("cmake", "-S", source, "-B", build, *options)
    run("cmake", "--build", build, "--parallel", "2")
    return said


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


def test_the_program_of_the_readme_compiles_as_its_line_says_and_gives_the_models_numbers(
    installed, described_model, tmp_path
):
    from emulator.libemulator import LibEmulator

    readme = (ROOT / "README.md").read_text()
    program, lines = re.search(r"```fortran\n(program host\n.*?)```\n\n((?:    [^\n]*\n)+)", readme, re.DOTALL).groups()
    (tmp_path / "host.f90").write_text(program)
    shutil.copy(described_model, tmp_path / "model.onnx")
    home = tmp_path / "home"
    home.mkdir()
    prefix = home / "libemulator"
    prefix.symlink_to(installed)
    if not (prefix / "lib/pkgconfig").exists():  # lib64, or Debian's lib/x86_64-linux-gnu
        lines = lines.replace("libemulator/lib", str(library_folder(installed).relative_to(installed)))
    run("sh", "-euc", lines.replace("gfortran", FORTRAN), cwd=tmp_path, env=os.environ | {"HOME": str(home)})
    found = [float(word) for word in run(tmp_path / "host", cwd=tmp_path).split()]
    model = LibEmulator(described_model)
    expected = model.infer(model.input_range.mean(axis=0)[None, :])[0]
    assert found == pytest.approx(expected.tolist(), rel=1e-14)  # digits that list-directed output is sure to have


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """What a host would fetch: the sources, as a release's archive has them."""
    path = tmp_path_factory.mktemp("archive") / "libemulator.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        for name in ("CMakeLists.txt", "LICENSE", "cmake", "fortran_bridge"):
            file.add(ROOT / name, f"libemulator/{name}")
    return path


@pytest.mark.parametrize("how", ["subdirectory", "fetch"])
@pytest.mark.parametrize(("fortran", "shared"), [("ON", "ON"), ("ON", "OFF"), ("OFF", None)])
def test_the_source_tree_serves_a_host_and_changes_nothing_of_it(
    archive, model, expected, tmp_path, how, fortran, shared
):
    options = [f"-DHOW={how}", f"-DLIBEMULATOR_SOURCE={ROOT}", f"-DLIBEMULATOR_ARCHIVE={archive}"]
    options += [f"-DWITH_FORTRAN={fortran}"] + ([f"-DBUILD_SHARED_LIBS={shared}"] if shared else [])
    said = configure_and_build(CONSUMER, tmp_path, *options)
    targets = set(re.findall(r"target: (\S+)", said))
    assert targets == {"libemulator"} | ({"libemulator_fortran"} if fortran == "ON" else set())
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


def test_every_symbol_and_module_starts_with_the_prefix(installed):
    """E3SM ships symbols that start with ``emulator_``; ours must not, nor may anything lack the prefix."""
    folder = library_folder(installed)
    shared = (folder / "libemulator.so").exists()
    found = symbols(folder / "libemulator.so", "-D") if shared else symbols(folder / "libemulator.a")
    assert len(found) >= 30
    assert {s for s in found if not s.startswith("emu_")} == set()
    fortran = symbols(folder / "libemulator_fortran.so", "-D") if shared else symbols(folder / "libemulator_fortran.a")
    mangled = ("__libemulator", "_QMlibemulator", "_QC", "emu_")  # gfortran; flang, constants too
    assert any("libemulator" in s and "load" in s for s in fortran)
    assert {s for s in fortran if not s.startswith(mangled)} == set()
    modules = {path.stem for path in installed.rglob("*.mod")}
    assert "libemulator" in modules
    assert {m for m in modules if not m.startswith("libemulator")} == set()


def test_the_shared_library_needs_libc_and_libm_only_and_is_small(installed, tmp_path):
    library = library_folder(installed) / "libemulator.so"
    if not library.exists():
        library = library.with_suffix(".a")  # carries no list of what it needs: pkg-config has it
        assert library.exists()
        flags = (library.parent / "pkgconfig" / "libemulator.pc").read_text()
        assert set(re.findall(r"-l(\w+)", flags)) <= {"emulator", "m", "dl"}
        return
    needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", run("readelf", "--dynamic", library)))
    loader = {name for name in needed if name.startswith("ld-linux")}  # every process has it: thread-local storage
    assert needed - loader == {"libc.so.6", "libm.so.6"}
    run("strip", "-o", tmp_path / "stripped.so", library)
    size = (tmp_path / "stripped.so").stat().st_size
    # under 150 KB; sizes come in steps of 4096: pages, for RELRO
    assert size < 150_000, f"{size} bytes"


FPM_MANIFEST = """\
name = "consumer"
[dependencies]
libemulator = {{ path = "{path}" }}
[[executable]]
name = "consumer_fortran"
source-dir = "app"
main = "consumer.f90"
"""


def test_fpm_serves_a_host(model, expected, tmp_path):
    """The C files come without any option of ours, so the instruction sets and the order of sums are theirs."""
    fpm = shutil.which("fpm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if fpm is None:
        pytest.skip("needs fpm: pip install fpm")
    shutil.copytree(ROOT / "fortran_bridge", tmp_path / "libemulator", ignore=shutil.ignore_patterns("build"))
    run(fpm, "build", cwd=tmp_path / "libemulator", env=os.environ | {"FPM_FC": FORTRAN})
    host = tmp_path / "host"
    (host / "app").mkdir(parents=True)
    (host / "fpm.toml").write_text(FPM_MANIFEST.format(path="../libemulator"))
    shutil.copy(CONSUMER / "consumer.f90", host / "app")
    isas = ["portable"] + [isa for isa in ("avx2", "avx512", "neon") if can_run(isa, model)]
    for isa in isas:
        environment = os.environ | {"LIBEMULATOR_ISA": isa, "FPM_FC": FORTRAN}
        said = run(fpm, "run", "consumer_fortran", "--", model, cwd=host, env=environment)
        assert float(said.splitlines()[-1]) == expected, isa


def can_run(isa, model):
    """Does the library built by CMake have this instruction set, on this machine?"""
    code = f"from emulator.libemulator import LibEmulator; LibEmulator({str(model)!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | {"LIBEMULATOR_ISA": isa}, cwd=ROOT, capture_output=True)
    return done.returncode == 0


def test_all_packages_have_the_same_version():
    """CMake, Python and fpm each state it."""
    found = {
        re.search(r"project\(libemulator VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text())[1],
        re.search(r'^version = "(\S+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1],
    }
    for manifest in ("fortran_bridge/fpm.toml", "fortran_bridge/src/fpm.toml"):
        text = (ROOT / manifest).read_text()
        found.add(re.search(r'^version = "(\S+)"', text, re.MULTILINE)[1])
        found.update(re.findall(r"EMU_VERSION=([0-9.]+)", text))
    assert found == {"0.1.0"}
