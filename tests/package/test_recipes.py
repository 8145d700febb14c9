"""The lines of fortran_bridge/E3SM.md, put into small trees with the mechanism of E3SM's and CESM's builds."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.host import host_fixtures

ROOT = Path(__file__).parents[2]
HOSTS = Path(__file__).parent / "hosts"
PAGE = (ROOT / "fortran_bridge/E3SM.md").read_text()
FC = os.environ.get("FC", "gfortran")
FLANG = shutil.which("flang-new-19")
EDIT = re.compile(
    r"^\*\*`(?P<path>[^`]+)`\*\*, (?P<where>before|after|instead of) `(?P<anchor>[^`]+)`"
    r"(?: \((?P<times>twice|first)\))?:\n```\w+\n(?P<lines>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
EAM = "components/eam/src/physics/cam"

pytestmark = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which(FC) is None,
    reason="needs cmake and a Fortran compiler; Debian: apt install cmake gfortran",
)


def edits(path):
    return [match for match in EDIT.finditer(PAGE) if match["path"] == path]


def apply(text, path):
    """`text`, a file of the host, with the lines that the page has for it."""
    for edit in edits(path):
        lines = text.splitlines(keepends=True)
        places = [i for i, line in enumerate(lines) if edit["anchor"] in line]
        expected = {None: 1, "twice": 2, "first": len(places)}[edit["times"]]
        assert len(places) == expected and places, f"{path}: {edit['anchor']} stands {len(places)} times"
        for i in reversed(places[:1] if edit["times"] == "first" else places):
            if edit["where"] == "instead of":
                lines[i] = edit["lines"]
            else:
                lines.insert(i + (edit["where"] == "after"), edit["lines"])
        text = "".join(lines)
    return text


def apply_to_tree(tree):
    paths = sorted({edit["path"] for edit in EDIT.finditer(PAGE)})
    applied = [path for path in paths if (tree / path).exists()]
    for path in applied:
        (tree / path).write_text(apply((tree / path).read_text(), path))
    return applied


def run(*command, returncode=0, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == returncode, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def code_block(heading, language):
    """The first block of that language under the heading."""
    return re.search(rf"^## {heading}\n.*?^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("activation") / "model.onnx"
    host_fixtures.write_model(path, host_fixtures.make_samples(200))
    return path


def without_libemulator():
    hidden = ("libemulator", "PKG_CONFIG_PATH", "CMAKE_PREFIX_PATH")
    return {key: value for key, value in os.environ.items() if not key.startswith(hidden)}


# ---- E3SM ----


@pytest.fixture(scope="module")
def e3sm(tmp_path_factory, prefix):
    """The tree with the page's lines."""
    tree = tmp_path_factory.mktemp("trees") / "E3SM"
    shutil.copytree(HOSTS / "e3sm", tree)
    assert len(apply_to_tree(tree)) == 7
    shutil.copy(prefix / "share/libemulator/e3sm/libemulator_activation.F90", tree / EAM)
    return tree


def configure(tree, build, options, environment, **more):
    settings = [f"-DCASEROOT={tree / 'case'}", f"-DCAM_CONFIG_OPTS={options}", f"-DCMAKE_Fortran_COMPILER={FC}"]
    return run("cmake", "-S", tree / "components", "-B", build, *settings, env=environment, **more)


def build_e3sm(tree, build, options, environment):
    configure(tree, build, options, environment)
    run("cmake", "--build", build, env=environment)
    return next(build.rglob("e3sm.exe"))


def namelist(folder, **settings):
    group = [f" {key} = '{value}'" for key, value in settings.items()]
    text = ["&libemulator_activation_nl", *group, "/"] if settings else []
    (folder / "atm_in").write_text("\n".join(["&microp_aero_nl", "/", *text, ""]))


@pytest.fixture(scope="module")
def e3sm_on(e3sm, environment):
    return build_e3sm(e3sm, e3sm / "on", "-phys default -libemulator", environment)


