"""`python -m emulator.activation generate`: contents of the file, interruption, refusals."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import netCDF4
import numpy as np
import pytest

from emulator.activation import blocks, generate, workers
from emulator.activation.parcel import simulate
from emulator.activation.settings import ParcelSettings
from emulator.activation.states import sample_states

ROOT = pathlib.Path(__file__).parents[2]

COARSE = ("--bins", "12,12,12,12", "--rtol", "1e-4")
"""Cheap parcels, for tests of everything but the physics."""


def command(*arguments):
    return [sys.executable, "-m", "emulator.activation", "generate", *map(str, arguments)]


def run(*arguments, timeout=300):
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def contents(path):
    """Everything in a samples file but the time at which it was made."""
    found = {}
    with netCDF4.Dataset(path) as file:
        for group in (file, file.groups["unfinished"]):
            for name, variable in group.variables.items():
                attributes = {key: str(variable.getncattr(key)) for key in variable.ncattrs()}
                found[group.path + name] = (variable.dimensions, attributes, np.asarray(variable[:]).tobytes())
        found["attributes"] = {key: str(file.getncattr(key)) for key in file.ncattrs() if key != "history"}
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """1,000 samples of seed 3 at production settings, made in this process in blocks of 300."""
    path = tmp_path_factory.mktemp("small") / "samples.nc"
    result = generate.generate(path, 1000, seed=3, workers=1, block_size=300)
    assert result.finished == 1000
    return path


def test_file_has_the_names_dimensions_and_units_of_the_paper(small):
    expected = {
        "tair": "K", "pressure": "hPa", "rh": "1", "wbar": "cm s-1", "num_aer": "cm-3", "r_aer": "um", "kappa": "1",
        "fn": "1", "smax": "1", "tair_smax": "K", "sample_index": "1", "sigma_g": "1",
    }  # fmt: skip
    with netCDF4.Dataset(small) as file:
        assert {name: variable.units for name, variable in file.variables.items()} == expected
        for name, variable in file.variables.items():
            modal = name in ("num_aer", "r_aer", "kappa", "fn")
            if name != "sigma_g":
                assert variable.dimensions == (("nsamples", "nmodes") if modal else ("nsamples",)), name
        assert len(file.dimensions["nsamples"]) == 1000
        assert len(file.dimensions["nmodes"]) == 4
        np.testing.assert_array_equal(file["sample_index"][:], np.arange(1000))


def test_inputs_are_exactly_what_was_simulated(small):
    drawn = sample_states(1000, seed=3)
    with netCDF4.Dataset(small) as file:
        for name in ("tair", "pressure", "rh", "wbar", "num_aer", "r_aer", "kappa"):
            np.testing.assert_array_equal(file[name][:], getattr(drawn, name), err_msg=name)
        result = simulate(drawn)
        np.testing.assert_array_equal(file["smax"][:], result.smax)
        np.testing.assert_array_equal(file["fn"][:], result.fn.astype(np.float32))


def test_attributes_say_how_the_file_was_made(small):
    with netCDF4.Dataset(small) as file:
        assert file.seed == 3
        assert (file.num_requested, file.num_finished, file.num_unfinished) == (1000, 1000, 0)
        settings = json.loads(file.settings)
        assert settings["parcel"]["relative_tolerance"] == 2e-6
        assert settings["parcel"]["constants"]["latent_heat"] == 2.25e6 == file.constant_latent_heat
        assert json.loads(file.versions)["numba"] == importlib.metadata.version("numba")
        assert {"Conventions", "title", "source", "sampler", "model_source"} <= set(file.ncattrs())


def test_result_does_not_depend_on_workers_or_block_size(small, tmp_path):
    path = tmp_path / "samples.nc"
    generate.generate(path, 1000, seed=3, workers=2, block_size=128)
    assert contents(path) == contents(small)


def test_result_does_not_depend_on_what_numba_finds_in_its_cache(tmp_path):
    """Compiled in this run or loaded from the cache, by one process or two, after other functions or alone."""
    other_first = "from emulator.activation import kohler; kohler.critical_dry_radius(1e-3, 0.5, 2e-9); "
    generate_it = (
        "import sys; from emulator.activation.generate import generate; "
        "generate(sys.argv[1], 300, seed=3, workers=int(sys.argv[2]), block_size=100)"
    )
    runs = [("a", 1, ""), ("a", 1, ""), ("a", 2, ""), ("b", 2, ""), ("c", 1, other_first)]
    found = []
    for number, (cache, num_workers, before) in enumerate(runs):
        path, cache = tmp_path / f"{number}.nc", tmp_path / cache
        assert cache.exists() == (number in (1, 2)), "the other runs must compile"
        command = [sys.executable, "-c", before + generate_it, str(path), str(num_workers)]
        environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert list(cache.rglob("*.nbc"))
        found.append(contents(path))
    assert all(f == found[0] for f in found[1:])


def test_more_samples_begin_with_the_same_samples(small, tmp_path):
    path = tmp_path / "few.nc"
    generate.generate(path, 200, seed=3, workers=1)
    with netCDF4.Dataset(path) as few, netCDF4.Dataset(small) as many:
        np.testing.assert_array_equal(few["fn"][:], many["fn"][:200])


# Halts the command itself when it has heard of so many blocks; its workers, if any, then end one more each.
HALTED = """
import os, runpy, signal, sys
from emulator.activation import generate
left, advance = [int(sys.argv.pop(1))], generate.Progress.advance
def count(self, samples):
    advance(self, samples)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
