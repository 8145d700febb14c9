"""What should change after a search: reviews of studies made by hand, whose answer is known."""

import tomllib
from dataclasses import replace

import pytest

from hpo import plan
from hpo.config import Config
from hpo.ladder import kept
from hpo.promotion import going_on
from hpo.review import changed, review
from tests.python.study_cases import append, describe, make_config, make_record


def reviewed(step1, step2, **search):
    """Advice by setting, on trials with these errors (step2: by trial number)."""
    config = make_config(**search)
    first = [make_record(config, t, mse=None) | {"validation_mse": e} for t, e in enumerate(step1)]
    second = [make_record(config, t, step=2) | {"validation_mse": e} for t, e in step2.items()]
    return {a.about: a for a in review(config, first, second)}


ERRORS = [1e-3 * 1.2**k for k in range(40)]


def test_a_step1_that_orders_the_best_is_kept_and_one_that_does_not_is_enlarged():
    good = reviewed(ERRORS, {t: 1e-4 * (t + 1) for t in range(10)}, top=10)["search.p_subset"]
    assert good.verdict == "keep" and "is 1.00" in good.because
    bad = reviewed(ERRORS, {t: 1e-4 * (20 - t) for t in range(10)}, top=10)["search.p_subset"]
    assert (bad.verdict, bad.now, bad.better) == ("change", 0.05, 0.2) and "-1.00" in bad.because
    mixed = reviewed(ERRORS, {t: 1e-4 * (1 + (7 * t) % 10) for t in range(10)}, top=10)["search.p_subset"]
    assert mixed.verdict == "cannot tell" and mixed.better is None
    few = reviewed(ERRORS, {t: 1e-4 * (t + 1) for t in range(3)}, top=3)["search.p_subset"]
    assert few.verdict == "cannot tell"
    assert reviewed(ERRORS, {0: 1e-4}, p_subset=1.0)["search.p_subset"].verdict == "keep"


def test_the_number_of_retrainings_follows_the_place_of_the_best():
    late = reviewed(ERRORS, {t: 1e-4 * (20 - t) for t in range(10)}, top=10)["search.top"]
    assert (late.better, late.verdict) == (20, "change") and "number 10 of 10" in late.because
    early = reviewed(ERRORS, {t: 1e-4 * (t + 1) for t in range(10)}, top=10)["search.top"]
    # the first is the best: three are enough, and seven of ten equally long retrainings saved
    assert early.better == 3 and "70% of step 2 would be saved" in early.because
    middle = reviewed(ERRORS, {t: 1e-4 * (1 + abs(t - 6)) for t in range(10)}, top=10)["search.top"]
    assert middle.verdict == "keep" and middle.better is None


def test_more_trials_where_the_last_half_gained_and_fewer_where_it_gained_nothing():
    steep = reviewed([1e-3 * 3.0**-k for k in range(40)], {})["search.trials"]
    assert (steep.better, steep.verdict) == (80, "change")
    flat = reviewed([1e-3] * 20 + [1e-2 * 1.5**k for k in range(20)], {})["search.trials"]
    # 20 of 40 are as good as the best: 4 draws miss them all with 40-choose probability 0.053, 5 with 0.024
    assert (flat.better, flat.verdict) == (5, "change")
    assert reviewed(ERRORS[:8], {})["search.trials"].verdict == "cannot tell"


def test_trials_that_were_pruned_or_failed_count_among_those_that_it_took():
    config = make_config(trials=360)
    errors = [1e-3] * 20 + [1e-2 * 1.5**k for k in range(20)]
    records = [make_record(config, t, mse=1e-3) | {"validation_mse": e} for t, e in enumerate(errors)]
    records += [make_record(config, t, mse=1.0) | {"state": "pruned"} for t in range(40, 200)]
    records += [make_record(config, t, error="validation MSE is nan") for t in range(200, 360)]
    found = {a.about: a for a in review(config, records, [])}["search.trials"]
    # 20 of 360: (1 - 20 / 360)^n falls below 0.05 at n = 52.4, and a little earlier without putting back
    assert found.better == 49 and "; 49 would have held one of the 20 within 10 % of the best" in found.because