def direct(prefix, environment, folder, tree, model):
    """What the drop-in gives for the same states, called from a program of its own."""
    build = folder / "direct"
    build.mkdir()
    flags = run("pkg-config", "--cflags", "--libs", "libemulator-activation", env=environment).split()
    sources = [tree / "components/eam/src/utils/shared.F90", HOSTS / "direct.F90"]
    flags.append(f"-Wl,-rpath,{prefix / 'lib'}")
    run(FC, "-ffree-line-length-none", f"-J{build}", *sources, "-o", build / "direct", *flags)
    return run(build / "direct", model)


def test_e3sm_off_needs_no_libemulator_and_compiles_the_same_text(e3sm, tmp_path):
    program = build_e3sm(e3sm, tmp_path / "off", "-phys default -rrtmgpxx", without_libemulator())
    shutil.copytree(HOSTS / "e3sm", tmp_path / "plain")
    plain = build_e3sm(tmp_path / "plain", tmp_path / "plain/build", "-phys default", without_libemulator())
    for source in (HOSTS / "e3sm").rglob("*.F90"):
        path = source.relative_to(HOSTS / "e3sm")
        compiled = [run(FC, "-E", "-P", "-cpp", "-DHAVE_MPI", tree / path) for tree in (HOSTS / "e3sm", e3sm)]
        assert "".join(compiled[0].split()) == "".join(compiled[1].split()), path
    results = []
    for where, executable in (("a", program), ("b", plain)):
        (tmp_path / where).mkdir()
        namelist(tmp_path / where)
        run(executable, cwd=tmp_path / where)
        results.append((tmp_path / where / "results.txt").read_text())
    assert results[0] == results[1]
    symbols = run("nm", program)
    assert not re.search(r"libemulator|emu_|aerosol_activation", symbols)
    assert not re.search(r"emulator", run("ldd", program))


def test_e3sm_on_gives_the_bits_of_a_direct_call_and_logs_the_checksum(
    e3sm, e3sm_on, prefix, environment, model, tmp_path
):
    namelist(tmp_path, activation_scheme="emulator", activation_emulator_file=model)
    log = run(e3sm_on, cwd=tmp_path)
    results = (tmp_path / "results.txt").read_text()
    assert results == direct(prefix, environment, tmp_path, e3sm, model)
    values = np.array(results.split(), dtype=float)
    assert values.size == 2 * 2 * 4 * 6 * 4
    assert np.isfinite(values).all()
    assert np.ptp(values) > 0.1
    checksum, size = run("cksum", model).split()[:2]
    assert f"{model} cksum {checksum} {size}" in log


@pytest.mark.skipif(FLANG is None, reason="needs flang 19; Debian: apt install flang-19")
def test_e3sm_on_builds_with_a_compiler_that_opens_the_modules_of_modules(e3sm, model, tmp_path, monkeypatch):
    """gfortran writes all that a module's user needs into one file; flang, as Intel's and others, opens them anew."""
    prefix, build, tree = (tmp_path / name for name in ("prefix", "build", "E3SM"))
    options = ["-DLIBEMULATOR_ACTIVATION=ON", "-DLIBEMULATOR_TESTS=OFF", "-DLIBEMULATOR_TOOLS=OFF"]
    options += ["-DBUILD_SHARED_LIBS=OFF", "-DCMAKE_INSTALL_LIBDIR=lib", f"-DCMAKE_Fortran_COMPILER={FLANG}"]
    run("cmake", "-S", ROOT, "-B", build, *options)
    run("cmake", "--build", build, "--parallel", "2")
    run("cmake", "--install", build, "--prefix", prefix)
    shutil.copytree(e3sm, tree, ignore=shutil.ignore_patterns("on"))
    (tree / "case/Macros.cmake").write_text('set(FFLAGS "-O1")\n')
    monkeypatch.setattr("tests.package.test_recipes.FC", FLANG)
    executable = build_e3sm(tree, tree / "on", "-libemulator", os.environ | {"libemulator_ROOT": str(prefix)})
    namelist(tmp_path, activation_scheme="emulator", activation_emulator_file=model)
    checksum, size = run("cksum", model).split()[:2]
    assert f"{model} cksum {checksum} {size}" in run(executable, cwd=tmp_path)
    assert np.isfinite(np.array((tmp_path / "results.txt").read_text().split(), dtype=float)).all()


