"""Whatever is killed, the search goes on, or the same command does, and ends as if nothing had happened."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from emulator.records import read_folder
from hpo.config import Config
from hpo.members import read_members
from hpo.prepare import open_samples
from hpo.run import prepare_steps, resolved
from hpo.stop import StopSignals
from hpo.study import ranking
from hpo.trial import StudyContext, Task
from hpo.workers import Pool
from tests.python.hpo_cases import (
    LONG_LEASE,
    PROVENANCE,
    ROOT,
    held_back,
    meddling,
    outcomes,
    raw_records,
    run,
    start,
    write_config,
    write_samples,
)
from tests.python.meddlers import EndsItself

NUM_TRIALS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kill")


def search_config(folder, name, *, trials, top, seed, epochs):
    samples = folder / "samples.nc"
    if not samples.exists():
        write_samples(samples, num_samples=4000, bounded=False)
    return write_config(
        folder / name,
        samples,
        space={"depth": {"low": 1, "high": 3}, "widths": [8, 16, 32]},
        train={"learning_rate": [1e-3, 1e30], "batch_size": 32, "max_epochs": 12, "patience": 0},
        search={"trials": trials, "p_subset": 0.25, "top": top, "seed": seed, "checkpoint_seconds": 0.0},
        step2={"max_epochs": epochs, "learning_rate_schedule": "cosine"},
    )


@pytest.fixture(scope="module")
def config(folder):
    return search_config(folder, "c.toml", trials=NUM_TRIALS, top=5, seed=2, epochs=25)


@pytest.fixture(scope="module")
def undisturbed(folder, config):
    out = folder / "undisturbed"
    run("--config", config, "--workers", 2, "--quiet", out=out)
    return out


def count(out):
    return sum(path.read_bytes().count(b"\n") for path in out.glob("step*/worker-*.jsonl"))


@pytest.fixture
def last(undisturbed):
    """Keys of the lease without which a search does not end: of one of its retrainings."""
    return [f"step2-{raw_records(undisturbed, 2)[-1]['trial']}"]


def wait_for(condition, process, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the search ended early: {process.communicate()}"
        assert time.monotonic() < deadline, "the search makes no progress"
        time.sleep(0.005)


def kill(process):
    """kill -9 of the member alone: its workers have to end by themselves."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(p) for p in file.read().split()]
    except OSError:
        return []


