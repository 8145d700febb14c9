"""A worker's trials from task to record: several at once, interrupted and taken up, failing."""

import errno
import json

import pytest
import torch

from hpo import trial
from hpo.checkpoint import checkpoint_path, remove_checkpoint
from hpo.config import Config
from hpo.errors import GroupLost, Interrupted, SearchError
from hpo.groups import Seat
from hpo.prepare import open_samples
from hpo.run import prepare_steps, resolved
from hpo.train import Progress
from hpo.trial import StudyContext, Task, TrialRunner
from tests.python.hpo_cases import PROVENANCE, write_samples

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_samples(tmp_path_factory.mktemp("samples") / "samples.nc", num_samples=2000)


def context(folder, samples, **search):
    config = Config.from_dict(
        {
            "data": {"path": str(samples), "inputs": ["sst", "wind speed", "profile"], "outputs": ["flux"]},
            "space": {"depth": {"low": 1, "high": 3}, "widths": [8, 16, 32]},
            "train": {"batch_size": 32, "max_epochs": 6, "patience": 0},
            "search": {"trials": 8, "p_subset": 0.25, "top": 2, "checkpoint_seconds": 0.0} | search,
        }
    )
    file = open_samples(config.data)
    config = resolved(config, file)
    prepared = prepare_steps(folder / "cache", config, file, "", lambda text: None)
    return StudyContext(
        folder=folder,
        config=config,
        prepared=prepared,
        input_columns=file.input_columns,
        output_columns=file.output_columns,
        provenance={},
    )


def task(number, step=1, **fields):
    return Task(step=step, trial=number, flop=1.0, extra={}, **fields)


def run(runner, *tasks):
    """Results by trial."""
    for t in tasks:
        runner.start(t)
    results = {}
    while len(results) < len(tasks):
        results |= {t.trial: result for t, result in runner.advance()}
    assert runner.running() == []
    return results


def comparable(record):
    return json.dumps({k: v for k, v in record.items() if k not in PROVENANCE}, sort_keys=True)


def test_records_do_not_depend_on_how_many_trials_are_under_way(tmp_path, samples):
    c = context(tmp_path, samples)
    several = TrialRunner(c, CPU, "several", capacity=4)
    assert several.capacity == 4
    together = run(several, *(task(k) for k in range(4)))
    alone = TrialRunner(c, CPU, "alone")
    assert alone.capacity == 1 and alone.memory_bytes is None
    for k in range(4):
        assert comparable(run(alone, task(k))[k]) == comparable(together[k])


def test_engines_agree_within_rounding_and_each_gives_its_own_bits(tmp_path, samples):
    records = {}
    for engine in ("fleet", "plain"):
        c = context(tmp_path / engine, samples, engine=engine)
        records[engine] = run(TrialRunner(c, CPU, "w"), task(0))[0]
    a, b = (records[e]["curve"]["validation_mse"] for e in ("fleet", "plain"))
    assert a == pytest.approx(b, rel=1e-3)  # float32, 6 epochs of 8 steps
    assert records["fleet"]["params"] == records["plain"]["params"]


@pytest.mark.parametrize("step", [1, 2])
def test_interrupted_trials_go_on_in_another_worker_to_the_same_record(step, tmp_path, samples, monkeypatch):
    monkeypatch.setattr(trial, "_WORTH_WRITING_SECONDS", 0.0)
    monkeypatch.setattr("hpo.train._PIECE_FLOP", 1.0)
    c = context(tmp_path, samples)
    undisturbed = run(TrialRunner(c, CPU, "w", capacity=2), task(0, step), task(1, step))
    first = TrialRunner(c, CPU, "first", capacity=2)
    monkeypatch.setattr(trial, "_ADVANCE_SECONDS", 1e-3)
    for k in (0, 1):
        first.start(task(k, step))
    while not first.running() or first.running()[0]["epoch"] < 2:
        assert first.advance() == []
    shown = first.running()
    assert [r["trial"] for r in shown] == [0, 1] and shown[0]["best_mse"] > 0.0 and shown[0]["max_epochs"] == 6
    first.interrupt()
    assert first.running() == [] and first.advance() == []
    paths = [checkpoint_path(tmp_path, step, k) for k in (0, 1)]
    assert all(p.exists() for p in paths)
    assert not list(paths[0].parent.glob(".*")), "a half-written checkpoint is left"
    second = run(TrialRunner(c, CPU, "second", capacity=2), task(0, step), task(1, step))
    for k in (0, 1):
        assert comparable(second[k]) == comparable(undisturbed[k])
        remove_checkpoint(tmp_path, k, step)
        assert not paths[k].exists()


