"""Whatever is killed, the same command goes on, and ends as if nothing had happened."""

import os
import random
import signal
import time

import pytest
import torch

from hpo.config import Config
from hpo.prepare import open_samples
from hpo.run import prepare_steps, resolved
from hpo.study import StudyLock, ranking
from hpo.trial import StudyContext, Task
from hpo.workers import Pool
from tests.python.hpo_cases import outcomes, raw_records, run, start, write_config, write_samples

NUM_TRIALS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kill")


@pytest.fixture(scope="module")
def config(folder):
    samples = write_samples(folder / "samples.nc", num_samples=4000, bounded=False)
    return write_config(
        folder / "c.toml",
        samples,
        space={"depth": {"low": 1, "high": 3}, "widths": [8, 16, 32]},
        train={"learning_rate": [1e-3, 1e30], "batch_size": 32, "max_epochs": 12, "patience": 0},
        search={"trials": NUM_TRIALS, "p_subset": 0.25, "top": 5, "seed": 2, "checkpoint_seconds": 0.0},
        step2={"max_epochs": 25, "learning_rate_schedule": "cosine"},
    )


@pytest.fixture(scope="module")
def undisturbed(folder, config):
    out = folder / "undisturbed"
    run("--config", config, "--workers", 2, "--quiet", out=out)
    return out


def count(out):
    return sum(path.read_bytes().count(b"\n") for path in out.glob("step*/worker-*.jsonl"))


def wait_for(condition, process, seconds=90.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the search ended early: {process.communicate()}"
        assert time.monotonic() < deadline, "the search makes no progress"
        time.sleep(0.005)


def kill(process):
    """kill -9 of the coordinator alone: its workers have to end by themselves."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(p) for p in file.read().split()]


def is_worker(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"spawn_main" in file.read()
    except OSError:
        return False


def test_killed_at_random_moments_it_ends_as_if_undisturbed(folder, config, undisturbed):
    out, moments = folder / "killed", random.Random(11)
    total = NUM_TRIALS + 5
    # in step 1 twice, about its end, and within step 2 twice
    for least in (3, 12, NUM_TRIALS - 1, NUM_TRIALS, total - 3):
        process = start("--config", config, "--workers", 2, out=out)
        wait_for(lambda least=least: count(out) >= least, process)
        time.sleep(moments.uniform(0.0, 0.3))
        kill(process)
    before = {step: {r["trial"]: r["finished"] for r in raw_records(out, step)} for step in (1, 2)}
    run("--config", config, "--workers", 2, "--quiet", out=out)
    for step in (1, 2):
        assert outcomes(out, step) == outcomes(undisturbed, step)
        after = {r["trial"]: r["finished"] for r in raw_records(out, step)}
        assert {t: after[t] for t in before[step]} == before[step], "a finished trial was run again"
    top = [[(r["trial"], r["validation_mse"]) for r in ranking(raw_records(o, 2))] for o in (out, undisturbed)]
    assert top[0] == top[1] and len(top[0]) == 5


def test_a_retraining_killed_in_the_middle_goes_on_from_its_checkpoint(folder, config, undisturbed):
    out = folder / "checkpoint"
    process = start("--config", config, "--workers", 1, out=out)
    checkpoints = out / "step2" / "checkpoints"
    wait_for(lambda: any(checkpoints.glob("trial-*.pt")), process)
    time.sleep(0.2)
    kill(process)
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


def test_ctrl_c_stops_cleanly_and_the_folder_alone_goes_on(folder, config, undisturbed):
    out = folder / "interrupted"
    process = start("--config", config, "--workers", 2, out=out)
    wait_for(lambda: count(out) >= 5, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: coordinator and workers
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert f"Go on with: python -m hpo.search --out {out}" in error
    assert "Traceback" not in error
    assert count(out) < NUM_TRIALS
    assert not list(out.glob("**/.*")), "something half-written was left"
    run("--quiet", "--workers", 2, out=out)
    for step in (1, 2):
        assert outcomes(out, step) == outcomes(undisturbed, step)


def test_workers_end_with_their_killed_coordinator(folder, config):
    out = folder / "orphans"
    process = start("--config", config, "--workers", 2, out=out)
    wait_for(lambda: count(out) >= 1, process)
    workers = [p for p in children(process.pid) if is_worker(p)]
    assert len(workers) == 2
    for pid in workers:  # they keep the study locked until they have ended
        files = [os.path.realpath(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        assert os.path.realpath(out / "lock") in files
    kill(process)
    deadline = time.monotonic() + 5.0
    while any(is_worker(p) for p in workers):
        assert time.monotonic() < deadline, "workers outlive the search"
        time.sleep(0.01)


def test_a_killed_worker_is_replaced_and_its_trial_tried_again(folder, config, undisturbed):
    out = folder / "worker"
    process = start("--config", config, "--workers", 2, out=out)
    wait_for(lambda: count(out) >= 3, process)
    victims = [p for p in children(process.pid) if is_worker(p)]
    os.kill(victims[0], signal.SIGKILL)
    _, error = process.communicate(timeout=120)
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
    lock = StudyLock(out)
    records, written, deaths = [], [], []

    def tick(busy):
        for worker in pool._busy():
            if worker.task.trial == 1 and worker.process.is_alive():
                worker.process.kill()
                deaths.append(worker.process.pid)

    pool = Pool(context, ["cpu"], lock.fd, on_record=records.append, on_tick=tick, write_record=written.append)
    # a trial long enough to be caught at work: the worker starts for a second or more before it
    pool.run([Task(step=1, trial=k, flop=1.0, extra={}) for k in (1, 0, 2)])
    pool.close()
    lock.release()
    assert len(set(deaths)) == 2
    assert [(r["trial"], r["state"]) for r in records] == [(1, "failed"), (0, "complete"), (2, "complete")]
    assert [r["trial"] for r in written] == [1]
    assert "its worker ended with signal SIGKILL (out of memory?) (2 attempts)" in records[0]["error"]


def test_the_lock_is_held_until_the_last_worker_has_ended(tmp_path):
    lock = StudyLock(tmp_path)
    child = os.fork()
    if child == 0:
        time.sleep(1.0)
        os._exit(0)
    lock.release()
    begin = time.monotonic()
    StudyLock(tmp_path).release()
    assert time.monotonic() - begin > 0.3
    os.waitpid(child, 0)