def is_worker(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"spawn_main" in file.read()
    except OSError:
        return False


# -- many kills in one search ------------------------------------------------------------------------------------------

MANY_TRIALS, MANY_RETRAINED = 200, 10
KINDS = ["worker"] * 7 + ["leader"] * 5 + ["node"] * 5 + ["job"] * 3
NODES = {"a": (1, 1), "b": (2,)}  # workers of each member of a node


class Job:
    """Members of one search, as processes; each node is a few of them that die together."""

    def __init__(self, config, out):
        self.config, self.out = config, out
        self.members = {node: [None] * len(workers) for node, workers in NODES.items()}
        self.errors = out.with_name(f"{out.name}.errors")
        self.replace_the_dead()

    def replace_the_dead(self):
        for node, workers in NODES.items():
            for k, number in enumerate(workers):
                if self.members[node][k] is None or self.members[node][k].poll() is not None:
                    self.members[node][k] = self._start(number)

    def _start(self, workers):
        command = [sys.executable, "-m", "hpo.search", "--config", self.config, "--out", self.out]
        command += ["--workers", workers, "--device", "cpu", "--quiet"]
        with open(self.errors, "ab") as errors:
            return subprocess.Popen(
                [str(c) for c in command], cwd=ROOT, start_new_session=True, stdout=errors, stderr=errors
            )

    def alive(self):
        return [m for members in self.members.values() for m in members if m.poll() is None]

    def workers(self):
        return [pid for member in self.alive() for pid in children(member.pid) if is_worker(pid)]

    def leader(self):
        """The process of the member that holds the newest lease of that name."""
        leases = [(int(p.suffix[2:]), p.read_text().strip()) for p in (self.out / "leases").glob("leader.g*")]
        if leases:
            with contextlib.suppress(OSError):
                text = (self.out / "members" / f"{max(leases)[1]}.json").read_text()
                return next((m for m in self.alive() if f'"pid": {m.pid},' in text), None)
        return None

    def kill(self, kind, moments):
        """Kill one thing of this kind; what it was, None if the search has ended."""
        if kind == "worker":
            workers = until(lambda: self.workers() or not self.alive(), "a worker")
            if workers is True:
                return None
            pid = moments.choice(workers)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return f"worker {pid}"
        if kind == "leader":
            leader = until(lambda: self.leader() or not self.alive(), "a leader")
            if leader is True:
                return None
            victims, what = [leader], f"leader {leader.pid}"
        elif kind == "node":
            node = moments.choice(sorted(NODES))
            victims, what = self.members[node], f"node {node}"
        else:
            victims, what = self.alive(), "the whole job"
            if not victims:
                return None
        # with all they have started; a leader's workers have to end by themselves
        started = [pid for member in victims if kind != "leader" for pid in children(member.pid)]
        for member in victims:
            member.kill()
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for member in victims:
            member.wait()
        return what


def until(look, what, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.005)
    return found


def table(out, step):
    """What a study has come to, without what may differ between two runs of a trial."""
    return [{k: v for k, v in r.items() if k not in PROVENANCE} for r in read_folder(out / f"step{step}")]


@pytest.mark.parametrize("seed", [1])
def test_twenty_random_kills_leave_every_trial_finished_once_and_the_table_as_it_was(folder, seed):
    config = search_config(folder, "many.toml", trials=MANY_TRIALS, top=MANY_RETRAINED, seed=5, epochs=40)
    undisturbed = folder / "many-undisturbed"
    run("--config", config, "--workers", 2, "--quiet", out=undisturbed)
    moments = random.Random(seed)
    kinds = moments.sample(KINDS, len(KINDS))
    total = MANY_TRIALS + MANY_RETRAINED
    # some in each step, and one at the last trial of step 1
    least = sorted(
        [*moments.sample(range(MANY_TRIALS - 1), 15), MANY_TRIALS, *moments.sample(range(MANY_TRIALS, total - 2), 4)]
    )
    to_come = list(zip(kinds, least, strict=True))
    for attempt in range(5):  # a search may end before we come to kill it once more, on a busy machine
        out = folder / f"killed-{seed}-{attempt}"
        to_come = kill_on_the_way(Job(config, out), to_come, moments)
        for step, number in ((1, MANY_TRIALS), (2, MANY_RETRAINED)):
            assert len(raw_records(out, step)) == number, "a trial was recorded twice, or not at all"
            assert table(out, step) == table(undisturbed, step)
        ranked = [[(r["trial"], r["validation_mse"]) for r in ranking(raw_records(o, 2))] for o in (out, undisturbed)]
        assert ranked[0] == ranked[1] and len(ranked[0]) == MANY_RETRAINED
        assert not list(out.glob("step*/checkpoints/*"))
        if not to_come:
            break
    assert not to_come, "five searches were over before all was killed"


def kill_on_the_way(job, to_come, moments):
    """Kill things, each at so many records, and wait for the end; what was not killed before it."""
    done = 0
    for kind, records in to_come:
        until(lambda records=records: count(job.out) >= records or not job.alive(), f"{records} records")
        time.sleep(moments.uniform(0.0, 0.2))
        what = job.kill(kind, moments)
        if what is None:
            break
        done += 1
        print(f"kill {what}, at {count(job.out)} records", flush=True)
        job.replace_the_dead()
    until(lambda: not job.alive(), "the end")
    assert [m.returncode for members in job.members.values() for m in members] == [0, 0, 0], job.errors.read_text()
    return to_come[done:]


# -- one kill, one signal ----------------------------------------------------------------------------------------------


def test_a_retraining_killed_in_the_middle_goes_on_from_its_checkpoint(folder, config, undisturbed):
    out = folder / "checkpoint"
    process = start("--config", config, "--workers", 1, out=out, program=meddling("KillsRetraining"))
    _, error = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, error
    checkpoints = out / "step2" / "checkpoints"
    (kept,) = checkpoints.glob("trial-*.pt")
    checkpoint = torch.load(kept, weights_only=True)
    assert 0 < checkpoint["training"]["epoch"] < 25
    checkpoint["training"]["train_curve"][0] = 123.0  # shows below that it was taken up, not begun again
    torch.save(checkpoint, kept)
    run("--config", config, "--workers", 1, "--quiet", out=out)
    ours, theirs = raw_records(out, 2), raw_records(undisturbed, 2)
    assert [(r["trial"], r["validation_mse"]) for r in ours] == [(r["trial"], r["validation_mse"]) for r in theirs]
    assert [r["curve"]["train_mse"][1:] for r in ours] == [r["curve"]["train_mse"][1:] for r in theirs]
    assert sum(r["curve"]["train_mse"][0] == 123.0 for r in ours) == 1
    assert not checkpoints.exists()


@pytest.mark.parametrize(
    ("number", "status", "records"),
    [(signal.SIGINT, 130, 5), (signal.SIGTERM, 143, NUM_TRIALS + 1), (signal.SIGUSR2, 75, 10)],
    ids=["ctrl-c", "TERM", "USR2"],
)
def test_a_signal_to_all_its_processes_stops_it_cleanly(folder, config, undisturbed, last, number, status, records):
    """As a terminal (Ctrl-C) and SLURM (scancel, time limit) send it. The folder alone goes on from there."""
    out = folder / f"stopped-{status}"
    with held_back(out, last):
        process = start("--config", config, "--workers", 2, *LONG_LEASE, out=out)
        wait_for(lambda: count(out) >= records, process)
        os.killpg(process.pid, number)
        _, error = process.communicate(timeout=300)
    assert process.returncode == status
    assert f"Go on with: python -m hpo.search --out {out}" in error
    assert "Traceback" not in error
    assert count(out) < NUM_TRIALS + 5
    assert {m["state"] for m in read_members(out)} == {"left"}
    assert not list(out.glob("**/.*")), "something half-written was left"
    run("--quiet", "--workers", 2, out=out)
    for step in (1, 2):
        assert outcomes(out, step) == outcomes(undisturbed, step)


def test_usr2_at_any_moment_of_the_start_asks_for_another_run(folder, config, last):
    """A job that waited for long may have little time left when its tasks start."""
    for seconds in (0.6, 1.2, 1.8, 2.4, 3.0):
        out = folder / f"early-{seconds}"
        with held_back(out, last):
            process = start("--config", config, "--workers", 2, *LONG_LEASE, out=out)
            until(lambda process=process: _takes_usr2(process.pid), "its handler")
            time.sleep(seconds)
            os.killpg(process.pid, signal.SIGUSR2)
            text, error = process.communicate(timeout=300)
        assert process.returncode == 75, (seconds, text, error)
        assert "Traceback" not in error, (seconds, error)


def _takes_usr2(pid):
    with open(f"/proc/{pid}/status") as file:
        caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt"))
    return caught >> (signal.SIGUSR2 - 1) & 1


def test_workers_end_with_their_killed_member(folder, config, last):
    out = folder / "orphans"
    with held_back(out, last):
        process = start("--config", config, "--workers", 2, *LONG_LEASE, out=out)
        wait_for(lambda: count(out) >= 1, process)
        started = children(process.pid)
        assert sum(is_worker(p) for p in started) >= 2
        kill(process)
    deadline = time.monotonic() + 120.0
    while any(os.path.exists(f"/proc/{p}/exe") for p in started):
        assert time.monotonic() < deadline, "workers outlive the search"
        time.sleep(0.01)


def test_a_killed_worker_is_replaced_and_its_trial_tried_again(folder, config, undisturbed, last):
    out = folder / "worker"
    with held_back(out, last):
        process = start("--config", config, "--workers", 2, *LONG_LEASE, out=out)
        wait_for(lambda: count(out) >= 3, process)
        victims = [p for p in children(process.pid) if is_worker(p)]
        os.kill(victims[0], signal.SIGKILL)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    for step in (1, 2):
        assert outcomes(out, step) == outcomes(undisturbed, step)


def test_a_trial_that_kills_every_worker_is_recorded_as_failed(tmp_path, config):
    c = Config.from_dict(
        {
            "data": {"path": str(config.with_name("samples.nc")), "inputs": ["sst", "profile"], "outputs": ["flux"]},
            "space": {"depth": 1, "widths": [8, 16]},
            "train": {"max_epochs": 3},
            "search": {"trials": 3, "p_subset": 0.5},
        }
    )
    samples = open_samples(c.data)
    out = tmp_path / "study"
    context = StudyContext(
        folder=out,
        config=resolved(c, samples),
        prepared=prepare_steps(out / "cache", c, samples, "", lambda text: None),
        input_columns=samples.input_columns,
        output_columns=samples.output_columns,
        provenance={},
    )
    with StopSignals() as stop:
        pool = Pool(context, ["cpu"], name="member", stop=stop, runner=EndsItself)
        pool.run(Tasks([Task(step=1, trial=k, flop=1.0, extra={}) for k in (1, 0, 2)]), 1)
        pool.close()
    records = raw_records(out, 1)
    assert [(r["trial"], r["state"]) for r in records] == [(0, "complete"), (1, "failed"), (2, "complete")]
    assert "its worker ended with signal SIGKILL (out of memory?) (4 attempts)" in records[1]["error"]


class Tasks:
    """A source of a few trials, all ours."""

    def __init__(self, tasks):
        self.waiting, self.left = list(tasks), len(tasks)

    def take(self, free):
        taken, self.waiting = self.waiting[:free], self.waiting[free:]
        return taken

    def record(self, record):
        self.left -= 1

    def done(self):
        return self.left == 0
