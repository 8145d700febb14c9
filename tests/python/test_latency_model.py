"""Latency as an objective: what networks are taken to cost, and searches that minimise it."""

import json
import math

import numpy as np
import pytest

from emulator.mlp import MLPSpec
from hpo import search
from hpo.config import Config
from hpo.errors import SearchError
from hpo.groups import publish
from hpo.latency_model import FILE, KEY, LatencyModel, counts, fit, read_model, relative_errors
from hpo.promotion import pareto_front, promote
from hpo.status import main as status
from hpo.study import Study
from tests.python.hpo_cases import outcomes, raw_records, run, start, write_config, write_samples
from tests.python.sampler_cases import config as sampler_config
from tests.python.step1_cases import World
from tests.python.test_sampler_searches import killed

TERMS = {"network": 30.0, "layer": 4.0, "weight": 0.02, "unit relu": 0.05, "unit tanh": 0.4}


def spec(hidden, **more):
    return MLPSpec(num_inputs=3, hidden=hidden, num_outputs=2, **more)


def random_specs(number, seed=1):
    rng = np.random.default_rng(seed)
    for _ in range(number):
        hidden = rng.choice([4, 8, 20, 64, 128, 300], rng.integers(1, 7)).tolist()
        yield spec(tuple(hidden), activation=str(rng.choice(["relu", "tanh"])))


# -- the model ---------------------------------------------------------------------------------------------------------


def test_what_a_network_costs_is_counted_as_by_hand():
    plain = counts(spec((8, 20)), "direct", ("log", "none", "log"))
    assert plain == {
        "network": 1.0,
        "layer": 3.0,
        "output": 8.0 + 20.0 + 2.0,
        "output of 16": 16.0 + 32.0 + 16.0,
        "weight": 3 * 8 + 8 * 20 + 20 * 2.0,
        "weight of 16": 3 * 16 + 8 * 32 + 20 * 16.0,
        "unit relu": 28.0,
        "transform log": 2.0,
    }
    more = counts(spec((8, 8, 8), normalization="layer", residual=True, activation="gelu"), "activation")
    names = ("unit gelu, layer norm", "layer norm", "added unit", "head activation")
    assert [more[name] for name in names] == [24.0, 3.0, 16.0, 1.0] and "unit gelu" not in more
    folded = counts(spec((8,), normalization="batch"))
    assert folded == counts(spec((8,))), "batch normalization is part of the exported weights"
    wide = counts(spec((100, 100)))
    assert (
        wide["weight"] == 10_500 and wide["weight beyond 4096"] == 10_500 - 4096 and "weight beyond 16384" not in wide
    )


def test_a_fit_finds_the_terms_that_made_the_times():
    networks = [counts(s) for s in random_specs(60)]
    truth = LatencyModel(batch=16, terms=TERMS)
    times = [truth.ns(n) for n in networks]
    found = LatencyModel(batch=16, terms=fit(networks, times))
    others = [counts(s) for s in random_specs(40, seed=2)]
    assert relative_errors(found, others, [truth.ns(n) for n in others]).max() < 1e-6
    assert found.terms["unit tanh"] - found.terms["unit relu"] == pytest.approx(0.35, rel=1e-6)


def test_a_few_disturbed_measurements_do_not_spoil_a_fit():
    rng = np.random.default_rng(3)
    networks = [counts(s) for s in random_specs(60)]
    truth = LatencyModel(batch=16, terms=TERMS)
    times = [truth.ns(n) * rng.uniform(0.99, 1.01) for n in networks]
    for k in range(0, 60, 10):  # something else ran: up to four times as long
        times[k] *= rng.uniform(1.5, 4.0)
    found = LatencyModel(batch=16, terms=fit(networks, times))
    others = [counts(s) for s in random_specs(40, seed=2)]
    off = relative_errors(found, others, [truth.ns(n) for n in others])
    assert np.median(off) < 0.01 and off.max() < 0.05


def test_no_term_is_negative_and_what_all_networks_have_alike_is_not_told_apart():
    networks = [counts(s, "direct", ("log",)) for s in random_specs(30)]
    rng = np.random.default_rng(4)
    terms = fit(networks, rng.uniform(100.0, 200.0, 30))
    assert min(terms.values()) >= 0.0 and "transform log" not in terms and "network" in terms


