"""Statistics of records whose answers are known by construction."""

import itertools
import math

import numpy as np
import pytest

from hpo import statistics
from hpo.config import SearchSettings
from hpo.promotion import step1_parts


def record(trial, mse, *, hidden=(8,), parameters=100, state=None, seconds=1.0):
    return {
        "trial": trial,
        "state": state or ("complete" if mse is not None else "failed"),
        "validation_mse": mse,
        "hidden": list(hidden),
        "num_parameters": parameters,
        "seconds": seconds,
    }


def curve(*parts):
    """Errors along joined straight lines in log error: (number of ranks, growth over them)."""
    log, values = 0.0, []
    for count, growth in parts:
        steps = np.arange(1, count + 1) / count * math.log(growth)
        values += (log + steps).tolist()
        log = values[-1]
    return np.exp(values) * 1e-4


def test_only_completed_trials_count_and_ties_go_to_the_lower_number():
    records = [record(3, 0.1), record(1, 0.1), record(0, None), record(2, 0.05, state="pruned"), record(4, 0.01)]
    assert [r["trial"] for r in statistics.completed(records)] == [4, 1, 3]


@pytest.mark.parametrize(
    ("parts", "rank"),
    [
        ([(40, 1.5), (20, 100.0)], 40),  # flat, then a wall
        ([(30, 1.3), (10, 50.0), (20, 1.001)], 30),  # a plateau of networks that learned nothing behind the wall
        ([(4, 8.0), (36, 1.2), (20, 100.0)], 40),  # a few lucky trials before the flat part
        ([(30, 1.0), (10, 50.0), (20, 1.0)], 30),  # perfectly flat
    ],
)
def test_the_curve_flattens_where_it_was_built_to(parts, rank):
    errors = curve(*parts)
    found = statistics.flat_part(np.random.default_rng(0).permutation(errors))
    assert abs(found.rank - rank) <= 1  # the breakpoint is a rank: the joint lies between two of them
    assert found.low <= found.rank <= found.high and found.high - found.low < len(errors) / 2
    assert found.error == errors[found.rank - 1]
    assert found.spread == pytest.approx(errors[found.rank - 1] / errors[0])
    assert found.found > 0.95


@pytest.mark.parametrize(
    "parts",
    [
        [(60, 100.0)],  # one slope throughout
        [(10, 20.0), (50, 2.0)],  # steep only towards the best: more trials would find better ones
    ],
)
def test_a_curve_that_steepens_nowhere_has_no_flat_part(parts):
    assert statistics.flat_part(curve(*parts)) is None


@pytest.mark.parametrize("rank", [1000, 3333, 6000, 8000])
@pytest.mark.parametrize("rise", [4.0, 8.0, 60.0])
def test_a_flat_part_of_many_trials_is_found_on_a_grid(rank, rise):
    slope = 0.5 / rank
    found = statistics.flat_part(
        curve((rank, math.exp(0.5)), (10_000 - rank, math.exp(rise * slope * (10_000 - rank))))
    )
    assert abs(found.rank - rank) <= 10_000 / 63 + 1  # one step of the grid
    assert found.low <= found.rank <= found.high


def test_a_slope_that_merely_doubles_ends_no_flat_part():
    assert statistics.flat_part(curve((500, 2.0), (500, 2.0**2))) is None


def test_a_bend_after_a_tenfold_rise_is_the_foot_of_a_wall_and_the_flat_part_lies_before_it():
    # flat to 150, then a rise and a slope up to 380, where a wall begins that is steeper than all before
    errors = curve((150, 2.0), (40, 2.5), (190, 5.0), (20, 500.0))
    found = statistics.flat_part(errors)
    assert abs(found.rank - 150) <= 400 / 63 + 1 and found.low <= found.rank <= found.high
    assert found.spread <= statistics.MOST_SPREAD
    assert statistics.flat_part(curve((380, 27.0), (20, 50.0))) is None  # a steady rise before the wall


def test_a_curve_within_a_factor_of_two_is_flat_throughout():
    found = statistics.flat_part(curve((10, 1.1), (10, 1.7)))
    assert (found.rank, found.low, found.high) == (20, 20, 20) and found.spread == pytest.approx(1.1 * 1.7, rel=0.02)
    assert found.holds(20) == "inside"


def test_too_few_trials_have_no_flat_part():
    assert statistics.flat_part(curve((8, 1.1), (3, 100.0))) is None
    assert statistics.flat_part(curve((8, 1.1), (4, 100.0))) is not None


