"""What the commands of `hpo` share: a console, one line for an error, an exit status for each way to end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from hpo.errors import Interrupted, SearchError


def console() -> Console:
    """As wide as the terminal; 120 columns in a file."""
    return Console(width=None if sys.stdout.isatty() else 120)


def refused(name: str, error: SearchError) -> int:
    """Tell an error of the user's, and give its exit status."""
    print(f"{name}: {error}", file=sys.stderr)
    return 2


def make_folder(folder: Path) -> None:
    """A folder to write into, with those above it.

    Raises
    ------
    SearchError
        It cannot be made, or not be written into.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SearchError(f"--out {folder} cannot be made ({error.strerror}); give another one") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SearchError(f"--out {folder} cannot be written into (Permission denied); give another one")


def run_stoppable(name: str, work: Callable, stopped: str) -> int:
    """Run `work(stop)`, which may be interrupted, and give the exit status.

    Parameters
    ----------
    name : str
        Of the command, for its errors.
    work : function
        Takes `hpo.stop.StopSignals`; raises SearchError or Interrupted.
    stopped : str
        What to say after an interruption.
    """
    from hpo.stop import StopSignals

    with StopSignals() as stop:
        try:
            work(stop)
        except SearchError as error:
            return refused(name, error)
        except Interrupted:
            print(stopped, file=sys.stderr)
            return stop.status
    return 0