def test_a_sum_does_not_depend_on_the_order_of_its_terms():
    model = LatencyModel(batch=1, terms={f"weight beyond {k}": 0.1 * 3.0**-k for k in range(20)} | {"network": 1e9})
    network = {f"weight beyond {k}": 7.0**k for k in range(20)} | {"network": 1.0}
    backwards = dict(reversed(network.items()))
    assert model.ns(network) == model.ns(backwards)
    assert model.digest == LatencyModel(batch=1, terms=dict(reversed(model.terms.items()))).digest
    assert model.digest != LatencyModel(batch=2, terms=model.terms).digest


def test_a_model_is_read_as_it_was_written(tmp_path):
    model = LatencyModel(batch=4, terms={"layer": 0.1 + 0.2, "weight": 1 / 3}, made={"machine": "here"})
    publish(tmp_path / "m.json", model.to_dict(), indent=1)
    assert read_model(tmp_path / "m.json") == LatencyModel(**(vars(model) | {"networks": []}))
    assert read_model(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"schema": 9}', "expected a JSON object with schema 1, batch and terms"),
        ('{"schema": 1, "batch": 0, "terms": {"layer": 1}}', "batch is 0; expected a whole number of at least 1"),
        ('{"schema": 1, "batch": 1}', "terms is None; expected a table"),
        (
            '{"schema": 1, "batch": 1, "terms": {"layers": 1}}',
            "terms has 'layers', which no network has; expected some",
        ),
        ('{"schema": 1, "batch": 1, "terms": {"layer": -1}}', "term 'layer' is -1; expected nanoseconds, 0 or more"),
        ('{"schema": 1, "batch": 1, "terms": {"unit relu": 1}}', "every term of network, layer, .* is 0"),
    ],
)
def test_a_file_without_a_usable_model_is_refused_with_its_name(tmp_path, content, message):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(SearchError, match=f"latency model .*m.json.*{message}"):
        read_model(tmp_path / "m.json")


def test_a_model_that_does_not_know_a_kind_of_network_is_refused_for_a_space_with_others():
    model = LatencyModel(batch=16, terms={"network": 1.0, "unit relu": 0.1})
    model.check_space([counts(spec((8,))), counts(spec((4, 4)))])
    with pytest.raises(SearchError, match=r"no 'unit gelu', in which networks of this space differ; it has network"):
        model.check_space([counts(spec((8,))), counts(spec((8,), activation="gelu"))])


def test_a_model_measured_at_one_depth_is_refused_for_a_space_of_several():
    one_layer = [counts(spec((width,))) for width in (8, 16, 32, 64)]
    measured = LatencyModel(batch=16, terms=fit(one_layer, [10.0, 15.0, 25.0, 45.0]), made={"machine": "m"})
    measured.check_space(one_layer)
    with pytest.raises(SearchError, match="no 'layer', in which networks of this space differ"):
        measured.check_space([*one_layer, counts(spec((8, 8)))])


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"sampler": "tpe", "second_objective": "latency"}, r"is for sampler 'nsga2', and 'tpe' minimises"),
        ({"sampler": "nsga2", "second_objective": "speed"}, r"second_objective is 'speed'.*parameters, latency"),
        ({"sampler": "nsga2", "latency_model": "m.json"}, r"second_objective is 'parameters'; set it to 'latency'"),
        ({"sampler": "nsga2", "second_objective": "latency", "latency_batch": 0}, "latency_batch is 0"),
        ({"sampler": "nsga2", "second_objective": "latency", "latency_model": ""}, "latency_model is ''"),
    ],
)
def test_settings_of_latency_that_make_no_sense_are_refused(search, message):
    with pytest.raises(SearchError, match=message):
        sampler_config(**search)


# -- the sampler -------------------------------------------------------------------------------------------------------

# Two tables of the same public format: one where every layer costs much, one where weights do.
LAYERS_COST = {"network": 10.0, "layer": 1000.0, "weight": 0.01}
WEIGHTS_COST = {"network": 10.0, "layer": 0.1, "weight": 1.0}
DEPTHS, WIDTHS = range(1, 9), (4, 8, 16, 32, 64, 128)


def error_of(depth, width):
    """Falls with depth as with the width's logarithm."""
    return 1.0 / (depth * math.log2(width))


def front(cost):
    """Depths and widths that no others beat in error and `cost(depth, width)`."""
    every = [(cost(d, w), error_of(d, w), d, w) for d in DEPTHS for w in WIDTHS]
    return {(d, w) for c, e, d, w in every if not any(a <= c and b <= e and (a, b) != (c, e) for a, b, *_ in every)}


