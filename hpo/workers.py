"""A pool of worker processes, one thread each, that train the trials of one member.

A worker writes each record to its own file before it reports. It dies with its member (Linux: at once, by
PR_SET_PDEATHSIG; elsewhere: when it next looks at its pipe). A worker that dies itself is replaced; its trial is
tried again and at last recorded as failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path

from emulator.records import RecordWriter, read_records
from hpo.errors import GroupLost, Interrupted, SearchError
from hpo.source import Source
from hpo.stop import StopSignals, blocked, ignore
from hpo.trial import StudyContext, Task, TrialRunner, checkpoint_path, failed_record, remove_checkpoint

# An error raised by a trial comes again; a worker may also die of what is no fault of its trial.
_ATTEMPTS = {"error": 2, "death": 4}
# So many trials in a row that end in an unforeseen error (not a divergence) are no accident.
_MAX_ERRORS_IN_A_ROW = 20
_TICK_S = 0.5
_IDLE_TICK_S = 0.25  # while workers wait for what other members do
_SYNC_S = 1.0
_STATE_S = 1.0
_RETIRE_S = 5.0
# One thread per worker: a step of a small network is too short to share out. glibc gives large blocks back to the
# kernel at every free, and page faults bring them in again; the thresholds (32 MiB is the largest that glibc takes for
# mmap) keep them: about 4 % of the time.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 29),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # the same bits in every run on a GPU
}

MakeRunner = Callable[..., TrialRunner]


class _Worker:
    """The member's side of one worker process."""

    def __init__(self, slot: int, name: str, context: StudyContext, device: str, runner: MakeRunner):
        spawn = multiprocessing.get_context("spawn")
        self.slot, self.name, self.device = slot, name, device
        self.tasks: dict[tuple[int, int], Task] = {}
        self.connection, theirs = spawn.Pipe()
        arguments = (name, theirs, context, device, runner, os.getpid())
        self.process = spawn.Process(target=_work, args=arguments, name=name, daemon=True)
        with _worker_environment():
            self.process.start()
        theirs.close()
        self.capacity: int | None = None  # until it is ready
        self.proven = False  # has finished something
        self.alone = False  # runs a trial that may have ended a worker: no other beside it
        self.running: list[dict] = []  # what it said last, once a second
        self.given: dict[tuple[int, int], float] = {}  # when
        self.memory_bytes: int | None = None

    def room(self, step: int) -> int:
        """Trials it could take now. Those of step 2 have a worker for themselves."""
        if step == 2 or self.alone:
            return 0 if self.tasks else 1
        return max(0, (self.capacity or 1) - len(self.tasks))

    def give(self, task: Task, *, alone: bool = False) -> None:
        if not self.tasks:
            self.given.clear()
        self.given[task.step, task.trial] = time.time()
        self.tasks[task.step, task.trial] = task
        self.alone = alone
        self.send(task)

    def under_way(self) -> list[dict]:
        """Its trials, those too of which it has not spoken yet; may be called from another thread."""
        told = {(r["step"], r["trial"]): r for r in list(self.running)}
        unknown = {"epoch": 0, "max_epochs": 0, "best_mse": None}
        return [
            told.get(key) or {"step": key[0], "trial": key[1], **unknown, "since": self.given.get(key, time.time())}
            for key in list(self.tasks)
        ]

    def send(self, message) -> None:
        with contextlib.suppress(OSError):  # it has died: its sentinel says so
            self.connection.send(message)