def test_top_is_inside_the_flat_part_beyond_it_or_within_the_doubt():
    flat = statistics.FlatPart(rank=50, low=40, high=60, error=1.0, spread=2.0, found=1.0)
    assert [flat.holds(top) for top in (1, 40, 41, 60, 61)] == [
        "inside", "inside", "uncertain", "uncertain", "beyond"
    ]  # fmt: skip


def test_smallest_networks_that_reach_an_error_are_found_apart():
    records = [
        record(0, 0.1, hidden=(8, 8, 8), parameters=200),
        record(1, 0.2, hidden=(512, 512), parameters=300_000),
        record(2, 0.4, hidden=(8,), parameters=50),
        record(3, 0.15, hidden=(8, 8), parameters=400_000),
    ]
    found = statistics.smallest_reaching(records, 0.2)
    assert (found.depth, found.depth_trial, found.parameters, found.parameters_trial) == (2, 3, 200, 0)
    assert found.count == 3
    assert statistics.smallest_reaching(records, 0.05) is None


def test_pairs_hold_ranks_among_all_trials_of_step_1():
    step1 = [record(0, 0.3), record(1, 0.1), record(2, 0.2), record(3, None), record(4, 0.05)]
    step2 = [record(0, 0.01), record(1, 0.03), record(2, None)]
    pairs = statistics.both_steps(step1, step2)
    assert pairs.trials.tolist() == [1, 0] and pairs.step1_rank.tolist() == [2, 4]
    assert pairs.step1.tolist() == [0.1, 0.3] and pairs.step2.tolist() == [0.03, 0.01]
    assert len(statistics.both_steps(step1, [])) == 0


def test_rank_correlation_is_spearmans():
    # ranks (1, 2, 3, 4, 5) against (2, 1, 4, 3, 5): 1 - 6 * 4 / (5 * 24) = 0.8
    found = statistics.rank_correlation([1, 2, 3, 4, 5], [20, 10, 40, 30, 50])
    assert found.value == pytest.approx(0.8) and found.count == 5
    assert -1.0 <= found.low < 0.8 < found.high <= 1.0


def test_ties_share_their_rank():
    # ranks (1.5, 1.5, 3) and (1, 2, 3): Pearson's correlation of these is sqrt(3) / 2
    assert statistics.rank_correlation([5, 5, 9], [1, 2, 3]).value == pytest.approx(math.sqrt(3) / 2)


def test_perfect_order_leaves_no_doubt_and_noise_leaves_much():
    x = np.arange(30.0)
    exact = statistics.rank_correlation(x, np.exp(x))
    assert exact.value == exact.low == exact.high == pytest.approx(1.0)
    rng = np.random.default_rng(3)
    noise = statistics.rank_correlation(x, rng.normal(size=30))
    assert noise.low < 0.0 < noise.high and noise.high - noise.low > 0.4
    narrow = statistics.rank_correlation(x, rng.normal(size=30), level=0.5)
    assert narrow.high - narrow.low < 0.4


def test_the_interval_of_a_correlation_covers_the_truth_as_often_as_it_says():
    # Two normal variables with Pearson's correlation 0.6 have Spearman's 6 / pi asin(0.3).
    truth = 6.0 / math.pi * math.asin(0.3)
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        x = rng.normal(size=40)
        y = 0.6 * x + 0.8 * rng.normal(size=40)
        found = statistics.rank_correlation(x, y)
        hits += found.low <= truth <= found.high
    assert 88 <= hits <= 100  # 95 of 100, with a standard deviation of 2; percentiles of 40 pairs are a little narrow


def test_a_correlation_needs_pairs_with_an_order():
    assert statistics.rank_correlation([1], [2]) is None
    assert statistics.rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]) is None
    three = statistics.rank_correlation([1, 2, 3], [1, 2, 3])
    assert three.value == 1.0 and three.low is None and three.high is None


def test_rank_groups_are_of_equal_size_where_ranks_are_without_gaps():
    step1 = [record(k, 0.1 + 0.01 * k) for k in range(40)]
    step2 = [record(k, 0.01 * (1 + k)) for k in range(20)]
    groups = statistics.rank_groups(statistics.both_steps(step1, step2))
    assert [(g.first, g.last) for g in groups] == [(1, 4), (5, 8), (9, 12), (13, 16), (17, 20)]
    assert groups[1].median == pytest.approx(0.065)


def test_rank_groups_follow_the_gaps_where_there_are_any():
    step1 = [record(k, 0.1 + 0.01 * k) for k in range(200)]
    chosen = [*range(5), *range(100, 105), *range(150, 155)]
    groups = statistics.rank_groups(statistics.both_steps(step1, [record(k, 0.01) for k in chosen]))
    assert [(g.first, g.last, len(g.errors)) for g in groups] == [(1, 5, 5), (101, 105, 5), (151, 155, 5)]
    assert statistics.groups_differ(groups) is None  # all equal


