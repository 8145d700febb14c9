"""Runs a function over numbered tasks in worker processes that never outlive their parent.

A worker is a spawned process with one pipe. It ends when the pipe does (the parent closed it, or died, even by
kill -9); on Linux the kernel also kills it with the parent at once. Ctrl-C reaches the parent only. Numerical
libraries are held to one thread: the processes are the parallelism.
"""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import traceback

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class WorkerError(RuntimeError):
    """A task raised, or a worker process died."""


def run_tasks(function, tasks, num_workers):
    """Yield (task, function(task)) in the order in which they finish.

    Parameters
    ----------
    function : callable
        Importable (spawned processes import it by name), or an instance of an importable class.
    tasks : iterable
        Picklable; taken in order, one at a time, so that each worker sees an increasing sequence.
    num_workers : int
        1 runs the tasks in this process.

    Raises
    ------
    WorkerError
        With the worker's traceback, or the exit status of a process that died.
    """
    if num_workers == 1:
        for task in tasks:
            yield task, function(task)
        return

    tasks = iter(tasks)
    busy = {}
    processes = []
    try:
        with _quiet_start():
            for task in _first(tasks, num_workers):
                connection, process = _start(function)
                processes.append((process, connection))
                connection.send(task)
                busy[connection] = (process, task)
        while busy:
            for connection in multiprocessing.connection.wait(list(busy)):
                process, task = busy.pop(connection)
                try:
                    error, value = connection.recv()
                except (EOFError, ConnectionError) as gone:
                    process.join(10)
                    raise WorkerError(
                        f"a worker process died (exit status {process.exitcode}) at task {task!r}. A negative status "
                        "is the signal that killed it; -9 usually means out of memory: try fewer workers."
                    ) from gone
                if error is not None:
                    raise WorkerError(f"a worker failed at task {task!r}:\n{error}")
                for next_task in _first(tasks, 1):
                    connection.send(next_task)
                    busy[connection] = (process, next_task)
                yield task, value
    finally:
        for process, connection in processes:
            connection.close()
            process.terminate()
        for process, _ in processes:
            process.join()


def _first(iterator, count):
    """Take up to `count` items, without consuming one more."""
    for _ in range(count):
        try:
            yield next(iterator)
        except StopIteration:
            return


def _start(function):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function, os.getpid()), daemon=True)
    process.start()
    theirs.close()
    return ours, process


@contextlib.contextmanager
def _quiet_start():
    """Start children with one thread per library and Ctrl-C ignored (they inherit both)."""
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main_thread else None
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if main_thread:
            signal.signal(signal.SIGINT, handler)


def _serve(connection, function, parent):
    """Main function of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            return
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            reply = (None, function(task))
        except OSError as error:  # a full or vanished disk: the message says it all
            reply = (str(error), None)
        except Exception:
            reply = (traceback.format_exc(), None)
        try:
            connection.send(reply)
        except ConnectionError:
            return