generate.Progress.advance = count
runpy.run_module("emulator.activation", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def start_and_halt():
    """Function that starts the command, and returns its process when it has made `count` blocks and halted."""
    started = []

    def start(path, count, arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", HALTED, str(count), "generate", *map(str, arguments), "--out", path],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # as a terminal starts it: a shell's background job, which CI may be, passes an ignored SIGINT on
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        deadline = time.monotonic() + 300
        while state(process.pid) != "T":
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no block within five minutes"
            time.sleep(0.01)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def children(pid):
    """Process ids of all descendants of a process."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found


def state(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def assert_all_end(family):
    """Give the processes a moment to notice the end of their parent."""
    deadline = time.monotonic() + 120
    while any(state(pid) not in "ZX" for pid in family):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.02)


LONG = ("--samples", 20_000, "--seed", 5, "--block-size", 400, *COARSE)  # 50 blocks, about 2 s


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "samples.nc"
    done = run(*LONG, "--workers", 1, "--out", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_killed_run_goes_on_and_ends_with_the_same_file(uninterrupted, start_and_halt, tmp_path, num_workers):
    path = tmp_path / "samples.nc"
    arguments = (*LONG, "--workers", num_workers)
    for count in (3, 14):
        process = start_and_halt(path, count, arguments)
        family = children(process.pid)
        assert len(family) >= (num_workers if num_workers > 1 else 0)
        os.kill(process.pid, signal.SIGKILL)  # the parent only: its workers must notice
        process.wait()
        assert_all_end(family)
        assert not path.exists()
    kept = {part: part.stat().st_mtime_ns for part in (tmp_path / "samples.nc.parts").glob("block-*.npz")}
    assert 17 <= len(kept) < 50
    # A leftover of a crash of the machine: a block cut short.
    damaged, kept = next(iter(kept)), dict(list(kept.items())[1:])
    damaged.write_bytes(damaged.read_bytes()[:1000])

    done = run(*arguments, "--out", path)
    assert done.returncode == 0, done.stderr
    assert f"going on: {len(kept) * 400:,} of 20,000 samples" in done.stderr
    assert contents(path) == contents(uninterrupted)
    assert not path.with_name("samples.nc.parts").exists()


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(start_and_halt, tmp_path):
    path = tmp_path / "samples.nc"
    process = start_and_halt(path, 4, (*LONG, "--workers", 2))
    family = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    assert_all_end(family)


def test_complete_file_is_left_alone(small):
    before = small.stat().st_mtime_ns
    done = run("--samples", 1000, "--seed", 3, "--out", small)
    assert done.returncode == 0
    assert "already complete" in done.stderr
    assert small.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--samples", 1000, "--seed", 4), "seed: 3 there, 4 now"),
        (("--samples", 999, "--seed", 3), "samples: 1000 there, 999 now"),
        (("--samples", 1000, "--seed", 3, "--rtol", "1e-5"), "parcel.relative_tolerance: 2e-06 there, 1e-05 now"),
        (("--samples", 1000, "--seed", 3, "--constants", "e3sm"), "parcel.constants.latent_heat: 2250000.0 there"),
    ],
)
def test_file_of_another_request_is_refused_naming_the_difference(small, arguments, message):
    before = small.stat().st_mtime_ns
    done = run(*arguments, "--out", small)
    assert done.returncode == 1
    assert message in done.stderr
    assert "--overwrite" in done.stderr
    assert small.stat().st_mtime_ns == before


def test_blocks_of_another_request_are_refused_and_overwritten_on_demand(start_and_halt, tmp_path):
    path = tmp_path / "samples.nc"
    process = start_and_halt(path, 2, (*LONG, "--workers", 1))
    process.kill()
    process.wait()
    other = ("--samples", 500, "--seed", 6, *COARSE, "--workers", 1, "--out", path)
    done = run(*other)
    assert done.returncode == 1
    assert "seed: 5 there, 6 now" in done.stderr
    done = run(*other, "--overwrite")
    assert done.returncode == 0, done.stderr
    with netCDF4.Dataset(path) as file:
        assert (file.seed, file.num_finished) == (6, 500)


def test_foreign_file_is_refused(tmp_path):
    path = tmp_path / "samples.nc"
    path.write_text("not a netCDF file")
    done = run("--samples", 10, "--out", path)
    assert done.returncode == 2
    assert "is no netCDF file" in done.stderr
    assert path.read_text() == "not a netCDF file"


def test_two_commands_on_one_file_do_not_mix(start_and_halt, tmp_path):
    path = tmp_path / "samples.nc"
    start_and_halt(path, 1, (*LONG, "--workers", 1))
    done = run(*LONG, "--workers", 1, "--out", path)
    assert done.returncode == 1
    assert "another process is generating" in done.stderr


def test_unfinished_parcels_are_counted_listed_and_kept_apart(tmp_path):
    path = tmp_path / "samples.nc"
    # 3 steps, then 12 and 60 on the retries: only the quickest parcels finish.
    done = run("--samples", 300, "--seed", 3, "--max-steps", 3, "--workers", 1, "--out", path)
    assert done.returncode == 0, done.stderr
    with netCDF4.Dataset(path) as file:
        group = file["unfinished"]
        unfinished = np.asarray(group["sample_index"][:])
        finished = np.asarray(file["sample_index"][:])
        assert file.num_requested == 300
        assert file.num_retried == 300
        assert len(unfinished) == file.num_unfinished > 0
        assert len(finished) == file.num_finished
        assert sorted([*unfinished, *finished]) == list(range(300))
        drawn = sample_states(300, seed=3)
        np.testing.assert_array_equal(group["num_aer"][:], drawn.num_aer[unfinished])
        np.testing.assert_array_equal(group["status"][:], np.ones(len(unfinished)))
        assert group["status"].flag_meanings.split()[1] == "too_many_steps"
        assert np.isfinite(np.asarray(file["fn"][:])).all()
    assert f"{len(unfinished)} parcel(s) found no maximum" in done.stderr
    assert f"sample {unfinished[0]} (too many steps): tair" in done.stderr


def test_retries_rescue_parcels_and_are_counted():
    drawn = sample_states(64, seed=3)
    # About 118 steps at production tolerance: 100 leave most unfinished; 4 times that at 20 times tighter, most done.
    arrays, num_retried = blocks.simulate_block(drawn, ParcelSettings(max_steps=100))
    first = simulate(drawn, ParcelSettings(max_steps=100)).status
    assert num_retried == (first != 0).sum() > 0
    assert (arrays["status"] == 0).all()
    reference = simulate(drawn, ParcelSettings())
    np.testing.assert_allclose(arrays["fn"], reference.fn, atol=1e-4)  # tolerance of the first attempt


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--samples", 0), 2, "number of samples is 0; expected at least 1"),
        (("--samples", -5), 2, "number of samples is -5"),
        (("--samples", 10, "--workers", 0), 2, "number of workers is 0"),
        (("--samples", 10, "--seed", -1), 2, "seed is -1"),
        (("--samples", 10, "--sampler", "x"), 2, "unknown sampler 'x'"),
        (("--samples", 10, "--constants", "x"), 2, "unknown --constants 'x'; expected one of: pyrcel, e3sm"),
        (("--samples", 10, "--bins", "80,60"), 2, "no list of four counts"),
        (("--samples", 10, "--rtol", "1"), 2, "'relative_tolerance' is 1.0"),
        (("--samples", "many"), 2, "invalid int value: 'many'"),
        ((), 2, "--samples"),
        (("--samples", 10, "--out", "no/such/folder/x.nc"), 1, "folder 'no/such/folder' does not exist"),
        (("--samples", 10, "--out", "emulator"), 1, "'emulator' is a folder"),
        (("--samples", 10**13), 2, "the sequence of a seed has 4,294,967,296"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(tmp_path, arguments, status, message):
    if "--out" not in arguments:
        arguments = (*arguments, "--out", tmp_path / "samples.nc")
    done = run(*arguments)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_too_little_space_is_seen_before_the_work(tmp_path, monkeypatch):
    needed = 2 * 1000 * 100  # blocks and file, about 100 bytes a sample each
    monkeypatch.setattr(generate.shutil, "disk_usage", lambda path: type("Usage", (), {"free": needed // 2})())
    with pytest.raises(generate.GenerateError, match="not enough space"):
        generate.generate(tmp_path / "samples.nc", 1000, workers=1)
    monkeypatch.setattr(generate.shutil, "disk_usage", lambda path: type("Usage", (), {"free": needed * 2})())
    assert generate.generate(tmp_path / "samples.nc", 1000, workers=1).finished == 1000


def test_unwritable_folder_is_refused():
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs a folder that even root cannot write: /proc")
    done = run("--samples", 10, "--out", "/proc/self/samples.nc")
    assert done.returncode == 1
    assert "cannot write in '/proc/self'" in done.stderr


def test_help_names_every_option():
    done = run("--help")
    assert done.returncode == 0
    for option in ("--samples", "--seed", "--out", "--workers", "--bins", "--rtol", "--overwrite", "--constants"):
        assert option in done.stdout


def fail_on_three(task):
    if task == 3:
        raise ArithmeticError("three")
    return task * 10


def die_on_three(task):
    if task == 3:
        os._exit(7)
    return task


def full_disk(task):
    raise OSError(28, "No space left on device", "somewhere")


def test_workers_do_every_task_once():
    assert sorted(workers.run_tasks(fail_on_three, [1, 2, 4, 5, 6], 2)) == [(n, 10 * n) for n in (1, 2, 4, 5, 6)]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (fail_on_three, "ArithmeticError: three"),
        (die_on_three, r"died \(exit status 7\) at task 3"),
        (full_disk, r"No space left on device"),
    ],
)
def test_failing_workers_are_reported(function, message):
    with pytest.raises(workers.WorkerError, match=message):
        list(workers.run_tasks(function, range(1, 6), 2))


def test_full_disk_says_that_blocks_are_kept(tmp_path, monkeypatch):
    def full(self, block):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blocks.BlockMaker, "__call__", full)
    with pytest.raises(generate.GenerateError, match=r"No space left on device(.|\n)*same command goes on"):
        generate.generate(tmp_path / "samples.nc", 10, workers=1)
