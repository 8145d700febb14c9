"""The parcel model as the activation scheme of a Fortran host: a C function that is called with gathered points.

The host (`fortran_bridge/examples/host/model`, scheme 'external') hands over its own variables, MKS, in columns of `ld`
doubles; they are mapped as for an emulator: pressure = rho R_d T, the number-median radius from volume and number, rh
clipped to the range that the emulators are trained on. What follows is what makes training samples.
"""

import math

import numpy as np

from emulator.activation.arg import ABSENT_MODE, EXP45_MODE, GAS_CONSTANT_DRY_AIR
from emulator.activation.climate_library import PROTOTYPE
from emulator.activation.mass import mass_from_number
from emulator.activation.modes import DRY_RADIUS_MAX_UM, DRY_RADIUS_MIN_UM, NUM_MODES
from emulator.activation.parcel import STATUS_NAMES
from emulator.activation.retries import simulate_with_retries
from emulator.activation.states import RH_RANGE, States


class ParcelScheme:
    """The parcel model as a host's scheme; any thread may call `pointer`, one at a time is served.

    Parameters
    ----------
    settings : ParcelSettings

    Attributes
    ----------
    pointer : ctypes function pointer
        To give to the host; valid as long as this object lives.
    num_retried, num_clipped : int
        Points served; of these, parcels that needed tighter tolerances; points whose rh was clipped.
    error : BaseException or None
        What ended a call with a status other than 0; Ctrl-C included. The host knows no more than that it failed.
    """

    def __init__(self, settings):
        self.settings = settings
        self.num_retried = self.num_clipped = 0
        self.error = None
        self.pointer = PROTOTYPE(self._call)

    def _call(self, context, num_points, ld, *pointers):
        # Nothing may escape: ctypes would print it and go on.
        try:
            columns = [np.ctypeslib.as_array(x, (ld,))[:num_points] for x in pointers[:4]]
            modal = [np.ctypeslib.as_array(x, (NUM_MODES, ld))[:, :num_points].T for x in pointers[4:]]
            modal[3][:], modal[4][:] = self.activate(*columns, *modal[:3])
        except BaseException as error:
            self.error = error
            return 1
        return 0

    def activate(self, w, tair, rhoair, rh, na, volume, hygro):
        """Activated fractions of number and mass at a host's points.

        Parameters
        ----------
        w, tair, rhoair, rh : array (num_points,)
            Updraft [m s-1], temperature [K], density [kg m-3], relative humidity over liquid [1].
        na, volume, hygro : array (num_points, 4)
            Number [m-3], volume [m3 m-3], hygroscopicity [1].

        Returns
        -------
        fn, fm : array (num_points, 4)
            [1]; both 0 for a mode without aerosol.

        Raises
        ------
        ValueError
            A state that no parcel can start from.
        RuntimeError
            A parcel without a maximum; names its state.
        """
        states, absent = host_states(w, tair, rhoair, rh, na, volume, hygro)
        self.num_clipped += int(((rh < RH_RANGE[0]) | (rh > RH_RANGE[1])).sum())
        result, num_retried = simulate_with_retries(states, self.settings)
        self.num_retried += num_retried
        if result.status.any():
            raise RuntimeError(_no_maximum(states, result.status))
        fm = mass_from_number(result.fn)
        return np.where(absent, 0.0, result.fn), np.where(absent, 0.0, fm)


def host_states(w, tair, rhoair, rh, na, volume, hygro):
    """Map a host's variables (see `ParcelScheme.activate`) to `States`; also tell which modes are absent, (n, 4)."""
    absent = (na <= ABSENT_MODE) | (volume <= ABSENT_MODE)
    cubed = volume / np.where(absent, 1.0, 4.0 / 3.0 * math.pi * EXP45_MODE * na)
    # A mode without number takes up no water, whatever its radius.
    radius_um = np.where(absent, np.sqrt(DRY_RADIUS_MIN_UM * DRY_RADIUS_MAX_UM), 1e6 * np.cbrt(cubed))
    states = States(
        tair=tair.copy(),
        pressure=GAS_CONSTANT_DRY_AIR * rhoair * tair * 1e-2,
        rh=np.clip(rh, *RH_RANGE),
        wbar=w * 1e2,
        num_aer=np.where(absent, 0.0, na * 1e-6),
        r_aer=radius_um,
        kappa=np.ascontiguousarray(hygro),
    )
    return states, absent


def _no_maximum(states, status):
    """Message that names the first parcel that did not finish."""
    n = int(np.flatnonzero(status)[0])
    state = {name: getattr(states, name)[n].tolist() for name in ("tair", "pressure", "rh", "wbar", "num_aer", "r_aer")}
    return (
        f"{int((status != 0).sum())} of {len(status)} parcels did not finish, not at tighter tolerances either; the "
        f"first ({STATUS_NAMES[int(status[n])]}): {state}"
    )
