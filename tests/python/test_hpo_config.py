"""Configs are checked when they are built, and errors say what was found, what was expected and what to do."""

import tomllib

import pytest

import emulator.mlp
import emulator.normalise
from hpo import config as config_module
from hpo import space_config
from hpo.config import Config, differences, to_toml
from hpo.dimensions import Choices, Range
from hpo.errors import SearchError


def test_defaults_are_the_papers():
    c = Config()
    assert c.space.depth == Range(low=1, high=20)
    assert c.space.widths == Choices(values=(8, 16, 32, 64, 128, 256, 512, 1024, 2048))
    assert (c.space.activation, c.search.trials, c.search.num_top) == ("relu", 10_000, 50)
    train = c.train.fixed
    assert (train["learning_rate"], train["batch_size"], train["max_epochs"], train["patience"]) == (1e-3, 1024, 100, 5)
    assert (train["optimizer"], train["learning_rate_schedule"], train["weight_decay"]) == ("adam", "constant", 0.0)


def test_validation_fraction_follows_the_paper():
    data = Config().data
    fractions = [data.validation_fraction_at(p) for p in (1.0, 0.5, 0.25, 0.05, 0.005, 0.0005, 0.00025)]
    assert fractions == [0.2, 0.2, 0.2, 0.2, 0.5, 0.5, 0.5]


def test_names_are_those_that_the_emulator_knows():
    assert set(space_config.ACTIVATIONS) == set(emulator.mlp.ACTIVATIONS)
    assert space_config.NORMALIZATIONS == emulator.mlp.NORMALIZATIONS
    assert set(space_config.OUTPUT_ACTIVATIONS) == {"auto", *emulator.mlp.OUTPUT_ACTIVATIONS}
    assert set(config_module.TRANSFORMS) == {"auto", *emulator.normalise.TRANSFORMS}


