"""Coefficients of ROS34PW2, the linearly implicit method of the parcel integrator.

Rang & Angermann (2005), *New Rosenbrock W-methods of order 3 for partial differential algebraic equations of
index 1*, BIT 45, 761-787, doi:10.1007/s10543-005-0035-y, table of ROS34PW2: four stages, order 3 (embedded 2),
L-stable, stiffly accurate, and of order 3 with *any* matrix in place of the Jacobian (a W-method). The last point
lets the integrator leave the slow columns (pressure, water, time) out and keep an arrowhead matrix.

In the form of Hairer & Wanner (1996, section IV.7): with Gamma the lower triangle (gamma on its diagonal) and
A the matrix of the stages, U = Gamma k gives a method that needs no product with the Jacobian,

    (1 / (h gamma) - J) u_i = f(y + sum_j STAGE_ij u_j) + 1/h sum_j COUPLING_ij u_j,
    y_new = y + sum_i WEIGHT_i u_i,    error = sum_i ERROR_i u_i.
"""

import numpy as np

GAMMA = 4.3586652150845900e-01

ORDER = 3

_ALPHA = np.array([
    [0.0, 0.0, 0.0, 0.0],
    [8.7173304301691801e-01, 0.0, 0.0, 0.0],
    [8.4457060015369423e-01, -1.1299064236484185e-01, 0.0, 0.0],
    [0.0, 0.0, 1.0, 0.0],
])  # fmt: skip
_GAMMA_MATRIX = np.array([
    [GAMMA, 0.0, 0.0, 0.0],
    [-8.7173304301691801e-01, GAMMA, 0.0, 0.0],
    [-9.0338057013044082e-01, 5.4180672388095326e-02, GAMMA, 0.0],
    [2.4212380706095346e-01, -1.2232505839045147e00, 5.4526025533510214e-01, GAMMA],
])  # fmt: skip
_B = np.array([2.4212380706095346e-01, -1.2232505839045147e00, 1.5452602553351020e00, 4.3586652150845900e-01])
_B_EMBEDDED = np.array([3.7810903145819369e-01, -9.6042292212423178e-02, 5.0e-01, 2.1793326075422950e-01])

_INVERSE = np.linalg.inv(_GAMMA_MATRIX)

STAGE = _ALPHA @ _INVERSE
COUPLING = np.diag(1.0 / np.diag(_GAMMA_MATRIX)) - _INVERSE
WEIGHT = _B @ _INVERSE
ERROR = (_B - _B_EMBEDDED) @ _INVERSE
