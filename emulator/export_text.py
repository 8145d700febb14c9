"""What `emulator.export` prints: candidates, the choice and its stability, verification, hold-out errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from emulator import latency
from emulator.scores import Scores
from emulator.select import Candidate, Choice
from emulator.stability import NUM_DRAWS, Spread
from emulator.variables import Column


def print_candidates(
    console: Console,
    candidates: Sequence[Candidate],
    latencies: Mapping[int, Mapping[int, float]],
    choice: Choice,
    known: Mapping[int, Spread],
    stability: float | None,
    form: str,
) -> None:
    """The candidates with all that limits were set on; which ones were ruled out; the choice and its reason.

    `form`: what is exported and timed, rather than networks as they were trained; empty: these.
    """
    title = f"retrained networks{form and f', {form}'}; latency in ns per sample, one thread"
    table = Table(title=title, title_justify="left")
    sizes = sorted(latencies[candidates[0].trial])
    measures = list(candidates[0].measures)
    headings = ["", "trial", "validation\nMSE", *(["mean", "std"] if known else []), *measures, "para-\nmeters"]
    for heading in (*headings, *(f"batch\n{b}" for b in sizes)):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("hidden layers", overflow="fold")
    out = set().union(*choice.cut.values())
    for c in candidates:
        mark = ("*" if c.trial in choice.front else "") + (">" if c.trial == choice.candidate.trial else "")
        spread = []
        if known:
            has = c.trial in known
            spread = [f"{known[c.trial].mean:.3e}" if has else "-", f"{known[c.trial].std:.1e}" if has else "-"]
        cost = [f"{latencies[c.trial][b]:.4g}" for b in sizes]
        table.add_row(
            mark or ("x" if c.trial in out else ""),
            str(c.trial),
            f"{c.error:.3e}",
            *spread,
            *(f"{c.measures[m]:.3g}" for m in measures),
            f"{c.num_parameters:,}",
            *cost,
            "-".join(map(str, c.hidden)),
        )
    console.print(table)
    marks = "* on the Pareto front of error and latency   > chosen"
    console.print(marks + ("   x ruled out by a limit" if out else ""))
    if measures:
        console.print("Largest errors and errors in regions: validation samples, units of the outputs (MSE: squared).")
    if known:
        console.print("mean, std: over the seeds that a network was trained with.")
    c = choice.candidate
    error = f"a validation MSE of {c.error:.3e}"
    if stability is not None:
        error = f"a mean validation MSE + {stability:g} std of {c.error:.3e} over {len(known[c.trial].errors)} seeds"
    console.print(
        f"trial {c.trial}: {choice.reason}.\nIt has {c.num_parameters:,} parameters, {error} and takes "
        f"{c.latency_ns:.4g} ns per sample on {latency.machine()}."
    )


def print_stability(console: Console, picks: Mapping[int, float], known: Mapping[int, Spread]) -> None:
    """How often each trial would be picked, had the networks been trained with other seeds."""
    told = [f"trial {t} in {100 * p:.3g} %" if t >= 0 else f"none in {100 * p:.3g} %" for t, p in picks.items()]
    seeds = ", ".join(f"{len(s.errors)} of trial {t}" for t, s in sorted(known.items()))
    console.print(
        f"Drawn from trainings with several seeds ({seeds}; {NUM_DRAWS:,} draws), this rule on single errors would "
        f"pick {', '.join(told)}."
    )


def print_verification(
    console: Console, num_samples: int, tolerance: float, differences: Mapping[str, float]
) -> None:
    console.print(f"\nverified on {num_samples} fresh samples; largest difference from PyTorch in float64,")
    console.print(f"as a fraction of an output's range (tolerance {tolerance:g}):")
    for runtime, difference in differences.items():
        console.print(f"  {runtime:16s} {difference:.2e}")


def print_holdout(console: Console, output_columns: Sequence[Column], scores: Mapping[str, Scores]) -> None:
    some = next(iter(scores.values()))
    title = f"hold-out error, {some.num_samples:,} samples: MSE (R²), in the outputs' units squared"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    one_unit = len({c.units for c in output_columns}) == 1  # squares of kelvins and watts have no mean
    if one_unit:
        table.add_column("all outputs", justify="right")
    for column in output_columns:
        table.add_column(column.name, justify="right")
    for name, s in scores.items():
        each = [
            f"{mse:.2e} ({'-' if r2 is None else f'{r2:.4f}'})"
            for mse, r2 in zip(s.mse_per_output, s.r2_per_output, strict=True)
        ]
        table.add_row(name, *([f"{s.mse:.3e}"] if one_unit else []), *each)
    console.print(table)
    if any(r2 is None for r2 in some.r2_per_output):
        console.print("(-: the output hardly varies, so R² has no meaning)")
