"""Where configurations come from: the space is covered, learnt from, and the same search comes again."""

import itertools
import json
import random
from concurrent.futures import Future

import pytest
import torch

from hpo.config import ADAPTIVE_SAMPLERS, PRUNERS, SAMPLERS, Config
from hpo.dimensions import Choices, Range
from hpo.errors import SearchError
from hpo.proposals import Proposals
from hpo.samplers import Permutation, Sobol, sampler_of, value_at
from hpo.space import Space
from tests.python.sampler_cases import BEST, config, error, outcome, parameters, plain, recorded, search
from tests.python.step1_cases import World


def space(**search):
    return Space(config(**search))


def small_space(**search):
    """31 configurations but for the learning rate: one layer of 2 widths, or two of 2 each; step and list."""
    return Space(
        Config.from_dict(
            {
                "space": {"depth": {"low": 1, "high": 2}, "widths": {"choices": [4, 8]}},
                "train": {"batch_size": {"low": 100, "high": 400, "step": 100}, "learning_rate": [1e-3, 1e-2, 1e-1]},
                "search": {"trials": 10, **search},
            }
        )
    )


# -- functions of the number -----------------------------------------------------------------------------------------


def test_the_grid_has_every_combination_once_and_no_parameter_that_a_network_lacks():
    s = small_space(sampler="grid")
    grid = sampler_of(s)
    assert grid.size == (2 + 4) * 4 * 3
    found = [grid.params(i) for i in range(grid.size)]
    keys = {tuple(sorted(p.items())) for p in found}
    assert len(keys) == grid.size
    layers = [(w,) for w in (4, 8)] + list(itertools.product((4, 8), repeat=2))
    assert {s.hidden(p) for p in found} == set(layers)
    assert {p["batch_size"] for p in found} == {100, 200, 300, 400}
    order = [s.hidden(p) for p in found]
    other = sampler_of(small_space(sampler="grid", seed=1))
    assert order != sorted(order) and found != [other.params(i) for i in range(72)]


def test_the_papers_space_is_a_grid_too_of_which_any_place_can_be_had():
    s = Space(Config.from_dict({"search": {"sampler": "grid", "trials": 10_000}}))
    grid = sampler_of(s)
    assert grid.size == sum(9**k for k in range(1, 21))
    assert len({tuple(grid.params(i).values()) for i in range(200)}) == 200


def test_a_grid_refuses_what_it_cannot_list_and_more_trials_than_it_has():
    with pytest.raises(SearchError, match=r"learning_rate is a range of real numbers from 0.0001 to 0.1; list its"):
        sampler_of(space(sampler="grid"))
    with pytest.raises(SearchError, match=r"72 configurations, and trials is 100; give trials = 72"):
        sampler_of(small_space(sampler="grid", trials=100))


def test_a_permutation_gives_every_number_once():
    for size in (1, 2, 3, 37, 1000):
        found = [Permutation(size, 5)(k) for k in range(size)]
        assert sorted(found) == list(range(size))
    assert found != [Permutation(1000, 6)(k) for k in range(1000)]


def test_sobol_points_are_those_of_torch_and_can_be_had_in_any_order():
    sobol = Sobol(space(sampler="sobol", seed=3))
    engine = torch.quasirandom.SobolEngine(len(space().parameters()), scramble=True, seed=3)
    expected = engine.draw(64, dtype=torch.float64)
    for i in (63, 0, 17, 1, 40):
        assert sobol.point(i) == pytest.approx(expected[i].tolist(), abs=1e-7)  # torch scales in float32


def test_sobol_fills_every_parameter_evenly():
    s = space(sampler="sobol")
    found = [sampler_of(s).params(i) for i in range(256)]
    depths = [sum(p["num_hidden"] == d for p in found) for d in (1, 2, 3)]
    assert all(84 <= n <= 87 for n in depths)
    rates = sorted(p["learning_rate"] for p in found)
    assert 10**-2.52 < rates[128] < 10**-2.48, "the median of a logarithmic range, closer than 256 draws come"
    assert all(set(p) >= {f"width_{k}" for k in range(1, p["num_hidden"] + 1)} for p in found)


