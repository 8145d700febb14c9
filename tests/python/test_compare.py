"""Studies side by side, on records whose course is known."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from emulator.records import RecordWriter
from hpo import compare, study_command
from hpo.errors import SearchError
from tests.python.study_cases import append, describe, make_config, make_record


def study(folder, *, seed=0, scale=1.0, **search):
    """Two trials of step 1 for 2 s each, then two retrained for 10 s each with errors 4 and 2 (times `scale`)."""
    config = make_config(seed=seed, **search)
    describe(folder, config)
    append(folder, "w", *(make_record(config, t, mse=1e-6, after_s=t, seconds=2.0) for t in range(2)))
    for t, mse in ((0, 4e-5), (1, 2e-5)):
        record = make_record(config, t, step=2, after_s=10.0 + t, seconds=10.0) | {"validation_mse": scale * mse}
        append(folder, "w", record)
    return folder


def test_the_course_of_a_study_counts_errors_on_all_the_data_and_every_cost(tmp_path):
    spent = compare.spent(study(tmp_path / "a"))
    assert spent.cost.tolist() == [2.0, 4.0, 14.0, 24.0]
    assert spent.error.tolist() == [np.inf, np.inf, 4e-5, 2e-5], "an error on the subset does not count"
    assert spent.drawn.tolist() == [1, 2, 2, 2] and spent.step1_cost == 4.0 and spent.trial == 1
    assert spent.error_at(13.9) == np.inf and spent.error_at(14.0) == 4e-5
    assert spent.cost_of(4e-5) == 14.0 and spent.cost_of(1e-5) == np.inf
    whole = compare.spent(study(tmp_path / "whole", p_subset=1.0))
    assert whole.error.tolist() == [1e-6] * 4, "at p = 1 step 1 trains on all the data"


def test_rungs_and_pruned_trials_cost_what_they_took_and_count_no_error(tmp_path):
    config = make_config(p_subset=1.0, rungs=[0.1])
    describe(tmp_path, config)
    first = make_record(config, 0, mse=1e-9, seconds=1.0)
    path = tmp_path / "rung1" / "step1"
    with RecordWriter(path / "worker-w.jsonl") as writer:
        writer.append(first)
    append(tmp_path, "w", first | {"rung": 1, "subset": 0.1, "state": "pruned"})  # the copy in step 1
    append(tmp_path, "w", make_record(config, 1, after_s=1.0, seconds=3.0, mse=1e-8) | {"state": "pruned"})
    append(tmp_path, "w", make_record(config, 2, after_s=2.0, seconds=5.0, mse=1e-6))
    spent = compare.spent(tmp_path)
    assert spent.cost.tolist() == [1.0, 4.0, 9.0]
    assert spent.error.tolist() == [np.inf, np.inf, 1e-6]


def test_arithmetic_does_not_depend_on_the_seconds_and_grows_with_the_samples(tmp_path):
    a = compare.spent(study(tmp_path / "a"), "flop")
    costs = np.diff(a.cost, prepend=0.0)
    # three products a training sample, one a validation sample: 400 and 100 in step 1, 1600 and 400 in step 2
    assert costs[2] / costs[0] == pytest.approx(4.0)


def test_seeds_of_one_setting_are_taken_together_and_named_by_what_differs(tmp_path):
    studies = [
        compare.spent(study(tmp_path / name, **kind))
        for name, kind in {
            "a": {"seed": 1},
            "b": {"seed": 2, "scale": 3.0},
            "c": {"seed": 1, "p_subset": 0.5},
        }.items()
    ]
    groups = compare.grouped(studies)
    assert [(g.name, len(g.studies)) for g in groups] == [("p_subset 0.05", 2), ("p_subset 0.5", 1)]
    best, spread = compare.rows(groups)
    assert (best.name, best.seeds, best.error) == ("p_subset 0.5", 1, (pytest.approx(2e-5), None))
    # 2e-5 and 6e-5: mean 4e-5, standard deviation 4e-5 / sqrt(2)
    assert spread.error == (pytest.approx(4e-5), pytest.approx(4e-5 / np.sqrt(2)))
    assert spread.near_cost == (24.0, 1), "one of the two comes within 1.2 times the best"
    assert spread.step1_share == pytest.approx(4.0 / 24.0)
    cost, mean, least, largest = compare.mean_course(groups[0])
    assert (cost[0], cost[-1]) == (pytest.approx(14.0), pytest.approx(24.0))
    assert mean[0] == pytest.approx((4e-5 + 12e-5) / 2) and (least[0], largest[0]) == (4e-5, pytest.approx(12e-5))
    assert [g.name for g in compare.grouped(studies, ["x", "y", "x"])] == ["x", "y"]


def test_a_seed_that_has_ended_keeps_its_error_in_the_mean_of_those_that_go_on():
    def spent(cost, error):
        cost, error = np.array(cost), np.array(error)
        drawn = np.arange(1, len(cost) + 1)
        return compare.Spent(Path("x"), 1, {}, cost, drawn, error, step1_cost=cost[0], trial=0)

    group = compare.Group("g", (spent([1.0, 2.0], [np.inf, 4e-5]), spent([5.0, 8.0, 16.0], [np.inf, 2e-5, 1e-5])))
    cost, mean, least, largest = compare.mean_course(group)
    assert (cost[0], cost[-1]) == (pytest.approx(8.0), pytest.approx(16.0))
    assert (mean[0], mean[-1]) == (pytest.approx(3e-5), pytest.approx(2.5e-5))
    assert (least[-1], largest[-1]) == (1e-5, 4e-5)


def test_the_command_writes_table_figure_and_csv_and_refuses_other_samples(tmp_path, capsys):
    a, b = study(tmp_path / "a", seed=1), study(tmp_path / "b", seed=2, scale=0.5)
    out = tmp_path / "out"
    assert study_command.main(["compare", f"first={a}", f"second={b}", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "second" in text and "1e-05" in text and "equal cost: 24 core-seconds" in text
    with open(out / "compare.csv") as stream:
        found = list(csv.DictReader(stream))
    assert len(found) == 8 and found[-1] | {"study": ""} == {
        "group": "second",
        "study": "",
        "seed": "2",
        "drawn": "2",
        "cost_seconds": "24.0",
        "best_validation_mse": "1e-05",
    }
    assert (out / "compare.png").stat().st_size > 10_000

    description = json.loads((b / "study.json").read_text())
    description["data"]["checksum"] = "other"
    (b / "study.json").write_text(json.dumps(description))
    assert study_command.main(["compare", str(a), str(b), "--out", str(out)]) == 2
    assert "other samples" in capsys.readouterr().err
    with pytest.raises(SearchError, match="is not a study"):
        compare.spent(tmp_path)
