"""Run the host with the parcel model and keep every point that it asked for: online_points.py LIBRARY NAMELIST OUT."""

import sys

import numpy as np

from emulator.activation.climate_library import ClimateLibrary
from emulator.activation.external import ParcelScheme
from emulator.activation.settings import ParcelSettings


class Recorder(ParcelScheme):
    """A parcel scheme that keeps copies of what it was given and what it gave."""

    def __init__(self, settings):
        super().__init__(settings)
        self.calls = []

    def activate(self, *inputs):
        results = super().activate(*inputs)
        self.calls.append([np.array(x) for x in (*inputs, *results)])
        return results


def main(library, namelist, out):
    scheme = Recorder(ParcelSettings())
    host = ClimateLibrary(library)
    host.run(namelist, scheme)
    host.close()
    names = ("w", "tair", "rhoair", "rh", "na", "volume", "hygro", "fn", "fm")
    columns = zip(*scheme.calls, strict=True)
    np.savez(out, **{name: np.concatenate(parts) for name, parts in zip(names, columns, strict=True)})


if __name__ == "__main__":
    main(*sys.argv[1:])
