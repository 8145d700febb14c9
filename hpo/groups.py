"""Groups of worker processes that train one network together, formed through files.

A group meets in a folder `OUT/groups/<attempt>/`. Its files are each put there whole, never changed, and the first
one counts:

    open.json      {trial, size, opener}: the member that leased the trial looks for up to `size` seats, its own first
    seat-<r>.json  {member}: this member has an idle worker for rank r; ranks are claimed in order
    closed.json    {size}: the opener takes what has been claimed; seats beyond are void. Now the workers come in:
    rank-<r>.json  {host, address, network, device}: of the worker with rank r
    address.json   {host, port, backend}: rank 0 has read those and waits there for the others
    ended.json     {reason}: the group has parted, or never came about

The size may turn out smaller than wished for, since a training does not depend on it: nobody waits long for a seat,
and groups that form at the same time cannot keep each other from it. What has parted forms anew as the next attempt.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import GroupLost
from hpo.members import boot_id

# The workers of a closed group are there at once, or still import PyTorch from a busy file system.
MEETING_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Seat:
    """What a worker needs to take its place in a group: `rank` of `size`; `folder` is that of the `attempt`."""

    rank: int
    size: int
    attempt: str
    folder: Path


def publish(path: Path, content: dict, *, indent: int | None = None) -> bool:
    """Put a file there whole, unless there is one; true if it is ours."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")
        os.link(temporary, path)
    except (FileExistsError, FileNotFoundError):  # a folder that is gone: the group has ended
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def read(path: Path) -> dict | None:
    """Content of a published file; None if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


# -- forming: what members do --------------------------------------------------------------------------------------


def attempt_of(folder: Path) -> tuple[int, int] | None:
    """(trial, attempt) of a group's folder, None if it is none."""
    trial, _, attempt = folder.name.removeprefix("trial-").partition(".a")
    return (int(trial), int(attempt)) if trial.isdigit() and attempt.isdigit() else None


def group_folders(groups: Path) -> list[Path]:
    """Folders of all groups, by trial and attempt."""
    try:
        found = [groups / name for name in os.listdir(groups)]
    except FileNotFoundError:
        return []
    return sorted((f for f in found if attempt_of(f)), key=attempt_of)


def open_group(groups: Path, trial: int, size: int, opener: str) -> Path:
    """A new attempt at a trial, with the first seat taken by the opener, who has leased the trial."""
    groups.mkdir(parents=True, exist_ok=True)
    attempt = 1 + max((a for t, a in map(attempt_of, group_folders(groups)) if t == trial), default=0)
    while True:
        folder = groups / f"trial-{trial:06d}.a{attempt:03d}"
        with contextlib.suppress(FileExistsError):  # by one that thinks us dead, or is
            folder.mkdir()
            break
        attempt += 1
    publish(folder / "seat-0.json", {"member": opener})
    publish(folder / "open.json", {"trial": trial, "size": size, "opener": opener})
    return folder


def claim(folder: Path, member: str, most: int) -> list[int]:
    """Claim up to `most` of a group's free seats, and return their ranks."""
    wish, mine, rank = read(folder / "open.json"), [], 0
    while wish and rank < wish["size"] and len(mine) < most:
        if not _exists(folder / f"seat-{rank}.json") and publish(folder / f"seat-{rank}.json", {"member": member}):
            mine.append(rank)
        rank += 1
    return mine


def claimed(folder: Path) -> list[str]:
    """Members that hold the seats 0, 1, ... without a gap."""
    members: list[str] = []
    while seat := read(folder / f"seat-{len(members)}.json"):
        members.append(seat["member"])
    return members


def end(folder: Path, reason: str) -> None:
    """Part the group, or keep it from coming about; the first reason stays."""
    publish(folder / "ended.json", {"reason": reason})


def ended(folder: Path) -> str | None:
    """Why a group has parted; None if it has not."""
    if not folder.is_dir():
        return "its folder was removed"
    content = read(folder / "ended.json")
    return content["reason"] if content else None


def remove_groups(groups: Path, trial: int) -> None:
    """Remove the folders of a trial that is recorded."""
    for folder in group_folders(groups):
        if attempt_of(folder)[0] == trial:
            shutil.rmtree(folder, ignore_errors=True)


def _exists(path: Path) -> bool:
    return path.exists()


# -- meeting: what workers do --------------------------------------------------------------------------------------


class Meeting:
    """A worker's way into a group whose seats are taken, step by step and without waiting.

    Parameters
    ----------
    seat : Seat
    device : str
        As PyTorch names it, with what tells it apart from other devices of the host.
    seconds : float
        A group that has not met after so long parts.
    """

    def __init__(
        self,
        seat: Seat,
        device: str,
        *,
        seconds: float = MEETING_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.seat, self._clock = seat, clock
        self._deadline = clock() + seconds
        self._seconds = seconds
        place = {"host": socket.gethostname(), "network": _network(), "device": device}
        publish(seat.folder / f"rank-{seat.rank}.json", place)

    def ranks(self) -> list[dict] | None:
        """What rank 0 has to know before it publishes its address: where all ranks are. None: not all are there.

        Raises
        ------
        GroupLost
            The group has parted, or nobody came for too long.
        """
        places = [read(self.seat.folder / f"rank-{rank}.json") for rank in range(self.seat.size)]
        missing = [rank for rank, place in enumerate(places) if place is None]
        self._check(f"ranks {missing} did not come" if missing else "")
        return None if missing else places

    def address(self) -> dict | None:
        """Where rank 0 waits: {host, port, backend}; None: not yet.

        Raises
        ------
        GroupLost
        """
        found = read(self.seat.folder / "address.json")
        self._check("rank 0 did not come" if found is None else "")
        return found

    def publish_address(self, host: str, port: int, backend: str) -> None:
        publish(self.seat.folder / "address.json", {"host": host, "port": port, "backend": backend})

    def end(self, reason: str) -> None:
        end(self.seat.folder, f"rank {self.seat.rank}: {reason}")

    def _check(self, missing: str) -> None:
        reason = ended(self.seat.folder)
        if reason is None and missing and self._clock() > self._deadline:
            reason = f"{missing} within {self._seconds:g} s"
            self.end(reason)
        if reason is not None:
            raise GroupLost(f"group {self.seat.attempt}: {reason}")


def _network() -> str | None:
    """What two processes have in common that reach each other by the loopback interface."""
    boot = boot_id()
    try:
        return boot and f"{boot.split()[0]} {os.readlink('/proc/self/ns/net')}"
    except OSError:
        return boot


def address_for(ours: dict, others: list[dict]) -> str:
    """Address under which rank 0, at `ours`, is reached by all `others`.

    Between hosts it is the one from which a packet to them would leave: their names are looked up, not ours, which
    many hosts know as 127.0.1.1.
    """
    strangers = [p["host"] for p in others if p["network"] is None or p["network"] != ours["network"]]
    if not strangers:
        return "127.0.0.1"
    return local_address(strangers[0]) or ours["host"]


def local_address(peer: str) -> str | None:
    """Our address on the way to `peer`; nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))
        return probe.getsockname()[0]
    return None


def interface_of(address: str) -> str | None:
    """Name of the network interface that has an IPv4 address; None where that cannot be told."""
    try:
        import fcntl
        import struct

        SIOCGIFADDR = 0x8915  # <linux/sockios.h>
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            for _, name in socket.if_nameindex():
                with contextlib.suppress(OSError):
                    request = struct.pack("256s", name.encode()[:15])
                    if socket.inet_ntoa(fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)[20:24]) == address:
                        return name
    except (ImportError, OSError):
        pass
    return None