def test_e3sm_on_without_a_namelist_entry_reads_no_file_and_is_arg(e3sm_on, model, tmp_path):
    results = []
    for settings in ({}, {"activation_scheme": "arg", "activation_emulator_file": "/nowhere.onnx"}):
        namelist(tmp_path, **settings)
        assert "activation: ARG" in run(e3sm_on, cwd=tmp_path)
        results.append((tmp_path / "results.txt").read_text())
    namelist(tmp_path, activation_scheme="emulator", activation_emulator_file=model)
    run(e3sm_on, cwd=tmp_path)
    assert results[0] == results[1] != (tmp_path / "results.txt").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation_scheme": "emulator"}, "activation_emulator_file must name a model"),
        ({"activation_scheme": "network"}, "activation_scheme is 'network'; it must be 'arg' or 'emulator'"),
        ({"activation_scheme": "emulator", "activation_emulator_file": "/nowhere.onnx"}, "/nowhere.onnx: "),
        ({"activation_scheme": "emulator", "activation_emulator_file": "atm_in"}, "activation_emulator_file atm_in: "),
        ({"activation_sceme": "emulator"}, "libemulator_activation_nl in atm_in"),
    ],
)
def test_e3sm_on_ends_the_run_at_the_start_if_the_namelist_or_the_file_is_wrong(e3sm_on, settings, message, tmp_path):
    namelist(tmp_path, **settings)
    said = run(e3sm_on, cwd=tmp_path, returncode=77)
    assert f"ENDRUN: {message}" in said or message in said.partition("ENDRUN: ")[2]
    assert not (tmp_path / "results.txt").read_text()


def test_e3sm_on_without_libemulator_on_the_machine_says_what_is_missing(e3sm, tmp_path):
    said = configure(e3sm, tmp_path, "-libemulator", without_libemulator(), returncode=1)
    assert "find_dep_packages.cmake" in said
    assert '"libemulator"' in said


def test_the_machine_file_has_a_default_and_lets_the_user_override_it():
    (entry,) = edits("cime_config/machines/config_machines.xml")
    element = ElementTree.fromstring(entry["lines"])
    command = re.fullmatch(r"\$SHELL\{(.*)\}", element.text)[1]
    assert element.get("name") == "libemulator_ROOT"
    plain = without_libemulator()
    assert run("sh", "-c", command, env=plain).startswith("/lcrc/")
    assert run("sh", "-c", command, env=plain | {"libemulator_ROOT": "/mine"}) == "/mine\n"


def test_the_namelist_definition_has_what_the_fortran_reads(prefix):
    (definition,) = edits("components/eam/bld/namelist_files/namelist_definition.xml")
    entries = ElementTree.fromstring(f"<all>{definition['lines']}</all>").findall("entry")
    source = (prefix / "share/libemulator/e3sm/libemulator_activation.F90").read_text()
    (group, names) = re.search(r"namelist /(\w+)/ (.*)", source).groups()
    assert [entry.get("id") for entry in entries] == names.split(", ")
    assert {entry.get("group") for entry in entries} == {group}
    for entry in entries:
        length = re.fullmatch(r"char\*(\d+)", entry.get("type"))[1]
        assert re.search(rf"character\(len={length}\), save :: {entry.get('id')}", source)
    schemes = entries[0].get("valid_values").split(",")
    assert all(f"activation_scheme /= '{scheme}'" in source for scheme in schemes)


