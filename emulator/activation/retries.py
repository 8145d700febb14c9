"""The parcel model as it makes training samples: a parcel that does not finish is run again at tighter tolerances."""

import dataclasses

import numpy as np

from emulator.activation.parcel import simulate

LEVELS = (1, 2)
"""Of `ParcelSettings.tighter`, in this order."""


def simulate_with_retries(states, settings):
    """Run `parcel.simulate`; run parcels that did not finish again with tighter settings, twice.

    Parameters
    ----------
    states : States
    settings : ParcelSettings

    Returns
    -------
    result : ParcelResult
        Of the last run of each parcel.
    num_retried : int
        Parcels that needed a retry, whether it helped or not.
    """
    result = simulate(states, settings)
    num_retried = int((result.status != 0).sum())
    for level in LEVELS:
        failed = np.flatnonzero(result.status)
        if len(failed) == 0:
            break
        again = simulate(states.take(failed), settings.tighter(level))
        for field in dataclasses.fields(result):
            getattr(result, field.name)[failed] = getattr(again, field.name)
    return result, num_retried
