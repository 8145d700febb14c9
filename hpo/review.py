"""After a search: what its own records say should change in the next one, each with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpo import ladder, statistics
from hpo.config import ADAPTIVE_SAMPLERS, Config
from hpo.dimensions import Choices, Range
from hpo.promotion import pareto_front

# A setting is worth changing for so much; below, a rerun with another seed differs as much.
_WORTH = 0.1
_NEAR = 1.1  # errors within 10 % of the best are as good
_MANY = 0.5
_BEST = 5
_FALLS_TO_THE_END = ("cosine", "exponential", "one_cycle")


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One sentence about a setting.

    Attributes
    ----------
    about : str
        Key of the setting, as in a config file.
    now : object
    better : object
        None: leave it, or the records cannot tell.
    verdict : str
        'change', 'keep' or 'cannot tell'.
    because : str
    """

    about: str
    now: object
    better: object
    verdict: str
    because: str


def review(
    config: Config, step1: Sequence[dict], step2: Sequence[dict], rungs: Sequence[Sequence[dict]] = ()
) -> list[Advice]:
    """What to change after a search, most telling first.

    Parameters
    ----------
    config : Config
        Of the study.
    step1, step2 : sequence of dict
        Records, with or without curves.
    rungs : sequence of sequence of dict
        Records of each rung below step 1.
    """
    first, second = statistics.completed(step1), statistics.completed(step2)
    found = []
    if second:
        found += [_subset(config, step1, step2), _top(config, step1, step2)]
        if config.search.sampler == "nsga2":
            found.append(_front(config, step1))
    if rungs and first:
        found += _rungs(config, rungs, step1, step2)
    found += [_trials(config, step1), _epochs(config, first, second), *_patience(second)]
    found += _edges(config, second or first)
    failed = sum(r["state"] == "failed" for r in step1)
    if failed:
        found.append(_failures(config, failed, len(step1), step1))
    return found


def _subset(config: Config, step1, step2) -> Advice:
    """Whether step 1 orders the trials that it promotes."""
    p = config.search.p_subset
    pairs = statistics.both_steps(step1, step2)
    found = statistics.rank_correlation(pairs.step1, pairs.step2)
    about = {"about": "search.p_subset", "now": p}
    if p == 1.0:
        return Advice(**about, better=None, verdict="keep", because="step 1 trains on all the data")
    if found is None or found.low is None:
        reason = f"{len(pairs)} retrained networks are too few to compare the two steps' orders; retrain more"
        return Advice(**about, better=None, verdict="cannot tell", because=reason)
    text = (
        f"rank correlation of the two steps among the {found.count} retrained is {found.value:.2f} "
        f"(95 %: {found.low:.2f} to {found.high:.2f})"
    )
    if found.low > 0.0:
        reason = f"{text}: step 1 orders even the best"
        return Advice(**about, better=None, verdict="keep", because=reason)
    if found.high > _MANY:
        reason = f"{text}: whether step 1 orders the best cannot be told from so few"
        return Advice(**about, better=None, verdict="cannot tell", because=reason)
    better = min(1.0, 4.0 * p)
    reason = f"{text}: step 1 does not order the best. A larger part, or more retrainings, would"
    return Advice(**about, better=better, verdict="change", because=reason)


def _top(config: Config, step1, step2) -> Advice:
    """Whether fewer retrainings would have found as good a network, or the best stood at the end of the line."""
    search = config.search
    pairs = statistics.both_steps(step1, step2)
    about = {"about": "search.top", "now": search.num_top}
    best = int(pairs.step2.argmin())
    enough = next(k for k in range(len(pairs)) if pairs.step2[: k + 1].min() <= _NEAR * pairs.step2.min()) + 1
    place = f"the best network was number {best + 1} of {len(pairs)} in step 1's order"
    if len(pairs) >= 4 and best + 1 > 0.8 * len(pairs):
        reason = f"{place}: the next ones may be better still"
        return Advice(**about, better=2 * search.num_top, verdict="change", because=reason)
    if len(pairs) >= 6 and 2 * enough <= len(pairs):
        better = max(2 * enough, 3)
        spent = {r["trial"]: r["seconds"] for r in step2}
        saved = sum(spent[t] for t in pairs.trials[better:].tolist()) / max(sum(spent.values()), 1e-12)
        if better < search.num_top:
            reason = f"the first {enough} came within 10 % of the best ({place}); {saved:.0%} of step 2 would be saved"
            return Advice(**about, better=better, verdict="change", because=reason)
    return Advice(**about, better=None, verdict="keep", because=place)