@pytest.mark.parametrize(
    "dimension",
    [
        Choices(values=("a", "b", "c")),
        Range(low=1, high=6),
        Range(low=0.0, high=1.0, step=0.25),
        Range(low=2, high=40, log=True),
        Range(low=1e-4, high=1e-1, log=True),
        Range(low=-1.0, high=3.0),
    ],
)
def test_a_value_at_a_part_is_weighed_as_a_draw(dimension):
    import numpy as np

    at = [value_at(dimension, (k + 0.5) / 4000) for k in range(4000)]
    rng = np.random.default_rng(1)
    drawn = [dimension.draw(rng) for _ in range(4000)]
    assert {type(v) for v in at} == {type(v) for v in drawn}
    if len(set(drawn)) < 50:
        for value in set(drawn) | set(at):
            assert abs(at.count(value) - drawn.count(value)) < 150  # 4 sigma of 4000 draws
    else:
        pairs = zip(at[::400], sorted(drawn)[::400], strict=True)
        assert all(abs(a / b - 1) < 0.35 or abs(a - b) < 0.15 for a, b in pairs)


# -- learning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes", "nsga2"])
def test_an_adaptive_search_is_the_same_whoever_computes_it_and_when(tmp_path, name):
    trials, batch = (15, 4) if name == "gp" else (33, 6)
    settings = {"sampler": name, "batch": batch, "startup": batch, "population": batch}
    c = config(trials=trials, **settings)
    alone = plain(search(tmp_path / "alone", c))
    three = plain(search(tmp_path / "three", c, members=3, rng=random.Random(7)))
    assert three == alone
    files = [sorted((tmp_path / who / "proposals").iterdir()) for who in ("alone", "three")]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]
    # a study that has lost what was proposed last, and goes on with more trials
    for path in files[0][-2:]:
        path.unlink()
    more = config(trials=trials + 1, **settings)
    assert plain(search(tmp_path / "alone", more))[:trials] == alone


@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes", "nsga2"])
def test_adaptive_searches_come_closer_to_the_best_than_random_at_equal_trials(tmp_path, name):
    trials, seeds = (35, [0]) if name == "gp" else (100, range(5))  # a Gaussian process takes its time

    def fifth(errors):  # one lucky draw decides nothing
        return sorted(errors)[4]

    ours = theirs = 0.0
    for seed in seeds:
        c = config(sampler=name, trials=trials, seed=seed, batch=5)
        ours += fifth(f.mse for _, f in search(tmp_path / str(seed), c))
        theirs += fifth(error(Space(c).draw(i)) for i in range(trials))
    assert ours < 0.9 * theirs


def test_the_best_configuration_is_where_it_is_said_to_be():
    assert error(BEST) == pytest.approx(1e-4)


def test_nsga2_keeps_light_networks_that_others_give_up(tmp_path):
    c = config(sampler="nsga2", trials=100, population=10, startup=10)
    found = search(tmp_path, c)
    light = [f.mse for p, f in found[40:] if parameters(p) <= 64]
    draws = [Space(c).draw(i) for i in range(60)]
    assert len(light) > sum(parameters(p) <= 64 for p in draws)


