"""A short probe before a search: the same few configurations on growing parts of the data.

The probe's folder holds `probe.json`, and for every part a folder of records as the search writes them:
`p-<part>/step1`, trained as step 1 would, and `reference/step2`, trained as step 2 would, on all the data or the
largest part asked for. The trials are the first random draws from the space of the search.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emulator.records import read_folder
from hpo.config import Config, differences
from hpo.errors import SearchError

SCHEMA = 1
# Parts probed unless asked otherwise: each four times the one before, where that leaves enough samples to train on.
FRACTIONS = (1 / 1024, 1 / 256, 1 / 64, 1 / 16, 1 / 4)
MOST_FRACTIONS = 3
LEAST_SAMPLES = 400
# Settings that a probe does not depend on.
_FREE = ("data.path", "search.trials", "search.top", "search.p_retrain", "search.p_subset", "search.rungs")


@dataclass(frozen=True)
class Probe:
    """What a probe measured, for the trials that finished on every part.

    Attributes
    ----------
    fractions : (F,)
        Parts of the data, increasing; the reference is not among them.
    reference : float
    errors, seconds : (N, F + 1)
        Validation MSE and worker seconds of each trial on each part; the last column is the reference.
    weights : (N,)
        Proportional to what each trial should cost.
    mean_weight : float
        The same, on average over the search space.
    failed : int
        Trials that failed on some part.
    """

    fractions: np.ndarray
    reference: float
    errors: np.ndarray
    seconds: np.ndarray
    weights: np.ndarray
    mean_weight: float
    failed: int

    def __len__(self) -> int:
        return len(self.errors)


def default_fractions(num_samples: int, reference: float) -> tuple[float, ...]:
    """The three largest parts of `FRACTIONS` below the reference that hold enough samples.

    Raises
    ------
    SearchError
        None does.
    """
    fit = [f * reference for f in FRACTIONS if f * reference * num_samples >= LEAST_SAMPLES]
    if not fit:
        raise SearchError(
            f"{num_samples} samples are too few to probe parts of them: a quarter should hold {LEAST_SAMPLES}. Search "
            "on all of them (p_subset = 1)"
        )
    return tuple(fit[-MOST_FRACTIONS:])


def run_probe(
    folder: Path,
    config: Config,
    *,
    fractions: Sequence[float],
    reference: float,
    trials: int,
    devices: list[str],
    stop,
    say: Callable[[str], None],
) -> None:
    """Train what is missing of a probe.

    Parameters
    ----------
    folder : path
        Of the probe alone.
    config : Config
        Of the search to come, as `hpo.run.resolved` gives it.
    fractions : sequence of float
        Below `reference`.
    reference : float
        The part that stands for all the data.
    trials : int
    devices : list of str
        Of each worker.
    stop : hpo.stop.StopSignals
    say : function of a text

    Raises
    ------
    SearchError
        The folder holds a probe with other settings or samples.
    Interrupted
    """
    from hpo.prepare import open_samples
    from hpo.stage import staged

    folder.mkdir(parents=True, exist_ok=True)
    samples = open_samples(config.data)
    checksum = samples.checksum()
    config = staged(config, _description(folder), checksum)
    parts = _check(folder, config, checksum, sorted(fractions), reference, trials)
    for part in (*parts, reference):
        step, place = (2, "reference") if part == reference else (1, f"p-{part:g}")
        done = {r["trial"] for r in read_folder(folder / place / f"step{step}", curves=False)}
        if set(range(trials)) <= done:
            continue
        _run_part(folder, place, step, config, samples, checksum, part, trials, devices, stop, say)
    shutil.rmtree(folder / "cache", ignore_errors=True)


def _run_part(folder, place, step, config, samples, checksum, part, trials, devices, stop, say) -> None:
    # the worker processes and PyTorch only when there is something to train
    from hpo.members import Crew, Member
    from hpo.once import Once
    from hpo.run import prepare_steps
    from hpo.trial import StudyContext, Task
    from hpo.workers import Pool

    home = folder / place
    config = replace(config, search=replace(config.search, p_subset=part, rungs=()))
    with ExitStack() as ends:
        member = ends.enter_context(Member(home, devices=devices))
        crew = Crew.of(home, member)
        ends.callback(crew.leases.close)
        prepared = prepare_steps(folder / "cache", config, samples, checksum, say)
        context = StudyContext(
            folder=home,
            config=config,
            prepared={1: prepared[1], 2: prepared[1]},  # the reference trains as step 2 does, on its own part
            input_columns=samples.input_columns,
            output_columns=samples.output_columns,
            provenance={"probe": folder.resolve().name},
        )
        space = context.space
        tasks = [
            Task(step=step, trial=k, flop=1.0, extra={"subset": part}, params=space.draw(k)) for k in range(trials)
        ]
        say(f"probing {trials} networks on {part:.4g} of the data ({prepared[1].num_train:,} to train on)")
        pool = Pool(context, devices, name=member.name, stop=stop)
        ends.callback(pool.close)
        pool.run(Once(tasks, home, crew), step)
    for rest in ("checkpoints", "models"):  # nobody wants a probe's networks
        shutil.rmtree(home / f"step{step}" / rest, ignore_errors=True)


def _check(folder: Path, config: Config, checksum: str, fractions, reference: float, trials: int) -> list[float]:
    """Note what the probe is, or refuse to go on with another; gives its fractions."""
    path, old = folder / "probe.json", _description(folder)
    tables = config.to_dict()
    if old is not None:
        begun = Config.from_dict(old["config"], str(path)).to_dict()  # settings that did not exist then, too
        changed = [key for key, *_ in differences(begun, tables) if key not in _FREE]
        if old["checksum"] != checksum:
            changed.append("samples")
        if old["reference"] != reference:
            changed.append("--reference")
        if changed:
            raise SearchError(
                f"{folder} holds a probe with other settings ({', '.join(changed)}); give another --out for a new one"
            )
        fractions = sorted({*fractions, *old["fractions"]})
        trials = max(trials, old["trials"])
    found = {
        "schema": SCHEMA,
        "config": tables,
        "checksum": checksum,
        "fractions": list(fractions),
        "reference": reference,
        "trials": trials,
    }
    temporary = path.with_name(".probe.json")
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    return list(fractions)


def _description(folder: Path) -> dict | None:
    path = folder / "probe.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def read_probe(folder: Path) -> Probe:
    """Results of a probe, finished or not: of the trials that every part has.

    Raises
    ------
    SearchError
        No probe there, or fewer than four trials.
    """
    path, description = folder / "probe.json", _description(folder)
    if description is None:
        raise SearchError(f"{folder} holds no probe (no probe.json); give --config or --data to make one")
    fractions = description["fractions"]
    places = [*(folder / f"p-{f:g}" / "step1" for f in fractions), folder / "reference" / "step2"]
    by_part = [{r["trial"]: r for r in read_folder(place, curves=False)} for place in places]
    common = sorted(set.intersection(*(set(p) for p in by_part)))
    whole = [t for t in common if all(p[t]["state"] == "complete" for p in by_part)]
    if len(whole) < 4:
        raise SearchError(f"the probe in {folder} has {len(whole)} trials that finished on every part; expected 4")
    config = Config.from_dict(description["config"], str(path))
    return Probe(
        fractions=np.array(fractions),
        reference=description["reference"],
        errors=np.array([[p[t]["validation_mse"] for p in by_part] for t in whole]),
        seconds=np.array([[p[t]["seconds"] for p in by_part] for t in whole]),
        weights=np.array([_weight(r["hidden"], r["train"]["max_epochs"]) for r in map(by_part[-1].get, whole)]),
        mean_weight=_mean_weight(config),
        failed=len(common) - len(whole),
    )


# A layer's step costs some 50 us beside its arithmetic, which is that of so many weights and 256 samples.
_LAYER_WEIGHTS = 2000.0
_DRAWS = 2000


def _mean_weight(config: Config) -> float:
    from hpo.space import Space

    space = Space(config)
    drawn = [space.draw(trial) for trial in range(_DRAWS)]
    return float(np.mean([_weight(space.hidden(p), space.recipe(p, 2).max_epochs) for p in drawn]))


def _weight(hidden: Sequence[int], epochs: int) -> float:
    """Inputs and outputs, few of them, are left out."""
    return epochs * (sum(a * b for a, b in itertools.pairwise(hidden)) + _LAYER_WEIGHTS * (len(hidden) + 2))
