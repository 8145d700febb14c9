"""What the report reads of a study folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpo.config import DEFAULT_TOP
from hpo.errors import SearchError
from hpo.observer import Observer
from hpo.progress import duration
from hpo.report.words import count
from hpo.statistics import completed
from hpo.study import Study
from hpo.view import title


@dataclass(frozen=True, kw_only=True)
class StudyView:
    """A study as its files stand now.

    Attributes
    ----------
    folder : Path
    label : str
        What figures call it: its folder, or its `p_subset` where that tells several studies apart.
    description : dict
    step1, step2 : list of dict
        All records, whatever their state.
    first, second : list of dict
        Completed records of the two steps, least error first.
    stage : str
        How far the study is, a sentence.
    running : bool
    latency : dict or None
        `latency.json`.
    rungs : tuple of list of dict
        Records of the rungs below step 1.
    """

    folder: Path
    label: str
    description: dict
    step1: list[dict]
    step2: list[dict]
    first: list[dict]
    second: list[dict]
    stage: str
    running: bool
    latency: dict | None = None
    rungs: tuple[list[dict], ...] = ()

    @property
    def p_subset(self) -> float:
        return self._search["p_subset"]

    @property
    def top(self) -> int:
        """Trials that step 2 retrains for their error."""
        p_retrain = self._search.get("p_retrain")
        if p_retrain is not None:
            return max(1, round(p_retrain * self._search["trials"]))
        return min(self._search.get("top") or DEFAULT_TOP, self._search["trials"])

    @property
    def sampler(self) -> str:
        """How trials were chosen."""
        return self._search.get("sampler", "random")

    @property
    def _search(self) -> dict:
        return self.description["config"]["search"]

    @property
    def networks(self) -> list[dict]:
        """Completed networks of the last step that has any, best first."""
        return self.second or self.first

    @property
    def units(self) -> str:
        """Units of the errors: the outputs' squared, where all outputs have the same."""
        if (self.description.get("prepared") or {}).get("error_units") != "physical":
            return "standardised outputs"
        found = {c["units"] for c in self.description["columns"]["outputs"]}
        if len(found) > 1:
            return "output units squared"
        unit = found.pop()
        return "1" if unit in ("1", "") else f"({unit})²"

    @property
    def num_on_rungs(self) -> int:
        """Trials that ended on a rung."""
        return sum("rung" in r for r in self.step1)

    def states(self, step: int) -> dict[str, int]:
        """Number of records of each state; `num_on_rungs` counts those that ended before step 1."""
        found: dict[str, int] = {}
        for r in (r for r in (self.step1 if step == 1 else self.step2) if "rung" not in r):
            found[r["state"]] = found.get(r["state"], 0) + 1
        return found


def read_studies(folders: Sequence[Path]) -> list[StudyView]:
    """Studies in the order given.

    Raises
    ------
    SearchError
        Not a study, nothing finished in it, or errors in different units.
    """
    views = [_read(folder) for folder in folders]
    units = {v.units for v in views}
    if len(units) > 1:
        raise SearchError(f"the studies measure their errors in {', '.join(sorted(units))}; expected one unit")
    labels = [f"p = {v.p_subset:g}" for v in views]
    if len(set(labels)) < len(views):
        labels = [v.folder.resolve().name for v in views]
    if len(set(labels)) < len(views):
        labels = [str(v.folder) for v in views]
    if len(views) == 1:
        labels = [views[0].folder.resolve().name]
    return [StudyView(**(vars(v) | {"label": label})) for v, label in zip(views, labels, strict=True)]


def _read(folder: Path) -> StudyView:
    study = Study(folder)
    if study.description is None:
        raise SearchError(f"{folder} is not a study (it has no study.json); give the --out of hpo.search")
    step1, step2 = study.records(1), study.records(2)
    stage, running = _stage(folder, len(step2))
    rungs = study.rung_records()
    if not any(completed(records) for records in (step1, step2, *rungs)):
        remedy = "wait" if running else f"run `python -m hpo.search --out {folder}`"
        raise SearchError(f"{folder} has no finished trial in step 1 yet; {remedy}. {stage}")
    return StudyView(
        folder=folder,
        label="",
        description=study.description,
        step1=step1,
        step2=step2,
        first=completed(step1),
        second=completed(step2),
        stage=stage,
        running=running,
        latency=read_latency(folder),
        rungs=tuple(rungs),
    )


def _stage(folder: Path, retrained: int) -> tuple[str, bool]:
    """How far a study is, and whether it runs; `retrained` trials are on record."""
    look = Observer(folder).look()
    words = {"finished": "finished", "running": "still running", "waiting": "about to run", "stopped": "not running"}
    parts = []
    for s in look.parts:
        if s.rung is not None and s.finished:
            continue
        where = f"in {s.name}" if s.rung is None else f"on {title(s)}"
        if s.total is None:
            parts.append(f"{s.name} not begun" if not s.done else f"{s.done:,} done {where}")
            continue
        left = f", about {duration(s.seconds_left)} left" if s.seconds_left and not s.finished else ""
        more = f" ({s.left_on_rungs:,} more ended on rungs)" if s.left_on_rungs else ""
        if s.step == 2 and retrained > s.done:
            more = f" ({retrained - s.done:,} more retrained under other settings)"
        parts.append(f"{s.done:,} of {count(s.total, 'trial')} done {where}{more}{left}")
    return f"The study is {words.get(look.stage, look.stage)}: {'; '.join(parts)}.", look.stage == "running"


def read_latency(folder: Path) -> dict | None:
    """`latency.json` of a study, None if there is none.

    Raises
    ------
    SearchError
        Not readable.
    """
    path = folder / "latency.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise SearchError(f"{path} cannot be read: {error}; remove it and measure again") from None
