"""Record files read as they grow: every call reads only what is new.

The leader's Optuna study, the live view and `hpo.status --watch` follow all workers of all members this way; a study
of 10,000 trials is some 40 MB, too much to read every second.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# A line that another host is writing may be seen with holes for a moment (NFS); only then is it damaged.
_PATIENCE_S = 30.0
_CURVE = b'"curve":{'


@dataclass
class _File:
    offset: int = 0  # all before it has been read
    line: int = 0
    doubtful_since: float | None = None


class FolderTail:
    """Records of one folder's `worker-*.jsonl`, each trial once, in the order in which they are found.

    Parameters
    ----------
    folder : path
        May not exist yet.
    curves : bool, or function of a trial number to bool
        False: records come with an empty `curve`, which makes reading five times as fast.
    patience_s : float
        How long a damaged line is given to become whole before it is skipped and named in `damaged`.

    Attributes
    ----------
    trials : set of int
        Trials seen so far.
    damaged : list of str
        One sentence for every damaged line or unreadable file.
    """

    def __init__(self, folder: Path, *, curves: bool | Callable[[int], bool] = True, patience_s: float = _PATIENCE_S):
        self.folder, self.trials, self.damaged = Path(folder), set(), []
        self._curves, self._patience_s = curves, patience_s
        self._files: dict[str, _File] = {}

    def poll(self) -> list[dict]:
        """Records that have come since the last call."""
        try:
            entries = sorted(os.scandir(self.folder), key=lambda e: e.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        found: list[dict] = []
        for entry in entries:
            if entry.name.startswith("worker-") and entry.name.endswith(".jsonl"):
                found += self._read(entry)
        return found

    def _read(self, entry: os.DirEntry) -> list[dict]:
        file = self._files.setdefault(entry.name, _File())
        try:
            with open(entry.path, "rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size < file.offset:  # cut by hand; trials seen before are not given twice
                    file.offset = file.line = 0
                if size == file.offset:
                    return []
                stream.seek(file.offset)
                content = stream.read(size - file.offset)
        except OSError as error:
            self._complain(f"{entry.path} cannot be read: {error}")
            return []
        lines = content.split(b"\n")
        lines.pop()  # b"", or a line still being written
        records = []
        for k, line in enumerate(lines):
            record = self._parse(line)
            if record is None and not self._give_up(file, entry.path, last=k == len(lines) - 1):
                break
            file.doubtful_since = None
            file.offset += len(line) + 1
            file.line += 1
            if record is not None and record["trial"] not in self.trials:
                self.trials.add(record["trial"])
                records.append(record)
        return records

    def _parse(self, line: bytes) -> dict | None:
        crc, _, text = line.partition(b" ")
        try:
            if int(crc, 16) != zlib.crc32(text):
                return None
            if self._curves is True or (start := text.find(_CURVE)) < 0:
                return json.loads(text)
            start += len(_CURVE)
            record = json.loads(text[:start] + text[text.index(b"}", start) :])  # lists of numbers: no brace within
            return json.loads(text) if self._curves and self._curves(record["trial"]) else record
        except ValueError:
            return None

    def _give_up(self, file: _File, path: str, *, last: bool) -> bool:
        """Whether a damaged line will not mend; a torn last line may be cut off and written again."""
        now = time.monotonic()
        file.doubtful_since = file.doubtful_since or now
        if last or now - file.doubtful_since < self._patience_s:
            return False
        self._complain(f"{path}: line {file.line + 1} is damaged; remove that line, and its trial is run again")
        return True

    def _complain(self, text: str) -> None:
        if text not in self.damaged:
            self.damaged.append(text)