class Pool:
    """Worker processes for the trials of one study.

    Parameters
    ----------
    context : StudyContext
    devices : list of str
        Device of each worker, as PyTorch names it.
    name : str
        Of the member; workers are `<name>-<slot>`.
    stop : StopSignals
    on_tick : function
        Called at least twice a second while a step runs.
    runner : function of context, device and name
        Makes what trains in a worker; can be sent to another process.
    """

    def __init__(
        self,
        context: StudyContext,
        devices: list[str],
        *,
        name: str,
        stop: StopSignals,
        on_tick: Callable[[], None] = lambda: None,
        runner: MakeRunner = TrialRunner,
    ):
        self._context, self._devices, self._name, self._stop = context, devices, name, stop
        self.on_tick, self._runner = on_tick, runner
        self._workers: dict[int, _Worker] = {}
        self._again: deque[Task] = deque()
        self._suspects: deque[Task] = deque()  # their worker died, with others under way in it
        self._attempts: dict[tuple[int, int], int] = {}
        self._errors_in_a_row = 0
        self._unproven_deaths = 0
        self.done = self.failed = 0

    def run(self, source: Source, step: int) -> None:
        """Run a step to its end, which other members may see to.

        Raises
        ------
        Interrupted
            The search was asked to stop; workers have stopped, unfinished trials are written down or begun again.
        SearchError
            Workers cannot start, or trial after trial ends in an error.
        """
        with self._stop.held():
            try:
                self._retire(step)
                while True:
                    if self._stop.count:
                        self._end_early(source)
                        raise Interrupted
                    idle = self._hand_out(source, step)
                    if not self._busy() and not self._again and not self._suspects and source.done():
                        return
                    self._listen(source, _IDLE_TICK_S if idle else _TICK_S)
                    self.on_tick()
            except BaseException:
                self._kill()
                raise

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers.values():
            worker.send(None)
        for worker in self._workers.values():
            worker.process.join(timeout=5.0)
        self._kill()

    def workers(self) -> list[dict]:
        """What each worker does, for people to see; may be called from another thread."""
        found = []
        for slot, device in enumerate(self._devices):
            worker = self._workers.get(slot)
            state = "not started" if worker is None else "starting" if worker.capacity is None else "idle"
            trials = [] if worker is None else worker.under_way()
            memory = None if worker is None else worker.memory_bytes
            state = "busy" if worker is not None and worker.capacity is not None and worker.tasks else state
            found.append({"slot": slot, "device": device, "state": state, "trials": trials, "memory_bytes": memory})
        return found

    def _busy(self) -> list[_Worker]:
        return [w for w in self._workers.values() if w.tasks]

    def _slots(self, step: int) -> list[int]:
        """Workers that take part: in step 2 one for each GPU, which one large network fills."""
        if step == 1:
            return list(range(len(self._devices)))
        return [k for k, d in enumerate(self._devices) if d == "cpu" or d not in self._devices[:k]]

    def _retire(self, step: int) -> None:
        """End workers that have no part in a step: their memory is wanted by those that have."""
        for slot in self._workers.keys() - set(self._slots(step)):
            worker = self._workers.pop(slot)
            worker.send(None)
            worker.process.join(timeout=_RETIRE_S)
            worker.process.kill()
            worker.connection.close()

    def _room(self, slot: int, step: int) -> int:
        worker = self._workers.get(slot)
        return 1 if worker is None else worker.room(step)

    def _hand_out(self, source: Source, step: int) -> bool:
        """Give out what there is, evenly; true if workers are left without."""
        slots = self._slots(step)
        while self._suspects:
            slot = next((s for s in slots if s not in self._workers or not self._workers[s].tasks), None)
            if slot is None:
                break
            self._worker(slot).give(self._suspects.popleft(), alone=True)
        room = {s: self._room(s, step) for s in slots}
        free = sum(room.values())
        if not free:
            return False
        tasks = [self._again.popleft() for _ in range(min(free, len(self._again)))]
        if len(tasks) < free:
            tasks += source.take(free - len(tasks))
        for task in tasks:
            if task.hopeless is not None:
                self._give_up(task, task.hopeless, source)
                continue
            slot = max(slots, key=lambda s: (room[s], -s))
            room[slot] -= 1
            self._worker(slot).give(task)
        return len(tasks) < free

    def _worker(self, slot: int) -> _Worker:
        if slot not in self._workers:
            name = f"{self._name}-{slot:03d}"
            self._workers[slot] = _Worker(slot, name, self._context, self._devices[slot], self._runner)
        return self._workers[slot]

    def _listen(self, source: Source, timeout: float) -> None:
        by_handle = {w.connection: w for w in self._workers.values()}
        by_handle |= {w.process.sentinel: w for w in self._workers.values()}
        if not by_handle:
            time.sleep(timeout)
            return
        heard = {id(by_handle[h]): by_handle[h] for h in wait(list(by_handle), timeout=timeout)}
        for worker in heard.values():
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                self._bury(worker, source)
            else:
                self._understand(worker, message, source)

    def _understand(self, worker: _Worker, message: tuple, source: Source) -> None:
        kind, *content = message
        if kind == "ready":
            (worker.capacity,) = content
        elif kind == "state":
            worker.running, worker.memory_bytes = content
        else:
            key, what = content
            task = worker.tasks.pop(key)
            worker.running = [r for r in worker.running if (r["step"], r["trial"]) != key]
            worker.proven = True
            self._unproven_deaths = 0
            if not worker.tasks:
                worker.alone = False
            if kind == "record":
                self._errors_in_a_row = 0
                self._count(what, source)
            elif task.seat is not None:
                if what is not None:
                    source.lost(task, what)
            else:
                self._failed(task, "error", what, source)

    def _count(self, record: Mapping, source: Source) -> None:
        self.done += 1
        self.failed += record["state"] == "failed"
        source.record(record)

    def _bury(self, worker: _Worker, source: Source) -> None:
        worker.process.join()
        code = worker.process.exitcode
        del self._workers[worker.slot]
        worker.connection.close()
        if not worker.proven:
            self._unproven_deaths += 1
            if self._unproven_deaths > 2 * len(self._devices) + _ATTEMPTS["death"]:
                raise SearchError(
                    f"workers end before they finish a single trial (the last with {_ending(code)}); see their "
                    "messages above. With too little memory, give fewer --workers"
                )
        reason = f"its worker ended with {_ending(code)}"
        unfinished = []
        for (step, trial), task in worker.tasks.items():
            path = _record_file(self._context, step, worker.name)
            records = read_records(path, curves=False) if path.exists() else ()
            record = next((r for r in records if r["trial"] == trial), None)
            if record is not None:  # it died after writing and before reporting
                self._count(record, source)
            elif task.seat is not None:
                source.lost(task, reason)
            else:
                unfinished.append(task)
        if worker.capacity is None:  # it never looked at them
            self._again.extendleft(reversed(unfinished))
        elif len(unfinished) > 1:
            self._suspects.extend(unfinished)
        for task in unfinished if worker.capacity is not None and len(unfinished) == 1 else ():
            self._failed(task, "death", reason, source)

    def _failed(self, task: Task, kind: str, reason: str, source: Source) -> None:
        key = (task.step, task.trial)
        attempts = self._attempts[key] = self._attempts.get(key, 0) + 1
        if attempts < _ATTEMPTS[kind]:
            (self._suspects if kind == "death" else self._again).appendleft(task)
            return
        self._give_up(task, f"{reason} ({attempts} attempts)", source)

    def _give_up(self, task: Task, reason: str, source: Source) -> None:
        worker = f"{self._name}-member"
        record = failed_record(self._context, task, reason, worker)
        with RecordWriter(_record_file(self._context, task.step, worker)) as writer:
            writer.append(record)
        remove_checkpoint(self._context.folder, task.trial, task.step)
        self._count(record, source)
        self._errors_in_a_row += 1
        if self._errors_in_a_row >= _MAX_ERRORS_IN_A_ROW:
            raise SearchError(f"{self._errors_in_a_row} trials in a row ended in an error, the last: {reason}")

    def _end_early(self, source: Source) -> None:
        """Ask workers to write down what they do and end, and wait for them; a second signal ends them at once."""
        for worker in self._workers.values():
            worker.send(None)
        while self._busy() and self._stop.count < 2:
            busy = self._busy()
            for handle in wait([w.connection for w in busy], timeout=_TICK_S):
                worker = next(w for w in busy if w.connection is handle)
                try:
                    kind, *content = worker.connection.recv()
                except (EOFError, OSError):
                    worker.tasks.clear()
                    continue
                if kind == "record":
                    self._count(content[1], source)

    def _kill(self) -> None:
        for worker in self._workers.values():
            if worker.process.is_alive():
                worker.process.kill()
        for worker in self._workers.values():
            worker.process.join()
        self._workers.clear()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"signal {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"exit status {code}"


