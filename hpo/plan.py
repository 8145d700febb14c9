"""`python -m hpo.plan`: what a search should look like, before it and after it. Argument wiring only."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from hpo.command import console, run_stoppable
from hpo.errors import SearchError

_DESCRIPTION = """\
Before a search: train a few dozen networks on growing parts of the data, and say from them how large p_subset should
be, how many trials to run and how many to retrain, and whether with a learning rate that decays; what that costs, and
how sure it is. The probe is kept in --out; the same command goes on after a kill, and a larger one adds to it.

After a search (python -m hpo.plan STUDY): what its records say should change.
"""
_EXAMPLES = """\
examples:
  python -m hpo.plan --config search.toml --workers 8          probe, then advise; writes plan/plan.toml
  python -m hpo.search --config plan/plan.toml                 the search that it recommends
  python -m hpo.plan --data samples.nc --trials 1000 --max-cost 0.1
  python -m hpo.plan study                                     after a search
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m hpo.plan",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = p.add_argument
    add("study", type=Path, nargs="?", help="a study folder: advise after its search")
    data = p.add_argument_group("the search to come")
    add = data.add_argument
    add("--config", metavar="FILE", help="its TOML file")
    add("--data", metavar="FILE", help="its samples, if the config names none")
    add("--trials", type=int, metavar="N", help="trials of the full search, all on all the data, that is to be matched")
    add("--keep-schedule", action="store_true", help="try no learning rate that decays in step 2")
    want = p.add_argument_group("what is wanted")
    add = want.add_argument
    add(
        "--tolerance",
        type=float,
        default=0.2,
        metavar="T",
        help="end within 1 + T times the error of its best, retrained as step 2 will be (default: 0.2)",
    )
    add("--confidence", type=float, default=0.8, metavar="P", help="with this probability (default: 0.8)")
    add(
        "--max-cost",
        type=float,
        default=1.0,
        metavar="C",
        help="for at most this part of its cost, in arithmetic and in worker time, in 95 %% of searches (default: 1)",
    )
    probe = p.add_argument_group("the probe")
    add = probe.add_argument
    add("--out", type=Path, default=Path("plan"), metavar="DIR", help="its folder (default: plan)")
    add("--probe-trials", type=int, default=24, metavar="N", help="networks (default: 24)")
    add("--twice", type=int, metavar="N", help="of them trained twice, for the luck of seeds (default: a quarter)")
    add("--fractions", metavar="P,P", help="parts of the data (default: 1/64, 1/16, 1/4 of the reference)")
    add("--reference", type=float, default=1.0, metavar="P", help="part that stands for all the data (default: 1)")
    add("--workers", type=int, metavar="N", help="processes, of the probe and for predicted wall times")
    add("--device", default="auto", help="cpu, cuda (all GPUs), cuda:0 or auto (default)")
    add("--quiet", action="store_true", help="only what it came to")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)

    def work(stop):
        if args.study is not None:
            _after(args, console())
        else:
            _before(args, console(), stop)

    return run_stoppable("hpo.plan", work, "stopped; the probe is kept, the same command goes on")


# -- before a search ------------------------------------------------------------------------------------------------


