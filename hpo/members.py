"""Members of a search: the processes that share one study folder, and who of them is alive.

Every member keeps a file `OUT/members/<name>.json` with a counter that goes on as long as the member lives. Whoever
sees a counter stand still for `lease_seconds` on its own clock takes the member for dead; no clocks of different
hosts are compared. On the same host the process itself is looked for, so that a death there is seen at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from hpo.leases import Leases

SCHEMA = 1
LEASE_SECONDS = 30.0
_BEAT_S = 2.0
_BEATS_PER_LEASE = 5  # so many at least, where leases are short
_SAME_HOST_LOOK_S = 0.2


def new_name() -> str:
    """`<host>-<pid>-<random>`; inside SLURM `<job>.<task>-<random>`."""
    job, task = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_PROCID", "0")
    stem = f"{job}.{task}" if job else f"{socket.gethostname().partition('.')[0]}-{os.getpid()}"
    return f"{stem}-{secrets.token_hex(3)}"


def boot_id() -> str | None:
    """What two processes have in common when they see each other's process numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def process_start(pid: int) -> str | None:
    """When a process of this host began, in clock ticks since boot; None if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    after_name = stat[stat.rindex(")") + 2 :].split()
    return None if after_name[0] in "ZX" else after_name[19]


class Member:
    """This process as a member: its file, kept alive by a thread from `with` to its end.

    Parameters
    ----------
    folder : path
        Of the study.
    devices : list of str
        Of its workers.
    lease_seconds : float
    """

    def __init__(self, folder: Path, *, devices: list[str], lease_seconds: float = LEASE_SECONDS):
        self.name = new_name()
        self._path = folder / "members" / f"{self.name}.json"
        self._every_s = min(_BEAT_S, lease_seconds / _BEATS_PER_LEASE)
        self._content = {
            "schema": SCHEMA,
            "name": self.name,
            "host": socket.gethostname(),
            "boot_id": boot_id(),
            "pid": os.getpid(),
            "pid_start": process_start(os.getpid()),
            "beat": 0,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "state": "starting",
            "rung": None,
            "leader": False,
            "lease_seconds": lease_seconds,
            "devices": devices,
            "slurm": _slurm(),
            "workers": [],
            "done": 0,
            "failed": 0,
            "rate": None,
            "error": None,
            "not_prepared": None,
            "finished": False,
        }
        self._watch: Callable[[], Mapping] = dict
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="member", daemon=True)

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._write()
        self._thread.start()
        return self

    def __exit__(self, kind, error, _) -> None:
        """Leave: all that we had leased is free for others at once."""
        self._ended.set()
        self._thread.join()
        self._watch = dict
        text = str(error) if kind is not None and issubclass(kind, ValueError) else None
        self.update(state="left", error=text, workers=[])

    def update(self, **values) -> None:
        """Change entries of the file, at once; if a file server is away for a moment, at the next beat."""
        with self._lock:
            self._content |= values
        with contextlib.suppress(OSError):
            self._write()

    def watch(self, values: Callable[[], Mapping]) -> None:
        """Entries that are asked for anew at every beat, in its thread."""
        self._watch = values

    def __getitem__(self, key: str):
        return self._content[key]

    def _beat(self) -> None:
        while not self._ended.wait(self._every_s):
            self.update()

    def _write(self) -> None:
        with self._lock:
            self._content["beat"] += 1
            self._content["now"] = time.time()  # by the clock that `since` of a trial is read from
            self._content |= self._watch()
            temporary = self._path.with_name(f".{self._path.name}")
            temporary.write_text(json.dumps(self._content) + "\n", encoding="utf-8")
            os.replace(temporary, self._path)


def read_members(folder: Path) -> list[dict]:
    """What the members of a study said last, by name; files that are just being replaced are left out."""
    found = []
    for path in sorted((folder / "members").glob("[!.]*.json")):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(path.read_text(encoding="utf-8")))
    return [m for m in found if m["schema"] == SCHEMA]


class Roster:
    """The members of a study as seen by one observer, who has to go on looking to tell the dead from the living.

    Parameters
    ----------
    folder : path
        Of the study.
    me : str or None
        Name of the member that observes.
    lease_seconds : float
    clock : function
        Monotonic seconds.
    """

    def __init__(
        self,
        folder: Path,
        me: str | None = None,
        *,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._folder, self._me, self.lease_seconds, self._clock = folder / "members", me, lease_seconds, clock
        self._boot = boot_id()
        self._seen: dict[str, dict] = {}
        self._moved: dict[str, float] = {}  # when a member's counter was last seen to move
        self._looked: dict[str, tuple[float, bool]] = {}

    def read(self, name: str) -> dict | None:
        """What a member says of itself, None if its file cannot be read now and could not be before."""
        try:
            content = json.loads((self._folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = None
        old = self._seen.get(name)
        if content is not None and (old is None or content["beat"] != old["beat"]):
            self._seen[name] = content
            self._moved[name] = self._clock()
        self._moved.setdefault(name, self._clock())
        return self._seen.get(name)

    def is_dead(self, name: str) -> bool:
        """Whether a member has left, its process is gone, or its counter has stood still for too long."""
        if name == self._me:
            return False
        now = self._clock()
        when, dead = self._looked.get(name, (-1.0, False))
        if dead or (when >= 0.0 and now - when < _SAME_HOST_LOOK_S):
            return dead
        dead = self._judge(name)
        self._looked[name] = (now, dead)
        return dead

    def _judge(self, name: str) -> bool:
        content = self.read(name)
        if content is not None:
            if content["state"] == "left":
                return True
            here = content["boot_id"] is not None and content["boot_id"] == self._boot
            if here and process_start(content["pid"]) != content["pid_start"]:
                return True
        return self._clock() - self._moved[name] >= self.lease_seconds

    def others(self) -> list[dict]:
        """Other members that are not known to be dead."""
        try:
            names = [n[: -len(".json")] for n in os.listdir(self._folder) if n.endswith(".json") and n[0] != "."]
        except FileNotFoundError:
            return []
        alive = [self.read(n) for n in sorted(names) if n != self._me and not self.is_dead(n)]
        return [m for m in alive if m is not None]

    def bury(self) -> None:
        """Remove the files of the dead; only once no lease names them any more."""
        for path in self._folder.glob("[!.]*.json"):
            if path.stem != self._me and self.is_dead(path.stem):
                for rest in (path.with_name(f".{path.name}"), path):
                    rest.unlink(missing_ok=True)


@dataclass(frozen=True)
class Crew:
    """One member's place among the others: itself, whom it sees, and what they share out."""

    member: Member
    roster: Roster
    leases: Leases

    @classmethod
    def of(cls, folder: Path, member: Member, lease_seconds: float = LEASE_SECONDS) -> Self:
        roster = Roster(folder, member.name, lease_seconds=lease_seconds)
        return cls(member, roster, Leases(folder / "leases", member.name, roster.is_dead))


def _slurm() -> dict | None:
    if "SLURM_JOB_ID" not in os.environ:
        return None
    names = {"job": "SLURM_JOB_ID", "task": "SLURM_PROCID", "node": "SLURMD_NODENAME"}
    return {key: os.environ.get(name) for key, name in names.items()}
