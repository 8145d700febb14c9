"""The coefficients in aerosol_activation_mass.F90: what `python -m emulator.activation mass-fit` prints."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.polynomial.polynomial import polyval
from scipy.special import log_ndtr, ndtri_exp

from emulator.activation.__main__ import main
from emulator.activation.mass_fit import INTERVALS, Interval, fit

SOURCE = Path(__file__).resolve().parents[2] / "fortran_bridge/activation/aerosol_activation_mass.F90"


def constant(name):
    """The numbers of a parameter of the Fortran module."""
    found = re.search(rf"parameter :: {name}\b[^=]*= (.*)", SOURCE.read_text())
    return [float(number) for number in re.findall(r"(-?\d+\.\d*(?:e-?\d+)?)_r8", found[1])]


def test_the_command_prints_the_tables_of_the_fortran_module(capsys):
    assert main(["mass-fit"]) == 0
    printed = capsys.readouterr()
    above, below = re.findall(r"^  real\(r8\).*?\]\)\n", printed.out, flags=re.MULTILINE | re.DOTALL)
    assert above + below == printed.out
    source = SOURCE.read_text()
    assert above + below in source
    said = float(re.search(r"largest error (\S+)\)", source)[1])
    assert 0.5 * said < float(printed.err.removeprefix("largest error:")) <= said


def test_the_fortran_module_has_the_intervals_of_the_fit_and_stays_within_them():
    assert constant("start") == [interval.start for interval in INTERVALS]
    assert [interval.upper for interval in INTERVALS] == [False, False, False, True]
    assert INTERVALS[0].start <= np.sqrt(np.log(2.0))
    assert all(a.end == b.start for a, b in itertools.pairwise(INTERVALS[:3]))
    (negligible,) = constant("negligible")
    assert INTERVALS[2].end >= np.sqrt(-np.log(negligible))
    assert INTERVALS[3].end >= np.sqrt(-np.log(np.spacing(0.5)))  # 1 - fn where fn is next to 1


@pytest.mark.parametrize("upper", [False, True])
def test_a_fit_for_another_width_is_g_between_its_nodes_too(upper):
    sigma, interval = 2.0, Interval(0.832, 2.2, upper)
    found = fit(sigma, interval)
    r = np.linspace(interval.start, interval.end, 1000)
    numerator, denominator = (polyval(r - interval.start, np.array(c, float)) for c in found[:2])
    shift = (-3.0 if upper else 3.0) * np.log(sigma)
    g = log_ndtr(ndtri_exp(-(r**2)) + shift) + r**2
    np.testing.assert_allclose(numerator / denominator, g, rtol=0, atol=1e-13)  # scipy: x^2 = 7 times some roundings
    assert found.error < 1e-14


def test_a_fit_whose_sums_would_cancel_is_refused():
    with pytest.raises(ValueError, match=r"width of 1.8 from r = 0.832 to 26.0 has coefficients of both signs"):
        fit(1.8, Interval(0.832, 26.0, upper=True))