@pytest.mark.parametrize(
    ("options", "user_nl", "fine"),
    [
        ("-phys default -libemulator", "activation_scheme = 'emulator'", True),
        ("-phys default", "activation_scheme = 'emulator'", False),
        ("-phys default", "nhtfrq = 0", True),
    ],
)
def test_buildnml_refuses_the_emulator_in_a_build_without_it(options, user_nl, fine, tmp_path):
    (edit,) = edits("components/eam/cime_config/buildnml")
    (tmp_path / "user_nl_eam").write_text(user_nl)
    said = []
    names = {
        "caseroot": tmp_path,
        "inst_string": "",
        "cam_config_opts": options,
        "expect": lambda condition, text: None if condition else said.append(text),
    }
    exec(f"if True:\n{edit['lines']}", names)
    assert (said == []) == fine


def test_the_page_has_eighteen_places_in_files_of_the_hosts():
    """What the trees do not have is at least a line of the kind that stands there."""
    found = list(EDIT.finditer(PAGE))
    assert len(found) == 18
    (option,) = edits("components/eam/bld/configure")
    assert re.fullmatch(r' +"libemulator" +=> \\\$opts\{\'libemulator\'\},\n', option["lines"])


def test_create_backend_of_e3sm_has_the_libemulator_backend_if_it_is_asked_for(
    e3sm, environment, described_model, tmp_path
):
    inference = e3sm / "components/emulators/common/src/inference"
    said = {}
    for name, option, variables in (("off", "OFF", without_libemulator()), ("on", "ON", environment)):
        options = [f"-DINFERENCE={inference}", f"-DEMULATOR_ENABLE_LIBEMULATOR={option}"]
        build = tmp_path / name
        run("cmake", "-S", HOSTS / "backend", "-B", build, *options, env=variables)
        run("cmake", "--build", build, env=variables)
        said[name] = run(build / "component", described_model)
    assert "was not built" in said["off"]
    assert said["on"] == f"libemulator {first_output(described_model):.17g}\n"


def first_output(model):
    from emulator.libemulator import LibEmulator

    return LibEmulator(model).infer(np.full((1, 7), 0.5))[0, 0]


# ---- CESM, and a Makefile ----


def test_cime_makefile_builds_without_libemulator_and_with_it(e3sm, prefix, environment, model, tmp_path):
    makefile = "CIME/Tools/Makefile"
    shutil.copytree(HOSTS / "cesm", tmp_path / "cesm")
    assert apply_to_tree(tmp_path / "cesm") == [makefile]
    components = e3sm / "components"
    filepath = f"{components / 'eam/src/utils'} {components / 'eam/src/physics/cam'} {components / 'driver'}\n"
    cases = {
        "off": without_libemulator(),
        "on": without_libemulator() | {"libemulator_ROOT": str(prefix), "USE_LIBEMULATOR": "TRUE"},
    }
    for name, variables in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "Filepath").write_text(filepath)
        namelist(folder, activation_scheme="emulator", activation_emulator_file=model)
        run("make", "-f", tmp_path / "cesm" / makefile, f"FC={FC}", cwd=folder, env=variables)
        run(folder / "cesm.exe", cwd=folder)
    expected = direct(prefix, environment, tmp_path, e3sm, model)
    assert (tmp_path / "on/results.txt").read_text() == expected != (tmp_path / "off/results.txt").read_text()
    assert not re.search(r"emu_|libemulator", run("nm", tmp_path / "off/cesm.exe"))


def test_a_model_with_a_makefile_gets_the_library_by_pkg_config(prefix, described_model, tmp_path):
    shutil.copy(HOSTS / "makefile/model.F90", tmp_path)
    (tmp_path / "Makefile").write_text(code_block("A model with a Makefile", "make"))
    variables = without_libemulator() | {"libemulator_ROOT": str(prefix)}
    run("make", f"FC={FC}", cwd=tmp_path, env=variables)
    assert float(run(tmp_path / "model", described_model, env=without_libemulator())) == first_output(described_model)
