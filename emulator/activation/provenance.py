"""Which source and which packages made a result."""

import importlib.metadata
import pathlib
import platform
import subprocess

PACKAGES = ("numpy", "scipy", "numba", "netCDF4")
"""Those that the numbers of the case study pass through."""


def versions():
    """Return the versions of Python and PACKAGES, by name."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def commit():
    """Return the commit of the source tree, with '-dirty' if it was changed; None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=pathlib.Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
