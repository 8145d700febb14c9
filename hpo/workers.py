"""A pool of worker processes, one thread each, that train the trials handed to them.

A worker writes each record to its own file and waits for the disk before it reports. It dies with the coordinator
(Linux: at once, by PR_SET_PDEATHSIG; elsewhere: when it next looks at its pipe). A worker that dies itself is
replaced; its trial is tried once more and then recorded as failed.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import DupFd
from pathlib import Path

from emulator.records import RecordWriter, read_records
from hpo.errors import Interrupted, SearchError
from hpo.trial import StudyContext, Task, TrialRunner, failed_record, remove_checkpoint

_ATTEMPTS = 2
# So many trials in a row that end in an unforeseen error (not a divergence) are no accident.
_MAX_ERRORS_IN_A_ROW = 20
_TICK_S = 0.5
# One thread per worker: a step of a small network is too short to share out. glibc gives large blocks back to the
# kernel at every free, and page faults bring them in again; the thresholds (32 MiB is the largest that glibc takes for
# mmap) keep them: about 4 % of the time.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 29),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # the same bits in every run on a GPU
}


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the CPU quota of its control group."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


class _Inherited:
    """A file descriptor that a spawned process gets too."""

    def __init__(self, fd: int):
        self.fd = fd

    def __getstate__(self):
        return {"duplicate": DupFd(self.fd)}

    def __setstate__(self, state):
        self.fd = state["duplicate"].detach()


class _Worker:
    """The coordinator's side of one worker process."""

    def __init__(self, slot: int, context: StudyContext, device: str, lock_fd: int):
        spawn = multiprocessing.get_context("spawn")
        self.slot, self.task = slot, None
        self.connection, theirs = spawn.Pipe()
        arguments = (slot, theirs, context, device, _Inherited(lock_fd), os.getpid())
        self.process = spawn.Process(target=_work, args=arguments, name=f"worker-{slot:03d}", daemon=True)
        with _worker_environment():
            self.process.start()
        theirs.close()
        self.proven = False  # has finished something

    def give(self, task: Task) -> None:
        self.task = task
        with contextlib.suppress(OSError):  # it has died: its sentinel says so
            self.connection.send(task)

    def record_file(self, context: StudyContext, step: int) -> Path:
        return _record_file(context, step, self.slot)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.connection.close()


class Pool:
    """Worker processes for the trials of one study.

    Parameters
    ----------
    context : StudyContext
    devices : list of str
        Device of each worker, as PyTorch names it.
    lock_fd : int
        Of the study's lock, which the workers keep too.
    on_record : function of a record
        Called for every finished trial, in order of arrival.
    on_tick : function of the number of workers at work
        Called about twice a second.
    write_record : function of a record
        Writes the record of a trial that killed its workers.
    """

    def __init__(
        self,
        context: StudyContext,
        devices: list[str],
        lock_fd: int,
        *,
        on_record: Callable[[dict], None],
        on_tick: Callable[[int], None],
        write_record: Callable[[dict], None],
    ):
        self._context, self._devices, self._lock_fd = context, devices, lock_fd
        self._on_record, self._on_tick, self._write_record = on_record, on_tick, write_record
        self._workers: dict[int, _Worker] = {}
        self._attempts: dict[tuple[int, int], int] = {}
        self._errors_in_a_row = 0
        self._unproven_deaths = 0

    def run(self, tasks: Iterable[Task]) -> None:
        """Run all tasks, handing them out in the given order.

        Raises
        ------
        Interrupted
            SIGINT or SIGTERM came; workers have stopped, unfinished trials will be run again.
        SearchError
            Workers cannot start, or trial after trial ends in an error.
        """
        waiting = deque(tasks)
        with _stop_signals() as signals:
            try:
                while waiting or self._busy():
                    if signals.count:
                        self._stop(signals)
                        raise Interrupted
                    self._hand_out(waiting)
                    self._listen(waiting)
                    self._on_tick(len(self._busy()))
            except BaseException:
                self._kill()
                raise

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers.values():
            worker.end()
        for worker in self._workers.values():
            worker.process.join(timeout=5.0)
        self._kill()

    def _busy(self) -> list[_Worker]:
        return [w for w in self._workers.values() if w.task is not None]

    def _hand_out(self, waiting: deque[Task]) -> None:
        for slot, device in enumerate(self._devices):
            if not waiting:
                return
            if slot not in self._workers:
                self._workers[slot] = _Worker(slot, self._context, device, self._lock_fd)
            if self._workers[slot].task is None:
                self._workers[slot].give(waiting.popleft())

    def _listen(self, waiting: deque[Task]) -> None:
        by_handle = {w.connection: w for w in self._workers.values()}
        by_handle |= {w.process.sentinel: w for w in self._workers.values()}
        heard = {id(by_handle[h]): by_handle[h] for h in wait(list(by_handle), timeout=_TICK_S)}
        for worker in heard.values():
            try:
                kind, content = worker.connection.recv()
            except (EOFError, OSError):
                self._bury(worker, waiting)
                continue
            task, worker.task = worker.task, None
            worker.proven = True
            if kind == "record":
                self._errors_in_a_row = 0
                self._on_record(content)
            elif kind == "error":
                self._failed(task, content, waiting)

    def _bury(self, worker: _Worker, waiting: deque[Task]) -> None:
        worker.process.join()
        code = worker.process.exitcode
        del self._workers[worker.slot]
        worker.connection.close()
        if not worker.proven:
            self._unproven_deaths += 1
            if self._unproven_deaths > 2 * len(self._devices) + 1:
                raise SearchError(
                    f"workers end before they finish a single trial (the last with {_ending(code)}); see their "
                    "messages above. With too little memory, give fewer --workers"
                )
        if worker.task is None:
            return
        path = worker.record_file(self._context, worker.task.step)
        done = [r for r in read_records(path) if r["trial"] == worker.task.trial] if path.exists() else []
        if done:  # it died after writing and before reporting
            self._on_record(done[0])
        else:
            self._failed(worker.task, f"its worker ended with {_ending(code)}", waiting)

    def _failed(self, task: Task, reason: str, waiting: deque[Task]) -> None:
        key = (task.step, task.trial)
        self._attempts[key] = self._attempts.get(key, 0) + 1
        if self._attempts[key] < _ATTEMPTS:
            waiting.appendleft(task)
            return
        record = failed_record(self._context, task, f"{reason} ({_ATTEMPTS} attempts)", "coordinator")
        self._write_record(record)
        remove_checkpoint(self._context.folder, task.trial)
        self._on_record(record)
        self._errors_in_a_row += 1
        if self._errors_in_a_row >= _MAX_ERRORS_IN_A_ROW:
            raise SearchError(f"{self._errors_in_a_row} trials in a row ended in an error, the last: {reason}")

    def _stop(self, signals: _Signals) -> None:
        """Ask busy workers to stop and wait for them; a second signal ends them at once."""
        for worker in self._busy():
            with contextlib.suppress(OSError):
                worker.connection.send(None)
        while self._busy() and signals.count < 2:
            busy = self._busy()
            for handle in wait([w.connection for w in busy], timeout=_TICK_S):
                worker = next(w for w in busy if w.connection is handle)
                with contextlib.suppress(EOFError, OSError):
                    kind, content = worker.connection.recv()
                    if kind == "record":
                        self._on_record(content)
                worker.task = None

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


