"""Figure of the rungs of step 1: how many trials went on, and whether the order on a small subset held on a larger."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo import statistics
from hpo.config import Config
from hpo.ladder import Rung, climbed
from hpo.promotion import going_on
from hpo.report.ranks import error_label, of_study, prefix
from hpo.report.studies import StudyView
from hpo.report.style import (
    FAINT,
    FRONT,
    STEP1,
    STEP2,
    NothingToDraw,
    Panel,
    Section,
    axes,
    dots,
    legend,
    log_scale,
    study_color,
    study_marker,
    whole_ticks,
)
from hpo.report.words import count, listed, number

# Lines of so many trials that ended on a rung are drawn at most.
_MOST_LINES = 300
# Of the trials that went on, where the last of the best lay: behind this, the line was drawn close to them.
_CLOSE = 0.8


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A rung, or step 1 itself.

    Attributes
    ----------
    subset : float
    records : list of dict
        Of the trials that were trained on it so far.
    expected : int
        How many are.
    went_on : int or None
        Of a rung that is finished.
    """

    subset: float
    records: list[dict]
    expected: int
    went_on: int | None

    @property
    def done(self) -> bool:
        return len(self.records) >= self.expected


def stages(study: StudyView) -> list[Stage]:
    """The rungs that have begun, then step 1 if it has."""
    config = Config.from_dict(study.description["config"])
    own = [r for r in study.step1 if "rung" not in r]
    found: list[Stage] = []
    expected = config.search.trials
    for subset, records in zip((*config.search.rungs, study.p_subset), (*study.rungs, own), strict=True):
        is_rung = len(found) < len(study.rungs)
        went_on = len(going_on(records, config)) if is_rung and len(records) >= expected else None
        found.append(Stage(subset=subset, records=records, expected=expected, went_on=went_on))
        if went_on is None:
            break
        expected = went_on
    return found


def rungs(studies: Sequence[StudyView]) -> Section:
    """Errors of all trials from rung to rung, and their ranks on two rungs against each other."""
    shown = [s for s in studies if s.rungs]
    if not shown:
        raise NothingToDraw("no study has rungs")
    panels, sentences = [], []
    for study in shown:
        found = stages(study)
        name = "" if len(studies) == 1 else f"-{studies.index(study) + 1}"
        title = prefix(studies, study).removesuffix(": ")
        panels.append(_lines(study, found, f"rungs-errors{name}", title))
        if any(len(_pairs(*two)) > 2 for two in _neighbours(found)):
            panels.append(_ranks(found, f"rungs-ranks{name}", title))
        sentences += of_study(studies, study, _sentences(study, found))
    return Section(title="Rungs of step 1", sentences=tuple(sentences), panels=tuple(panels))


def _neighbours(found: Sequence[Stage]) -> list[tuple[Stage, Stage]]:
    return list(itertools.pairwise(found))


def _pairs(a: Stage, b: Stage) -> statistics.Pairs:
    """Trials that completed a rung and what comes after it."""
    return statistics.both_steps(a.records, b.records)


def _sentences(study: StudyView, found: Sequence[Stage]) -> list[str]:
    first = found[0]
    if not first.done:
        done = f"{len(first.records):,} of {count(first.expected, 'trial')}"
        return [f"{done} are done on the first rung (p = {first.subset:g})."]
    went = [
        f"{s.went_on:,} {'of these' if k else 'went on'} to p = {next_.subset:g}"
        for k, (s, next_) in enumerate(_neighbours(found))
    ]
    text = f"{count(first.expected, 'trial')} began on p = {first.subset:g}; {listed(went)}"
    last = found[-1]
    said = [f"{text}{'' if last.done else f', where {len(last.records):,} are done'}."]
    climb = climbed(Config.from_dict(study.description["config"]).search, study.rungs, study.step1)
    correlations = [c for c in map(_correlation, climb) if c]
    if correlations:
        said.append(
            f"Spearman's correlation of the errors before and after is {listed(correlations)}; only the best went on, "
            "which by itself lowers it."
        )
    if climb and last.done:
        took, saved = (number(sum(getattr(r, name) for r in climb)) for name in ("seconds", "saved"))
        said.append(
            f"The {'rung' if len(climb) == 1 else 'rungs'} took {took} s of worker time; what ended there would have "
            f"taken about {saved} s on the next part of the data."
        )
    if len(found) > len(study.rungs) and last.done:
        said += _margin(study, found)
    return said


def _correlation(rung: Rung) -> str:
    found = rung.correlation
    if found is None:
        return ""
    interval = "" if found.low is None else f" (95 % interval {found.low:.2f} to {found.high:.2f})"
    over = count(found.count, "trial")
    return f"{found.value:.2f}{interval} over {over} from p = {rung.subset:g} to {rung.next_subset:g}"


