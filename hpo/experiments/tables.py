"""What the experiments came to: tables as Markdown, computed from the studies' records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpo import compare, statistics
from hpo.errors import SearchError
from hpo.experiments.searches import PARTS, PLAN_SEEDS, SEEDS, SIZES, Machine, algorithm, algorithm_names, full, planned
from hpo.study import Study

GROUP = 10  # trials in a rank group of experiment (b)
_NEAR = 1.2
FACTORS = (1.0, 1.5, 3.0)  # of the best error, experiment (e)


@dataclass(frozen=True)
class Project:
    """A search at one p_subset beside the one on all the data, whose step-1 errors stand for the truth."""

    p_subset: float
    study: Study
    step1: list[dict]
    step2: list[dict]

    @property
    def num_samples(self) -> int:
        prepared = self.study.description["prepared"]
        return prepared["num_train"]["1"] + prepared["num_validation"]["1"]

    @property
    def best(self) -> dict:
        return statistics.completed(self.step2)[0]


def read_projects(machine: Machine, used: float | None = None) -> list[Project]:
    """The finished projects, largest p_subset first; that on all the data must be among them.

    Raises
    ------
    SearchError
    """
    found = []
    for p in PARTS:
        study = Study(machine.project(p, used))
        if study.description is not None:
            first, second = study.records(1, curves=False), study.records(2, curves=False)
            if statistics.completed(second):
                found.append(Project(p, study, first, second))
    if not found or found[0].p_subset != 1.0:
        raise SearchError(f"{machine.project(1.0, used)} is not finished; run `python -m hpo.experiments projects`")
    return found


def projects_table(projects: Sequence[Project]) -> str:
    """Experiment (a): what each project cost and came to.

    At p = 1 the two steps differ in their seeds alone: their correlation is the most that any subset could reach.
    """
    whole = projects[0]
    truth = {r["trial"]: r["validation_mse"] for r in statistics.completed(whole.step1)}
    costs = {p.p_subset: compare.spent(p.study.folder, "flop") for p in projects}
    seconds = {p.p_subset: compare.spent(p.study.folder).cost[-1] for p in projects}
    one_step = costs[1.0].step1_cost
    best = min(p.best["validation_mse"] for p in projects)
    rows = []
    for p in projects:
        first = statistics.completed(p.step1)
        errors = [(r["validation_mse"], truth[r["trial"]]) for r in first if r["trial"] in truth]
        better = sorted(errors, key=lambda e: e[1])[: max(4, len(errors) // 3)]
        pairs = statistics.both_steps(p.step1, p.step2)
        top = set(pairs.trials.tolist())
        true_top = {r["trial"] for r in statistics.completed(whole.step1)[: len(top)]}
        rows.append(
            (
                f"{p.p_subset:g}",
                f"{p.num_samples:,}",
                f"{costs[p.p_subset].step1_cost / one_step:.4f}",
                f"{costs[p.p_subset].cost[-1] / one_step:.3f}",
                f"{seconds[p.p_subset]:.0f}",
                f"{first[0]['validation_mse']:.2e}",
                f"{p.best['validation_mse']:.2e}",
                f"{p.best['validation_mse'] / best:.2f}",
                f"{p.best['trial']} ({int(pairs.step1_rank[pairs.step2.argmin()])})",
                _interval(errors) if p is not whole else "-",
                _interval(better) if p is not whole else "-",
                f"{len(top & true_top)} of {len(top)}",
                _interval(list(zip(pairs.step1.tolist(), pairs.step2.tolist(), strict=True))),
            )
        )
    head = (
        "p_subset",
        "samples",
        "cost of step 1",
        "with step 2",
        "core-seconds",
        "best MSE, step 1",
        "after step 2",
        "times the best",
        "best trial (rank in step 1)",
        "rank correlation with p = 1",
        "the same, best third",
        "of its top among p = 1's",
        "its two steps, among its top",
    )
    return markdown(head, rows)


def _interval(pairs: Sequence[tuple[float, float]]) -> str:
    a, b = zip(*pairs, strict=True)
    found = statistics.rank_correlation(a, b)
    if found is None:
        return "-"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})" if found.low is not None else f"{found.value:.2f}"


def groups_table(projects: Sequence[Project], group: int = GROUP) -> str:
    """Experiment (b): errors on all the data by rank in step 1, all trials."""
    truth = {r["trial"]: r["validation_mse"] for r in statistics.completed(projects[0].step1)}
    rows = []
    for p in projects[1:]:
        errors = [truth[r["trial"]] for r in statistics.completed(p.step1) if r["trial"] in truth]
        parts = [errors[k : k + group] for k in range(0, len(errors), group)]
        cells = [f"{np.median(e):.1e}" for e in parts[:5]]
        rest = [e for part in parts[5:] for e in part]
        cells += [f"{np.median(rest):.1e}" if rest else "-"]
        least = int(np.argmin([min(e) for e in parts])) + 1
        rows.append((f"{p.p_subset:g}", *cells, f"group {least}"))
    named = [f"{1 + group * k}-{group * (k + 1)}" for k in range(5)]
    return markdown(("p_subset", *named, "the rest", "the best of all is in"), rows)


def seeds_table(projects: Sequence[Project]) -> str:
    """How far two trainings of one network on all the data differ: step 1 at p = 1, and step 2 of any project."""
    first = {r["trial"]: r["validation_mse"] for r in statistics.completed(projects[0].step1)}
    second = {r["trial"]: r["validation_mse"] for p in projects for r in statistics.completed(p.step2)}
    twice = sorted(first.keys() & second.keys(), key=lambda t: (first[t], t))
    rows = []
    for name, trials in (("all", twice), (f"the {GROUP} best in step 1 at p = 1", twice[:GROUP])):
        a, b = (np.array([of[t] for t in trials]) for of in (first, second))
        ratios = np.exp(np.abs(np.log(a / b)))
        low, middle, high = (f"{np.quantile(ratios, q) - 1.0:.0%}" for q in (0.25, 0.5, 0.75))
        order = _interval(list(zip(a.tolist(), b.tolist(), strict=True)))
        rows.append((name, str(len(trials)), middle, f"{low} to {high}", f"{ratios.max():.3g}", order))
    head = (
        "networks trained twice",
        "number",
        "larger error above the smaller, median",
        "quartiles",
        "at most, times",
        "rank correlation of the two",
    )
    return markdown(head, rows)


def sizes_table(machine: Machine) -> str:
    """Experiment (d): how the projects depend on the size of all the data."""
    rows = []
    for used in SIZES:
        try:
            projects = read_projects(machine, used)
        except SearchError:
            continue
        whole = projects[0]
        truth = {r["trial"]: r["validation_mse"] for r in statistics.completed(whole.step1)}
        total = whole.num_samples
        best = min(p.best["validation_mse"] for p in projects)
        for p in projects:
            first = statistics.completed(p.step1)
            errors = [(r["validation_mse"], truth[r["trial"]]) for r in first if r["trial"] in truth]
            ratio = p.best["validation_mse"] / best
            order = _interval(errors) if p is not whole else "-"
            cells = (f"{p.best['validation_mse']:.2e}", f"{ratio:.2f}", order, _yes(ratio <= _NEAR))
            rows.append((f"{total:,}", f"{p.p_subset:g}", f"{p.num_samples:,}", *cells))
    if not rows:
        raise SearchError("no size has its project on all the data finished; run `python -m hpo.experiments sizes`")
    order = "rank correlation with p = 1"
    head = ("all the data", "p_subset", "samples", "after step 2", "times the best", order, "within 20 %")
    return markdown(head, rows)


def read_algorithms(machine: Machine, experiment: str = "algorithms", step: int = 2) -> list[compare.Group]:
    """The finished searches of experiment (c) and their arithmetic, by algorithm; step as in `hpo.compare.spent`.

    Raises
    ------
    SearchError
        There are none.
    """
    studies, names = [], []
    for name in algorithm_names():
        for seed in SEEDS:
            folder = algorithm(machine, name, seed, experiment)
            if Study(folder).description is not None and Study(folder).records(2, curves=False):
                studies.append(compare.spent(folder, "flop", step=step))
                names.append(name)
    if not studies:
        raise SearchError(f"no algorithm has finished; run `python -m hpo.experiments {experiment}`")
    return compare.grouped(studies, names)


def training_table(machine: Machine) -> str:
    """As `algorithms_table`, in the space that has the training in it."""
    return algorithms_table(machine, "training")


def algorithms_table(machine: Machine, experiment: str = "algorithms") -> str:
    """Experiment (c): after both steps, and in step 1 alone at equal cost."""
    final = read_algorithms(machine, experiment)
    sizes = {
        g.name: [r["num_parameters"] for s in g.studies for r in Study(s.folder).records(1, curves=False)]
        for g in final
    }
    subset = {r.name: r for r in compare.rows(read_algorithms(machine, experiment, step=1))}
    rows = []
    for r in compare.rows(final):
        s = subset[r.name]
        cells = (_spread(s.cost, 1e12), _spread(s.error), _spread(s.equal_cost_error), _spread(r.cost, 1e12))
        drawn = (f"{r.drawn:.0f}", f"{np.mean(sizes[r.name]):,.0f}")
        rows.append((r.name, str(r.seeds), *drawn, *cells, _spread(r.error)))
    head = (
        "algorithm",
        "seeds",
        "configurations",
        "their parameters, mean",
        "step 1 [TFLOP]",
        "best MSE of step 1",
        "the same at equal cost",
        "both steps [TFLOP]",
        "best MSE after step 2",
    )
    return markdown(head, rows)


def _spread(value: tuple[float, float | None], unit: float = 1.0) -> str:
    mean, deviation = value
    if not np.isfinite(mean):
        return "-"
    return f"{mean / unit:.3g}" + ("" if deviation is None else f" ± {float(f'{deviation / unit:.1g}'):g}")


def light_table(machine: Machine) -> str:
    """Experiment (e): the lightest and the fastest retrained networks within factors of the best error."""
    study = Study(machine.out / "light")
    path = study.folder / "latency.json"
    if study.description is None or not path.exists():
        raise SearchError(f"{study.folder} is not finished; run `python -m hpo.experiments light`")
    ranked = statistics.completed(study.records(2, curves=False))
    timed = json.loads(path.read_text(encoding="utf-8"))["trials"]
    rows = []
    for factor in FACTORS:
        near = [r for r in ranked if r["validation_mse"] <= factor * ranked[0]["validation_mse"]]
        light = min(near, key=lambda r: (r["num_parameters"], r["validation_mse"]))
        ns = timed[str(light["trial"])]
        rows.append(
            (
                f"{factor:g}",
                str(len(near)),
                f"{light['num_parameters']:,}",
                "-".join(map(str, light["hidden"])),
                f"{light['validation_mse']:.2e}",
                *(f"{ns[str(b)]:.0f}" for b in (1, 16, 1024)),
            )
        )
    head = ("times the best error", "networks", "least parameters", "layers", "MSE", "ns, batch 1", "16", "1024")
    return markdown(head, rows)


def plan_table(machine: Machine) -> str:
    """Each planned search against the one on all the data, and against what was foretold of it."""
    ended = [s for s in PLAN_SEEDS if (planned(machine, s) / "retrained/step2").is_dir()]
    if not ended:
        raise SearchError(f"{planned(machine, PLAN_SEEDS[0])} is not finished; run `python -m hpo.experiments plan`")
    columns = [_plan_column(full(machine, seed), planned(machine, seed)) for seed in ended]
    head = ("", *(f"seed {seed}" for seed in ended))
    return markdown(head, [(name, *(c[name] for c in columns)) for name in columns[0]])


def _plan_column(whole: Path, home: Path) -> dict[str, str]:
    full = {cost: compare.spent(whole, cost) for cost in compare.COSTS}
    found = {cost: compare.spent(home / "search", cost) for cost in compare.COSTS}
    share = {cost: found[cost].cost[-1] / full[cost].step1_cost for cost in compare.COSTS}
    told = json.loads((home / "probe/plan.json").read_text(encoding="utf-8"))
    foretold, tolerance, most = told["recommended"], told["tolerance"], told["max_cost"]
    search = Study(home / "search").description["config"]["search"]
    retrained = compare.spent(home / "retrained", "flop")
    best, least, rival = (of.error[-1] for of in (found["flop"], full["flop"], retrained))
    step2 = Study(home / "search").description["config"]["step2"]
    parts = "reference", "again", *(place.name for place in home.glob("probe/decay-*"))
    places = (*home.glob("probe/p-*/step1"), *(home / "probe" / part / "step2" for part in parts))
    probed = sum(r["seconds"] for place in places for r in _records(place))
    return {
        "recommended: p_subset, trials, top": f"{search['p_subset']:.3g}, {search['trials']}, {search['top']}",
        "learning rate of step 2": f"{step2['learning_rate']:g}, decaying" if step2 else "as in step 1",
        "best MSE of the full search": f"{least:.3e}",
        "the same, its best retrained so": f"{rival:.3e}",
        "of the recommended one": f"{best:.3e}",
        "against the full search": f"{best / least - 1.0:+.1%}",
        "foretold": f"{foretold['configured']:+.0%}",
        f"within {tolerance:.0%}": _yes(best <= (1.0 + tolerance) * least),
        "foretold with probability": f"{foretold['configured_within']:.0%}",
        "against that retrained": f"{best / rival - 1.0:+.1%}",
        "foretold, of that": "{excess:+.0%} ({excess_low:.0%} to {excess_high:.0%})".format(**foretold),
        f"within {tolerance:.0%} of that": _yes(best <= (1.0 + tolerance) * rival),
        "foretold, of that, with probability": f"{foretold['within']:.0%}",
        "cost, arithmetic": f"{share['flop']:.1%}",
        "foretold as": f"{foretold['cost_flop']:.1%}",
        "cost, core-seconds": f"{share['seconds']:.1%}",
        "foretold, of these": f"{foretold['cost_seconds']:.1%}",
        "foretold for the larger, one search": f"{foretold['cost_low']:.1%} to {foretold['cost_high']:.1%}",
        f"at most {most:.0%} by both": _yes(max(share.values()) <= most),
        "the full search with those retrained, arithmetic": f"{retrained.cost[-1] / full['flop'].step1_cost:.0%}",
        "the probe, core-seconds": f"{probed / full['seconds'].step1_cost:.1%}",
    }


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"


def _records(folder: Path) -> list[dict]:
    from emulator.records import read_folder

    return read_folder(folder, curves=False)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"
