"""Lines for people: folded to the width of a terminal, whole in a file or a pipe."""

from __future__ import annotations

import re
import shutil
import sys

from rich.cells import cell_len
from rich.console import Console


def folded(text: str, width: int) -> str:
    """A line as lines of at most `width`, broken after commas and semicolons where that is possible, else between
    words; what does not fit even so (a path) is left whole."""
    lines, indent = [""], ""
    for part in re.split(r"(?<=[,;]) ", text):
        words = [part] if cell_len(indent + part) <= width else part.split(" ")
        for word in words:
            longer = f"{lines[-1]} {word}" if lines[-1].strip() else lines[-1] + word
            if cell_len(longer) <= width or not lines[-1].strip():
                lines[-1] = longer
            else:
                indent = "    "
                lines.append(indent + word)
    return "\n".join(lines)


def say(console: Console, text: str) -> None:
    """Print a line: folded on a terminal, whole in a file or a pipe."""
    console.print(folded(text, console.width) if console.is_terminal else text, highlight=False, soft_wrap=True)


def shown(text: str) -> str:
    """A line for stdout: folded on a terminal, whole in a file or a pipe."""
    return folded(text, shutil.get_terminal_size().columns) if sys.stdout.isatty() else text
