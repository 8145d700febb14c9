"""One trial trained again with other seeds: how much of its error is the configuration, how much is luck.

A repeat of trial N differs from its step-2 training in the initial weights and the order of samples alone: same
configuration and recipe, same training and validation rows. Repeats are recorded as step 2 records its trials, in
`OUT/repeats/trial-<N>/step2`, with the number of the repeat as `trial` and N as `of_trial`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emulator.records import read_folder
from hpo.config import Config
from hpo.errors import SearchError
from hpo.study import Study, ranking

# Largest error of `lightest`, as a multiple of the best; that of `python -m emulator.export --pick lightest`.
_LIGHTEST_FACTOR = 2.0


def chosen_trial(folder: Path, which: str) -> int:
    """Number of the trial that `which` names.

    Parameters
    ----------
    folder : path
        Of a study.
    which : str
        `best`: least error of step 2. `lightest`: fewest parameters among those within twice the best error. Or the
        number of a trial of either step.

    Raises
    ------
    SearchError
        No such trial, or nothing retrained yet.
    """
    study = _study(folder)
    if which.isdigit():
        if not any(r["trial"] == int(which) for step in (2, 1) for r in study.records(step, curves=False)):
            raise SearchError(f"{folder} has no record of trial {which}; `python -m hpo.report {folder}` lists them")
        return int(which)
    if which not in ("best", "lightest"):
        raise SearchError(f"trial is {which!r}; expected a number, best or lightest")
    ranked = ranking(study.records(2, curves=False))
    if not ranked:
        raise SearchError(f"step 2 of {folder} has no finished trial yet; give the number of a trial of step 1")
    if which == "best":
        return ranked[0]["trial"]
    near = [r for r in ranked if r["validation_mse"] <= _LIGHTEST_FACTOR * ranked[0]["validation_mse"]]
    return min(near, key=lambda r: (r["num_parameters"], r["validation_mse"], r["trial"]))["trial"]


def repeats_folder(folder: Path, trial: int) -> Path:
    return folder / "repeats" / f"trial-{trial:06d}"


def repeats(folder: Path, trial: int) -> list[dict]:
    """Records of the repeats of a trial, by number; empty if there are none."""
    return read_folder(repeats_folder(folder, trial) / "step2")


def retrain(
    folder: Path,
    trial: int,
    seeds: int,
    devices: list[str],
    *,
    stop,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict]:
    """Train a trial of a study on all its data with `seeds` other seeds, or go on with it.

    Parameters
    ----------
    folder : path
        Of the study.
    trial : int
    seeds : int
        How many repeats there are to be in the end; those on disk are kept.
    devices : list of str
        Of each worker.
    stop : hpo.stop.StopSignals
    say : function of a text
        Told of every repeat that ends.

    Returns
    -------
    list of dict
        The first `seeds` repeats.

    Raises
    ------
    SearchError
        No such trial, or the samples are gone or others.
    Interrupted
    """
    # the worker processes and PyTorch only when there is something to train
    from hpo.members import Crew, Member
    from hpo.once import Once
    from hpo.trial import Task
    from hpo.workers import Pool

    home = repeats_folder(folder, trial)
    if len([r for r in repeats(folder, trial) if r["trial"] < seeds]) < seeds:
        with ExitStack() as ends:
            member = ends.enter_context(Member(home, devices=devices))
            crew = Crew.of(home, member)
            ends.callback(crew.leases.close)
            cache = home / f"cache-{member.name}"
            ends.callback(shutil.rmtree, cache, ignore_errors=True)
            context, params = _context(folder, trial, home, cache, say)
            pool = Pool(context, devices[:seeds], name=member.name, stop=stop)
            ends.callback(pool.close)
            extra = {"of_trial": trial}
            tasks = [Task(step=2, trial=k, flop=1.0, extra=extra, params=params) for k in range(seeds)]
            pool.run(Once(tasks, home, crew, lambda r: say(_said(r, seeds))), 2)
        for rest in (home / "step2" / "checkpoints", *home.glob("cache-*")):  # a kill leaves the latter
            shutil.rmtree(rest, ignore_errors=True)
    return [r for r in repeats(folder, trial) if r["trial"] < seeds]


def _study(folder: Path) -> Study:
    study = Study(Path(folder))
    if study.description is None:
        raise SearchError(f"{folder} is not a study (it has no study.json); give the --out of hpo.search")
    return study


def _context(folder: Path, trial: int, home: Path, cache: Path, say):
    """What the workers need to know, and the trial's parameters."""
    from hpo.prepare import open_samples
    from hpo.run import prepare_steps
    from hpo.space import torch_seed
    from hpo.trial import StudyContext

    study = _study(folder)
    found = [r for step in (2, 1) for r in study.records(step, curves=False) if r["trial"] == trial]
    if not found:
        raise SearchError(f"{folder} has no record of trial {trial}; `python -m hpo.report {folder}` lists them")
    description = study.description
    config = Config.from_dict(description["config"], f"{folder}/study.json")
    samples = open_samples(config.data)
    checksum = samples.checksum()
    if checksum != description["data"]["checksum"]:
        raise SearchError(
            f"{samples.path} has checksum {checksum}, the study used {description['data']['checksum']}: the file has "
            "changed, and errors on it would not compare with the study's"
        )
    whole = replace(config, search=replace(config.search, p_subset=1.0, rungs=()))  # step 2's data alone
    prepared = prepare_steps(cache, whole, samples, checksum, say)
    streamed = (description["prepared"] or {}).get("stream", {}).get("2", False)
    prepared = {step: replace(p, stream=streamed) for step, p in prepared.items()}
    other_seed = torch_seed(config.search.seed, trial, "repeats")
    context = StudyContext(
        folder=home,
        config=replace(config, search=replace(config.search, seed=other_seed)),
        prepared=prepared,
        input_columns=samples.input_columns,
        output_columns=samples.output_columns,
        provenance={
            "study": folder.resolve().name,
            "data": description["data"],
            "seed": other_seed,
            "versions": description["versions"],
            "commit": description["commit"],
            "error_units": description["prepared"]["error_units"],
        },
    )
    return context, found[0]["params"]


def _said(record: dict, seeds: int) -> str:
    what = f"MSE {record['validation_mse']:.4g}" if record["validation_mse"] is not None else record["error"]
    return f"repeat {record['trial'] + 1} of {seeds}: {what} after {record['epochs']} epochs, {record['seconds']:.1f} s"


@dataclass(frozen=True)
class EpochRow:
    """Validation MSE over the repeats that reached an epoch; `deviation` is None for a single one."""

    epoch: int
    repeats: int
    mean: float
    deviation: float | None


def epoch_rows(records: Sequence[dict]) -> list[EpochRow]:
    """Mean and standard deviation (n - 1) of the validation MSE, epoch by epoch."""
    curves = [r["curve"]["validation_mse"] for r in records]
    rows = []
    for epoch in range(1, max(map(len, curves), default=0) + 1):
        values = [c[epoch - 1] for c in curves if len(c) >= epoch]
        rows.append(EpochRow(epoch, len(values), *mean_and_deviation(values)))
    return rows


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1); None for the latter of one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
