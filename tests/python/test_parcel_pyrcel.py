"""fn against pyrcel's equations, integrated by CVODE: an independent model, an independent integrator.

The file data/parcel_reference.npz (made by pyrcel_reference.py) holds 208 fixed states, solved with two sets of bins:
"table", the bins of the model under test, so that what differs is equations and integration; and "pyrcel", pyrcel's own
discretisation, 100 bins a mode, so that nothing is shared. Part of it is solved again here, so that a stale or doctored
file shows.
"""

import importlib
import json

import numpy as np
import pytest

from emulator.activation.modes import MODE_NAMES
from emulator.activation.parcel import bin_table, simulate
from emulator.activation.settings import ParcelSettings
from emulator.activation.states import States

pytest.importorskip("pyrcel", reason="pyrcel, the independent model, is not installed")
pytest.importorskip("sksundae", reason="scikit-sundae (CVODE) is not installed")
pyrcel_reference = importlib.import_module("tests.python.pyrcel_reference")

LIVE = range(0, 208, 9)  # 24 states
LIVE_OWN_BINS = range(4, 208, 52)  # 4 states


@pytest.fixture(scope="module")
def stored():
    with np.load(pyrcel_reference.DATA) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def states(stored):
    return States(*(stored[name] for name in pyrcel_reference.INPUTS))


def report(capsys, title, result, fn):
    difference = result.fn - fn
    largest, rms = np.abs(difference).max(axis=0), np.sqrt((difference**2).mean(axis=0))
    with capsys.disabled():
        print(f"\n  {title}, {len(fn)} states")
        for mode, name in enumerate(MODE_NAMES):
            print(f"    fn of mode {mode + 1} {name:15s} largest {largest[mode]:.1e}  rms {rms[mode]:.1e}")
    return largest.max(), rms.max()


def test_reference_covers_at_least_200_states(stored):
    assert len(stored["smax_table"]) >= 200
    assert set(json.loads(str(stored["versions"]))) >= {"pyrcel", "scikit-sundae"}


def test_fn_equals_pyrcels_with_the_same_bins(stored, states, capsys):
    _, scale, weight = bin_table(ParcelSettings())
    np.testing.assert_allclose(scale, stored["table_scale"], rtol=1e-12, err_msg="make the reference file again")
    np.testing.assert_allclose(weight, stored["table_weight"], rtol=1e-12, err_msg="make the reference file again")
    result = simulate(states)
    assert (result.status == 0).all()
    largest, rms = report(capsys, "production settings against pyrcel + CVODE, same bins", result, stored["fn_table"])
    # The step control of production (relative tolerance 2e-6); see test_fn_converges_with_tolerance.
    assert largest < 5e-5
    assert rms < 5e-6


def test_equations_are_pyrcels(stored, states, capsys):
    tight = ParcelSettings(relative_tolerance=1e-9, absolute_tolerance_s=1e-12, max_steps=100_000)
    result = simulate(states, tight)
    largest, _ = report(capsys, "tight tolerances against pyrcel + CVODE, same bins", result, stored["fn_table"])
    # Both integrations at 1e-9; CVODE's error accumulates over thousands of steps.
    assert largest < 5e-8
    np.testing.assert_allclose(result.smax, stored["smax_table"], rtol=5e-8)
    # Temperature is a state of its own in pyrcel, and follows from conservation here.
    np.testing.assert_allclose(result.tair_smax, stored["tair_table"], atol=1e-5)


def test_fn_equals_pyrcels_with_bins_of_its_own(stored, states, capsys):
    result = simulate(states)
    largest, rms = report(
        capsys, "production settings against pyrcel + CVODE, pyrcel's own bins", result, stored["fn_pyrcel"]
    )
    # Bins: 3e-4 from ours (test_fn_converges_with_bins), the rest from pyrcel's (trapezoidal number, 100 a mode).
    assert largest < 1.5e-3
    assert rms < 5e-4


def test_stored_reference_is_what_pyrcel_gives(stored):
    table = stored["table_mode"], stored["table_scale"], stored["table_weight"]
    for n in LIVE:
        state = pyrcel_reference.state_of(stored, n)
        smax, temperature = pyrcel_reference.solve(state, pyrcel_reference.table_bins(state, table))
        assert smax == pytest.approx(stored["smax_table"][n], rel=2e-7), n  # other versions step differently
        fn = pyrcel_reference.activated_fractions(smax, temperature, state)
        np.testing.assert_allclose(fn, stored["fn_table"][n], atol=2e-7, err_msg=f"state {n}")
    for n in LIVE_OWN_BINS:
        state = pyrcel_reference.state_of(stored, n)
        smax, _ = pyrcel_reference.solve(state, pyrcel_reference.pyrcel_bins(state))
        assert smax == pytest.approx(stored["smax_pyrcel"][n], rel=2e-7), n
