"""The passes over the bins that a Rosenbrock step makes: growth rates, Jacobian, stages.

Bins are columns of flat float64 arrays (num_bins,):

    dry_cubed_less_solute  r_d^3 (1 - kappa)  [m3]    number  droplets per volume [m-3]
    solute                 kappa r_d^3 [m3]           radius  wet radius [m]

The unknowns of the linear system are the radii r_i and S. Its matrix is an arrowhead: dr_i/dt depends on r_i
and S alone (thermodynamic coefficients are frozen in it, see `rosenbrock`), dS/dt on all. Eliminating the r_i
takes a sum over the bins and no storage. `diagonal` is d(dr_i/dt)/dr_i, `towards_s` d(dr_i/dt)/dS and `water`
d(N_i r_i^2 dr_i/dt)/dr_i; `inverse` is 1/(1/(h gamma) - diagonal).

Each pass is one loop that reads the stages so far, advances, evaluates the growth rate there, and sums what the
scalar equations of the next stage need. One division a bin and pass: 1/r, 1/(a r + c) and Koehler's quotient come
from the reciprocal of their product (about 1e-42, far from underflow).
"""

from numba import njit

from emulator.activation.kohler import expm1_of_kelvin
from emulator.activation.rosenbrock import COUPLING, ERROR, STAGE, WEIGHT
from emulator.activation.thermodynamics import INLINED

# Compiled code takes scalars as literals; array elements it would load in every iteration.
A10 = float(STAGE[1, 0])
A20, A21 = float(STAGE[2, 0]), float(STAGE[2, 1])
A30, A31, A32 = float(STAGE[3, 0]), float(STAGE[3, 1]), float(STAGE[3, 2])
C10 = float(COUPLING[1, 0])
C20, C21 = float(COUPLING[2, 0]), float(COUPLING[2, 1])
C30, C31, C32 = float(COUPLING[3, 0]), float(COUPLING[3, 1]), float(COUPLING[3, 2])
M0, M1, M2, M3 = (float(x) for x in WEIGHT)
E0, E1, E2, E3 = (float(x) for x in ERROR)


@njit(**INLINED)
def growth_rate(r, s, resistance, kinetic, kelvin, dry_cubed_less_solute, solute):
    """dr/dt = (S - S_eq(r)) / (resistance r + kinetic), [m s-1], kappa-Koehler S_eq in cancellation-free form."""
    denominator = r * r * r - dry_cubed_less_solute
    path = resistance * r + kinetic
    product = denominator * path
    reciprocal = 1.0 / (r * product)
    over_radius = reciprocal * product
    over_product = reciprocal * r
    activity_minus_1 = -solute * over_product * path
    e = expm1_of_kelvin(kelvin * over_radius)
    return (s - (1.0 + activity_minus_1) * e - activity_minus_1) * over_product * denominator


@njit(**INLINED)
def growth_and_jacobian(s, resistance, kinetic, kelvin, bins, radius, rate, diagonal, towards_s, water):
    """Fill rate, diagonal, towards_s, water at (radius, S); return sum(N r^2 dr/dt) and sum(N r^2 towards_s)."""
    dry_cubed_less_solute, solute, number = bins[0], bins[1], bins[2]
    condensed = 0.0
    condensed_by_s = 0.0
    for i in range(radius.shape[0]):
        r = radius[i]
        denominator = r * r * r - dry_cubed_less_solute[i]
        path = resistance * r + kinetic
        product = denominator * path
        reciprocal = 1.0 / (r * product)
        over_radius = reciprocal * product
        over_product = reciprocal * r
        over_path = over_product * denominator
        over_denominator = over_product * path
        activity_minus_1 = -solute[i] * over_denominator
        e = expm1_of_kelvin(kelvin * over_radius)
        f = (s - (1.0 + activity_minus_1) * e - activity_minus_1) * over_path
        s_eq_slope = (e + 1.0) * (
            3.0 * r * r * solute[i] * over_denominator * over_denominator
            - (1.0 + activity_minus_1) * kelvin * over_radius * over_radius
        )
        slope = -(s_eq_slope + resistance * f) * over_path
        number_r = number[i] * r
        rate[i] = f
        diagonal[i] = slope
        towards_s[i] = over_path
        water[i] = number_r * (2.0 * f + r * slope)
        condensed += number_r * r * f
        condensed_by_s += number_r * r * over_path
    return condensed, condensed_by_s