def weights(depth, width):
    return width + (depth - 1) * width * width + width  # one input, one output


def of_table(terms):
    return lambda d, w: terms["network"] + terms["layer"] * (d + 1) + terms["weight"] * weights(d, w)


def searched(tmp_path, name, terms):
    """Depths and widths on the front that a search finds, by the real sampler and a table in a file if there is one."""
    search = {"trials": 200, "sampler": "nsga2", "batch": 10, "population": 20, "startup": 10, "top": 3}
    model = None
    if terms is not None:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"schema": 1, "batch": 16, "terms": terms}))
        search |= {"second_objective": "latency", "latency_model": str(path)}
        model = read_model(path)
    space = {"depth": {"low": 1, "high": 8}, "widths": list(WIDTHS), "width_policy": "same"}
    c = Config.from_dict({"data": {"path": "samples.nc"}, "space": space, "search": search})

    def trained(task):
        depth, width = task.params["num_hidden"], task.params["width"]
        mse = error_of(depth, width)
        plain = {"state": "complete", "validation_mse": mse, "num_parameters": weights(depth, width)}
        return plain | {"params": task.params, "curve": {"validation_mse": [mse]}} | task.extra

    world = World(tmp_path / name, c, trained, model)
    world.finish([world.join("a"), world.join("b")])
    records = world.table()
    assert all((KEY in r) == (terms is not None) for r in records)
    return {(r["params"]["num_hidden"], r["params"]["width"]) for r in pareto_front(records)}


def test_the_table_decides_between_deep_and_narrow_and_wide_and_shallow(tmp_path):
    """A search comes to the front that its table makes, and the two tables' fronts are far apart."""
    fronts = {}
    for name, terms in (("layers", LAYERS_COST), ("weights", WEIGHTS_COST), ("parameters", None)):
        cost = weights if terms is None else of_table(terms)
        found, true = searched(tmp_path, name, terms), front(cost)
        assert len(found & true) >= 0.9 * len(found | true), (name, found, true)
        fronts[name] = found
    wide, deep = fronts["layers"], fronts["weights"]
    assert {(1, 64), (1, 128), (2, 128)} <= wide - deep and {(4, 4), (5, 4), (6, 8)} <= deep - wide
    assert fronts["parameters"] == deep, "parameters stand for a table where weights cost"


def test_light_trials_are_those_of_little_latency_where_there_is_a_model():
    def record(trial, mse, parameters):
        about = {"state": "complete", "params": {}}
        return about | {"trial": trial, "validation_mse": mse, "num_parameters": parameters}

    by_parameters = [record(0, 1.0, 900), record(1, 2.0, 100), record(2, 1.5, 500)]
    chosen = promote(by_parameters, top=1, light_top=1, light_factor=3.0)
    assert [p.trial for p in chosen] == [0, 1]
    timed = [r | {KEY: ns} for r, ns in zip(by_parameters, (50.0, 40.0, 30.0), strict=True)]
    assert [p.trial for p in promote(timed, top=1, light_top=1, light_factor=3.0)] == [0, 2]
    assert [r["trial"] for r in pareto_front(timed)] == [2, 0]


# -- searches ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_samples(tmp_path_factory.mktemp("latency") / "samples.nc", num_samples=300)


def settings(path, samples, **search):
    few = {"trials": 16, "top": 2, "p_subset": 0.5, "batch": 4, "population": 4, "startup": 4, "sampler": "nsga2"}
    return write_config(
        path,
        samples,
        space={"depth": {"low": 1, "high": 2}, "widths": {"choices": [4, 8]}},
        train={"max_epochs": 3, "batch_size": 32, "learning_rate": [1e-3, 3e-3, 1e-2]},
        search=few | {"second_objective": "latency"} | search,
    )


def table(path, **more):
    path.write_text(json.dumps({"schema": 1, "batch": 16, "terms": LAYERS_COST} | more))
    return path


def without_library(monkeypatch):
    monkeypatch.setenv("LIBEMULATOR_LIBRARY", "/nowhere/libemulator.so")
    from emulator import libemulator

    monkeypatch.setattr(libemulator, "_find", missing)


def missing(names, folder, what):
    from emulator.libemulator import LibraryNotFoundError

    raise LibraryNotFoundError(f"{what} was not found; looked at nowhere")


