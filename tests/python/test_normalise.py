"""Transforms, standardisation, and the same as tensors."""

import math

import numpy as np
import pytest
import torch

from emulator import normalise
from emulator.mlp import ColumnTransform
from emulator.normalise import Normaliser, resolve_transforms
from emulator.variables import Column, columns_of

KINDS = ("none", "log", "log10", "sqrt", "logit")
COLUMNS = [Column(name=k, units="1", variable=k) for k in KINDS]


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    return np.column_stack([rng.normal(5, 2, 400), rng.lognormal(0, 3, (400, 3)), rng.random(400)])


def fit(x, **kwargs):
    return Normaliser.fit(x, COLUMNS, {k: k for k in KINDS}, **kwargs)


def test_transformed_training_columns_have_mean_zero_and_spread_one(x):
    z = fit(x).forward(x)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-12)  # 400 roundings of 1e-16
    np.testing.assert_allclose(z.std(axis=0), 1, rtol=1e-12)


def test_statistics_are_the_same_bits_for_any_blocks_and_any_order_of_rows(x, monkeypatch):
    want = fit(x).to_dict()
    assert fit(x[np.random.default_rng(1).permutation(400)]).to_dict() == want
    for rows in (1, 7, 399):
        monkeypatch.setattr(normalise, "_BLOCK_ROWS", rows)
        assert fit(x).to_dict() == want


def test_statistics_are_exact():
    column = [Column(name="q", units="kg", variable="q")]
    rng = np.random.default_rng(2)
    for scale in (1e-100, 1e-3, 1e100):
        x = scale * (1e6 + rng.lognormal(0, 4, (3000, 1)))  # a mean far from 0, a tail far from the mean
        n = Normaliser.fit(x, column)
        mean = math.fsum(x[:, 0]) / 3000
        assert n.mean[0] == pytest.approx(mean, rel=2e-16)  # one rounding, and one of the quotient here
        assert n.std[0] == pytest.approx(math.sqrt(math.fsum((x[:, 0] - mean) ** 2) / 3000), rel=1e-15)


def test_each_transform_is_the_function_it_is_named_after(x):
    t = fit(x, standardise=False).forward(x)
    want = [x[:, 0], np.log(x[:, 1]), np.log10(x[:, 2]), np.sqrt(x[:, 3]), np.log(x[:, 4] / (1 - x[:, 4]))]
    np.testing.assert_allclose(t, np.column_stack(want), rtol=1e-9)  # logit near 1 loses digits


def test_inverse_undoes_forward(x):
    n = fit(x)
    np.testing.assert_allclose(n.inverse(n.forward(x)), x, rtol=1e-10)


def test_values_outside_a_domain_are_held_at_its_edge_and_nan_stays_nan(x):
    n = fit(x)
    low = n.forward(np.array([[0.0, 0.0, -1.0, -1.0, 0.0]]))
    assert np.isfinite(low).all()
    edge = n.forward(np.array([[0.0, x[:, 1].min(), x[:, 2].min(), 0.0, 1e-6]]))
    np.testing.assert_array_equal(low, edge)
    assert np.isnan(n.forward(np.full((1, 5), np.nan))).all()


def test_auto_takes_logs_of_positive_columns_that_span_a_factor_of_three():
    columns = [Column(name=n, units="1", variable=n) for n in ("wide", "narrow", "signed")]
    x = np.array([[1.0, 1.0, -1.0], [3.0, 2.9, 9.0]])
    assert Normaliser.fit(x, columns, "auto").transforms == ("log", "none", "none")


def test_transforms_are_named_by_column_by_variable_or_by_default():
    columns = columns_of("num", "cm-3", 2) + columns_of("t", "K", None)
    assert resolve_transforms({"num": "log", "num_2": "sqrt", "default": "auto"}, columns) == ["log", "sqrt", "auto"]
    with pytest.raises(ValueError, match=r"name \['nun'\]; the columns are num_1, num_2, t"):
        resolve_transforms({"nun": "log"}, columns)
    with pytest.raises(ValueError, match="transform 'ln' for 'num' is unknown"):
        resolve_transforms({"num": "ln"}, columns)


@pytest.mark.parametrize(("kind", "bad"), [("log", 0.0), ("log10", -1.0), ("sqrt", -1e-9), ("logit", 1.5)])
def test_training_values_outside_a_domain_are_refused(kind, bad):
    column = [Column(name="q", units="kg", variable="q")]
    with pytest.raises(ValueError, match=f"'q' reaches from .* transform '{kind}' needs"):
        Normaliser.fit(np.array([[0.5], [bad]]), column, kind)


def test_a_constant_column_is_refused_unless_allowed():
    column = [Column(name="q", units="kg", variable="q")]
    x = np.full((10, 1), 3.0)
    with pytest.raises(ValueError, match=r"'q' is constant \(3 kg\)"):
        Normaliser.fit(x, column)
    n = Normaliser.fit(x, column, allow_constant=True)
    np.testing.assert_array_equal(n.inverse(n.forward(x)), x)


def test_a_normaliser_survives_plain_data_to_the_bit(x):
    n = fit(x)
    again = Normaliser.from_dict(n.to_dict())
    np.testing.assert_array_equal(again.forward(x), n.forward(x))
    assert again.transforms == n.transforms


def test_the_tensor_form_equals_the_array_form(x):
    n = fit(x)
    x = np.vstack([x, [[0.0, 0.0, -1.0, -1.0, 2.0]]])
    z = n.forward(x)
    forward = ColumnTransform(n, inverse=False)(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(forward, z, rtol=1e-13, atol=1e-13)  # other log implementations: 1 ulp
    back = ColumnTransform(n, inverse=True)(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(back, n.inverse(z), rtol=1e-12)  # exp of a rounded argument
