"""What a finished search prints: the best networks, the cost, what to type next."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from hpo.config import Config, SearchSettings
from hpo.latency_model import KEY
from hpo.lines import say
from hpo.progress import duration
from hpo.promotion import pareto_front, step1_parts
from hpo.run import Result
from hpo.statistics import cost_fraction, measured_cost
from hpo.study import ranking
from hpo.tally import Best
from hpo.view import front_text

_NUM_BEST = 10


def error_label(units: str) -> str:
    """What a validation MSE is measured in."""
    return "output units squared" if units == "physical" else "standardised outputs"


def estimate_text(config: Config) -> str:
    """The cost that the two-step scheme promises, before anything is measured."""
    search = config.search
    p_retrain = (search.num_top + search.light_top) / search.trials
    total = cost_fraction(step1_parts(search), p_retrain)
    text = f"estimated cost against a one-step search: {cost_sum(search, p_retrain)} = {total:.4g}"
    if total >= 1.0:
        text += " (no gain over training all trials on all the data: lower p_subset, or retrain fewer)"
    return text


def cost_sum(search: SearchSettings, p_retrain: float) -> str:
    """`p_subset + p_retrain = 0.05 + 0.005`; with rungs, of what each of them takes of all trials and samples."""
    if not search.rungs:
        return f"p_subset + p_retrain = {search.p_subset:g} + {p_retrain:.4g}"
    parts = [f"{n:.3g} x {p:g}" if n < 1.0 else f"{p:g}" for p, n in step1_parts(search)]
    return f"rungs and p_subset + p_retrain = ({' + '.join(parts)}) + {p_retrain:.4g}"


def print_summary(console: Console, config: Config, result: Result, out: Path) -> None:
    """Best networks of step 2, estimated and measured cost, next commands."""
    prepared = result.description["prepared"]
    best = ranking(result.step2)
    chosen = {p.trial: p for p in result.promotions}
    table = Table(
        title=f"best of {len(best)} retrained networks (validation MSE, {error_label(prepared['error_units'])})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    by_latency = ["ns\nmodelled"] if config.search.by_latency else []
    errors = ("MSE\nstep 2", "MSE\nstep 1", "rank\nstep 1")
    for heading in ("rank", "trial", *errors, "para-\nmeters", *by_latency, "epochs", "for"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("hidden\nlayers", overflow="fold", min_width=11)
    for k, r in enumerate(best[:_NUM_BEST], start=1):
        table.add_row(
            str(k),
            str(r["trial"]),
            f"{r['validation_mse']:.3e}",
            f"{r['step1_mse']:.3e}",
            str(chosen[r["trial"]].step1_rank if r["trial"] in chosen else r["step1_rank"]),
            f"{r['num_parameters']:,}",
            *([f"{r[KEY]:.4g}"] if by_latency else []),
            str(r["epochs"]),
            r["promoted"],
            "-".join(map(str, r["hidden"])),
        )
    console.print(table)
    failed = [sum(r["state"] == "failed" for r in records) for records in (result.step1, result.step2)]
    if any(failed):
        console.print(
            f"failed trials: {failed[0]} in step 1, {failed[1]} in step 2 (reasons are in their records)",
            soft_wrap=not console.is_terminal,
        )
    if config.search.sampler == "nsga2" and any(r["state"] == "complete" for r in result.step1):
        say(console, front_line(result))
    for line in cost_lines(config, result):
        say(console, line)
    console.print("\nnext:", highlight=False)
    for command in (f"python -m hpo.report {out}", f"python -m emulator.export {out} --pick lightest"):
        console.print(f"  {command}", highlight=False, soft_wrap=True)


def front_line(result: Result) -> str:
    """The Pareto front of step 1, and how much of it was retrained."""
    front = pareto_front([r for r in result.step1 if r["state"] == "complete"])
    chosen = {p.trial for p in result.promotions}
    retrained = sum(r["trial"] in chosen for r in front)
    hint = "" if retrained == len(front) else ": light_top retrains more of it"
    return f"{front_text([Best.of(r) for r in front])}; {retrained} of its trials retrained{hint}"


def cost_lines(config: Config, result: Result) -> list[str]:
    """Estimate, measurement, and what a one-step search would have taken."""
    prepared = result.description["prepared"]
    cost = measured_cost(result.step1, result.step2, prepared["num_train"], prepared["num_validation"], result.rungs)
    ratio = "-" if cost.fraction is None else f"{cost.fraction:.4g} of it"
    p_retrain = len(result.promotions) / len(result.step1)
    return [
        f"estimated cost: {cost_sum(config.search, p_retrain)} = "
        f"{cost_fraction(step1_parts(config.search), p_retrain):.4g} of a one-step search",
        f"measured cost: step 1 {duration(cost.step1)}, step 2 {duration(cost.step2)} of worker time; a one-step "
        f"search would take {duration(cost.one_step)} (estimate: step 1's cost per sample on all samples), so {ratio}",
    ]
