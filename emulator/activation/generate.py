"""Makes a samples file: draws states, simulates them in blocks, resumes where an earlier run stopped.

Finished blocks live in the folder `<out>.parts` beside the output until all are there; then the netCDF file is
assembled, renamed into place, and the folder removed. `settings.json` in the folder (and the attribute `settings` of
the file) say what was asked for: another request for the same path is refused, naming the difference.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import pathlib
import shutil
import sys
import time

import numpy as np

from emulator.activation import samples_file
from emulator.activation.blocks import ARRAYS, BlockMaker, part_path, read_part, split
from emulator.activation.parcel import SOURCE_DIGEST, STATUS_NAMES, simulate
from emulator.activation.provenance import commit, versions
from emulator.activation.samples_file import INPUTS, SCHEMA
from emulator.activation.settings import ParcelSettings
from emulator.activation.states import MAX_SAMPLES, SAMPLER_VERSION, StateSampler, sample_states
from emulator.activation.workers import WorkerError, run_tasks
from emulator.progress import Progress, duration

BLOCK_SIZE = 4096

LISTED_UNFINISHED = 10


class GenerateError(RuntimeError):
    """The request cannot be met; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class GenerateResult:
    """What `generate` did.

    Attributes
    ----------
    path : pathlib.Path
    requested, finished, retried, unfinished : int
        Samples asked for, in the file, that needed a retry, and without a maximum at any tolerance.
    already_complete : bool
        The file was there, made by the same request; nothing was run.
    """

    path: pathlib.Path
    requested: int
    finished: int
    retried: int
    unfinished: int
    already_complete: bool


def default_workers():
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def generate(
    path, num_samples, seed=0, workers=None, *, settings=None, sampler="e3sm", block_size=BLOCK_SIZE, overwrite=False
):
    """Write a samples file with the first `num_samples` samples of a seed.

    May be interrupted or killed at any moment; the same call goes on. The result does not depend on `workers` or
    on interruptions, bit for bit, on one kind of processor (sums over bins are vectorised: round-off differs between
    vector widths).

    Parameters
    ----------
    path : path
        netCDF file to make.
    num_samples : int
    seed : int
    workers : int, optional
        Processes; default: one per core. 1 runs in this process.
    settings : ParcelSettings, optional
    sampler : str
    block_size : int
        Samples per block: what an interruption loses at most, per worker.
    overwrite : bool
        Replace an existing file, and forget blocks, of another request.

    Returns
    -------
    GenerateResult

    Raises
    ------
    ValueError
        Bad argument.
    GenerateError
        Existing file or blocks of another request, no place to write, a worker that died.
    """
    path = pathlib.Path(path)
    settings = settings or ParcelSettings()
    workers = default_workers() if workers is None else workers
    for name, value in (("samples", num_samples), ("workers", workers), ("block size", block_size)):
        if value < 1:
            raise ValueError(f"number of {name} is {value}; expected at least 1")
    if num_samples > MAX_SAMPLES:
        raise ValueError(f"number of samples is {num_samples:,}; the sequence of a seed has {MAX_SAMPLES:,}")
    StateSampler(seed, sampler)  # refuses a bad seed or name
    if path.is_dir():
        raise GenerateError(f"'{path}' is a folder; expected the name of a file to write")
    if not path.parent.is_dir():
        raise GenerateError(f"folder '{path.parent}' does not exist; create it, or give another --out")
    request = {
        "schema": SCHEMA,
        "samples": num_samples,
        "seed": seed,
        "sampler": sampler,
        "sampler_version": SAMPLER_VERSION,
        "parcel": settings.as_dict(),
    }

    if path.exists() and not overwrite:
        return _existing(path, request)
    folder = path.with_name(path.name + ".parts")
    _open_folder(path, folder)
    with _locked(folder):
        _check_request(folder, {**request, "block_size": block_size, "model_source": SOURCE_DIGEST}, overwrite)
        started = time.monotonic()
        make = BlockMaker(folder, seed, sampler, settings)
        blocks = split(num_samples, block_size)
        _make_missing(make, blocks, num_samples, workers)
        result = _assemble(path, folder, make, blocks, request, settings)
        shutil.rmtree(folder)
    _say(
        f"{path}: {result.finished:,} samples in {duration(time.monotonic() - started)}; "
        f"{result.retried} parcel(s) retried at tighter tolerances, {result.unfinished} unfinished"
    )
    return result


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _existing(path, request):
    attributes = samples_file.read_attributes(path)
    _refuse_differences(f"'{path}' exists and was made by another request", attributes["settings"], request)
    _say(f"{path}: already complete, nothing to do")
    counts = {name: int(attributes[f"num_{name}"]) for name in ("requested", "finished", "retried", "unfinished")}
    return GenerateResult(path=path, **counts, already_complete=True)


def _open_folder(path, folder):
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise GenerateError(f"cannot write in '{path.parent}': {error.strerror}; give another --out") from error


@contextlib.contextmanager
def _locked(folder):
    """Hold the folder against a second process; the lock goes with the process, however it ends."""
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise GenerateError(
                f"another process is generating into '{folder}'; wait for it, or give another --out"
            ) from error
        yield


def _flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _refuse_differences(what, found, wanted):
    found, wanted = dict(_flat(found)), dict(_flat(wanted))
    different = [
        f"  {key}: {found.get(key, 'absent')} there, {wanted.get(key, 'absent')} now"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
    ]
    if different:
        raise GenerateError(
            "\n".join([f"{what}:", *different, "give another --out, the same settings, or --overwrite to replace it"])
        )


