"""A search that starts from another one: best values fixed, dimensions narrowed, settled once."""

import json
import shutil
import tomllib
from dataclasses import replace

import pytest

from hpo import probe, search
from hpo.config import Config, to_toml
from hpo.dimensions import Choices, Range
from hpo.errors import SearchError
from hpo.space import Space
from hpo.stage import staged
from hpo.study import Study
from tests.python.hpo_cases import outcomes, raw_records, run, write_config, write_samples
from tests.python.study_cases import append, describe, make_record

SPACE = {"depth": {"low": 1, "high": 3}, "widths": [4, 8, 16, 32, 64], "activation": ["relu", "tanh"]}
RATE = {"low": 1e-4, "high": 1e-1, "log": True}


def config(*, space=None, train=None, **search):
    return Config.from_dict(
        {
            "data": {"path": "samples.nc"},
            "space": SPACE | (space or {}),
            "train": {"learning_rate": RATE} | (train or {}),
            "search": {"trials": 8, "top": 2} | search,
        }
    )


def params(rate, activation, *widths):
    layers = {f"width_{k}": width for k, width in enumerate(widths, start=1)}
    return {"num_hidden": len(widths)} | layers | {"activation": activation, "learning_rate": rate}


# In the order of their step-1 error, but for the first two, which step 2 has the other way round.
TRIALS = {
    0: (params(5e-3, "tanh", 32, 8), 2.0, 0.9),
    1: (params(1e-3, "tanh", 16), 1.0, 1.1),
    2: (params(2e-2, "tanh", 64, 16), 3.0, None),
    3: (params(1e-4, "relu", 4, 4, 4), 9.0, None),
}


@pytest.fixture
def first(tmp_path):
    """A study of six trials, of which one failed and one was pruned; a light one was retrained beside the best two."""
    out, c = tmp_path / "first", config(train={"batch_size": 96})
    describe(out, c)
    for trial, (values, error, again) in TRIALS.items():
        append(out, "m", make_record(c, trial, params=values, validation_mse=error))
        if again is not None:
            append(out, "m", make_record(c, trial, step=2, params=values, validation_mse=again))
    append(out, "m", make_record(c, 3, step=2, params=TRIALS[3][0], validation_mse=0.1, promoted="light"))
    append(out, "m", make_record(c, 4, error="diverged"))
    append(out, "m", make_record(c, 5, params=TRIALS[3][0], validation_mse=0.01, state="pruned"))
    append(out, "m", make_record(c, 8, params=TRIALS[3][0], validation_mse=0.02))  # of a longer search
    return out


def stage(first, **settings):
    return staged(config(after=str(first), **settings), None, "of other samples").stage


def test_what_is_fixed_has_the_value_of_the_best_retrained_trial(first):
    found = staged(config(after=str(first), fix=["depth", "widths"]), None, "")
    assert found.stage.fixed == {"num_hidden": 2, "width_1": 32, "width_2": 8} and found.stage.narrowed == {}
    space = Space(found)
    assert [p.name for p in space.parameters()] == ["activation", "learning_rate"]
    assert {space.hidden(space.draw(t)) for t in range(20)} == {(32, 8)}


def test_what_was_fixed_in_the_first_search_can_be_fixed_in_one_that_searches_it(first):
    found = stage(first, fix=["batch_size", "width_1"], train={"batch_size": [32, 64, 96]})
    assert found.fixed == {"batch_size": 96, "width_1": 32}


def test_a_narrowed_dimension_is_what_the_best_span(first):
    found = stage(first, narrow=3)
    assert found.fixed == {} and found.narrowed == {
        "num_hidden": Range(low=1, high=2),
        "width_1": Choices(values=(16, 32, 64)),
        "width_2": Choices(values=(8, 16)),
        "activation": Choices(values=("tanh",)),
        "learning_rate": Range(low=1e-3, high=2e-2, log=True),
    }, "no trial of the three has a third layer"
    narrowed = Space(staged(config(after=str(first), narrow=3), None, ""))
    assert [p.name for p in narrowed.parameters()] == [
        "num_hidden",
        "width_1",
        "width_2",
        "activation",
        "learning_rate",
    ]
    both = stage(first, fix=["learning_rate"], narrow=2)
    assert both.fixed == {"learning_rate": 5e-3} and both.narrowed["width_1"] == Choices(values=(16, 32))
    assert "learning_rate" not in both.narrowed