def _before(args: argparse.Namespace, console: Console, stop) -> None:
    _check(args)
    config = _config(args)
    from hpo.decay import MULTIPLES, PILOTS, constant_rate
    from hpo.placement import worker_devices
    from hpo.prepare import open_samples, rows_of
    from hpo.probe import default_fractions, read_probe, run_probe
    from hpo.run import resolved

    samples = open_samples(config.data)
    config = resolved(config, samples)
    devices = worker_devices(args.device, args.workers)

    def say(text: str) -> None:
        if not args.quiet:
            console.print(text, highlight=False, soft_wrap=not console.is_terminal)

    parts = rows_of(config, samples.num_samples, 1.0)
    fractions = _fractions(args) or default_fractions(parts.train.size + parts.validation.size, args.reference)
    twice = args.probe_trials // 4 if args.twice is None else args.twice
    decays = not args.keep_schedule and twice > 0 and constant_rate(config) is not None
    again = twice + decays * (twice + (twice + 1) // 2 + (len(MULTIPLES) - 1) * min(PILOTS, twice))
    whole = (args.probe_trials * (sum(fractions) + args.reference) + again * args.reference) / config.search.trials
    say(
        f"the probe costs about as much as {whole:.2g} of the full search ({config.search.trials:,} trials on all data)"
    )
    run_probe(
        args.out,
        config,
        fractions=fractions,
        reference=args.reference,
        trials=args.probe_trials,
        repeats=twice,
        decay=decays,
        devices=devices,
        stop=stop,
        say=say,
    )
    probe = read_probe(args.out)
    _advise(args, console, config, probe if decays else replace(probe, decay=None), devices)


def _check(args: argparse.Namespace) -> None:
    for name, low, high in (("tolerance", 0.0, None), ("confidence", 0.0, 1.0), ("max_cost", 0.0, None)):
        value = getattr(args, name)
        if not value > low or (high is not None and value >= high):
            between = f"above {low:g}" + ("" if high is None else f", below {high:g}")
            raise SearchError(f"--{name.replace('_', '-')} is {value}; expected a number {between}")
    if not 0.0 < args.reference <= 1.0:
        raise SearchError(f"--reference is {args.reference}; expected a number above 0, at most 1")
    if args.probe_trials < 8:
        raise SearchError(f"--probe-trials is {args.probe_trials}; fewer than 8 say nothing about a search")
    if args.twice is not None and not 0 <= args.twice <= args.probe_trials:
        raise SearchError(f"--twice is {args.twice}; expected 0 to the number of networks, {args.probe_trials}")


def _fractions(args: argparse.Namespace) -> tuple[float, ...] | None:
    if args.fractions is None:
        return None
    try:
        found = tuple(sorted({float(v) for v in args.fractions.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] <= 0.0 or found[-1] >= args.reference:
        raise SearchError(
            f"--fractions {args.fractions}: expected numbers above 0 and below the reference ({args.reference:g}), as "
            "in 0.01,0.05,0.25"
        )
    return found


def _config(args: argparse.Namespace):
    from hpo.config import Config, read_toml

    tables = read_toml(args.config) if args.config is not None else {}
    source = args.config or "options"
    tables = {name: dict(table) if isinstance(table, dict) else table for name, table in tables.items()}
    Config.from_dict(tables, source)
    if args.data is not None:
        tables.setdefault("data", {})["path"] = args.data
    if args.trials is not None:
        tables.setdefault("search", {})["trials"] = args.trials
    if "path" not in tables.get("data", {}):
        raise SearchError("no samples are named; give --data FILE, or a --config with [data] path")
    return Config.from_dict(tables, source)


def _advise(args: argparse.Namespace, console: Console, config, probe, devices: list[str]) -> None:
    from hpo.config import to_toml
    from hpo.decay import decaying
    from hpo.planning import LEVEL, alternatives, forecast, recommended
    from hpo.progress import duration
    from hpo.statistics import rank_correlation

    trials = config.search.trials
    if probe.failed:
        console.print(f"{probe.failed} trials of the probe failed and are left out", highlight=False)
    table = _table(f"the probe: {len(probe)} networks", "p_subset", "rank correlation with all data", "seconds a trial")
    hazy = []
    for k, f in enumerate(probe.fractions):
        found = rank_correlation(probe.errors[:, k], probe.errors[:, -1])
        known = found is not None and found.low is not None
        text = f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})" if known else "-"
        if not known or found.low <= 0.0:
            hazy.append(f"{f:.3g}")
        table.add_row(f"{f / probe.reference:.3g}", text, f"{probe.seconds[:, k].mean():.3g}")
    whole = "1" if probe.reference == 1.0 else f"1 (here {probe.reference:g} of the data)"
    table.add_row(whole, "", f"{probe.seconds[:, -1].mean():.3g}")
    console.print(table)
    found = forecast(probe, trials, tolerance=args.tolerance, max_cost=args.max_cost, retrained=config.search.num_top)
    chosen, sure = recommended(found, confidence=args.confidence)
    hours = "GPU" if devices[0].startswith("cuda") else "core"
    table = _table(
        f"searches for {trials:,} trials' worth (cost against all of them on all data; intervals hold {LEVEL:.0%})",
        "",
        "p_subset",
        "trials",
        "top",
        "step 2",
        "arith-\nmetic",
        f"{hours}\ntime",
        "the larger,\n1 search",
        f"{hours}-\nhours",
        f"wall time,\n{len(devices)} workers",
        "above\nbest",
        f"within\n{args.tolerance:.0%}",
        *(("as con-\nfigured",) if probe.decay is not None else ()),
    )
    for o in alternatives(found, chosen):
        table.add_row(
            "*" if o is chosen else "",
            f"{o.p_subset:.3g}",
            f"{o.trials:,}",
            str(o.top),
            "decays" if o.decays else "as is",
            f"{o.cost_flop:.3f}",
            f"{o.cost_seconds:.3f}",
            f"{o.cost_low:.3f}-{o.cost_high:.3f}",
            f"{o.seconds / 3600:.2g}",
            duration(3600.0 * o.hours(len(devices))),
            f"{o.excess:.0%}",
            f"{o.within:.0%}",
            *((f"{o.configured_within:.0%}",) if probe.decay is not None else ()),
        )
    whole = found.one_step_seconds
    hours_shown = f"{whole / 3600:.2g}", duration(whole / len(devices))
    table.add_row(
        "",
        "1",
        f"{trials:,}",
        "-",
        "-",
        "1",
        "1",
        "",
        *hours_shown,
        *(("",) if probe.decay is not None else ("0%", "")),
    )
    console.print(table)
    lines = [
        f"recommended (*): p_subset = {chosen.p_subset:.3g}, trials = {chosen.trials:,}, top = {chosen.top} "
        f"(p_retrain = {chosen.top / chosen.trials:.2g}), for {chosen.cost_flop:.1%} of the full search's arithmetic "
        f"and {chosen.cost_seconds:.1%} of its worker time; the larger of the two is {chosen.cost_low:.1%} to "
        f"{chosen.cost_high:.1%} in a single search, as it happens to retrain small or large networks.",
        *_promises(args, found, chosen, probe, config.search.num_top),
    ]
    lines += _doubts(args, chosen, sure, probe)
    if hazy:
        lines.append(
            f"Whether {', '.join(hazy)} of the data orders networks at all, the probe cannot tell: the interval of the "
            "rank correlation reaches zero."
        )
    if trials > len(probe):
        lines.append(
            f"The best of {trials:,} networks lies beyond the best of {len(probe)}: how far is a power law's guess."
        )
    if probe.reference < 1.0:
        lines.append(f"All data stands for {probe.reference:g} of it here: costs and orders beyond were not looked at.")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    wanted = {"trials": chosen.trials, "p_subset": chosen.p_subset, "top": chosen.top, "p_retrain": None, "rungs": ()}
    search = replace(config.search, **wanted)
    told = {"recommended": vars(chosen) | {"cost": chosen.cost}, "full_search_error": found.one_step_error}
    told |= {"full_search_retrained_error": found.retrained_error}
    told |= {"trials": trials, "tolerance": args.tolerance, "max_cost": args.max_cost, "confidence": args.confidence}
    (args.out / "plan.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    path = args.out / "plan.toml"
    if chosen.decays:
        config = decaying(config, probe.decay.rate)
    tables = replace(config, search=search).to_dict()
    path.write_text(f"# As python -m hpo.plan recommends.\n\n{to_toml(tables)}", encoding="utf-8")
    console.print(f"\nnext:\n  python -m hpo.search --config {path}", highlight=False, soft_wrap=True)


def _promises(args: argparse.Namespace, found, chosen, probe, retrained: int) -> list[str]:
    """How good the recommended search should be, and against what; what a decaying learning rate did for the probe."""
    from hpo.decay import step2_settings
    from hpo.planning import LEVEL

    def about(error: tuple[float, float, float]) -> str:
        return f"about {error[0]:.2g} ({error[1]:.2g} to {error[2]:.2g})"

    whole = f"It should end within {args.tolerance:.0%} of the full search's best error"
    typically = f"typically {_apart(chosen.excess)} it"
    interval = f"{LEVEL:.0%} interval {chosen.excess_low:+.0%} to {chosen.excess_high:+.0%}"
    best = f"The full search's best error itself: {about(found.one_step_error)}"
    decay = probe.decay
    if decay is None:
        return [f"{whole} with probability {chosen.within:.0%}; {typically} ({interval}).", f"{best}."]
    median, low, high = decay.advantage(LEVEL)
    ratios, rates = decay.ratios(), ", ".join(f"{rate:g}" for rate in decay.tried)
    lines = [
        f"{whole}, had that retrained its {retrained} best with a learning rate that decays, with probability "
        f"{chosen.within:.0%}; {typically} ({interval}). As for the full search as configured, with probability "
        f"{chosen.configured_within:.0%}; typically {_apart(chosen.configured)} its best.",
        f"{best}; with those retrained: {about(found.retrained_error)}.",
        f"A learning rate that falls from {decay.rate:g} along a cosine (the best of {rates}) brought "
        f"{len(ratios)} networks to {median:.2f} times their errors at the constant {decay.constant:g}, in the median "
        f"({LEVEL:.0%} interval {low:.2f} to {high:.2f}, by resampling them); {(ratios > 1.0).sum()} ended higher.",
    ]
    if decay.rate == max(decay.tried):
        lines[-1] += " Rates beyond were not tried."
    seeds = decay.seed_ratios()
    if len(seeds):
        lines.append(
            "Two such trainings of one network, with other seeds: the larger error was "
            f"{np.median(seeds) - 1.0:.0%} above the smaller one in the median of {len(seeds)}, "
            f"{seeds.max() - 1.0:.0%} at most."
        )
    if decay.failed:
        lines.append(f"{decay.failed} of these trainings failed, and count as the worst of the probe.")
    if chosen.decays:
        settings = (f"{key} = {json.dumps(value)}" for key, value in step2_settings(decay.rate).items())
        lines.append(f"So step 2 is to decay; in the config file: [step2] {', '.join(settings)}.")
    else:
        lines.append("That is not worth it here: step 2 stays as it is.")
    return lines


def _apart(excess: float) -> str:
    return f"{abs(excess):.0%} {'below' if excess < 0.0 else 'above'}"


def _doubts(args: argparse.Namespace, chosen, sure: bool, probe) -> list[str]:
    """What the user should know of the recommendation beside its numbers."""
    from hpo.planning import SURE_OF_COST

    lines = []
    if chosen.affordable < SURE_OF_COST:
        lines.append(
            f"Nothing costs at most {args.max_cost:.0%} in {SURE_OF_COST:.0%} of searches: this is the cheapest, and "
            f"does so in {chosen.affordable:.0%}."
        )
    if not sure and chosen.within < args.confidence:
        lines.append(
            f"That is less than the {args.confidence:.0%} asked for: the probe cannot promise it for at most "
            f"{args.max_cost:.0%} of the cost. A larger probe (--probe-trials {2 * len(probe)}) narrows the intervals; "
            "a larger --max-cost buys certainty."
        )
    best = probe.errors[:, -1].min()
    lines.append(f"The probe's own best network reached {best:.3g}; a search begins with the probe's networks.")
    ratios = probe.seed_ratios()
    if len(ratios):
        lines.append(
            "Two trainings of one network on all data, with other seeds: the larger error was "
            f"{np.median(ratios) - 1.0:.0%} above the smaller one in the median of {len(ratios)} networks, "
            f"{ratios.max() - 1.0:.0%} at most. Whatever orders networks more finely than that orders luck."
        )
    else:
        lines.append("Nothing was trained twice: the luck of seeds is left out, and the probabilities are too sure.")
    if chosen.top < 3:
        others = "no other" if chosen.top == 1 else "one other"
        lines.append(
            f"With top = {chosen.top}, a retraining that learns nothing, as one now and then does, leaves {others} to "
            "fall back on; a larger --max-cost allows more."
        )
    return lines


# -- after a search -------------------------------------------------------------------------------------------------


def _after(args: argparse.Namespace, console: Console) -> None:
    from hpo.config import Config, to_toml
    from hpo.review import changed, review
    from hpo.study import Study

    study = Study(args.study)
    if study.description is None:
        raise SearchError(f"{args.study} is not a study (it has no study.json); give the --out of hpo.search")
    config = Config.from_dict(study.description["config"], f"{args.study}/study.json")
    step1, step2 = (study.records(step, curves=False) for step in (1, 2))
    step1 = [r for r in step1 if r["trial"] < config.search.trials]
    rungs = [[r for r in records if r["trial"] < config.search.trials] for records in study.rung_records()]
    if not any(r["state"] == "complete" for r in step1):
        raise SearchError(f"{args.study} has no finished trial yet; run `python -m hpo.search --out {args.study}`")
    advice = review(config, step1, step2, rungs)
    for a in advice:
        to = f" -> {_shown(a.better)}" if a.better is not None else ""
        console.print(f"{a.verdict}: {a.about} = {_shown(a.now)}{to}", highlight=False, soft_wrap=True)
        console.print(f"  {a.because}", highlight=False, soft_wrap=True)
    if any(a.better is not None for a in advice):
        path = args.study / "next.toml"
        path.write_text(f"# As python -m hpo.plan advises.\n\n{to_toml(changed(config, advice))}", encoding="utf-8")
        command = f"python -m hpo.search --config {path} --out {args.study}-2"
        console.print(f"\nnext:\n  {command}", highlight=False, soft_wrap=True)
    else:
        console.print("\nnothing to change", highlight=False)


def _shown(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


if __name__ == "__main__":
    sys.exit(main())