def test_of_an_adaptive_search_the_second_half_is_held_against_the_first():
    errors = [1e-2] * 20 + [9.5e-3] * 20
    keep = reviewed(errors, {}, sampler="tpe")["search.trials"]
    assert keep.because == "the first half of the trials reached 0.01 in step 1, all of them 0.0095"
    assert (keep.verdict, keep.better) == ("keep", None)
    late = reviewed([1e-2] * 39 + [5e-3], {}, sampler="tpe")["search.trials"]
    assert (late.verdict, late.better) == ("change", 80)


def test_a_search_of_two_objectives_retrains_its_front():
    """Trial t has the error 1e-3 (1 + t) and 100 + t parameters but for four light ones; the last is too bad."""
    light = {1: 90, 3: 80, 5: 70, 9: 60}
    config = make_config(sampler="nsga2", top=3, light_top=1, light_factor=8.0, trials=20)
    first = [
        make_record(config, t, mse=1e-3) | {"validation_mse": 1e-3 * (1 + t), "num_parameters": light.get(t, 100 + t)}
        for t in range(20)
    ]
    found = {a.about: a for a in review(config, first, first[:3])}["search.light_top"]
    # 0, 1, 3 and 5 are on the front and near enough, 0 and 1 among the top
    assert (found.verdict, found.now, found.better) == ("change", 1, 2)
    assert found.because == (
        "3 of the 4 trials on step 1's Pareto front with an error within 8 times the best were retrained"
    )
    config = make_config(sampler="nsga2", top=3, light_top=2, light_factor=8.0, trials=20)
    assert {a.about: a for a in review(config, first, first[:3])}["search.light_top"].verdict == "keep"


# 90 trials on rungs of 0.01 and 0.05 and in step 1 (0.2), of which 30 and 10 go on and 2 are retrained: 90 x 1, 30 x 4,
# 10 x 16 and 2 x 50 seconds, 470 in all.
ON_RUNGS = {"trials": 90, "rungs": [0.01, 0.05], "p_subset": 0.2, "reduction": 3, "top": 2}


def on_rungs(second=lambda k: k, first=lambda k: k, *, seconds=(1.0, 4.0, 16.0, 50.0), **search):
    """Advice, and what it was made of, where trial t is number t on rung 1; of those that go on the k-th has the place
    `second(k)` on rung 2, and of those in step 1 `first(k)`."""
    config = make_config(**ON_RUNGS | search)
    left, stages = list(range(config.search.trials)), []
    for order, each in zip((lambda k: k, second, first), seconds, strict=False):
        errors = {t: 1e-3 * 1.2 ** order(k) for k, t in enumerate(left)}
        stages.append([make_record(config, t, mse=1.0, seconds=each) | {"validation_mse": errors[t]} for t in left])
        left = [r["trial"] for r in going_on(stages[-1], config)]
    rungs, step1 = stages[:2], stages[2]
    staying = [
        r | {"state": "pruned", "rung": k, "subset": p}
        for k, p, here, after in ((1, 0.01, stages[0], stages[1]), (2, 0.05, stages[1], stages[2]))
        for r in here
        if r["trial"] not in {a["trial"] for a in after}
    ]
    best = sorted(step1, key=lambda r: r["validation_mse"])[:2]
    step2 = [r | {"step": 2, "seconds": seconds[3], "promoted": "error"} for r in best]
    return review(config, [*step1, *staying], step2, rungs), (config, rungs, [*step1, *staying], step2)


def test_rungs_that_order_their_trials_are_kept_with_what_they_cost_and_save():
    advice, _ = on_rungs(reduction=3)
    one, two = (a for a in advice if a.about == "search.rungs")
    assert one.because == (
        "rung 1 (p = 0.01) took 19% of the worker time and let 30 of 90 go on, which saved about 51%; its rank "
        "correlation with p = 0.05 among the 30 that went on is 1.00 (95 %: 1.00 to 1.00): it orders even those"
    )
    # 30 x 4 of 470 seconds; 20 trials would have taken 16 seconds each
    assert two.because.startswith("rung 2 (p = 0.05) took 26% of the worker time and let 10 of 30 go on, which saved")
    assert "saved about 68%; its rank correlation with p = 0.2 among the 10 that" in two.because
    assert {one.verdict, two.verdict} == {"keep"} and one.better is None and one.now == [0.01, 0.05]


