"""Being asked to stop: which signals, and what status a search then ends with."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Self

from hpo.errors import Interrupted

# SIGUSR2 is what sbatch sends before a time limit. EX_TEMPFAIL of <sysexits.h> says: run me again.
_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR2: 75}
SIGNALS = tuple(_STATUS)


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """A process that is started in the `with` block has the signals blocked: they wait until it is ready for them."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def ignore() -> None:
    """In a process started so: Ctrl-C reaches the whole terminal and SLURM signals all processes of a job step, but
    when to stop is for the member to say."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


class StopSignals:
    """Takes SIGINT, SIGTERM and SIGUSR2 while its `with` block runs.

    The first raises `Interrupted` where it arrives; inside `held()` it is only counted, for whoever has something
    to write down before.
    """

    def __init__(self):
        self.count = 0
        self.status = _STATUS[signal.SIGINT]
        self._held = False
        self._old: dict = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # else the signals are somebody else's
            self._old = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def _note(self, number: int, _) -> None:
        self.count += 1
        if self.count == 1:
            self.status = _STATUS[number]
        if not self._held:
            raise Interrupted
        if self.count == 1:
            print("\nstopping; once more to stop at once", file=sys.stderr, flush=True)