def _front(config: Config, step1) -> Advice:
    """Whether step 2 retrained what a search of two objectives was for."""
    search, first = config.search, statistics.completed(step1)
    near = [r for r in pareto_front(first) if r["validation_mse"] <= search.light_factor * first[0]["validation_mse"]]
    top = {r["trial"] for r in first[: search.num_top]}
    wanted = sum(r["trial"] not in top for r in near)
    kept = len(near) - max(0, wanted - search.light_top)
    reason = (
        f"{kept} of the {len(near)} trials on step 1's Pareto front with an error within {search.light_factor:g} times "
        "the best were retrained"
    )
    better = wanted if kept < len(near) else None
    verdict = "keep" if better is None else "change"
    return Advice(about="search.light_top", now=search.light_top, better=better, verdict=verdict, because=reason)


def _rungs(config: Config, rungs, step1, step2) -> list[Advice]:
    """Whether each rung orders what it lets through and is worth its time, and whether they let through too few or too
    many."""
    search = config.search
    own = [r for r in step1 if "rung" not in r]
    total = max(sum(r["seconds"] for records in (*rungs, own, step2) for r in records), 1e-12)
    found = []
    for rung in ladder.climbed(search, rungs, step1):
        named = f"rung {rung.number} (p = {rung.subset:g})"
        cost = (
            f"{named} took {rung.seconds / total:.0%} of the worker time and let {rung.going_on} of {rung.trials} go "
            f"on, which saved about {rung.saved / total:.0%}"
        )
        about = {"about": "search.rungs", "now": list(search.rungs)}
        without = [p for p in search.rungs if p != rung.subset]
        if rung.saved <= rung.seconds:
            reason = f"{cost}: not worth it"
            found.append(Advice(**about, better=without, verdict="change", because=reason))
            continue
        c = rung.correlation
        if c is None or c.low is None:
            reason = f"{cost}; {len(rung.here)} networks are too few to compare its order with that of the next subset"
            found.append(Advice(**about, better=None, verdict="cannot tell", because=reason))
            continue
        text = (
            f"{cost}; its rank correlation with p = {rung.next_subset:g} among the {c.count} that went on is "
            f"{c.value:.2f} (95 %: {c.low:.2f} to {c.high:.2f})"
        )
        if c.low > 0.0:
            found.append(Advice(**about, better=None, verdict="keep", because=f"{text}: it orders even those"))
        elif c.high > _MANY:
            reason = f"{text}: whether it orders them cannot be told from so few"
            found.append(Advice(**about, better=None, verdict="cannot tell", because=reason))
        else:
            larger = 4.0 * rung.subset
            better = sorted([*without, larger] if larger < rung.next_subset else without)
            reason = f"{text}: it does not order them, so that luck decides at its cut"
            found.append(Advice(**about, better=better, verdict="change", because=reason))
    found.append(_reduction(config, rungs, own, step2, total))
    # one list of rungs comes next: a second change waits for its turn
    changes = [a for a in found if a.about == "search.rungs" and a.better is not None]
    return [replace(a, better=None) if a in changes[1:] else a for a in found]