def test_on_the_command_line_a_second_stage_has_the_settings_of_the_first_but_for_what_is_said(first, tmp_path):
    def told(*options):
        return search._config(search.parser().parse_args([*options, "--out", str(tmp_path / "second")]))

    c = told("--after", str(first), "--fix", "depth, widths", "--narrow", "3", "--p-subset", "1", "--pruner", "median")
    old = Study(first).description["config"]
    taken = {"after": str(first), "fix": ["depth", "widths"], "narrow": 3, "p_subset": 1.0, "pruner": "median"}
    expected = Config.from_dict(old | {"search": old["search"] | taken})
    assert c.to_dict() == expected.to_dict() and c.stage is None
    assert staged(c, None, "of other samples").stage.fixed == {"num_hidden": 2, "width_1": 32, "width_2": 8}
    third = tmp_path / "third"
    describe(third, staged(c, None, "of other samples"))
    again = told("--after", str(third), "--narrow", "1")
    assert again.stage is None and again.search.fix == () and again.search.narrow == 1
    assert told("--rungs", "0.01,0.02").search.rungs == (0.01, 0.02) and told("--rungs", "none").search.rungs == ()
    for options, message in (
        (["--narrow", "3"], "fix and narrow take from another study"),
        (["--after", str(tmp_path), "--narrow", "3"], "there is no study"),
        (["--rungs", "a"], "expected parts of the samples"),
    ):
        with pytest.raises(SearchError, match=message):
            told(*options)


def test_values_outside_of_the_new_space_are_left_out_of_its_hull(first):
    assert stage(first, narrow=3, space={"widths": [8, 32, 128, 64]}).narrowed["width_1"] == Choices(values=(32, 64))
    rate = {"low": 3e-3, "high": 1.0}
    assert stage(first, narrow=3, train={"learning_rate": rate}).narrowed["learning_rate"] == Range(low=5e-3, high=2e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"after": "nowhere", "narrow": 2}, r"after is 'nowhere', where there is no study"),
        ({"narrow": 5}, r"first has 4 finished trials; narrow = 5 needs as many"),
        ({"fix": ["widht_1"]}, r"fix names 'widht_1', which is not searched here; expected one of num_hidden, width_1"),
        (
            {"fix": ["width_3"]},
            r"'width_3', which the best trial of .*first \(number 0\) does not have; it has .*width_2",
        ),
        (
            {"fix": ["momentum"], "train": {"optimizer": "sgd", "momentum": [0.8, 0.85]}},
            r"momentum = 0.9, which is not",
        ),
        ({"fix": ["depth"], "space": {"depth": [3, 4]}}, r"num_hidden = 2, which is not in the space of this search"),
        ({"narrow": 2, "space": {"widths": [2, 128]}}, r"have width_1 = 32, 16, none of which is in the space of this"),
        ({"fix": ["depth", "widths", "activation", "learning_rate"]}, "nothing is left to search"),
        ({"narrow": 1}, "nothing is left to search"),
    ],
)
def test_what_cannot_be_taken_is_refused(first, settings, message):
    with pytest.raises(SearchError, match=message):
        stage(settings.pop("after", first), **settings)


def test_a_study_without_finished_trials_has_no_best(tmp_path):
    describe(tmp_path, config())
    with pytest.raises(SearchError, match=r"has 0 finished trials"):
        stage(tmp_path, fix=["depth"])