def test_a_search_by_latency_that_is_killed_goes_on_by_its_own_table_and_by_no_other(
    tmp_path, samples, monkeypatch, capsys
):
    """The table is in the study: it goes on where the file that it came from is gone and nothing can be measured."""
    given = table(tmp_path / "given.json")
    c = settings(tmp_path / "c.toml", samples, latency_model=str(given))
    run("--config", c, "--workers", 1, "--quiet", out=tmp_path / "whole")
    out = tmp_path / "killed"
    killed(9, "--config", c, "--workers", 1, out=out)
    assert 9 <= len(raw_records(out, 1)) < 16
    given.unlink()
    without_library(monkeypatch)
    run("--out", out, "--workers", 2, "--quiet", out=out)
    for step in (1, 2):
        assert outcomes(out, step) == outcomes(tmp_path / "whole", step)
    model = read_model(out / FILE)
    assert model.terms == LAYERS_COST and model == read_model(tmp_path / "whole" / FILE)
    for r in raw_records(out, 1) + raw_records(out, 2):
        assert r[KEY] == model.ns(counts(MLPSpec(num_inputs=5, hidden=tuple(r["hidden"]), num_outputs=2)))
    assert len({(tmp_path / w / "proposals" / "batch-3.json").read_bytes() for w in ("whole", "killed")}) == 1
    path, text = out / FILE, (out / FILE).read_text()
    path.write_text(text.replace("1000.0", "1001.0"))
    run("--trials", 20, "--quiet", out=out, status=2)
    assert f"{path} is not the one that this study was begun with" in capsys.readouterr().err
    path.unlink()
    run("--trials", 20, "--quiet", out=out, status=2)
    assert f"{path} is missing, which the trials of this study rest on; put it back" in capsys.readouterr().err


def test_members_of_a_search_share_what_its_leader_measured(tmp_path, samples, capsys):
    """Two processes that begin together: one measures, whichever it is, and both go by that."""
    c = settings(tmp_path / "c.toml", samples)
    members = [start("--config", c, "--workers", 1, out=tmp_path / "out") for _ in range(2)]
    told = [m.communicate(timeout=120) for m in members]
    assert [m.returncode for m in members] == [0, 0], told
    measured = [out for out, _ in told if "measuring the latency of 6 networks of this space in calls of 16" in out]
    assert len(measured) == 1 and "latency model for calls of 16 (" in measured[0]
    model = read_model(tmp_path / "out" / FILE)
    records = raw_records(tmp_path / "out", 1)
    assert len(records) == 16 and all(model.made[k] for k in ("machine", "library", "isa", "when"))
    times = {n["hidden"]: n["modelled_ns"] for n in model.networks}
    assert len(times) == 6 and all(r[KEY] == times["-".join(map(str, r["hidden"]))] > 0.0 for r in records)
    assert {n["held_out"] for n in model.networks} == {True, False} and model.made["held_out"] == 1
    assert Study(tmp_path / "out").description["prepared"]["latency_model"] == model.digest
    assert status([str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "ns modelled" in shown and "Pareto front of error and modelled latency: " in shown
    assert any("Pareto front of error and modelled latency: " in out for out, _ in told)


def test_what_a_search_by_latency_lacks_is_told_before_any_sample_is_read(tmp_path, samples, capsys, monkeypatch):
    def refused(*arguments):
        run(*arguments, "--quiet", out=tmp_path / "out", status=2)
        assert not (tmp_path / "out" / "cache").exists()
        return capsys.readouterr().err

    c = settings(tmp_path / "c.toml", samples)
    assert "none.json: no such file" in refused("--config", c, "--latency-model", tmp_path / "none.json")
    given = table(tmp_path / "given.json", batch=1)
    assert "with 1 samples, and latency_batch is 16; set latency_batch = 1" in refused(
        "--config", c, "--latency-model", given
    )
    without_library(monkeypatch)
    error = refused("--config", c)
    assert "through libemulator, which is not installed here: " in error and "second_objective = 'parameters'" in error


def test_a_command_may_ask_for_latency_and_its_batch(tmp_path):
    asked = {"sampler": "nsga2", "second-objective": "latency", "latency-batch": 4, "latency-model": "m.json"}
    arguments = [f"--{name}={value}" for name, value in asked.items()]
    found = search._config(search.parser().parse_args([*arguments, "--out", str(tmp_path / "none")])).search
    assert (found.by_latency, found.latency_batch, found.latency_model) == (True, 4, "m.json")
