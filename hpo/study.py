"""The study folder: its lock, its description, its records.

The record files `step1/worker-*.jsonl` and `step2/worker-*.jsonl` are the truth; everything else in the folder can
be made again from them, the description `study.json` and the samples.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from emulator.dataset import SampleFile
from emulator.records import RecordWriter, read_folder
from hpo.config import Config, differences, to_toml
from hpo.errors import SearchError

SCHEMA = 1
# Settings that change no trial, only which trials are run or how: a study may go on with others.
FREE_SETTINGS = (
    "data.path",  # the checksum counts, not the place
    "search.trials",
    "search.top",
    "search.p_retrain",
    "search.light_top",
    "search.light_factor",
    "search.keep_step1_models",
    "search.checkpoint_seconds",
)
# The workers of a killed search hold its lock until the kernel has ended them, a moment later.
_LOCK_PATIENCE_S = 5.0


class StudyLock:
    """Exclusive use of a study folder, by the process and all that inherit `fd`; kept until the last one ends.

    Raises
    ------
    SearchError
        Another search works in the folder.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "lock"
        self._file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (kept open: the lock is the open file)
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self._file.seek(0)
                    holder = self._file.read().strip() or "unknown"
                    self._file.close()
                    raise SearchError(
                        f"another search works in {folder} ({holder}); wait for it, stop it, or give another --out"
                    ) from None
                time.sleep(0.1)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on host {socket.gethostname()}, since {_now()}\n")
        self._file.flush()

    @property
    def fd(self) -> int:
        return self._file.fileno()

    def release(self) -> None:
        self._file.close()


class Study:
    """A study folder that this process has locked.

    Parameters
    ----------
    folder : path
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.description = read_description(folder)

    @property
    def has_records(self) -> bool:
        return any(self.records(step) for step in (1, 2))

    def records(self, step: int) -> list[dict]:
        """Records of a step, by trial number.

        Raises
        ------
        SearchError
            A record file is damaged other than by a kill.
        """
        try:
            return read_folder(self.folder / f"step{step}")
        except ValueError as error:
            raise SearchError(str(error)) from None

    def describe(self, config: Config, samples: SampleFile, checksum: str) -> None:
        """Begin the study, or go on with it, under `config`; `study.json` and `config.toml` are written.

        Raises
        ------
        SearchError
            The study was begun with other settings or other samples.
        """
        self._sweep()
        tables = config.to_dict()
        old = self.description
        if old is not None and self.has_records:
            self._check_same(old, tables, samples, checksum)
        elif old is not None:
            for name in ("step1", "step2", "cache"):  # nothing is finished: nothing binds the study yet
                shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / "study.journal").unlink(missing_ok=True)
            old = None
        self.description = {
            "schema": SCHEMA,
            "created": old["created"] if old else _now(),
            "config": tables,
            "data": {
                "path": str(samples.path),
                "checksum": checksum,
                "num_samples": samples.num_samples,
                "inputs": list(samples.inputs),
                "outputs": list(samples.outputs),
                "units": {c.variable: c.units for c in (*samples.input_columns, *samples.output_columns)},
                "seed": config.search.seed,
                "test_fraction": config.data.test_fraction,
            },
            "columns": {
                "inputs": [c.to_dict() for c in samples.input_columns],
                "outputs": [c.to_dict() for c in samples.output_columns],
            },
            "prepared": old["prepared"] if old else None,
            "versions": versions(),
            "commit": commit(),
            "runs": old["runs"] if old else [],
        }
        self.save()
        _write(self.folder / "config.toml", f"# Settings of this study, all of them.\n\n{to_toml(tables)}")

    def _sweep(self) -> None:
        """Remove what a killed search was about to put into place."""
        for pattern in (".*.json.*", ".config.toml.*", "cache/.*", "step?/*/.trial-*"):
            for path in self.folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _check_same(self, old: Mapping, tables: dict, samples: SampleFile, checksum: str) -> None:
        where = f"the study in {self.folder}"
        changed = [d for d in differences(old["config"], tables) if d[0] not in FREE_SETTINGS]
        if changed:
            listed = "\n".join(f"  {key}: was {_shown(a)}, now {_shown(b)}" for key, a, b in changed)
            raise SearchError(
                f"{where} was begun with other settings:\n{listed}\nGive another --out to search with the new ones, or "
                f"`--out {self.folder}` alone to go on with the old"
            )
        if old["data"]["checksum"] != checksum:
            raise SearchError(
                f"{where} was begun with other samples: {old['data']['path']} had {old['data']['num_samples']} samples "
                f"and checksum {old['data']['checksum']}; {samples.path} has {samples.num_samples} and {checksum}. "
                "Give another --out, or the old file with --data"
            )

    def note(self, **values) -> None:
        """Replace entries of `study.json`."""
        self.description |= values
        self.save()

    def note_run(self, *, device: str, workers: int) -> None:
        run = {"started": _now(), "host": socket.gethostname(), "device": device, "workers": workers}
        self.note(runs=[*self.description["runs"], run])

    def save(self) -> None:
        _write(self.folder / "study.json", json.dumps(self.description, indent=1) + "\n")

    def add_record(self, record: dict) -> None:
        """Write a record of a trial that no worker could."""
        with RecordWriter(self.folder / f"step{record['step']}" / "worker-coordinator.jsonl") as writer:
            writer.append(record)


def read_description(folder: Path) -> dict | None:
    """`study.json`, None if there is none.

    Raises
    ------
    SearchError
        Not readable, or of another version.
    """
    path = Path(folder) / "study.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SearchError(f"{path} cannot be read: {error}") from None
    if description.get("schema") != SCHEMA:
        raise SearchError(f"{path} has schema {description.get('schema')}; this version reads schema {SCHEMA}")
    return description


def ranking(records: list[dict]) -> list[dict]:
    """Completed records, least error first; ties go to the lower trial number."""
    complete = [r for r in records if r["state"] == "complete"]
    return sorted(complete, key=lambda r: (r["validation_mse"], r["trial"]))


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "optuna", "netCDF4", "libemulator"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit() -> str | None:
    """Commit of the source tree that runs, None outside a repository; `+` marks uncommitted changes."""
    here = Path(__file__).parent
    try:

        def git(*command: str) -> str:
            done = subprocess.run(["git", "-C", here, *command], capture_output=True, text=True, check=True)
            return done.stdout.strip()

        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _shown(value) -> str:
    return "not given" if value is None else json.dumps(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
