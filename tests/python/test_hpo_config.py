"""Configs are checked when they are built, and errors say what was found, what was expected and what to do."""

import tomllib

import pytest

import emulator.mlp
import emulator.normalise
from hpo import config as config_module
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
    assert set(config_module.ACTIVATIONS) == set(emulator.mlp.ACTIVATIONS)
    assert config_module.NORMALIZATIONS == emulator.mlp.NORMALIZATIONS
    assert set(config_module.OUTPUT_ACTIVATIONS) == {"auto", *emulator.mlp.OUTPUT_ACTIVATIONS}
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
        "learning_rate_schedule": ["constant", "cosine", "exponential", "step", "one_cycle"],
        "final_learning_rate_fraction": {"low": 0.001, "high": 0.1, "log": True},
        "step_epochs": {"low": 5, "high": 20},
        "step_factor": [0.1, 0.5],
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
