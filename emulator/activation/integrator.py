"""Integrates one rising parcel to its supersaturation maximum.

State: supersaturation S, condensed water w since the start, pressure P, and one wet radius per bin. Temperature
and vapour follow from conservation: T = T0 - g V t / cp + L w / cp, q = q0 - w. The equations are those of pyrcel
2.0 (`thermodynamics.py`), hydrostatic pressure included:

    dS/dt = alpha V - gamma dw/dt,   dw/dt = 4 pi rho_w / rho_dry sum_i N_i r_i^2 dr_i/dt,   dP/dt = -rho g V.

A step is ROS34PW2 (`rosenbrock.py`) with the arrowhead matrix of `growth.py`.
"""

import math

from numba import njit

from emulator.activation import growth
from emulator.activation.rosenbrock import GAMMA, ORDER
from emulator.activation.thermodynamics import (
    INLINED,
    initial_vapor_mixing_ratio,
    parcel_coefficients,
)

FINISHED = 0
TOO_MANY_STEPS = 1
STEP_TOO_SMALL = 2
NO_MAXIMUM = 3
NO_EQUILIBRIUM = 4

NUM_WORK_ROWS = 12

A10, A20, A21, A30, A31, A32 = growth.A10, growth.A20, growth.A21, growth.A30, growth.A31, growth.A32
C10, C20, C21, C30, C31, C32 = growth.C10, growth.C20, growth.C21, growth.C30, growth.C31, growth.C32
M0, M1, M2, M3 = growth.M0, growth.M1, growth.M2, growth.M3
E0, E1, E2, E3 = growth.E0, growth.E1, growth.E2, growth.E3

SMALLEST_STEP_S = 1e-12
"""A parcel whose step falls below this is stiff beyond double precision: it is given up with a status."""

EXPONENT = -1.0 / ORDER
SAFETY, SMALLEST_FACTOR, LARGEST_FACTOR = 0.9, 0.15, 6.0  # Hairer & Wanner (1996), section IV.7


@njit(**INLINED)
def _hermite_maximum(h, s, s_new, rate, rate_new):
    """Position in [0, 1] and value of the maximum of the cubic through two points with slopes > 0 and <= 0."""
    a = 6.0 * (s - s_new) / h + 3.0 * (rate + rate_new)
    b = 6.0 * (s_new - s) / h - 2.0 * (2.0 * rate + rate_new)
    root = math.sqrt(max(b * b - 4.0 * a * rate, 0.0))
    # The slope a x^2 + b x + rate falls through its zero at x = 2 rate / (root - b), in the form without
    # cancellation for b < 0; b > 0 has the other form.
    x = 2.0 * rate / (root - b) if b <= 0.0 else -(b + root) / (2.0 * a)
    if not 0.0 <= x <= 1.0:
        x = rate / (rate - rate_new)
    value = (
        (2.0 * x**3 - 3.0 * x**2 + 1.0) * s
        + (3.0 * x**2 - 2.0 * x**3) * s_new
        + h * ((x**3 - 2.0 * x**2 + x) * rate + (x**3 - x**2) * rate_new)
    )
    return x, value


