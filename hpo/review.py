"""After a search: what its own records say should change in the next one, each with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpo import statistics
from hpo.config import Config
from hpo.dimensions import Choices, Range

# A setting is worth changing for so much; below, a rerun with another seed differs as much.
_WORTH = 0.1
_NEAR = 1.1  # errors within 10 % of the best are as good
_MANY = 0.5
_BEST = 5


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


def review(config: Config, step1: Sequence[dict], step2: Sequence[dict]) -> list[Advice]:
    """What to change after a search, most telling first.

    Parameters
    ----------
    config : Config
        Of the study.
    step1, step2 : sequence of dict
        Records, with or without curves.
    """
    first, second = statistics.completed(step1), statistics.completed(step2)
    found = []
    if second:
        found += [_subset(config, step1, step2), _top(config, step1, step2)]
    found += [_trials(config, first), _epochs(config, first, second)]
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


def _trials(config: Config, first) -> Advice:
    """What the last half of the trials brought."""
    n = len(first)
    about = {"about": "search.trials", "now": config.search.trials}
    if n < statistics.MIN_FOR_FLAT:
        return Advice(**about, better=None, verdict="cannot tell", because=f"{n} finished trials are too few")
    errors = [r["validation_mse"] for r in first]
    half, whole = statistics.expected_best(errors, n // 2), errors[0]
    gain = 1.0 - whole / half
    text = f"half as many trials would have reached {half:.3g} on average in step 1, all of them reached {whole:.3g}"
    if gain > 2 * _WORTH:
        reason = f"{text}: twice as many can be expected to gain again"
        return Advice(**about, better=2 * config.search.trials, verdict="change", because=reason)
    flat = statistics.flat_part(errors)
    if flat is not None and gain < _WORTH:
        good = sum(e <= _NEAR * whole for e in errors)
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
    decayed = all(r["train"].get("learning_rate_schedule", "constant") != "constant" for r in best)
    if len(cut) > _MANY * len(best) and not decayed:
        return Advice(**about, better=2 * max(limits), verdict="change", because=f"{text}: they are not done")
    if len(cut) > _MANY * len(best):
        text += ", as a learning rate that decays to the end makes them"
    return Advice(**about, better=None, verdict="keep", because=text)


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
