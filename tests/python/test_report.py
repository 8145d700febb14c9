"""Every sentence of the report that states a number, on a study whose answers are known (see report_cases)."""

import csv
import json
import math
import re
import shutil
import statistics as stdlib
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest

from emulator.records import RecordWriter
from hpo import report, statistics
from hpo.config import Config
from hpo.report import architecture, command, cost, front, hyperparameters, ranks, rungs, tables
from hpo.report.studies import read_studies
from hpo.report.style import NothingToDraw
from hpo.report.words import MINUS, TIMES, count, listed, number, percent, typeset, unit, units_label
from tests.python import report_cases as cases
from tests.python import study_cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cases.make_study(tmp_path_factory.mktemp("report") / "study")


@pytest.fixture(scope="module")
def study(folder):
    return read_studies([folder])


@pytest.fixture(scope="module")
def two(tmp_path_factory, folder):
    """The same study beside one on ten times as much data, with a tenth of the step-1 errors."""
    parent = tmp_path_factory.mktemp("two")
    shutil.copytree(folder, parent / "small")
    large = cases.make_study(parent / "large", p_subset=1.0, factor=0.1, latency=False)
    return read_studies([large, parent / "small"])


def said(section):
    return " ".join(section.sentences)


# -- one study --------------------------------------------------------------------------------------------------------


def test_error_against_rank_says_where_the_curve_flattens(study):
    text = said(ranks.error_against_rank(study))
    assert text.startswith(
        "60 trials span a factor of 32 in error, from 0.001 to 0.032; 40 of them (67 %) lie within a factor of two of "
        "the best. The curve of errors against rank is flat up to rank 40 (95 % interval "
    )
    low, high = map(int, re.search(r"interval (\d+) to (\d+)\)", text).groups())
    assert 25 < low <= 40 <= high < 55
    assert text.endswith(
        "over which the error grows by a factor of 2; `top` = 8 lies inside the flat part. The shallowest network in "
        "the flat part has 1 hidden layer (trial 30), the smallest 40 parameters (trial 30)."
    )


def test_error_after_retraining_says_what_it_gained(study):
    gains = [cases.step1_error(k) / mse for k, mse in cases.STEP2.items()]
    assert said(ranks.error_of_both_steps(study)) == (
        f"Retraining 9 networks on all the data lowers the error by a factor of {stdlib.median(gains):.3g} "
        "(median); the best then has 1.00e-4."
    )


def test_ranks_of_the_two_steps_are_correlated_over_those_retrained_for_their_error(study):
    # ranks 1..8 against 5, 3, 1, 2, 7, 4, 8, 6: 1 - 6 * 38 / (8 * 63) = 0.548
    text = said(ranks.rank_against_rank(study))
    assert text.startswith(
        "Over 8 networks retrained for their error, Spearman's correlation of the two steps is 0.55 ("
    )
    low, high = map(float, re.search(r"interval (\S+) to (\S+)\)", text).groups())
    assert low < 0.0 < 0.55 < high
    assert text.endswith(": among these networks, the order of step 1 says nothing certain about that of step 2.")


def test_rank_groups_are_compared(study):
    # medians of 8, 3, 50, 6 and of 4, 2, 1, 1.05 (e-4): 7 and 1.525; H = 49 / 12, one degree of freedom
    p = math.erfc(math.sqrt(49 / 24))
    assert said(ranks.error_by_rank_group(study)) == (
        "After retraining, trials of step-1 ranks 5 to 8 have 4.59 times the median error of ranks 1 to 4; the groups "
        f"differ by more than chance (Kruskal-Wallis p = {p:.3g})."
    )


def test_depth_and_size_that_suffice_are_named(study):
    medians = {
        d: stdlib.median(cases.step1_error(k) for k in range(60) if len(cases.hidden_of(k)) == d) for d in (1, 2, 3, 4)
    }
    depth = min(medians, key=medians.get)
    assert said(architecture.error_against_layers(study)) == (
        f"The median step-1 error is least with {depth} hidden layers ({medians[depth]:.3g}); the best retrained "
        "network has 4, and the shallowest within twice its error 1 (trial 30)."
    )
    assert said(architecture.error_against_parameters(study)) == (
        "The best retrained network has 1,020 parameters (trial 2); the smallest one within twice its error has 40 "
        "(trial 30), fewer by a factor of 25.5."
    )


