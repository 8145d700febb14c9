"""How far a search is: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import math
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_LINE_EVERY_S = 10.0


class StepProgress:
    """Progress of one step.

    The time left is that of the arithmetic left (plus what narrow layers cost beyond it), at the rate seen so far
    in this run.

    Parameters
    ----------
    title : str
    total, before : int
        Trials of the step, and how many of them were finished in earlier runs.
    failed, best : int, float or None
        Of those.
    flop : dict of trial to float
        Expected arithmetic of the trials still to run.
    console : Console
    quiet : bool
    """

    def __init__(
        self,
        title: str,
        *,
        total: int,
        before: int,
        failed: int,
        best: float | None,
        flop: dict[int, float],
        console: Console,
        quiet: bool,
    ):
        self._title, self._total, self._before, self._flop = title, total, before, flop
        self._failed, self._best = failed, math.inf if best is None else best
        self._done = 0
        self._flop_total, self._flop_done = sum(flop.values()), 0.0
        self._start = self._last_line = time.monotonic()
        self._quiet = quiet
        self._bar = None
        if console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), console=console
            )
            self._id = self._bar.add_task(title, total=total, completed=before, text="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        self._show(last=False)
        return self

    def __exit__(self, kind, *_) -> None:
        self._show(last=kind is None)
        if self._bar:
            self._bar.stop()

    def record(self, record: dict) -> None:
        """Take in a finished trial."""
        self._done += 1
        self._flop_done += self._flop.get(record["trial"], 0.0)
        if record["state"] == "complete":
            self._best = min(self._best, record["validation_mse"])
        else:
            self._failed += 1
        self.tick(0)

    def tick(self, busy: int) -> None:
        """Show the state if it is time to; `busy` is the number of workers at work."""
        if self._bar or time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._show(last=False)

    def seconds_left(self) -> float:
        """Estimate; NaN before anything is known."""
        if self._flop_done <= 0.0:
            return math.nan
        elapsed = time.monotonic() - self._start
        return elapsed * (self._flop_total - self._flop_done) / self._flop_done

    def text(self) -> str:
        done = self._before + self._done
        elapsed = time.monotonic() - self._start
        parts = [f"{done}/{self._total} trials", f"{self._failed} failed"]
        if math.isfinite(self._best):
            parts.append(f"best MSE {self._best:.3e}")
        if self._done:
            rate = self._done / max(elapsed, 1e-9)
            parts.append(f"{rate:.2f} trials/s" if rate >= 1 else f"{1 / rate:.1f} s/trial")
        left = self.seconds_left()
        if math.isfinite(left) and done < self._total:
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def _show(self, *, last: bool) -> None:
        if self._bar:
            self._bar.update(self._id, completed=self._before + self._done, text=self.text())
        elif not self._quiet:
            self._last_line = time.monotonic()
            took = f", took {duration(self._last_line - self._start)}" if last else ""
            print(f"{self._title}: {self.text()}{took}", flush=True)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`."""
    s = round(seconds)
    if s < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02d} s"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60:02d} min"
    return f"{s // 86400} d {s % 86400 // 3600:02d} h"
