"""Samplers, pruners and rungs in real searches: trainings, worker processes, a member killed."""

import signal
import subprocess
import sys

import optuna
import pytest

from hpo.config import Config, read_toml
from hpo.history import Finished
from hpo.proposals import Proposals
from hpo.space import Space
from hpo.study import ranking
from tests.python.hpo_cases import ROOT, outcomes, raw_records, run, write_config, write_samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_samples(tmp_path_factory.mktemp("samplers") / "samples.nc", num_samples=400)


def settings(path, samples, sampler, pruner, **search):
    """Trainings of tiny networks for a function that needs a learning rate above 1e-4."""
    rate = [1e-6, 1e-3, 3e-2] if sampler == "grid" else {"low": 1e-6, "high": 1e-1, "log": True}
    few = {"trials": 16, "top": 2, "p_subset": 0.5, "batch": 4, "startup": 2, "min_epochs": 1}
    return write_config(
        path,
        samples,
        space={"depth": {"low": 1, "high": 2}, "widths": {"choices": [4, 8]}},
        train={"max_epochs": 6, "learning_rate": rate, "batch_size": 32},
        search=few | {"sampler": sampler, "pruner": pruner} | search,
    )


def proposed_again(folder, config, records):
    """What a member that runs all trials one after the other proposes, if they come to the same."""
    layer = Proposals(folder, Space(Config.from_dict(read_toml(config))))
    found, ready = [], 0
    for r in records:
        while layer.is_batched and r["trial"] >= ready:
            ready = layer.open_next().stop
        found.append(layer.trial(r["trial"]))
        layer.finished(r["trial"], Finished.of(r))
    return found


def killed(records, *arguments, out):
    """Run a search whose member kills itself with -9 when it has heard of so many trials of step 1 and its rungs."""
    program = """
import os, signal, sys
from hpo import search, step1
left, record = [int(sys.argv.pop(1))], step1.Step1Source.record
def last(self, r):
    record(self, r)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
step1.Step1Source.record = last
sys.exit(search.main())
"""
    command = [sys.executable, "-c", program, records, *arguments, "--out", out, "--device", "cpu", "--quiet"]
    done = subprocess.run([str(c) for c in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


# Not `random`, of which test_search.py has all, nor `tpe`, which is below.
@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [("grid", "none"), ("sobol", "none"), ("gp", "none"), ("cmaes", "median"), ("nsga2", "none")],
)
def test_every_sampler_searches_for_real(tmp_path, samples, sampler, pruner):
    c = settings(tmp_path / "c.toml", samples, sampler, pruner)
    run("--config", c, "--workers", 2, "--quiet", out=tmp_path / "out")
    first, second = raw_records(tmp_path / "out", 1), raw_records(tmp_path / "out", 2)
    assert [r["trial"] for r in first] == list(range(16)) and len(second) == 2
    assert all(r["params"]["learning_rate"] > 1e-4 for r in second), "what does not learn is not retrained"
    assert all(r["params"] == first[r["trial"]]["params"] for r in second)
    again = proposed_again(tmp_path / "again", c, first)
    assert [t.params for t in again] == [r["params"] for r in first]
    for t, r in zip(again, first, strict=True):
        beyond = [epoch for epoch, mse in t.limits if epoch <= r["epochs"] and r["validation_mse"] > mse]
        assert (r["state"] == "pruned") == (r["epochs"] in beyond)
    assert any(r["state"] == "pruned" for r in first) == (pruner != "none")


def test_a_pruned_network_is_up_to_then_the_one_that_is_not_pruned(tmp_path, samples):
    for pruner in ("asha", "none"):
        c = settings(tmp_path / f"{pruner}.toml", samples, "random", pruner)
        run("--config", c, "--workers", 1, "--quiet", out=tmp_path / pruner)
    first, whole = raw_records(tmp_path / "asha", 1), raw_records(tmp_path / "none", 1)
    pruned = [r for r in first if r["state"] == "pruned"]
    assert 2 <= len(pruned) <= 14
    for r in first:
        assert r["curve"]["validation_mse"] == whole[r["trial"]]["curve"]["validation_mse"][: r["epochs"]]
    for r in pruned:
        assert r["epochs"] == len(r["curve"]["validation_mse"]) < 6 and r["error"] is None
        assert r["validation_mse"] == min(r["curve"]["validation_mse"])
    best = ranking(whole)[0]["trial"]
    assert best in {r["trial"] for r in raw_records(tmp_path / "asha", 2)}


def test_bohb_goes_on_after_a_kill_and_ends_as_if_nothing_had_happened(tmp_path, samples):
    c = settings(tmp_path / "c.toml", samples, "tpe", "hyperband", reduction=2, trials=20)
    run("--config", c, "--workers", 1, "--quiet", out=tmp_path / "whole")
    out = tmp_path / "killed"
    killed(9, "--config", c, "--workers", 2, out=out)
    assert 9 <= len(raw_records(out, 1)) < 20
    run("--out", out, "--workers", 2, "--quiet", out=out)
    assert outcomes(out, 1) == outcomes(tmp_path / "whole", 1)
    assert outcomes(out, 2) == outcomes(tmp_path / "whole", 2)
    records = raw_records(out, 1)
    assert any(r["state"] == "pruned" for r in records)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / "study.journal")))
    trials = optuna.load_study(study_name="step1", storage=storage).trials
    assert [t.state.name.lower() for t in trials] == [r["state"] for r in records]
    assert [t.params for t in trials] == [r["params"] for r in records]
    for t, r in zip(trials, records, strict=True):
        assert t.distributions == Space(Config.from_dict(read_toml(c))).distributions(r["params"])
        assert list(t.intermediate_values.values()) == r["curve"]["validation_mse"]


def test_a_search_on_rungs_goes_on_after_a_kill_on_a_rung_and_one_in_step_1(tmp_path, samples):
    c = settings(tmp_path / "c.toml", samples, "random", "none", rungs=[0.25], reduction=2, trials=8)
    run("--config", c, "--workers", 1, "--quiet", out=tmp_path / "whole")
    out = tmp_path / "killed"
    killed(5, "--config", c, "--workers", 2, out=out)
    there = len(raw_records(out / "rung1", 1))
    assert 5 <= there <= 8 and not (out / "step1").exists()  # workers may have recorded more than it heard of
    killed(8 - there + 2, "--workers", 1, out=out)
    assert 4 + 2 <= len(raw_records(out, 1)) <= 8
    run("--out", out, "--workers", 1, "--quiet", out=out)
    assert outcomes(out / "rung1", 1) == outcomes(tmp_path / "whole" / "rung1", 1)
    for step in (1, 2):
        assert outcomes(out, step) == outcomes(tmp_path / "whole", step)
    first, last = raw_records(out / "rung1", 1), raw_records(out, 1)
    assert len(first) == len(last) == 8
    best = {r["trial"] for r in ranking(first)[:4]}
    for on_rung, r in zip(first, last, strict=True):
        if r["trial"] in best:
            assert r["state"] == "complete" and "rung" not in r
        else:
            assert r == on_rung | {"state": "pruned", "rung": 1, "subset": 0.25}
    run("--out", out, "--trials", 9, "--quiet", out=out, status=2)
    c.write_text(c.read_text() + "light_factor = 50.0\n")
    run("--config", c, "--quiet", out=out, status=2)
