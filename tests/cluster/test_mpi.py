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


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_any_number_of_ranks_gives_the_bits_of_one_process(tmp_path, program, make_bundle, ranks):
    bundle = make_bundle(hidden=(64, 33, 17))
    write_onnx(bundle, tmp_path / "model.onnx")
    x = training_range_samples(bundle, 1001, np.random.default_rng(3))
    x.tofile(tmp_path / "x.bin")
    environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        ["mpirun", "--oversubscribe", "-n", str(ranks), program]
        + [tmp_path / name for name in ("model.onnx", "x.bin", "y.bin")],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"{ranks} ranks, 1001 samples" in done.stdout
    y = np.fromfile(tmp_path / "y.bin").reshape(1001, -1)
    np.testing.assert_array_equal(y, LibEmulator(tmp_path / "model.onnx").infer(x))
