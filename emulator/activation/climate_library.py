"""The time-stepping Fortran host as a library in this process: `fortran_bridge/examples/host/model`."""

import ctypes
import pathlib

MESSAGE_SIZE = 1024

_DOUBLES = ctypes.POINTER(ctypes.c_double)

PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, *[_DOUBLES] * 9)
"""Of scheme 'external': status = f(context, num_points, ld, w, tair, rhoair, rh, na, volume, hygro, fn, fm), SI units,
columns of ld doubles, one of each mode for the last five; 0 is success."""


class ClimateLibrary:
    """`libclimate_host`, opened, with MPI initialised: any number of runs until `close`. One in a process.

    Parameters
    ----------
    path : path

    Raises
    ------
    OSError
        No such file, or it cannot be opened; says how it is built.
    """

    def __init__(self, path):
        path = pathlib.Path(path).resolve()
        if not path.is_file():
            raise OSError(
                f"'{path}' is no file; `cmake -S . -B build/release -DLIBEMULATOR_EXAMPLES=ON && cmake --build "
                "build/release` builds libclimate_host where MPI and netCDF-Fortran are"
            )
        # MPI libraries open plugins that look for its symbols.
        self._library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self._library.climate_host_run.argtypes = (
            ctypes.c_char_p, PROTOTYPE, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64,
        )  # fmt: skip
        self._library.climate_host_run.restype = ctypes.c_int
        # Else the first run would start MPI, and end it, and there could be no second one.
        if self._library.MPI_Init(None, None) != 0:
            raise OSError("MPI_Init failed")

    def run(self, namelist, scheme=None):
        """Run the host with a namelist file.

        Parameters
        ----------
        namelist : path
        scheme : ParcelScheme, optional
            Serves scheme = 'external'.

        Raises
        ------
        RuntimeError
            The host failed; its message.
        BaseException
            What ended a call of `scheme`.
        """
        pointer = ctypes.cast(None, PROTOTYPE) if scheme is None else scheme.pointer
        message = ctypes.create_string_buffer(MESSAGE_SIZE)
        status = self._library.climate_host_run(str(namelist).encode(), pointer, None, message, MESSAGE_SIZE)
        if scheme is not None and scheme.error is not None:
            raise scheme.error
        if status != 0:
            raise RuntimeError(message.value.decode(errors="replace").strip() or f"the host gave up, status {status}")

    def close(self):
        """Finalise MPI; no run can follow in this process."""
        self._library.MPI_Finalize()