def test_a_rung_that_does_not_order_what_it_lets_through_is_enlarged_or_left_out():
    advice, _ = on_rungs(second=lambda k: 30 - k)
    one, two = (a for a in advice if a.about == "search.rungs")
    assert (one.verdict, one.better) == ("change", [0.04, 0.05]) and two.verdict == "keep"
    assert one.because.endswith("-1.00 (95 %: -1.00 to -1.00): it does not order them, so that luck decides at its cut")
    advice, _ = on_rungs(first=lambda k: 10 - k)
    one, two = (a for a in advice if a.about == "search.rungs")
    assert (two.verdict, two.better) == ("change", [0.01]) and one.verdict == "keep", "0.2 is step 1's own"
    advice, _ = on_rungs(second=lambda k: 30 - k, first=lambda k: 10 - k)
    one, two = (a for a in advice if a.about == "search.rungs")
    assert (one.better, two.verdict, two.better) == ([0.04, 0.05], "change", None), "one after the other"


def test_a_rung_whose_order_cannot_be_known_is_said_to_be_one():
    advice, _ = on_rungs(first=lambda k: (7 * k) % 10)
    (two,) = [a for a in advice if a.because.startswith("rung 2")]
    assert two.verdict == "cannot tell" and two.because.endswith("whether it orders them cannot be told from so few")
    advice, _ = on_rungs(trials=9)
    for rung, number, part in (("rung 1", 3, "0.01"), ("rung 2", 2, "0.05")):
        (found,) = [a for a in advice if a.because.startswith(f"{rung} (p = {part})")]
        assert found.verdict == "cannot tell"
        assert f"; {number} networks are too few to compare its order with that of the next subset" in found.because


def test_a_rung_that_takes_more_time_than_it_saves_is_left_out():
    advice, _ = on_rungs(seconds=(3.0, 4.0, 16.0, 50.0))
    (one,) = [a for a in advice if a.because.startswith("rung 1")]
    # 90 x 3 = 270 of 650 seconds for 60 trials that would have taken 4 each
    assert one.because == (
        "rung 1 (p = 0.01) took 42% of the worker time and let 30 of 90 go on, which saved about 37%: not worth it"
    )
    assert (one.verdict, one.better) == ("change", [0.05])


def test_fewer_go_on_where_the_best_came_through_easily_and_more_where_it_barely_did():
    def reduction(**orders):
        return next(a for a in on_rungs(**orders)[0] if a.about == "search.reduction")

    easy = reduction()
    # 15 and 3 instead of 30 and 10: 15 x 4 and 7 x 16 seconds of 470
    assert (easy.verdict, easy.now, easy.better) == ("change", 3, 6)
    assert easy.because == (
        "the best network was number 1 of 90 on rung 1, 1 of 30 on rung 2: reduction = 6 would have let 3 instead of "
        "10 trials come to step 1, one within 10 % of the best among them, and saved 37% of the worker time"
    )
    barely = reduction(first=lambda k: 10 - k)  # the last of the ten is the best
    assert (barely.verdict, barely.better) == ("change", 2)
    assert barely.because == (
        "the best network was number 10 of 90 on rung 1, 10 of 30 on rung 2, which let 10 go on: the next ones, which "
        "it ended, may be better still"
    )
    last = reduction(first=lambda k: -k, reduction=2)
    assert (last.verdict, last.better) == ("change", None)
    assert last.because.endswith("; no smaller reduction is left, a larger subset than 0.05 is")
    middle = reduction(first=lambda k: abs(k - 6))
    assert (middle.verdict, middle.better) == ("keep", None)
    assert middle.because == "the best network was number 7 of 90 on rung 1, 7 of 30 on rung 2"


def test_a_network_that_passed_a_rung_for_being_light_asks_for_no_other_reduction():
    _, (config, rungs, step1, step2) = on_rungs(first=lambda k: abs(k - 6))
    best = step2[0]["trial"]
    behind = [r | {"validation_mse": 1e9} if r["trial"] == best else r for r in rungs[0]]
    found = {a.about: a for a in review(config, step1, step2, [behind, rungs[1]])}["search.reduction"]
    assert found.verdict == "keep" and "number 90 of 90 on rung 1" in found.because


