"""climate_host passes E3SM's tests: smoke, debug, exact restart, the same bits for any ranks, threads and chunks."""

import hashlib
import itertools
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("onnx", reason="writes the model; pip install onnx")

from tests.host import climate_fixtures as climate
from tests.host import host_fixtures as fixtures

pytestmark = pytest.mark.skipif(climate.missing_tools() is not None, reason=str(climate.missing_tools()))

SCHEMES = ("arg", "emulator")
LAYOUTS = list(itertools.product((1, 2, 4), (1, 2), (1, 7, 16, 128)))  # ranks, threads, pcols
MODES = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def release():
    return climate.build("Release")


@pytest.fixture(scope="module")
def debug():
    """E3SM's debug flags: bounds, traps for invalid, zero and overflow, every real a signalling NaN until it is set."""
    return climate.build("Debug")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with model.onnx; runs have folders of their own in it."""
    folder = tmp_path_factory.mktemp("climate")
    climate.write_model(folder / "model.onnx")
    return folder


@pytest.fixture(scope="module")
def finished(place):
    """Function that gives the folder of a run that went well; each run is made once."""
    made = {}

    def run(programs, **settings):
        key = (str(programs.host), *sorted(settings.items()))
        if key not in made:
            folder = place / f"run-{len(made)}"
            folder.mkdir()
            done = climate.run(programs.host, folder, **settings)
            assert done.returncode == 0, done.stderr
            made[key] = folder
        return made[key]

    return run


def compared(programs, a, b):
    return subprocess.run([programs.compare, a, b], capture_output=True, text=True, check=False)


def assert_identical(programs, a, b, names=("history.nc", "restart.nc")):
    for name in names:
        done = compared(programs, a / name, b / name)
        assert done.returncode == 0, done.stdout + done.stderr


# ---- E3SM's tests ----


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sms_the_run_is_finite_and_sane(release, finished, scheme):
    history = climate.fields(finished(release, scheme=scheme) / "history.nc")
    assert list(history["step"]) == list(range(1, climate.STEPS + 1))
    assert all(np.isfinite(values).all() for values in history.values())
    for name, low, high in (
        ("T", 230, 310), ("Q", 0, 0.03), ("QL", 0, 0.003), ("CLOUD", 0, 1), ("RH", 0, 1), ("W", 0.1, 10),
        *((f"FN_{site}{m}", 0, 1) for site in ("GROW", "BASE") for m in MODES),
        *((f"NUM_{kind}{m}", 0, 1e10) for kind in "AC" for m in MODES),
    ):  # fmt: skip
        assert history[name].min() >= low, name
        assert history[name].max() <= high, name
    for name in ("FN_GROW1", "FN_BASE1"):  # both call sites ran, in part of the points
        assert 0.02 < (history[name] > 0).mean() < 0.9, name
    assert (history["PRECIP"][-1] > 0).any()


@pytest.mark.parametrize("scheme", [*SCHEMES, "both"])
def test_sms_d_the_debug_build_raises_no_trap(debug, finished, scheme):
    finished(debug, scheme=scheme, ranks=2, threads=2, pcols=7)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ers_a_restarted_run_has_the_bits_of_an_unbroken_one(release, finished, scheme):
    whole = finished(release, scheme=scheme)
    first = finished(release, scheme=scheme, num_steps=climate.STEPS // 2)
    second = finished(
        release, scheme=scheme, num_steps=climate.STEPS // 2, restart_in=str(first / "restart.nc")
    )
    assert_identical(release, whole, second)
    steps = climate.fields(second / "history.nc")["step"]
    assert list(steps) == list(range(climate.STEPS // 2 + 1, climate.STEPS + 1))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_erp_a_restart_with_half_the_ranks_and_threads_has_the_same_bits(release, finished, scheme):
    whole = finished(release, scheme=scheme)
    half = climate.STEPS // 2
    first = finished(release, scheme=scheme, num_steps=half, ranks=4, threads=2)
    restart = str(first / "restart.nc")
    second = finished(release, scheme=scheme, num_steps=half, ranks=2, threads=1, restart_in=restart)
    assert_identical(release, whole, second)


@pytest.mark.parametrize(("ranks", "threads", "pcols"), LAYOUTS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_pem_pet_any_ranks_threads_and_chunk_size_give_the_same_bits(release, finished, scheme, ranks, threads, pcols):
    reference = finished(release, scheme=scheme)
    folder = finished(release, scheme=scheme, ranks=ranks, threads=threads, pcols=pcols)
    assert_identical(release, reference, folder)
    assert climate.counters(folder) == climate.counters(reference)


def test_pet_ranks_with_different_numbers_of_threads_give_the_same_bits(release, finished, tmp_path):
    """As on nodes of unequal size: 1 thread on rank 0, 4 on rank 1."""
    host = tmp_path / "host"
    host.write_text(f'#!/bin/sh\nOMP_NUM_THREADS=$((1 + 3 * OMPI_COMM_WORLD_RANK)) exec {release.host} "$@"\n')
    host.chmod(0o755)
    done = climate.run(host, tmp_path, ranks=2, scheme="arg", pcols=16)
    assert done.returncode == 0, done.stderr
    assert_identical(release, finished(release, scheme="arg"), tmp_path)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_rep_the_same_run_twice_has_the_same_bits(release, finished, scheme):
    one = finished(release, scheme=scheme, ranks=2, threads=2)
    again = finished(release, scheme=scheme, ranks=2, threads=2, seed=1)  # the default: another folder, the same run
    assert one != again
    assert_identical(release, one, again)


@pytest.fixture(scope="module")
def broken_library():
    """libemulator whose kernels split sums by the size of the batch."""
    build = fixtures.REPOSITORY / "build" / "host-broken"
    options = ["-DCMAKE_C_FLAGS=-DEMU_BREAK_SAME_BITS=1", "-DLIBEMULATOR_FORTRAN=OFF", "-DLIBEMULATOR_TESTS=OFF"]
    for command in (
        ["cmake", "-S", fixtures.REPOSITORY, "-B", build, *options],
        ["cmake", "--build", build, "--parallel", "2", "--target", "libemulator"],
    ):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "fortran_bridge" / "libemulator.so.0"


def test_a_kernel_that_depends_on_the_batch_makes_pem_fail(release, place, broken_library):
    """Half the ranks, hence other chunks and batches: with such a kernel the files differ, and the tool says so."""
    folders = [place / "broken-4", place / "broken-2"]
    for folder, ranks in zip(folders, (4, 2), strict=True):
        folder.mkdir()
        environment = {"LD_PRELOAD": broken_library}
        done = climate.run(release.host, folder, ranks=ranks, environment=environment, scheme="emulator", pcols=7)
        assert done.returncode == 0, done.stderr
    done = compared(release, *(folder / "history.nc" for folder in folders))
    assert done.returncode == 1
    assert "DIFFERENT" in done.stdout
    assert any(line.split()[:2] == ["FN_BASE1", "RMS"] for line in done.stdout.splitlines())


# ---- schemes ----


@pytest.mark.parametrize("scheme", SCHEMES)
def test_point_by_point_and_batched_calls_give_the_same_bits(release, finished, scheme):
    batched, by_point = (finished(release, scheme=scheme, **s) for s in ({}, {"batching": "point"}))
    assert_identical(release, batched, by_point)
    assert climate.counters(batched) == climate.counters(by_point)


def test_points_outside_the_training_range_fall_back_and_are_counted(release, finished):
    counted = climate.counters(finished(release, scheme="emulator"))
    cold = counted["outside"]["tair"]["low"]
    assert 0 < cold <= counted["fallbacks"] < counted["points"]
    assert counted["emulated"] + counted["fallbacks"] == counted["points"]
    assert climate.counters(finished(release, scheme="arg"))["arg"] == counted_points(release, finished, "arg")


def counted_points(programs, finished, scheme):
    """Points at which the sites called, from the history: mode 3 always activates in part."""
    history = climate.fields(finished(programs, scheme=scheme) / "history.nc")
    return int((history["FN_GROW3"] > 0).sum() + (history["FN_BASE3"] > 0).sum())


@pytest.mark.parametrize("result_of", SCHEMES)
def test_both_gives_the_host_one_schemes_bits_and_writes_the_differences(release, finished, result_of):
    alone = climate.fields(finished(release, scheme=result_of) / "history.nc")
    both = climate.fields(finished(release, scheme="both", result_of=result_of) / "history.nc")
    differences = [f"DFN{m}" for m in MODES]
    for name, values in alone.items():
        if name not in differences:
            np.testing.assert_array_equal(both[name], values, err_msg=name)
        else:
            assert (values == 0).all()
            assert (both[name] != 0).any()


def test_a_reference_scheme_is_timed_and_changes_nothing(release, finished):
    alone = finished(release, scheme="arg")
    timed = finished(release, scheme="arg", reference="emulator")
    assert_identical(release, alone, timed)
    assert '"reference_ns": 0,' not in (timed / "timing.json").read_text()


def test_an_emulator_changes_the_climate_of_arg(release, finished):
    """Else the comparisons above would show nothing about it. Activation feeds back on rain, water and circulation."""
    done = compared(release, *(finished(release, scheme=s) / "restart.nc" for s in SCHEMES))
    assert done.returncode == 1
    differing = {line.split()[0] for line in done.stdout.splitlines() if " RMS " in line}
    assert {"T", "QL", "NUM_A1", "PRECIP", "CIRC_X"} <= differing


# ---- the model's physics ----


def test_the_budgets_of_water_and_aerosol_close(release, finished):
    """What a column holds is what it held, what came, and what rained out."""
    folders = [finished(release, scheme="emulator", num_steps=n, history=" ") for n in (1, climate.STEPS)]
    start, end = (climate.fields(folder / "restart.nc") for folder in folders)
    layer = 500e2 / 9.80616 / climate.SETTINGS["num_levels"]

    def change(*names):
        return sum((end[name] - start[name]) for name in names)

    def closes(stored, came, went, scale):
        # 12 steps of a few dozen roundings each
        np.testing.assert_allclose(stored, came - went, rtol=0, atol=3000 * np.spacing(scale))

    closes(layer * change("Q", "QL").sum(axis=0), change("WATER_SRC"), change("PRECIP"), layer * 0.06)
    for m in MODES:
        for kind in ("NUM", "VOL"):
            held = f"{kind}_A{m}", f"{kind}_C{m}"
            scale = layer * sum(start[name] for name in held).sum(axis=0).max()
            closes(
                layer * change(*held).sum(axis=0), change(f"{kind}_SRC{m}"), change(f"{kind}_WET{m}"), scale
            )  # fmt: skip
            assert (change(f"{kind}_WET{m}") > 0).any()


def test_perturbed_temperatures_grow_apart(release, finished):
    plain = climate.fields(finished(release, scheme="arg") / "history.nc")
    moved = climate.fields(finished(release, scheme="arg", pertlim=1e-14) / "history.nc")
    distance = np.abs(plain["CIRC_X"] - moved["CIRC_X"]).max(axis=1)
    assert 0 < distance[climate.STEPS // 2] < distance[-1] < 1e-6


# ---- start, files, errors ----


def test_rank_0_reads_the_model_and_logs_its_checksum(release, place, tmp_path):
    counter = preloadable(fixtures.REPOSITORY / "tests" / "cluster" / "count_opens.c", tmp_path)
    environment = {"LD_PRELOAD": counter, "COUNTED_FILE": place / "model.onnx", "COUNT_LOG": tmp_path / "opened"}
    settings = {"scheme": "emulator", "model": str(place / "model.onnx"), "num_steps": 1}
    done = climate.run(release.host, tmp_path, ranks=4, environment=environment, **settings)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "opened").read_text().splitlines()) == 1
    assert f"sha256 {hashlib.sha256((place / 'model.onnx').read_bytes()).hexdigest()}" in done.stdout


def preloadable(source, folder):
    target = folder / f"{source.stem}.so"
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-O1", source, "-o", target, "-ldl"]
    subprocess.run(list(map(str, command)), check=True)
    return target


BAD = {
    "scheme": ({"scheme": "agr"}, "scheme = 'agr', expected 'arg', 'emulator', 'both' or 'external'"),
    "pcols": ({"pcols": 0}, "pcols = 0, expected 1 to"),
    "time step": ({"time_step": 0.0}, "expected 1 to 7200 (s)"),
    "model unset": ({"scheme": "emulator", "model": " "}, "model is not set"),
    "grid": ({"num_columns": 10000000, "num_levels": 1000}, "times num_levels is to be at most 2147483647"),
    "unknown": ({"shceme": "arg"}, "it knows num_columns"),
    "no model": ({"scheme": "emulator", "model": "none.onnx"}, "model 'none.onnx' cannot be read"),
    "no restart": ({"restart_in": "none.nc"}, "restart file 'none.nc' cannot be opened"),
    "history": ({"history": "none/h.nc"}, "history file 'none/h.nc' cannot be created"),
    "restart": ({"restart_out": "none/r.nc"}, "restart file 'none/r.nc.part' cannot be written"),
    "external": ({"scheme": "external"}, "no function is given"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_setting_ends_all_ranks_with_one_line(release, tmp_path, what):
    settings, expected = BAD[what]
    done = climate.run(release.host, tmp_path, ranks=2, **settings)
    assert done.returncode == 1, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("climate_host:")]
    assert len(said) == 1
    assert expected in said[0]
    assert "Error termination" not in done.stderr


def test_a_model_in_other_units_is_refused(release, tmp_path):
    climate.write_model(tmp_path / "model.onnx", units={"wbar": "m s-1"})
    done = climate.run(release.host, tmp_path, ranks=2, scheme="emulator", model="model.onnx")
    assert done.returncode == 1
    assert all(word in done.stderr for word in ("model.onnx", "wbar", "m s-1", "cm s-1"))


def test_a_restart_file_of_another_grid_is_refused(release, finished, tmp_path):
    restart = str(finished(release, scheme="arg") / "restart.nc")
    done = climate.run(release.host, tmp_path, scheme="arg", restart_in=restart, num_columns=38)
    assert done.returncode == 1
    assert "has 37 columns, the namelist says num_columns = 38" in done.stderr
    done = climate.run(release.host, tmp_path, scheme="arg", restart_in=restart, time_step=900.0)
    assert "another time_step" in done.stderr


def test_a_run_that_dies_while_writing_keeps_the_restart_file_of_before(release, finished, tmp_path):
    whole = (finished(release, scheme="arg") / "restart.nc").read_bytes()
    (tmp_path / "restart.nc").write_bytes(whole)
    killer = preloadable(fixtures.REPOSITORY / "tests" / "host" / "die_at_open.c", tmp_path)
    environment = {"LD_PRELOAD": killer, "FATAL_FILE": "restart.nc"}
    done = climate.run(release.host, tmp_path, scheme="arg", environment=environment)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "restart.nc.part").exists()
    assert (tmp_path / "restart.nc").read_bytes() == whole


def test_compare_history_names_what_differs(release, finished, tmp_path):
    folder = finished(release, scheme="arg")
    same = compared(release, folder / "restart.nc", folder / "restart.nc")
    assert same.returncode == 0
    assert "seem to be IDENTICAL" in same.stdout
    changed = tmp_path / "restart.nc"
    changed.write_bytes((folder / "restart.nc").read_bytes())
    with climate.netCDF4.Dataset(changed, "a") as dataset:
        dataset["QL"][3, 5] = np.nextafter(dataset["QL"][3, 5], 1.0)
    done = compared(release, folder / "restart.nc", changed)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if " RMS " in line]
    assert line.split()[0] == "QL"
    assert "differing values 1 of 222" in line
    assert compared(release, folder / "restart.nc", tmp_path / "none.nc").returncode == 2


def test_without_mpi_only_the_host_over_samples_is_built(tmp_path):
    options = ["-DLIBEMULATOR_EXAMPLES=ON", "-DLIBEMULATOR_TESTS=OFF", "-DCMAKE_DISABLE_FIND_PACKAGE_MPI=ON"]
    configure = ["cmake", "-S", fixtures.REPOSITORY, "-B", tmp_path, *options]
    subprocess.run(list(map(str, configure)), check=True, capture_output=True)
    list_targets = ["cmake", "--build", tmp_path, "--target", "help"]
    done = subprocess.run(list(map(str, list_targets)), capture_output=True, text=True, check=True)
    targets = {line.removeprefix("... ") for line in done.stdout.splitlines()}
    assert "activation_host" in targets
    assert not {"climate_host", "climate_host_library", "compare_history"} & targets


# ---- the library ----

EXTERNAL = """
import ctypes, sys
import numpy as np
from emulator.activation import arg

