"""Morales Betancourt & Nenes (2014): the strongest closed scheme, so that beating ARG alone does not look cheap.

doi:10.5194/gmd-7-2345-2014. The implementation is pyrcel's (an optional dependency), with pyrcel's own constants;
this file only brings many states through it at once.
"""

import numpy as np

from emulator.activation.mass import mass_from_number
from emulator.activation.modes import NUM_MODES, SIGMA_G

STATES_AT_ONCE = 4096  # under vmap the bisection of a block runs until its slowest state is done
KAPPA_FLOOR = 1.0e-6
"""[1]; nothing of such particles activates either, but nearly inert modes upset pyrcel's root finding: without the
floor the scheme's MSE against the parcel model was 6.7e-4 in place of 5.5e-4 (3,000 E3SM-like states)."""


def is_available() -> bool:
    """Whether pyrcel, which holds the scheme, is installed."""
    from importlib.util import find_spec

    return find_spec("pyrcel") is not None


def activate(tair, pressure, wbar, num_aer, r_aer, kappa):
    """Activated fractions by the scheme of Morales Betancourt and Nenes, from the inputs of the case study.

    Parameters
    ----------
    tair : array_like, shape (n,)
        Air temperature, [K].
    pressure : array_like, shape (n,)
        Air pressure, [hPa].
    wbar : array_like, shape (n,)
        Updraft speed, [cm s-1], positive.
    num_aer, r_aer, kappa : array_like, shape (n, 4)
        Number [cm-3], number-median dry radius [um] and hygroscopicity [1] of each mode; kappa below 1e-6 is
        taken as 1e-6.

    Returns
    -------
    fn : numpy.ndarray, shape (n, 4)
        Activated fraction of number, [1].
    fm : numpy.ndarray, shape (n, 4)
        Activated fraction of mass (volume), [1].
    smax : numpy.ndarray, shape (n,)
        Maximum supersaturation, [1], within 1e-5 and 0.5, the bracket of pyrcel's bisection.

    Raises
    ------
    ModuleNotFoundError
        If pyrcel is not installed.
    ValueError
        If a shape does not fit.
    """
    if not is_available():
        raise ModuleNotFoundError(
            "the scheme of Morales Betancourt & Nenes (2014) needs pyrcel, which is not installed; "
            "install it with: pip install 'pyrcel>=2.0'"
        )
    arrays = [np.asarray(a, dtype=np.float64) for a in (wbar, tair, pressure, r_aer, num_aer, kappa)]
    num_states = len(arrays[0])
    names = ("wbar", "tair", "pressure", "r_aer", "num_aer", "kappa")
    for name, array, trailing in zip(names, arrays, 3 * [()] + 3 * [(NUM_MODES,)], strict=True):
        if array.shape != (num_states, *trailing):
            raise ValueError(f"{name} has shape {array.shape}, expected {(num_states, *trailing)}")
    updraft, temperature, pressure_pa, radius, number, hygroscopicity = (
        0.01 * arrays[0], arrays[1], 100.0 * arrays[2], arrays[3], arrays[4], np.maximum(arrays[5], KAPPA_FLOOR),
    )  # fmt: skip
    smax = np.empty(num_states)
    fn = np.empty((num_states, NUM_MODES))
    scheme = _block_scheme()
    for start in range(0, num_states, STATES_AT_ONCE):
        rows = np.arange(start, min(start + STATES_AT_ONCE, num_states))
        # one block shape, so that JAX compiles once: a short block is filled up by repeating its last state
        padded = np.concatenate([rows, np.full(_padding(len(rows), num_states), rows[-1])])
        block_smax, block_fn = scheme(
            *(a[padded] for a in (updraft, temperature, pressure_pa, radius, number, hygroscopicity))
        )
        smax[rows] = np.asarray(block_smax)[: len(rows)]
        fn[rows] = np.asarray(block_fn)[: len(rows)]
    return fn, mass_from_number(fn), smax


def _padding(num_rows, num_states):
    return STATES_AT_ONCE - num_rows if num_states > STATES_AT_ONCE else 0


def _block_scheme():
    """pyrcel's scheme over a block of states, compiled."""
    import jax
    from pyrcel.activation import mbn2014

    def one(updraft, temperature, pressure, radius, number, kappa):
        smax, _, fn = mbn2014(updraft, temperature, pressure, radius, SIGMA_G, number, kappa)
        return smax, fn

    return jax.jit(jax.vmap(one))
