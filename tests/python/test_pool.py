"""The pool of workers: what it hands to whom, and what it does when one dies."""

import os
import signal
from collections import deque
from dataclasses import replace
from types import SimpleNamespace

import pytest

from emulator.records import read_folder
from hpo.config import Config
from hpo.errors import SearchError
from hpo.stop import StopSignals
from hpo.trial import StudyContext, Task
from hpo.workers import Pool

NUM_TRIALS = 12


class Tasks:
    """A source of so many trials."""

    def __init__(self, step, trials):
        self.waiting = deque(Task(step=step, trial=k, flop=1.0, extra={}) for k in trials)
        self.records, self.asked = [], []

    def take(self, free):
        self.asked.append(free)
        return [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]

    def record(self, record):
        self.records.append(record)

    def done(self):
        return not self.waiting


class Runner:
    """Finishes all it has at once; a trial named by `deadly` or `wrong` ends its process or raises."""

    deadly, wrong, capacity = (), (), 1

    def __init__(self, context, device, name):
        self.name, self.tasks = name, []

    def start(self, task):
        self.tasks.append(task)

    def running(self):
        return []

    def interrupt(self):
        pass

    def advance(self):
        if any(t.trial in self.deadly for t in self.tasks):
            os.kill(os.getpid(), signal.SIGKILL)
        tasks, self.tasks = self.tasks, []
        beside = [t.trial for t in tasks]
        return [(t, ValueError("no") if t.trial in self.wrong else self.record(t, beside)) for t in tasks]

    def record(self, task, beside):
        return {"trial": task.trial, "step": task.step, "state": "complete", "worker": self.name, "beside": beside}


class Four(Runner):
    capacity = 4


class Waiting(Four):
    """Finishes trials two by two at least, up to the last, however slowly they come."""

    finished = 0

    def advance(self):
        if len(self.tasks) < min(2, NUM_TRIALS - self.finished):
            return []
        self.finished += len(self.tasks)
        return super().advance()


class Deadly(Four):
    deadly = (5,)


class Wrong(Runner):
    wrong = range(100)


class OneWrong(Runner):
    wrong = (3,)


@pytest.fixture
def context(tmp_path):
    config = Config.from_dict({"space": {"depth": 1, "widths": [8]}})
    prepared = SimpleNamespace(num_train=10, num_validation=10, output_activation="sigmoid", heads={})
    return StudyContext(
        folder=tmp_path,
        config=config,
        prepared={1: prepared, 2: prepared},
        input_columns=(None,),
        output_columns=(None,),
        provenance={},
    )


def run(context, runner, step=1, trials=NUM_TRIALS, devices=("cpu",)):
    source = Tasks(step, range(trials))
    pool = Pool(context, list(devices), name="m", stop=StopSignals(), runner=runner)
    try:
        pool.run(source, step)
    finally:
        pool.close()
    return source, pool


def test_every_trial_is_recorded_once_by_who_ran_it(context):
    source, pool = run(context, Runner, devices=("cpu", "cpu"))
    records = read_folder(context.folder / "step1")
    assert [r["trial"] for r in records] == sorted(r["trial"] for r in source.records) == list(range(NUM_TRIALS))
    assert {r["worker"] for r in records} <= {"m-000", "m-001"} and (pool.done, pool.failed) == (NUM_TRIALS, 0)
    assert {p.name for p in context.folder.glob("step1/*")} <= {"worker-m-000.jsonl", "worker-m-001.jsonl"}


def test_a_worker_gets_as_many_trials_as_it_can_run_at_once_but_one_in_step_2(context):
    source, _ = run(context, Waiting)
    assert 1 < max(len(r["beside"]) for r in source.records) <= 4 and max(source.asked) <= 4
    source, _ = run(context, Four, step=2)
    assert {len(r["beside"]) for r in source.records} == {1}


def test_of_several_trials_in_a_dying_worker_only_the_one_that_ends_it_is_recorded_as_failed(context):
    source, pool = run(context, Deadly)
    by_trial = {r["trial"]: r for r in source.records}
    assert len(source.records) == len(by_trial) == NUM_TRIALS and pool.failed == 1
    assert [t for t, r in by_trial.items() if r["state"] == "failed"] == [5]
    assert "its worker ended with signal SIGKILL (out of memory?) (4 attempts)" in by_trial[5]["error"]
    assert [r["trial"] for r in read_folder(context.folder / "step1")] == list(range(NUM_TRIALS))


class OneHopeless(Tasks):
    def take(self, free):
        return [replace(t, hopeless="three members died") if t.trial == 5 else t for t in super().take(free)]


def test_a_hopeless_trial_is_recorded_as_failed_and_not_run(context):
    source = OneHopeless(1, range(NUM_TRIALS))
    pool = Pool(context, ["cpu"], name="m", stop=StopSignals(), runner=Runner)
    try:
        pool.run(source, 1)
    finally:
        pool.close()
    records = {r["trial"]: r for r in read_folder(context.folder / "step1")}
    assert sorted(records) == list(range(NUM_TRIALS)) and len(source.records) == NUM_TRIALS
    assert [(t, r["error"]) for t, r in records.items() if r["state"] == "failed"] == [(5, "three members died")]


def test_a_trial_that_raises_is_tried_twice_and_recorded(context):
    source, _ = run(context, OneWrong)
    (failed,) = [r for r in source.records if r["state"] == "failed"]
    assert failed["trial"] == 3 and failed["error"] == "ValueError: no (2 attempts)" and failed["worker"] == "m-member"


def test_trial_after_trial_that_raises_ends_the_search(context):
    with pytest.raises(SearchError, match="20 trials in a row ended in an error, the last: ValueError: no"):
        run(context, Wrong, trials=40)


def test_in_step_2_one_worker_of_each_gpu_takes_part(context):
    pool = Pool(context, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"], name="m", stop=StopSignals())
    assert pool._slots(1) == [0, 1, 2, 3] and pool._slots(2) == [0, 1]
    assert Pool(context, ["cpu"] * 3, name="m", stop=StopSignals())._slots(2) == [0, 1, 2]
