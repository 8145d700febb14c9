"""One run of the host in pieces, in a process of its own (MPI starts once in a process): `run_pieces`.

A piece is so many steps from one restart file to the next. Its files get their names when it is complete, so that a run
that was stopped, by whatever, goes on from its last piece; the host restarts exactly.

    python -m emulator.activation.online_run PARENT < task.json

is what `run_all` makes of each task; it prints a line of JSON for each piece that is done. What the host prints goes to
`log.txt` in the run's folder.
"""

import ctypes
import dataclasses
import json
import os
import pathlib
import selectors
import signal
import subprocess
import sys

from emulator.activation.climate_library import ClimateLibrary
from emulator.activation.constants import CONSTANT_SETS
from emulator.activation.namelist import write_namelist
from emulator.activation.workers import PR_SET_PDEATHSIG, THREAD_VARIABLES

LAST_LINES = 5
"""Of the log that a failure quotes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What a process is told.

    Attributes
    ----------
    library : str
        Path of libclimate_host.
    folder : str
        Of the run; holds the restart file of step `first` unless that is 0.
    namelist : dict
        The host's settings but for those of a piece (steps, history, restarts).
    ends : list of int
        Last step of each piece, increasing.
    first : int
        Step at which the first piece starts.
    constants : str or None
        Constants of the parcel model that serves scheme 'external', by name; None: no parcel model.
    """

    library: str
    folder: str
    namelist: dict
    ends: list
    first: int
    constants: str | None = None


def piece_path(folder, kind, step, ending="nc"):
    """Path of a file of the piece that ends at `step`; `kind` is 'history', 'restart' or 'counts'."""
    return pathlib.Path(folder) / f"{kind}_{step:07d}.{ending}"


def last_step(folder, ends):
    """Last of the steps `ends` up to which all pieces are complete; None if there is none."""
    last = None
    for step in ends:
        # the last of its files to be written
        if not piece_path(folder, "counts", step, "json").exists():
            break
        last = step
    return last


def run_all(tasks, workers, on_piece):
    """Run each task in a process, `workers` at a time, the first ones first.

    Parameters
    ----------
    tasks : dict
        Name of the run: Task.
    workers : int
    on_piece : callable
        Called with the name and the last step of each piece that is complete.

    Raises
    ------
    RuntimeError
        A run failed; quotes what it said. The others are ended; what they have done stays.
    """
    waiting = list(tasks.items())
    busy = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or busy:
                while waiting and len(busy) < workers:
                    name, task = waiting.pop(0)
                    process = busy[name] = _start(task)
                    selector.register(process.stdout, selectors.EVENT_READ, name)
                for key, _ in selector.select():
                    line = key.fileobj.readline()
                    if line:
                        on_piece(key.data, json.loads(line)["step"])
                        continue
                    selector.unregister(key.fileobj)
                    _check_end(key.data, busy.pop(key.data), tasks[key.data])
        finally:
            for process in busy.values():
                process.kill()
                process.wait()
                process.stdout.close()


def _start(task):
    """Start a task's process."""
    with open(_log(task), "a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "emulator.activation.online_run", str(os.getpid())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env=os.environ | dict.fromkeys(THREAD_VARIABLES, "1"),
        )  # fmt: skip
    process.stdin.write(json.dumps(dataclasses.asdict(task)))
    process.stdin.close()
    return process


def _log(task):
    return pathlib.Path(task.folder) / "log.txt"


def _check_end(name, process, task):
    status = process.wait()
    process.stdout.close()
    if status != 0:
        said = _log(task).read_text(errors="replace").strip().splitlines()[-LAST_LINES:]
        raise RuntimeError("\n".join([f"run '{name}' ended with status {status}; the end of '{_log(task)}':", *said]))


def run_pieces(task, on_piece):
    """Run a task in this process; `on_piece` is called with the last step of each piece.

    Raises
    ------
    OSError, RuntimeError
        See `ClimateLibrary`.
    """
    library = ClimateLibrary(task.library)
    folder = pathlib.Path(task.folder)
    first = task.first
    namelist, timing = folder / "climate.nml", folder / "timing.json"
    for last in task.ends:
        scheme = None if task.constants is None else _parcel_scheme(task.constants)
        files = {kind: piece_path(folder, kind, last) for kind in ("history", "restart")}
        partial = {kind: path.with_name("partial_" + path.name) for kind, path in files.items()}
        of_piece = {"num_steps": last - first, "timing": timing}
        of_piece |= {"history": partial["history"], "restart_out": partial["restart"]}
        if first > 0:
            of_piece["restart_in"] = piece_path(folder, "restart", first)
        write_namelist(namelist, "climate_nl", task.namelist | of_piece)
        library.run(namelist, scheme)
        for kind, path in files.items():
            os.replace(partial[kind], path)
        write_atomically(piece_path(folder, "counts", last, "json"), json.dumps(_counts(timing, scheme)))
        on_piece(last)
        first = last
    library.close()


def _parcel_scheme(constants):
    # Here, so that runs of other schemes need not wait for numba.
    from emulator.activation.external import ParcelScheme
    from emulator.activation.settings import ParcelSettings

    return ParcelScheme(ParcelSettings(constants=CONSTANT_SETS[constants]()))


def _counts(timing, scheme):
    """What the host counted in a piece, and what the parcel model did."""
    told = json.loads(timing.read_text())
    counts = {name: value for name, value in told.items() if name != "schema" and not name.endswith("_ns")}
    if scheme is not None:
        counts |= {"retried": scheme.num_retried, "rh_clipped": scheme.num_clipped}
    return counts


def write_atomically(path, text):
    """Write a file that is whole whenever it is there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    os.replace(partial, path)


def _main():
    # Ctrl-C is the parent's; this process ends with it, however it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):
            return 1
    task = Task(**json.load(sys.stdin))
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        run_pieces(task, lambda step: print(json.dumps({"step": step}), file=told, flush=True))
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
