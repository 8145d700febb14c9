"""`OUT/study.journal`: the records as an Optuna journal file, which optuna-dashboard and Optuna's API open.

The file is in the format of Optuna's `JournalFileBackend`; each line is made by Optuna's own `JournalStorage`. Optuna's
way to write it costs 4 to 30 ms a trial and replays the whole study when it is opened; appending whole batches of
lines costs a fraction of a millisecond, and opening is one pass over the lines. Other programs may read the file
meanwhile, and append to it (as the dashboard does for notes).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

# Of optuna.storages.journal.JournalOperation, fixed by the files that exist.
_STUDY_OPERATIONS = (0, 1)  # create, delete
_CREATE_TRIAL = 4


class _Lines(BaseJournalBackend):
    """Gives Optuna the operations on studies and the trials of one batch, and takes in what it wants written."""

    def __init__(self, studies: list[dict[str, Any]]):
        self._logs = list(studies)
        self.content: list[bytes] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return iter(self._logs[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._logs += logs
        self.content += [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]


class Journal:
    """The journal as a place for trials: `open`, then `add` any number of times.

    Parameters
    ----------
    path : path
    names : dict of int to str
        Name of the study of each step.
    """

    def __init__(self, path: Path, names: Mapping[int, str]):
        self.path, self._names = path, names

    def open(self, values: Mapping[int, Mapping[int, float | None]]) -> dict[int, set[int]]:
        """Trials of each step that the file holds. A torn tail is cut off; a file that is damaged or does not agree
        with the records is made anew.

        Parameters
        ----------
        values : dict of step to dict of trial to float
            Errors in the records.
        """
        content = self.path.read_bytes() if self.path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        try:
            return self._read(content[:whole], values)
        except OSError:
            raise
        except Exception:  # a damaged journal can fail in many ways, and all are mended the same way
            self.path.unlink(missing_ok=True)
            return self._read(b"", values)

    def _read(self, content: bytes, values) -> dict[int, set[int]]:
        logs = [json.loads(line) for line in content.splitlines()]
        self._size, self._studies = len(content), [log for log in logs if log["op_code"] in _STUDY_OPERATIONS]
        lines = _Lines(self._studies)
        storage = JournalStorage(lines)
        if not content:
            for name in self._names.values():
                storage.create_new_study([StudyDirection.MINIMIZE], name)
            self._studies = list(lines.read_logs(0))
            self._append(lines.content)
        self._ids = {step: storage.get_study_id_from_name(name) for step, name in self._names.items()}
        steps = {study: step for step, study in self._ids.items()}
        present: dict[int, set[int]] = {step: set() for step in self._names}
        for log in logs:
            if log["op_code"] == _CREATE_TRIAL and log["study_id"] in steps:
                step, trial = steps[log["study_id"]], log["user_attrs"]["trial"]
                in_order = step != 1 or trial == len(present[1])
                if trial in present[step] or not in_order or log["value"] != values[step][trial]:
                    raise ValueError("the journal does not agree with the records")
                present[step].add(trial)
        return present

    def add(self, step: int, trials: Sequence[FrozenTrial]) -> None:
        """Append trials and wait for the disk.

        Raises
        ------
        ConnectionError
            Another program has changed the file: open it again.
        """
        lines = _Lines(self._studies)
        storage = JournalStorage(lines)  # anew for every batch: it keeps all trials that it has seen
        for trial in trials:
            storage.create_new_trial(self._ids[step], trial)
        self._append(lines.content)

    def _append(self, lines: list[bytes]) -> None:
        content = b"".join(lines)
        with open(self.path, "ab", buffering=0) as stream:
            if os.fstat(stream.fileno()).st_size != self._size:
                raise ConnectionError(f"{self.path} was changed by another program")
            stream.write(content)
            os.fsync(stream.fileno())
        self._size += len(content)
