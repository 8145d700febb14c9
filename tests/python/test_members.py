"""Several members on one study: whoever comes, goes, dies or sleeps, the result is that of one member alone.

No test may depend on which process is quicker: `held_back` keeps a search from its end until all have come that are
wanted.
"""

import contextlib
import json
import os
import signal
import time

import pytest

from emulator.records import read_folder
from hpo.members import Crew, Member, read_members
from tests.python.hpo_cases import (
    LONG_LEASE,
    PROVENANCE,
    held_back,
    raw_records,
    run,
    start,
    write_config,
    write_samples,
)

NUM_TRIALS = 24
LATER_HALF = [f"step1-{k}-{k}" for k in range(NUM_TRIALS // 2, NUM_TRIALS)]  # as they are leased


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("members")


@pytest.fixture(scope="module")
def config(folder):
    return write_config(
        folder / "c.toml",
        write_samples(folder / "samples.nc", num_samples=4000, bounded=False),
        space={"depth": {"low": 1, "high": 3}, "widths": [8, 16, 32]},
        train={"learning_rate": [1e-3, 1e30], "batch_size": 32, "max_epochs": 12, "patience": 0},
        search={"trials": NUM_TRIALS, "p_subset": 0.25, "top": 5, "seed": 2, "checkpoint_seconds": 0.0},
        step2={"max_epochs": 25, "learning_rate_schedule": "cosine"},
    )


@pytest.fixture(scope="module")
def alone(folder, config):
    out = folder / "alone"
    run("--config", config, "--workers", 2, "--quiet", out=out)
    return out


@pytest.fixture
def members(config):
    """Starts members; ends those that a failed test leaves."""
    started = []

    def begin(out, *options, workers=1):
        options = ("--config", config, "--workers", workers, "--gpus-per-trial", 1, *LONG_LEASE, *options)
        started.append(start(*options, out=out))
        return started[-1]

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def counted(out, step):
    """The records that count, without what may differ between two runs."""
    return [{k: v for k, v in r.items() if k not in PROVENANCE} for r in read_folder(out / f"step{step}")]


def wait_for(condition, seconds=300.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)
    return value


def num_records(out):
    return sum(path.read_bytes().count(b"\n") for path in out.glob("step*/worker-*.jsonl"))


def of(process, out):
    """What a member's file says, None if there is none yet."""
    return next((m for m in read_members(out) if m["pid"] == process.pid), None)


def at_work(processes, out):
    """Whether all these members have come so far that they run trials."""
    return all((of(p, out) or {"state": ""})["state"].startswith("step") for p in processes)


def has_done(process, out):
    """Whether a trial of step 1 was run by this member."""
    workers = {r["worker"].rpartition("-")[0] for r in raw_records(out, 1)}
    return of(process, out)["name"] in workers


def leader(out):
    return next((m for m in read_members(out) if m["leader"] and m["state"] != "left"), None)


def ends_well(process):
    text, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return text


def test_one_killed_and_one_that_comes_late_change_nothing(folder, members, alone):
    out = folder / "three"
    with held_back(out, LATER_HALF) as give_back:
        two = [members(out) for _ in range(2)]
        wait_for(lambda: at_work(two, out) and num_records(out) >= NUM_TRIALS // 2)
        killed, first = sorted(two, key=lambda p: not has_done(p, out))
        give_back(LATER_HALF[:-1])
        wait_for(lambda: num_records(out) > NUM_TRIALS // 2)
        killed.kill()
        late = members(out)
        wait_for(lambda: at_work([late], out))
    texts = [ends_well(p) for p in (first, late)]
    for step in (1, 2):
        assert counted(out, step) == counted(alone, step)
        trials = [r["trial"] for r in raw_records(out, step)]
        assert len(set(trials)) == len(trials), "on one host a death is seen, and nothing runs twice"
    names = {m["name"] for m in read_members(out) if m["pid"] != os.getpid()}
    workers = {r["worker"].rpartition("-")[0] for step in (1, 2) for r in raw_records(out, step)}
    assert len(names) == 3 and workers <= names and len(workers) >= 2
    assert sorted("best of 5 retrained networks" in t for t in texts) == [False, True], "one of them speaks for all"


def test_a_leader_that_dies_is_replaced(folder, members, alone):
    out = folder / "leader"
    with held_back(out, LATER_HALF):
        processes = [members(out) for _ in range(2)]
        wait_for(lambda: at_work(processes, out) and num_records(out) >= 3)
        led = leader(out)
        dead = next(p for p in processes if p.pid == led["pid"])
        other = next(p for p in processes if p is not dead)
        dead.kill()
    assert "best of 5 retrained networks" in ends_well(other)
    for step in (1, 2):
        assert counted(out, step) == counted(alone, step)
    assert not (out / "cache").exists() and not list(out.glob("step?/checkpoints"))
    import optuna

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / "study.journal")))
    assert len(optuna.load_study(study_name="step1", storage=storage).trials) == NUM_TRIALS


def test_a_member_that_sleeps_is_replaced_and_does_no_harm_when_it_wakes(folder, members, alone):
    out = folder / "zombie"
    with held_back(out, LATER_HALF):
        zombie = members(out)
        wait_for(lambda: num_records(out) >= 3)
        os.killpg(zombie.pid, signal.SIGSTOP)
        wait_for(lambda: is_stopped(zombie.pid))
    other = members(out, "--lease-seconds", 1.5)
    ends_well(other)
    before = [counted(out, step) for step in (1, 2)]
    assert before == [counted(alone, step) for step in (1, 2)]
    os.killpg(zombie.pid, signal.SIGCONT)
    ends_well(zombie)
    assert [counted(out, step) for step in (1, 2)] == before
    run("--quiet", out=out)
    assert not (out / "cache").exists() and not list(out.glob("step?/checkpoints"))


def test_what_the_leader_cannot_prepare_it_tells_the_others(folder, members):
    out = folder / "unprepared"
    bad = write_samples(folder / "bad.nc")
    import netCDF4

    with netCDF4.Dataset(bad, "a") as file:
        file["sst"][:] = 1.0
    first, told = members(out, "--data", bad), folder / "told"
    with Member(told, devices=[]) as lead:
        crew = Crew.of(told, lead)
        assert crew.leases.take("leader")
        lead.update(state="preparing", leader=True)
        other = members(told, "--data", bad)
        _, error = first.communicate(timeout=120)
        assert first.returncode == 2 and "column 'sst' is constant" in error and "Traceback" not in error
        (member,) = read_members(out)
        lead.update(not_prepared=member["not_prepared"])
        _, error = other.communicate(timeout=120)
        assert other.returncode == 2 and f"member {lead.name} could not prepare the samples" in error
        assert "column 'sst' is constant" in error and "Traceback" not in error


def test_a_member_with_other_settings_is_refused_and_the_search_goes_on(folder, members, alone):
    out = folder / "settings"
    changes = [(["--trials", 30], "search.trials: was 24, now 30"), (["--p-subset", 0.5], "search.p_subset")]
    with held_back(out, LATER_HALF):
        first = members(out)
        wait_for(lambda: num_records(out) >= 1)
        for refused, what in [(members(out, *change), what) for change, what in changes]:
            _, error = refused.communicate(timeout=120)
            assert refused.returncode == 2 and what in error and "Traceback" not in error
    ends_well(first)
    for step in (1, 2):
        assert counted(out, step) == counted(alone, step)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGUSR2, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_a_member_with_its_status_and_its_trials_go_to_others(folder, members, alone, number, status):
    out = folder / f"signal-{number}"
    with held_back(out, LATER_HALF):
        stopped = members(out, workers=2)
        wait_for(lambda: num_records(out) >= 3)
        os.killpg(stopped.pid, number)  # as SLURM and terminals do: the member and all its processes
        _, error = stopped.communicate(timeout=120)
    assert stopped.returncode == status, error
    assert f"Go on with: python -m hpo.search --out {out}" in error and "Traceback" not in error
    assert of(stopped, out)["state"] == "left" and num_records(out) < NUM_TRIALS
    assert not list(out.glob("**/.*")), "something half-written was left"
    if number == signal.SIGUSR2:
        run("--quiet", "--workers", 2, out=out)
        for step in (1, 2):
            assert counted(out, step) == counted(alone, step)


def is_stopped(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def catches(pid, number):
    with open(f"/proc/{pid}/status") as file:
        return int(file.read().partition("SigCgt:")[2].split()[0], 16) & 1 << (number - 1)


def test_a_signal_while_pytorch_is_imported_has_its_status_too(folder, members):
    out = folder / "early"
    with held_back(out, LATER_HALF):
        process = members(out)
        wait_for(lambda: catches(process.pid, signal.SIGUSR2))
        process.send_signal(signal.SIGUSR2)
        process.communicate(timeout=120)
    assert process.returncode == 75


def test_a_finished_study_is_left_at_once_by_whoever_joins(alone, members, tmp_path):
    import shutil

    out = shutil.copytree(alone, tmp_path / "study")
    texts = [ends_well(p) for p in [members(out) for _ in range(2)]]
    assert any("best of 5 retrained networks" in t for t in texts)
    assert (
        json.loads((out / "study.json").read_text())["runs"] == json.loads((alone / "study.json").read_text())["runs"]
    )