def test_toml_text_gives_the_same_config_again():
    tables = {
        "data": {"path": "a b.nc", "inputs": ["x", "y"], "units": {"x": "m s-1", "odd name": '"1"'}},
        "space": {"depth": {"low": 1, "high": 8}, "widths": {"low": 8, "high": 64, "log": True}},
        "train": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}, "batch_size": [64, 128, 256]},
        "search": {"trials": 7, "p_retrain": 0.5, "keep_step1_models": True},
        "step2": {"max_epochs": 300, "learning_rate_schedule": "cosine"},
    }
    config = Config.from_dict(tables)
    text = to_toml(config.to_dict())
    assert Config.from_dict(tomllib.loads(text)) == config
    assert differences(config.to_dict(), Config.from_dict(tomllib.loads(text)).to_dict()) == []


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"serch": {}}, r"x\.toml: the file has no 'serch' \(did you mean 'search'\?\); it may have data, space"),
        ({"search": {"trails": 3}}, r"\[search\] has no 'trails' \(did you mean 'trials'\?\); it may have trials"),
        ({"search": {"trials": "3"}}, r"trials is '3' \(str\); expected a whole number of at least 1"),
        ({"search": {"trials": 0}}, r"trials is 0"),
        ({"search": {"trials": True}}, r"trials is True \(bool\)"),
        ({"search": {"p_subset": 0.0}}, r"p_subset is 0.0 .*above 0, at most 1"),
        ({"search": {"top": 3, "p_retrain": 0.1}}, r"both top = 3 and p_retrain = 0.1"),
        ({"search": {"seed": -1}}, r"seed is -1"),
        ({"search": 3}, r"\[search\] is 3 \(int\); expected a table"),
        ({"space": {"depth": [1, 8]}}, r"could be a range or two choices; write \{low = 1, high = 8\}"),
        ({"space": {"depth": 0}}, r"depth is 0 .*from 1 to"),
        ({"space": {"widths": []}}, r"widths: an empty list"),
        ({"space": {"widths": [8, 8]}}, r"names a value twice"),
        ({"space": {"widths": {"low": 8, "hihg": 9}}}, r"is no range; expected \{low"),
        ({"space": {"widths": {"low": 8, "high": 15, "step": 4}}}, r"not a whole number of steps"),
        ({"space": {"activation": "rely"}}, r"activation is 'rely' .*relu, leaky_relu"),
        ({"space": {"output_activation": ["sigmoid", "identity"]}}, r"output_activation cannot be searched"),
        ({"train": {"learning_rate": -1}}, r"learning_rate is -1; expected a number above 0"),
        ({"train": {"learning_rate": "fast"}}, r"learning_rate is 'fast'"),
        ({"train": {"lr": 1}}, r"\[train\] has no 'lr'"),
        ({"space": {"depth": {"low": 3, "high": 2}}}, r"low 3 is above high 2"),
        ({"train": {"batch_size": {"low": 1.5, "high": 3}}}, r"batch_size is 1.5; expected a whole number"),
        ({"train": {"learning_rate": {"low": 0.0, "high": 1.0, "log": True}}}, r"logarithmic range starts above 0"),
        ({"step2": {"patience": [1, 2]}}, r"step 2 searches nothing"),
        ({"step2": {"epochs": 3}}, r"\[step2\] has no 'epochs' \(did you mean 'max_epochs'"),
        ({"data": {"transforms": {"a": "ln"}}}, r"transforms is 'ln' .*expected one of auto, none, log"),
        ({"data": {"output_transforms": ["none", "log"]}}, r"output_transforms cannot be searched"),
        ({"data": {"inputs": "x"}}, r"inputs is 'x' .*a list of variable names"),
        ({"data": {"test_fraction": 1.0}}, r"test_fraction is 1.0"),
        ({"data": {"validation_fraction": "half"}}, r"validation_fraction is 'half' .*'auto' or a number"),
    ],
)
def test_wrong_values_are_refused_by_name(tables, message):
    with pytest.raises(SearchError, match=message):
        Config.from_dict(tables, "x.toml")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"train": {"momentum": {"low": 0.8, "high": 0.9, "when": {"optimiser": "sgd"}}}},
            r"momentum: when names 'optimiser', which is no hyperparameter \(did you mean 'optimizer'\?\)",
        ),
        (
            {"train": {"momentum": {"low": 0.8, "high": 0.9, "when": {"optimizer": "sdg"}}}},
            r"momentum: when: optimizer is 'sdg'; expected one of adam",
        ),
        (
            {
                "train": {
                    "optimizer": ["adam", "sgd"],
                    "rho": {"low": 0.8, "high": 0.9, "when": {"optimizer": "rmsprop"}},
                }
            },
            r"rho: when wants optimizer = 'rmsprop', which it never is: it is from \['adam', 'sgd'\]",
        ),
        (
            {"train": {"dropout": {"low": 0.0, "high": 0.5, "when": {"depth": {"low": 30, "high": 40}}}}},
            r"dropout: when wants num_hidden = 30 to 40, which it never is: it is from \{'low': 1, 'high': 20\}",
        ),
        (
            {
                "train": {
                    "dropout": {"low": 0.0, "high": 0.5, "when": {"weight_decay": 0.0}},
                    "weight_decay": {"choices": [0.0, 0.1], "when": {"patience": 5}},
                    "patience": {"choices": [3, 5], "when": {"dropout": 0.0}},
                }
            },
            r"conditions go in a circle: patience -> dropout -> weight_decay -> patience; leave one when out",
        ),
        ({"train": {"rho": {"low": 0.8, "high": 0.9, "when": "rmsprop"}}}, r"rho: when is 'rmsprop'; expected a table"),
        (
            {"train": {"rho": {"low": 0.8, "high": 0.9, "when": {"patience": {"low": 3}}}}},
            r"rho: when patience: \{'low': 3\}; expected a value, a list of values or \{low",
        ),
        (
            {"train": {"dropout": {"low": 0.0, "high": 0.5, "when": {"optimizer": {"low": 1, "high": 2}}}}},
            r"dropout: when wants optimizer = 1 to 2, which it never is: it is from \['adam'\]",
        ),
        ({"space": {"depth": {"low": 1, "high": 3, "when": {"loss": "mse"}}}}, r"depth has a when, but every config"),
        (
            {"train": {"momentum": {"low": 0.8, "high": 0.9}}},
            r"momentum is searched, but it means something only for optimizer = sgd, and optimizer is 'adam'",
        ),
        ({"space": {"taper": [0.5, 0.7, 0.9]}}, r"taper is searched, but .* only for width_policy = funnel"),
        ({"space": {"taper": 1.5}}, r"taper is 1.5 .*above 0, at most 1"),
        ({"space": {"normalization": "group"}}, r"normalization is 'group' .*expected one of none, batch, layer"),
        ({"space": {"width_policy": ["same", "wide"]}}, r"width_policy is 'wide' .*independent, same, funnel"),
        ({"space": {"residual": "yes"}}, r"residual is 'yes' .*true or false"),
        ({"train": {"dropout": 1.0}}, r"dropout is 1.0; expected from 0, below 1"),
        ({"train": {"loss": "rmse"}}, r"loss is 'rmse'; expected one of mse, mae, huber"),
        ({"train": {"optimizer": "lamb"}}, r"optimizer is 'lamb'; expected one of adam, adamw, nadam, radam"),
        ({"train": {"nesterov": 1}}, r"nesterov is 1; expected true or false"),
        (
            {"train": {"optimizer": {"low": 1, "high": 2}}},
            r"optimizer: .* is a table; expected a value, a list of values",
        ),
        (
            {"space": {"normalization": ["none", "batch"]}, "train": {"batch_size": {"low": 1, "high": 64}}},
            r"normalization can be 'batch' and batch_size 1; one sample has no variance",
        ),
        (
            {"search": {"precision": "bf16"}, "train": {"optimizer": ["adam", "nadam"]}},
            r"precision 'bf16' is not there for optimizer = 'nadam', which the plain loop trains",
        ),
    ],
)
def test_conditions_and_combinations_that_cannot_be_meant_are_refused(tables, message):
    with pytest.raises(SearchError, match=message):
        Config.from_dict(tables, "x.toml")