@njit(**INLINED)
def rise_to_maximum(
    temperature0, pressure0, s0, updraft, constants, bins, work, relative_tolerance, absolute_tolerance_s,
    radius_factor, max_ascent, max_steps,
):  # fmt: skip
    """Integrate until dS/dt = 0 at S > 0.

    Parameters
    ----------
    temperature0, pressure0, s0, updraft : float
        Start of the parcel, [K], [Pa], [1] (negative), and its speed, [m s-1].
    constants : ConstantValues
    bins : array (3, num_bins)
        See `growth.py`.
    work : array (NUM_WORK_ROWS, num_bins)
        Scratch; row 0 holds the equilibrium radii on entry.
    relative_tolerance, absolute_tolerance_s, radius_factor : float
        Accepted error of a step: relative_tolerance |S| + absolute_tolerance_s in S, and radius_factor times
        relative_tolerance in the radii (relative, root mean square over the bins).
    max_ascent : float
        Give up above this height, [m].
    max_steps : int

    Returns
    -------
    s_max, temperature : float
        Maximum supersaturation [1] and the temperature there [K].
    steps : int
        Attempted steps.
    status : int
        FINISHED, or why not; s_max and temperature are then those reached.
    """
    num_bins = bins.shape[1]
    radius, radius_new = work[0], work[1]
    rate, diagonal, towards_s = work[2], work[3], work[4]
    water, inverse, water_inverse = work[5], work[6], work[7]
    u0, u1, u2, rhs = work[8], work[9], work[10], work[11]

    cooling = constants.gravity * updraft / constants.heat_capacity
    heating = constants.latent_heat / constants.heat_capacity
    hydrostatic = constants.gravity * updraft
    vapor0 = initial_vapor_mixing_ratio(temperature0, pressure0, s0, constants)

    s, w, p, t = s0, 0.0, pressure0, 0.0
    temperature = temperature0
    h = min(1e-2, 1e-2 / updraft)
    end = max_ascent / updraft

    resistance, kinetic, kelvin, source, sink, condensation, density = parcel_coefficients(
        temperature, p, vapor0, s, constants
    )
    condensed, condensed_by_s = growth.growth_and_jacobian(
        s, resistance, kinetic, kelvin, bins, radius, rate, diagonal, towards_s, water
    )
    f_w = condensation * condensed
    f_s = source * updraft - sink * f_w
    f_p = -density * hydrostatic

    for step in range(1, max_steps + 1):
        over_h = 1.0 / h
        shift = over_h / GAMMA
        schur, forward = growth.factor(shift, rate, diagonal, towards_s, water, inverse, water_inverse)
        # Elimination of the radii: pivot is the S-row's diagonal, `coupled` = d(dw/dt)/dS through the radii.
        drain = sink * condensation
        coupled = schur + condensed_by_s
        pivot = shift + drain * coupled
        u0_s = (f_s - drain * forward) / pivot
        u0_w = (f_w + condensation * (forward + coupled * u0_s)) / shift
        u0_p = f_p / shift
        u0_t = 1.0 / shift

        s_i = s + A10 * u0_s
        w_i = w + A10 * u0_w
        p_i = p + A10 * u0_p
        temp_i = temperature0 - cooling * (t + A10 * u0_t) + heating * w_i
        res_i, kin_i, kel_i, source_i, sink_i, cond_i, rho_i = parcel_coefficients(
            temp_i, p_i, vapor0 - w_i, s_i, constants
        )
        condensed_i, forward = growth.second_stage(
            s_i, res_i, kin_i, kel_i, bins, over_h, u0_s,
            radius, rate, towards_s, inverse, water_inverse, u0, rhs,
        )  # fmt: skip
        g_w = cond_i * condensed_i
        u1_s = (source_i * updraft - sink_i * g_w + over_h * C10 * u0_s - drain * forward) / pivot
        u1_w = (g_w + over_h * C10 * u0_w + condensation * (forward + coupled * u1_s)) / shift
        u1_p = (-rho_i * hydrostatic + over_h * C10 * u0_p) / shift
        u1_t = (1.0 + over_h * C10 * u0_t) / shift

        s_i = s + A20 * u0_s + A21 * u1_s
        w_i = w + A20 * u0_w + A21 * u1_w
        p_i = p + A20 * u0_p + A21 * u1_p
        temp_i = temperature0 - cooling * (t + A20 * u0_t + A21 * u1_t) + heating * w_i
        res_i, kin_i, kel_i, source_i, sink_i, cond_i, rho_i = parcel_coefficients(
            temp_i, p_i, vapor0 - w_i, s_i, constants
        )
        condensed_i, forward = growth.third_stage(
            s_i, res_i, kin_i, kel_i, bins, over_h, u1_s,
            radius, towards_s, inverse, water_inverse, u0, u1, rhs,
        )  # fmt: skip
        g_w = cond_i * condensed_i
        u2_s = (source_i * updraft - sink_i * g_w + over_h * (C20 * u0_s + C21 * u1_s) - drain * forward) / pivot
        u2_w = (g_w + over_h * (C20 * u0_w + C21 * u1_w) + condensation * (forward + coupled * u2_s)) / shift
        u2_p = (-rho_i * hydrostatic + over_h * (C20 * u0_p + C21 * u1_p)) / shift
        u2_t = (1.0 + over_h * (C20 * u0_t + C21 * u1_t)) / shift

        s_i = s + A30 * u0_s + A31 * u1_s + A32 * u2_s
        w_i = w + A30 * u0_w + A31 * u1_w + A32 * u2_w
        p_i = p + A30 * u0_p + A31 * u1_p + A32 * u2_p
        temp_i = temperature0 - cooling * (t + A30 * u0_t + A31 * u1_t + A32 * u2_t) + heating * w_i
        res_i, kin_i, kel_i, source_i, sink_i, cond_i, rho_i = parcel_coefficients(
            temp_i, p_i, vapor0 - w_i, s_i, constants
        )
        condensed_i, forward = growth.fourth_stage(
            s_i, res_i, kin_i, kel_i, bins, over_h, u2_s,
            radius, towards_s, inverse, water_inverse, u0, u1, u2, rhs,
        )  # fmt: skip
        g_w = cond_i * condensed_i
        c_s = C30 * u0_s + C31 * u1_s + C32 * u2_s
        c_w = C30 * u0_w + C31 * u1_w + C32 * u2_w
        c_p = C30 * u0_p + C31 * u1_p + C32 * u2_p
        u3_s = (source_i * updraft - sink_i * g_w + over_h * c_s - drain * forward) / pivot
        u3_w = (g_w + over_h * c_w + condensation * (forward + coupled * u3_s)) / shift
        u3_p = (-rho_i * hydrostatic + over_h * c_p) / shift

        squares, wet = growth.advance(u3_s, bins, radius, towards_s, inverse, u0, u1, u2, rhs, radius_new)
        s_new = s + M0 * u0_s + M1 * u1_s + M2 * u2_s + M3 * u3_s
        error_s = abs(E0 * u0_s + E1 * u1_s + E2 * u2_s + E3 * u3_s)
        error = max(
            error_s / (relative_tolerance * abs(s_new) + absolute_tolerance_s),
            math.sqrt(squares / num_bins) / (relative_tolerance * radius_factor),
        )
        if not (wet and error < 1e3):  # also a NaN
            error = 1e3
        scale = min(LARGEST_FACTOR, max(SMALLEST_FACTOR, SAFETY * max(error, 1e-8) ** EXPONENT))
        if error > 1.0:
            h *= scale
            if h < SMALLEST_STEP_S:
                return s, temperature, step, STEP_TOO_SMALL
            continue

        w_new = w + M0 * u0_w + M1 * u1_w + M2 * u2_w + M3 * u3_w
        p += M0 * u0_p + M1 * u1_p + M2 * u2_p + M3 * u3_p
        t += h
        temperature_new = temperature0 - cooling * t + heating * w_new
        radius, radius_new = radius_new, radius
        resistance, kinetic, kelvin, source, sink, condensation, density = parcel_coefficients(
            temperature_new, p, vapor0 - w_new, s_new, constants
        )
        condensed, condensed_by_s = growth.growth_and_jacobian(
            s_new, resistance, kinetic, kelvin, bins, radius, rate, diagonal, towards_s, water
        )
        f_w = condensation * condensed
        f_s_new = source * updraft - sink * f_w
        f_p = -density * hydrostatic
        if f_s_new <= 0.0 and s_new > 0.0 and f_s > 0.0:
            x, s_max = _hermite_maximum(h, s, s_new, f_s, f_s_new)
            return s_max, temperature + x * (temperature_new - temperature), step, FINISHED
        s, w, f_s, temperature = s_new, w_new, f_s_new, temperature_new
        h *= scale
        if t > end:
            return s, temperature, step, NO_MAXIMUM
    return s, temperature, max_steps, TOO_MANY_STEPS
