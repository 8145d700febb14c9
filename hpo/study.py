"""The study folder: its description, its records.

The record files `step1/worker-*.jsonl` and `step2/worker-*.jsonl` are the truth; everything else in the folder can
be made again from them, the description `study.json` and the samples.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from emulator.dataset import SampleFile
from emulator.records import read_folder, read_records
from hpo import latency_model
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
# Of these, what decides which trials end on a rung: not free where there are rungs.
DECIDE_ON_RUNGS = ("search.trials", "search.top", "search.p_retrain", "search.light_top", "search.light_factor")
# On NFS a file that is just being replaced may not be readable for a moment.
_ATTEMPTS, _RETRY_S = 3, 0.2
# Of these, what all members of a running search have to agree on.
SHARED_SETTINGS = tuple(k for k in FREE_SETTINGS if k not in ("data.path", "search.checkpoint_seconds"))


class Study:
    """A study folder; only the leader of a search writes to it.

    Parameters
    ----------
    folder : path
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.description = read_description(folder)

    @property
    def has_records(self) -> bool:
        try:
            files = (*self.folder.glob("step[12]/worker-*.jsonl"), *self.folder.glob("rung*/step1/worker-*.jsonl"))
            return any(True for path in files for _ in read_records(path, curves=False))
        except ValueError:
            return True

    def reload(self) -> None:
        """Read what the leader has written."""
        self.description = read_description(self.folder)

    def records(self, step: int, *, curves: bool = True) -> list[dict]:
        """Records of a step, by trial number.

        Parameters
        ----------
        step : int
        curves : bool
            False: learning curves come empty, which is several times as fast.

        Raises
        ------
        SearchError
            A record file is damaged other than by a kill.
        """
        try:
            return read_folder(self.folder / f"step{step}", curves=curves)
        except ValueError as error:
            raise SearchError(str(error)) from None

    def rung_records(self) -> list[list[dict]]:
        """Records of each rung below step 1, without curves; empty where there is none.

        Raises
        ------
        SearchError
            A record file is damaged other than by a kill.
        """
        rungs = range(1, len(self.description["config"]["search"].get("rungs", ())) + 1)
        try:
            return [read_folder(self.folder / f"rung{k}" / "step1", curves=False) for k in rungs]
        except ValueError as error:
            raise SearchError(str(error)) from None

    def describe(self, config: Config, samples: SampleFile, checksum: str, *, anew: bool = True) -> None:
        """Begin the study, or go on with it, under `config`; `study.json` and `config.toml` are written.

        Parameters
        ----------
        config : Config
        samples : SampleFile
        checksum : str
            Of the samples.
        anew : bool
            A study without any finished trial is begun anew; false while other members work in it.

        Raises
        ------
        SearchError
            The study was begun with other settings or other samples.
        """
        tables = config.to_dict()
        old = self.description
        if old is not None and (not anew or self.has_records):
            self.check(config, samples, checksum, running=not anew)
        elif old is not None:
            made = [self.folder / name for name in ("step1", "step2", "cache", "proposals")]
            for path in (*made, *self.folder.glob("rung*")):  # nothing is finished: nothing binds the study yet
                shutil.rmtree(path, ignore_errors=True)
            for name in ("study.journal", latency_model.FILE):
                (self.folder / name).unlink(missing_ok=True)
            old = None
        self.description = {
            "schema": SCHEMA,
            "created": old["created"] if old else _now(),
            "config": tables,
            "slurm": config.slurm.to_table(),
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
        _write(self.folder / "config.toml", _settings_text(config))

    def sweep(self) -> None:
        """Remove what a killed search was about to put into place; only while no other member is at work."""
        hidden = (".*.json.*", ".config.toml.*", "cache/.*", "leases/.*", "proposals/.*", "step?/*/.trial-*")
        for pattern in (*hidden, "groups"):
            for path in self.folder.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def check(self, config: Config, samples: SampleFile, checksum: str, *, running: bool) -> None:
        """Refuse settings or samples other than the study's.

        With `running`, also those that could change between two searches but not within one.

        Raises
        ------
        SearchError
        """
        old = self.description
        where = f"the study in {self.folder}"
        changed = [d for d in differences(_completed(old["config"]), config.to_dict()) if d[0] != "data.path"]
        bound = DECIDE_ON_RUNGS if config.search.rungs else ()
        fixed = [d for d in changed if d[0] not in FREE_SETTINGS or d[0] in bound]
        if fixed:
            raise SearchError(
                f"{where} was begun with other settings:\n{_listed(fixed)}\nGive another --out to search with the new "
                f"ones, or `--out {self.folder}` alone to go on with the old"
            )
        shared = [d for d in changed if d[0] in SHARED_SETTINGS]
        if running and shared:
            raise SearchError(
                f"a search with other settings is running in {self.folder}:\n{_listed(shared)}\nStop it or wait for it "
                f"to go on with the new ones, or join it with `--out {self.folder}` alone"
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


def read_description(folder: Path) -> dict | None:
    """`study.json`, None if there is none.

    Raises
    ------
    SearchError
        Not readable, or of another version.
    """
    path = Path(folder) / "study.json"
    for attempt in range(_ATTEMPTS):
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            break
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            raise SearchError(f"{folder} is no folder; expected that of a study, which hpo.search makes") from None
        except (OSError, ValueError) as error:
            if attempt == _ATTEMPTS - 1:
                raise SearchError(f"{path} cannot be read: {error}") from None
            time.sleep(_RETRY_S)
    if description.get("schema") != SCHEMA:
        raise SearchError(f"{path} has schema {description.get('schema')}; this version reads schema {SCHEMA}")
    return description


def ranking(records: list[dict]) -> list[dict]:
    """Completed records, least error first, then pruned ones likewise; ties go to the lower trial number."""
    finished = [r for r in records if r["state"] != "failed"]
    return sorted(finished, key=lambda r: (r["state"] == "pruned", r["validation_mse"], r["trial"]))


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


def _completed(tables: Mapping) -> dict:
    """Settings of a study that was begun before there were as many of them."""
    tables = {name: dict(table) for name, table in tables.items()}
    tables.setdefault("search", {}).setdefault("engine", "plain")
    return Config.from_dict(tables, "study.json").to_dict()


def _settings_text(config: Config) -> str:
    slurm = config.slurm.to_table()
    tables = config.to_dict() | ({"slurm": slurm} if slurm else {})
    return f"# Settings of this study, all of them.\n\n{to_toml(tables)}"


def _listed(changed: list[tuple]) -> str:
    return "\n".join(f"  {key}: was {_shown(a)}, now {_shown(b)}" for key, a, b in changed)


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


if __name__ == "__main__":
    from hpo.study_command import main

    sys.exit(main())
