"""Trainings that end early: limits computed by hand, what becomes of the trials, and the same search again."""

import random
from types import SimpleNamespace

import pytest

from emulator.records import RecordWriter, read_folder
from hpo.config import Config
from hpo.errors import SearchError
from hpo.history import Finished
from hpo.promotion import going_on, promote
from hpo.pruners import pruner_of
from hpo.recipe import Recipe
from hpo.rungs import close
from hpo.study import ranking
from hpo.train import Progress
from tests.python.sampler_cases import config, error, plain, search


def pruner(name, most_epochs=16, **settings):
    return pruner_of(config(pruner=name, startup=3, min_epochs=2, reduction=2, **settings).search, most_epochs)


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
    ladders = [band.ladder(t) for t in range(44)]  # rungs 2, 4, 8; 4, 8; 8; none
    assert [ladders.count(k) for k in range(4)] == [16, 12, 8, 8], "Hyperband begins 8, 6, 4, 4"
    own = [t for t in range(60) if band.ladder(t) == 1]
    others = [t for t in range(60) if band.ladder(t) == 0]
    known = {t: finished(*[float(k + 1)] * 16) for k, t in enumerate(own[:4])}
    known |= {t: finished(*[0.1] * 16) for t in others[:4]}
    assert band.limits(own[5], 16, known) == [(4, 2.0), (8, 2.0)]
    assert band.limits(others[5], 16, known) == [(2, 0.1), (4, 0.1), (8, 0.1)]
    assert band.limits(own[5], 6, known) == [(4, 2.0)], "a shorter training is of the same ladder"
    assert band.limits(own[5], 4, known) == []
    last = next(t for t in range(60) if band.ladder(t) == 3)
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


def test_a_rung_lets_the_best_and_the_light_ones_go_on():
    """Of 12 trials with errors 1, 2, ... and 100 parameters each but for three light ones, of which one is too bad."""
    light = {4: 60, 6: 40, 11: 10}
    records = [record(t, 1.0 + t, parameters=light.get(t, 100)) for t in range(12)]
    records.append(record(12, None, "failed"))

    def going(**settings):
        return [r["trial"] for r in going_on(records, config(rungs=[0.01], **settings))]

    assert going(reduction=3, top=2) == [0, 1, 2, 3, 4]
    assert going(reduction=3, top=2, light_top=2, light_factor=8.0) == [0, 1, 2, 4, 6]
    assert going(reduction=3, top=2, light_top=1, light_factor=8.0) == [0, 1, 2, 3, 6], "the lightest of the front"
    assert going(reduction=3, top=2, light_top=2, light_factor=2.0) == [0, 1, 2, 3, 4], "none is near: by error"
    assert going(reduction=13, top=2, light_top=2, light_factor=8.0) == [0, 1, 4, 6], "as step 2 would take them"


def test_an_unknown_pruner_is_refused():
    with pytest.raises(SearchError, match=r"pruner is 'halving' .*expected one of none, median, asha, hyperband"):
        config(pruner="halving")


# -- rungs of growing subsets ----------------------------------------------------------------------------------------


def test_what_ends_on_a_rung_is_recorded_once_whoever_does_it(tmp_path):
    """Twelve trials on two rungs, of which one in two goes on; a failed one and those of a longer study besides."""
    c = config(trials=12, top=2, rungs=[0.01, 0.02], reduction=2)
    context = SimpleNamespace(config=c, folder=tmp_path)
    errors = {t: 12.0 - t for t in range(12)}
    write(tmp_path / "rung1", [record(t, errors[t]) for t in range(1, 12)] + [record(0, None, "failed"), record(12, 0)])
    write(tmp_path / "rung2", [record(t, errors[t] / 2) for t in range(6, 12)])

    def taken(key):
        free.append(key)
        return len(free) > 1

    free, waits = [], []
    crew = SimpleNamespace(leases=SimpleNamespace(take=taken), member=SimpleNamespace(name="m"))
    for _ in range(2):
        left = close(context, crew, lambda: waits.append(1))
        assert {r["trial"] for r in left} == {9, 10, 11}
    assert len(waits) == 1 and len(free) == 2, "it waits while another one does it, and does nothing twice"
    ended = {
        r["trial"]: (r["state"], r["rung"], r["subset"], r["validation_mse"]) for r in read_folder(tmp_path / "step1")
    }
    assert ended.pop(0) == ("failed", 1, 0.01, None)
    assert ended == {t: ("pruned", 1, 0.01, errors[t]) for t in range(1, 6)} | {
        t: ("pruned", 2, 0.02, errors[t] / 2) for t in (6, 7, 8)
    }


def write(rung, records):
    with RecordWriter(rung / "step1" / "worker-m-000.jsonl") as writer:
        for r in records:
            writer.append(r | {"finished": "0"})


def test_rungs_have_to_grow_and_stay_below_step_1():
    for rungs in ([0.2, 0.1], [0.05], [0.0], 0.01):
        with pytest.raises(SearchError, match=r"rungs is .*growing parts of the samples, above 0 and below p_subset"):
            config(rungs=rungs, p_subset=0.05)
