"""Reference solutions of the parcel from pyrcel, an independent model; makes and reads data/parcel_reference.npz.

pyrcel 2.0 supplies the equations (`parcel_ode_sys`), the initial state (`equilibrate_initial_state`) and, where
wanted, the discretisation (`AerosolSpecies`); SUNDIALS CVODE (scikit-sundae) integrates at relative tolerance 1e-9 to
the root of dS/dt. The activated fraction is found here by brute force from pyrcel's Koehler function: nothing is
imported from the model under test but the states and, for one of the two references, its table of bins.

    python -m tests.python.pyrcel_reference     # from the repository root: writes the file again (minutes)
"""

import importlib.metadata
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from pyrcel import constants as c
from pyrcel.aerosol import AerosolSpecies
from pyrcel.distributions import Lognorm
from pyrcel.equilibrate import equilibrate_initial_state
from pyrcel.parcel_aux import N_STATE_VARS, parcel_ode_sys
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import norm
from sksundae.cvode import CVODE

DATA = pathlib.Path(__file__).parent / "data" / "parcel_reference.npz"

SIGMA_G = (1.8, 1.6, 1.8, 1.6)
INPUTS = ("tair", "pressure", "rh", "wbar", "num_aer", "r_aer", "kappa")

KAPPA_FLOOR = 1e-6  # in growth only, as in the model under test; below it pyrcel's start fails to converge

RTOL = 1e-9
ATOL_BULK = (1e-4, 1e-4, 1e-7, 1e-13, 1e-13, 1e-4, 1e-12)  # z [m], P [Pa], T [K], wv, wc, wi [kg/kg], S [1]
# The water on a particle of kappa 1e-6 is 1e-6 of its radius, 1e-15 m on the smallest: a tolerance of 1e-16 m lets
# Newton fall below the dry radius, where the Koehler function has its pole.
ATOL_RADIUS = 1e-20  # [m]


_start = jax.jit(equilibrate_initial_state)


@jax.jit
def _rhs(y, args):
    return parcel_ode_sys(0.0, y, args)


@jax.jit
def _jacobian(y, args):
    """Dense Jacobian from 2 N_STATE_VARS + 1 products: a radius depends on itself and the bulk state alone."""
    n = y.shape[0]
    basis = jnp.eye(N_STATE_VARS, n)
    f = lambda x: parcel_ode_sys(0.0, x, args)  # noqa: E731
    columns = jax.vmap(lambda v: jax.jvp(f, (y,), (v,))[1])(basis)
    _, pullback = jax.vjp(f, y)
    rows = jax.vmap(lambda v: pullback(v)[0])(basis)
    radii = jnp.concatenate([jnp.zeros(N_STATE_VARS), jnp.ones(n - N_STATE_VARS)])
    diagonal = jax.jvp(f, (y,), (radii,))[1]
    return jnp.diag(diagonal).at[:, :N_STATE_VARS].set(columns.T).at[:N_STATE_VARS, :].set(rows)


def pyrcel_bins(state, per_mode=100, lower=-4.0, upper=5.0):
    """Dry radii [m], numbers [m-3] and kappa of pyrcel's own discretisation of the four modes."""
    parts = []
    for m in range(4):
        mu, sigma = float(state["r_aer"][m]), SIGMA_G[m]
        mode = AerosolSpecies(
            "mode",
            Lognorm(mu=mu, sigma=sigma, N=float(state["num_aer"][m])),
            kappa=float(state["kappa"][m]),
            bins=per_mode,
            r_min=mu * sigma**lower,
            r_max=mu * sigma**upper,
        )
        parts.append((mode.r_drys, mode.Nis, np.full(mode.nr, mode.kappa)))
    return tuple(np.concatenate(x) for x in zip(*parts, strict=True))


def table_bins(state, table):
    """The same from a table (mode, scale, weight) of the model under test."""
    mode, scale, weight = table
    return (
        np.float64(state["r_aer"])[mode] * 1e-6 * scale,
        np.float64(state["num_aer"])[mode] * 1e6 * weight,
        np.float64(state["kappa"])[mode],
    )


