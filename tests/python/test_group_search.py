"""Whole searches whose retrainings are shared out over processes, of one member and of several."""

import json
import os
import signal
import time

import pytest

from hpo.members import read_members
from tests.python.hpo_cases import (
    LONG_LEASE,
    held_back,
    meddling,
    outcomes,
    raw_records,
    start,
    write_config,
    write_samples,
)

SEARCH = {"trials": 4, "top": 2, "p_subset": 0.25, "checkpoint_seconds": 0.0}
SPACE = {"widths": [8, 16], "depth": [1, 2]}
TRAIN = {"max_epochs": 3, "batch_size": 128}
RUN = ("--workers", "1", "--gpus-per-trial", "2", "--quiet", *LONG_LEASE)


@pytest.fixture
def config(tmp_path):
    samples = write_samples(tmp_path / "samples.nc", num_samples=3000)

    def write(**step2):
        step2 = {"max_epochs": 5, "batch_size": 128} | step2
        tables = {"search": SEARCH, "space": SPACE, "train": TRAIN, "step2": step2}
        return write_config(tmp_path / "search.toml", samples, **tables)

    return write


def finish(process, status=0):
    out, error = process.communicate(timeout=300)
    assert process.returncode == status, out + error
    return out + error


def wait_for(condition, what, seconds=300):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"{what} did not come"
        time.sleep(0.02)
    return found


def curves(out, step=2):
    return {r["trial"]: r["curve"]["validation_mse"] for r in raw_records(out, step)}


def test_retrainings_by_two_workers_end_as_those_by_one(config, tmp_path):
    path = config()
    finish(start("--config", path, "--workers", "2", "--gpus-per-trial", "1", "--quiet", out=tmp_path / "one"))
    finish(start("--config", path, "--workers", "2", "--gpus-per-trial", "2", "--quiet", out=tmp_path / "two"))
    assert outcomes(tmp_path / "one", 1) == outcomes(tmp_path / "two", 1)
    one, two = curves(tmp_path / "one"), curves(tmp_path / "two")
    assert one.keys() == two.keys() and len(one) == 2
    for trial, curve in one.items():
        assert two[trial] == pytest.approx(curve, rel=1e-3)  # float32, as in test_distributed
    for name in ("one", "two"):
        models = sorted(p.name for p in (tmp_path / name / "step2" / "models").iterdir())
        assert models == [f"trial-{t:06d}.pt" for t in sorted(one)]
        assert not (tmp_path / name / "groups").exists()


def start_two(meddler, path, out):
    """Two members that are both there when step 1 ends: who is not cannot be in a group."""
    with held_back(out, ["step1-3-3"]):
        members = [start("--config", path, *RUN, out=out, program=meddling(meddler)) for _ in range(2)]
        pids = {p.pid for p in members}
        wait_for(lambda: pids == {m["pid"] for m in read_members(out) if m["state"] == "step 1"} - {os.getpid()}, "two")
    return members


@pytest.mark.parametrize("victim", ["Opener", "Other"])
def test_a_member_that_dies_in_the_middle_of_a_group_costs_no_trial(config, tmp_path, victim):
    out = tmp_path / "study"
    members = start_two(f"KillsAs{victim}", config(max_epochs=8, patience=0), out)
    dead = wait_for(lambda: next((p for p in members if p.poll() is not None), None), "a death")
    finish(dead, status=-signal.SIGKILL)
    finish(next(p for p in members if p is not dead))
    records = raw_records(out, 2)
    assert [r["trial"] for r in records] == sorted(curves(out)) and len(records) == 2
    assert all(r["state"] == "complete" and r["epochs"] == 8 for r in records)


def test_stopping_one_member_of_a_group_leaves_a_checkpoint_and_the_other_at_work(config, tmp_path):
    out = tmp_path / "study"
    # its third epoch ends long before the last, and the worker looks up from its work every 0.2 s
    members = start_two("StopsAsOther", config(max_epochs=300, patience=0), out)
    stopped = wait_for(lambda: next((p for p in members if p.poll() is not None), None), "an end")
    finish(stopped, status=143)
    finish(next(p for p in members if p is not stopped))
    records = raw_records(out, 2)
    assert len(records) == 2 and all(r["epochs"] == 300 for r in records)


def test_streamed_steps_are_noted_and_end_well(config, tmp_path):
    path = config()
    path.write_text(path.read_text().replace("[data]", "[data]\nstream = true"))
    out = tmp_path / "study"
    finish(start("--config", path, "--workers", "2", "--gpus-per-trial", "2", "--quiet", out=out))
    noted = json.loads((out / "study.json").read_text())["prepared"]
    assert noted["stream"] == {"1": True, "2": True}
    again = tmp_path / "again"
    finish(start("--config", path, "--workers", "1", "--quiet", out=again))
    assert outcomes(out, 1) == outcomes(again, 1)
    for trial, curve in curves(again).items():
        assert curves(out)[trial] == pytest.approx(curve, rel=1e-3)
