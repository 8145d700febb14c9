"""Trainings that end early: limits computed by hand, what becomes of the trials, and the same search again."""

import random
import signal
import time

import pytest

from hpo.config import Config, read_toml
from hpo.errors import SearchError
from hpo.history import Finished
from hpo.promotion import promote
from hpo.pruners import pruner_of
from hpo.recipe import Recipe
from hpo.space import Space
from hpo.study import ranking
from hpo.train import Progress
from tests.python.hpo_cases import outcomes, raw_records, run, start, write_config, write_samples
from tests.python.sampler_cases import config, error, plain, search


def pruner(name, **settings):
    return pruner_of(config(pruner=name, startup=3, min_epochs=2, reduction=2, **settings).search)


def finished(*curve, state="complete"):
    mse = None if state == "failed" else min(curve)
    best = tuple(min(curve[: k + 1]) for k in range(len(curve)))
    return Finished(state, mse, best, 10)


CURVES = {
    0: finished(8.0, 5.0, 4.0, 4.5, 3.0, 3.0, 3.0, 3.0),
    1: finished(9.0, 7.0, 6.0, 2.0, 2.0, 2.0, 2.0, 1.0),
    2: finished(6.0, 6.0),  # ended for want of progress: 6 from then on
    3: finished(9.0, 9.0, state="pruned"),
    4: finished(state="failed"),
}


def test_the_median_is_that_of_complete_trials_after_every_epoch():
    limits = pruner("median").limits(9, 8, CURVES)
    assert limits == [(2, 6.0), (3, 6.0), (4, 4.0), (5, 3.0), (6, 3.0), (7, 3.0)]
    few = {k: f for k, f in CURVES.items() if k != 2}
    assert pruner("median").limits(9, 8, few) == [], "two complete trials are fewer than startup"


def test_asha_lets_the_best_of_every_rung_go_on():
    # rung 2: 5, 6, 7, 9 and this one: two of five go on; rung 4: 2, 4, 6 and this one: two of four
    assert pruner("asha").limits(9, 8, CURVES) == [(2, 6.0), (4, 4.0)]
    assert pruner("asha").limits(9, 16, CURVES) == [(2, 6.0), (4, 4.0), (8, 3.0)]
    few = {k: CURVES[k] for k in (0, 1)}
    assert pruner("asha").limits(9, 8, few) == []


def test_hyperband_compares_the_trials_of_a_ladder_and_shares_epochs_among_ladders():
    band = pruner("hyperband")
    ladders = [band.ladder(t, 16) for t in range(44)]  # rungs 2, 4, 8; 4, 8; 8; none
    assert [ladders.count(k) for k in range(4)] == [16, 12, 8, 8], "Hyperband begins 8, 6, 4, 4"
    own = [t for t in range(60) if band.ladder(t, 16) == 1]
    others = [t for t in range(60) if band.ladder(t, 16) == 0]
    known = {t: finished(*[float(k + 1)] * 16) for k, t in enumerate(own[:4])}
    known |= {t: finished(*[0.1] * 16) for t in others[:4]}
    assert band.limits(own[5], 16, known) == [(4, 2.0), (8, 2.0)]
    assert band.limits(others[5], 16, known) == [(2, 0.1), (4, 0.1), (8, 0.1)]
    last = next(t for t in range(60) if band.ladder(t, 16) == 3)
    assert band.limits(last, 16, known) == [], "trains to the end whatever comes"


@pytest.mark.parametrize("name", ["median", "asha", "hyperband"])
@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_pruned_search_is_the_same_whoever_runs_it_and_keeps_the_best(tmp_path, name, sampler):
    c = config(sampler=sampler, pruner=name, trials=80, batch=8, startup=4, reduction=3)
    alone = search(tmp_path / "alone", c)
    assert plain(search(tmp_path / "three", c, members=3, rng=random.Random(3))) == plain(alone)
    states = [f.state for _, f in alone]
    assert states.count("pruned") >= 10 and "pruned" not in states[: 2 * 8]
    assert sum(len(f.best) for _, f in alone) < 0.9 * 80 * 36
    # curves do not cross here: the best configuration can never be beyond a limit
    best = min(alone, key=lambda one: error(one[0]))
    assert best[1].state == "complete"


