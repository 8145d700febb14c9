"""The search inside real SLURM jobs: it runs, and a cancelled job costs no finished trial."""

import json
import shlex
import sys
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from slurm_sandbox import SlurmSandbox, missing

from emulator.records import read_folder

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"a private SLURM needs {', '.join(missing())}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with SlurmSandbox(tmp_path_factory.mktemp("slurm")) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "samples.nc"
    rng = np.random.default_rng(0)
    x = rng.random((4000, 3))
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("nsamples", len(x))
        columns = {f"x{k}": x[:, k] for k in range(3)} | {"f": 1 / (1 + np.exp(-3 * (x[:, 0] - x[:, 1] * x[:, 2])))}
        for name, values in columns.items():
            variable = file.createVariable(name, "f8", ("nsamples",))
            variable.units = "1"
            variable[:] = values
    return path


def batch_script(folder, samples, out, trials):
    config = folder / "search.toml"
    config.write_text(
        f"""
        [data]
        path = {json.dumps(str(samples))}
        inputs = ["x0", "x1", "x2"]
        outputs = ["f"]
        [space]
        depth = {{low = 1, high = 3}}
        widths = [8, 16, 32]
        [train]
        max_epochs = 60
        patience = 60
        batch_size = 64
        [search]
        trials = {trials}
        p_subset = 0.5
        top = 3
        """
    )
    command = [sys.executable, "-m", "hpo.search", "--config", str(config), "--out", str(out)]
    script = folder / "job.sh"
    script.write_text(f"#!/bin/bash\n#SBATCH -n1 -c2\ncd {shlex.quote(str(ROOT))}\nexec {shlex.join(command)}\n")
    return script


def submit(slurm, script, log):
    done = slurm.run("sbatch", "--parsable", f"--output={log}", str(script))
    return done.stdout.strip()


def outcome(out):
    kept = ("trial", "state", "params", "validation_mse", "best_epoch")
    return [[{k: r[k] for k in kept} for r in read_folder(out / step)] for step in ("step1", "step2")]


def test_a_cancelled_job_resubmitted_ends_as_an_uninterrupted_one(slurm, samples, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    script = batch_script(tmp_path, samples, whole, trials=12)
    job = submit(slurm, script, tmp_path / "whole.log")
    assert slurm.wait_for(job, "COMPLETED", "FAILED", timeout=180) == "COMPLETED", (tmp_path / "whole.log").read_text()

    script = batch_script(tmp_path, samples, cut, trials=12)
    job = submit(slurm, script, tmp_path / "cut-1.log")
    slurm._poll(lambda: len(read_folder(cut / "step1")), lambda n: n >= 3, "three trials on disk", 120)
    slurm.run("scancel", job)
    slurm.wait_for(job, "CANCELLED", timeout=60)
    before = {r["trial"]: r for r in read_folder(cut / "step1")}
    assert 3 <= len(before) < 12, "the job was meant to be cancelled half-way"

    job = submit(slurm, script, tmp_path / "cut-2.log")
    assert slurm.wait_for(job, "COMPLETED", "FAILED", timeout=180) == "COMPLETED", (tmp_path / "cut-2.log").read_text()
    assert outcome(cut) == outcome(whole)
    after = {r["trial"]: r for r in read_folder(cut / "step1")}
    assert all(after[t] == r for t, r in before.items()), "a finished trial was run again"


def test_srun_starts_it_too(slurm, samples, tmp_path):
    script = batch_script(tmp_path, samples, tmp_path / "study", trials=3)
    done = slurm.run("srun", "-n1", "-c2", "bash", str(script), timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert len(read_folder(tmp_path / "study" / "step2")) == 3
