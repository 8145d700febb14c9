"""The Optuna study: a copy of the records for Optuna's dashboard and API, kept by a process of the leader's own.

`OUT/study.journal`, or a storage of the user's (`--storage`), holds the studies `step1` and `step2`. Trial *i* of
`step1` is trial *i* of the search: records that come early wait for those before them. Trials of `step2` come as
they finish; their attribute `trial` is the number. The process follows the record files of all members, so that the
search itself spends nothing on Optuna, and a storage that fails or hangs does it no harm: what is missing is added
when the storage is back, at the latest by the next run of the same command.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpo.config import Config
from hpo.space import Space
from hpo.stop import blocked, ignore
from hpo.storage import Storage, check_storage, identity, shown
from hpo.tail import FolderTail

if TYPE_CHECKING:  # importing Optuna takes a while, and a search that only trains needs none
    from optuna.trial import FrozenTrial

__all__ = ["Follower", "MirrorProcess", "check_storage", "frozen_trial"]

STUDY_NAMES = {1: "step1", 2: "step2"}
_POLL_S = 2.0
_BATCH = 100
# Between attempts to reach a storage that failed.
_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
_LAST_WAITS_S = (0.1, 1.0, 0.0)


class Place(Protocol):
    """Where trials go: `hpo.journal.Journal` or `hpo.storage.Storage`."""

    def open(self, values: Mapping[int, Mapping[int, float | None]]) -> dict[int, set[int]]: ...

    def add(self, step: int, trials: list[FrozenTrial]) -> None: ...


class Follower:
    """Brings a place up to date with the record files of a study.

    Parameters
    ----------
    folder : path
    place : Place
    space : Space
    warn : function of a text
    retry_s : sequence of float
        Waits between attempts after a failure.
    """

    def __init__(self, folder: Path, place: Place, space: Space, warn: Callable[[str], None], retry_s=_RETRY_S):
        self._place, self._space, self._warn, self._retry_s = place, space, warn, retry_s
        self._present: dict[int, set[int]] = {step: set() for step in STUDY_NAMES}
        self._connected = False
        self._values: dict[int, dict[int, float | None]] = {step: {} for step in STUDY_NAMES}
        self._waiting: dict[int, dict[int, dict]] = {step: {} for step in STUDY_NAMES}
        self._failures = 0
        self._next_attempt = 0.0
        # A place is opened with the errors of all records; curves are read only of trials that it lacks.
        self._errors = {s: FolderTail(folder / f"step{s}", curves=False) for s in STUDY_NAMES}
        self._tails = {s: FolderTail(folder / f"step{s}", curves=self._is_missing(s)) for s in STUDY_NAMES}

    def _is_missing(self, step: int) -> Callable[[int], bool]:
        return lambda trial: trial not in self._present[step]

    @property
    def num_missing(self) -> int:
        """Trials recorded and not yet in their place."""
        return sum(len(values.keys() - self._present[step]) for step, values in self._values.items())

    def run(self, ending: Callable[[], bool], poll_s: float = _POLL_S) -> bool:
        """Follow until `ending` returns true and all is there; false if the place could not be reached at the end."""
        while not ending():
            self.bring_up_to_date()
            wait_until = time.monotonic() + poll_s
            while time.monotonic() < wait_until and not ending():
                time.sleep(0.05)
        for wait_s in _LAST_WAITS_S:
            self._next_attempt = 0.0
            if self.bring_up_to_date():
                return True
            time.sleep(wait_s)
        return False

    def bring_up_to_date(self) -> bool:
        """One round; whether all that can be added is there."""
        if time.monotonic() < self._next_attempt:
            return False
        try:
            if not self._connected:
                self._connect()
            self._take_in()
            for step in STUDY_NAMES:
                self._add(step)
        except Exception as error:  # whatever a driver raises for a lost connection
            self._fail(error)
            return False
        if self._failures:
            self._warn("the Optuna study is reached again, and up to date")
            self._failures = 0
        return True

    def _connect(self) -> None:
        for step, tail in self._errors.items():
            self._values[step] |= {r["trial"]: r["validation_mse"] for r in tail.poll()}
        self._present = self._place.open(self._values)
        self._connected = True
        for step, waiting in self._waiting.items():
            for trial in self._present[step] & waiting.keys():
                del waiting[trial]

    def _take_in(self) -> None:
        for step, tail in self._tails.items():
            for r in tail.poll():
                self._values[step][r["trial"]] = r["validation_mse"]
                if r["trial"] not in self._present[step]:
                    self._waiting[step][r["trial"]] = r

    def _add(self, step: int) -> None:
        waiting, present = self._waiting[step], self._present[step]
        while waiting:
            if step == 1:
                first = len(present)
                ready = []
                while len(ready) < _BATCH and first + len(ready) in waiting:
                    ready.append(waiting[first + len(ready)])
            else:
                ready = sorted(waiting.values(), key=lambda r: (r["finished"], r["trial"]))[:_BATCH]
            if not ready:
                return
            self._place.add(step, [frozen_trial(r, self._space) for r in ready])
            for r in ready:
                del waiting[r["trial"]]
                present.add(r["trial"])

    def _fail(self, error: Exception) -> None:
        if self._failures == 1:  # the first failure may be another program's write, mended by opening again
            cause = error.__cause__ or error
            text = str(cause).strip().splitlines() or [""]
            self._warn(
                f"the Optuna study cannot be reached ({type(cause).__name__}: {text[0][:300]}); the search goes on, "
                "what is missing is added later"
            )
        wait = 0.0 if self._failures == 0 else self._retry_s[min(self._failures, len(self._retry_s)) - 1]
        self._failures += 1
        self._next_attempt = time.monotonic() + wait
        self._connected = False


def frozen_trial(record: dict, space: Space) -> FrozenTrial:
    """A record as an Optuna trial: parameters, distributions, learning curve, error, attributes."""
    import optuna
    from optuna.trial import TrialState

    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    attributes = {"trial": record["trial"], "hidden": record["hidden"], "num_parameters": record["num_parameters"]}
    attributes |= {k: record[k] for k in ("step", "seconds", "best_epoch", "epochs", "worker", "model")}
    attributes |= {k: record[k] for k in ("error", "promoted") if record.get(k)}
    trial = optuna.trial.create_trial(
        state=states[record["state"]],
        params=record["params"],
        distributions=space.distributions(record["params"]),
        value=record["validation_mse"],
        intermediate_values=dict(enumerate(record["curve"]["validation_mse"], start=1)),
        user_attrs=attributes,
    )
    finished = datetime.fromisoformat(record["finished"])
    trial.datetime_complete = finished.astimezone().replace(tzinfo=None)
    trial.datetime_start = trial.datetime_complete - timedelta(seconds=record["seconds"])
    return trial


# -- the process -----------------------------------------------------------------------------------------------------


class MirrorProcess:
    """The leader's process that keeps the Optuna study; nothing of it can end or hold up a search.

    Parameters
    ----------
    folder : path
        Of a study that has its `study.json`.
    config : Config
    storage : str or None
        URL of the user's storage, None for `study.journal`.
    rebuild : bool
        Make `study.journal` anew.
    """

    def __init__(self, folder: Path, config: Config, *, storage: str | None = None, rebuild: bool = False):
        self._folder, self._process = Path(folder), None
        journal = self._folder / "study.journal"
        if rebuild and storage is None:
            journal.unlink(missing_ok=True)
        elif storage is None and _stamp_agrees(self._folder):
            return
        told = {"folder": str(self._folder), "config": config.to_dict(), "storage": storage, "parent": os.getpid()}
        command = [sys.executable, "-c", "from hpo.mirror import main; main()"]
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
        try:
            with blocked():
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment)
            self._tell(json.dumps(told))  # not in the arguments: a URL may hold a password
        except OSError as error:
            print(f"hpo.search: no Optuna study is kept: {error}", file=sys.stderr)

    def finish(self, wait_s: float | None = None) -> None:
        """Bring the study up to date and end; wait at most `wait_s` seconds, None: as long as it gets on."""
        if self._process is None:
            return
        self._tell("finish")
        try:
            self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close()

    def kill(self) -> None:
        """End at once, when another member has become leader."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._close()

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process = None


