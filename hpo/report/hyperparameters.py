"""Figure of what else was searched, beside depth and widths: errors against each hyperparameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hpo.conditions import Parameter
from hpo.config import Config
from hpo.dimensions import Choices
from hpo.report.ranks import error_label, prefix
from hpo.report.studies import StudyView
from hpo.report.style import INK, SMALL, STEP2, NothingToDraw, Panel, Section, axes, dots, legend, log_scale
from hpo.report.words import count, listed, number, percent
from hpo.space import Space
from hpo.statistics import completed

# A range is cut into at most so many parts of equally many trials, and those of a part are no fewer than these.
_MOST_PARTS, _LEAST_IN_PART = 8, 5
_MOST_PANELS = 12
# What chance alone would give one search in twenty.
_CHANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Influence:
    """How errors depend on a hyperparameter, in trials that have it.

    Attributes
    ----------
    parameter : Parameter
    values, errors : arrays
        Of those trials.
    parts : list of (words, errors)
        Trials by value, or by equal parts of a range: what the part is called, its errors.
    share : float
        Part of the variance of the ranks of the errors that lies between the parts.
    p : float
        Chance of as much without influence (Kruskal and Wallis).
    """

    parameter: Parameter
    values: np.ndarray
    errors: np.ndarray
    parts: list[tuple[str, np.ndarray]]
    share: float
    p: float

    @property
    def best(self) -> tuple[str, np.ndarray]:
        return min(self.parts, key=lambda part: np.median(part[1]))


def has_any(study: StudyView) -> bool:
    return bool(_searched(study))


def _searched(study: StudyView) -> list[Parameter]:
    space = Space(Config.from_dict(study.description["config"]))
    return [p for p in space.parameters() if p.name != "num_hidden" and p.name.partition("_")[0] != "width"]


def influences(study: StudyView) -> list[Influence]:
    """Of every hyperparameter but depth and widths that enough trials have, the most certain first."""
    found = []
    for parameter in _searched(study):
        having = [r for r in _records(study) if parameter.name in r["params"]]
        values = np.array([r["params"][parameter.name] for r in having], dtype=object)
        errors = np.array([r["validation_mse"] for r in having])
        parts = _parts(parameter, values, errors)
        if len(parts) < 2 or np.ptp(errors) == 0.0:
            continue
        h, p = stats.kruskal(*(e for _, e in parts))
        n = sum(len(e) for _, e in parts)
        found.append(
            Influence(
                parameter=parameter, values=values, errors=errors, parts=parts, share=float(h / (n - 1)), p=float(p)
            )
        )
    return sorted(found, key=lambda f: (f.p, f.parameter.name))


def _records(study: StudyView) -> list[dict]:
    """Completed trials of step 1, or of its first rung: those have all been trained on the same samples."""
    return completed(study.rungs[0]) if study.rungs else study.first


def _parts(parameter: Parameter, values: np.ndarray, errors: np.ndarray) -> list[tuple[str, np.ndarray]]:
    dimension = parameter.dimension
    if isinstance(dimension, Choices):
        of = [(f"with `{v}`", errors[[w == v for w in values]]) for v in dimension.values]
        return [(words, e) for words, e in of if len(e) >= _LEAST_IN_PART]
    order = np.argsort(values.astype(float), kind="stable")
    pieces = np.array_split(order, max(1, min(_MOST_PARTS, len(order) // _LEAST_IN_PART)))
    return [(f"at {number(values[k[0]])} to {number(values[k[-1]])}", errors[k]) for k in pieces if len(k)]


def hyperparameters(studies: Sequence[StudyView]) -> Section:
    """Errors against every hyperparameter beside depth and widths, of the study with most trials."""
    study = max((s for s in studies if has_any(s)), key=lambda s: len(_records(s)), default=None)
    if study is None:
        raise NothingToDraw("nothing but depth and widths was searched")
    found = influences(study)
    if not found:
        raise NothingToDraw(f"each part of a hyperparameter's values needs {_LEAST_IN_PART} completed trials")
    panels = [_panel(study, f) for f in found[:_MOST_PANELS]]
    sentences = [prefix(studies, study) + _sentence(found, len(_records(study)))]
    if len(found) > _MOST_PANELS:
        sentences.append(f"Drawn are the {_MOST_PANELS} of {len(found)} whose influence is most certain.")
    return Section(
        title="Error against other hyperparameters",
        sentences=tuple(sentences),
        panels=tuple(panels),
        small=True,
        gist=(0,) if len(studies) == 1 else (),
    )


def _sentence(found: Sequence[Influence], total: int) -> str:
    matter = [f for f in found if f.p * len(found) < _CHANCE]
    chance = listed([f"`{f.parameter.name}`" for f in found if f not in matter])
    if not matter:
        return f"The order of the errors depends on {chance} no more than chance would have it."
    each = []
    for f in matter:
        words, errors = f.best
        some = "" if len(f.errors) == total else f", of the {count(len(f.errors), 'trial')} that have it"
        each.append(
            f"`{f.parameter.name}` ({percent(f.share)} of the variance of the ranks{some}; least median error "
            f"{number(float(np.median(errors)))} {words})"
        )
    text = f"The order of the errors depends on {listed(each)}"
    return f"{text}; on {chance} no more than chance would have it." if chance else f"{text}."


def _panel(study: StudyView, f: Influence) -> Panel:
    name, dimension = f.parameter.name, f.parameter.dimension
    where = "the first rung" if study.rungs else "step 1"
    figure, drawn = axes(name, error_label(where, [study]), size=SMALL)
    medians = [float(np.median(e)) for _, e in f.parts]
    if isinstance(dimension, Choices):
        names = [str(v) for v in dimension.values]
        at = np.array([names.index(str(v)) for v in f.values], dtype=float)
        rng = np.random.default_rng(0)
        dots(drawn, at + rng.uniform(-0.2, 0.2, len(at)), f.errors, STEP2, size=3, alpha=0.5)
        shown = [names.index(words.removeprefix("with `").removesuffix("`")) for words, _ in f.parts]
        drawn.hlines(medians, np.array(shown) - 0.3, np.array(shown) + 0.3, color=INK, linewidth=1.8, label="median")
        slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if len("".join(names)) > 24 else {}
        drawn.set_xticks(range(len(names)), names, **slanted)
    else:
        x = f.values.astype(float)
        dots(drawn, x, f.errors, STEP2, size=3, alpha=0.5)
        order = np.argsort(x, kind="stable")
        middles = [float(np.median(x[k])) for k in np.array_split(order, len(f.parts))]
        drawn.plot(middles, medians, "-", color=INK, linewidth=1.5, label="median")
        if dimension.log:
            log_scale(drawn, "x")
    log_scale(drawn, "y")
    legend(drawn)
    return Panel(name=f"parameter-{name}", alt=f"Errors of {where} against {name}.", figure=figure)
