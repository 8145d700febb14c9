"""Which trials go on from a rung to the next, and which of step 1 are retrained in step 2: functions of the records
alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hpo.config import Config, SearchSettings
from hpo.latency_model import KEY
from hpo.study import ranking


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A trial of step 1 that goes on: for its `error`, or for being `light`."""

    trial: int
    params: Mapping[str, object]
    promoted: str
    step1_mse: float
    step1_rank: int


def promote(records: list[dict], *, top: int, light_top: int, light_factor: float) -> list[Promotion]:
    """Choose the trials to retrain.

    The `top` trials of least error, ties by trial number; pruned ones only if there are too few
    others. Then `light_top` more that are cheap for their error,
    among those with an error of at most `light_factor` times the best: the Pareto front of (`lightness`,
    error), lightest first, then the front of what remains, and so on. A network light enough to replace a
    parameterization is rarely among the best by error on a small subset, where larger networks lead; retraining
    brings many of them within a factor of two. The paper kept none on purpose and found its lightest good model
    among the top 50 by luck.

    Parameters
    ----------
    records : list of dict
        Of step 1.

    Returns
    -------
    list of Promotion
        By rank, those for their error first.
    """
    ranked = ranking(records)
    rank = {r["trial"]: k for k, r in enumerate(ranked, start=1)}
    chosen = [(r, "error") for r in ranked[:top]]
    if ranked and light_top:
        limit = light_factor * ranked[0]["validation_mse"]
        taken = {r["trial"] for r, _ in chosen}
        rest = [r for r in ranked if r["state"] == "complete" and r["validation_mse"] <= limit]
        light: list[dict] = []
        while rest and len(light) < light_top:
            front = pareto_front(rest)
            rest = [r for r in rest if r not in front]
            light += [r for r in front if r["trial"] not in taken]
        chosen += [(r, "light") for r in light[:light_top]]
    return [
        Promotion(
            trial=r["trial"],
            params=r["params"],
            promoted=why,
            step1_mse=r["validation_mse"],
            step1_rank=rank[r["trial"]],
        )
        for r, why in chosen
    ]


def going_on(records: list[dict], config: Config) -> list[dict]:
    """Those of a rung that go on, best first: one in `reduction`, and no fewer than step 2 retrains.

    They are the best, and the light ones that would be retrained if the rung were step 1.
    """
    return best_of_rung(records, config.search, num_going_on(len(records), config.search))


def best_of_rung(records: list[dict], search: SearchSettings, number: int) -> list[dict]:
    """So many of a rung, as `going_on` chooses."""
    ranked, top = ranking(records), max(number - search.light_top, 0)
    chosen = promote(records, top=top, light_top=search.light_top, light_factor=search.light_factor)
    taken = {p.trial for p in chosen}
    left = [r["trial"] for r in ranked if r["trial"] not in taken]
    taken.update(left[: max(number - len(taken), 0)])
    return [r for r in ranked if r["trial"] in taken]


def num_going_on(trials: int, search: SearchSettings) -> int:
    """How many of so many trials on a rung go on, if none fails."""
    return min(trials, max(math.ceil(trials / search.reduction), search.num_top + search.light_top))


def step1_parts(search: SearchSettings) -> list[tuple[float, float]]:
    """Of each rung and of step 1 itself: the part of the samples, and the part of the trials that come so far."""
    found, trials = [], search.trials
    for subset in (*search.rungs, search.p_subset):
        found.append((subset, trials / search.trials))
        trials = num_going_on(trials, search)
    return found


def lightness(record: Mapping) -> float:
    """What a light network has little of: nanoseconds, where the search has a model of them, else parameters."""
    return record.get(KEY, record["num_parameters"])


def pareto_front(records: list[dict]) -> list[dict]:
    """Records that no other beats in lightness and error, lightest first."""
    front: list[dict] = []
    for r in sorted(records, key=lambda r: (lightness(r), r["validation_mse"], r["trial"])):
        if not front or r["validation_mse"] < front[-1]["validation_mse"]:
            front.append(r)
    return front
