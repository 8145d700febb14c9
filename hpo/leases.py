"""Leases: who works on what, as files that one member can make and no two.

`OUT/leases/<key>.g<generation>` names its owner; the highest generation counts. A file is put there whole by
`link`, which fails where the name exists, on NFS too. It is never changed or removed while a member may rely on it:
a dead owner's lease is taken by making the next generation.

A member that was only thought dead may go on with what it had leased. Nothing here prevents that, and nothing has
to: a trial gives the same record whoever runs it, and one record of each trial is counted.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from hpo.errors import SearchError

# All leases of a member are links to one file; file systems allow 32,000 (ext3) or more to one.
_MOST_LINKS = 30_000
_NOBODY = "-"  # owner of a lease that was given up
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Leases:
    """The leases of a study, as one member sees and takes them.

    Parameters
    ----------
    folder : path
        Made if missing.
    owner : str
        Name of this member.
    is_dead : function of a name
        Whether a member is known to be dead.
    """

    def __init__(self, folder: Path, owner: str, is_dead: Callable[[str], bool]):
        self.folder, self.owner, self._is_dead = folder, owner, is_dead
        self._links = 0
        self._known: dict[str, tuple[int, str]] = {}  # the highest generation seen of a key, and its owner

    def take(self, key: str) -> bool:
        """Lease `key` if nobody has it or its owner is dead; true if it is ours now, or was."""
        while True:
            owner = self.holder(key)
            if owner == self.owner:
                return True
            if owner is not None and not self._is_dead(owner):
                return False
            generation = self._known.get(key, (0, ""))[0] + 1
            self._link(key, generation)
            found = self._read(key, generation)
            if found is None:
                return False  # not to be seen yet on this host: ask again
            self._known[key] = (generation, found)

    def holder(self, key: str) -> str | None:
        """Owner of `key`, None if nobody has leased it or its owner gave it up."""
        generation, owner = self._known.get(key, (0, None))
        while (later := self._read(key, generation + 1)) is not None:
            generation, owner = generation + 1, later
            self._known[key] = (generation, owner)
        return None if owner == _NOBODY else owner

    def is_mine(self, key: str) -> bool:
        """Whether we still have `key`: nobody who thought us dead has taken it over."""
        return self.holder(key) == self.owner

    def is_inherited(self, key: str) -> bool:
        """Whether somebody had a lease of ours before us, and may have done a part of the work."""
        return self._known[key][0] > 1

    def taken(self, prefix: str = "") -> set[str]:
        """Keys that start with `prefix` and were leased by anyone, from one look at the folder."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return set()
        return {name.rpartition(".g")[0] for name in names if name.startswith(prefix) and name[0] != "."}

    def release(self, key: str) -> None:
        """Give up a lease of ours, so that anyone may take the key."""
        if self.is_mine(key):
            generation = self._known[key][0] + 1
            self._write_token(_NOBODY)  # anew each time: a file can have only so many links
            with contextlib.suppress(FileExistsError):
                self._put(_NOBODY, self._path(key, generation))
            self._known[key] = (generation, self._read(key, generation) or _NOBODY)

    def forget(self, prefix: str) -> None:
        """Remove all leases whose key starts with `prefix`; only while no other member is at work."""
        for path in self.folder.glob(f"{prefix}*.g*"):
            path.unlink(missing_ok=True)
        for key in [k for k in self._known if k.startswith(prefix)]:
            del self._known[key]

    def close(self) -> None:
        """Remove what was needed to make leases; those made stay."""
        for owner in (self.owner, _NOBODY):
            self._token(owner).unlink(missing_ok=True)
        self._links = 0

    def _link(self, key: str, generation: int) -> None:
        """Try to make a lease; whether it worked, its content says (on NFS the answer to a link can be lost)."""
        if self._links == 0:
            self._write_token(self.owner)
        try:
            self._put(self.owner, self._path(key, generation))
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise SearchError(
                    f"{self.folder}: this file system has no hard links ({error.strerror}), by which the members of a "
                    "search share its trials; choose an --out on another file system"
                ) from None
            if error.errno not in (errno.EEXIST, errno.EIO, errno.ESTALE):
                raise
        self._links = (self._links + 1) % _MOST_LINKS

    def _put(self, owner: str, path: Path) -> None:
        """Make a link to an owner's token."""
        while True:
            with contextlib.suppress(FileNotFoundError):  # none yet, or who began a new run swept it away
                os.link(self._token(owner), path)
                return
            self._write_token(owner)

    def _token(self, owner: str) -> Path:
        return self.folder / f".{self.owner}{'.free' if owner == _NOBODY else ''}"

    def _write_token(self, owner: str) -> None:
        """Make the file that leases are links to; who sweeps the folder may take it away at any moment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        token = self._token(owner)
        new = token.with_name(f"{token.name}.new")
        with open(new, "w", encoding="utf-8") as stream:
            stream.write(f"{owner}\n")
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.replace(new, token)

    def _read(self, key: str, generation: int) -> str | None:
        try:
            text = self._path(key, generation).read_text(encoding="utf-8")
        except OSError:  # not there; or (NFS) a stale handle, which the next look mends
            return None
        return text[:-1] if text.endswith("\n") else None

    def _path(self, key: str, generation: int) -> Path:
        return self.folder / f"{key}.g{generation}"
