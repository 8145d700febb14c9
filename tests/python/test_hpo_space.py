"""Configuration i is a function of the seed and i alone, drawn from the distributions that the study shows."""

import numpy as np
import pytest
from scipy import stats

from hpo.config import Config
from hpo.dimensions import Choices, Range
from hpo.errors import SearchError
from hpo.recipe import Recipe
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


# Draws of configs that existed before hyperparameters could have conditions, as they were then: a study begun with an
# older version goes on with the same trials.
FORMER_TABLES = {
    "space": {
        "activation": ["relu", "tanh"], "depth": {"low": 1, "high": 4}, "widths": {"low": 8, "high": 256, "log": True},
    },
    "data": {"transforms": ["auto", "none"]},
    "train": {
        "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "batch_size": {"low": 32, "high": 128, "step": 32},
        "optimizer": ["adam", "adamw"],
        "learning_rate_schedule": ["constant", "cosine"],
        "final_learning_rate_fraction": {"low": 0.001, "high": 0.1},
        "weight_decay": [0.0, 1e-4, 1e-3],
    },
    "search": {"seed": 5},
}  # fmt: skip
FORMER_DRAWS = {
    0: {
        "num_hidden": 2, "width_1": 29, "width_2": 88, "activation": "tanh", "transforms": "none",
        "learning_rate": 0.03287758317855919, "batch_size": 128, "optimizer": "adamw",
        "learning_rate_schedule": "cosine", "final_learning_rate_fraction": 0.09325120899530336, "weight_decay": 0.0,
    },
    9999: {
        "num_hidden": 3, "width_1": 104, "width_2": 8, "width_3": 22, "activation": "tanh", "transforms": "auto",
        "learning_rate": 0.050988344993387155, "batch_size": 64, "optimizer": "adam",
        "learning_rate_schedule": "constant", "final_learning_rate_fraction": 0.005050278947705233,
        "weight_decay": 0.0,
    },
}  # fmt: skip


def test_configs_of_former_versions_draw_what_they_drew():
    paper = [1024, 64, 256, 64, 16, 2048]
    expected = {"num_hidden": 6} | {f"width_{k}": w for k, w in enumerate(paper, start=1)}
    assert Space(Config()).draw(9999) == expected
    for trial, params in FORMER_DRAWS.items():
        assert list(Space(Config.from_dict(FORMER_TABLES)).draw(trial).items()) == list(params.items())


CONDITIONAL = {
    "space": {"depth": {"low": 1, "high": 4}},
    "train": {
        "loss": ["mse", "huber"],
        "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "optimizer": ["adam", "sgd", "rmsprop"],
        "momentum": {"low": 0.8, "high": 0.99, "when": {"optimizer": "sgd"}},
        "nesterov": {"choices": [True, False], "when": {"momentum": {"low": 0.9, "high": 1.0}}},
        "huber_delta": {"low": 0.1, "high": 1.0, "when": {"loss": "huber", "optimizer": ["adam", "sgd"]}},
        "dropout": {"low": 0.0, "high": 0.5, "when": {"depth": {"low": 3, "high": 4}}},
    },
}


def test_a_parameter_is_there_exactly_where_its_conditions_hold():
    s = Space(Config.from_dict(CONDITIONAL))
    seen = set()
    for i in range(300):
        params = s.draw(i)
        conditions = {
            "momentum": params["optimizer"] == "sgd",
            "nesterov": params.get("momentum", 0.0) >= 0.9,  # a condition on one that is itself not always there
            "huber_delta": params["loss"] == "huber" and params["optimizer"] != "rmsprop",
            "dropout": params["num_hidden"] >= 3,
        }
        recipe, default = s.recipe(params, 1), Recipe()
        for name, holds in conditions.items():
            assert (name in params) == holds, (name, params)
            assert getattr(recipe, name) == (params[name] if holds else getattr(default, name))
        assert set(s.distributions(params)) == set(params)
        seen |= set(params)
    assert seen == {p.name for p in s.parameters()}


