"""Scores against numpy on whole arrays."""

import numpy as np
import pytest

from emulator.evaluate import ScoreSum


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
    np.testing.assert_allclose(s.r2_per_output, 1 - mse / truth.var(axis=0), rtol=1e-10)
    np.testing.assert_allclose(s.bias_per_output, (guess - truth).mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(s.max_error_per_output, abs(guess - truth).max(axis=0))


def test_r2_of_an_output_without_variance_is_none():
    truth = np.column_stack([np.linspace(0.9995, 1, 50), np.linspace(0, 1, 50)])
    total = ScoreSum(2)
    total.add(truth, truth + 1e-3)
    assert total.scores().r2_per_output[0] is None
    assert total.scores().r2_per_output[1] == pytest.approx(1.0, abs=1e-4)


def test_a_nan_prediction_spoils_the_score():
    total = ScoreSum(1)
    total.add(np.zeros((2, 1)), np.array([[0.0], [np.nan]]))
    assert np.isnan(total.scores().mse)
    assert np.isnan(total.scores().max_error_per_output[0])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="expected equal"):
        ScoreSum(1).add(np.zeros((2, 1)), np.zeros((3, 1)))