def _record_file(context: StudyContext, step: int, slot: int) -> Path:
    return context.folder / f"step{step}" / f"worker-{slot:03d}.jsonl"


class _Signals:
    count = 0


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Signals]:
    """Count SIGINT and SIGTERM instead of being interrupted by them."""
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():  # a library's caller: its signals are its own
        yield signals
        return

    def note(*_):
        signals.count += 1
        if signals.count == 1:
            print("\nstopping at the end of the epoch; once more to stop at once", file=sys.stderr, flush=True)

    old = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """Variables of a new process, and SIGINT blocked in it: Ctrl-C reaches the whole terminal, the coordinator tells
    its workers when to stop."""
    old = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    resource_tracker.ensure_running()  # the first start of it would unblock SIGINT again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# -- in the worker process -----------------------------------------------------------------------------------------


def _work(slot: int, connection: Connection, context: StudyContext, device: str, lock: _Inherited, parent: int):
    """Body of a worker process; `lock` is only kept open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent(parent)
    _train_what_comes(slot, connection, context, device)
    sys.stderr.flush()
    os._exit(0)  # all is on disk; taking PyTorch down in order takes a second


def _train_what_comes(slot: int, connection: Connection, context: StudyContext, device: str) -> None:
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # Adam's moments of dead weights decay into slow denormal numbers
    runner = TrialRunner(context, torch.device(device), f"worker-{slot:03d}")
    stopped = False

    def stopping() -> bool:
        nonlocal stopped
        if not stopped and connection.poll():
            stopped = True  # the coordinator sends nothing else while a trial runs, or has gone
        return stopped

    with contextlib.ExitStack() as files:
        writers: dict[int, RecordWriter] = {}
        while (task := _receive(connection)) is not None:
            if task.step not in writers:
                writers[task.step] = files.enter_context(RecordWriter(_record_file(context, task.step, slot)))
            try:
                record = runner.run(task, stopping)
                writers[task.step].append(record)
                if task.step == 2:
                    remove_checkpoint(context.folder, task.trial)
                message = "record", record
            except Interrupted:
                return
            except Exception as error:
                traceback.print_exc()
                message = "error", f"{type(error).__name__}: {error}"
            try:
                connection.send(message)
            except OSError:
                return
            if stopped:
                return


def _receive(connection: Connection) -> Task | None:
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)
