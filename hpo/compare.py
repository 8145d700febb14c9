"""Studies side by side: best error on all the data against what was spent, several seeds of one setting together.

What counts is an error on all the data: of step 2, or of step 1 where it trains on all of it. A trial's error counts
from when it is finished; what step 1 spent before the first retraining is on the bill.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emulator.mlp import MLPSpec
from emulator.records import read_folder
from hpo.config import Config
from hpo.errors import SearchError
from hpo.study import Study
from hpo.train import training_flop

# Settings that make no other algorithm: where the samples lie, and which random numbers are drawn.
_NOT_A_SETTING = ("data.path", "search.seed", "search.keep_step1_models", "search.checkpoint_seconds")
COSTS = {"seconds": "core-seconds", "flop": "floating-point operations"}


@dataclass(frozen=True)
class Spent:
    """A study as a course of trials that ended.

    Attributes
    ----------
    folder : Path
    seed : int
    settings : dict
        Of `study.json`, flat, without what makes no other algorithm.
    cost : (N,)
        Spent up to the end of each training, in order of their ends (all steps and rungs).
    drawn : (N,)
        Configurations begun until then.
    error : (N,)
        Best error on all the data so far; infinite before the first.
    step1_cost : float
        Of step 1 and its rungs.
    trial : int or None
        The best one.
    """

    folder: Path
    seed: int
    settings: Mapping[str, object]
    cost: np.ndarray
    drawn: np.ndarray
    error: np.ndarray
    step1_cost: float
    trial: int | None

    def error_at(self, cost: float) -> float:
        """Best error for at most so much cost."""
        k = int(np.searchsorted(self.cost, cost * (1.0 + 1e-12), side="right"))
        return float(self.error[k - 1]) if k else np.inf

    def cost_of(self, error: float) -> float:
        """Cost of the first error at most so large; infinite if none is."""
        reached = np.flatnonzero(self.error <= error)
        return float(self.cost[reached[0]]) if len(reached) else np.inf


def spent(folder: Path, cost: str = "seconds", step: int = 2) -> Spent:
    """Read a study, finished or not.

    Parameters
    ----------
    folder : path
    cost : {'seconds', 'flop'}
        Seconds of a core (on GPUs: of a GPU, which its workers share), or arithmetic, which is the same on a machine
        that others use too.
    step : {1, 2}
        1: step 1 alone, by its errors on the subset, which compare between studies of one p_subset only.

    Raises
    ------
    SearchError
        Not a study, or without records.
    """
    study = Study(Path(folder))
    description = study.description
    if description is None:
        raise SearchError(f"{folder} is not a study (it has no study.json); give the --out of hpo.search")
    config = Config.from_dict(description["config"], f"{folder}/study.json")
    price = _Price(config, description, cost)
    courses = [
        (1, {"rung": k, "subset": subset} | r)
        for k, subset in enumerate(config.search.rungs, start=1)
        for r in read_folder(study.folder / f"rung{k}" / "step1", curves=False)
    ]
    # a trial that stopped at a rung is repeated in step 1, where it cost nothing
    courses += [(1, r) for r in study.records(1, curves=False) if not _is_from_rung(r)]
    if step == 2:
        courses += [(2, r) for r in study.records(2, curves=False)]
    if not courses:
        raise SearchError(f"{folder} has no finished trial yet")
    courses.sort(key=lambda c: (c[1]["finished"], c[0], c[1]["trial"]))
    costs = np.array([price(of, r) for of, r in courses])
    best, errors, trial, seen, drawn = np.inf, [], None, set(), []
    for of, r in courses:
        seen.add(r["trial"])
        drawn.append(len(seen))
        counts = of == 2 or ((step == 1 or config.search.p_subset == 1.0) and not _is_from_rung(r))
        if counts and r["state"] == "complete" and r["validation_mse"] < best:
            best, trial = r["validation_mse"], r["trial"]
        errors.append(best)
    first = np.array([of == 1 for of, _ in courses])
    return Spent(
        folder=study.folder,
        seed=config.search.seed,
        settings=_flat(config.to_dict()),
        cost=np.cumsum(costs),
        drawn=np.array(drawn),
        error=np.array(errors),
        step1_cost=float(costs[first].sum()),
        trial=trial,
    )


def _is_from_rung(record: dict) -> bool:
    return "rung" in record


class _Price:
    """What one training cost."""

    def __init__(self, config: Config, description: dict, cost: str):
        self._config, self._cost = config, cost
        self._prepared = description["prepared"]
        self._widths = [len(description["columns"][side]) for side in ("inputs", "outputs")]
        run = (description.get("runs") or [{"device": "cpu", "workers": 1}])[0]
        gpus = [d for d in run["device"].split(", ") if d.startswith("cuda")]
        self._share = len(gpus) / run["workers"] if gpus else 1.0

    def __call__(self, step: int, record: dict) -> float:
        if self._cost == "seconds":
            return record["seconds"] * self._share
        train, validation = (self._prepared[k][str(step)] for k in ("num_train", "num_validation"))
        if "subset" in record:  # of a rung, by the parts that step 2 has of all
            part = record["subset"]
            train, validation = (round(part * self._prepared[k]["2"]) for k in ("num_train", "num_validation"))
        inputs, outputs = self._widths
        spec = MLPSpec(num_inputs=inputs, hidden=tuple(record["hidden"]), num_outputs=outputs)
        return training_flop(spec, train, validation, record["epochs"])


def _flat(tables: Mapping) -> dict[str, object]:
    flat = {f"{table}.{key}": value for table, values in tables.items() for key, value in values.items()}
    return {k: v for k, v in flat.items() if k not in _NOT_A_SETTING}


@dataclass(frozen=True)
class Group:
    """Studies that differ in their seeds alone."""

    name: str
    studies: tuple[Spent, ...]


def grouped(studies: Sequence[Spent], names: Sequence[str | None] = ()) -> list[Group]:
    """Studies with the same settings together, in order of their first; named by what differs, or as given."""
    names = [*names, *[None] * (len(studies) - len(names))]
    keys = sorted({k for s in studies for k in s.settings})
    differing = [k for k in keys if len({json.dumps(s.settings.get(k)) for s in studies}) > 1]
    groups: dict[str, list[Spent]] = {}
    for study, name in zip(studies, names, strict=True):
        label = name or ", ".join(f"{k.partition('.')[2]} {_short(study.settings.get(k))}" for k in differing)
        groups.setdefault(label or "all", []).append(study)
    return [Group(name, tuple(members)) for name, members in groups.items()]


def _short(value) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


@dataclass(frozen=True)
class Row:
    """One group in the table; deviations (n - 1) are None for a single study.

    `equal_cost_error` is the best error for the cost of the cheapest study of all, `near_cost` what it took to come
    within the given factor of the best error of all (infinite where a study did not).
    """

    name: str
    seeds: int
    drawn: float
    cost: tuple[float, float | None]
    step1_share: float
    error: tuple[float, float | None]
    equal_cost_error: tuple[float, float | None]
    near_cost: tuple[float, int]


def rows(groups: Sequence[Group], near: float = 1.2) -> list[Row]:
    """The table: groups in order of their mean best error."""
    everything = [s for g in groups for s in g.studies]
    least = min(s.cost[-1] for s in everything)
    limit = near * min(s.error[-1] for s in everything)
    found = []
    for g in groups:
        reached = [c for c in (s.cost_of(limit) for s in g.studies) if np.isfinite(c)]
        found.append(
            Row(
                name=g.name,
                seeds=len(g.studies),
                drawn=float(np.mean([s.drawn[-1] for s in g.studies])),
                cost=_mean([s.cost[-1] for s in g.studies]),
                step1_share=float(np.mean([s.step1_cost / s.cost[-1] if s.cost[-1] else 1.0 for s in g.studies])),
                error=_mean([s.error[-1] for s in g.studies]),
                equal_cost_error=_mean([s.error_at(least) for s in g.studies]),
                near_cost=(float(np.mean(reached)) if reached else np.inf, len(reached)),
            )
        )
    return sorted(found, key=lambda r: (r.error[0], r.name))


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    values = np.asarray(values, dtype=float)
    if not np.isfinite(values).all():
        return np.inf, None
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def mean_course(group: Group, points: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cost, mean best error, least and largest over the seeds, from where all seeds have one to where the last ends.

    One that has ended keeps its error: more could be spent, and nothing would change.

    Returns
    -------
    cost, mean, least, largest : (P,)
        Empty if some seed has no error.
    """
    starts = [s.cost[np.isfinite(s.error)] for s in group.studies]
    if any(len(c) == 0 for c in starts):
        return (np.empty(0),) * 4
    cost = np.geomspace(max(c[0] for c in starts), max(s.cost[-1] for s in group.studies), points)
    errors = np.array([[s.error_at(c) for c in cost] for s in group.studies])
    return cost, errors.mean(axis=0), errors.min(axis=0), errors.max(axis=0)


def check_comparable(studies: Sequence[Spent]) -> None:
    """Refuse errors that are not in the same units or of the same data.

    Raises
    ------
    SearchError
    """
    first, *others = [(s.folder, Study(s.folder).description) for s in studies]
    for folder, description in others:
        for what, of in (
            ("samples", lambda d: d["data"]["checksum"]),
            ("outputs", lambda d: [c["name"] for c in d["columns"]["outputs"]]),
            ("units of the error", lambda d: (d["prepared"] or {}).get("error_units")),
        ):
            a, b = of(first[1]), of(description)
            if a != b:
                raise SearchError(
                    f"{first[0]} and {folder} have other {what} ({a}; {b}): their errors do not compare. Compare "
                    "studies of the same samples"
                )