def test_cost_is_promised_and_measured(study):
    # 60 trials of 2 s, 9 of 30 s; a sample of training counts three times: 2600 of step 2 against 260 of step 1
    assert said(ranks.cost(study)) == (
        "`p_subset` + `p_retrain` = 0.1 + 0.15 = 0.25 of a search that trains every trial on all the data; measured: "
        "120 s and 270 s of worker time, 0.325 of what such a search would take by step 1's time per sample."
    )


@pytest.fixture(scope="module")
def on_rungs(study):
    """60 trials of half a second on a fiftieth of the data, of which 30 went on for two seconds on a tenth."""
    [view] = study
    config = Config.from_dict(view.description["config"])
    config = replace(config, search=replace(config.search, rungs=(0.02,), reduction=2))
    prepared = view.description["prepared"]
    sizes = {k: prepared[k] | {"rung1": prepared[k]["2"] // 50} for k in ("num_train", "num_validation")}
    rung = [r | {"seconds": 0.5} for r in view.step1]
    ended = [r | {"state": "pruned", "rung": 1} for r in rung[30:]]
    description = view.description | {"config": config.to_dict(), "prepared": prepared | sizes}
    return replace(view, description=description, step1=view.step1[:30] + ended, first=view.first[:30], rungs=(rung,))


def test_trials_that_ended_on_rungs_are_told_apart_from_pruned_ones(on_rungs):
    assert "Left out: 30 trials that ended on rungs." in said(ranks.error_against_rank([on_rungs]))
    assert "pruned" not in said(architecture.learning_curves([on_rungs]))
    through = "These trials are those that the rungs let through: to have one of them took 2 trials on the first rung."
    assert through in said(ranks.trials_needed([on_rungs]))


def test_the_front_of_a_search_over_two_objectives_is_told_with_what_was_retrained(study):
    """Errors grow with the trial's number, and parameters too, but for trial 30's 40: trials 0 and 30 are the front."""
    (view,) = study
    config = view.description["config"]
    description = view.description | {"config": config | {"search": config["search"] | {"sampler": "nsga2"}}}
    by_parameters = replace(view, description=description)
    section = front.front_of_search([by_parameters])
    assert section.sentences == (
        "The search minimised error and number of parameters. 2 of 60 trials of step 1 are on the Pareto front, from "
        "40 parameters (trial 30, MSE 0.0017) to 1,000 parameters (trial 0, MSE 0.001); 2 of them were retrained.",
    )
    assert [p.name for p in section.panels] == ["search-front"]

    def timed(records):  # measured: a nanosecond for each parameter, and 40
        return [r | {"modelled_latency_ns": 1.1 * (r["num_parameters"] + 40.0)} for r in records]

    by_latency = replace(by_parameters, first=timed(view.first), second=timed(view.second))
    text = said(front.front_of_search([by_latency]))
    assert "error and modelled latency. 2 of 60 trials of step 1 are on the Pareto front, from 88 ns (trial 30" in text
    assert text.endswith(
        "Against the times measured of 9 retrained networks, the model is off by 10 % in the median and 10 % at most."
    )
    with pytest.raises(NothingToDraw, match="no study minimises two objectives"):
        front.front_of_search(study)
    concerned = [command._concerns(front.front_of_search, [s]) for s in (view, by_latency)]
    assert concerned == [False, True]


def test_rungs_are_part_of_what_a_search_costs(on_rungs):
    assert said(ranks.cost([on_rungs])) == (
        f"Rungs and `p_subset` + `p_retrain` = (0.02 + 0.5 {TIMES} 0.1) + 0.15 = 0.22 of a search that trains every "
        "trial on all the data; measured: 90 s and 270 s of worker time, 0.267 of what such a search would take by "
        "step 1's time per sample."
    )


def test_latency_has_its_front_and_its_pick(study):
    # latencies are parameters + 40 ns; trial 30 has 40 parameters, trial 2 is the best
    assert said(cost.error_against_latency(study)) == (
        "Measured through libemulator on one core of some CPU. The fastest network takes 80 ns per sample (trial 30, "
        "MSE 1.90e-4), the best 1,060 ns (trial 2, MSE 1.00e-4): 13.2 times the time for 1.9 times less error; 2 of 9 "
        "networks lie on the Pareto front. The pick `lightest` is trial 30: 80 ns, 40 parameters, MSE 1.90e-4, 1.9 "
        "times the best."
    )
    # the next best, trial 3, has 1.05 times the error
    assert "The pick `lightest` is trial 2:" in said(cost.error_against_latency(study, 0.04))
    assert "The pick `lightest` is trial 30:" in said(cost.error_against_latency(study, 0.95))
    assert said(cost.inference_time(study)) == (
        "100,000 samples take from 0.002 s (trial 30, 40 parameters) to 0.0535 s (trial 7, 1,070 parameters) on one "
        "core, at batch size 1,024."
    )


def test_the_trials_that_would_have_sufficed_are_counted(study):
    # 2 of 60 are within 10 % of the best: n miss both with probability (60 - n)(59 - n) / (60 * 59)
    one = next(n for n in range(1, 61) if (60 - n) * (59 - n) <= 0.05 * 60 * 59)

    def chance(n):  # that at least 8 of n lie among the 40 of the flat part
        return sum(math.comb(40, k) * math.comb(20, n - k) for k in range(8, n + 1)) / math.comb(60, n)

    filled = next(n for n in range(8, 61) if chance(n) >= 0.95)
    # the k-th best is the best of 30 with probability C(60 - k, 29) / C(60, 30)
    half = sum(math.comb(59 - k, 29) * cases.step1_error(k) for k in range(31)) / math.comb(60, 30) / 1e-3
    assert said(ranks.trials_needed(study)) == (
        f"2 networks came within 10 % of the best error of step 2: {one} random trials of the 60 would have held one "
        f"of them with 95 % probability. {filled} random trials would have put `top` = 8 trials into the flat part "
        f"with 95 % probability. Half of the trials (30) would have found a best step-1 error {half:.2f} times that "
        "of all, in the mean."
    )
    # trial 30 alone has one layer, and fewest parameters: n of 60 hold it with probability n / 60
    assert said(architecture.subsets_of_trials(study)) == (
        "To meet a network in the flat part with the least depth there (1 hidden layer), 57 random trials of the 60 "
        "are enough with 95 % probability; to meet one with at most twice the fewest parameters (40), 57 trials."
    )


def test_learning_curves_say_when_trainings_ended(study):
    # all ran 4 epochs, the best in the third; the limit was 4 for trial 2, 10 for the others
    assert said(architecture.learning_curves(study)) == (
        "The best network had its least error in epoch 3 of 4; 1 of 60 trainings of step 1 and 1 of 9 of step 2 ran to "
        "their limit of epochs instead of stopping early."
    )


def test_networks_that_went_wrong_are_described(study):
    # trial 6 alone (5e-3 against 1e-4); layers and parameters of the others: 2, 3, 4, 2, 3, 4, 3, 1 and 40, 1000..1070
    assert said(architecture.histograms(study)) == (
        "1 of 9 networks of step 2 has more than 10 times the best error; their medians are 2 hidden layers and 1,060 "
        "parameters, against 3 and 1,025 of the others."
    )


def test_rungs_say_how_many_went_on_and_whether_the_order_held(on_rungs):
    held = "is 1.00 (95 % interval 1.00 to 1.00)"
    expected = (
        "60 trials began on p = 0.02; 30 went on to p = 0.1. Spearman's correlation of the errors before and after "
        f"{held} over 30 trials from p = 0.02 to 0.1; only the best went on, which by itself lowers it. The rung took "
        "30 s of worker time; what ended there would have taken about 60 s on the next part of the data. The best 8 of "
        "step 1 were among the first 8 of 30 on p = 0.02 that went on, so that no more of them need have gone on."
    )
    section = rungs.rungs([on_rungs])
    assert said(section) == expected
    assert [p.name for p in section.panels] == ["rungs-errors", "rungs-ranks"]
    # the same 30 in the reverse order on the rung: the best 8 of step 1 were the last there that went on
    [rung] = on_rungs.rungs
    reverse = [r | {"validation_mse": cases.step1_error(29 - k)} for k, r in enumerate(rung[:30])] + rung[30:]
    text = said(rungs.rungs([replace(on_rungs, rungs=(reverse,))]))
    assert "is -1.00 (95 % interval -1.00 to -1.00) over 30 trials" in text
    assert text.endswith(
        "first 30 of 30 on p = 0.02 that went on, so close to the end that others as good may have been left behind."
    )


def test_light_trials_that_went_on_for_that_are_told_apart(on_rungs):
    [rung] = on_rungs.rungs
    best = on_rungs.first[0]["trial"]
    behind = [r | {"validation_mse": 1.0} if r["trial"] == best else r for r in rung]
    assert said(rungs.rungs([replace(on_rungs, rungs=(behind,))])).endswith(
        "Of the best 8 of step 1, 1 went on for being light; the others were among the first 7 of 30 on p = 0.02 that "
        "went on, so that no more of them need have gone on."
    )


def test_hyperparameters_are_ranked_by_what_they_explain(study):
    """The learning rate grows with the error; the optimizer alternates; momentum is there with sgd alone."""
    [view] = study
    config = view.description["config"]
    rate = {"low": 1e-4, "high": 0.1, "log": True}
    momentum = {"low": 0.5, "high": 0.9, "when": {"optimizer": ["sgd"]}}
    train = config["train"] | {"learning_rate": rate, "optimizer": ["adam", "sgd"], "momentum": momentum}
    rates = [10.0 ** (-4 + 3 * k / 59) for k in range(60)]

    def params(k):
        drawn = {"num_hidden": 2, "learning_rate": rates[k], "optimizer": ("adam", "sgd")[k % 2]}
        return drawn | ({"momentum": 0.5 + 0.4 * (k * 7 % 60) / 60} if k % 2 else {})

    first = [r | {"params": params(r["trial"])} for r in view.first]
    searched = replace(view, description=view.description | {"config": config | {"train": train}}, first=first)
    section = hyperparameters.hyperparameters([searched])
    # ranks 1 to 60 in eight parts in order: variance of the means of the parts against that of all
    parts = np.array_split(np.arange(1, 61), 8)
    share = sum(len(p) * (p.mean() - 30.5) ** 2 for p in parts) / sum((k - 30.5) ** 2 for k in range(1, 61))
    least = stdlib.median(cases.step1_error(k) for k in range(8))
    assert said(section) == (
        f"The order of the errors depends on `learning_rate` ({100 * share:.0f} % of the variance of the ranks; least "
        f"median error {number(least)} at 1.00e-4 to {number(rates[7])}); on `optimizer` and `momentum` no more than "
        "chance would have it."
    )
    assert [p.name for p in section.panels] == ["parameter-learning_rate", "parameter-optimizer", "parameter-momentum"]
    found = {f.parameter.name: f for f in hyperparameters.influences(searched)}
    assert len(found["momentum"].errors) == 30 and len(found["momentum"].parts) == 6
    assert not hyperparameters.has_any(view)


def test_a_rung_under_way_says_how_far_it_is(on_rungs):
    [rung] = on_rungs.rungs
    begun = replace(on_rungs, rungs=(rung[:20],), step1=[], first=[], step2=[], second=[])
    section = rungs.rungs([begun])
    assert said(section) == "20 of 60 trials are done on the first rung (p = 0.02)." and len(section.panels) == 1
    assert "p = 0.1" not in section.panels[0].alt
    begun = replace(on_rungs, step1=on_rungs.step1[:12], first=on_rungs.first[:12])
    assert "30 went on to p = 0.1, where 12 are done." in said(rungs.rungs([begun]))
    assert "need have gone on" not in said(rungs.rungs([begun]))


# -- a study in other states --------------------------------------------------------------------------------------


def test_failed_and_pruned_trials_are_counted_and_left_out(tmp_path):
    pruned = [cases.record(1, k, 1e-9, state="pruned", epochs=2) for k in (60, 61)]
    failed = [cases.record(1, 62, None, state="failed")]
    folder = cases.make_study(tmp_path / "s", more=(*pruned, *failed))
    study = read_studies([folder])
    assert "Left out: 1 failed trial and 2 pruned trials." in said(ranks.error_against_rank(study))
    assert said(ranks.error_against_rank(study)).startswith("60 trials span a factor of 32")
    # 2 of 10 epochs
    assert "2 trials of step 1 were pruned, 80 % of their epochs before the limit." in said(
        architecture.learning_curves(study)
    )
    about = " ".join(command._about(study))
    assert "Step 1: 60 complete, 1 failed, 2 pruned; step 2: 9 complete." in about


def test_a_curve_without_a_flat_part_is_said_to_have_none(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "step1_error", lambda k: 1e-3 * 1.1**k)
    study = read_studies([cases.make_study(tmp_path / "s")])
    assert "The curve does not flatten towards its best ranks" in said(ranks.error_against_rank(study))
    assert "flat part" not in said(ranks.trials_needed(study))
    assert "within twice the best step-1 error" in said(architecture.subsets_of_trials(study))


def test_a_flat_part_that_is_one_in_a_wide_sense_only_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(
        cases, "step1_error", lambda k: 1e-3 * 6.0 ** (min(k, 39) / 39) * 200.0 ** (max(k - 39, 0) / 20)
    )
    study = read_studies([cases.make_study(tmp_path / "s")])
    text = said(ranks.error_against_rank(study))
    assert "is flat, if an order of magnitude counts as flat, up to rank 40 (95 % interval" in text
    assert "grows by a factor of 6;" in text


def test_top_beyond_the_flat_part_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "TOP", 58)
    study = read_studies([cases.make_study(tmp_path / "s")])
    assert "`top` = 58 reaches beyond the flat part" in said(ranks.error_against_rank(study))
    assert "fewer trials than `top` = 58: no number of these would have filled it" in said(ranks.trials_needed(study))


@pytest.mark.parametrize("trials", [1, 5])
def test_a_tiny_study_without_step_2_leaves_parts_out_with_a_reason(tmp_path, trials):
    folder = cases.make_study(tmp_path / "s", trials=trials, step2=())
    sections = report.write_report([folder], tmp_path / "out", latency=False)
    reasons = {s.title: s.sentences[0] for s in sections if not s.all_panels()}
    assert reasons["Error after retraining"] == (
        "Not drawn: step 2 has 0 completed trials; a comparison of the steps needs 2."
    )
    assert reasons["Predicted against true"] == "Not drawn: step 2 has no completed network yet."
    assert ("Error against rank" in reasons) == (trials == 1)
    assert (tmp_path / "out/report.html").exists() and (tmp_path / "out/models.md").read_text()
    assert not [f for f in (tmp_path / "out/figures").iterdir() if f.stat().st_size == 0]


def test_a_study_on_its_first_rung_has_a_page_already(tmp_path):
    folder = cases.make_study(tmp_path / "s", step2=())
    shutil.move(folder / "step1", folder / "rung1/step1")
    description = json.loads((folder / "study.json").read_text())
    description["config"]["search"] |= {"rungs": [0.02], "reduction": 2}
    description["prepared"]["num_train"]["rung1"], description["prepared"]["num_validation"]["rung1"] = 16, 4
    (folder / "study.json").write_text(json.dumps(description))
    sections = report.write_report([folder], tmp_path / "out", latency=False, holdout=False)
    assert [s.title for s in sections if s.all_panels()] == ["Cost against a one-step search", "Rungs of step 1"]
    text = (tmp_path / "out/report.html").read_text()
    assert "60 trials began on p = 0.02; 30 went on to p = 0.1, where 0 are done." in text
    assert "<li>Error against rank: step 1 has 0 completed trials; a curve needs 2.</li>" in text
    assert "Not drawn:" not in text  # one heading says so for all


def test_trials_of_an_adaptive_search_are_said_to_be_no_random_ones(tmp_path):
    folder = cases.make_study(tmp_path / "s")
    assert "proposed by" not in said(ranks.trials_needed(read_studies([folder])))
    description = json.loads((folder / "study.json").read_text())
    description["config"]["search"]["sampler"] = "tpe"
    (folder / "study.json").write_text(json.dumps(description))
    assert "These trials were proposed by `tpe`" in said(ranks.trials_needed(read_studies([folder])))


def test_an_unfinished_study_says_how_far_it_is(tmp_path):
    folder = cases.make_study(tmp_path / "s", step2=(0, 1, 2))
    study = read_studies([folder])
    assert study[0].stage == ("The study is not running: 60 of 60 trials done in step 1; 3 of 9 trials done in step 2.")
    with pytest.raises(NothingToDraw, match="six networks"):
        ranks.error_by_rank_group(study)
    now = time.time() - study_cases.BEGIN.timestamp()
    study_cases.member(folder, "m", state="step 2", now=now, workers=[study_cases.worker(0)])
    running = read_studies([folder])[0]
    assert running.stage.startswith("The study is still running: 60 of 60") and running.running
    assert "not measured while its search runs" in cost.measure_latencies(running, lambda trial: None)


def test_records_of_one_trial_that_two_workers_finished_count_once(tmp_path):
    folder = cases.make_study(tmp_path / "s")
    with RecordWriter(folder / "step1/worker-001.jsonl") as writer:
        writer.append(cases.record(1, 3, 1e-9))
    assert said(ranks.error_against_rank(read_studies([folder]))).startswith("60 trials span a factor of 32")


# -- several studies ----------------------------------------------------------------------------------------------


def test_several_studies_are_told_apart_by_their_subset(two):
    assert [s.label for s in two] == ["p = 1", "p = 0.1"]
    sentences = ranks.error_of_both_steps(two).sentences
    assert sentences[0].startswith("p = 1: Retraining 9 networks") and sentences[1].startswith("p = 0.1: Retraining 9")
    # step 1: 1e-4 against 1e-3; step 2: the same
    assert sentences[2] == (
        "The best errors of the studies differ by a factor of 10 after step 1 and 1 after step 2; p = 1 has the least."
    )
    assert len(ranks.error_against_rank(two).panels) == 1


def test_every_figure_of_the_search_overlays_several_studies(two):
    for title, draw in (*command.SEARCH_FIGURES, *command.LATER_FIGURES):
        if not command._concerns(draw, two):  # no rungs, and nothing but depth and widths was searched
            continue
        section = command._draw(title, draw, two)
        assert section.all_panels(), section.sentences
    assert re.search(r"p = 0.1: The fastest .* The pick `lightest` is trial 30", said(cost.error_against_latency(two)))


def test_the_table_pools_several_studies(two):
    rows = tables.model_rows(two, None)
    assert len(rows) == 18 and [r["rank"] for r in rows] == list(range(1, 19))
    assert [(r["study"], r["trial"]) for r in rows[:3]] == [("p = 1", 2), ("p = 0.1", 2), ("p = 1", 3)]


def test_the_studies_are_compared_in_a_table(two, on_rungs):
    rows = tables.study_rows(two)
    flat = statistics.flat_part([cases.step1_error(k) for k in range(60)])
    large = {"study": "p = 1", "trials": 60, "near": 40, "best_step1": 1e-4, "retrained": 9, "best_step2": 1e-4}
    assert rows[0] == rows[0] | large | {"flat": 40, "flat_low": flat.low, "flat_high": flat.high, "worker_s": 390.0}
    assert rows[1] == rows[1] | {"study": "p = 0.1", "best_step1": pytest.approx(1e-3), "cost": pytest.approx(0.325)}
    assert rows[1]["correlation"] == pytest.approx(1 - 6 * 38 / (8 * 63))
    shown = [tables.interval(rows[1], c) for c in tables.STUDY_SHOWN]
    assert shown[:3] == ["p = 0.1", "60", "40"] and shown[3] == f"40 ({flat.low} to {flat.high})"
    assert re.fullmatch(r"0\.55 \(-?[01]\.\d\d to [01]\.\d\d\)", shown[6]) and shown[7:] == ["1.00e-4", "390", "0.325"]
    empty = tables.study_rows([replace(on_rungs, first=[], step2=[], second=[])])[0]
    assert [tables.interval(empty, c) for c in tables.STUDY_SHOWN][1:] == ["0", "0", "-", "-", "0", "-", "-", "-", "-"]


def test_studies_that_measure_errors_differently_are_refused(tmp_path, folder, capsys):
    other = cases.make_study(tmp_path / "other", latency=False)
    text = (other / "study.json").read_text()
    (other / "study.json").write_text(text.replace('"error_units": "physical"', '"error_units": "standardised"'))
    assert report.main([str(folder), str(other), "--out", str(tmp_path / "r")]) == 2
    assert "expected one unit" in capsys.readouterr().err


# -- tables -------------------------------------------------------------------------------------------------------


def test_tables_list_the_retrained_networks_best_first(study, tmp_path):
    rows = tables.model_rows(study, None)
    order = sorted(cases.STEP2, key=cases.STEP2.get)
    assert [r["trial"] for r in rows] == order
    assert rows[0] == rows[0] | {
        "rank": 1,
        "validation_mse": 1e-4,
        "step1_rank": 3,
        "layers": 4,
        "hidden": "24-24-24-24",
        "num_parameters": 1020,
        "ns_batch_16": 1060.0,
        "promoted": "error",
    }
    tables.write_csv(tmp_path / "m.csv", rows)
    with open(tmp_path / "m.csv", newline="") as stream:
        assert [int(r["trial"]) for r in csv.DictReader(stream)] == order
    lines = tables.markdown(rows).splitlines()
    assert len(lines) == 2 + 9 and len({line.count("|") for line in lines}) == 1
    assert "| 1 | 2 | 3 | 4 | 24-24-24-24 | 1,020 | " in lines[2]


def test_the_latex_table_compiles_or_at_least_balances(study, tmp_path):
    text = tables.latex(tables.model_rows(study, None))
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 1 + 9
    columns = re.search(r"begin\{tabular\}\{([lr]+)\}", text)[1]
    assert {line.count("&") for line in body} == {len(columns) - 1}
    assert r"& $1.000\times10^{-4}$ &" in text and not re.search(r"\de-\d", text)
    assert not re.search(r"(?<!\\)[_%#]", text.partition("\n")[2]) and text.count("$") % 2 == 0
    if shutil.which("pdflatex"):
        document = rf"\documentclass{{article}}\begin{{document}}{text}\end{{document}}"
        (tmp_path / "t.tex").write_text(document)
        subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


# -- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "message"), [("nothing", "is not a study"), ("empty", "no finished trial in step 1")])
def test_nothing_to_report_is_said_readably(tmp_path, capsys, what, message):
    folder = cases.make_study(tmp_path / "s", trials=0, step2=()) if what == "empty" else tmp_path
    assert report.main([str(folder)]) == 2
    assert message in capsys.readouterr().err


def test_a_tolerance_below_nothing_is_refused(folder, capsys):
    assert report.main([str(folder), "--tolerance", "-1"]) == 2
    assert "--tolerance is -1; expected 0 or more" in capsys.readouterr().err


def test_unknown_map_inputs_are_refused_with_those_there_are(folder, tmp_path, capsys):
    assert report.main([str(folder), "--maps", "a,wbar", "--out", str(tmp_path)]) == 2
    assert "there is no input wbar; expected two of a, b" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        report.main([str(folder), "--maps", "a"])
    assert "expected two input names" in capsys.readouterr().err


def test_a_damaged_latency_file_is_named(folder, tmp_path, capsys):
    copy = shutil.copytree(folder, tmp_path / "s")
    (copy / "latency.json").write_text("{")
    assert report.main([str(copy), "--no-latency"]) == 2
    assert "latency.json cannot be read" in capsys.readouterr().err


# -- words --------------------------------------------------------------------------------------------------------


def test_numbers_are_written_shortly():
    assert [number(v) for v in (0.0, 1.0, 0.00123456, 1234.5, 1.2345e-5, 98765.0)] == [
        "0", "1", "0.00123", "1,234", "1.23e-5", "9.88e4"
    ]  # fmt: skip
    assert typeset("2.19e-5 to -0.19, step-1, 32-34") == f"2.19{TIMES}10⁻⁵ to {MINUS}0.19, step-1, 32-34"
    assert [unit(u) for u in ("cm s-1", "m^2", "CO2 kg-1", "1", "")] == [" cm s⁻¹", " m²", " CO2 kg⁻¹", "", ""]
    assert units_label("cm-3") == " [cm⁻³]" and units_label("1") == ""
    assert [percent(v) for v in (0.5, 0.0123, 1.0)] == ["50 %", "1.2 %", "100 %"]
    assert [count(1, "trial"), count(2000, "trial")] == ["1 trial", "2,000 trials"]
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert np.isfinite(float(number(3.3e-7)))