def test_a_choice_that_has_seen_the_hold_out_is_refused(first):
    same_samples = json.loads((first / "study.json").read_text())["data"]["checksum"]
    with pytest.raises(SearchError, match=r"has seen what is held out here; give the same seed and test_fraction"):
        staged(config(after=str(first), narrow=2, seed=1), None, same_samples)
    assert staged(config(after=str(first), narrow=2), None, same_samples).stage is not None


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"narrow": 2}, "give its folder as after"),
        ({"fix": ["depth"]}, "give its folder as after"),
        ({"after": "first"}, "say with fix or narrow what is taken"),
        ({"after": "first", "narrow": 0}, "narrow is 0"),
        ({"after": "", "narrow": 1}, "after is ''"),
        ({"after": "first", "fix": "depth"}, "fix is 'depth'"),
    ],
)
def test_settings_that_say_too_little_are_refused(search, message):
    with pytest.raises(SearchError, match=message):
        config(**search)


def test_what_was_found_is_noted_and_the_other_study_matters_no_more(first):
    asked = config(after=str(first), fix=["activation"], narrow=2)
    found = staged(asked, None, "")
    tables = tomllib.loads(to_toml(found.to_dict()))
    assert Config.from_dict(tables) == found
    noted = json.loads(json.dumps({"config": found.to_dict()}))
    append(first, "m", make_record(config(), 6, params=TRIALS[3][0], validation_mse=0.1, step=2))
    assert staged(asked, noted, "") == found
    assert staged(asked, None, "") != found
    shutil.rmtree(first)
    assert staged(asked, noted, "") == found
    with pytest.raises(SearchError, match="no study"):
        staged(replace(asked, search=replace(asked.search, narrow=3)), noted, "")


def test_a_probe_of_a_second_stage_tries_networks_of_that_stage(first, tmp_path, monkeypatch):
    write_samples(tmp_path / "samples.nc", num_samples=100)
    seen = []
    # place, step, part, trials, seed, folder, config
    monkeypatch.setattr(probe, "_run_part", lambda *arguments: seen.append(arguments[6]))
    c = config(after=str(first), fix=["depth", "widths"])
    data = {"path": str(tmp_path / "samples.nc"), "inputs": ["sst", "profile"], "outputs": ["flux"]}
    c = Config.from_dict(c.to_dict() | {"data": data})
    settings = {"fractions": [0.5], "reference": 1.0, "trials": 4, "repeats": 1, "decay": False}
    settings |= {"devices": [], "stop": None, "say": print}
    probe.run_probe(tmp_path / "probe", c, **settings)
    shutil.rmtree(first)
    probe.run_probe(tmp_path / "probe", c, **settings)
    assert len(seen) == 6 and {Space(s).hidden(Space(s).draw(3)) for s in seen} == {(32, 8)}


def test_a_second_stage_is_searched_and_goes_on_without_the_first(first, tmp_path, capsys):
    samples = write_samples(tmp_path / "samples.nc", num_samples=400)
    train = {"learning_rate": RATE, "max_epochs": 3, "batch_size": 32}
    search = {"trials": 4, "top": 1, "p_subset": 1.0, "after": str(first), "fix": ["depth", "widths"], "narrow": 3}
    second = write_config(tmp_path / "c.toml", samples, space=SPACE, train=train, search=search)
    out = tmp_path / "second"
    run("--config", second, "--workers", 1, "--quiet", out=out)
    begun = outcomes(out, 1)
    shutil.rmtree(first)
    run("--config", second, "--trials", 6, "--workers", 1, "--quiet", out=out)
    assert outcomes(out, 1)[:4] == begun
    records = raw_records(out, 1)
    assert len(records) == 6 and {tuple(r["hidden"]) for r in records} == {(32, 8)}
    assert all(set(r["params"]) == {"activation", "learning_rate"} for r in records)
    assert all(1e-3 <= r["params"]["learning_rate"] <= 2e-2 and r["params"]["activation"] == "tanh" for r in records)
    assert (out / "study.journal").stat().st_size > 0
    other = second.with_name("other.toml")
    other.write_text(second.read_text().replace("narrow = 3", "narrow = 2"))
    capsys.readouterr()
    run("--config", other, out=out, status=2)
    assert "first', where there is no study" in capsys.readouterr().err
