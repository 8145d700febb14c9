"""The search inside real SLURM jobs, on two nodes: however they come, go and fail, it ends as in one process."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import torch
from slurm_sandbox import SlurmSandbox, missing

from emulator.records import read_folder
from hpo.slurm import SlurmConfig, render
from hpo.slurm_job import submit
from tests.python.hpo_cases import held_back, meddling

ROOT = Path(__file__).parents[2]
TRIALS, TOP = 24, 4
LATER_HALF = [f"step1-{k}-{k}" for k in range(TRIALS // 2, TRIALS)]  # as they are leased, for `held_back`
LEASE_SECONDS = 60.0  # nobody who is only slow is taken for dead

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"a private SLURM needs {', '.join(missing())}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with SlurmSandbox(tmp_path_factory.mktemp("slurm")) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def environment(slurm, monkeypatch):
    """SLURM's programs find the sandbox, and the search is this tree's."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


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


@pytest.fixture(scope="module")
def config(samples):
    """A search of about 20 seconds in one process: trials of a second or so, to be caught at work."""
    path = samples.with_name("search.toml")
    path.write_text(
        f"""
        [data]
        path = {json.dumps(str(samples))}
        inputs = ["x0", "x1", "x2"]
        outputs = ["f"]
        [space]
        depth = {{low = 1, high = 3}}
        widths = [8, 16, 32]
        [train]
        max_epochs = 40
        patience = 40
        batch_size = 64
        [search]
        trials = {TRIALS}
        p_subset = 0.5
        top = {TOP}
        checkpoint_seconds = 0.5
        [step2]
        max_epochs = 60
        """
    )
    return path


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory):
    """The search in one process of this machine."""
    out = tmp_path_factory.mktemp("undisturbed") / "study"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(search(config, out, workers=2), check=True, env=environment, capture_output=True, timeout=300)
    return out


def search(config, out, *arguments, workers=1, program=("-m", "hpo.search")):
    command = [sys.executable, *program, "--config", config, "--out", out, "--device", "cpu"]
    command += ["--workers", workers, "--lease-seconds", LEASE_SECONDS, *arguments]
    return [str(part) for part in command]


def start(config, out, *arguments, program=("-m", "hpo.search"), **table):
    """Submit a search of our own script; the number of its job."""
    settings = SlurmConfig.from_table({"nodes": 2, "tasks_per_node": 2} | table)
    command = search(config, out, *arguments, program=program)
    return submit(render(settings, command, out=out, chdir=out.parent), out)


def printed(out):
    """What the jobs of a study have said, for a failure's message."""
    return "\n".join(f"--- {p}\n{p.read_text(errors='replace')[-4000:]}" for p in sorted((out / "slurm").glob("*.log")))


def outcome(out):
    kept = ("trial", "state", "params", "validation_mse", "best_epoch")
    return [[{k: r[k] for k in kept} for r in read_folder(out / step)] for step in ("step1", "step2")]


def num_records(out):
    return sum(path.read_bytes().count(b"\n") for path in out.glob("step*/worker-*.jsonl"))


def num_recorded(out, step):
    return sum(path.read_bytes().count(b"\n") for path in out.glob(f"{step}/worker-*.jsonl"))


def members(out):
    """All but this process, which is one in `held_back`."""
    found = []
    for path in sorted((out / "members").glob("*.json")):
        try:
            found.append(json.loads(path.read_text()))
        except (OSError, ValueError):
            continue
    return [m for m in found if m["slurm"] is not None]


def wait_for_records(slurm, out, least):
    slurm.poll(lambda: num_records(out), lambda n: n >= least, f"{least} records in {out}\n{printed(out)}", 300)


def wait_until_at_work(slurm, out, number):
    """Wait until so many members run trials, or have done so and left."""

    def at_work():
        return [m["name"] for m in members(out) if m["state"].startswith(("step", "left"))]

    slurm.poll(at_work, lambda names: len(names) >= number, f"{number} members in {out}\n{printed(out)}", 300)


def wait_for_end(slurm, job, out, expected="COMPLETED", timeout=600):
    ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    state = slurm.wait_for(job, *ends, timeout=timeout)
    assert state == expected, printed(out)


def test_launch_submits_follows_and_ends_as_one_process(slurm, config, undisturbed, tmp_path):
    out, here = tmp_path / "a study", tmp_path / "search.toml"
    here.write_text(f"{config.read_text()}\n[slurm]\nnodes = 2\ntasks_per_node = 2\n")
    command = [*search(here, out), "--launch", "slurm"]
    with held_back(out, LATER_HALF) as give_back:
        launched = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        wait_until_at_work(slurm, out, 4)
        waiting = LATER_HALF.copy()
        while len(nodes_with_records(out)) < 2 and waiting:  # one has done all until the other came
            give_back([waiting.pop()])
            wait_for_records(slurm, out, TRIALS - len(waiting))
        assert nodes_with_records(out) == {"node1", "node2"}, "not every node had a part in it"
    told, error = launched.communicate(timeout=600)
    assert launched.returncode == 0, told + error + printed(out)
    job = re.match(r"job (\d+) submitted", told)[1]
    assert f"job {job}: RUNNING on node[1-2]\n" in told
    assert f"job {job}: COMPLETED\n" in told
    assert f"{TRIALS}/{TRIALS}" in told, "the leader's lines are not shown"
    assert outcome(out) == outcome(undisturbed)
    assert {m["name"].split("-")[0] for m in members(out)} == {f"{job}.{task}" for task in range(4)}


