"""Progress of a long run: a bar with time left on a terminal, a plain line every few seconds elsewhere."""

import sys
import time

PLAIN_INTERVAL_S = 5.0


class Progress:
    """Context manager that reports how many items of a run are done, on stderr.

    Parameters
    ----------
    label : str
    total : int
        Items in the whole run.
    done : int
        Items that an earlier run finished; they do not enter the speed.
    unit : str
        Plural name of an item.
    """

    def __init__(self, label, total, done=0, unit="samples"):
        self.label = label
        self.total = total
        self.done = done
        self.unit = unit
        self._resumed_at = done
        self._bar = None

    def __enter__(self):
        self._start = self._last_line = time.monotonic()
        if sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=self.done, note="")
        return self

    def __exit__(self, *error):
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count):
        """Count `count` more items as done and report."""
        self.done += count
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=self._speed(now))
        elif now - self._last_line >= PLAIN_INTERVAL_S or self.done >= self.total:
            self._last_line = now
            percent = 100.0 * self.done / self.total
            print(
                f"{self.label}: {self.done:,} of {self.total:,} {self.unit} ({percent:.0f} %), {self._speed(now)}",
                file=sys.stderr,
                flush=True,
            )

    def _speed(self, now):
        rate = (self.done - self._resumed_at) / max(now - self._start, 1e-9)
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        return f"{rate:,.0f} {self.unit}/s, {duration(left)} left"


def duration(seconds):
    """Return '1 h 05 min', '3 min 20 s' or '12 s'."""
    if seconds == float("inf"):
        return "unknown time"
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    if seconds >= 60:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds} s"