@pytest.mark.parametrize("name", ADAPTIVE_SAMPLERS)
def test_failures_drive_an_adaptive_search_away(tmp_path, name):
    """Half of the space fails: it is left, since a failure is told as the worst error."""
    trials = {"gp": 30}.get(name, 60)
    c = config(sampler=name, trials=trials, batch=6, startup=6)
    found = search(tmp_path, c, failing=lambda params: params["learning_rate"] > 10**-2.5)
    late = [f.state for _, f in found[trials // 2 :]]
    assert late.count("failed") < 0.4 * len(late)


def test_a_failed_trial_is_no_light_network(tmp_path):
    """The smallest networks fail: told with their parameters, they would be a front of their own for nsga2."""
    c = config(sampler="nsga2", trials=100, batch=10, startup=10, population=10)
    found = search(tmp_path, c, failing=lambda params: params["num_hidden"] == 1)
    late = [f.state for _, f in found[50:]]
    assert late.count("failed") < 0.15 * len(late), "a third of random draws"


@pytest.mark.parametrize("name", ["tpe", "nsga2"])
def test_no_configuration_of_lists_is_tried_twice_while_there_are_others(tmp_path, name):
    """1,550 configurations, to which these samplers come back in every fifth to third trial if they are let."""
    settings = {"sampler": name, "batch": 10, "learning_rate": [1e-4, 1e-3, 5e-3, 1e-2, 1e-1]}
    found = plain(search(tmp_path / "many", config(trials=80, **settings)))
    assert len({str(json.loads(text)[0]) for text in found}) == 80
    three = search(tmp_path / "three", config(trials=80, **settings), members=3, rng=random.Random(5))
    assert plain(three) == found
    settings = {"sampler": name, "trials": 9, "startup": 2, "batch": 3}
    few = Config.from_dict({"space": {"depth": 1, "widths": [4, 8, 16]}, "search": settings})
    world = World(tmp_path / "few", few, lambda task: recorded_width(task.params))
    world.finish([world.join("alone")])
    tried = [r["params"]["width_1"] for r in world.table()]
    assert len(tried) == 9 and set(tried[:6]) == {4, 8, 16}, "where there are no others, again"


def recorded_width(params):
    mse = 1.0 / params["width_1"]
    about = {"state": "complete", "validation_mse": mse, "num_parameters": params["width_1"], "params": params}
    return about | {"curve": {"validation_mse": [mse]}}


def test_a_search_where_all_fail_goes_on(tmp_path):
    for name in ADAPTIVE_SAMPLERS:
        c = config(sampler=name, trials=24, batch=4, startup=4)
        assert {f.state for _, f in search(tmp_path / name, c, failing=lambda params: True)} == {"failed"}


def test_cmaes_refuses_a_space_of_one_dimension_and_tiny_batches(tmp_path):
    c = Config.from_dict({"space": {"depth": 1, "widths": [4, 8]}, "search": {"sampler": "cmaes", "trials": 8}})
    with pytest.raises(SearchError, match="needs two hyperparameters or more; only width_1 is searched"):
        search(tmp_path, c)
    with pytest.raises(SearchError, match=r"batch is 3 \(int\); expected a whole number of at least 4"):
        config(sampler="cmaes", batch=3)


def test_a_gaussian_process_is_shown_the_best_and_the_latest(tmp_path, monkeypatch):
    from hpo import adaptive

    monkeypatch.setattr(adaptive, "MOST_GP_TRIALS", 6)
    sizes = []
    few = adaptive.OptunaSearch._few
    monkeypatch.setattr(adaptive.OptunaSearch, "_few", lambda *a: sizes.append(r := few(*a)) or r)
    found = search(tmp_path, config(sampler="gp", trials=20, batch=4, startup=4))
    batches, told = sizes[-1]  # of the last four, which know twelve
    best = sorted(found[:12], key=lambda one: one[1].mse)[:3]
    expected = {json.dumps(p) for p, _ in [*best, *found[9:12]]}
    assert {json.dumps(p.params) for b in batches for p in b.proposals} == expected | {
        json.dumps(p) for p, _ in found[12:16]
    }
    assert sorted(f.mse for f in told.values()) == sorted({f.mse for _, f in [*best, *found[9:12]]})


def test_what_nobody_searched_is_refused(tmp_path):
    c = Config.from_dict({"space": {"depth": 1, "widths": 4}, "search": {"sampler": "tpe", "trials": 4}})
    with pytest.raises(SearchError, match="nothing to choose: every hyperparameter is fixed"):
        search(tmp_path, c)


def test_an_optuna_whose_inside_is_another_is_named(tmp_path, monkeypatch):
    import optuna

    def create_trial(*, state, params, distributions):
        """As it may be some day: without system attributes."""

    monkeypatch.setattr(optuna.trial, "create_trial", create_trial)
    monkeypatch.setattr(optuna, "__version__", "9.9")
    (tmp_path / "proposals").mkdir()
    layer = Proposals(tmp_path, Space(config(sampler="tpe", batch=2)))
    layer.open_next()
    with pytest.raises(SearchError, match=r"sampler 'tpe' relies on .* with Optuna 9.9 it fails: TypeError: .*sys"):
        Proposals(tmp_path, layer._space)._next(tuple(layer._batches), {})


# -- proposals that take a while ---------------------------------------------------------------------------------------


class Later:
    """What was given to do, done when the test says so."""

    def __init__(self):
        self.left = []

    def __call__(self, work):
        self.left.append((work, future := Future()))
        return future

    def do(self):
        work, future = self.left.pop(0)
        future.set_result(work())


def test_a_batch_is_computed_aside_from_what_was_known_when_it_was_begun(tmp_path):
    c = config(sampler="tpe", pruner="median", batch=4, startup=4, trials=24)
    at_once, later = search(tmp_path / "at-once", c, rng=random.Random(3)), Later()
    layer, found = Proposals(tmp_path / "late", Space(c), run=later), {}
    while len(found) < 24:
        assert layer.open_next() is None and len(later.left) == 1
        for t in [t for t in range(24) if t < 4 * len(layer._batches) and t not in found]:  # all there is, meanwhile
            found[t] = (layer.trial(t).params, outcome(layer.trial(t).params, layer.trial(t).limits))
            layer.finished(t, found[t][1])
        assert layer.open_next() is None and len(later.left) == 1, "and asking again begins nothing"
        later.do()
        assert layer.open_next() is not None
    assert plain([found[t] for t in range(24)]) == plain(at_once)


def test_one_member_computes_a_batch_and_another_if_it_dies(tmp_path):
    c, later = config(sampler="tpe", batch=4, startup=4), {name: Later() for name in "ab"}
    world = World(tmp_path, c, recorded)
    a, b = (world.join(name, propose=later[name]) for name in "ab")
    assert a.take(1) == b.take(1) == [] and [len(later[n].left) for n in "ab"] == [1, 0]
    world.dead.add("a")
    assert b.take(1) == [] and len(later["b"].left) == 1
    later["b"].do()
    assert len(b.take(4)) == 4


def test_the_next_batch_is_asked_for_while_there_are_trials_left_of_the_one_before(tmp_path):
    later = Later()
    world = World(tmp_path, config(sampler="tpe", batch=4, startup=4), recorded)
    member = world.join("a", propose=later)
    assert member.take(1) == []
    later.do()
    tasks = member.take(4)
    assert len(tasks) == 4 and member.take(1) == []
    later.do()  # the second batch, which knows of no outcome either
    for task in tasks:
        world.write(member, task)
    assert len(member.take(1)) == 1 and later.left == []
    assert len(member.take(1)) == 1 and len(later.left) == 1, "the third, with two trials left of the second"


# -- members that die --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [(name, "none") for name in SAMPLERS] + [(name, p) for p in PRUNERS[1:] for name in ("random", "tpe")],
)
def test_a_search_whose_members_die_comes_to_the_same_as_one_undisturbed(tmp_path, sampler, pruner):
    values = [1e-4, 1e-3, 5e-3, 1e-2, 1e-1] if sampler == "grid" else {"low": 1e-4, "high": 1e-1, "log": True}
    trials = 20 if sampler == "gp" else 50
    settings = {"sampler": sampler, "pruner": pruner, "trials": trials, "batch": 5, "startup": 5, "population": 5}
    c = config(learning_rate=values, **settings)
    undisturbed = World(tmp_path / "undisturbed", c, recorded)
    undisturbed.finish([undisturbed.join("alone")])
    killed, rng = World(tmp_path / "killed", c, recorded), random.Random(4)
    assert killed.finish_with_deaths(rng, members=3, part=0.1) >= 1, "nobody died: another seed"
    assert killed.table() == undisturbed.table() and len(killed.runs) == trials
    if pruner != "none":
        assert {r["state"] for r in killed.table()} == {"complete", "pruned"}
