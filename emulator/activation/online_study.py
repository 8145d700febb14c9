"""Runs of the host that differ in the activation scheme alone, in one folder.

    FOLDER/request.json       what was asked for; another request is refused
    FOLDER/RUN/               pieces of a run (`online_run`): parcel, perturbed, arg, and one of each emulator
    FOLDER/online.json, .png  what they show side by side (`online_report`)
"""

import dataclasses
import fcntl
import hashlib
import json
import pathlib

from emulator.activation.constants import CONSTANT_SETS
from emulator.activation.generate import default_workers
from emulator.activation.online_measures import PERTURBED, REFERENCE
from emulator.activation.online_report import report
from emulator.activation.online_run import Task, last_step, run_all, write_atomically
from emulator.activation.parcel import SOURCE_DIGEST
from emulator.progress import Progress

SCHEMA = 1
ARG = "arg"


class OnlineError(RuntimeError):
    """A folder that holds, or serves, something else."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What is run; all but the number of steps tells a folder from another.

    Attributes
    ----------
    host : pathlib.Path
        libclimate_host.
    models : dict
        Name of an emulator: path.
    checksums : dict
        Name of an emulator: SHA-256 of its file.
    steps, columns, levels, seed, piece : int
    perturbation : float
        Largest relative change of the first temperatures of the perturbed run, [1].
    constants : str
        Of the parcel model.
    """

    host: pathlib.Path
    models: dict
    checksums: dict
    steps: int
    columns: int
    levels: int
    seed: int
    perturbation: float
    constants: str
    piece: int

    @classmethod
    def build(cls, *, models, **settings):
        """Check the settings; `models` is a list of (name, path).

        Raises
        ------
        ValueError
            A number out of range, a name that is taken, unknown constants.
        OSError
            No such file.
        """
        for name in ("steps", "columns", "levels", "piece"):
            if settings[name] < 1:
                raise ValueError(f"--{name} is {settings[name]}; expected at least 1")
        if not 0.0 <= settings["perturbation"] < 1e-2:
            raise ValueError(f"--perturbation is {settings['perturbation']}; expected 0 to 0.01")
        if settings["constants"] not in CONSTANT_SETS:
            raise ValueError(
                f"unknown --constants '{settings['constants']}'; expected one of: {', '.join(CONSTANT_SETS)}"
            )
        if not settings["host"].is_file():
            raise OSError(
                f"--host '{settings['host']}' is no file; `cmake -S . -B build/release -DLIBEMULATOR_EXAMPLES=ON && "
                "cmake --build build/release` builds libclimate_host where MPI and netCDF-Fortran are"
            )
        checksums = {}
        for name, path in models:
            if name in checksums or name in (REFERENCE, PERTURBED, ARG):
                raise ValueError(f"--model: the name '{name}' is taken; give each emulator its own")
            if not path.is_file():
                raise OSError(f"--model {name}: '{path}' is no file; python -m emulator.export writes one")
            checksums[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(models=dict(models), checksums=checksums, **settings)

    def identity(self):
        """What a folder is known by, as plain JSON values."""
        names = ("columns", "levels", "seed", "perturbation", "constants", "piece")
        return {
            "schema": SCHEMA,
            **{name: getattr(self, name) for name in names},
            "models": self.checksums,
            "host": hashlib.sha256(self.host.read_bytes()).hexdigest(),
            "parcel": f"{SOURCE_DIGEST:x}",
        }

    def ends(self):
        """Last step of each piece."""
        return [*range(self.piece, self.steps, self.piece), self.steps]

    def tasks(self, folder):
        """Every run's Task, the longest first; each begins after the pieces that its folder holds."""
        grid = {"num_columns": self.columns, "num_levels": self.levels, "seed": self.seed, "history_every": 1}
        schemes = {
            REFERENCE: {"scheme": "external"},
            PERTURBED: {"scheme": "external", "pertlim": self.perturbation},
            **{name: {"scheme": "emulator", "model": str(path.resolve())} for name, path in self.models.items()},
            ARG: {"scheme": "arg"},
        }
        tasks = {}
        for name, settings in schemes.items():
            done = last_step(folder / name, self.ends()) or 0
            tasks[name] = Task(
                library=str(self.host.resolve()),
                folder=str((folder / name).resolve()),
                namelist=grid | settings,
                first=done,
                ends=[end for end in self.ends() if end > done],
                constants=self.constants if settings["scheme"] == "external" else None,
            )
        return tasks


def run_study(request, folder, workers=None):
    """Run what is missing, then write `online.json` and `online.png`.

    May be stopped at any moment; the same call goes on.

    Parameters
    ----------
    request : Request
    folder : path
    workers : int, optional
        Runs at a time; default: one per core.

    Returns
    -------
    dict
        What `online.json` holds.

    Raises
    ------
    OnlineError
        The folder holds another request, or another process works in it.
    RuntimeError
        A run failed.
    """
    workers = default_workers() if workers is None else workers
    if workers < 1:
        raise ValueError(f"number of workers is {workers}; expected at least 1")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OnlineError(f"another process works in '{folder}'; wait for it, or give another --out") from error
        _check_request(folder, request)
        tasks = request.tasks(folder)
        for name in tasks:
            (folder / name).mkdir(exist_ok=True)
        missing = {name: task for name, task in tasks.items() if task.ends}
        done = {name: task.first for name, task in tasks.items()}
        with Progress("online", request.steps * len(tasks), sum(done.values()), unit="steps") as progress:

            def on_piece(name, step):
                progress.advance(step - done[name])
                done[name] = step

            run_all(missing, workers, on_piece)
        return report(folder, request.ends(), tasks, request.identity() | {"steps": request.steps})


def _check_request(folder, request):
    file = folder / "request.json"
    wanted = request.identity()
    if not file.exists():
        write_atomically(file, json.dumps(wanted, indent=2) + "\n")
        return
    found = json.loads(file.read_text())
    different = [
        f"  {key}: {found.get(key, 'absent')} there, {wanted.get(key, 'absent')} now"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    if different:
        raise OnlineError(
            "\n".join([f"'{folder}' holds other runs:", *different, "give another --out, or the same settings"])
        )
