"""Whole searches whose retrainings are shared out over processes, of one member and of several."""

import json
import os
import signal
import time

import pytest

from hpo.members import read_members
from tests.python.hpo_cases import outcomes, raw_records, start, write_config, write_samples

SEARCH = {"trials": 4, "top": 2, "p_subset": 0.25, "checkpoint_seconds": 0.2}
SPACE = {"widths": [8, 16], "depth": [1, 2]}
TRAIN = {"max_epochs": 3, "batch_size": 128}
# A step 1 of some seconds, in which the member that starts later arrives: who is not there cannot be in a group.
LONG = {"search": SEARCH | {"trials": 40}, "train": TRAIN | {"max_epochs": 1000, "patience": 0}}
RUN = ("--workers", "1", "--gpus-per-trial", "2", "--quiet")


@pytest.fixture
def config(tmp_path):
    samples = write_samples(tmp_path / "samples.nc", num_samples=3000)

    def write(search=SEARCH, train=TRAIN, **step2):
        step2 = {"max_epochs": 5, "batch_size": 128} | step2
        tables = {"search": search, "space": SPACE, "train": train, "step2": step2}
        return write_config(tmp_path / "search.toml", samples, **tables)

    return write


def finish(process, status=0):
    out, error = process.communicate(timeout=120)
    assert process.returncode == status, out + error
    return out + error


def wait_for(condition, what, seconds=90):
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


@pytest.mark.parametrize("victim", ["opener", "other"])
def test_a_member_that_dies_in_the_middle_of_a_group_costs_no_trial(config, tmp_path, victim):
    out = tmp_path / "study"
    path = config(**LONG, max_epochs=2000, patience=0)
    members = [start("--config", path, *RUN, "--lease-seconds", "5", out=out) for _ in range(2)]

    def trained_together():
        """A group that has met and written a checkpoint since."""
        for folder in (out / "groups").glob("trial-*"):
            address, trial = folder / "address.json", folder.name.partition(".")[0]
            checkpoint = out / "step2" / "checkpoints" / f"{trial}.pt"
            if address.exists() and checkpoint.exists():
                return folder
        return None

    folder = wait_for(trained_together, "a group of two members")
    closed = json.loads((folder / "closed.json").read_text())
    assert closed["size"] == 2 and len(set(closed["members"])) == 2
    name = closed["members"][0 if victim == "opener" else 1]
    pid = next(m["pid"] for m in read_members(out) if m["name"] == name)
    dead, alive = sorted(members, key=lambda p: p.pid != pid)
    os.kill(dead.pid, signal.SIGKILL)
    dead.communicate()
    finish(alive)
    records = raw_records(out, 2)
    assert [r["trial"] for r in records] == sorted(curves(out)) and len(records) == 2
    assert all(r["state"] == "complete" and r["epochs"] == 2000 for r in records)


def test_stopping_one_member_of_a_group_leaves_a_checkpoint_and_the_other_at_work(config, tmp_path):
    out = tmp_path / "study"
    path = config(**LONG, max_epochs=1500, patience=0)
    members = [start("--config", path, *RUN, out=out) for _ in range(2)]
    wait_for(lambda: list((out / "groups").glob("*/address.json")), "a group of two members")
    time.sleep(0.3)
    members[0].send_signal(signal.SIGTERM)
    finish(members[0], status=143)
    finish(members[1])
    records = raw_records(out, 2)
    assert len(records) == 2 and all(r["epochs"] == 1500 for r in records)


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
