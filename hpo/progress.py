"""How far a search is, shown while it runs: a live picture on a terminal, lines in `OUT/log` and elsewhere."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Self

from rich.console import Console, Group
from rich.live import Live

from hpo.observer import Observer
from hpo.overview import Overview
from hpo.view import bars, duration, members_text, num, screen, step_text, title

__all__ = ["LiveView", "Reporter", "duration"]

_LINE_EVERY_S = 10.0
_LOOK_S = 0.5
# A look reads the file of every member: with many of them, less often.
_LOOK_S_PER_MEMBER = 0.05


class Reporter:
    """What is worth a line: events when they are seen, and how far it is every ten seconds.

    Parameters
    ----------
    write : function of a line
    me : str or None
        Name of the member that reports: that it joined goes without saying.
    every_s : float
    """

    def __init__(self, write: Callable[[str], None], *, me: str | None = None, every_s: float = _LINE_EVERY_S):
        self._write, self._me, self._every_s = write, me, every_s
        self._states: dict[str, str] | None = None
        self._leader: str | None = None
        self._stages: dict[str, str] = {}  # by name of a step or rung
        self._last = 0.0

    def take(self, o: Overview, *, last: bool = False) -> None:
        """Write what has happened since the last look."""
        self._note_members(o)
        for s in o.parts:
            self._note_step(s, o, last)

    def _note_members(self, o: Overview) -> None:
        names = {m.name: m for m in o.members}
        if self._states is None:
            self._stages = {s.name: "ended" for s in o.parts if s.finished}
            self._states = {m.name: m.state for m in o.members if not m.alive}  # gone before we came
        for name, m in names.items():
            old = self._states.get(name)
            self._states[name] = m.state
            if old is None and m.alive and name != self._me:
                self._write(f"member {name} joined: {_devices(m)}, on {m.host}")
            elif old != m.state and m.state == "left" and old is not None:
                self._write(f"member {name} left" + (f": {m.error}" if m.error else ""))
            elif old != m.state and m.state == "dead" and old is not None:
                self._write(f"member {name} died; its trials go to others")
        leader = o.leader.name if o.leader else None
        if leader and self._leader and leader != self._leader:
            self._write(f"member {leader} leads now")
        self._leader = leader or self._leader

    def _note_step(self, s, o: Overview, last: bool) -> None:
        name = title(s)
        here = s.total is not None and any(m.state == s.name for m in o.alive)
        stage = "ended" if s.finished else "running" if here else "waiting"
        old = self._stages.get(s.name, "waiting")
        self._stages[s.name] = stage
        now = time.monotonic()
        if stage == "running" and old == "waiting":
            before = f", {s.done} finished" if s.done else ""
            self._write(f"{name} began: {num(s.total, 'trial')}{before}; {members_text(o)}")
            self._last = now
        elif stage == "ended" and old != "ended":
            self._write(f"{name} ended: {step_text(s)}")
        elif stage == "running" and (last or now - self._last >= self._every_s):
            others = f"; {members_text(o)}" if len(o.alive) > 1 else ""
            self._write(f"{name}: {step_text(s)}{others}")
            self._last = now


def _devices(m) -> str:
    kinds = dict.fromkeys(w.device for w in m.workers)
    return f"{num(len(m.workers), 'worker')} ({', '.join(kinds)})" if m.workers else "no workers yet"


class LiveView:
    """Shows a search while its `with` block runs, from the files alone, in a thread of its own.

    The leader writes the lines of `OUT/log`, and prints them where there is no terminal. On a terminal the picture
    is drawn whether this member leads or not.

    Parameters
    ----------
    folder : path
    me : str
        Name of this member.
    is_leader : function to bool
    console : Console
    quiet : bool
        Nothing is shown; the log is written all the same.
    """

    def __init__(self, folder: Path, *, me: str, is_leader: Callable[[], bool], console: Console, quiet: bool = False):
        self._folder, self._me, self._is_leader, self._quiet = Path(folder), me, is_leader, quiet
        self._console = console
        self._draws = console.is_terminal and not quiet
        self._observer = Observer(self._folder, me)
        self._reporter = Reporter(self._line, me=me)
        self._live: Live | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)

    def __enter__(self) -> Self:
        if self._draws:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join(timeout=10.0)
        if self._live is not None:
            self._live.stop()

    def _run(self) -> None:
        wait_s = _LOOK_S
        while not self._ended.wait(wait_s):
            wait_s = max(_LOOK_S, _LOOK_S_PER_MEMBER * self._look(last=False))
        self._look(last=True)

    def _look(self, *, last: bool) -> int:
        """Look and show; number of members."""
        leads = self._is_leader()
        if not (leads or self._draws):
            return 0
        with contextlib.suppress(OSError):  # the file system is away for a moment, or the terminal
            overview = self._observer.look()
            if leads:
                self._reporter.take(overview, last=last)
            if self._live is not None:
                size = self._console.size
                shown = Group(*bars(overview, size.width)) if last else screen(overview, size.width, size.height - 1)
                self._live.update(shown, refresh=True)
            return len(overview.members)
        return 0

    def _line(self, text: str) -> None:
        stamp = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        with contextlib.suppress(OSError):
            log = os.open(self._folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            with open(log, "wb", buffering=0) as stream:
                stream.write(f"{stamp} {text}\n".encode())
        if not self._quiet and not self._draws:
            print(text, flush=True)
