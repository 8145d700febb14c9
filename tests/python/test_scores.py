"""Scores, quantiles and worst cases against numpy on whole arrays."""

import numpy as np
import pytest

from emulator.scores import QUANTILES, AbsoluteErrorQuantiles, ScoreSum, WorstCases


def test_scores_by_blocks_equal_scores_of_the_whole():
    rng = np.random.default_rng(0)
    truth = rng.normal(280, 5, (1000, 3))
    guess = truth + rng.normal(0.1, 1, truth.shape)
    total = ScoreSum(3)
    for start in (0, 1, 400):
        stop = {0: 1, 1: 400, 400: 1000}[start]
        total.add(truth[start:stop], guess[start:stop])
    s = total.scores()
    mse = ((guess - truth) ** 2).mean(axis=0)
    np.testing.assert_allclose(s.mse_per_output, mse, rtol=1e-12)
    np.testing.assert_allclose(s.mse, mse.mean(), rtol=1e-12)
    np.testing.assert_allclose(s.mae_per_output, abs(guess - truth).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(s.mae, abs(guess - truth).mean(), rtol=1e-12)
    np.testing.assert_allclose(s.r2_per_output, 1 - mse / truth.var(axis=0), rtol=1e-10)
    np.testing.assert_allclose(s.bias_per_output, (guess - truth).mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(s.max_error_per_output, abs(guess - truth).max(axis=0))
    exact = np.quantile(abs(guess - truth), QUANTILES, axis=0, method="inverted_cdf").T
    np.testing.assert_allclose(s.quantiles_per_output, exact, rtol=AbsoluteErrorQuantiles.RELATIVE_ERROR)
    exact = np.quantile(abs(guess - truth), QUANTILES, method="inverted_cdf")
    np.testing.assert_allclose(s.quantiles, exact, rtol=AbsoluteErrorQuantiles.RELATIVE_ERROR)


def test_r2_of_an_output_without_variance_is_none():
    truth = np.column_stack([np.linspace(0.9995, 1, 50), np.linspace(0, 1, 50)])
    total = ScoreSum(2)
    total.add(truth, truth + 1e-3)
    assert total.scores().r2_per_output[0] is None
    assert total.scores().r2_per_output[1] == pytest.approx(1.0, abs=1e-4)


def test_a_nan_prediction_spoils_the_score_and_is_counted():
    total = ScoreSum(1)
    total.add(np.zeros((3, 1)), np.array([[0.0], [np.nan], [0.5]]))
    s = total.scores()
    assert np.isnan([s.mse, s.mae, s.max_error_per_output[0], s.quantiles[-1]]).all()
    assert s.num_nan == 1
    assert s.quantiles[0] == pytest.approx(0.5, rel=AbsoluteErrorQuantiles.RELATIVE_ERROR)  # the second smallest of 3


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="expected equal"):
        ScoreSum(1).add(np.zeros((2, 1)), np.zeros((3, 1)))


@pytest.mark.parametrize("scale", [1e-250, 1.0, 1e250])
def test_quantiles_are_within_their_bound_over_many_decades_and_any_blocks(scale):
    rng = np.random.default_rng(1)
    values = np.concatenate([np.zeros(40), scale * rng.lognormal(0, 8, 5000), [scale] * 30])
    at = [0.001, 0.005, 0.01, 0.3, 0.5, 0.9, 0.999, 1.0]
    exact = np.quantile(values, at, method="inverted_cdf")
    for blocks in (1, 7, len(values)):
        sketch = AbsoluteErrorQuantiles()
        for part in np.array_split(rng.permutation(values), blocks):
            sketch.add(part)
        found = sketch.at(at)
        np.testing.assert_allclose(found, exact, rtol=sketch.RELATIVE_ERROR)
        assert found[0] == 0.0
        assert found[-1] <= exact[-1]


def test_quantiles_of_nothing_are_nan_and_of_zeros_zero():
    sketch = AbsoluteErrorQuantiles()
    assert np.isnan(sketch.at([0.5])).all()
    sketch.add(np.zeros(3))
    assert sketch.at([0.5, 1.0]) == (0.0, 0.0)


def test_the_worst_are_those_of_a_full_sort_whatever_the_blocks():
    rng = np.random.default_rng(2)
    x, truth = rng.random((500, 3)), rng.random((500, 2))
    truth = np.floor(truth * 8)
    predicted = truth + rng.choice([0.25, 0.5, 0.75], (500, 2)) * [1, 16]  # exact, many ties: the first rows win
    rows = np.arange(500) * 3
    scale = np.array([1.0, 32.0])  # the second output counts half as much as the first
    size = abs(predicted - truth)
    for blocks in (1, 9):
        worst = WorstCases(4, scale)
        for part in np.array_split(np.arange(500), blocks):
            worst.add(rows[part], x[part], truth[part], predicted[part])
        for o in (0, 1):
            assert [c.row for c in worst.per_output[o]] == list(rows[np.lexsort((rows, -size[:, o]))[:4]])
        assert [c.row for c in worst.over_all] == [c.row for c in worst.per_output[0]]
        case = worst.over_all[-1]
        assert (case.output, case.error) == (0, 0.75)
        np.testing.assert_array_equal(case.x, x[case.row // 3])


def test_of_equal_errors_the_first_row_is_the_worse_and_nan_the_worst():
    worst = WorstCases(2, np.ones(1))
    truth = np.zeros((3, 1))
    for start, predicted in ((0, [1.0, 2.0, 2.0]), (3, [2.0, np.nan, 0.0])):
        worst.add(np.arange(start, start + 3), np.zeros((3, 1)), truth, np.array(predicted)[:, None])
    assert [c.row for c in worst.over_all] == [4, 1]
    none = WorstCases(0, np.ones(1))
    none.add(np.arange(3), np.zeros((3, 1)), truth, truth)
    assert none.over_all == []