def main() -> None:
    """Body of the process: settings come in a line on the standard input, then `finish`, or its end."""
    ignore()
    line = sys.stdin.readline()
    if not line:
        return
    told = json.loads(line)
    _die_with(told["parent"])
    ending = threading.Event()
    threading.Thread(target=_listen, args=(ending,), daemon=True).start()
    folder, config, url = Path(told["folder"]), Config.from_dict(told["config"]), told["storage"]
    quiet_optuna()
    where = shown(url) if url else str(folder / "study.journal")

    def warn(text: str) -> None:
        print(f"hpo.search: {where}: {text}", file=sys.stderr, flush=True)

    follower = Follower(folder, _place(folder, url), Space(config), warn)
    if not follower.run(ending.is_set):
        warn(f"{follower.num_missing} finished trials are not in it; the same command adds them when it answers")
    elif url is None:
        _write_stamp(folder)
    sys.stderr.flush()
    os._exit(0)  # drivers may wait for a connection in their own threads


def quiet_optuna() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _place(folder: Path, url: str | None) -> Place:
    if url is None:
        from hpo.journal import Journal

        return Journal(folder / "study.journal", STUDY_NAMES)
    description = json.loads((folder / "study.json").read_text(encoding="utf-8"))
    name = folder.resolve().name
    return Storage(url, {s: f"{name}-{n}" for s, n in STUDY_NAMES.items()}, identity(description))


def _listen(ending: threading.Event) -> None:
    if sys.stdin.readline().strip() != "finish":
        os._exit(1)  # the leader has gone, and the next one keeps the study
    ending.set()


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)


def _stamp(folder: Path) -> dict:
    """Sizes and times of the journal and the records: if none has changed, the journal is up to date."""
    paths = [folder / "study.journal", *sorted(folder.glob("step[12]/worker-*.jsonl"))]
    return {str(p.relative_to(folder)): [s.st_size, s.st_mtime_ns] for p in paths if (s := p.stat())}


def _stamp_agrees(folder: Path) -> bool:
    try:
        return json.loads((folder / "study.journal.stamp").read_text(encoding="utf-8")) == _stamp(folder)
    except (OSError, ValueError):
        return False


def _write_stamp(folder: Path) -> None:
    path = folder / ".study.journal.stamp"
    path.write_text(json.dumps(_stamp(folder)), encoding="utf-8")
    os.replace(path, folder / "study.journal.stamp")
