"""The sampler: reproducible anywhere in the sequence, inside its bounds, distributed as documented."""

import dataclasses

import numpy as np
import pytest

from emulator.activation import states
from emulator.activation.modes import DRY_RADIUS_MAX_UM, DRY_RADIUS_MIN_UM
from emulator.activation.states import States, StateSampler, sample_states


@pytest.fixture(scope="module")
def drawn():
    return sample_states(2**14, seed=7)


def assert_same(a, b):
    for x, y in zip(a.arrays(), b.arrays(), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(("start", "count"), [(0, 1), (1, 3), (5, 4096), (4095, 2), (16000, 384)])
def test_sample_i_depends_on_seed_and_i_only(drawn, start, count):
    assert_same(sample_states(count, seed=7, start=start), drawn.take(slice(start, start + count)))


def test_sampler_may_go_forward_and_back(drawn):
    sampler = StateSampler(7)
    for start in (100, 4000, 50, 51, 50):
        assert_same(sampler.block(start, 10), drawn.take(slice(start, start + 10)))


def test_seeds_differ(drawn):
    other = sample_states(100, seed=8)
    for x, y in zip(other.arrays(), drawn.take(slice(0, 100)).arrays(), strict=True):
        assert np.mean(x == y) < 0.5  # radii and numbers clamped to a bound coincide


def test_values_lie_in_the_stated_ranges_after_rounding_to_float32(drawn):
    assert all(x.dtype == np.float32 for x in drawn.arrays())
    ranges = {
        "tair": states.TEMPERATURE_RANGE,
        "pressure": states.PRESSURE_RANGE,
        "rh": states.RH_RANGE,
        "wbar": states.UPDRAFT_RANGE,
        "num_aer": (states.NUMBER_MIN, states.NUMBER_MAX),
        "r_aer": (DRY_RADIUS_MIN_UM, DRY_RADIUS_MAX_UM),
        "kappa": (1e-10, 1.16),
    }
    for name, (low, high) in ranges.items():
        value = getattr(drawn, name).astype(np.float64)
        assert (value >= low).all(), name
        assert (value <= high).all(), name


def test_radii_reach_the_bounds_of_mam4_where_the_host_clamps_them(drawn):
    # Aitken and primary carbon are documented to pile up at the upper bound, coarse at the lower.
    assert np.isclose(drawn.r_aer[:, 1].max(), DRY_RADIUS_MAX_UM[1], rtol=1e-6)
    assert np.isclose(drawn.r_aer[:, 2].min(), DRY_RADIUS_MIN_UM[2], rtol=1e-6)


def test_marginals_are_as_documented(drawn):
    # Quasi-random quantiles of 16,384 points: 1 % is far above their error, far below a changed marginal.
    share = {
        "pressure": np.mean(drawn.pressure > 1013.0 - 613.0 * 0.5**1.4) - 0.5,
        "rh": np.mean(drawn.rh > 1.0 - 0.3 * 0.5**1.8) - 0.5,
        "clean primary carbon": np.mean(drawn.kappa[:, 3] < 1e-6) - 0.6,
        "number, at its median": np.mean(
            drawn.num_aer[:, 0] > 110.0 * np.exp(-(8.0 * np.log(1013.0 / drawn.pressure) - 1.5) / 6.0)
        )
        - 0.5,
    }
    assert {name: abs(x) < 0.01 for name, x in share.items()} == dict.fromkeys(share, True), share
    log_updraft = np.log(drawn.wbar)
    assert abs(np.median(log_updraft) - np.log(28.0)) < 0.05  # truncation at 5 cm/s lifts the median from 25
    correlation = np.corrcoef(np.log(drawn.num_aer.T) + 8.0 * np.log(1013.0 / drawn.pressure) / 6.0)
    assert abs(correlation[0, 3] - 0.36) < 0.05  # 0.6 * 0.6


def test_no_input_column_repeats_another(drawn):
    columns = np.concatenate([x.reshape(len(x), -1) for x in drawn.arrays()], axis=1)
    assert columns.shape[1] == states.NUM_DIMENSIONS
    correlation = np.corrcoef(np.argsort(np.argsort(columns, axis=0), axis=0).T)
    np.fill_diagonal(correlation, 0.0)
    assert np.abs(correlation).max() < 0.9


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("rh", 2, 1.0, r"'rh' is 1.0 at index \(2,\)"),
        ("tair", 0, np.nan, r"'tair' is nan at index \(0,\)"),
        ("num_aer", (1, 3), -1.0, r"'num_aer' is -1.0 at index \(1, 3\)"),
        ("wbar", 1, 0.0, "'wbar' is 0.0"),
        ("kappa", (0, 0), 3.0, "'kappa' is 3.0"),
    ],
)
def test_states_outside_the_model_are_refused_by_name(name, index, value, message):
    good = sample_states(4, seed=1)
    bad = getattr(good, name).copy()
    bad[index] = value
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(good, **{name: bad})


def test_wrong_shapes_are_refused_by_name():
    good = sample_states(4, seed=1)
    with pytest.raises(ValueError, match=r"'kappa' has shape \(4, 3\); expected \(4, 4\)"):
        States(*good.arrays()[:-1], good.kappa[:, :3])


@pytest.mark.parametrize(("seed", "sampler"), [(-1, "e3sm"), (1, "uniform")])
def test_bad_seed_or_sampler_is_refused(seed, sampler):
    with pytest.raises(ValueError, match=r"seed is -1|unknown sampler 'uniform'"):
        StateSampler(seed, sampler)
