"""`emu-info` and `emu-bench` of an environment: the programs that lie inside the installed package, by their names."""

from __future__ import annotations

import os
import sys

from emulator.libemulator import LibraryNotFoundError, find_tool


def emu_info() -> None:
    """Become emu-info."""
    _become("emu-info")


def emu_bench() -> None:
    """Become emu-bench."""
    _become("emu-bench")


def _become(name: str) -> None:
    try:
        program = find_tool(name)
    except LibraryNotFoundError as error:
        sys.exit(f"{name}: {error}")
    os.execv(program, [name, *sys.argv[1:]])
