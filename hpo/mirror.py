"""The Optuna study: a copy of the records for Optuna's dashboard and API, written by the coordinator alone.

`OUT/study.journal` holds the studies `step1` and `step2`. Trial *i* of `step1` is trial *i* of the search: records
that come early wait for those before them. Trials of `step2` come as they finish; their attribute `trial` is the
number. Each batch of trials is one append of whole lines; a journal that a kill cut short is mended, one that does
not agree with the records is made anew.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from hpo.space import Space

_FLUSH_S = 5.0
STUDY_NAMES = {1: "step1", 2: "step2"}


class JournalBatches(BaseJournalBackend):
    """Optuna's journal file with appends collected until `flush`; the format of `JournalFileBackend`.

    Optuna's own backend locks, writes and syncs the file for every operation (4 to 30 ms each). Other programs may
    read the file meanwhile, and append (as the dashboard does for notes): an append of whole lines keeps both.

    Raises
    ------
    ValueError
        A line other than the last is damaged.
    """

    def __init__(self, path: Path):
        self._path = path
        content = path.read_bytes() if path.exists() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
        self._logs: list[dict[str, Any]] = [json.loads(line) for line in content[:whole].splitlines()]
        self._first = 0  # number of the first log still held
        self._pending: list[bytes] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        drop = log_number_from - self._first  # a storage reads forward only
        if drop > 0:
            del self._logs[:drop]
            self._first = log_number_from
        return iter(list(self._logs))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._logs.extend(logs)
        self._pending += [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]

    def flush(self) -> None:
        if not self._pending:
            return
        with open(self._path, "ab", buffering=0) as stream:
            stream.write(b"".join(self._pending))
            os.fsync(stream.fileno())
        self._pending.clear()


class Mirror:
    """Keeps the journal up to date.

    Parameters
    ----------
    path : path
        The journal.
    space : Space
    records : iterable of dict
        All records so far, of both steps.
    """

    def __init__(self, path: Path, space: Space, records: Iterable[dict]):
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._path, self._space = path, space
        self._early: dict[int, dict] = {}  # records of step 1 that wait for those before them
        self._flushed = time.monotonic()
        records = list(records)
        try:
            self._open()
            agrees = self._agrees({(r["step"], r["trial"]): r for r in records})
        except Exception:  # Optuna raises many kinds for a damaged journal; all are mended the same way
            agrees = False
        if not agrees:
            path.unlink(missing_ok=True)
            self._open()
        for record in sorted(records, key=lambda r: (r["step"], r["finished"], r["trial"])):
            self._add(record)
        self.flush()

    def _open(self) -> None:
        self._backend = JournalBatches(self._path)
        storage = optuna.storages.JournalStorage(self._backend)
        self._studies = {
            step: optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
            for step, name in STUDY_NAMES.items()
        }
        self._next = 0
        self._seen: set[int] = set()

    def _agrees(self, records: dict[tuple[int, int], dict]) -> bool:
        for step, study in self._studies.items():
            for mirrored in study.get_trials(deepcopy=False):
                record = records.get((step, mirrored.user_attrs.get("trial")))
                if record is None or mirrored.value != record["validation_mse"]:
                    return False
                if step == 1:
                    if mirrored.number != record["trial"]:
                        return False
                    self._next = mirrored.number + 1
                else:
                    self._seen.add(record["trial"])
        return True

    def add(self, record: dict) -> None:
        """Take in a finished trial; the file follows within seconds."""
        self._add(record)
        if time.monotonic() - self._flushed > _FLUSH_S:
            self.flush()

    def _add(self, record: dict) -> None:
        if record["step"] == 2:
            if record["trial"] not in self._seen:
                self._seen.add(record["trial"])
                self._studies[2].add_trial(frozen_trial(record, self._space))
            return
        if record["trial"] >= self._next:
            self._early[record["trial"]] = record
        while self._next in self._early:
            self._studies[1].add_trial(frozen_trial(self._early.pop(self._next), self._space))
            self._next += 1

    def flush(self) -> None:
        self._backend.flush()
        self._flushed = time.monotonic()


def frozen_trial(record: dict, space: Space) -> FrozenTrial:
    """A record as an Optuna trial: parameters, distributions, learning curve, error, attributes."""
    complete = record["state"] == "complete"
    attributes = {"trial": record["trial"], "hidden": record["hidden"], "num_parameters": record["num_parameters"]}
    attributes |= {k: record[k] for k in ("step", "seconds", "best_epoch", "epochs", "worker", "model")}
    attributes |= {k: record[k] for k in ("error", "promoted") if record.get(k)}
    trial = optuna.trial.create_trial(
        state=TrialState.COMPLETE if complete else TrialState.FAIL,
        params=record["params"],
        distributions=space.distributions(record["params"]),
        value=record["validation_mse"] if complete else None,
        intermediate_values=dict(enumerate(record["curve"]["validation_mse"], start=1)),
        user_attrs=attributes,
    )
    finished = datetime.fromisoformat(record["finished"])
    trial.datetime_complete = finished.astimezone().replace(tzinfo=None)
    trial.datetime_start = trial.datetime_complete - timedelta(seconds=record["seconds"])
    return trial
