"""What a search should look like: probes with a known answer, and a real one."""

import json
import tomllib
from dataclasses import replace

import numpy as np
import pytest

from emulator.records import RecordWriter
from hpo import plan, planning
from hpo import probe as probe_module
from hpo.config import Config
from hpo.decay import Decay, best_rate, constant_rate, decaying, step2_settings
from hpo.planning import alternatives, recommended
from hpo.probe import Probe, default_fractions, read_probe
from tests.python.hpo_cases import outcomes, write_config, write_samples
from tests.python.study_cases import make_config, make_record


def probe(noise, *, trials=30, seed=0):
    """Log errors on parts 0.01 and 0.1 of the data are those on all of it plus normal noise of that size; a trial
    costs 1, 10 and 100 seconds, and a billion times that in arithmetic; none was trained twice."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=trials)
    logs = np.column_stack([true + noise[k] * rng.normal(size=trials) for k in range(2)] + [true])
    return known_probe([0.01, 0.1], np.exp(logs), np.tile([1.0, 10.0, 100.0], (trials, 1)))


def known_probe(fractions, errors, seconds, **more):
    """Arithmetic in proportion to seconds, all networks of one size."""
    ones = np.ones((len(errors), 2))
    known = {"flop": 1e9 * seconds, "again": np.full(len(errors), np.nan), "sizes": ones, "space_sizes": ones}
    return Probe(fractions=np.array(fractions), reference=1.0, errors=errors, seconds=seconds, failed=0, **known | more)


def forecast(*arguments, **more):
    return planning.forecast(*arguments, **({"worlds": 25, "tops": (1, 2, 5, 10, 20)} | more))


def setting(found, p, trials, top):
    (one,) = [o for o in found.outlooks if (o.p_subset, o.trials, o.top) == (p, trials, top)]
    return one


def test_a_part_that_orders_networks_as_all_the_data_do_is_enough_with_one_retraining():
    found = forecast(probe((0.0, 0.0)), 100, tolerance=0.1)
    one = setting(found, 0.01, 100, 1)
    assert one.excess == pytest.approx(0.0, abs=1e-9) and one.within == 1.0
    assert one.seconds == pytest.approx(100 * 1.0 + 100.0) and one.cost == pytest.approx(0.02)
    assert found.one_step_seconds == pytest.approx(100 * 100.0)
    assert one.cost_flop == one.cost_seconds == pytest.approx(0.02) == one.cost_low == one.cost_high
    assert one.hours(1000) == pytest.approx(100.0 / 3600), "not faster than its longest retraining"
    chosen, sure = recommended(found, confidence=0.8)
    assert sure and chosen.p_subset == 0.01 and chosen.cost <= one.cost


def test_a_part_that_says_nothing_is_not_recommended_and_a_better_one_is():
    found = forecast(probe((50.0, 0.05)), 100, tolerance=0.2)
    blind, sharp = setting(found, 0.01, 100, 2), setting(found, 0.1, 100, 2)
    assert blind.within < 0.2 and blind.excess > 0.5
    assert sharp.within > 0.9
    chosen, sure = recommended(found, confidence=0.8)
    assert sure and chosen.p_subset == 0.1
    assert blind.excess_high - blind.excess_low > sharp.excess_high - sharp.excess_low


def test_what_cannot_be_had_for_the_money_is_said_to_be_unsure():
    found = forecast(probe((50.0, 0.05)), 100, tolerance=0.2, max_cost=0.05)
    chosen, sure = recommended(found, confidence=0.8)
    assert not sure and chosen.cost <= 0.05 and chosen.affordable == 1.0
    nothing, sure = recommended(forecast(probe((0.0, 0.0)), 100, tolerance=0.2, max_cost=1e-4), confidence=0.8)
    assert not sure and nothing.affordable == 0.0 and (nothing.trials, nothing.top) == (100, 1), "the cheapest of all"


def test_a_search_is_at_least_twice_the_probe_whose_networks_it_begins_with():
    found = forecast(probe((0.0, 0.0)), 1000, tolerance=0.2)
    assert {o.trials for o in found.outlooks} == {100, 250, 500, 1000}
    assert {o.trials for o in forecast(probe((0.0, 0.0)), 40, tolerance=0.2).outlooks} == {40}


def sized(order, space, **more):
    """Sixty networks of sizes from 1 to 9, which are their costs on all the data, a hundredth of it on 0.01; `order`
    gives their errors, which the part and all the data agree on."""
    size = np.linspace(1.0, 9.0, 60)
    errors = np.exp(order(size))
    sizes, space = (np.column_stack([s, s]) for s in (size, space))
    more = {"sizes": sizes, "space_sizes": space} | more
    return known_probe([0.01], np.column_stack([errors, errors]), size[:, None] * [0.01, 1.0], **more)


UNIFORM = np.linspace(1.0, 9.0, 1000)  # 5 on average


def test_what_is_retrained_costs_what_networks_cost_that_are_the_best():
    """Two of a hundred, of which the largest have size 8.9 and the smallest 1.1 (expected extremes of 100 draws)."""
    large = setting(forecast(sized(lambda s: -s, UNIFORM), 100, tolerance=0.2), 0.01, 100, 2)
    assert large.cost == pytest.approx(0.01 + 2 * 8.9 / 500.0, rel=0.05)  # the games' draws of sizes: sum within 5 %
    small = setting(forecast(sized(lambda s: s, UNIFORM), 100, tolerance=0.2), 0.01, 100, 2)
    assert small.cost == pytest.approx(0.01 + 2 * 1.1 / 500.0, rel=0.1)


def test_costs_follow_the_space_where_the_probe_drew_small_networks():
    space = 3.0 * UNIFORM
    found = forecast(sized(lambda s: -s, space), 100, tolerance=0.2)
    assert found.one_step_seconds == pytest.approx(100 * 15.0, rel=0.05)
    assert setting(found, 0.01, 100, 2).cost == pytest.approx(0.01 + 2 * 8.9 / 500.0, rel=0.05)


def test_what_may_be_spent_binds_in_arithmetic_and_in_seconds_whichever_is_more():
    same = probe((0.0, 0.0))
    skewed = replace(same, flop=same.flop * [1.0, 1.0, 0.1])  # 1, 10, 10: step 1 is dearer by arithmetic
    one = setting(forecast(skewed, 100, tolerance=0.2, max_cost=0.05), 0.01, 100, 1)
    assert one.cost_seconds == pytest.approx(0.02) and one.cost_flop == pytest.approx(0.11)
    assert one.cost == one.cost_flop and one.affordable == 0.0


def test_a_single_search_may_cost_more_than_is_expected_of_it_and_that_counts():
    """Errors that know nothing of size: the one retrained has any, so that its cost is 0.01 + (1 to 9) / 500."""
    noise = np.random.default_rng(0).normal(size=60)
    found = forecast(sized(lambda s: noise, UNIFORM), 100, tolerance=0.2, max_cost=0.02, worlds=100)
    one = setting(found, 0.01, 100, 1)
    assert one.cost == pytest.approx(0.02, rel=0.1) and 0.011 < one.cost_low < 0.015 and 0.025 < one.cost_high < 0.029
    assert 0.35 < one.affordable < 0.65


def test_the_luck_of_seeds_makes_a_search_that_orders_perfectly_less_sure():
    """Parts order networks as the first trainings on all the data did; second ones come out in other orders."""
    sure = probe((0.0, 0.0))
    shuffled = np.random.default_rng(1).permutation(sure.errors[:, -1])
    lucky = replace(sure, again=shuffled)
    before = setting(forecast(sure, 100, tolerance=0.2), 0.01, 100, 1)
    after = setting(forecast(lucky, 100, tolerance=0.2), 0.01, 100, 1)
    assert before.within == 1.0 and after.within < 0.3
    more = setting(forecast(lucky, 100, tolerance=0.2), 0.01, 100, 20)
    assert more.within > after.within + 0.1
    same = setting(forecast(replace(sure, again=sure.errors[:, -1]), 100, tolerance=0.2), 0.01, 100, 1)
    assert same.within == 1.0, "no luck was seen"


def test_seed_ratios_are_those_of_networks_trained_twice():
    errors = np.array([[1.0, 2.0], [1.0, 4.0], [1.0, 8.0]])
    found = known_probe([0.1], errors, np.ones((3, 2)), again=np.array([3.0, np.nan, 4.0]))
    np.testing.assert_allclose(found.seed_ratios(), [1.5, 2.0])


def decay(ratios, again=None, *, constant=1.0, lengths=1.0):
    """Networks with errors of that many times the constant ones, and of second trainings."""
    first, constant = np.array(ratios) * constant, np.broadcast_to(constant, np.shape(ratios))
    second = np.full(len(first), np.nan) if again is None else np.array(again) * constant
    return Decay(
        constant=0.001,
        rate=0.004,
        tried=(0.002, 0.004, 0.008),
        constant_errors=np.array(constant, float),
        errors=np.column_stack([first, second]),
        lengths=np.full(len(first), lengths),
        failed=0,
    )


def test_what_a_decaying_rate_gains_is_the_median_of_its_networks_with_their_spread():
    found = decay([0.5, 0.25, np.nan], [0.5, 1.0, np.nan])
    np.testing.assert_allclose(found.ratios(), [0.5, 0.5])
    np.testing.assert_allclose(found.seed_ratios(), [1.0, 4.0])
    assert found.advantage(0.9) == pytest.approx((0.5, 0.5, 0.5))
    # the median of seven resampled is the least with probability 0.010, one of the two least with 0.108
    median, low, high = decay([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).advantage(0.9)
    assert (median, low, high) == (4.0, 2.0, 6.0)


def test_the_best_rate_is_that_with_the_least_errors_of_the_networks_that_all_rates_have():
    tried = {0.002: {1: 2.0, 2: 2.0, 3: 0.001}, 0.004: {1: 1.0, 2: 2.0}, 0.008: {1: 0.1, 2: np.inf}}
    assert best_rate(tried) == 0.004


def test_a_rate_that_varies_already_or_is_searched_is_left_alone():
    def rate(**tables):
        return constant_rate(Config.from_dict({"data": {"path": "samples.nc"}} | tables))

    assert rate() == 0.001 and rate(step2={"learning_rate": 0.002}) == 0.002
    assert rate(train={"learning_rate_schedule": "cosine"}) is None
    assert rate(step2={"learning_rate_schedule": "one_cycle"}) is None
    assert rate(train={"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}) is None
    config = decaying(make_config(), 0.004)
    assert config.step2 == {
        "learning_rate": 0.004,
        "learning_rate_schedule": "cosine",
        "warmup_fraction": 0.05,
        "patience": 0,
    }


def test_a_search_that_decays_is_held_against_the_full_one_with_its_best_retrained_so():
    """All networks gain the same, a quarter of the error, and train for twice as many epochs."""
    same = probe((0.0, 0.0))
    halved = replace(same, decay=decay([0.25] * 30, constant=same.errors[:, -1], lengths=2.0))
    found = forecast(halved, 100, tolerance=0.2)
    (plain,) = [o for o in found.outlooks if (o.p_subset, o.trials, o.top, o.decays) == (0.01, 100, 1, False)]
    (decays,) = [o for o in found.outlooks if (o.p_subset, o.trials, o.top, o.decays) == (0.01, 100, 1, True)]
    assert decays.excess == pytest.approx(0.0, abs=1e-9) and decays.within == 1.0
    assert decays.configured == pytest.approx(-0.75) and decays.configured_within == 1.0
    assert plain.excess == pytest.approx(3.0) and plain.within == 0.0
    assert plain.configured == pytest.approx(0.0, abs=1e-9) and plain.configured_within == 1.0
    assert plain.cost == pytest.approx(0.02) and decays.cost == pytest.approx(0.03), "two hundred of ten thousand more"
    assert found.retrained_error == pytest.approx(np.array(found.one_step_error) / 4)
    chosen, sure = recommended(found, confidence=0.8)
    assert sure and chosen.decays


def test_what_is_said_of_a_rate_that_decays_is_what_the_probe_found():
    same = probe((0.0, 0.0))
    ratios = [0.2] * 28 + [0.4, 1.5]
    found = replace(same, decay=decay(ratios, [0.25] * 2 + [np.nan] * 28, constant=same.errors[:, -1]))
    outlook = forecast(found, 100, tolerance=0.2)
    chosen, _ = recommended(outlook, confidence=0.8)
    chosen = replace(chosen, within=0.41, excess=0.1, excess_low=-0.2, excess_high=3.0)
    chosen = replace(chosen, configured=-0.6, configured_within=0.93)
    args = plan.parser().parse_args([])
    promise, best, gain, luck, settings = plan._promises(args, outlook, chosen, found, 10)
    assert "had that retrained its 10 best with a learning rate that decays, with probability 41%" in promise
    assert "typically 10% above it (90% interval -20% to +300%)" in promise
    assert "as configured, with probability 93%; typically 60% below its best" in promise
    for error in (outlook.one_step_error, outlook.retrained_error):
        assert f"about {error[0]:.2g} ({error[1]:.2g} to {error[2]:.2g})" in best
    assert "from 0.004 along a cosine (the best of 0.002, 0.004, 0.008) brought 30 networks to 0.20 times" in gain
    assert "at the constant 0.001, in the median (90% interval 0.20 to 0.20" in gain and "1 ended higher" in gain
    assert "25% above the smaller one in the median of 2, 25% at most" in luck, "0.2 and 0.25 of an error"
    assert '[step2] learning_rate = 0.004, learning_rate_schedule = "cosine", warmup_fraction = 0.05' in settings
    assert "Rates beyond" not in gain
    highest = replace(found, decay=replace(found.decay, rate=0.008))
    assert plan._promises(args, outlook, chosen, highest, 10)[2].endswith(
        "1 ended higher. Rates beyond were not tried."
    )
    *_, stays = plan._promises(args, outlook, replace(chosen, decays=False), found, 10)
    assert "step 2 stays as it is" in stays
    failed = replace(found, decay=replace(found.decay, failed=2))
    assert any("2 of these trainings failed" in line for line in plan._promises(args, outlook, chosen, failed, 10))


def test_a_decaying_rate_that_gains_nothing_is_not_recommended():
    same = probe((0.0, 0.0))
    worse = replace(same, decay=decay([2.0] * 30, constant=same.errors[:, -1], lengths=2.0))
    found = forecast(worse, 100, tolerance=0.2)
    assert found.retrained_error == found.one_step_error
    chosen, sure = recommended(found, confidence=0.8)
    assert sure and not chosen.decays


def test_networks_without_a_training_that_decays_gain_what_others_did():
    same = probe((0.0, 0.0))
    few = np.where(np.arange(30) < 3, 0.25, np.nan)
    some = replace(same, decay=decay(few, constant=same.errors[:, -1]))
    found = forecast(some, 100, tolerance=0.2)
    assert found.retrained_error == pytest.approx(np.array(found.one_step_error) / 4)


def test_the_alternatives_buy_more_certainty_for_more_money():
    found = forecast(probe((1.0, 0.3)), 100, tolerance=0.2)
    chosen, _ = recommended(found, confidence=0.8)
    shown = alternatives(found, chosen, count=6)
    assert chosen in shown and len(shown) <= 6
    rest = [o.within for o in shown if o is not chosen]
    assert rest == sorted(rest) and [o.cost for o in shown] == sorted(o.cost for o in shown)


def test_the_best_of_many_is_extrapolated_by_the_power_law_of_the_best_sixth():
    quantiles = (np.arange(60) + 0.5) / 60
    errors = 1e-3 * quantiles**0.5  # the best of n is then about 1e-3 * sqrt(1 / n) times a number near one
    given = known_probe([0.1], np.column_stack([errors, errors]), np.ones((60, 2)))
    found = forecast(given, 6000, tolerance=0.2, tops=(1,))
    error, low, high = found.one_step_error
    # E[min of n uniforms ^ 0.5] = Gamma(1.5) / sqrt(n)
    assert low < 1e-3 * 0.886 / np.sqrt(6000) < high and low < error < high


def test_parts_are_the_largest_that_hold_enough_samples():
    assert default_fractions(160_000, 1.0) == (1 / 64, 1 / 16, 1 / 4)
    assert default_fractions(8_000, 1.0) == (1 / 16, 1 / 4)
    with pytest.raises(ValueError, match="too few to probe"):
        default_fractions(1_000, 1.0)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    samples = write_samples(folder / "samples.nc")
    space = {"depth": {"low": 1, "high": 2}, "widths": [4, 8]}
    return write_config(folder / "c.toml", samples, space=space, train={"max_epochs": 4}, search={"trials": 50})


def run_plan(config, out, *more, status=0):
    arguments = ["--config", str(config), "--out", str(out), "--device", "cpu", "--workers", "1", "--quiet", *more]
    assert plan.main(arguments) == status


def test_a_probe_goes_on_after_a_kill_and_ends_in_a_config_to_use(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(probe_module, "MULTIPLES", (2.0, 8.0))  # each has its own worker processes
    more = ("--fractions", "0.25", "--probe-trials", "8")
    run_plan(config, tmp_path / "a", *more)
    out = capsys.readouterr().out
    assert "the probe: 8 networks" in out and "recommended (*)" in out
    tables = tomllib.loads((tmp_path / "a/plan.toml").read_text())
    planned = Config.from_dict(tables)
    assert planned.search.p_subset == 0.25 and planned.search.trials <= 50 and planned.search.top <= 50
    assert not (tmp_path / "a/cache").exists() and not list(tmp_path.glob("a/*/step*/models"))
    found = read_probe(tmp_path / "a")
    assert found.errors.shape == (8, 2) and found.failed == 0
    promising = np.argsort(found.errors[:, 0])[:2]
    assert set(np.flatnonzero(np.isfinite(found.again))) == set(promising), "a quarter, by the largest part"
    assert (found.again[promising] != found.errors[promising, -1]).all(), "with other seeds"
    decay = found.decay
    assert decay.constant == 0.001 and decay.tried == (0.002, 0.008) and decay.rate in decay.tried
    assert set(np.flatnonzero(np.isfinite(decay.errors[:, 0]))) == set(promising)
    assert np.isfinite(decay.errors[:, 1]).sum() == 1, "half of them once more"
    assert (decay.lengths == 1.0).all(), "nothing was stopped early in four epochs"
    told = json.loads((tmp_path / "a/plan.json").read_text())["recommended"]
    assert planned.step2 == (step2_settings(decay.rate) if told["decays"] else {})
    assert "decays" in out and f"falls from {decay.rate:g} along a cosine" in out
    assert told["top"] == planned.search.top and told["cost"] == max(told["cost_flop"], told["cost_seconds"])

    files = list(tmp_path.glob("a/reference/step2/*.jsonl"))
    whole = outcomes(tmp_path / "a/reference", 2)
    (lines,) = [f.read_bytes().splitlines(keepends=True) for f in files]
    files[0].write_bytes(b"".join(lines[:5]) + lines[5][:40])  # as a kill leaves it
    run_plan(config, tmp_path / "a", *more, "--keep-schedule")
    assert outcomes(tmp_path / "a/reference", 2) == whole
    assert "cosine" not in capsys.readouterr().out
    assert Config.from_dict(tomllib.loads((tmp_path / "a/plan.toml").read_text())).step2 == {}
    run_plan(config, tmp_path / "a", *more, "--reference", "0.5", status=2)
    assert "holds a probe with other settings (--reference)" in capsys.readouterr().err


def test_requests_that_make_no_sense_are_refused(config, tmp_path, capsys):
    for words, message in (
        (("--probe-trials", "3"), "fewer than 8"),
        (("--fractions", "0.5,2"), "below the reference"),
        (("--tolerance", "0"), "expected a number above 0"),
        (("--confidence", "1"), "above 0, below 1"),
        (("--twice", "25"), "expected 0 to the number of networks, 24"),
    ):
        run_plan(config, tmp_path / "x", *words, status=2)
        assert message in capsys.readouterr().err
    assert plan.main([str(tmp_path)]) == 2 and "is not a study" in capsys.readouterr().err


def test_a_probe_that_is_not_there_or_too_small_is_said_to_be(tmp_path):
    with pytest.raises(ValueError, match="holds no probe"):
        read_probe(tmp_path)
    with RecordWriter(tmp_path / "p-0.1/step1/worker-w.jsonl") as writer:
        writer.append(make_record(make_config(), 0))
    (tmp_path / "probe.json").write_text('{"schema": 1}')
    with pytest.raises(ValueError, match="has schema 1, this version writes 2; give another --out"):
        read_probe(tmp_path)
    (tmp_path / "probe.json").write_text('{"schema": 2, "config": {}, "fractions": [0.1], "reference": 1.0}')
    with pytest.raises(ValueError, match="expected 4"):
        read_probe(tmp_path)