def test_what_another_reduction_keeps_is_what_a_search_with_it_keeps():
    """Held against searches that are played: any order of the second rung."""
    for order in (lambda k: k, lambda k: (7 * k) % 30, lambda k: 30 - k):
        _, (config, rungs, _, _) = on_rungs(second=order)
        for number in (3, 4, 5):
            wanted = replace(config, search=replace(config.search, reduction=number))
            first = {r["trial"] for r in going_on(rungs[0], wanted)}
            second = {r["trial"] for r in going_on([r for r in rungs[1] if r["trial"] in first], wanted)}
            assert kept(config.search, rungs, number) == [first, second]


def test_the_command_tells_of_rungs_and_writes_them_down(tmp_path, capsys):
    _, (config, rungs, step1, step2) = on_rungs(second=lambda k: 30 - k)
    describe(tmp_path, config)
    append(tmp_path, "w", *step1, *step2)
    for k, records in enumerate(rungs, start=1):
        append(tmp_path / f"rung{k}", "w", *records)
    assert plan.main([str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "change: search.rungs = [0.01, 0.05] -> [0.04, 0.05]\n  rung 1 (p = 0.01) took 19% of the worker" in told
    found = Config.from_dict(tomllib.loads((tmp_path / "next.toml").read_text())).search
    assert found.rungs == (0.04, 0.05)


def test_retrainings_that_stop_before_their_learning_rate_has_fallen_want_no_patience():
    config = make_config(top=10)
    first = [make_record(config, t) | {"validation_mse": e} for t, e in enumerate(ERRORS)]

    def advised(epochs, **train):
        second = [make_record(config, t, step=2) | {"epochs": n} for t, n in enumerate(epochs)]
        second = [r | {"train": r["train"] | {"max_epochs": 60} | train} for r in second]
        return {a.about: a for a in review(config, first, second)}.get("step2.patience")

    found = advised([60] * 4 + [30] * 5 + [12], learning_rate_schedule="cosine")
    assert (found.verdict, found.now, found.better) == ("change", 5, 0)
    assert "6 of the 10 retrained" in found.because and "the first after 20% of the epochs" in found.because
    assert Config.from_dict(changed(config, [found])).step2 == {"patience": 0}
    assert advised([60] * 5 + [30] * 5, learning_rate_schedule="cosine") is None
    assert advised([12] * 10, learning_rate_schedule="constant") is None
    assert advised([12] * 10, learning_rate_schedule="cosine", patience=0) is None, "they failed otherwise"


def test_the_ends_of_the_space_and_of_the_epochs_are_noticed_and_the_next_config_holds_the_changes(tmp_path, capsys):
    config = make_config(top=10)
    first = [make_record(config, t) | {"hidden": [2048] * 20, "validation_mse": e} for t, e in enumerate(ERRORS)]
    late = {"epochs": 100, "best_epoch": 99}
    second = [r | late | {"step": 2, "model": None} for r in first[:10]]
    advice = {a.about: a for a in review(config, first, second)}
    assert advice["space.depth"].better == {"low": 1, "high": 40}
    assert advice["space.widths"].better["choices"][-1] == 4096
    assert advice["step2.max_epochs"].better == 200
    tables = changed(config, list(advice.values()))
    assert Config.from_dict(tables).step2["max_epochs"] == 200
    decayed = [r | {"train": r["train"] | {"learning_rate_schedule": "cosine"}} for r in second]
    assert {a.about: a for a in review(config, first, decayed)}["step2.max_epochs"].verdict == "keep"
    stepped = [r | {"train": r["train"] | {"learning_rate_schedule": "plateau"}} for r in second]
    assert {a.about: a for a in review(config, first, stepped)}["step2.max_epochs"].verdict == "change"

    describe(tmp_path, config)
    append(tmp_path, "w", *first, *second)
    assert plan.main([str(tmp_path)]) == 0
    assert "change: space.depth" in capsys.readouterr().out
    assert Config.from_dict(tomllib.loads((tmp_path / "next.toml").read_text())).space.depth.high == 40


def test_failures_are_told_with_their_commonest_reason():
    config = make_config()
    records = [make_record(config, t, mse=1e-3) for t in range(15)]
    records += [make_record(config, t, error="validation MSE is nan") for t in range(15, 20)]
    (advice,) = [a for a in review(config, records, []) if a.about == "train.learning_rate"]
    assert "5 of 20 trials failed, most often: validation MSE is nan" in advice.because
    assert advice.better == pytest.approx(config.train.values["learning_rate"] / 3)
