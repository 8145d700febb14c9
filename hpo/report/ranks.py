"""Figures of the search: errors by rank, the two steps against each other, cost, and how many trials it takes.

Figures 1b, 2a, 2b, 2e, S8 and S9 of Yu et al. (2023), for one study or several. Every function takes the studies and
returns a `Section`, or raises `NothingToDraw` with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpo import statistics
from hpo.config import Config
from hpo.promotion import step1_parts
from hpo.report.studies import StudyView
from hpo.report.style import (
    BAND,
    FAINT,
    FRONT,
    INK,
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
from hpo.report.words import TIMES, count, listed, number, percent, units_label
from hpo.statistics import FlatPart

# A network counts as good as the best if its error is within a tenth of it.
NEAR = 1.1
# A flat part over which the error grows more than so many times is said to be one in the paper's wide sense only.
_WIDE = 3.0


def each(studies: Sequence[StudyView], least: int, step: int, what: str) -> list[tuple[int, StudyView]]:
    """Studies with enough completed trials, with their positions."""
    found = [(k, s) for k, s in enumerate(studies) if len(s.first if step == 1 else s.second) >= least]
    if not found:
        n = max(len(s.first if step == 1 else s.second) for s in studies)
        raise NothingToDraw(f"step {step} has {count(n, 'completed trial')}; {what} needs {least}")
    return found


def prefix(studies: Sequence[StudyView], study: StudyView) -> str:
    """What a sentence about one of several studies begins with."""
    return f"{study.label}: " if len(studies) > 1 else ""


def of_study(studies: Sequence[StudyView], study: StudyView, sentences: Sequence[str]) -> list[str]:
    """Sentences about a study; of one among several, joined behind its name."""
    return list(sentences) if len(studies) == 1 else [prefix(studies, study) + " ".join(sentences)]


def flat_of(study: StudyView) -> FlatPart | None:
    return statistics.flat_part([r["validation_mse"] for r in study.first])


def error_label(step: str, studies: Sequence[StudyView]) -> str:
    return f"validation MSE of {step}{units_label(studies[0].units)}"


# -- 2a ---------------------------------------------------------------------------------------------------------------


def error_against_rank(studies: Sequence[StudyView]) -> Section:
    """Step-1 error of every completed trial, sorted (figure 2a)."""
    shown = each(studies, 2, 1, "a curve")
    figure, drawn = axes("rank in step 1", error_label("step 1", studies))
    sentences = []
    for k, study in shown:
        errors = np.array([r["validation_mse"] for r in study.first])
        ranks = np.arange(1, len(errors) + 1)
        flat = flat_of(study)
        if len(studies) == 1:
            _mark_flat(drawn, flat, study)
            dots(drawn, ranks, errors, STEP1, size=3.5, label=f"step 1, {count(len(errors), 'trial')}")
            retrained = {r["trial"] for r in study.step2}
            chosen = np.array([r["trial"] in retrained for r in study.first])
            if chosen.any():
                dots(drawn, ranks[chosen], errors[chosen], STEP2, size=5, label=f"retrained ({chosen.sum()})")
        else:
            drawn.plot(ranks, errors, color=study_color(k), linewidth=1.8, label=study.label)
            if flat is not None:
                drawn.plot(flat.rank, flat.error, "|", color=study_color(k), markersize=14, markeredgewidth=2)
        sentences += of_study(studies, study, _rank_sentences(study, errors, flat))
    if len(studies) > 1:
        sentences.append("A tick across a curve marks the end of its flat part.")
    log_scale(drawn, "y")
    legend(drawn)
    return Section(
        title="Error against rank",
        sentences=tuple(sentences),
        panels=(Panel(name="error-rank", alt="Step-1 error against rank. " + sentences[0], figure=figure),),
        gist=tuple(k for k, said in enumerate(sentences) if len(studies) == 1 and said.startswith("The curve")),
    )


def _mark_flat(drawn, flat: FlatPart | None, study: StudyView) -> None:
    if flat is not None:
        drawn.axvline(flat.rank, color=FRONT, linewidth=1.2, label="end of the flat part")
        if flat.low < flat.high:
            drawn.axvspan(flat.low, flat.high, color=BAND, linewidth=0, label="its 95 % interval")
    drawn.axvline(study.top, color=FAINT, linestyle=":", linewidth=1.5, label=f"top = {study.top}")


def _rank_sentences(study: StudyView, errors: np.ndarray, flat: FlatPart | None) -> list[str]:
    near = int((errors <= 2 * errors[0]).sum())
    span = (
        f"{count(len(errors), 'trial')} span a factor of {number(errors[-1] / errors[0])} in error, from "
        f"{number(errors[0])} to {number(errors[-1])}"
    )
    if near < len(errors):
        span += f"; {near:,} of them ({percent(near / len(errors))}) lie within a factor of two of the best"
    said = [f"{span}."]
    left_out = [count(n, f"{state} trial") for state, n in sorted(study.states(1).items()) if state != "complete"]
    if study.num_on_rungs:
        left_out.append(f"{count(study.num_on_rungs, 'trial')} that ended on rungs")
    if left_out:
        said.append(f"Left out: {listed(left_out)}.")
    if len(errors) < statistics.MIN_FOR_FLAT:
        return [*said, f"{count(len(errors), 'trial')} are too few to say where the curve flattens."]
    if flat is None:
        return [
            *said,
            "The curve does not flatten towards its best ranks: more trials would still find better ones"
            f"{', or a larger subset would tell them apart' if study.p_subset < 1.0 else ''}.",
        ]
    where = {
        "inside": f"`top` = {study.top} lies inside the flat part",
        "uncertain": f"`top` = {study.top} lies within that interval, so perhaps inside the flat part",
        "beyond": f"`top` = {study.top} reaches beyond the flat part: some of those retrained are not as good",
    }[flat.holds(study.top)]
    small = statistics.smallest_reaching(study.first, flat.error)
    wide = ", if an order of magnitude counts as flat," if flat.spread > _WIDE else ""
    if flat.rank == len(errors):
        return [
            *said,
            "The curve of errors against rank is flat throughout: all trials lie within a factor of two of the best.",
            _smallest_sentence(small),
        ]
    return [
        *said,
        f"The curve of errors against rank is flat{wide} up to rank {flat.rank:,} (95 % interval {flat.low:,} to "
        f"{flat.high:,}), over which the error grows by a factor of {number(flat.spread)}; {where}.",
        _smallest_sentence(small),
    ]


def _smallest_sentence(small: statistics.Smallest) -> str:
    return (
        f"The shallowest network in the flat part has {count(small.depth, 'hidden layer')} (trial {small.depth_trial})"
        f", the smallest {count(small.parameters, 'parameter')} (trial {small.parameters_trial})."
    )


# -- 2b, S8, 2e -------------------------------------------------------------------------------------------------------


def error_of_both_steps(studies: Sequence[StudyView]) -> Section:
    """Error after retraining against the error that promoted the trial (figure 2b)."""
    shown = each(studies, 2, 2, "a comparison of the steps")
    figure, drawn = axes(error_label("step 1", studies), error_label("step 2", studies))
    sentences, all_x, all_y = [], [], []
    for k, study in shown:
        pairs = statistics.both_steps(study.step1, study.step2)
        if len(studies) == 1:
            why = {r["trial"]: r.get("promoted") for r in study.second}
            for reason, marker, color, label in (
                ("error", "o", STEP2, "promoted for its error"),
                ("light", "D", FRONT, "promoted for being light"),
            ):
                of = np.array([why[t] == reason for t in pairs.trials.tolist()], bool)
                if of.any():
                    dots(drawn, pairs.step1[of], pairs.step2[of], color, size=6, marker=marker, label=label)
        else:
            dots(drawn, pairs.step1, pairs.step2, study_color(k), size=5.5, marker=study_marker(k), label=study.label)
        all_x, all_y = [*all_x, *pairs.step1.tolist()], [*all_y, *pairs.step2.tolist()]
        gain = float(np.median(pairs.step1 / pairs.step2))
        changed, factor = ("lowers", gain) if gain >= 1 else ("raises", 1 / gain)
        sentences.append(
            f"{prefix(studies, study)}Retraining {count(len(pairs), 'network')} on all the data {changed} the error by "
            f"a factor of {number(factor)} (median); the best then has {number(pairs.step2.min())}."
        )
    if len(shown) > 1:
        best = {s.label: s.second[0]["validation_mse"] for _, s in shown}
        first = {s.label: s.first[0]["validation_mse"] for _, s in shown}
        sentences.append(
            f"The best errors of the studies differ by a factor of {number(max(first.values()) / min(first.values()))} "
            f"after step 1 and {number(max(best.values()) / min(best.values()))} after step 2; "
            f"{min(best, key=best.get)} has the least."
        )
    log_scale(drawn, "x", "y")
    low, high = (f(a, b) for f, a, b in zip((max, min), drawn.get_xlim(), drawn.get_ylim(), strict=True))
    if low < high:  # within what the data span
        drawn.plot(
            [low, high], [low, high], "--", color=FAINT, linewidth=1, label="no change", scalex=False, scaley=False
        )
    legend(drawn)
    return Section(
        title="Error after retraining",
        sentences=tuple(sentences),
        panels=(Panel(name="error-steps", alt="Step-2 error against step-1 error. " + sentences[0], figure=figure),),
        gist=(len(sentences) - 1,),
    )


def for_error(study: StudyView) -> statistics.Pairs:
    """Retrained trials but those promoted for being light: being light changes what a rank is worth."""
    return statistics.both_steps(study.step1, [r for r in study.step2 if r.get("promoted") != "light"])


def rank_against_rank(studies: Sequence[StudyView]) -> Section:
    """Rank in step 2 against rank in step 1 (figure S8)."""
    shown = [(k, s, pairs) for k, s in enumerate(studies) if len(pairs := for_error(s)) > 2]
    if not shown:
        raise NothingToDraw("a correlation needs three networks that were retrained for their error")
    figure, drawn = axes("rank in step 1", "rank in step 2")
    sentences, widest = [], 1.0
    for k, study, pairs in shown:
        rank2 = np.argsort(np.argsort(pairs.step2)) + 1
        color, marker = (STEP2, "o") if len(studies) == 1 else (study_color(k), study_marker(k))
        label = study.label if len(studies) > 1 else None
        dots(drawn, pairs.step1_rank, rank2, color, size=5.5, marker=marker, label=label)
        widest = max(widest, pairs.step1_rank.max() / len(pairs))
        sentences.append(prefix(studies, study) + _correlation_sentence(pairs))
    whole_ticks(drawn, "x", "y")
    if widest > 5:
        log_scale(drawn, "x")
    legend(drawn)
    return Section(
        title="Ranks of the two steps",
        sentences=tuple(sentences),
        panels=(Panel(name="rank-rank", alt="Rank in step 2 against rank in step 1. " + sentences[0], figure=figure),),
        gist=(0,) if len(studies) == 1 else (),
    )


def _correlation_sentence(pairs: statistics.Pairs) -> str:
    found = statistics.rank_correlation(pairs.step1, pairs.step2)
    over = f"Over {count(len(pairs), 'network')} retrained for their error"
    if found is None:
        return f"{over}, the ranks of the two steps have no correlation to speak of: all errors of a step are equal."
    text = f"{over}, Spearman's correlation of the two steps is {found.value:.2f}"
    if found.low is None:
        return f"{text}; {found.count} are too few for an interval."
    text += f" (95 % interval {found.low:.2f} to {found.high:.2f})"
    if found.low > 0.0:
        return text + ": the order of step 1 carries over in part to step 2."
    if found.high < 0.0:
        return text + ": the order of step 1 is reversed in step 2."
    return text + ": among these networks, the order of step 1 says nothing certain about that of step 2."


def error_by_rank_group(studies: Sequence[StudyView]) -> Section:
    """Step-2 errors of trials by their rank in step 1 (figure 2e)."""
    grouped = [(k, s, groups) for k, s in enumerate(studies) if len(groups := statistics.rank_groups(for_error(s))) > 1]
    if not grouped:
        raise NothingToDraw("rank groups need six networks that were retrained for their error")
    figure, drawn = axes("ranks in step 1", error_label("step 2", studies))
    labels, ticks, sentences = [], [], []
    for k, study, groups in grouped:
        color = STEP2 if len(studies) == 1 else study_color(k)
        begin = ticks[-1] + 1.8 if ticks else 0.0  # a gap between studies
        positions = [begin + i for i in range(len(groups))]
        drawn.boxplot(
            [g.errors for g in groups],
            positions=positions,
            widths=0.6,
            manage_ticks=False,
            boxprops={"color": color, "linewidth": 1.3},
            medianprops={"color": INK, "linewidth": 1.6},
            whiskerprops={"color": color},
            capprops={"color": color},
            showfliers=False,
        )
        for at, g in zip(positions, groups, strict=True):
            dots(drawn, at + np.linspace(-0.2, 0.2, len(g.errors)), g.errors, color, size=3, alpha=0.6)
        if len(studies) > 1:
            drawn.plot([], [], color=color, label=study.label)
        labels += [f"{g.first:,}-{g.last:,}" for g in groups]
        ticks += positions
        sentences.append(prefix(studies, study) + _group_sentence(groups))
    slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(labels) > 5 else {}
    drawn.set_xticks(ticks, labels, fontsize=9 if len(labels) < 12 else 7, **slanted)
    log_scale(drawn, "y")
    legend(drawn)
    return Section(
        title="Error by rank group",
        sentences=tuple(sentences),
        panels=(Panel(name="rank-groups", alt="Step-2 errors by step-1 rank. " + sentences[0], figure=figure),),
    )


def _group_sentence(groups: Sequence[statistics.RankGroup]) -> str:
    first, last = groups[0], groups[-1]
    p = statistics.groups_differ(groups)
    verdict = (
        "all errors are equal"
        if p is None
        else f"the groups differ by more than chance (Kruskal-Wallis p = {number(p)})"
        if p < 0.05
        else f"the groups do not differ by more than chance (Kruskal-Wallis p = {number(p)})"
    )
    return (
        f"After retraining, trials of step-1 ranks {last.first:,} to {last.last:,} have "
        f"{number(last.median / first.median)} times the median error of ranks {first.first:,} to {first.last:,}; "
        f"{verdict}."
    )


# -- 1b ---------------------------------------------------------------------------------------------------------------


def cost(studies: Sequence[StudyView]) -> Section:
    """Cost against a one-step search (figure 1b), with where the studies lie."""
    figure, drawn = axes(
        f"{'rungs and ' if any(s.rungs for s in studies) else ''}p_subset: part of the data in step 1",
        "p_retrain: part of the trials in step 2",
    )
    points = [(statistics.cost_fraction(_parts(s), 0.0), _p_retrain(s)) for s in studies]
    low = min(1e-3, *(v for point in points for v in point)) / 1.5
    for level in (1e-4, 1e-3, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0):
        if level > 3 * low:
            x = np.append(level - np.geomspace(low, level / 2, 50), np.geomspace(level / 2, low, 50))
            drawn.plot(x, level - x, color=STEP1, linewidth=1)
            drawn.text(level / 2, level / 2, percent(level), fontsize=8.5, ha="left", va="bottom")
    sentences = []
    for k, (study, point) in enumerate(zip(studies, points, strict=True)):
        color, marker = (FRONT, "o") if len(studies) == 1 else (study_color(k), study_marker(k))
        dots(drawn, [point[0]], [point[1]], color, size=9, marker=marker, label=study.label, zorder=5, clip_on=False)
        sentences.append(prefix(studies, study) + _cost_sentence(study, point[1]))
    log_scale(drawn, "x", "y")
    drawn.set_xlim(low, 1.0)
    drawn.set_ylim(low, 1.0)
    legend(drawn)
    return Section(
        title="Cost against a one-step search",
        sentences=tuple(sentences),
        panels=(Panel(name="cost", alt="Lines of equal cost. " + sentences[0], figure=figure),),
        gist=(0,) if len(studies) == 1 else (),
    )


def _p_retrain(study: StudyView) -> float:
    retrained = len(study.step2) or study.top
    return min(1.0, retrained / max(len(study.step1), 1))


def _parts(study: StudyView) -> list[tuple[float, float]]:
    """Of step 1 and its rungs: the part of the samples, and the part of the trials."""
    if not study.rungs:
        return [(study.p_subset, 1.0)]
    return step1_parts(Config.from_dict(study.description["config"]).search)


def measured_cost(study: StudyView) -> statistics.Cost | None:
    """Worker time, None before step 2 or where nothing is known to compare it with."""
    prepared = study.description.get("prepared") or {}
    if not study.step2 or "num_train" not in prepared:
        return None
    found = statistics.measured_cost(
        study.step1, study.step2, prepared["num_train"], prepared["num_validation"], study.rungs
    )
    return found if found.fraction is not None else None


def _cost_sentence(study: StudyView, p_retrain: float) -> str:
    parts = _parts(study)
    taken = " + ".join(f"{number(n)} {TIMES} {number(p)}" if n < 1.0 else number(p) for p, n in parts)
    what, taken = ("rungs and `p_subset`", f"({taken})") if study.rungs else ("`p_subset`", taken)
    text = (
        f"{what[0].upper() + what[1:]} + `p_retrain` = {taken} + {number(p_retrain)} = "
        f"{number(statistics.cost_fraction(parts, p_retrain))} of a search that trains every trial on all the data"
    )
    measured = measured_cost(study)
    if measured is None:
        return text + "."
    return text + (
        f"; measured: {number(measured.step1)} s and {number(measured.step2)} s of worker time, "
        f"{number(measured.fraction)} of what such a search would take by step 1's time per sample."
    )


# -- S9 ---------------------------------------------------------------------------------------------------------------


def trials_needed(studies: Sequence[StudyView]) -> Section:
    """The best of n random trials, and the performance-rank curve of random subsets (figure S9)."""
    shown = each(studies, 4, 1, "drawing subsets of the trials")
    figure, drawn = axes("number of random trials", f"best MSE of step 1{units_label(studies[0].units)}")
    sentences = []
    for k, study in shown:
        errors = np.array([r["validation_mse"] for r in study.first])
        counts = subset_sizes(len(errors), dense=True)
        color = STEP2 if len(studies) == 1 else study_color(k)
        mean = [statistics.expected_best(errors, n) for n in counts]
        if len(studies) == 1:
            low, high = ([statistics.best_quantile(errors, n, p) for n in counts] for p in (0.05, 0.95))
            drawn.fill_between(counts, low, high, color=BAND, linewidth=0, label="90 % of subsets")
        label = "mean" if len(studies) == 1 else study.label
        drawn.plot(counts, mean, "-", color=color, linewidth=1.8, label=label)
        sentences += of_study(studies, study, _needed_sentences(study, errors))
    log_scale(drawn, "x", "y")
    legend(drawn)
    panels = [Panel(name="trials-best", alt="Best error of n random trials. " + sentences[0], figure=figure)]
    if len(studies) == 1:
        panels.append(_subset_curves(studies[0]))
    return Section(
        title="How many trials would have sufficed",
        sentences=tuple(sentences),
        panels=tuple(panels),
        gist=(0,) if len(studies) == 1 else (),
    )


def subset_sizes(total: int, *, dense: bool = False) -> list[int]:
    """25, 50, 100, ... and all, as in the paper; `dense`: enough for a smooth line."""
    if dense:
        return np.unique(np.round(np.logspace(0, np.log10(total), 40)).astype(int)).tolist()
    sizes = [25]
    while sizes[-1] * 2 < total:
        sizes.append(sizes[-1] * 2)
    return [n for n in sizes if n < total] + [total]


def _needed_sentences(study: StudyView, errors: np.ndarray) -> list[str]:
    total, half = len(errors), max(1, len(errors) // 2)
    said = []
    if study.second:
        best = study.second[0]["validation_mse"]
        good = sum(r["validation_mse"] <= NEAR * best for r in study.second)
        n = statistics.sufficient_trials(total, good)
        enough = f"{count(n, 'random trial')} of the {total:,}" if n < total else f"no fewer than all {total:,} trials"
        said.append(
            f"{count(good, 'network')} came within {percent(NEAR - 1)} of the best error of step 2: {enough} would "
            "have held one of them with 95 % probability."
        )
    flat = flat_of(study)
    if flat is not None and flat.rank < total:
        n = statistics.sufficient_trials(total, flat.rank, need=min(study.top, total))
        said.append(
            f"{count(n, 'random trial')} would have put `top` = {study.top} trials into the flat part with 95 % "
            "probability."
            if n is not None
            else f"The flat part has fewer trials than `top` = {study.top}: no number of these would have filled it."
        )
    ratio = statistics.expected_best(errors, half) / errors.min()
    if study.sampler not in ("random", "sobol", "grid"):
        said.append(
            f"These trials were proposed by `{study.sampler}`, later ones from earlier ones: random subsets of them "
            "say less about a smaller search than those of a random search."
        )
    if study.num_on_rungs:
        begun = len(study.step1)
        said.append(
            f"These trials are those that the rungs let through: to have one of them took {number(begun / total)} "
            "trials on the first rung."
        )
    return [
        *said,
        f"Half of the trials ({half:,}) would have found a best step-1 error {ratio:.2f} times that of all, in the "
        "mean.",
    ]


def _subset_curves(study: StudyView) -> Panel:
    """Performance-rank curves of one random subset of each size (figure S9)."""
    errors = np.array([r["validation_mse"] for r in study.first])
    sizes = subset_sizes(len(errors))
    order = np.random.default_rng(0).permutation(len(errors))
    figure, drawn = axes("rank among the subset", error_label("step 1", [study]))
    for k, n in enumerate(sizes):
        last = n == len(errors)
        ranked = np.sort(errors[order[:n]])
        color = INK if last else study_color(k)
        drawn.plot(np.arange(1, n + 1), ranked, color=color, linewidth=2.0 if last else 1.3, label=f"{n:,} trials")
    drawn.axvline(study.top, color=FAINT, linestyle=":", linewidth=1.5, label=f"top = {study.top}")
    log_scale(drawn, "x", "y")
    legend(drawn, 3)
    sizes_text = listed([f"{n:,}" for n in sizes])
    return Panel(
        name="trials-curves", alt=f"Error against rank for random subsets of {sizes_text} trials.", figure=figure
    )
