"""Append-only record files: one JSON object a line, safe against a kill at any byte.

A study is a folder of such files, one per worker, and nothing else is the truth. A line counts when it ends in
a newline and its checksum agrees; the torn tail that a kill or a full disk leaves is dropped on reading and cut
off before the next line is written. Two records of one trial (a worker that was thought dead finished it too) count
once.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self


class RecordWriter:
    """Appends records to one file; only one process may write to it.

    Parameters
    ----------
    path : path
        Made with its folder if missing. A torn tail is cut off.
    sync_seconds : float
        A record is given to the system at once; the disk is waited for this often, since that takes milliseconds.
        A kill of the process loses nothing, a crash of the machine what came since.
    """

    def __init__(self, path: str | os.PathLike, sync_seconds: float = 0.0):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab+")  # noqa: SIM115 (closed by close())
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)
        self._sync_s = sync_seconds
        self._synced = time.monotonic()
        self._waiting = False

    def append(self, record: dict) -> None:
        """Write one record."""
        text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
        self._file.write(b"%08x %s\n" % (zlib.crc32(text), text))
        self._file.flush()
        self._waiting = True
        self.sync_if_due()

    def sync_if_due(self) -> float | None:
        """Wait for the disk if it is time to; seconds until it is, None if the disk has everything."""
        if not self._waiting:
            return None
        left = self._synced + self._sync_s - time.monotonic()
        if left > 0.0:
            return left
        self.sync()
        return None

    def sync(self) -> None:
        """Wait until the disk has everything."""
        if self._waiting:
            os.fsync(self._file.fileno())
            self._waiting = False
        self._synced = time.monotonic()

    def close(self) -> None:
        self.sync()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_records(path: str | os.PathLike, *, curves: bool = True) -> Iterator[dict]:
    """Records of one file, in order of writing; a torn last line is left out.

    Parameters
    ----------
    curves : bool
        False: learning curves come empty, and reading is several times as fast.

    Raises
    ------
    ValueError
        A damaged line that is not the last: the file was edited or the disk failed.
    """
    lines = Path(path).read_bytes().split(b"\n")
    torn = lines.pop()  # b"" after a complete last line
    for number, line in enumerate(lines, start=1):
        crc, _, text = line.partition(b" ")
        try:
            if int(crc, 16) != zlib.crc32(text):
                raise ValueError("checksum differs")
            record = json.loads(text if curves else _without_curve(text))
        except ValueError as error:
            if number == len(lines) and not torn:
                return  # the last line, cut short but closed by the next write of a full disk
            raise ValueError(
                f"{path}: line {number} is damaged ({error}); remove that line to go on without its trial"
            ) from error
        yield record


def read_folder(folder: str | os.PathLike, *, curves: bool = True) -> list[dict]:
    """Records of a folder's `worker-*.jsonl`, one of each trial, in order of trial number.

    Of several records of a trial the one that was finished first counts, then the one in the first file by name.
    """
    by_trial: dict[int, dict] = {}
    for path in sorted(Path(folder).glob("worker-*.jsonl")):
        for record in read_records(path, curves=curves):
            found = by_trial.setdefault(record["trial"], record)
            if found is not record and record.get("finished", "") < found.get("finished", ""):
                by_trial[record["trial"]] = record
    return [by_trial[t] for t in sorted(by_trial)]


def _without_curve(text: bytes) -> bytes:
    """Cut the numbers out of `"curve":{"...":[...],"...":[...]}`: within is no brace, and in a JSON string no quote
    stands without a backslash, so that nothing else can look like it."""
    start = text.find(_CURVE)
    if start < 0:
        return text
    start += len(_CURVE)
    return text[:start] + text[text.index(b"}", start) :]


_CURVE = b',"curve":{'
