"""The search itself: lock, describe, prepare, step 1, step 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from emulator.dataset import SampleFile
from hpo import step1, step2
from hpo.config import Config
from hpo.errors import SearchError
from hpo.mirror import Mirror
from hpo.prepare import Prepared, open_samples, prepare, rows_of
from hpo.progress import StepProgress
from hpo.space import Space
from hpo.study import Study, ranking
from hpo.trial import StudyContext, Task
from hpo.workers import Pool, usable_cores

# Processes that keep one GPU busy with small networks; more gain nothing measurable without MPS.
WORKERS_PER_GPU = 8


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a search came to: all records of both steps, and the chosen trials of step 1."""

    step1: list[dict]
    step2: list[dict]
    promotions: list[step2.Promotion]
    description: Mapping


def worker_devices(device: str, workers: int | None) -> list[str]:
    """Device of every worker.

    Parameters
    ----------
    device : str
        `cpu`, `cuda` (all GPUs), `cuda:k`, or `auto` (cuda if there is a GPU).
    workers : int or None
        None: one for every usable core, at most 8 per GPU.

    Raises
    ------
    SearchError
        Unknown or missing device.
    """
    import torch

    if workers is not None and workers < 1:
        raise SearchError(f"--workers is {workers}; expected at least 1")
    name, _, index = device.partition(":")
    if name not in ("cpu", "cuda", "auto") or (index and not (name == "cuda" and index.isdigit())):
        raise SearchError(f"--device is {device!r}; expected cpu, cuda, cuda:0 (1, ...) or auto")
    gpus = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cuda" and gpus <= int(index or 0):
        raise SearchError(f"--device {device}: PyTorch sees {gpus} GPUs; expected at least {int(index or 0) + 1}")
    if not gpus:
        return ["cpu"] * (workers or usable_cores())
    chosen = [f"cuda:{index}"] if index else [f"cuda:{k}" for k in range(gpus)]
    workers = workers or min(usable_cores(), WORKERS_PER_GPU * len(chosen))
    return [chosen[k % len(chosen)] for k in range(workers)]


def run_search(
    study: Study,
    config: Config,
    *,
    devices: list[str],
    lock_fd: int,
    console: Console,
    quiet: bool = False,
    rebuild_mirror: bool = False,
) -> Result:
    """Run a search to its end, or go on with it.

    Parameters
    ----------
    study : Study
        Its folder is locked by `lock_fd`.
    config : Config
    devices : list of str
        Of each worker.
    console : Console
    quiet : bool
    rebuild_mirror : bool
        Make `study.journal` anew from the records.

    Raises
    ------
    SearchError, Interrupted
    """

    def say(text: str) -> None:
        if not quiet:
            console.print(text, highlight=False, soft_wrap=True)

    samples = open_samples(config.data)
    checksum = samples.checksum()
    study.describe(config, samples, checksum)
    journal = study.folder / "study.journal"
    if rebuild_mirror:
        journal.unlink(missing_ok=True)
    mirror = Mirror(journal, Space(config), [r for step in (1, 2) for r in study.records(step)])
    try:
        if _unfinished(study, config):
            context = _context(study, config, samples, checksum, say)
            study.note_run(device=", ".join(sorted(set(devices))), workers=len(devices))
            _run_steps(study, context, devices, lock_fd, mirror, console, quiet)
            shutil.rmtree(study.folder / "cache", ignore_errors=True)
        shutil.rmtree(study.folder / "step2" / "checkpoints", ignore_errors=True)
    finally:
        mirror.flush()
    return Result(
        step1=_step1_records(study, config),
        step2=study.records(2),
        promotions=_promotions(study, config),
        description=study.description,
    )


def _run_steps(study, context, devices, lock_fd, mirror, console, quiet) -> None:
    show: StepProgress | None = None

    def on_record(record: dict) -> None:
        mirror.add(record)
        show.record(record)

    pool = Pool(
        context,
        devices,
        lock_fd,
        on_record=on_record,
        on_tick=lambda busy: show.tick(busy),
        write_record=study.add_record,
    )
    config = context.config
    finished = _step1_records(study, config)
    tasks = step1.tasks(context, (r["trial"] for r in finished), len(devices))
    try:
        with _progress("step 1", config.search.trials, finished, tasks, console, quiet) as show:
            pool.run(tasks)
        promotions = _promotions(study, config)
        if not promotions:
            raise SearchError(_why_none(_step1_records(study, config)))
        chosen = {p.trial for p in promotions}
        finished = [r for r in study.records(2) if r["trial"] in chosen]
        tasks = step2.tasks(context, promotions, (r["trial"] for r in finished))
        with _progress("step 2", len(promotions), finished, tasks, console, quiet) as show:
            pool.run(tasks)
    finally:
        pool.close()