def test_a_condition_leaves_the_value_that_is_drawn_as_it_was():
    unconditional = {
        name: {k: v for k, v in value.items() if k != "when"} if isinstance(value, dict) else value
        for name, value in CONDITIONAL["train"].items()
    }
    s, always = Space(Config.from_dict(CONDITIONAL)), Space(Config.from_dict(CONDITIONAL | {"train": unconditional}))
    for i in range(50):
        params, all_of_them = s.draw(i), always.draw(i)
        assert params == {name: all_of_them[name] for name in params}


def test_parameters_come_after_what_they_depend_on_and_say_when_they_are_there():
    s = Space(Config.from_dict(CONDITIONAL))
    before: set[str] = set()
    for parameter in s.parameters():
        assert set(parameter.when) <= before
        before.add(parameter.name)
    by_name = {p.name: p for p in s.parameters()}
    assert by_name["width_1"].when == {}
    assert by_name["width_4"].when == {"num_hidden": Range(low=4, high=4)}
    assert by_name["momentum"].when == {"optimizer": Choices(values=("sgd",))}
    assert by_name["momentum"].is_active({"optimizer": "sgd"}) and not by_name["momentum"].is_active({})


def test_conditions_on_fixed_settings_are_settled_beforehand():
    never = CONDITIONAL | {"train": CONDITIONAL["train"] | {"optimizer": "adam"}}
    names = {p.name for p in Space(Config.from_dict(never)).parameters()}
    assert "huber_delta" in names and not names & {"optimizer", "momentum", "nesterov"}
    always = CONDITIONAL | {"train": CONDITIONAL["train"] | {"optimizer": "sgd"}}
    by_name = {p.name: p for p in Space(Config.from_dict(always)).parameters()}
    assert by_name["momentum"].when == {} and set(by_name["huber_delta"].when) == {"loss"}


def test_a_second_stage_fixes_and_narrows_parameters_of_the_first():
    config = Config.from_dict(CONDITIONAL)
    fixed = {"optimizer": "sgd", "num_hidden": 2, "width_1": 64}
    second = Space(config, fixed=fixed, narrowed={"momentum": Range(low=0.93, high=0.95)})
    names = [p.name for p in second.parameters()]
    assert not set(names) & set(fixed) and "width_2" in names and "width_3" not in names and "dropout" not in names
    for i in range(20):
        params = second.draw(i)
        assert second.hidden(params) == (64, params["width_2"])
        recipe = second.recipe(params, 1)
        assert recipe.optimizer == "sgd" and 0.93 <= recipe.momentum <= 0.95
        assert second.distributions(params)["momentum"].high == 0.95
    with pytest.raises(SearchError, match="'widht_1' is not searched here; expected one of num_hidden, width_1"):
        Space(config, fixed={"widht_1": 3})


@pytest.mark.parametrize("policy", ["same", "funnel"])
def test_width_policies_need_one_width_for_all_layers(policy):
    tables = {"depth": {"low": 1, "high": 6}, "widths": [8, 30, 100], "width_policy": policy, "taper": 0.5}
    s = Space(Config.from_dict({"space": tables}))
    for i in range(20):
        params = s.draw(i)
        assert set(params) == {"num_hidden", "width"}
        width, depth = params["width"], params["num_hidden"]
        funnel = {8: [8, 4, 2, 1, 1, 1], 30: [30, 15, 8, 4, 2, 1], 100: [100, 50, 25, 12, 6, 3]}[width]
        assert list(s.hidden(params)) == ([width] * depth if policy == "same" else funnel[:depth])


def test_the_width_policy_can_be_searched_with_what_belongs_to_it():
    tables = {"width_policy": ["independent", "same", "funnel"], "taper": {"low": 0.3, "high": 0.9}}
    s = Space(Config.from_dict({"space": tables}))
    seen = set()
    for i in range(60):
        params = s.draw(i)
        policy = params["width_policy"]
        assert ("taper" in params) == (policy == "funnel")
        assert ("width" in params) == (policy != "independent") == ("width_1" not in params)
        assert len(s.hidden(params)) == params["num_hidden"]
        seen.add(policy)
    assert seen == {"independent", "same", "funnel"}


def test_a_space_of_a_thousand_layers_is_ready_at_once():
    s = Space(Config.from_dict({"space": {"depth": {"low": 1, "high": 1000}, "widths": 8}}))
    assert len(s.parameters()) == 1001 and len(s.hidden(s.draw(0))) == s.draw(0)["num_hidden"]
