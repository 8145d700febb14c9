"""The four lognormal aerosol modes of MAM4, in the order in which every array here holds them.

Source of the numbers: the mode definitions of E3SM's MAM4 (Liu et al. 2016, doi:10.5194/gmd-9-505-2016,
Table 1 and section 2): geometric standard deviations, and the bounds between which the host clamps the
number-median *dry diameter* of each mode by adjusting number. This package works with the radius.
"""

import numpy as np

NUM_MODES = 4

MODE_NAMES = ("accumulation", "aitken", "coarse", "primary_carbon")

SIGMA_G = np.array([1.8, 1.6, 1.8, 1.6])
"""Geometric standard deviation of number against dry radius, [1], shape (4,)."""

LN_SIGMA_G = np.log(SIGMA_G)
"""Natural logarithm of `SIGMA_G`, [1], shape (4,)."""

DRY_RADIUS_MIN_UM = 0.5 * np.array([0.0535, 0.0087, 1.0, 0.01])
"""Smallest number-median dry radius the host lets a mode have, [um], shape (4,): `dgnumlo` / 2."""

DRY_RADIUS_MAX_UM = 0.5 * np.array([0.44, 0.052, 4.0, 0.1])
"""Largest number-median dry radius the host lets a mode have, [um], shape (4,): `dgnumhi` / 2."""

for _array in (SIGMA_G, LN_SIGMA_G, DRY_RADIUS_MIN_UM, DRY_RADIUS_MAX_UM):
    _array.setflags(write=False)
del _array