def _reduction(config: Config, rungs, own, step2, total: float) -> Advice:
    """Whether the best network passed a rung by a hair, or fewer would have been enough."""
    search = config.search
    about = {"about": "search.reduction", "now": search.reduction}
    judged = statistics.completed(step2) or statistics.completed(own)
    best = judged[0]["trial"]
    places = [(k, ladder.place_on(records, best), len(records)) for k, records in enumerate(rungs, start=1)]
    going = [*(len(records) for records in rungs[1:]), len(own)]
    told = ", ".join(f"{place} of {n} on rung {k}" for k, place, n in places)
    text = f"the best network was number {told}"
    # One beyond those that went on by their error went on because it was light.
    close = [k for k, (_, place, n) in enumerate(places) if n > going[k] >= 4 and going[k] >= place > 0.8 * going[k]]
    if close:
        k = close[0]
        reason = f"{text}, which let {going[k]} go on: the next ones, which it ended, may be better still"
        better = search.reduction - 1 if search.reduction > 2 else None
        if better is None:
            reason += f"; no smaller reduction is left, a larger subset than {search.rungs[k]:g} is"
        return Advice(**about, better=better, verdict="change", because=reason)
    good = {r["trial"] for r in judged if r["validation_mse"] <= _NEAR * judged[0]["validation_mse"]}
    spent = [{r["trial"]: r["seconds"] for r in records} for records in (*rungs[1:], own)]
    enough = None
    for reduction in range(search.reduction + 1, 2 * search.reduction + 1):
        left = ladder.kept(search, rungs, reduction)
        if not left[-1] & good:
            break
        saved = sum(s for after, stay in zip(spent, left, strict=True) for t, s in after.items() if t not in stay)
        if saved > _WORTH * total:
            enough = (reduction, len(left[-1]), saved / total)
    if enough is None:
        return Advice(**about, better=None, verdict="keep", because=text)
    reduction, number, saved = enough
    reason = (
        f"{text}: reduction = {reduction} would have let {number} instead of {len(own)} trials come to step 1, one "
        f"within 10 % of the best among them, and saved {saved:.0%} of the worker time"
    )
    return Advice(**about, better=reduction, verdict="change", because=reason)


