"""A short probe before a search: the same few configurations on growing parts of the data.

The probe's folder holds `probe.json`, and for every part a folder of records as the search writes them:
`p-<part>/step1`, trained as step 1 would, and `reference/step2`, trained as step 2 would, on all the data or the
largest part asked for. The trials are the first random draws from the space of the search. Those that the largest part
ranks best, which a search would retrain, are trained once more on the reference with other seeds (`again/step2`): how
far two trainings of one network differ is the finest order that any part of the data could find. They are trained on it
with a learning rate that decays, too (`decay-<rate>/step2`): every rate with the first two of them, the best rate with
all, and with half of them once more (`decay-<rate>-again/step2`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emulator.mlp import MLPSpec
from emulator.records import read_folder
from hpo.command import make_folder
from hpo.config import Config, differences
from hpo.decay import MULTIPLES, PILOTS, Decay, best_rate, constant_rate, decaying
from hpo.errors import SearchError
from hpo.statistics import completed

SCHEMA = 2
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
    errors, seconds, flop : (N, F + 1)
        Validation MSE, worker seconds and arithmetic of each trial on each part; the last column is the reference.
    again : (N,)
        Validation MSE of a second training on the reference, NaN for trials that had none.
    sizes : (N, 2)
        What each should cost on the reference if it ran all its epochs: arithmetic, and something proportional to
        seconds.
    space_sizes : (D, 2)
        The same of random draws from the search space.
    failed : int
        Trials that failed on some part.
    decay : Decay or None
        The same networks with a learning rate that decays, if that was tried.
    """

    fractions: np.ndarray
    reference: float
    errors: np.ndarray
    seconds: np.ndarray
    flop: np.ndarray
    again: np.ndarray
    sizes: np.ndarray
    space_sizes: np.ndarray
    failed: int
    decay: Decay | None = None

    def __len__(self) -> int:
        return len(self.errors)

    def seed_ratios(self) -> np.ndarray:
        """The larger error divided by the smaller one, of each network that was trained twice on the reference."""
        twice = np.isfinite(self.again)
        return np.exp(np.abs(np.log(self.again[twice] / self.errors[twice, -1])))


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
    repeats: int,
    decay: bool,
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
    repeats : int
        How many of them are trained twice on the reference.
    decay : bool
        Whether these are trained with a learning rate that decays, too, unless that of the search does already.
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
    from hpo.space import torch_seed
    from hpo.stage import staged

    make_folder(folder)
    samples = open_samples(config.data)
    checksum = samples.checksum()
    config = staged(config, _description(folder), checksum)
    parts = _check(folder, config, samples, checksum, sorted(fractions), reference, trials)
    seed, other = config.search.seed, torch_seed(config.search.seed, 0, "probe again")

    def run(place, step, part, trials, seed, config=config):
        _run_part(place, step, part, trials, seed, folder, config, samples, checksum, devices, stop, say)

    for part in parts:
        run(f"p-{part:g}", 1, part, range(trials), seed)
    run("reference", 2, reference, range(trials), seed)
    promising = [r["trial"] for r in completed(read_folder(folder / f"p-{parts[-1]:g}" / "step1", curves=False))]
    promising = promising[:repeats]
    run("again", 2, reference, promising, other)
    constant = constant_rate(config)
    if decay and promising and constant is not None:
        for multiple in MULTIPLES:
            rate = multiple * constant
            run(f"decay-{rate:g}", 2, reference, promising[:PILOTS], seed, decaying(config, rate))
        rate = best_rate(_tried(folder, constant))
        run(f"decay-{rate:g}", 2, reference, promising, seed, decaying(config, rate))
        run(f"decay-{rate:g}-again", 2, reference, promising[: (repeats + 1) // 2], other, decaying(config, rate))
    shutil.rmtree(folder / "cache", ignore_errors=True)


def _tried(folder: Path, constant: float) -> dict[float, dict[int, float]]:
    """Errors by rate and trial of what has decayed so far; infinite where a training failed."""
    rates = [multiple * constant for multiple in MULTIPLES]
    return {rate: _errors(folder / f"decay-{rate:g}") for rate in rates}


def _errors(place: Path) -> dict[int, float]:
    records = read_folder(place / "step2", curves=False)
    return {r["trial"]: r["validation_mse"] if r["state"] == "complete" else np.inf for r in records}


def _run_part(
    place: str,
    step: int,
    part: float,
    trials: Iterable[int],
    seed: int,
    folder: Path,
    config: Config,
    samples,
    checksum: str,
    devices: list[str],
    stop,
    say,
) -> None:
    """Train those of the trials that have no record yet; `seed` is that of weights and order, not of configurations."""
    done = {r["trial"] for r in read_folder(folder / place / f"step{step}", curves=False)}
    if set(trials) <= done:
        return
    # the worker processes and PyTorch only when there is something to train
    from hpo.members import Crew, Member
    from hpo.once import Once
    from hpo.run import prepare_steps
    from hpo.space import Space
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
            config=replace(config, search=replace(config.search, seed=seed)),
            prepared={1: prepared[1], 2: prepared[1]},  # the reference trains as step 2 does, on its own part
            input_columns=samples.input_columns,
            output_columns=samples.output_columns,
            provenance={"probe": folder.resolve().name},
        )
        space = Space(config)
        tasks = [Task(step=step, trial=k, flop=1.0, extra={"subset": part}, params=space.draw(k)) for k in trials]
        rate = place.removeprefix("decay-").removesuffix("-again")
        how = f", from a learning rate of {rate} that decays" if place.startswith("decay") else ""
        how += ", once more with other seeds" if place.endswith("again") else ""
        say(f"probing {len(tasks)} networks on {part:.4g} of the data ({prepared[1].num_train:,} to train on){how}")
        pool = Pool(context, devices, name=member.name, stop=stop)
        ends.callback(pool.close)
        pool.run(Once(tasks, home, crew), step)
    for rest in ("checkpoints", "models"):  # nobody wants a probe's networks
        shutil.rmtree(home / f"step{step}" / rest, ignore_errors=True)


def _check(
    folder: Path, config: Config, samples, checksum: str, fractions: Sequence[float], reference: float, trials: int
) -> list[float]:
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
        "columns": [len(samples.input_columns), len(samples.output_columns)],
        "rows": {f"{p:g}": _rows(config, samples, p) for p in (*fractions, reference)},
    }
    temporary = path.with_name(".probe.json")
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    return list(fractions)


