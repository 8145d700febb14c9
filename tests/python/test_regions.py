"""Conditions on inputs, against the same written in numpy."""

import numpy as np
import pytest

from emulator.regions import Region
from emulator.variables import Column, column_index, column_indices, columns_of

COLUMNS = (
    Column(name="tair", units="K", variable="tair"),
    Column(name="wind speed", units="m/s", variable="wind speed"),
    *columns_of("num_aer", "cm-3", 3),
)
X = np.random.default_rng(0).uniform(-10, 10, (200, 5))
T, W, N1, N2, N3 = X.T


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("tair < 2", T < 2),
        ("2 >= tair", T <= 2),
        ("-5 < tair <= 5", (T > -5) & (T <= 5)),
        ("tair<-.5e1", T < -5),
        ("'wind speed' > 1.5 and num_aer[2] < num_aer_3", (W > 1.5) & (N2 < N3)),
        ("tair < 0 or tair > 5 and num_aer_1 < 0", (T < 0) | ((T > 5) & (N1 < 0))),
        ("(tair < 0 or tair > 5) and num_aer_1 < 0", ((T < 0) | (T > 5)) & (N1 < 0)),
        ("not tair < 0 and not (num_aer_1 < 0)", (T >= 0) & (N1 >= 0)),
        ("not not tair != 1", T != 1),
        ("tair == tair", np.ones(200, bool)),
        ("1 < 0", np.zeros(200, bool)),
    ],
)
def test_a_condition_selects_what_it_says(text, want):
    np.testing.assert_array_equal(Region(text, COLUMNS).mask(X), want)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found the end at character 1, expected a name or a number"),
        ("tair", "found the end at character 5, expected a comparison"),
        ("tair < ", "found the end at character 8, expected a name or a number"),
        ("tair < 2 3", "found '3' at character 10, expected 'and', 'or' or the end"),
        ("tair < 2 nad tair > 1", "did you mean 'and'"),
        ("(tair < 2", "expected '\\)'"),
        ("tair = 2", "'=' at character 6 is not understood"),
        ("tiar < 2", "there is no 'tiar'; there are tair, .*; did you mean 'tair'"),
        ("num_aer < 2", "'num_aer' has 3 columns; name one: num_aer_1, num_aer_2, num_aer_3"),
        ("num_aer[4] < 2", "there is no 'num_aer\\[4\\]'"),
        ("__import__('os') < 1", "found '__import__' at character 1|there is no '__import__'"),
        ("tair.__class__ < 1", "'.' at character 5 is not understood"),
        ("not " * 60 + "tair < 1", "nested more than 50 times"),
        ("(" * 60 + "tair < 1" + ")" * 60, "nested more than 50 times"),
    ],
)
def test_nonsense_is_refused_with_its_place(text, message):
    with pytest.raises(ValueError, match=message):
        Region(text, COLUMNS)


def test_columns_are_named_by_column_by_position_from_1_or_by_variable():
    assert column_indices("num_aer", COLUMNS) == [2, 3, 4]
    assert column_indices("num_aer_2", COLUMNS) == column_indices("num_aer[2]", COLUMNS) == [3]
    assert column_index(" tair ", COLUMNS) == column_index("tair[1]", COLUMNS) == 0
    with pytest.raises(ValueError, match="there is no 'num_aer_0'"):
        column_indices("num_aer_0", COLUMNS)
