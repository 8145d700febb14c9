"""Append-only record files: one JSON object a line, safe against a kill at any byte.

A study is a folder of such files, one per worker, and nothing else is the truth. A line counts when it ends in
a newline and its checksum agrees; the torn tail that a kill or a full disk leaves is dropped on reading and cut
off before the next line is written.
"""

from __future__ import annotations

import json
import os
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
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "ab+")  # noqa: SIM115 (closed by close())
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)

    def append(self, record: dict) -> None:
        """Write one record and wait until the disk has it."""
        text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()
        self._file.write(b"%08x %s\n" % (zlib.crc32(text), text))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_records(path: str | os.PathLike) -> Iterator[dict]:
    """Records of one file, in order of writing; a torn last line is left out.

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
            record = json.loads(text)
        except ValueError as error:
            if number == len(lines) and not torn:
                return  # the last line, cut short but closed by the next write of a full disk
            raise ValueError(
                f"{path}: line {number} is damaged ({error}); remove that line to go on without its trial"
            ) from error
        yield record


def read_folder(folder: str | os.PathLike) -> list[dict]:
    """All records of a folder's `worker-*.jsonl`, the first of each trial, in order of trial number."""
    by_trial: dict[int, dict] = {}
    for path in sorted(Path(folder).glob("worker-*.jsonl")):
        for record in read_records(path):
            by_trial.setdefault(record["trial"], record)
    return [by_trial[t] for t in sorted(by_trial)]