def test_a_grid_with_a_pruner_ends_with_the_last_configuration(tmp_path):
    c = Config.from_dict(
        {
            "space": {"depth": 2, "widths": {"choices": [8, 32]}, "activation": ["relu", "tanh"]},
            "train": {"learning_rate": [1e-4, 1e-3, 5e-3], "max_epochs": 36},
            "search": {"sampler": "grid", "pruner": "median", "trials": 24, "batch": 10},
        }
    )
    assert len({str(p) for p, _ in search(tmp_path, c)}) == 24


class Steps(Progress):
    """A training whose validation MSE is given."""

    def __init__(self, curve, limits, **recipe):
        super().__init__(Recipe(max_epochs=len(curve), **recipe), batch_seed=1)
        self._mse, self.limits = iter(curve), limits

    def advance(self):
        self._end_epoch(1.0, next(self._mse), 1.0)
        return True

    def _keep_best(self):
        pass


def ended(curve, limits, **recipe):
    training = Steps(curve, limits, **recipe)
    while not training.done:
        training.run_epoch()
    return training.epoch, training.pruned


def test_a_training_ends_at_the_first_limit_that_its_least_error_exceeds():
    assert ended([5, 4, 3, 2], {}) == (4, False)
    assert ended([5, 4, 3, 2], {2: 4.0, 3: 3.0}) == (4, False), "no more than the limit"
    assert ended([5, 4, 3, 2], {2: 3.9}) == (2, True)
    assert ended([2, 9, 9, 9], {3: 2.5}, patience=9) == (4, False), "its least error counts, not its last"
    assert ended([5, 6, 6, 6], {3: 1.0}, patience=2) == (3, False), "it would have ended there in any case"
    assert ended([5, 4], {2: 1.0}) == (2, False)


def record(trial, mse, state="complete", parameters=10):
    return {"trial": trial, "params": {}, "state": state, "validation_mse": mse, "num_parameters": parameters}


def test_pruned_trials_rank_after_complete_ones_and_are_retrained_only_for_want_of_others():
    records = [record(0, 0.1, "pruned", 1), record(1, 0.3), record(2, None, "failed"), record(3, 0.2)]
    assert [r["trial"] for r in ranking(records)] == [3, 1, 0]

    def chosen(**settings):
        return [(p.trial, p.promoted) for p in promote(records, light_factor=3.0, **settings)]

    assert chosen(top=2, light_top=2) == [(3, "error"), (1, "error")]
    assert chosen(top=3, light_top=0) == [(3, "error"), (1, "error"), (0, "error")]


# -- real searches ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_samples(tmp_path_factory.mktemp("pruners") / "samples.nc", num_samples=600)


def settings(path, samples, **search):
    return write_config(
        path,
        samples,
        space={"depth": {"low": 1, "high": 2}, "widths": {"choices": [4, 8]}},
        train={"max_epochs": 9, "learning_rate": {"low": 1e-6, "high": 1e-1, "log": True}, "batch_size": 32},
        search={"trials": 20, "top": 2, "p_subset": 0.5, "batch": 4, "startup": 2, "min_epochs": 1} | search,
    )


