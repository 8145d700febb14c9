"""The same bits on any number of MPI ranks, from bytes that rank 0 alone has read."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from emulator.export import training_range_samples, write_onnx
from emulator.libemulator import LibEmulator, library_path

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (shutil.which("mpicc") and shutil.which("mpirun")), reason="no MPI compiler and launcher on this machine"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    target = tmp_path_factory.mktemp("mpi") / "mpi_ranks"
    library = library_path()
    command = ["mpicc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", ROOT / "tests/cluster/mpi_ranks.c"]
    command += [f"-I{ROOT / 'fortran_bridge/include'}", library, f"-Wl,-rpath,{library.parent}", "-o", target]
    subprocess.run(list(map(str, command)), check=True)
    return target


def run(ranks, program, folder, *arguments, environment=None):
    """Evaluate folder/x.bin with folder/model.onnx; standard output. `environment` is what the ranks see besides."""
    command = ["mpirun", "--oversubscribe", "-n", str(ranks)]
    command += ["env", *(f"{name}={value}" for name, value in (environment or {}).items()), program]
    command += [folder / name for name in ("model.onnx", "x.bin", "y.bin")] + list(arguments)
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=os.environ | allowed, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def case(tmp_path, make_bundle):
    """A folder with model.onnx and 1001 samples in x.bin."""
    bundle = make_bundle(hidden=(64, 33, 17))
    write_onnx(bundle, tmp_path / "model.onnx")
    training_range_samples(bundle, 1001, np.random.default_rng(3)).tofile(tmp_path / "x.bin")
    return tmp_path


def results_are_those_of_one_process(folder):
    x = np.fromfile(folder / "x.bin").reshape(1001, -1)
    y = np.fromfile(folder / "y.bin").reshape(1001, -1)
    return np.array_equal(y, LibEmulator(folder / "model.onnx").infer(x))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_any_number_of_ranks_gives_the_bits_of_one_process(case, program, ranks):
    assert f"{ranks} ranks, 1001 samples, {ranks} loads" in run(ranks, program, case)
    assert results_are_those_of_one_process(case)


@pytest.fixture(scope="module")
def open_counter(tmp_path_factory):
    target = tmp_path_factory.mktemp("opens") / "count_opens.so"
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-O1", ROOT / "tests/cluster/count_opens.c"]
    subprocess.run(list(map(str, [*command, "-o", target, "-ldl"])), check=True)
    return target


@pytest.mark.parametrize(
    ("ranks", "arguments", "opened"),
    [(64, (1,), 1), (4, (16,), 1), (4, (16, "each"), 65)],
    ids=["64-ranks", "4-ranks-of-16-loads", "each-load-opens"],
)
def test_64_loads_open_the_model_file_once(case, program, open_counter, ranks, arguments, opened):
    """The last case shows that the counter counts: without the broadcast, each load opens the file, and rank 0 did."""
    environment = {"LD_PRELOAD": open_counter, "COUNTED_FILE": case / "model.onnx", "COUNT_LOG": case / "opened"}
    output = run(ranks, program, case, *arguments, environment=environment)
    assert f"{ranks} ranks, 1001 samples, 64 loads" in output
    assert len((case / "opened").read_text().splitlines()) == opened
    assert results_are_those_of_one_process(case)
