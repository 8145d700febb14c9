"""The commands of EXPERIMENTS.md and the tables that they make, on studies whose numbers are known."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from hpo.config import Config, to_toml
from hpo.decay import step2_settings
from hpo.errors import SearchError
from hpo.experiments import __main__ as command
from hpo.experiments import calibration, searches, tables
from tests.python.study_cases import append, describe, make_config, make_record

TRUE = [1e-4 * (k + 1) for k in range(20)]  # errors on all the data, by trial


@pytest.fixture
def machine(tmp_path):
    return searches.Machine(tmp_path / "out", tmp_path / "samples.nc", 0.8, workers=1, device="cpu")


def project(machine, p, order, retrained, used=None):
    """A finished project whose step 1 ranks the trials in that order; step 2: errors by trial."""
    config = make_config(p_subset=p, trials=20, top=4)
    folder = machine.project(p, used)
    describe(folder, config)
    rank = {t: k for k, t in enumerate(order)}
    error = TRUE if p == 1.0 else [1e-2 * (rank[t] + 1) for t in range(20)]
    append(folder, "w", *(make_record(config, t, seconds=1.0) | {"validation_mse": error[t]} for t in range(20)))
    for t, e in retrained.items():
        append(folder, "w", make_record(config, t, step=2, seconds=5.0) | {"validation_mse": e})


def cells(text):
    return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]


def test_the_projects_are_held_against_the_one_on_all_the_data(machine):
    project(machine, 1.0, range(20), {0: 2e-5, 1: 3e-5, 2: 4e-5, 3: 5e-5})
    project(machine, 0.05, [*range(10, 20), *range(10)], {10: 9e-5, 11: 4e-5, 12: 8e-5, 13: 7e-5})
    found = tables.read_projects(machine)
    head, _, whole, part = cells(tables.projects_table(found))
    part, whole = (dict(zip(head, row, strict=True)) for row in (part, whole))
    assert whole["best MSE, step 1"] == "1.00e-04" and whole["after step 2"] == "2.00e-05"
    assert whole["of its top among p = 1's"] == "4 of 4" and whole["rank correlation with p = 1"] == "-"
    assert part["times the best"] == "2.00" and part["best trial (rank in step 1)"] == "11 (2)"
    assert part["of its top among p = 1's"] == "0 of 4"
    assert part["core-seconds"] == "40"
    # two halves swapped: sum of squared rank differences 20 * 100, so 1 - 6 * 2000 / (20 * 399)
    assert part["rank correlation with p = 1"].startswith("-0.50 (")
    assert part["the same, best third"].startswith("1.00"), "trials 0 to 5 keep their order"

    _, _, row = cells(tables.groups_table(found, group=5))
    # ranks 1-5 are trials 10-14 with true errors 1.1e-3 to 1.5e-3; the best, trial 0, has rank 11
    assert row[1:5] == ["1.3e-03", "1.8e-03", "3.0e-04", "8.0e-04"]
    assert row[-1] == "group 3"

    text = tables.sizes_table(machine)
    assert [row[1:5] for row in cells(text)[2:]] == [
        ["1", "500", "2.00e-05", "1.00"],
        ["0.05", "500", "4.00e-05", "2.00"],
    ]
    assert [row[-1] for row in cells(text)[2:]] == ["yes", "no"]


def test_a_missing_project_on_all_the_data_is_named(machine):
    project(machine, 0.05, range(20), {0: 1e-4})
    with pytest.raises(SearchError, match=r"p-1 is not finished"):
        tables.read_projects(machine)


@pytest.mark.parametrize("experiment", searches.ALGORITHM_SPACES)
def test_algorithms_are_compared_by_their_best_errors_and_what_their_configurations_cost(machine, experiment):
    for name, error, size in (("random", 1e-3, 100), ("tpe", 2e-3, 300)):
        for seed in (1, 2):
            config = make_config(p_subset=0.25, trials=2, top=1, seed=seed)
            folder = searches.algorithm(machine, name, seed, experiment)
            describe(folder, config)
            for t in range(2):
                known = {"validation_mse": error * (1 + t) * seed, "num_parameters": size, "hidden": [size]}
                append(folder, "w", make_record(config, t) | known)
            append(folder, "w", make_record(config, 0, step=2) | known | {"validation_mse": error * seed / 10})
    head, _, *rows = cells(getattr(tables, f"{experiment}_table")(machine))
    random, tpe = (dict(zip(head, row, strict=True)) for row in rows)
    assert (random["algorithm"], tpe["algorithm"]) == ("random", "tpe"), "best first"
    assert (random["seeds"], random["configurations"], tpe["their parameters, mean"]) == ("2", "2", "300")
    assert tpe["best MSE of step 1"] == "0.003 ± 0.001" and random["best MSE after step 2"] == "0.00015 ± 7e-05"
    # three inputs, one output: 2 * 6 epochs * (400 * (3 * 4 - 3) + 100 * 4) * width, twice
    assert random["step 1 [TFLOP]"].startswith(f"{2 * 12 * 4000 * 100 / 1e12:.3g}")
    assert tpe["the same at equal cost"] == "-", "for what both of random's cost it has none"
    assert command.main([experiment, "--tables-only", "--out", str(machine.out)]) == 0
    assert {p.name for p in machine.out.glob("*.*")} == {f"{experiment}.md", f"{experiment}.png"}


def test_the_lightest_networks_are_sought_within_factors_of_the_best_error(machine):
    config = make_config(top=4)
    folder = machine.out / "light"
    describe(folder, config)
    append(folder, "w", make_record(config, 0))
    for t, e, size in ((0, 1e-5, 900), (1, 1.4e-5, 300), (2, 2.9e-5, 50), (3, 3.1e-5, 5)):
        record = make_record(config, t, step=2) | {"validation_mse": e, "num_parameters": size, "hidden": [size]}
        append(folder, "w", record)
    timed = {str(t): {"1": 100.0 + t, "16": 10.0 + t, "1024": 1.0 + t} for t in range(4)}
    (folder / "latency.json").write_text(json.dumps({"trials": timed}))
    _, _, *rows = cells(tables.light_table(machine))
    assert [r[:4] for r in rows] == [["1", "1", "900", "900"], ["1.5", "2", "300", "300"], ["3", "3", "50", "50"]]
    assert rows[2][-3:] == ["102", "12", "3"]


def test_the_luck_of_seeds_is_counted_from_networks_that_both_steps_trained_on_all_the_data(machine):
    project(machine, 1.0, range(20), {0: 2e-4, 1: 4e-4, 2: 1e-4, 3: 4e-4})  # once 1, 2, 3 and 4e-4
    project(machine, 0.05, range(20), {0: 2e-4, 4: 1.5e-3})  # 4: once 5e-4
    _, _, every, _ = cells(tables.seeds_table(tables.read_projects(machine)))
    assert every[:5] == ["all", "5", "100%", "100% to 200%", "3"], "ratios 2, 2, 3, 1 and 3"


def test_a_planned_search_is_judged_by_error_and_cost_and_against_what_was_foretold(machine):
    project(machine, 1.0, range(20), {0: 1e-4})
    config = replace(make_config(p_subset=0.05, trials=4, top=1), step2=step2_settings(0.008))
    folder = searches.planned(machine, 1)
    describe(folder / "search", config)
    append(folder / "search", "w", *(make_record(config, t, seconds=0.1) for t in range(4)))
    append(folder / "search", "w", make_record(config, 0, step=2, seconds=0.5) | {"validation_mse": 1.1e-4})
    record = make_record(config, 0, step=2, seconds=3.0)
    for place in ("reference", "again", "decay-0.008"):
        append(folder / "probe" / place, "w", record)
    whole = make_config(p_subset=1.0, trials=20, top=2)
    describe(folder / "retrained", whole)
    append(folder / "retrained", "w", *(make_record(whole, t) | {"validation_mse": TRUE[t]} for t in range(20)))
    append(folder / "retrained", "w", *(make_record(whole, t) | {"step": 2, "validation_mse": 8e-5} for t in range(20)))
    foretold = {"excess": 0.05, "excess_low": 0.0, "excess_high": 0.5, "within": 0.7}
    foretold |= {"configured": -0.5, "configured_within": 0.9}
    foretold |= {"cost_flop": 0.04, "cost_seconds": 0.05, "cost_low": 0.03, "cost_high": 0.09}
    told = {"recommended": foretold, "tolerance": 0.2, "max_cost": 0.01}
    (folder / "probe/plan.json").write_text(json.dumps(told))
    head, _, *rows = cells(tables.plan_table(machine))
    found = dict(rows)
    assert head == ["", "seed 1"]
    assert found["learning rate of step 2"] == "0.008, decaying"
    assert found["against the full search"] == "+10.0%" and found["within 20%"] == "yes"
    assert found["foretold"] == "-50%" and found["foretold with probability"] == "90%"
    assert found["against that retrained"] == "+37.5%" and found["within 20% of that"] == "no"
    assert found["foretold, of that"] == "+5% (0% to 50%)" and found["foretold, of that, with probability"] == "70%"
    assert found["cost, core-seconds"] == "4.5%", "0.9 s against 20 s"
    assert found["at most 1% by both"] == "no" and found["the probe, core-seconds"] == "45.0%"
    assert found["the full search with those retrained, arithmetic"] == "500%", "each twice, on four times the samples"


def calibrated(machine):
    _, _, *rows = cells(calibration.calibration_table(tables.read_projects(machine)))
    return {(row[0], row[1]): row[2:] for row in rows}


def test_probabilities_are_held_against_searches_drawn_from_the_projects(machine, monkeypatch):
    monkeypatch.setattr(calibration, "_PROBES", 4)
    monkeypatch.setattr(calibration, "_SEARCHES", 200)
    project(machine, 1.0, range(20), {t: TRUE[t] for t in range(4)})
    project(machine, 0.05, range(20), {t: TRUE[t] for t in range(4)})  # orders them as all the data do, without luck
    rows = calibrated(machine)
    assert list(rows) == [("0.05", "1"), ("0.05", "3"), ("0.05", "5"), ("all", "")]
    for within, came, _, _ in rows.values():
        assert within.startswith("100%") and came == "100%"


def test_a_part_that_orders_the_other_way_round_is_seen_to_fail_and_foretold_to(machine, monkeypatch):
    monkeypatch.setattr(calibration, "_PROBES", 4)
    monkeypatch.setattr(calibration, "_SEARCHES", 200)
    project(machine, 1.0, range(20), {t: TRUE[t] for t in range(4)})
    project(machine, 0.05, range(19, -1, -1), {19: TRUE[19]})
    within, came, cost, cost_came = calibrated(machine)["0.05", "3"]
    assert came == "0%" and int(within.partition("%")[0]) < 20
    assert float(cost.partition(" ")[0]) == pytest.approx(float(cost_came), rel=0.5)  # few networks, large spread


def test_every_experiment_runs_valid_searches(machine, monkeypatch):
    ran = []

    def pretend(machine, *words):
        """Leave what the next commands build upon."""
        ran.append([str(w) for w in words])
        if "--out" in words and words[0].startswith("hpo."):
            out = Path(words[words.index("--out") + 1])
            (out / "step1").mkdir(parents=True, exist_ok=True)
            (out / "plan.toml").write_text(to_toml({"step2": step2_settings(0.008)}))

    monkeypatch.setattr(searches, "command", pretend)
    for name in command._NAMES:
        getattr(searches, name)(machine)
    searched = [w for w in ran if w[0] == "hpo.search"]
    configs = {Path(w[w.index("--config") + 1]) for w in searched} - {
        searches.planned(machine, seed) / "probe/plan.toml" for seed in searches.PLAN_SEEDS
    }
    for path in configs:
        config = Config.from_dict(tomllib.loads(path.read_text()))
        assert 0.0 < config.data.test_fraction < 1.0 and config.data.path == str(machine.data)
    spaces = len(searches.PARTS) * len(searches.SIZES) + 2 * 3 * len(searches.algorithm_names()) + 1
    assert len(configs) == spaces + 3 + 4
    retrained = [tomllib.loads(path.read_text()) for path in configs if path.stem == "retrained"]
    assert [t["step2"]["learning_rate_schedule"] for t in retrained] == ["cosine"] * 4
    assert {"hpo.plan", "emulator.export"} <= {w[0] for w in ran}


def test_the_write_up_names_every_experiment_and_only_commands_that_exist():
    text = (Path(searches.HERE).parent / "EXPERIMENTS.md").read_text(encoding="utf-8")
    named = set(re.findall(r"python -m hpo\.experiments (\w+)", text))
    assert named == set(command._NAMES)
    for line in re.findall(r"python -m hpo\.experiments (.+)", text):
        command.parser().parse_args(line.split())


def test_a_command_that_cannot_be_is_refused(tmp_path, capsys):
    assert command.main(["projects", "--data", "x.nc", "--out", str(tmp_path), "--used", "1"]) == 2
    assert "--used is 1.0" in capsys.readouterr().err
    assert command.main(["light", "--out", str(tmp_path)]) == 2
    assert "no samples are named" in capsys.readouterr().err
    assert command.main(["light", "--out", str(tmp_path), "--tables-only"]) == 2
    assert "is not finished" in capsys.readouterr().err