double = ctypes.POINTER(ctypes.c_double)
kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, *9 * [double])


@kind
def activation(context, num_points, ld, w, tair, rho, rh, na, volume, hygro, fn, fm):
    def modes(values):
        return np.ctypeslib.as_array(values, (4, ld))[:, :num_points]

    points = [np.ctypeslib.as_array(values, (num_points,)) for values in (w, tair, rho)]
    found = arg.activate_modal(*points, *(modes(values).T for values in (na, volume, hygro)))
    modes(fn)[:], modes(fm)[:] = found[0].T, found[1].T
    return 0


library = ctypes.CDLL(sys.argv[1])
message = ctypes.create_string_buffer(512)
status = library.climate_host_run(b"climate.nml", activation, None, message, ctypes.c_int64(512))
library.climate_host_finish()
sys.exit(message.value.decode() if status else 0)
"""


def test_an_activation_of_another_program_drives_the_host(release, finished, tmp_path):
    """Here Python's ARG, through the library: after two steps the state is that of the host's own to rounding."""
    settings = {"num_steps": 2, "restart_out": " "}
    climate.write_namelist(tmp_path / "climate.nml", scheme="external", **settings)
    script = tmp_path / "external.py"
    script.write_text(EXTERNAL)
    environment = {**climate.os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(fixtures.REPOSITORY)}
    done = subprocess.run(
        [sys.executable, script, release.library], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours = climate.fields(finished(release, scheme="arg", num_steps=2, restart_out=" ") / "history.nc")
    theirs = climate.fields(tmp_path / "history.nc")
    assert (theirs["FN_BASE1"] > 0).any()
    for name, values in ours.items():
        if values.ndim < 3:  # totals of what came and went are small differences of large numbers
            continue
        # two codes of one formula differ by some roundings in fn and fm
        np.testing.assert_allclose(theirs[name], values, rtol=1e-11, atol=1e-13 * np.abs(values).max(), err_msg=name)
