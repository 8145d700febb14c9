"""The report says and draws what the records hold."""

import base64
import csv
import json
import re

import numpy as np
import pytest
from matplotlib.image import imread

from emulator.records import RecordWriter
from hpo import report
from hpo.figures import pareto_front

# trial: (hidden layers, parameters, step-1 error, step-2 error)
TRIALS = {
    0: ((8,), 100, 0.4, None),
    1: ((8, 8), 200, 0.1, 0.02),
    2: ((16, 16), 400, 0.2, 0.01),
    3: ((32, 8, 8), 800, 0.05, 0.008),
    4: ((64,), 900, None, None),
}


def record(step, trial, mse):
    hidden, parameters = TRIALS[trial][:2]
    curve = [mse * f for f in (4.0, 2.0, 1.0, 1.5)] if mse else []
    return {
        "schema": 1,
        "step": step,
        "trial": trial,
        "state": "complete" if mse else "failed",
        "params": {},
        "hidden": list(hidden),
        "activation": "relu",
        "num_parameters": parameters,
        "train": {"max_epochs": 4 if trial == 3 else 100},
        "validation_mse": mse,
        "best_epoch": 3 if mse else 0,
        "epochs": len(curve),
        "curve": {"train_mse": curve, "validation_mse": curve},
        "seconds": 1.0,
        "error": None if mse else "diverged",
        "worker": "worker-000",
        "model": f"step2/models/trial-{trial:06d}.pt" if mse and step == 2 else None,
        "finished": "2026-01-01T00:00:00.000+00:00",
    } | ({"promoted": "error", "step1_mse": TRIALS[trial][2], "step1_rank": 1} if step == 2 else {})


def make_study(folder, steps=(1, 2)):
    folder.mkdir()
    description = {
        "schema": 1,
        "created": "2026-01-01T00:00:00+00:00",
        "commit": None,
        "data": {"path": "/somewhere/samples.nc", "num_samples": 1000, "checksum": "sha256:" + "0" * 64},
        "columns": {"outputs": [{"units": "W m-2"}, {"units": "W m-2"}]},
        "prepared": {"error_units": "physical"},
    }
    (folder / "study.json").write_text(json.dumps(description))
    for step in steps:
        with RecordWriter(folder / f"step{step}" / "worker-000.jsonl") as writer:
            for trial, row in TRIALS.items():
                if step == 1 or row[3] is not None:
                    writer.append(record(step, trial, row[1 + step]))
    return folder


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study <1>")


def sentences(study):
    return {d.title: d.sentence for d in report.write_report(study)}


def test_sentences_say_what_the_records_hold(study):
    said = sentences(study)
    assert said["Step-1 error against rank"] == (
        "4 trials span a factor of 8 in error, from 0.05 to 0.4; 2 of them (50.0%) lie within a factor of two of the "
        "best."
    )
    # ratios 5, 20, 6.25; ranks in step 1 (2, 3, 1), in step 2 (3, 2, 1): 1 - 6 * 2 / (3 * 8) = 0.5
    assert said["Error after retraining"] == (
        "Retraining on all the data lowers the error 6.25 times (median); the order of step 1 is kept with a rank "
        "correlation of 0.50."
    )
    assert said["Error against size"] == (
        "The best retrained network has 800 parameters (trial 3); the smallest one within twice its error has 400 "
        "(trial 2), 2 times fewer."
    )
    assert said["Error against depth"] == (
        "The median step-1 error is least with 3 hidden layers (0.05); the best retrained network has 3."
    )
    assert said["Learning curves"] == (
        "The best network had its least error in epoch 3 of 4; 1 of 3 trainings ran into their limit of epochs instead "
        "of stopping early."
    )


def test_figures_are_pictures_with_something_on_them(study):
    drawn = report.write_report(study)
    assert len(drawn) == 5
    for d in drawn:
        picture = imread(study / "report" / d.file)
        assert picture.shape[0] > 400 and picture.shape[1] > 800
        coloured = np.ptp(picture[..., :3], axis=2) > 0.2  # axes and text are grey; data are not
        assert coloured.sum() > 100, d.file


def test_latency_is_drawn_with_its_pareto_front_once_measured(study):
    rows = {"1": {"16": 50.0, "1": 9.0}, "2": {"16": 40.0, "1": 8.0}, "3": {"16": 160.0, "1": 30.0}}
    latency = {"machine": "some CPU", "batch_sizes": [1, 16], "trials": rows}
    (study / "latency.json").write_text(json.dumps(latency))
    assert sentences(study)["Error against latency"] == (
        "The fastest network takes 40 ns per sample (trial 2, MSE 0.01), the best 160 ns (trial 3, MSE 0.008): 4 times "
        "the time for 1.25 times less error."
    )
    assert (study / "report/error-latency.png").exists()
    with open(study / "report/models.csv", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [(r["trial"], r["ns_batch_16"]) for r in table] == [("3", "160.0"), ("2", "40.0"), ("1", "50.0")]


def test_pareto_front_holds_what_nothing_beats():
    x, y = np.array([3.0, 1.0, 2.0, 2.0, 4.0, 1.0]), np.array([1.0, 5.0, 3.0, 2.0, 1.0, 6.0])
    assert pareto_front(x, y) == [1, 3, 0]


def test_tables_list_the_retrained_networks_best_first(study):
    report.write_report(study)
    with open(study / "report/models.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["rank"], r["trial"], float(r["validation_mse"])) for r in rows] == [
        ("1", "3", 0.008),
        ("2", "2", 0.01),
        ("3", "1", 0.02),
    ]
    assert rows[0]["hidden"] == "32-8-8" and rows[0]["model"] == "step2/models/trial-000003.pt"
    lines = (study / "report/models.md").read_text().splitlines()
    assert lines[0].startswith("| rank | trial | validation_mse |") and lines[2].startswith("| 1 | 3 | 0.008 |")
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1


def test_page_holds_everything_in_one_file(study):
    report.write_report(study)
    page = (study / "report/report.html").read_text()
    images = re.findall(r'src="([^"]*)"', page)
    assert len(images) == 5 and all(i.startswith("data:image/png;base64,") for i in images)
    assert base64.b64decode(images[0].partition(",")[2]) == (study / "report/error-rank.png").read_bytes()
    assert "study &lt;1&gt;" in page and "<1>" not in page
    assert "5 trials in step 1, 3 retrained in step 2, 1 failed" in page
    assert "/somewhere" not in page


def test_an_unfinished_study_is_drawn_as_far_as_it_goes(tmp_path):
    study = make_study(tmp_path / "study", steps=(1,))
    said = sentences(study)
    assert said["Error after retraining"] == ("not drawn: step 2 has 0 completed trials; this figure needs 2")
    assert "The best network has 800 parameters" in said["Error against size"]
    assert not (study / "report/error-steps.png").exists() and (study / "report/error-rank.png").exists()


def test_command_prints_sentences_and_paths(study, capsys):
    assert report.main([str(study)]) == 0
    printed = capsys.readouterr().out
    assert "4 trials span a factor of 8" in printed and "report.html" in printed
    assert "after `python -m emulator.export" in printed


@pytest.mark.parametrize(("make", "message"), [(False, "is not a study"), (True, "has no finished trial yet")])
def test_nothing_to_report_is_said_readably(tmp_path, capsys, make, message):
    folder = make_study(tmp_path / "s", steps=()) if make else tmp_path
    assert report.main([str(folder)]) == 2
    assert message in capsys.readouterr().err