@njit(**INLINED)
def factor(shift, rate, diagonal, towards_s, water, inverse, water_inverse):
    """Fill inverse = 1/(shift - diagonal) and water_inverse = water * inverse.

    Returns sum(water_inverse towards_s) and sum(water_inverse rate).
    """
    schur = 0.0
    forward = 0.0
    for i in range(rate.shape[0]):
        d = 1.0 / (shift - diagonal[i])
        inverse[i] = d
        d *= water[i]
        water_inverse[i] = d
        schur += d * towards_s[i]
        forward += d * rate[i]
    return schur, forward


@njit(**INLINED)
def second_stage(
    s, resistance, kinetic, kelvin, bins, over_h, du_s,
    radius, rate, towards_s, inverse, water_inverse, u0, rhs,
):  # fmt: skip
    """Solve for u0 with its S-part `du_s`, evaluate at the second stage.

    Fills u0 and the right-hand side of u1; returns sum(N r^2 f) and sum(water_inverse rhs).
    """
    dry_cubed_less_solute, solute, number = bins[0], bins[1], bins[2]
    condensed = 0.0
    forward = 0.0
    coupling = C10 * over_h
    for i in range(radius.shape[0]):
        u = (rate[i] + towards_s[i] * du_s) * inverse[i]
        u0[i] = u
        r = radius[i] + A10 * u
        f = growth_rate(r, s, resistance, kinetic, kelvin, dry_cubed_less_solute[i], solute[i])
        condensed += number[i] * r * r * f
        f += coupling * u
        rhs[i] = f
        forward += water_inverse[i] * f
    return condensed, forward


@njit(**INLINED)
def third_stage(
    s, resistance, kinetic, kelvin, bins, over_h, du_s,
    radius, towards_s, inverse, water_inverse, u0, u1, rhs,
):  # fmt: skip
    """As `second_stage`, for u1 and the third stage."""
    dry_cubed_less_solute, solute, number = bins[0], bins[1], bins[2]
    condensed = 0.0
    forward = 0.0
    for i in range(radius.shape[0]):
        u = (rhs[i] + towards_s[i] * du_s) * inverse[i]
        u1[i] = u
        r = radius[i] + A20 * u0[i] + A21 * u
        f = growth_rate(r, s, resistance, kinetic, kelvin, dry_cubed_less_solute[i], solute[i])
        condensed += number[i] * r * r * f
        f += over_h * (C20 * u0[i] + C21 * u)
        rhs[i] = f
        forward += water_inverse[i] * f
    return condensed, forward


@njit(**INLINED)
def fourth_stage(
    s, resistance, kinetic, kelvin, bins, over_h, du_s,
    radius, towards_s, inverse, water_inverse, u0, u1, u2, rhs,
):  # fmt: skip
    """As `second_stage`, for u2 and the fourth stage."""
    dry_cubed_less_solute, solute, number = bins[0], bins[1], bins[2]
    condensed = 0.0
    forward = 0.0
    for i in range(radius.shape[0]):
        u = (rhs[i] + towards_s[i] * du_s) * inverse[i]
        u2[i] = u
        r = radius[i] + A30 * u0[i] + A31 * u1[i] + A32 * u
        f = growth_rate(r, s, resistance, kinetic, kelvin, dry_cubed_less_solute[i], solute[i])
        condensed += number[i] * r * r * f
        f += over_h * (C30 * u0[i] + C31 * u1[i] + C32 * u)
        rhs[i] = f
        forward += water_inverse[i] * f
    return condensed, forward


@njit(**INLINED)
def advance(du_s, bins, radius, towards_s, inverse, u0, u1, u2, rhs, radius_new):
    """Solve for u3 and step; return the sum of squared relative errors and whether every drop kept some water."""
    dry_cubed_less_solute = bins[0]
    squares = 0.0
    num_dry = 0
    for i in range(radius.shape[0]):
        u = (rhs[i] + towards_s[i] * du_s) * inverse[i]
        r = radius[i] + M0 * u0[i] + M1 * u1[i] + M2 * u2[i] + M3 * u
        radius_new[i] = r
        error = (E0 * u0[i] + E1 * u1[i] + E2 * u2[i] + E3 * u) / r
        squares += error * error
        num_dry += r * r * r <= dry_cubed_less_solute[i]
    return squares, num_dry == 0
