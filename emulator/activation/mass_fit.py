"""`python -m emulator.activation mass-fit`: the tables of coefficients of aerosol_activation_mass.F90, made anew.

With p = min(fn, 1 - fn), r = sqrt(-ln p), Phi the normal distribution and x = Phi^-1(p), a mode of width sigma has

    fm     = p exp(g(r)),  g = ln(Phi(x + 3 ln(sigma))/p),  where fn is p;
    1 - fm = p exp(g(r)),  g = ln(Phi(x - 3 ln(sigma))/p),  where 1 - fn is.

The Fortran module takes for g a rational function on each of INTERVALS, one set for each width in `SIGMA_G`. To change
a width: change it in `modes.py` and in aerosol_activation_constants.F90, put what the command prints in the place of
`above` and `below` in aerosol_activation_mass.F90, and see there that `first_interval` leads each mode to its width's
columns (in the order in which `SIGMA_G` first has them). The command also says, on standard error, what the largest
error is: 2e-15 for 1.8 and 1.6. Where it gets larger, other INTERVALS are needed (`start` in the Fortran module).

Axis legend: N nodes, K Chebyshev polynomials.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import numpy as np
from numpy.polynomial.chebyshev import chebval, chebvander

from emulator.activation.modes import SIGMA_G

DEGREES = (7, 6)
"""Of numerator and denominator. One less each: errors of 1e-13 to 6e-13 instead of 4e-16 to 2e-15."""

NUM_NODES = 70
NUM_ROUNDS = 8
"""Of least squares. After the fourth, the largest error changes by less than a thousandth."""

DIGITS = 70
"""Of the fit, which loses some 30."""

PRINTED_DIGITS = 18
"""More than the 17 that make a double."""


class Interval(NamedTuple):
    """Of r = sqrt(-ln p), in double precision; `upper` where 1 - fn is p."""

    start: float
    end: float
    upper: bool = False


INTERVALS = (Interval(0.832, 2.2), Interval(2.2, 6.5), Interval(6.5, 26.0), Interval(0.832, 6.2, upper=True))
"""r is 0.8326 at p = 1/2; 25.84 at 1e-290, where the module cuts fn off; 6.06 at 2^-53, the smallest 1 - fn."""


class Fit(NamedTuple):
    """Coefficients of the powers of r - start, the denominator's first being 1; the largest error at the nodes."""

    numerator: list
    denominator: list
    error: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    """Print the tables, and their largest error on standard error; 0, or 2 with a message there."""
    try:
        fits = [fit(sigma, interval) for sigma in dict.fromkeys(SIGMA_G.tolist()) for interval in INTERVALS]
    except (ValueError, ImportError) as error:
        print(f"emulator.activation mass-fit: {error}", file=sys.stderr)
        return 2
    print(table("above", [f.numerator for f in fits]))
    print(table("below", [f.denominator for f in fits]))
    print(f"largest error: {max(f.error for f in fits):.1e}", file=sys.stderr)
    return 0


def fit(sigma: float, interval: Interval) -> Fit:
    """Fit a rational function to g of a mode on an interval.

    Least squares of the error w (P/Q - g) at Chebyshev nodes. The weight w is 1/sqrt(1 + |g|), for what rounding makes
    of g grows with it; on the upper interval (1 - fm)/max(1 - fm) + 1e-6, for fm is what counts there. To be linear,
    each round minimizes w (P - g Q)/Q', Q' the denominator of the round before (1 in the first), with Q's coefficient
    of the zeroth Chebyshev polynomial fixed at 1: Sanathanan & Koerner 1963, doi:10.1109/TAC.1963.1105517. The round
    with the smallest largest error is taken.

    Parameters
    ----------
    sigma : float
        Geometric standard deviation, [1]; taken as the decimal number that it prints as.

    Raises
    ------
    ValueError
        If the coefficients of the numerator, or the denominator, are not of one sign: sums of theirs would cancel.
    """
    from mpmath import mp

    num_above, num_below = (degree + 1 for degree in DEGREES)
    with mp.workdps(DIGITS):
        start, end = mp.mpf(interval.start), mp.mpf(interval.end)
        shift = (-3 if interval.upper else 3) * mp.log(mp.mpf(str(sigma)))
        t_N = np.array([mp.cos(mp.pi * (2 * k + 1) / (2 * NUM_NODES)) for k in range(NUM_NODES)])
        r_N = (start + end) / 2 + (end - start) / 2 * t_N
        fraction_N = np.array([mp.ncdf(_quantile(r) + shift) for r in r_N])
        g_N = np.array([mp.log(f) + r**2 for f, r in zip(fraction_N, r_N, strict=True)])
        if interval.upper:
            weight_N = fraction_N / max(fraction_N) + mp.mpf("1e-6")
        else:
            weight_N = np.array([1 / mp.sqrt(1 + abs(g)) for g in g_N])

        t_NK = chebvander(t_N, max(DEGREES))
        a_NK = np.hstack([t_NK[:, :num_above], -g_N[:, None] * t_NK[:, 1:num_below]])
        q_N = np.full(NUM_NODES, mp.one)
        rounds = []
        for _ in range(NUM_ROUNDS):
            w_N = weight_N / q_N
            solution = mp.lu_solve(mp.matrix(w_N[:, None] * a_NK), mp.matrix(w_N * g_N))
            p_K, q_K = np.array(solution[:num_above]), np.array([mp.one, *solution[num_above:]])
            q_N = t_NK[:, :num_below] @ q_K
            rounds.append((max(abs(t_NK[:, :num_above] @ p_K / q_N - g_N) * weight_N), p_K, q_K))
        error, p_K, q_K = min(rounds, key=lambda found: found[0])

        def powers(c_K):
            return mp.taylor(lambda r: chebval((2 * r - start - end) / (end - start), c_K), start, len(c_K) - 1)

        above, below = powers(p_K), powers(q_K)
        for coefficients in (above, below):
            if len({mp.sign(c) for c in coefficients}) > 1:
                raise ValueError(
                    f"the fit for a width of {sigma} from r = {interval.start} to {interval.end} has coefficients of "
                    "both signs, whose sum would cancel; expected one sign; try a shorter interval"
                )
        return Fit([c / below[0] for c in above], [c / below[0] for c in below], float(error))


def _quantile(r):
    """Phi^-1(exp(-r^2)) by Newton's method for ln(Phi), which is concave: from below, it never steps beyond."""
    from mpmath import mp

    x, step = -mp.sqrt(2) * r, mp.inf
    while abs(step) > mp.mpf(10) ** (10 - mp.dps):
        step = (mp.log(mp.ncdf(x)) + r**2) * mp.ncdf(x) / mp.npdf(x)
        x -= step
    return x


def table(name: str, columns: list) -> str:
    """The declaration, as Fortran source, of `columns` of coefficients as a parameter with bounds from 0."""
    half = 4
    lines = []
    for column in columns:
        texts = [_literal(c) for c in column]
        lines += [", ".join(texts[:half]), ", ".join(texts[half:])]
    size, num_sets = len(columns[0]), len(columns) // len(INTERVALS)
    return (
        f"  real(r8), parameter :: {name}(0:{size - 1}, {num_sets}*num_intervals) = reshape([ &\n    "
        + ", &\n    ".join(lines)
        + f"], &\n    [{size}, {num_sets}*num_intervals])"
    )


def _literal(number) -> str:
    from mpmath import mp

    return mp.nstr(number, PRINTED_DIGITS, min_fixed=-3) + "_r8"
