"""The case study: aerosol activation in an adiabatic updraft, from explicit physics.

Importing this package imports neither numba nor netCDF4; its modules do when they are used:

- `constants`, `modes`: the numbers that every part shares
- `states`: the states to simulate, drawn reproducibly
- `parcel`: the explicit parcel model, `simulate(states, settings)`
- `generate`: samples files; `python -m emulator.activation generate`
- `external`, `online_study`: the parcel model as the scheme of a Fortran host; the host run with it, with emulators and
  ARG side by side; `python -m emulator.activation online`
- `mass_fit`: the coefficients by which the Fortran routines get fm from fn; `python -m emulator.activation mass-fit`
"""