def _progress(title, total, finished, tasks: list[Task], console, quiet) -> StepProgress:
    ranked = ranking(finished)
    return StepProgress(
        title,
        total=total,
        before=len(finished),
        failed=len(finished) - len(ranked),
        best=ranked[0]["validation_mse"] if ranked else None,
        flop={t.trial: t.flop for t in tasks},
        console=console,
        quiet=quiet,
    )


def _step1_records(study: Study, config: Config) -> list[dict]:
    return [r for r in study.records(1) if r["trial"] < config.search.trials]


def _promotions(study: Study, config: Config) -> list[step2.Promotion]:
    search = config.search
    return step2.promote(
        _step1_records(study, config),
        top=search.num_top,
        light_top=search.light_top,
        light_factor=search.light_factor,
    )


def _unfinished(study: Study, config: Config) -> bool:
    if len(_step1_records(study, config)) < config.search.trials:
        return True
    done = {r["trial"] for r in study.records(2)}
    promotions = _promotions(study, config)
    return not promotions or any(p.trial not in done for p in promotions)


def _why_none(records: list[dict]) -> str:
    reasons: dict[str, int] = {}
    for r in records:
        reasons[r["error"]] = reasons.get(r["error"], 0) + 1
    common = max(reasons, key=reasons.get)
    return f"all {len(records)} trials of step 1 failed, so that none can be retrained; most often: {common}"


def _context(study: Study, config: Config, samples: SampleFile, checksum: str, say) -> StudyContext:
    prepared = prepare_steps(study.folder / "cache", config, samples, checksum, say)
    study.note(
        prepared={
            "output_activation": prepared[2].output_activation,
            "error_units": "physical" if prepared[2].outputs.is_identity else "standardised",
            "input_transforms": [list(n.transforms) for n in prepared[2].inputs],
            "num_train": {str(s): p.num_train for s, p in prepared.items()},
            "num_validation": {str(s): p.num_validation for s, p in prepared.items()},
        }
    )
    description = study.description
    return StudyContext(
        folder=study.folder,
        config=config,
        prepared=prepared,
        input_columns=samples.input_columns,
        output_columns=samples.output_columns,
        provenance={
            "study": study.folder.resolve().name,
            "data": description["data"],
            "seed": config.search.seed,
            "versions": description["versions"],
            "commit": description["commit"],
            "error_units": description["prepared"]["error_units"],
        },
    )


def prepare_steps(
    folder: Path, config: Config, samples: SampleFile, checksum: str, say: Callable[[str], None]
) -> dict[int, Prepared]:
    """Data of both steps, the full one first: what is wrong with the samples shows before the search, not after
    step 1; and both steps share what `auto` means on all the training data."""
    data, space = config.data, config.space
    subset = config.search.p_subset
    transforms = Space(config).input_transforms
    activation, output_transforms = space.output_activation, data.output_transforms
    prepared: dict[int, Prepared] = {}
    for step, part in ((2, 1.0), (1, subset)):
        if step == 1 and subset == 1.0:
            prepared[1] = prepared[2]
            continue
        key = {
            "checksum": checksum,
            "columns": [c.to_dict() for c in (*samples.input_columns, *samples.output_columns)],
            "seed": config.search.seed,
            "subset": part,
            "test_fraction": data.test_fraction,
            "validation_fraction": data.validation_fraction_at(part),
            "input_transforms": transforms,
            "output_transforms": output_transforms,
            "output_activation": activation,
        }
        prepared[step] = prepare(
            folder / f"step{step}",
            samples,
            rows_of(config, samples.num_samples, part),
            input_transforms=transforms,
            output_transforms=output_transforms,
            output_activation=activation,
            key=key,
            say=say,
        )
        if step == 2:
            found = prepared[2]
            names = [c.name for c in samples.input_columns]
            transforms = tuple(dict(zip(names, n.transforms, strict=True)) for n in found.inputs)
            outputs = [c.name for c in samples.output_columns]
            output_transforms = dict(zip(outputs, found.outputs.transforms, strict=True))
            activation = found.output_activation
    return prepared


def resolved(config: Config, samples: SampleFile) -> Config:
    """The config with what the samples file decides written out: absolute path, names of inputs and outputs."""
    data = replace(config.data, path=str(samples.path.resolve()), inputs=samples.inputs, outputs=samples.outputs)
    return replace(config, data=data)