def nodes_with_records(out):
    writers = {r["worker"].split("-")[0] for r in read_folder(out / "step1")}
    return {m["slurm"]["node"] for m in members(out) if m["name"].split("-")[0] in writers}


def test_a_node_that_fails_costs_no_trial_and_does_not_end_the_others(slurm, config, undisturbed, tmp_path):
    out = tmp_path / "study"
    job = start(config, out, "--lease-seconds", 4)  # what it costs before others take the trials of the node
    wait_for_records(slurm, out, 8)
    slurm.kill_node("node2")
    try:
        slurm.poll(lambda: num_recorded(out, "step2"), lambda n: n >= TOP, f"the end\n{printed(out)}", 300)
        wait_for_end(slurm, job, out)
    finally:
        slurm.start_node("node2")
        slurm.wait_until_idle()
    assert outcome(out) == outcome(undisturbed)


def test_a_dead_task_does_not_end_the_others_nor_make_the_job_fail(slurm, config, undisturbed, tmp_path):
    out = tmp_path / "study"
    with held_back(out, LATER_HALF):
        job = start(config, out)
        wait_until_at_work(slurm, out, 4)  # the other task of its node sees a death at once
        wait_for_records(slurm, out, 4)
        inside = f"kill -9 {members(out)[-1]['pid']}"
        node = members(out)[-1]["slurm"]["node"]
        slurm.run("srun", f"--jobid={job}", "--overlap", "-N1", "-n1", f"--nodelist={node}", "bash", "-c", inside)
    wait_for_end(slurm, job, out)
    assert outcome(out) == outcome(undisturbed)


def test_a_job_that_loses_its_first_node_ends_when_the_study_does(slurm, tmp_path):
    """Its batch script is gone; a task of another node ends the job, which would hold that node for hours else."""
    out = tmp_path / "study"
    settings = SlurmConfig(nodes=2)
    wait = "touch started-$SLURM_PROCID; until [ -e finished ]; do sleep 0.1; done"
    job = submit(render(settings, ["bash", "-c", wait], out=out, chdir=tmp_path), out)
    slurm.poll(lambda: len(list(tmp_path.glob("started-*"))), lambda n: n == 2, f"both tasks\n{printed(out)}")
    slurm.kill_node("node1")
    slurm.run("scontrol", "update", "NodeName=node1", "State=DOWN", "Reason=test")  # slurmctld takes half a minute
    (tmp_path / "finished").touch()
    try:
        wait_for_end(slurm, job, out, "CANCELLED")
    finally:
        slurm.start_node("node1")
        slurm.wait_until_idle()
    assert (out / "slurm" / f"{job}.0.ended.0").exists()