def solve(state, bins):
    """Return (smax, temperature at smax) of pyrcel's equations for one state and its bins."""
    r_dry, number, kappa = bins
    kappa = np.maximum(kappa, KAPPA_FLOOR)
    speed = float(state["wbar"]) * 0.01
    t0, p0, s0 = float(state["tair"]), float(state["pressure"]) * 100.0, float(state["rh"]) - 1.0
    y0 = np.array(_start(t0, s0, p0, r_dry, kappa, number))
    args = tuple(jnp.asarray(x, float) for x in (r_dry, number, kappa, c.ac, speed))

    def rhs(t, y, yp):
        yp[:] = _rhs(y, args)

    def jacobian(t, y, yp, jac):
        jac[:, :] = _jacobian(y, args)

    def falling(t, y, events):
        events[0] = _rhs(y, args)[6]

    falling.terminal, falling.direction = [True], [-1]
    atol = np.concatenate([ATOL_BULK, np.full(len(r_dry), ATOL_RADIUS)])
    solver = CVODE(
        rhs, method="BDF", rtol=RTOL, atol=atol, linsolver="dense", jacfn=jacobian, eventsfn=falling,
        num_events=1, max_num_steps=200_000, first_step=1e-6,
    )  # fmt: skip
    solution = solver.solve([0.0, 5000.0 / speed], y0)
    if solution.t_events is None or len(solution.t_events) == 0:
        raise RuntimeError(f"CVODE found no maximum: {solution.message}")
    y = np.ravel(solution.y_events[-1])
    if not (y[6] > 0.0 and (y[N_STATE_VARS:] > r_dry).all()):
        raise RuntimeError(f"CVODE lost the solution: it stopped at S = {y[6]}")
    return float(y[6]), float(y[2])


def _critical_supersaturation(r_dry, kappa, kelvin):
    """Maximum of pyrcel's Seq, searched over ln(r / r_dry - 1)."""

    def minus_seq(x):
        growth = np.expm1(3.0 * np.log1p(np.exp(x)))  # (r / r_dry)^3 - 1
        activity_minus_1 = -kappa / (growth + kappa)
        return -((1.0 + activity_minus_1) * np.expm1(kelvin / (r_dry * (1.0 + np.exp(x)))) + activity_minus_1)

    coarse = np.linspace(-25.0, 12.0, 149)
    best = coarse[np.argmin([minus_seq(x) for x in coarse])]
    found = minimize_scalar(minus_seq, bounds=(best - 0.5, best + 0.5), method="bounded", options={"xatol": 1e-9})
    return -found.fun


def activated_fractions(smax, temperature, state):
    """Part of each continuous mode whose critical supersaturation is at most smax, by bracketing."""
    surface_tension = 0.0761 - 1.55e-4 * (temperature - 273.15)
    kelvin = 2.0 * c.Mw * surface_tension / (c.R * temperature * c.rho_w)
    fractions = []
    for m in range(4):
        kappa = float(state["kappa"][m])
        excess = lambda x, kappa=kappa: np.log(_critical_supersaturation(np.exp(x), kappa, kelvin) / smax)  # noqa: E731
        threshold = brentq(excess, np.log(1e-10), np.log(1e-4), xtol=1e-11)
        fractions.append(norm.sf((threshold - np.log(float(state["r_aer"][m]) * 1e-6)) / np.log(SIGMA_G[m])))
    return np.array(fractions)


def state_of(states, n):
    """State n of a mapping of arrays."""
    return {name: states[name][n] for name in INPUTS}


def main():
    """Solve the fixed states in both discretisations and write the file."""
    from emulator.activation.parcel import bin_table
    from emulator.activation.settings import ParcelSettings
    from emulator.activation.states import sample_states

    num_states = 208
    drawn = sample_states(num_states, seed=20230213)
    states = dict(zip(INPUTS, drawn.arrays(), strict=True))
    table = bin_table(ParcelSettings())
    out = {key: np.empty(num_states) for key in ("smax_table", "tair_table", "smax_pyrcel", "tair_pyrcel")}
    out |= {key: np.empty((num_states, 4)) for key in ("fn_table", "fn_pyrcel")}
    for n in range(num_states):
        state = state_of(states, n)
        for kind, bins in (("table", table_bins(state, table)), ("pyrcel", pyrcel_bins(state))):
            smax, temperature = solve(state, bins)
            out[f"smax_{kind}"][n], out[f"tair_{kind}"][n] = smax, temperature
            out[f"fn_{kind}"][n] = activated_fractions(smax, temperature, state)
        print(n, out["smax_table"][n], out["smax_pyrcel"][n], flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("pyrcel", "scikit-sundae", "jax", "numpy", "scipy")}
    mode, scale, weight = table
    DATA.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        DATA, **states, **out, table_mode=mode, table_scale=scale, table_weight=weight, versions=json.dumps(versions)
    )


if __name__ == "__main__":
    main()