def test_conditions_survive_being_written_as_toml():
    tables = {
        "space": {"width_policy": ["same", "funnel"], "taper": {"low": 0.3, "high": 0.9, "when": {"depth": [2, 3]}}},
        "data": {"transforms": ["auto", "none"]},
        "train": {
            "optimizer": ["adam", "sgd"],
            "momentum": {"low": 0.8, "high": 0.99, "log": True, "when": {"optimizer": "sgd"}},
            "nesterov": {"choices": [True, False], "when": {"momentum": {"low": 0.9, "high": 0.95}}},
        },
    }
    config = Config.from_dict(tables)
    again = Config.from_dict(tomllib.loads(to_toml(config.to_dict())))
    assert again == config and differences(config.to_dict(), again.to_dict()) == []
    assert config.train.values["momentum"].when == {"optimizer": Choices(values=("sgd",))}
    assert again.train.values["nesterov"].when == {"momentum": Range(low=0.9, high=0.95)}


def test_every_setting_of_train_can_be_searched():
    searched = {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "batch_size": [32, 64, 128],
        "max_epochs": {"low": 5, "high": 50},
        "patience": [3, 5, 7],
        "optimizer": ["adam", "adamw", "nadam", "radam", "rmsprop", "sgd"],
        "beta1": {"low": 0.8, "high": 0.95},
        "beta2": [0.99, 0.999],
        "rho": {"low": 0.8, "high": 0.99},
        "epsilon": {"low": 1e-9, "high": 1e-5, "log": True},
        "momentum": {"low": 0.8, "high": 0.99},
        "nesterov": [True, False],
        "learning_rate_schedule": ["constant", "cosine", "exponential", "step", "one_cycle", "plateau"],
        "final_learning_rate_fraction": {"low": 0.001, "high": 0.1, "log": True},
        "step_epochs": {"low": 5, "high": 20},
        "step_factor": [0.1, 0.5],
        "plateau_epochs": [2, 3, 5],
        "initialization": ["glorot_uniform", "he_normal"],
        "one_cycle_peak": {"low": 0.1, "high": 0.5},
        "warmup_fraction": [0.0, 0.05],
        "weight_decay": [0.0, 1e-4],
        "gradient_clip": [0.0, 1.0],
        "dropout": {"low": 0.0, "high": 0.3},
        "loss": ["mse", "mae", "huber"],
        "huber_delta": {"low": 0.01, "high": 1.0, "log": True},
    }
    config = Config.from_dict({"train": searched})
    assert set(config.train.searched) == set(searched) and config.train.fixed == {}