def _rows(config: Config, samples, part: float) -> list[int]:
    """Training and validation samples."""
    from hpo.prepare import rows_of

    rows = rows_of(config, samples.num_samples, part)
    return [rows.train.size, rows.validation.size]


def _description(folder: Path) -> dict | None:
    path = folder / "probe.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if found is not None and found["schema"] != SCHEMA:
        raise SearchError(
            f"{path} has schema {found['schema']}, this version writes {SCHEMA}; give another --out for a new probe"
        )
    return found


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
    second = {r["trial"]: r["validation_mse"] for r in completed(read_folder(folder / "again/step2", curves=False))}
    from hpo.space import Space
    from hpo.train import training_flop

    space, size = Space(config), _Size(description)
    rows = [description["rows"][f"{p:g}"] for p in (*fractions, description["reference"])]
    flop = [
        [training_flop(size.spec(p[t]["hidden"]), *of, p[t]["epochs"]) for of, p in zip(rows, by_part, strict=True)]
        for t in whole
    ]
    errors = np.array([[p[t]["validation_mse"] for p in by_part] for t in whole])
    again = np.array([second.get(t, np.nan) for t in whole])
    lengths = [space.recipe(by_part[-1][t]["params"], 2).max_epochs / by_part[-1][t]["epochs"] for t in whole]
    return Probe(
        fractions=np.array(fractions),
        reference=description["reference"],
        errors=errors,
        seconds=np.array([[p[t]["seconds"] for p in by_part] for t in whole]),
        flop=np.array(flop),
        again=again,
        sizes=np.array([size(space, by_part[-1][t]["params"]) for t in whole]),
        space_sizes=np.array([size(space, space.draw(trial)) for trial in range(_DRAWS)]),
        failed=len(common) - len(whole),
        decay=_decay(folder, config, whole, np.column_stack([errors[:, -1], again]), np.array(lengths)),
    )


def _decay(
    folder: Path, config: Config, trials: Sequence[int], constant_N2: np.ndarray, lengths: np.ndarray
) -> Decay | None:
    constant = constant_rate(config)
    tried = {} if constant is None else _tried(folder, constant)
    if not tried or not set.intersection(*(set(errors) for errors in tried.values())):
        return None
    rate = best_rate(tried)
    both = [_errors(folder / f"decay-{rate:g}{again}") for again in ("", "-again")]
    found = np.array([[errors.get(t, np.nan) for errors in both] for t in trials])
    return Decay(
        constant=constant,
        rate=rate,
        tried=tuple(tried),
        constant_errors=np.exp(np.nanmean(np.log(constant_N2), axis=1)),
        errors=np.where(np.isinf(found), constant_N2[:, 0].max(), found),
        lengths=lengths,
        failed=int(np.isinf(found).sum()),
    )


_DRAWS = 2000


class _Size:
    """What a training on the reference should cost if it runs all its epochs."""

    def __init__(self, description: dict):
        self._rows = description["rows"][f"{description['reference']:g}"]
        self._columns = description["columns"]

    def spec(self, hidden: Sequence[int]) -> MLPSpec:
        inputs, outputs = self._columns
        return MLPSpec(num_inputs=inputs, hidden=tuple(hidden), num_outputs=outputs)

    def __call__(self, space, params) -> tuple[float, float]:
        """Arithmetic, and that with what small layers cost beyond it."""
        from hpo.train import training_flop
        from hpo.trial import overhead_flop

        hidden, recipe = space.hidden(params), space.recipe(params, 2)
        arithmetic = training_flop(self.spec(hidden), *self._rows, recipe.max_epochs)
        return arithmetic, arithmetic + overhead_flop(hidden, recipe, self._rows[0])