def _record_file(context: StudyContext, step: int, worker: str) -> Path:
    return context.folder / f"step{step}" / f"worker-{worker}.jsonl"


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """Variables of a new process, and signals blocked in it."""
    old = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    os.environ.update(WORKER_ENVIRONMENT)
    with blocked():  # its first start unblocks SIGINT and SIGTERM again
        resource_tracker.ensure_running()
    try:
        with blocked():
            yield
    finally:
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# -- in the worker process -----------------------------------------------------------------------------------------


def _work(name: str, connection: Connection, context: StudyContext, device: str, runner: MakeRunner, parent: int):
    """Body of a worker process."""
    ignore()
    _die_with_parent(parent)
    _train_what_comes(name, connection, context, device, runner)
    sys.stderr.flush()
    os._exit(0)  # all is on disk; taking PyTorch down in order takes a second


def _train_what_comes(name: str, connection: Connection, context: StudyContext, device: str, make: MakeRunner) -> None:
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # Adam's moments of dead weights decay into slow denormal numbers
    runner = make(context, torch.device(device), name)
    with contextlib.ExitStack() as files, contextlib.suppress(OSError):  # OSError: the member has gone
        desk = _Desk(name, connection, context, runner, files)
        while desk.take_in():
            desk.work()
        runner.interrupt()