@pytest.mark.parametrize("name", ["median", "asha"])
def test_every_pruner_searches_for_real_and_the_same_with_any_number_of_workers(tmp_path, samples, name):
    c = settings(tmp_path / "c.toml", samples, pruner=name)
    run("--config", c, "--workers", 1, "--quiet", out=tmp_path / "one")
    run("--config", c, "--workers", 3, "--quiet", out=tmp_path / "three")
    assert outcomes(tmp_path / "one", 1) == outcomes(tmp_path / "three", 1)
    assert outcomes(tmp_path / "one", 2) == outcomes(tmp_path / "three", 2)
    first = raw_records(tmp_path / "one", 1)
    pruned = [r for r in first if r["state"] == "pruned"]
    assert 3 <= len(pruned) < 20
    for r in pruned:
        curve = r["curve"]["validation_mse"]
        assert r["epochs"] == len(curve) < 9 and r["validation_mse"] == min(curve) and r["error"] is None
    # a network that was pruned is, up to then, the one that a search without a pruner trains
    run("--config", settings(tmp_path / "d.toml", samples), "--workers", 2, "--quiet", out=tmp_path / "whole")
    whole = raw_records(tmp_path / "whole", 1)
    for r in first:
        expected = whole[r["trial"]]["curve"]["validation_mse"][: r["epochs"]]
        assert r["curve"]["validation_mse"] == expected
    best = min(whole, key=lambda r: r["validation_mse"])
    assert best["trial"] in {r["trial"] for r in raw_records(tmp_path / "one", 2)}


def test_bohb_goes_on_after_a_kill_and_ends_as_if_nothing_had_happened(tmp_path, samples):
    import optuna

    c = settings(tmp_path / "c.toml", samples, sampler="tpe", pruner="hyperband", trials=24)
    run("--config", c, "--workers", 2, "--quiet", out=tmp_path / "whole")
    out = tmp_path / "killed"
    process = start("--config", c, "--workers", 2, "--quiet", out=out)
    while sum(p.read_bytes().count(b"\n") for p in out.glob("step1/worker-*.jsonl")) < 9:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run("--out", out, "--workers", 1, "--quiet", out=out)
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


def test_an_unknown_pruner_is_refused():
    with pytest.raises(SearchError, match=r"pruner is 'halving' .*expected one of none, median, asha, hyperband"):
        config(pruner="halving")


# -- rungs of growing subsets ----------------------------------------------------------------------------------------


def test_rungs_keep_the_best_and_go_on_after_a_kill(tmp_path, samples):
    rungs = {"rungs": [0.125, 0.25], "reduction": 2, "trials": 12}
    c = settings(tmp_path / "c.toml", samples, **rungs)
    run("--config", c, "--workers", 1, "--quiet", out=tmp_path / "one")
    out = tmp_path / "killed"
    process = start("--config", c, "--workers", 2, "--quiet", out=out)
    while sum(p.read_bytes().count(b"\n") for p in out.glob("rung2/step1/worker-*.jsonl")) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run("--out", out, "--workers", 2, "--quiet", out=out)
    for folder in ("rung1", "rung2", "."):
        assert outcomes(out / folder, 1) == outcomes(tmp_path / "one" / folder, 1)
    assert outcomes(out, 2) == outcomes(tmp_path / "one", 2)
    first, second, last = (raw_records(out / name, 1) for name in ("rung1", "rung2", "."))
    assert [len(first), len(second), len(last)] == [12, 6, 12]
    assert {r["trial"] for r in second} == {r["trial"] for r in ranking(first)[:6]}
    by_trial = {r["trial"]: r for r in last}
    ended = {r["trial"]: r["rung"] for r in last if r["state"] == "pruned"}
    through = {r["trial"] for r in ranking(second)[:3]}
    assert {t: 1 for t in ended if t not in {r["trial"] for r in second}} | {
        r["trial"]: 2 for r in second if r["trial"] not in through
    } == ended
    for r in second:
        if r["trial"] in ended:
            assert by_trial[r["trial"]]["curve"] == r["curve"] and by_trial[r["trial"]]["subset"] == 0.25
    run("--out", out, "--trials", 13, "--quiet", out=out, status=2)
    assert all(by_trial[t]["state"] == "complete" and "rung" not in by_trial[t] for t in through)


def test_rungs_have_to_grow_and_stay_below_step_1():
    for rungs in ([0.2, 0.1], [0.05], [0.0], 0.01):
        with pytest.raises(SearchError, match=r"rungs is .*growing parts of the samples, above 0 and below p_subset"):
            config(rungs=rungs, p_subset=0.05)
