"""Whether the plan's probabilities and costs are what they say: probes and searches drawn from finished projects.

Every probe is a few of the projects' networks, with their records on the parts and on all the data; every search is
more of them, of which step 1's best are looked up in step 2. What was not retrained by any project gets an error that
differs from that of its only training as those of some retrained network do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emulator.mlp import MLPSpec
from hpo import statistics
from hpo.errors import SearchError
from hpo.experiments.tables import Project, markdown
from hpo.planning import forecast
from hpo.probe import Probe
from hpo.recipe import Recipe
from hpo.train import training_flop
from hpo.trial import overhead_flop

TOPS = (1, 3, 5, 10)
_TOLERANCE = 0.2
_NETWORKS = 24  # of a probe, as hpo.plan has it
_PROBES = 40
_TRIALS = 50  # of a search: half of a project's, so that searches differ
_SEARCHES = 2000


@dataclass(frozen=True)
class _Networks:
    """What the projects know of N networks that finished everywhere; F parts and all the data."""

    parts: np.ndarray
    errors: np.ndarray
    seconds: np.ndarray
    flop: np.ndarray
    retrained: np.ndarray
    sizes: np.ndarray

    def second(self, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Errors of second trainings."""
        known = np.isfinite(self.retrained)
        ratios = self.retrained[known] / self.errors[known, -1]
        guessed = self.errors[chosen, -1] * rng.choice(ratios, len(chosen))
        return np.where(known[chosen], self.retrained[chosen], guessed)

    def probe(self, chosen: np.ndarray, rng: np.random.Generator) -> Probe:
        promising = np.argsort(self.errors[chosen, -2])[: len(chosen) // 4]
        again = np.full(len(chosen), np.nan)
        again[promising] = self.second(chosen, rng)[promising]
        return Probe(
            fractions=self.parts[:-1],
            reference=1.0,
            errors=self.errors[chosen],
            seconds=self.seconds[chosen],
            flop=self.flop[chosen],
            again=again,
            sizes=self.sizes[chosen],
            space_sizes=self.sizes,
            failed=0,
        )


def calibration_table(projects: Sequence[Project]) -> str:
    """Mean of what was foretold over the probes, and what came of the searches."""
    known = _networks(projects)
    trials = min(_TRIALS, len(known.errors) // 2)
    rng = np.random.default_rng(0)
    tops = [top for top in TOPS if top <= trials // 2]
    came = _played(known, trials, tops, rng)
    told = np.empty((_PROBES, 2, len(known.parts) - 1, len(tops)))
    for k in range(_PROBES):
        chosen = rng.choice(len(known.errors), min(_NETWORKS, trials), replace=False)
        found = forecast(known.probe(chosen, rng), trials, tolerance=_TOLERANCE, tops=tops, worlds=20, seed=k)
        at = {(o.p_subset, o.top): o for o in found.outlooks if o.trials == trials}
        told[k] = [[[getattr(at[p, top], what) for top in tops] for p in known.parts[:-1]] for what in _COLUMNS]
    rows = []
    for i, p in enumerate(known.parts[:-1]):
        for j, top in enumerate(tops):
            cells = (
                f"{told[:, k, i, j].mean():{form}} ± {told[:, k, i, j].std():{form}}" for k, form in enumerate(_FORMS)
            )
            (within, cost), (within_came, cost_came) = cells, came[:, i, j]
            rows.append((f"{p:g}", str(top), within, f"{within_came:.0%}", cost, f"{cost_came:.3f}"))
    means = told.mean(axis=(0, 2, 3)), came.mean(axis=(1, 2))
    rows.append(("all", "", f"{means[0][0]:.0%}", f"{means[1][0]:.0%}", f"{means[0][1]:.3f}", f"{means[1][1]:.3f}"))
    head = ("p_subset", "top", f"within {_TOLERANCE:.0%}: foretold", "came true", "arithmetic: foretold", "came true")
    return markdown(head, rows)


_COLUMNS, _FORMS = ("within", "cost_flop"), (".0%", ".3f")


def _networks(projects: Sequence[Project]) -> _Networks:
    ordered = sorted(projects, key=lambda p: p.p_subset)
    if len(ordered) < 2:
        raise SearchError("only the project on all the data is finished; run `python -m hpo.experiments projects`")
    first = [{r["trial"]: r for r in statistics.completed(p.step1)} for p in ordered]
    again = {r["trial"]: r["validation_mse"] for p in projects for r in statistics.completed(p.step2)}
    trials = sorted(set.intersection(*map(set, first)))
    description = ordered[-1].study.description
    inputs, outputs = (len(description["columns"][side]) for side in ("inputs", "outputs"))
    rows = [[p.study.description["prepared"][kind]["1"] for kind in ("num_train", "num_validation")] for p in ordered]

    def flop(record: dict, of: Sequence[int], epochs: int) -> float:
        spec = MLPSpec(num_inputs=inputs, hidden=tuple(record["hidden"]), num_outputs=outputs)
        return training_flop(spec, *of, epochs)

    def size(record: dict) -> tuple[float, float]:
        recipe = Recipe(**record["train"])
        arithmetic = flop(record, rows[-1], recipe.max_epochs)
        return arithmetic, arithmetic + overhead_flop(record["hidden"], recipe, rows[-1][0])

    return _Networks(
        parts=np.array([p.p_subset for p in ordered]),
        errors=np.array([[of[t]["validation_mse"] for of in first] for t in trials]),
        seconds=np.array([[of[t]["seconds"] for of in first] for t in trials]),
        flop=np.array([[flop(of[t], n, of[t]["epochs"]) for of, n in zip(first, rows, strict=True)] for t in trials]),
        retrained=np.array([again.get(t, np.nan) for t in trials]),
        sizes=np.array([size(first[-1][t]) for t in trials]),
    )


def _played(known: _Networks, trials: int, tops: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Part of the searches within the tolerance, and mean cost: (2, F, T)."""
    found = np.zeros((2, len(known.parts) - 1, len(tops)))
    for _ in range(_SEARCHES):
        chosen = rng.choice(len(known.errors), trials, replace=False)
        second, errors, flop = known.second(chosen, rng), known.errors[chosen], known.flop[chosen]
        for i in range(len(known.parts) - 1):
            order = np.argsort(errors[:, i])
            for j, top in enumerate(tops):
                best = order[:top]
                found[0, i, j] += second[best].min() <= (1.0 + _TOLERANCE) * errors[:, -1].min()
                found[1, i, j] += (flop[:, i].sum() + flop[best, -1].sum()) / flop[:, -1].sum()
    return found / _SEARCHES