def test_a_trial_that_has_hardly_begun_is_not_written_down(tmp_path, samples, monkeypatch):
    monkeypatch.setattr(trial, "_WORTH_WRITING_SECONDS", 3600.0)
    monkeypatch.setattr(trial, "_ADVANCE_SECONDS", 1e-4)
    c = context(tmp_path, samples, checkpoint_seconds=1e9)
    runner = TrialRunner(c, CPU, "w")
    runner.start(task(0))
    runner.advance()
    runner.interrupt()
    assert not checkpoint_path(tmp_path, 1, 0).exists()


def test_a_network_that_cannot_be_saved_fails_its_trial_alone(tmp_path, samples, monkeypatch):
    def full(path, **content):
        if content["provenance"]["trial"] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trial, "save_bundle", full)
    results = run(TrialRunner(context(tmp_path, samples), CPU, "w", capacity=2), task(0, 2), task(1, 2))
    assert isinstance(results[0], OSError)
    assert results[1]["state"] == "complete" and results[1]["model"].endswith("trial-000001.pt")


@pytest.mark.parametrize(
    "error", [MemoryError("none left"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_a_trial_without_memory_even_alone_is_a_failed_one(error, tmp_path, samples, monkeypatch):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(trial, "FlatTraining", refuse)
    record = run(TrialRunner(context(tmp_path, samples), CPU, "w"), task(0))[0]
    assert record["state"] == "failed" and "out of memory on cpu" in record["error"]


def test_what_a_device_cannot_do_is_refused_at_once(tmp_path, samples):
    c = context(tmp_path, samples, precision="tf32")
    with pytest.raises(SearchError, match="tf32"):
        TrialRunner(c, CPU, "w")


class Ranked(Progress):
    """A training by a group, as one seat sees it: how it ends is set beforehand."""

    ending: Exception | None = None
    written = closed = 0

    def __init__(self, seat, spec, recipe, data, *, weights_seed, batch_seed):
        super().__init__(recipe, batch_seed=batch_seed)

    def advance(self):
        if self.ending is not None:
            raise self.ending
        self._end_epoch(1.0, 1.0 / (self.epoch + 2), 1.0)
        return True

    def agree_to_stop(self):
        raise GroupLost("gone meanwhile")

    def state(self):
        Ranked.written += 1
        return {}

    def close(self):
        Ranked.closed += 1

    def best_weights(self):
        return {}

    def _keep_best(self):
        pass


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("ending", [None, Interrupted("another rank stops"), GroupLost("a rank is gone")], ids=repr)
def test_only_the_first_seat_records_and_writes_down(rank, ending, tmp_path, samples, monkeypatch):
    monkeypatch.setattr(trial, "group_training", Ranked)
    monkeypatch.setattr(trial, "save_bundle", lambda path, **content: None)
    monkeypatch.setattr(Ranked, "ending", ending)
    monkeypatch.setattr(Ranked, "written", 0)
    monkeypatch.setattr(Ranked, "closed", 0)
    c = context(tmp_path, samples, checkpoint_seconds=1e9)
    seat = Seat(rank=rank, size=2, attempt="a", folder=tmp_path)
    result = run(TrialRunner(c, CPU, "w"), task(0, 2, seat=seat))[0]
    assert Ranked.closed == 1
    assert Ranked.written == (1 if isinstance(ending, Interrupted) and rank == 0 else 0)
    if ending is not None:
        assert result is ending
    elif rank:
        assert result is None
    else:
        assert result["state"] == "complete" and result["epochs"] == 6


def test_a_group_lost_while_it_agrees_to_stop_is_not_written_down(tmp_path, samples, monkeypatch):
    monkeypatch.setattr(trial, "group_training", Ranked)
    monkeypatch.setattr(Ranked, "written", 0)
    runner = TrialRunner(context(tmp_path, samples), CPU, "w")
    runner.start(task(0, 2, seat=Seat(rank=0, size=2, attempt="a", folder=tmp_path)))
    runner.interrupt()
    assert Ranked.written == 0 and runner.running() == []