class _Desk:
    """A worker between its pipe, its runner and its record files."""

    def __init__(self, name: str, connection: Connection, context: StudyContext, runner: TrialRunner, files):
        self._name, self._connection, self._context, self._runner = name, connection, context, runner
        self._files = files
        self._writers: dict[int, RecordWriter] = {}
        self._under_way = 0
        self._told: list[dict] = []
        self._told_at = 0.0
        connection.send(("ready", runner.capacity))

    def take_in(self) -> bool:
        """Read what has come, and wait for it if there is nothing to do; false at the end."""
        while self._connection.poll(0.0 if self._under_way else self._seconds_to_sync()):
            try:
                task = self._connection.recv()
            except (EOFError, OSError):
                task = None
            if task is None:
                return False
            self._under_way += 1
            self._runner.start(task)
        return True

    def work(self) -> None:
        if self._under_way:
            for task, result in self._runner.advance():
                self._under_way -= 1
                self._connection.send(self._ended(task, result))
        self._tell()
        self._seconds_to_sync()

    def _ended(self, task: Task, result: dict | Exception | None) -> tuple:
        key = (task.step, task.trial)
        if result is None:
            return "ended", key, None
        if isinstance(result, Exception):
            if not isinstance(result, (Interrupted, GroupLost)):
                traceback.print_exception(result)
            return "error", key, f"{type(result).__name__}: {result}"
        writer = self._writer(task.step)
        writer.append(result)
        if checkpoint_path(self._context.folder, task.step, task.trial).exists():
            writer.sync()
            remove_checkpoint(self._context.folder, task.trial, task.step)
        return "record", key, {name: value for name, value in result.items() if name != "curve"}

    def _writer(self, step: int) -> RecordWriter:
        if step not in self._writers:
            path = _record_file(self._context, step, self._name)
            self._writers[step] = self._files.enter_context(RecordWriter(path, sync_seconds=_SYNC_S))
        return self._writers[step]

    def _seconds_to_sync(self) -> float | None:
        left = [s for s in (w.sync_if_due() for w in self._writers.values()) if s is not None]
        return min(left, default=None)

    def _tell(self) -> None:
        """What is under way, about once a second."""
        now = time.monotonic()
        if now - self._told_at >= _STATE_S:
            self._told_at, running = now, self._runner.running()
            if running != self._told:
                self._told = running
                self._connection.send(("state", running, getattr(self._runner, "memory_bytes", None)))


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)