def _check_request(folder, request, overwrite):
    """Take the folder over if its blocks are of the same request, or on `overwrite`."""
    file = folder / "settings.json"
    if overwrite:
        for old in folder.glob("block-*"):
            old.unlink()
    elif file.exists():
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise GenerateError(f"'{file}' is unreadable ({error}); remove the folder, or --overwrite") from error
        _refuse_differences(f"'{folder}' holds the blocks of another request", found, request)
        return
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(request, indent=1))
    os.replace(temporary, file)


def _make_missing(make, blocks, num_samples, workers):
    kept = {entry.name for entry in os.scandir(make.folder)}
    missing = [
        block
        for block in blocks
        if part_path("", block).name not in kept or read_part(make.folder, block, names=()) is None
    ]
    remaining = sum(block.count for block in missing)
    needed = (remaining + num_samples) * samples_file.BYTES_PER_SAMPLE
    free = shutil.disk_usage(make.folder).free
    if free < needed:
        raise GenerateError(
            f"not enough space in '{make.folder.parent}': {free / 1e9:.2f} GB free, about {needed / 1e9:.2f} GB "
            "needed; free some, ask for fewer samples, or give another --out"
        )
    if not missing:
        return
    if len(missing) < len(blocks):
        _say(f"going on: {num_samples - remaining:,} of {num_samples:,} samples are in '{make.folder}'")
    # Compile (or load) in this process first: the workers then find the machine code on disk.
    simulate(sample_states(1, make.seed, sampler=make.sampler), dataclasses.replace(make.settings, max_steps=1))
    try:
        with (
            Progress("simulating parcels", num_samples, done=num_samples - remaining) as progress,
            contextlib.closing(run_tasks(make, missing, min(workers, len(missing)))) as results,
        ):
            for block, _ in results:
                progress.advance(block.count)
    except (OSError, WorkerError) as error:
        raise GenerateError(
            f"{error}\nfinished blocks are kept in '{make.folder}'; the same command goes on from there"
        ) from error


def _assemble(path, folder, make, blocks, request, settings):
    def read(block, names):
        part = read_part(folder, block, names)
        if part is None:  # its head was readable, its data are not: a damaged disk
            part_path(folder, block).unlink(missing_ok=True)
            make(block)
            part = read_part(folder, block, names)
        return part

    num_requested = num_retried = 0
    unfinished = {name: [] for name in (*INPUTS, "sample_index", "status")}
    for block in blocks:
        arrays, retried = read(block, ARRAYS)
        num_requested += block.count
        num_retried += retried
        failed = np.flatnonzero(arrays["status"])
        for name, values in unfinished.items():
            values.append(arrays[name][failed])
    unfinished = {name: np.concatenate(values) for name, values in unfinished.items()}
    num_unfinished = len(unfinished["status"])
    num_finished = num_requested - num_unfinished

    def finished_samples():
        for block in blocks:
            arrays, _ = read(block, ARRAYS)
            yield {name: array[arrays["status"] == 0] for name, array in arrays.items()}

    counts = {
        "requested": num_requested,
        "finished": num_finished,
        "retried": num_retried,
        "unfinished": num_unfinished,
    }
    attributes = _attributes(request, settings, counts)
    try:
        samples_file.write(path, finished_samples(), num_finished, unfinished, attributes)
    except OSError as error:
        raise GenerateError(f"cannot write '{path}': {error}; all blocks are kept in '{folder}'") from error
    _list_unfinished(unfinished)
    return GenerateResult(path=path, **counts, already_complete=False)


def _attributes(request, settings, counts):
    constants = dataclasses.asdict(settings.constants)
    attributes = {
        "Conventions": "CF-1.10",
        "title": "Activated fraction of four lognormal aerosol modes in adiabatic updrafts",
        "source": "emulator.activation: explicit adiabatic cloud parcel model, kappa-Koehler growth, sectional bins",
        "references": "doi:10.1175/AIES-D-23-0013.1; doi:10.1029/2011MS000074; doi:10.5194/acp-7-1961-2007",
        "history": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ} generated",
        "comment": "inputs are exactly what was simulated (rounded to float32 before the simulation); samples are in "
        "the order of sample_index; those without a supersaturation maximum are in the group 'unfinished'",
        "seed": np.int64(request["seed"]),
        "sampler": f"{request['sampler']} version {request['sampler_version']} (scrambled Sobol sequence)",
        "settings": json.dumps(request),
        "versions": json.dumps(versions()),
        "model_source": f"{SOURCE_DIGEST:014x}",
    }
    attributes |= {f"constant_{name}": value for name, value in constants.items()}
    attributes |= {f"num_{name}": np.int64(value) for name, value in counts.items()}
    if (revision := commit()) is not None:
        attributes["commit"] = revision
    return attributes


def _list_unfinished(unfinished):
    number = len(unfinished["status"])
    if number == 0:
        return
    _say(f"{number} parcel(s) found no maximum; their states are in the file's group 'unfinished':")
    for n in range(min(number, LISTED_UNFINISHED)):
        values = ", ".join(
            f"{name} {np.array2string(np.asarray(unfinished[name][n]), precision=4, separator=' ')}" for name in INPUTS
        )
        _say(f"  sample {unfinished['sample_index'][n]} ({STATUS_NAMES[int(unfinished['status'][n])]}): {values}")
    if number > LISTED_UNFINISHED:
        _say(f"  and {number - LISTED_UNFINISHED} more")