def _trials(config: Config, step1) -> Advice:
    """What the last half of the trials brought. Trials that failed, were pruned or ended on a rung are among them: to
    have one that runs to its end took them too."""
    first, n = statistics.completed(step1), len(step1)
    about = {"about": "search.trials", "now": config.search.trials}
    if len(first) < statistics.MIN_FOR_FLAT:
        reason = f"{len(first)} finished trials are too few"
        return Advice(**about, better=None, verdict="cannot tell", because=reason)
    whole, worst = first[0]["validation_mse"], first[-1]["validation_mse"]
    if config.search.sampler in ADAPTIVE_SAMPLERS:  # which trials came first matters
        early = sorted(r["trial"] for r in step1)[: n // 2]
        half = min((r["validation_mse"] for r in first if r["trial"] <= early[-1]), default=worst)
        text = f"the first half of the trials reached {half:.3g} in step 1, all of them {whole:.3g}"
    else:
        errors = [r["validation_mse"] for r in first] + [worst] * (n - len(first))
        half = statistics.expected_best(errors, n // 2)
        text = f"half as many trials would have reached {half:.3g} on average in step 1, all of them {whole:.3g}"
    gain = 1.0 - whole / half
    if gain > 2 * _WORTH:
        reason = f"{text}: twice as many can be expected to gain again"
        return Advice(**about, better=2 * config.search.trials, verdict="change", because=reason)
    random = config.search.sampler not in ADAPTIVE_SAMPLERS
    if random and gain < _WORTH and statistics.flat_part([r["validation_mse"] for r in first]) is not None:
        good = sum(r["validation_mse"] <= _NEAR * whole for r in first)
        enough = statistics.sufficient_trials(n, good)
        if enough is not None and 2 * enough <= n:
            reason = f"{text}; {enough} would have held one of the {good} within 10 % of the best with 95 % probability"
            return Advice(**about, better=enough, verdict="change", because=reason)
    return Advice(**about, better=None, verdict="keep", because=text)


def _epochs(config: Config, first, second) -> Advice:
    """Whether the best trainings were still getting better when they were cut off."""
    best = (second or first)[:_BEST]
    key = "step2.max_epochs" if second else "train.max_epochs"
    limits = {r["train"]["max_epochs"] for r in best}
    about = {"about": key, "now": max(limits)}
    cut = [r for r in best if r["epochs"] >= r["train"]["max_epochs"] and r["best_epoch"] > 0.95 * r["epochs"]]
    text = f"{len(cut)} of the {len(best)} best had their least error in the last epochs allowed"
    decayed = all(r["train"].get("learning_rate_schedule", "constant") in _FALLS_TO_THE_END for r in best)
    if len(cut) > _MANY * len(best) and not decayed:
        return Advice(**about, better=2 * max(limits), verdict="change", because=f"{text}: they are not done")
    if len(cut) > _MANY * len(best):
        text += ", as a learning rate that decays to the end makes them"
    return Advice(**about, better=None, verdict="keep", because=text)


def _patience(second) -> list[Advice]:
    """Whether retrainings were ended before their learning rate had fallen."""
    falling = [r for r in second if r["train"].get("learning_rate_schedule", "constant") in _FALLS_TO_THE_END]
    cut = [r for r in falling if r["train"]["patience"] and r["epochs"] < r["train"]["max_epochs"]]
    if len(cut) <= _MANY * len(falling):
        return []
    first = min(r["epochs"] / r["train"]["max_epochs"] for r in cut)
    reason = (
        f"{len(cut)} of the {len(falling)} retrained networks whose learning rate falls to the last epoch were stopped "
        f"before it, the first after {first:.0%} of the epochs: what the fall would have gained is lost"
    )
    now = max(r["train"]["patience"] for r in cut)
    return [Advice(about="step2.patience", now=now, better=0, verdict="change", because=reason)]


def _edges(config: Config, ranked) -> list[Advice]:
    """Dimensions at whose end the best networks crowd."""
    best = ranked[:_BEST]
    if len(best) < 3:
        return []
    space = config.space
    found = []
    for key, dimension, values in (
        ("space.depth", space.depth, [len(r["hidden"]) for r in best]),
        ("space.widths", space.widths, [max(r["hidden"]) for r in best]),
    ):
        if not isinstance(dimension, (Choices, Range)):
            continue
        ends = dimension.samples()
        for end, better in ((max(ends), 2 * max(ends)), (min(ends), max(1, min(ends) // 2))):
            at = sum(v == end for v in values)
            shown = dimension.to_plain() if hasattr(dimension, "to_plain") else list(ends)
            if at > _MANY * len(best) and better != end and (key == "space.depth" or end == max(ends)):
                what = "layers" if key == "space.depth" else "wide in their widest layer"
                reason = f"{at} of the {len(best)} best are {end} {what}, the end of the range"
                found.append(
                    Advice(about=key, now=shown, better=_with(dimension, better), verdict="change", because=reason)
                )
    return found


def _with(dimension: Choices | Range, value) -> object:
    """A dimension that also has `value`, plain."""
    plain = dimension.to_plain()
    if isinstance(dimension, Choices):
        return {"choices": sorted([*dimension.values, value])}
    return dict(plain) | {"high" if value > dimension.high else "low": value}


def _failures(config: Config, failed: int, total: int, step1) -> Advice:
    reasons: dict[str, int] = {}
    for r in step1:
        if r["state"] == "failed":
            reasons[r["error"]] = reasons.get(r["error"], 0) + 1
    common = max(reasons, key=reasons.get)
    many = failed > _WORTH * total
    rate = config.train.values["learning_rate"]
    better = rate / 3.0 if many and isinstance(rate, float) else None
    now = rate if isinstance(rate, (int, float)) else "searched"
    reason = f"{failed} of {total} trials failed, most often: {common}"
    return Advice(
        about="train.learning_rate", now=now, better=better, verdict="change" if better else "keep", because=reason
    )


def changed(config: Config, advice: Sequence[Advice]) -> Mapping[str, dict]:
    """Tables of the next search: the study's own with what is to change."""
    tables = config.to_dict()
    for a in advice:
        if a.better is None:
            continue
        table, _, key = a.about.partition(".")
        tables.setdefault(table, {})[key] = a.better
        if key == "top":
            tables["search"].pop("p_retrain", None)
    return tables