def test_groups_differ_by_kruskal_and_wallis():
    make = statistics.RankGroup
    apart = [make(first=1, last=3, errors=np.array([1.0, 2.0, 3.0])), make(first=4, last=6, errors=np.array([4, 5, 6]))]
    # H = 12 / (6 * 7) * (6**2 / 3 + 15**2 / 3) - 3 * 7 = 27 / 7, one degree of freedom
    assert statistics.groups_differ(apart) == pytest.approx(math.erfc(math.sqrt(27 / 7 / 2)))
    assert statistics.groups_differ(apart[:1]) is None


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_expected_best_is_the_mean_over_all_subsets(n):
    errors = [0.3, 0.1, 0.7, 0.2, 0.9]
    subsets = [min(s) for s in itertools.combinations(errors, n)]
    assert statistics.expected_best(errors, n) == pytest.approx(np.mean(subsets))
    for probability in (0.5, 0.95):
        reached = statistics.best_quantile(errors, n, probability)
        assert np.mean(np.array(subsets) <= reached) >= probability
        better = [e for e in errors if e < reached]
        assert not better or np.mean(np.array(subsets) <= max(better)) < probability


def test_expected_best_of_ten_thousand_trials_is_stable():
    errors = np.arange(1.0, 10_001.0)
    # the least of n out of 1..N has mean (N + 1) / (n + 1)
    for n in (1, 50, 9_999, 10_000):
        assert statistics.expected_best(errors, n) == pytest.approx(10_001 / (n + 1), rel=1e-9)
    with pytest.raises(ValueError, match="expected 1 to 10000"):
        statistics.expected_best(errors, 10_001)


def test_sufficient_trials_are_the_least_that_hold_a_good_one():
    # of 10, 1 is good: n trials hold it with probability n / 10
    assert statistics.sufficient_trials(10, 1) == 10
    assert statistics.sufficient_trials(10, 1, probability=0.7) == 7
    assert statistics.sufficient_trials(10, 10) == 1
    # at least 2 of the 3 good ones among n of 5: n = 3 gives 7 of 10 subsets, n = 4 all 5 of 5
    assert statistics.sufficient_trials(5, 3, need=2, probability=0.7) == 3
    assert statistics.sufficient_trials(5, 3, need=2, probability=0.71) == 4
    assert statistics.sufficient_trials(5, 1, need=2) is None


def test_cost_is_the_sum_of_both_fractions():
    assert statistics.cost_fraction([(0.05, 1.0)], 0.05) == pytest.approx(0.1)  # the paper's example


def test_rungs_cost_what_their_trials_take_of_their_samples():
    search = SearchSettings(trials=100, top=5, p_subset=0.2, rungs=(0.01, 0.05), reduction=4)
    assert step1_parts(search) == [(0.01, 1.0), (0.05, 0.25), (0.2, 0.07)]  # 100, 25 and 7 trials
    assert statistics.cost_fraction(step1_parts(search), 0.05) == pytest.approx(0.01 + 0.0125 + 0.014 + 0.05)
    assert step1_parts(SearchSettings(trials=6, top=5, rungs=(0.01,), reduction=2))[1] == (0.05, 5 / 6)
    assert step1_parts(SearchSettings(trials=100, p_subset=0.2)) == [(0.2, 1.0)]


def test_measured_cost_counts_rungs_once_and_each_trial_by_the_most_samples_it_saw():
    rung = [record(k, 0.1, seconds=1.0) for k in range(4)]
    step1 = [r | {"rung": 1, "state": "pruned"} for r in rung[2:]] + [record(k, 0.1, seconds=5.0) for k in range(2)]
    sizes = {"rung1": 10, "1": 50, "2": 200}
    cost = statistics.measured_cost(step1, [record(0, 0.1, seconds=30.0)], sizes, sizes, [rung])
    assert cost.step1 == 4.0 + 10.0 and cost.step2 == 30.0
    assert cost.one_step == 2 * 20.0 + 2 * 5.0 * 4.0


def test_measured_cost_compares_with_step_1_on_all_samples():
    step1 = [record(k, 0.1, seconds=2.0) for k in range(10)]
    step2 = [record(0, 0.1, seconds=30.0)]
    cost = statistics.measured_cost(step1, step2, {"1": 40, "2": 800}, {"1": 10, "2": 200})
    # a training sample counts three times: 130 against 2600
    assert cost.step1 == 20.0 and cost.step2 == 30.0 and cost.one_step == 400.0
    assert cost.fraction == pytest.approx(50 / 400)
    assert statistics.measured_cost([], [], {"1": 4, "2": 8}, {"1": 1, "2": 2}).fraction is None
