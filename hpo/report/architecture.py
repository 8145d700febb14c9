"""Figures of what the networks look like: errors by depth and size, learning curves, histograms.

Figures 2c, 2d, S1, S3, S10 and S11 of Yu et al. (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hpo import statistics
from hpo.report.ranks import each, error_label, flat_of, prefix, subset_sizes
from hpo.report.studies import StudyView
from hpo.report.style import (
    FRONT,
    INK,
    SMALL,
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
from hpo.report.words import count, number, percent, units_label

# A retrained network has gone wrong if its error is ten times the best one: the paper's threshold was about that.
WRONG = 10.0
_NUM_CURVES = 10
_MOST_CURVES = 200
_MOST_PANELS = 4


def error_against_layers(studies: Sequence[StudyView]) -> Section:
    """Errors of both steps against the number of hidden layers (figure 2c)."""
    shown = each(studies, 2, 1, "this figure")
    figure, drawn = axes("hidden layers", f"validation MSE{units_label(studies[0].units)}")
    sentences = []
    for k, study in shown:
        beside = 0.0 if len(studies) == 1 else 0.6 * (k / (len(studies) - 1) - 0.5)  # of several, none hides another
        _scatter(drawn, studies, k, study, lambda r, beside=beside: len(r["hidden"]) + beside)
        depths, medians = _median_by_depth(study.first)
        if len(studies) == 1:
            drawn.plot(depths, medians, "-", color=INK, linewidth=1.5, label="median of step 1")
        sentences.append(prefix(studies, study) + _depth_sentence(study, depths, medians))
    whole_ticks(drawn, "x")
    log_scale(drawn, "y")
    legend(drawn)
    return Section(
        title="Error against depth",
        sentences=tuple(sentences),
        panels=(Panel(name="error-layers", alt="Error against hidden layers. " + sentences[0], figure=figure),),
    )


def _median_by_depth(records: Sequence[dict]) -> tuple[list[int], list[float]]:
    depths = sorted({len(r["hidden"]) for r in records})
    return depths, [float(np.median([r["validation_mse"] for r in records if len(r["hidden"]) == d])) for d in depths]


def _depth_sentence(study: StudyView, depths: list[int], medians: list[float]) -> str:
    best = study.networks[0]
    near = statistics.smallest_reaching(study.networks, 2 * best["validation_mse"])
    return (
        f"The median step-1 error is least with {count(depths[int(np.argmin(medians))], 'hidden layer')} "
        f"({number(min(medians))}); the best {_retrained(study)}network has {len(best['hidden'])}, and the shallowest "
        f"within twice its error {near.depth} (trial {near.depth_trial})."
    )


def _retrained(study: StudyView) -> str:
    return "retrained " if study.second else ""


def error_against_parameters(studies: Sequence[StudyView]) -> Section:
    """Errors of both steps against the number of weights and biases (figure 2d)."""
    shown = each(studies, 2, 1, "this figure")
    figure, drawn = axes("parameters (weights and biases)", f"validation MSE{units_label(studies[0].units)}")
    sentences = []
    for k, study in shown:
        _scatter(drawn, studies, k, study, lambda r: r["num_parameters"])
        best = study.networks[0]
        near = statistics.smallest_reaching(study.networks, 2 * best["validation_mse"])
        ratio = best["num_parameters"] / near.parameters
        smaller = (
            f"the smallest one within twice its error has {near.parameters:,} (trial {near.parameters_trial}), fewer "
            f"by a factor of {number(ratio)}"
            if ratio > 1
            else "no smaller one is within twice its error"
        )
        sentences.append(
            f"{prefix(studies, study)}The best {_retrained(study)}network has "
            f"{count(best['num_parameters'], 'parameter')} (trial {best['trial']}); {smaller}."
        )
    log_scale(drawn, "x", "y")
    legend(drawn)
    return Section(
        title="Error against size",
        sentences=tuple(sentences),
        panels=(Panel(name="error-parameters", alt="Error against parameters. " + sentences[0], figure=figure),),
        gist=(0,) if len(studies) == 1 else (),
    )


def _scatter(drawn, studies, k: int, study: StudyView, of: Callable[[dict], float]) -> None:
    if len(studies) == 1:
        kinds = [(study.first, STEP1, 3.5, "step 1"), (study.second, STEP2, 6.0, "step 2")]
        for records, color, size, label in kinds:
            if records:
                y = [r["validation_mse"] for r in records]
                dots(
                    drawn, [of(r) for r in records], y, color, size=size, alpha=0.75, label=f"{label} ({len(records)})"
                )
        return
    color, marker = study_color(k), study_marker(k)
    y = [r["validation_mse"] for r in study.first]
    dots(drawn, [of(r) for r in study.first], y, color, size=2.5, marker=marker, alpha=0.35)
    y = [r["validation_mse"] for r in study.second]
    dots(drawn, [of(r) for r in study.second], y, color, size=5.5, marker=marker, label=study.label)


# -- S10, S11 -----------------------------------------------------------------------------------------------------


def subsets_of_trials(studies: Sequence[StudyView]) -> Section:
    """Errors against depth and size for random subsets of the trials (figures S10 and S11)."""
    shown = each(studies, 50, 1, "a subset of 25")
    study = max((s for _, s in shown), key=lambda s: len(s.first))
    sizes = subset_sizes(len(study.first))
    drawn_sizes = sizes if len(sizes) <= _MOST_PANELS else [*sizes[: _MOST_PANELS - 1], sizes[-1]]
    order = np.random.default_rng(0).permutation(len(study.first))
    panels = []
    for what, label, of in (
        ("layers", "hidden layers", lambda r: len(r["hidden"])),
        ("parameters", "parameters", lambda r: r["num_parameters"]),
    ):
        xlim, ylim = _limits([of(r) for r in study.first]), _limits([r["validation_mse"] for r in study.first])
        for n in drawn_sizes:
            chosen = [study.first[i] for i in order[:n]]
            figure, drawn = axes(label, error_label("step 1", [study]), size=SMALL, title=f"{n:,} trials")
            dots(drawn, [of(r) for r in chosen], [r["validation_mse"] for r in chosen], STEP2, size=3.5, alpha=0.75)
            drawn.set_xlim(xlim)
            drawn.set_ylim(ylim)
            log_scale(drawn, *(("y",) if what == "layers" else ("x", "y")))
            alt = f"Step-1 error against {label} for {n:,} random trials."
            panels.append(Panel(name=f"subset-{what}-{n}", alt=alt, figure=figure))
    return Section(
        title="What fewer trials would have shown",
        sentences=tuple(prefix(studies, study) + s for s in _subset_sentences(study)),
        panels=tuple(panels),
        small=True,
    )


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low / 1.3, high * 1.3) if high / low > 30 or high < 1 else (low - 0.5, high + 0.5)


def _subset_sentences(study: StudyView) -> list[str]:
    total = len(study.first)
    flat = flat_of(study)
    limit = flat.error if flat is not None else 2 * study.first[0]["validation_mse"]
    where = "in the flat part" if flat is not None else "within twice the best step-1 error"
    small = statistics.smallest_reaching(study.first, limit)
    good = [r for r in study.first if r["validation_mse"] <= limit]
    shallow = sum(len(r["hidden"]) == small.depth for r in good)
    light = sum(r["num_parameters"] <= 2 * small.parameters for r in good)
    needed = [statistics.sufficient_trials(total, n) for n in (shallow, light)]
    return [
        f"To meet a network {where} with the least depth there ({count(small.depth, 'hidden layer')}), "
        f"{count(needed[0], 'random trial')} of the {total:,} are enough with 95 % probability; to meet one with at "
        f"most twice the fewest parameters ({small.parameters:,}), {count(needed[1], 'trial')}."
    ]


# -- S1 -----------------------------------------------------------------------------------------------------------


def learning_curves(studies: Sequence[StudyView]) -> Section:
    """Validation error epoch by epoch: all trials of step 1 (figure S1), the best networks of step 2."""
    shown = [s for s in studies if s.networks]
    if not shown:
        raise NothingToDraw("neither step has a completed network yet")
    panels, sentences = [], []
    for study in shown:
        name = "" if len(studies) == 1 else f"-{studies.index(study) + 1}"
        title = "" if len(studies) == 1 else f"{study.label}, "
        if study.first:
            panels.append(_all_curves(study, f"curves-step1{name}", f"{title}step 1"))
        if study.second:
            panels.append(_best_curves(study, f"curves-step2{name}", f"{title}step 2"))
        best = study.networks[0]
        capped = [sum(r["epochs"] >= r["train"]["max_epochs"] for r in rs) for rs in (study.first, study.second)]
        text = (
            f"{prefix(studies, study)}The best network had its least error in epoch "
            f"{best['best_epoch']} of {best['epochs']}; {capped[0]:,} of {count(len(study.first), 'training')} of step "
            "1"
        )
        if study.second:
            text += f" and {capped[1]:,} of {len(study.second):,} of step 2"
        sentences.append(f"{text} ran to their limit of epochs instead of stopping early.")
        pruned = _pruned(study)
        if pruned:
            saved = 1 - sum(r["epochs"] for r in pruned) / sum(r["train"]["max_epochs"] for r in pruned)
            sentences.append(
                f"{prefix(studies, study)}{count(len(pruned), 'trial')} of step 1 "
                f"{'was' if len(pruned) == 1 else 'were'} pruned, {percent(saved)} of their epochs before the limit."
            )
    many = len(studies) > 2
    both = all(s.first and s.second for s in shown)
    return Section(
        title="Learning curves", sentences=tuple(sentences), panels=tuple(panels), small=many, stacked=many and both
    )


def _pruned(study: StudyView) -> list[dict]:
    """Trials of step 1 that a pruner ended; those that ended on a rung have curves of other data."""
    return [r for r in study.step1 if r["state"] == "pruned" and "rung" not in r]


def _all_curves(study: StudyView, name: str, title: str) -> Panel:
    figure, drawn = axes("epoch", error_label("step 1", [study]), title=title)
    ended = [*study.first, *_pruned(study)]
    shown = ended[:: max(1, -(-len(ended) // _MOST_CURVES))]
    kinds = {"complete": (STEP1, "trained to the end"), "pruned": (FRONT, "pruned")}
    for r in reversed(shown):
        curve = r["curve"]["validation_mse"]
        drawn.plot(
            range(1, len(curve) + 1), curve, color=kinds[r["state"]][0], linewidth=0.6, alpha=0.6,
            rasterized=len(shown) > 100, marker="." if len(curve) == 1 else None,
        )  # fmt: skip
    for kind in sorted({r["state"] for r in shown}):
        color, label = kinds[kind]
        drawn.plot([], [], color=color, linewidth=1.2, label=label)  # a legend as faint as the curves would not be seen
    best = study.first[0]["curve"]["validation_mse"]
    drawn.plot(
        range(1, len(best) + 1), best, color=STEP2, linewidth=1.8, label=f"best, trial {study.first[0]['trial']}"
    )
    log_scale(drawn, "y")
    legend(drawn)
    alt = f"Validation error by epoch of {len(shown):,} of {count(len(ended), 'trial')} of step 1."
    return Panel(name=name, alt=alt, figure=figure)


def _best_curves(study: StudyView, name: str, title: str) -> Panel:
    figure, drawn = axes("epoch", f"MSE{units_label(study.units)}", title=title)
    for k, r in reversed(list(enumerate(study.second[:_NUM_CURVES]))):
        curve = r["curve"]["validation_mse"]
        label = f"best, trial {r['trial']}" if k == 0 else "next best" if k == 1 else None
        color, width = (STEP2, 1.8) if k == 0 else (STEP1, 0.9)
        drawn.plot(range(1, len(curve) + 1), curve, color=color, linewidth=width, label=label)
    best = study.second[0]
    train = best["curve"]["train_mse"]
    drawn.plot(range(1, len(train) + 1), train, "--", color=FRONT, linewidth=1.2, label="best: training")
    drawn.plot(best["best_epoch"], best["validation_mse"], "o", color=STEP2, markersize=6, label="weights kept")
    log_scale(drawn, "y")
    legend(drawn)
    alt = f"Validation error by epoch of the best {min(len(study.second), _NUM_CURVES)} networks of step 2."
    return Panel(name=name, alt=alt, figure=figure)


# -- S3 -----------------------------------------------------------------------------------------------------------


def histograms(studies: Sequence[StudyView]) -> Section:
    """Depth and size of the networks, those apart that went wrong after retraining (figure S3)."""
    pool = [r for s in studies for r in s.networks]
    if len(pool) < 2:
        raise NothingToDraw("a histogram needs two networks")
    step = 2 if any(s.second for s in studies) else 1
    limit = WRONG * min(r["validation_mse"] for r in pool)
    good, wrong = ([r for r in pool if (r["validation_mse"] <= limit) == right] for right in (True, False))
    panels = []
    for what, label, of, bins in (
        ("layers", "hidden layers", lambda r: len(r["hidden"]), _whole_bins),
        ("parameters", "parameters", lambda r: r["num_parameters"], _log_bins),
    ):
        figure, drawn = axes(label, f"networks of step {step}")
        drawn.grid(visible=False, axis="x")
        drawn.hist(
            [[of(r) for r in good], [of(r) for r in wrong]],
            bins=bins([of(r) for r in pool]),
            stacked=True,
            color=[STEP2, FRONT],
            label=[f"within {WRONG:g} times the best", "beyond"],
        )
        if what == "parameters":
            log_scale(drawn, "x")
        else:
            whole_ticks(drawn, "x")
        whole_ticks(drawn, "y")
        legend(drawn)
        panels.append(Panel(name=f"histogram-{what}", alt=f"Histogram of {label} of the networks.", figure=figure))
    text = (
        f"{len(wrong) or 'None'} of {count(len(pool), 'network')} of step {step} {'has' if len(wrong) < 2 else 'have'} "
        f"more than {WRONG:g} times the best error"
    )
    if wrong and good:
        middle = [np.median([r["num_parameters"] for r in part]) for part in (wrong, good)]
        layers = [np.median([len(r["hidden"]) for r in part]) for part in (wrong, good)]
        text += (
            f"; their medians are {layers[0]:g} hidden layers and {middle[0]:,.0f} parameters, against {layers[1]:g} "
            f"and {middle[1]:,.0f} of the others"
        )
    return Section(title="Depth and size of the networks", sentences=(f"{text}.",), panels=tuple(panels))


def _whole_bins(values: Sequence[int]) -> np.ndarray:
    return np.arange(min(values), max(values) + 2) - 0.5


def _log_bins(values: Sequence[int]) -> np.ndarray:
    low, high = min(values), max(values)
    return np.logspace(np.log10(low / 1.05), np.log10(high * 1.05), 16)
