"""Twenty kills of workers, leaders, nodes and whole jobs, at random moments of a search: it ends as if undisturbed."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from emulator.records import read_folder
from hpo.study import ranking
from tests.python.hpo_cases import PROVENANCE, ROOT, raw_records, run, write_config, write_samples

NUM_TRIALS, NUM_RETRAINED = 200, 10
KINDS = ["worker"] * 7 + ["leader"] * 5 + ["node"] * 5 + ["job"] * 3
NODES = {"a": (1, 1), "b": (2,)}  # workers of each member of a node


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def config(folder):
    samples = write_samples(folder / "samples.nc", num_samples=4000, bounded=False)
    return write_config(
        folder / "c.toml",
        samples,
        space={"depth": {"low": 1, "high": 3}, "widths": [8, 16, 32]},
        train={"learning_rate": [1e-3, 1e30], "batch_size": 32, "max_epochs": 12, "patience": 0},
        search={"trials": NUM_TRIALS, "p_subset": 0.25, "top": NUM_RETRAINED, "seed": 5, "checkpoint_seconds": 0.0},
        step2={"max_epochs": 40, "learning_rate_schedule": "cosine"},
    )


@pytest.fixture(scope="module")
def undisturbed(folder, config):
    out = folder / "undisturbed"
    run("--config", config, "--workers", 2, "--quiet", out=out)
    return out


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
        return [pid for member in self.alive() for pid in _children(member.pid) if _is_worker(pid)]

    def leader(self):
        """The process of the member that holds the newest lease of that name."""
        leases = [(int(p.suffix[2:]), p.read_text().strip()) for p in (self.out / "leases").glob("leader.g*")]
        if leases:
            with contextlib.suppress(OSError):
                text = (self.out / "members" / f"{max(leases)[1]}.json").read_text()
                return next((m for m in self.alive() if f'"pid": {m.pid},' in text), None)
        return None

    def kill(self, kind, moments):
        """Kill one thing of this kind; what it was."""
        if kind == "worker":
            pid = moments.choice(_wait_for(self.workers, "a worker"))
            os.kill(pid, signal.SIGKILL)
            return f"worker {pid}"
        if kind == "leader":
            leader = _wait_for(self.leader, "a leader")
            victims, what = [leader], f"leader {leader.pid}"
        elif kind == "node":
            node = moments.choice(sorted(NODES))
            victims, what = self.members[node], f"node {node}"
        else:
            victims, what = self.alive(), "the whole job"
        # with all they have started; a leader's workers have to end by themselves
        started = [pid for member in victims if kind != "leader" for pid in _children(member.pid)]
        for member in victims:
            member.kill()
        for pid in started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for member in victims:
            member.wait()
        return what


def _children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(p) for p in file.read().split()]
    except OSError:
        return []


def _is_worker(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"spawn_main" in file.read()
    except OSError:
        return False


def _wait_for(look, what, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.005)
    return found


def count(out):
    return sum(path.read_bytes().count(b"\n") for path in out.glob("step*/worker-*.jsonl"))


def table(out, step):
    """What a study has come to, without what may differ between two runs of a trial."""
    return [{k: v for k, v in r.items() if k not in PROVENANCE} for r in read_folder(out / f"step{step}")]


@pytest.mark.parametrize("seed", [1])
def test_twenty_random_kills_leave_every_trial_finished_once_and_the_table_as_it_was(folder, config, undisturbed, seed):
    out, moments = folder / f"killed-{seed}", random.Random(seed)
    kinds = moments.sample(KINDS, len(KINDS))
    total = NUM_TRIALS + NUM_RETRAINED
    # some in each step, and one at the last trial of step 1
    least = sorted(
        [*moments.sample(range(NUM_TRIALS - 1), 15), NUM_TRIALS, *moments.sample(range(NUM_TRIALS, total - 2), 4)]
    )
    job = Job(config, out)
    for number, (kind, records) in enumerate(zip(kinds, least, strict=True), start=1):
        _wait_for(lambda records=records: count(out) >= records or not job.alive(), f"{records} records")
        time.sleep(moments.uniform(0.0, 0.2))
        assert job.alive(), f"the search ended before kill {number}: {job.errors.read_text()}"
        what = job.kill(kind, moments)
        print(f"kill {number}: {what}, at {count(out)} of {total} records", flush=True)
        job.replace_the_dead()
    _wait_for(lambda: not job.alive(), "the end")
    assert [m.returncode for members in job.members.values() for m in members] == [0, 0, 0], job.errors.read_text()

    for step, number in ((1, NUM_TRIALS), (2, NUM_RETRAINED)):
        assert len(raw_records(out, step)) == number, "a trial was recorded twice, or not at all"
        assert table(out, step) == table(undisturbed, step)
    ranked = [[(r["trial"], r["validation_mse"]) for r in ranking(raw_records(o, 2))] for o in (out, undisturbed)]
    assert ranked[0] == ranked[1] and len(ranked[0]) == NUM_RETRAINED
    assert not list(out.glob("step*/checkpoints/*"))
