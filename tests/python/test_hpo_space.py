"""Configuration i is a function of the seed and i alone, drawn from the distributions that the study shows."""

import numpy as np
import pytest
from scipy import stats

from hpo.config import Config
from hpo.space import Space, _Streams, stream, torch_seed

TABLES = {
    "space": {"activation": ["relu", "tanh"]},
    "data": {"transforms": ["auto", "none"]},
    "train": {
        "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "batch_size": {"low": 32, "high": 128, "step": 32},
    },
}


def space(seed=0, **changes):
    return Space(Config.from_dict(TABLES | changes | {"search": {"seed": seed}}))


def test_a_trial_is_the_same_whatever_was_drawn_before():
    forward = [space().draw(i) for i in range(20)]
    backward = [space().draw(i) for i in reversed(range(20))][::-1]
    assert forward == backward
    assert forward != [space(seed=1).draw(i) for i in range(20)]
    assert len({str(p) for p in forward}) == 20


def test_the_generator_that_is_set_anew_gives_the_numbers_of_a_new_one():
    reused = _Streams()
    for trial in range(50):
        for purpose in ("width_1", "learning_rate"):
            again, new = reused(2**63 - 1, trial, purpose), stream(2**63 - 1, trial, purpose)
            for draw in (lambda g: g.integers(9, dtype="uint32"), lambda g: g.random(), lambda g: g.integers(1 << 63)):
                assert draw(again) == draw(new)  # three kinds of draws, of which one leaves half a word behind


def test_adding_a_hyperparameter_leaves_the_others_as_they_were():
    fewer = space(train={"learning_rate": TABLES["train"]["learning_rate"]})
    for i in range(20):
        more, less = space().draw(i), fewer.draw(i)
        assert {k: more[k] for k in less} == less
        assert set(more) - set(less) == {"batch_size"}


def test_only_the_widths_of_existing_layers_are_parameters():
    for i in range(50):
        params = space().draw(i)
        widths = [k for k in params if k.startswith("width_")]
        assert widths == [f"width_{k}" for k in range(1, params["num_hidden"] + 1)]
        assert space().hidden(params) == tuple(params[k] for k in widths)


def test_draws_have_the_distributions_of_the_study():
    s, n = space(), 3000
    draws = [s.draw(i) for i in range(n)]
    for params in draws[:200]:
        for name, distribution in s.distributions(params).items():
            assert distribution._contains(distribution.to_internal_repr(params[name])), name
    limit = 1e-4  # a fixed seed: chance of a false alarm when the draw was chosen, once
    depth = np.bincount([p["num_hidden"] for p in draws], minlength=21)[1:]
    assert stats.chisquare(depth).pvalue > limit
    for name, count in (("width_1", 9), ("activation", 2), ("transforms", 2), ("batch_size", 4)):
        values, counts = np.unique([p[name] for p in draws], return_counts=True)
        assert len(values) == count and stats.chisquare(counts).pvalue > limit, name
    log_rate = np.log10([p["learning_rate"] for p in draws])
    assert stats.kstest(log_rate, stats.uniform(-4, 3).cdf).pvalue > limit
    pairs = [(p["width_1"], p["width_2"]) for p in draws if p["num_hidden"] > 1]
    table = np.zeros((9, 9))
    for a, b in pairs:
        table[int(np.log2(a)) - 3, int(np.log2(b)) - 3] += 1
    assert stats.chi2_contingency(table).pvalue > limit, "widths of neighbouring layers are not independent"


def test_integer_log_ranges_agree_with_optunas_sampler():
    import optuna

    s = space(space={"widths": {"low": 2, "high": 9, "log": True}})
    ours = [s.draw(i)["width_1"] for i in range(3000)]
    sampler = optuna.samplers.RandomSampler(seed=1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    theirs = [study.ask().suggest_int("w", 2, 9, log=True) for _ in range(3000)]
    assert min(ours) == 2 and max(ours) == 9
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-4


@pytest.mark.parametrize("purpose", ["weights of step 1", "weights of step 2", "batch of step 1"])
def test_generator_seeds_differ_between_trials_and_purposes(purpose):
    seeds = {torch_seed(0, i, purpose) for i in range(100)} | {torch_seed(0, i, "batch of step 2") for i in range(100)}
    assert len(seeds) == 200


def test_step2_settings_replace_those_of_the_trial():
    config = Config.from_dict(TABLES | {"step2": {"max_epochs": 300, "learning_rate": 0.5}})
    s = Space(config)
    params = s.draw(4)
    first, second = s.recipe(params, 1), s.recipe(params, 2)
    assert (first.learning_rate, first.max_epochs) == (params["learning_rate"], 100)
    assert (second.learning_rate, second.max_epochs, second.batch_size) == (0.5, 300, params["batch_size"])