def test_time_runs_out_and_the_job_requeues_itself_and_goes_on(slurm, config, undisturbed, tmp_path):
    """The limit comes near in the middle of step 2. SLURM looks every 30 s, and knows whole minutes only."""
    out, longer = tmp_path / "study", tmp_path / "longer.toml"
    # a worker looks up from its work every 0.2 s: time to see that it is to wait
    longer.write_text(f"{config.read_text().partition('[step2]')[0]}\n[step2]\nmax_epochs = 600\npatience = 600\n")
    began = time.monotonic()
    job = start(longer, out, program=meddling("WaitsInRetraining"), time=60, signal_seconds=60)
    checkpoints = out / "step2" / "checkpoints"
    slurm.poll(lambda: any(checkpoints.glob("trial-*.pt")), bool, f"a checkpoint\n{printed(out)}", 600)
    minutes = int((time.monotonic() - began) // 60) + 2
    slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    slurm.wait_for(job, "PENDING", timeout=300)
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    (out / "seen").touch()
    assert {m["state"] for m in members(out)} == {"left"}, printed(out)
    before = {r["trial"]: r for r in read_folder(out / "step1")}
    kept = next(checkpoints.glob("trial-*.pt"))
    checkpoint = torch.load(kept, weights_only=True)
    checkpoint["training"]["train_curve"][0] = 123.0  # shows below that it was taken up, not begun again
    torch.save(checkpoint, kept)
    wait_for_end(slurm, job, out)
    after, retrained = read_folder(out / "step1"), read_folder(out / "step2")
    assert all(r == before[r["trial"]] for r in after if r["trial"] in before), "a finished trial was run again"
    assert outcome(out)[0] == outcome(undisturbed)[0]
    assert [r["state"] for r in retrained] == ["complete"] * TOP
    assert sum(r["curve"]["train_mse"][0] == 123.0 for r in retrained) == 1


def test_a_job_that_has_to_make_room_goes_back_into_the_queue(slurm, tmp_path):
    """Preempted, its tasks leave within the grace time; without more, SLURM would call the job failed."""
    out = tmp_path / "study"
    member = """
    trap "exit 143" TERM
    touch started-$SLURM_PROCID
    until [ ${SLURM_RESTART_COUNT:-0} = 1 ]; do sleep 0.1; done
    """
    job = submit(render(SlurmConfig(nodes=2), ["bash", "-c", member], out=out, chdir=tmp_path), out)
    slurm.poll(lambda: len(list(tmp_path.glob("started-*"))), lambda n: n == 2, f"both tasks\n{printed(out)}")
    slurm.run("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    wait_for_end(slurm, job, out)
    assert (
        slurm.run("squeue", "--noheader", "--states=all", f"--jobs={job}", "--Format=RestartCnt").stdout.strip() == "1"
    )


def test_a_cancelled_job_resubmitted_ends_as_an_uninterrupted_one(slurm, config, undisturbed, tmp_path):
    out = tmp_path / "study"
    with held_back(out, LATER_HALF):
        job = start(config, out)
        wait_until_at_work(slurm, out, 4)
        wait_for_records(slurm, out, 6)
        slurm.run("scancel", job)
        wait_for_end(slurm, job, out, "CANCELLED")
    slurm.poll(lambda: [m["state"] for m in members(out)], lambda s: s == ["left"] * 4, f"members\n{printed(out)}")
    before = {r["trial"]: r for r in read_folder(out / "step1")}
    assert 6 <= len(before) < TRIALS, "the job was meant to be cancelled half-way"
    job = start(config, out)
    wait_for_end(slurm, job, out)
    assert outcome(out) == outcome(undisturbed)
    after = {r["trial"]: r for r in read_folder(out / "step1")}
    assert all(after[t] == r for t, r in before.items()), "a finished trial was run again"


def test_elements_of_a_job_array_join_late_and_leave(slurm, config, undisturbed, tmp_path):
    """Six elements where four have room: two come when the first two have been cancelled, before the end."""
    out = tmp_path / "study"
    with held_back(out, LATER_HALF):
        job = start(config, out, nodes=1, tasks_per_node=1, array="0-5")
        wait_until_at_work(slurm, out, 4)
        slurm.run("scancel", f"{job}_0", f"{job}_1")
        wait_until_at_work(slurm, out, 6)
    ends = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"}
    states = slurm.poll(lambda: slurm.state(job).split(), lambda s: set(s) <= ends, f"the end\n{printed(out)}", 600)
    assert sorted(states) == ["CANCELLED"] * 2 + ["COMPLETED"] * 4, printed(out)
    assert [m["state"] for m in members(out)] == ["left"] * 6
    assert outcome(out) == outcome(undisturbed)


def test_one_retraining_is_shared_by_the_tasks_of_two_nodes(slurm, config, undisturbed, tmp_path):
    out, short = tmp_path / "study", tmp_path / "short.toml"
    text = config.read_text().replace(f"top = {TOP}", "top = 1").replace("max_epochs = 60", "max_epochs = 8")
    short.write_text(text)
    with held_back(out, LATER_HALF[-1:]):  # who is not there when step 1 ends cannot be in a group
        job = start(short, out, "--gpus-per-trial", "4", program=meddling("WaitsAsGroup"))
        wait_until_at_work(slurm, out, 4)
    closed = slurm.poll(
        lambda: next(out.glob("groups/*/closed.json"), None), bool, f"a group of four\n{printed(out)}", 300
    )
    together = json.loads(closed.read_text())
    (out / "seen").touch()
    assert together["size"] == 4
    assert {name.split("-")[0] for name in together["members"]} == {f"{job}.{task}" for task in range(4)}
    wait_for_end(slurm, job, out)
    assert outcome(out)[0] == outcome(undisturbed)[0]
    (record,) = read_folder(out / "step2")
    alone = next(r for r in read_folder(undisturbed / "step2") if r["trial"] == record["trial"])
    ours, theirs = (r["curve"]["validation_mse"] for r in (record, alone))
    assert len(ours) == 8
    assert ours == pytest.approx(theirs[:8], rel=1e-3)  # float32 sums in another order; Adam amplifies them


def test_srun_and_torchrun_start_members_too(slurm, config, undisturbed, tmp_path):
    """By hand: two tasks by srun and two by torchrun join one study."""
    out = tmp_path / "study"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    torchrun += search(config, out)[1:]
    jobs = [
        subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        for command in (["srun", "-N1", "-n2", *search(config, out)], ["srun", "-N1", "-n1", "-c2", *torchrun])
    ]
    try:
        outputs = [job.communicate(timeout=600)[0] for job in jobs]
    finally:
        for job in jobs:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
    assert [job.returncode for job in jobs] == [0, 0], outputs
    assert outcome(out) == outcome(undisturbed)
