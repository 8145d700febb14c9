"""Figure of a search over two objectives: error of step 1 against parameters or modelled latency, with the front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpo.latency_model import KEY
from hpo.promotion import lightness, pareto_front
from hpo.report.ranks import error_label, of_study, prefix
from hpo.report.studies import StudyView
from hpo.report.style import FRONT, STEP1, NothingToDraw, Panel, Section, axes, dots, legend, log_scale
from hpo.report.words import count, number, percent


def has_two_objectives(study: StudyView) -> bool:
    return study.sampler == "nsga2"


def front_of_search(studies: Sequence[StudyView]) -> Section:
    """All complete trials of step 1 in the plane that `nsga2` searches, one panel a study."""
    shown = [s for s in studies if has_two_objectives(s) and s.first]
    if not shown:
        raise NothingToDraw("no study minimises two objectives")
    panels, sentences = [], []
    for study in shown:
        said = _sentences(study)
        sentences += of_study(studies, study, said)
        name = "search-front" if len(studies) == 1 else f"search-front-{studies.index(study) + 1}"
        panels.append(_panel(study, name, prefix(studies, study).removesuffix(": "), said[0]))
    return Section(title="Pareto front of the search", sentences=tuple(sentences), panels=tuple(panels))


def _panel(study: StudyView, name: str, title: str, alt: str) -> Panel:
    front, again = pareto_front(study.first), {r["trial"] for r in study.second}
    label = "modelled time per sample [ns]" if KEY in front[0] else "parameters (weights and biases)"
    figure, drawn = axes(label, error_label("step 1", [study]), title=title)
    x, y = [lightness(r) for r in study.first], [r["validation_mse"] for r in study.first]
    dots(drawn, x, y, STEP1, size=4, alpha=0.75, label=f"trials ({len(x)})")
    x, y = [lightness(r) for r in front], [r["validation_mse"] for r in front]
    drawn.plot(x, y, "-", color=FRONT, linewidth=1.5, label=f"Pareto front ({len(front)})")
    on = [r for r in front if r["trial"] in again]
    dots(drawn, [lightness(r) for r in on], [r["validation_mse"] for r in on], FRONT, size=6, label="front, retrained")
    log_scale(drawn, "x", "y")
    legend(drawn)
    return Panel(name=name, alt=f"Error of step 1 against {label}. {alt}", figure=figure)


def _sentences(study: StudyView) -> list[str]:
    front, again = pareto_front(study.first), {r["trial"] for r in study.second}
    light, best = front[0], front[-1]
    objective = "modelled latency" if KEY in light else "number of parameters"
    retrained = sum(r["trial"] in again for r in front)
    said = [
        f"The search minimised error and {objective}. {len(front)} of {count(len(study.first), 'trial')} of step 1 "
        f"{'is' if len(front) == 1 else 'are'} on the Pareto front, from {_size(light)} (trial {light['trial']}, MSE "
        f"{number(light['validation_mse'])}) to {_size(best)} (trial {best['trial']}, MSE "
        f"{number(best['validation_mse'])}); {retrained} of them {'was' if retrained == 1 else 'were'} retrained."
    ]
    off = _off(study)
    if off:
        said.append(
            f"Against the times measured of {count(len(off), 'retrained network')}, the model is off by "
            f"{percent(float(np.median(off)))} in the median and {percent(max(off))} at most."
        )
    return said


def _size(record: dict) -> str:
    return f"{number(record[KEY])} ns" if KEY in record else count(record["num_parameters"], "parameter")


def _off(study: StudyView) -> list[float]:
    """How far the model is off of each retrained network that was timed in calls of as many samples."""
    rows = (study.latency or {"trials": {}})["trials"]
    batch = str(study.description["config"]["search"].get("latency_batch"))
    timed = [(r[KEY], rows.get(str(r["trial"]), {}).get(batch)) for r in study.second if KEY in r]
    return [abs(modelled / ns - 1.0) for modelled, ns in timed if ns is not None]
