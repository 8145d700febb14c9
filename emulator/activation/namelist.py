"""Namelist files of the Fortran hosts."""

import pathlib


def write_namelist(path, group, settings):
    """Write the settings (str, int, float, bool, paths) as a namelist group, such as `climate_nl`."""
    lines = [f"  {name} = {_literal(value)}" for name, value in settings.items()]
    pathlib.Path(path).write_text(f"&{group}\n" + "\n".join(lines) + "\n/\n")


def _literal(value):
    if isinstance(value, bool):
        return ".true." if value else ".false."
    if isinstance(value, int | float):
        return repr(value).replace("e", "d")
    return "'" + str(value).replace("'", "''") + "'"
