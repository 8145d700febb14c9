"""The schemes that the case study's emulator replaces, under the names and units of its samples file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from emulator.activation.modes import NUM_MODES
from emulator.variables import columns_of

_SCALARS = ("tair", "pressure", "rh", "wbar")
_PER_MODE = ("num_aer", "r_aer", "kappa")


def _names(variables: Sequence[str], size: int | None) -> list[str]:
    return [c.name for v in variables for c in columns_of(v, "", size)]


INPUT_NAMES = (*_names(_SCALARS, None), *_names(_PER_MODE, NUM_MODES))
OUTPUT_NAMES = tuple(_names(("fn",), NUM_MODES))


def baselines(
    input_names: Sequence[str], output_names: Sequence[str]
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Schemes by name, each a function of inputs (N, I) to `fn` (N, 4); entry point of `emulator.baselines`.

    Empty unless the names are those of the case study (inputs in any order).
    """
    if set(input_names) != set(INPUT_NAMES) or tuple(output_names) != OUTPUT_NAMES:
        return {}
    order = [list(input_names).index(name) for name in INPUT_NAMES]
    return {"ARG": lambda x_NI: arg_fn(x_NI[:, order])}


def arg_fn(x_NI: np.ndarray) -> np.ndarray:
    """Activated number fractions (N, 4) by ARG, inputs (N, 16) in the order of `INPUT_NAMES`."""
    from emulator.activation.arg import activate

    fn, _, _ = activate(**physical(x_NI))
    return fn


def physical(x_NI: np.ndarray) -> dict[str, np.ndarray]:
    """Inputs (N, 16), in the order of `INPUT_NAMES`, as the schemes' keyword arguments (they take no `rh`)."""
    tair, pressure, _, wbar = x_NI[:, :4].T
    num_aer, r_aer, kappa = (x_NI[:, 4 + 4 * k : 8 + 4 * k] for k in range(3))
    return {
        "tair": tair,
        "pressure": pressure,
        "wbar": wbar,
        "num_aer": num_aer,
        "r_aer": r_aer,
        "kappa": kappa,
    }