def _margin(study: StudyView, found: Sequence[Stage]) -> list[str]:
    """How near to the end of those that went on the best of step 1 were."""
    best = {r["trial"] for r in study.first[: study.top]}
    if not best:
        return []
    ranks = [{r["trial"]: k for k, r in enumerate(statistics.completed(s.records), start=1)} for s in found[:-1]]
    by_error = {t for t in best if all(rank[t] <= s.went_on for rank, s in zip(ranks, found[:-1], strict=True))}
    if not by_error:
        return []
    lowest = [max(rank[t] for t in by_error) for rank in ranks]
    where = listed(
        [f"{rank:,} of {s.went_on:,} on p = {s.subset:g}" for rank, s in zip(lowest, found[:-1], strict=True)]
    )
    close = any(rank > _CLOSE * s.went_on for rank, s in zip(lowest, found[:-1], strict=True))
    verdict = (
        "so close to the end that others as good may have been left behind"
        if close
        else "so that no more of them need have gone on"
    )
    who = f"The best {len(best)} of step 1"
    if len(by_error) < len(best):
        num_light = len(best) - len(by_error)
        who = f"Of the best {len(best)} of step 1, {num_light} went on for being light; the others"
    return [f"{who} were among the first {where} that went on, {verdict}."]


def _lines(study: StudyView, found: Sequence[Stage], name: str, title: str) -> Panel:
    """Error of each trial on each rung, in step 1 and in step 2."""
    columns = [statistics.completed(s.records) for s in found]
    labels = [f"p = {s.subset:g}\n{count(len(s.records), 'trial')}" for s in found]
    if study.second:
        columns.append(study.second)
        labels.append(f"step 2\n{count(len(study.second), 'trial')}")
    paths: dict[int, list[float]] = {}
    for at, records in enumerate(columns):
        for r in records:
            path = paths.setdefault(r["trial"], [])
            if len(path) == at:  # one that failed before has no place in between
                path.append(r["validation_mse"])
    figure, drawn = axes("part of the data", error_label("a trial", [study]), title=title)
    ended = [p for p in paths.values() if len(p) < len(columns)]
    through = [p for p in paths.values() if len(p) == len(columns)] if len(columns) > 1 else []
    for path in [p for p in ended if len(p) > 1][:_MOST_LINES]:
        drawn.plot(path, color=STEP1, linewidth=0.7, alpha=0.6)
    at, errors = zip(*((len(p) - 1, p[-1]) for p in ended), strict=True) if ended else ((), ())
    dots(drawn, at, errors, STEP1, size=3.5, alpha=0.75, label=f"ended there ({len(ended):,})")
    for path in through:
        drawn.plot(path, "-o", color=STEP2, linewidth=1.0, markersize=3.5, alpha=0.8)
    if through:
        drawn.plot(
            [], [], "-o", color=STEP2, linewidth=1.0, markersize=3.5, label=f"came to the end ({len(through):,})"
        )
        drawn.plot(min(through, key=lambda p: p[-1]), "-o", color=FRONT, linewidth=2.0, markersize=4.5, label="best")
    drawn.set_xticks(range(len(labels)), labels)
    drawn.set_xlim(-0.3, len(labels) - 0.7)
    log_scale(drawn, "y")
    legend(drawn, 3)
    alt = f"Error of every trial on each part of the data: {'; '.join(t.replace(chr(10), ', ') for t in labels)}."
    return Panel(name=name, alt=alt, figure=figure)


def _ranks(found: Sequence[Stage], name: str, title: str) -> Panel:
    """Rank of the trials that went on, among themselves, against their rank on the rung before."""
    figure, drawn = axes("rank on the smaller part of the data", "rank on the larger part", title=title)
    texts = []
    longest = 1
    for k, (a, b) in enumerate(_neighbours(found)):
        pairs = _pairs(a, b)
        if len(pairs) < 2:
            continue
        # ranks among those that went on: a pair without change lies on the diagonal
        x, y = np.arange(1, len(pairs) + 1), np.argsort(np.argsort(pairs.step2)) + 1
        label = f"p = {a.subset:g} to {b.subset:g}"
        dots(drawn, x, y, study_color(k), size=5, marker=study_marker(k), alpha=0.85, label=label)
        texts.append(f"{len(pairs)} trials from {label}")
        longest = max(longest, len(pairs))
    drawn.plot([1, longest], [1, longest], "--", color=FAINT, linewidth=1, label="no change")
    whole_ticks(drawn, "x", "y")
    legend(drawn)
    alt = f"Rank on a rung against rank on the next, among the trials that went on: {listed(texts)}."
    return Panel(name=name, alt=alt, figure=figure)
