"""`python -m hpo.search`: the two-step hyperparameter search. Argument wiring only."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from hpo.command import console, make_folder, refused, run_stoppable
from hpo.config import PRUNERS, SAMPLERS, SECOND_OBJECTIVES, Config, read_toml
from hpo.errors import Interrupted, SearchError
from hpo.members import LEASE_SECONDS, Crew, Member
from hpo.slurm_job import launch
from hpo.stop import StopSignals
from hpo.storage import check_storage
from hpo.study import Study, read_description

DEFAULT_SAMPLES_FILE = Path("activation-samples.nc")
DEFAULT_NUM_SAMPLES = 200_000
_LOOK_S = 0.2

_DESCRIPTION = """\
Search for a neural network in two steps: train many configurations on a small part of the samples, retrain the best
of them on all. Without options, the case study (aerosol activation) is searched: its samples are generated first.

The same command goes on after a kill; so does `python -m hpo.search --out STUDY` alone.
"""
_EXAMPLES = """\
examples:
  python -m hpo.search                                   the case study, the paper's space, on all cores
  python -m hpo.search --data samples.nc --trials 500 --widths 8,16,32,64,128 --depth 1:6 --top 10
  python -m hpo.search --config search.toml --out study-2 --workers 8
  python -m hpo.search --after study --narrow 10 --p-subset 1 --trials 20 --out second
                                                         search again, on all samples, near the ten best of a study
  python -m hpo.search --out study                       go on with a study
"""


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m hpo.search",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # --launch is looked for by name
    )
    data = p.add_argument_group("what is searched (values here replace those of the config file)")
    add = data.add_argument
    add("--data", metavar="FILE", help="samples, netCDF (default: activation-samples.nc, generated if missing)")
    tables = "TOML with tables [data] (inputs, outputs, ...) [space] [train] [search] [step2] [slurm]"
    add("--config", metavar="FILE", help=tables)
    add("--recipe", choices=("default", "paper"), help="paper: plain z-scores of the inputs, no transforms")
    add("--trials", type=int, metavar="N", help="configurations in step 1 (default: 10000)")
    add("--p-subset", type=float, metavar="P", help="part of the samples that step 1 uses (default: 0.05)")
    add("--top", type=int, metavar="K", help="trials retrained in step 2 (default: 50)")
    add("--p-retrain", type=float, metavar="P", help="the same as a fraction of the trials")
    add("--sampler", choices=SAMPLERS, help="where configurations come from (default: random)")
    add(
        "--second-objective",
        choices=SECOND_OBJECTIVES,
        help="what nsga2 minimises beside the error (default: parameters); latency: on a CPU, by a model fitted to "
        "networks that are measured first",
    )
    add("--latency-batch", type=int, metavar="N", help="samples in a call whose latency counts (default: 16)")
    add("--latency-model", metavar="FILE", help="latency_model.json of another study, instead of measuring here")
    add("--pruner", choices=PRUNERS, help="which trainings of step 1 end early (default: none)")
    add("--rungs", metavar="P,P", help="growing subsets on which step 1 tries trials first: 0.005,0.02, or none")
    add("--after", metavar="STUDY", help="start from another study: its settings, and what --fix or --narrow say")
    add("--fix", metavar="NAME,...", help="with --after: these as its best trial has them, for instance depth,widths")
    add("--narrow", type=int, metavar="K", help="with --after: search only what its K best trials span")
    add("--seed", type=int, metavar="S", help="of the split, the configurations and the trainings (default: 0)")
    add("--depth", metavar="D", help="hidden layers: 3, 1:20 (range) or 1,2,4 (list) (default: 1:20)")
    add("--widths", metavar="W", help="widths of a layer, as --depth (default: 8,16,32,...,2048)")
    add("--max-epochs", type=int, metavar="N", help="of a training, in step 2 unless [step2] says (default: 100)")
    run = p.add_argument_group("how it is run (no trial depends on these)")
    add = run.add_argument
    add("--out", type=Path, default=Path("study"), metavar="DIR", help="study folder (default: study)")
    add("--workers", type=int, metavar="N", help="processes (default: one per usable core, at most 8 per GPU)")
    add("--device", default="auto", help="cpu, cuda (all GPUs), cuda:0 or auto (default)")
    add("--samples", type=int, metavar="N", help="samples to generate without --data (default: 200000)")
    add(
        "--gpus-per-trial",
        type=_ranks,
        default="auto",
        metavar="K",
        help="workers that train one network of step 2 together, on CPUs too: a number or auto (default)",
    )
    add(
        "--lease-seconds",
        type=_seconds,
        default=LEASE_SECONDS,
        metavar="S",
        help=f"a member that shows no sign of life for so long is taken for dead (default: {LEASE_SECONDS:g})",
    )
    add(
        "--storage",
        metavar="URL",
        help="your own Optuna storage instead of study.journal: postgresql://..., mysql://...",
    )
    add(
        "--launch",
        choices=("here", "slurm"),
        default="here",
        help="slurm: submit a job as the table [slurm] says and follow it (default: here)",
    )
    add("--dry-run", action="store_true", help="with --launch slurm: only print the batch script")
    add("--quiet", action="store_true", help="only the final tables")
    add("--rebuild-study", action="store_true", help="make the Optuna study anew from the records")
    return p


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        if args.launch == "slurm":
            return _launch(args, sys.argv[1:] if argv is None else argv)
        if args.dry_run:
            raise SearchError("--dry-run shows the batch script; it goes with --launch slurm")
    except SearchError as error:
        return refused("hpo.search", error)
    stopped = f"stopped; finished trials are kept. Go on with: python -m hpo.search --out {args.out}"
    return run_stoppable("hpo.search", lambda stop: _run(args, console(), stop), stopped)


def _launch(args: argparse.Namespace, argv: list[str]) -> int:
    """Run the same command as a SLURM job; what can be seen to be wrong is refused before."""
    config = _config(args)
    _check(args)
    words = iter(argv)
    kept = []
    for word in words:
        if word == "--launch":
            next(words)
        elif word != "--dry-run" and not word.startswith("--launch="):
            kept.append(word)
    return launch(config.slurm, [sys.executable, "-m", "hpo.search", *kept], out=args.out, dry_run=args.dry_run)


def _check(args: argparse.Namespace) -> None:
    if args.storage is not None:
        check_storage(args.storage)
        if args.rebuild_study:
            raise SearchError("--rebuild-study makes study.journal anew; it does not go with --storage")


def _run(args: argparse.Namespace, console: Console, stop: StopSignals) -> None:
    config = _config(args)
    _check(args)
    if not config.data.path:
        config = _with_data(config, _generated_samples(args, config.search.seed))
    # PyTorch is imported from here on: errors in options and --help need not wait for it
    import torch

    from hpo.fleet import check_precision
    from hpo.lines import say
    from hpo.placement import worker_devices
    from hpo.prepare import open_samples
    from hpo.run import RunOptions, resolved, run_search
    from hpo.summary import estimate_text, print_summary

    config = resolved(config, open_samples(config.data))
    options = RunOptions(
        devices=worker_devices(args.device, args.workers),
        ranks_per_trial=args.gpus_per_trial,
        storage=args.storage,
        rebuild_mirror=args.rebuild_study,
        lease_seconds=args.lease_seconds,
        quiet=args.quiet,
    )
    for device in set(options.devices):
        search = config.search
        check_precision(search.precision, search.engine, torch.device(device), ranks=args.gpus_per_trial)
    make_folder(args.out)
    if not args.quiet:
        workers = f"{len(options.devices)} workers on {options.devices[0]}"
        say(console, f"study {args.out}: {config.search.trials} trials, {workers}")
        say(console, estimate_text(config))
    result = run_search(Study(args.out), config, options, stop=stop, console=console)
    with stop.held():
        if result.leader:
            print_summary(console, config, result, args.out)


def _config(args: argparse.Namespace) -> Config:
    """The study's own settings, or the config file's, or those of the study to start from; then the flags."""
    stored = read_description(args.out)
    if args.config is not None:
        tables, source = read_toml(args.config), args.config
    elif stored is not None:
        tables, source = stored["config"] | {"slurm": stored.get("slurm", {})}, f"{args.out}/study.json"
    elif args.after is not None:
        tables, source = _tables_of(Path(args.after)), f"{args.after}/study.json"
    else:
        tables, source = {}, "options"
    tables = {name: dict(table) if isinstance(table, dict) else table for name, table in tables.items()}
    Config.from_dict(tables, source)
    if args.config is not None and stored is not None and "path" not in tables.get("data", {}):
        tables.setdefault("data", {})["path"] = stored["config"]["data"]["path"]

    def put(table: str, key: str, value) -> None:
        if value is not None:
            tables.setdefault(table, {})[key] = value

    put("data", "path", args.data)
    if args.recipe is not None:
        put("data", "transforms", "none" if args.recipe == "paper" else "auto")
    put("space", "depth", _dimension("--depth", args.depth))
    put("space", "widths", _dimension("--widths", args.widths))
    put("train", "max_epochs", args.max_epochs)
    if args.second_objective == "parameters":
        tables.get("search", {}).pop("latency_model", None)  # a study's that --after names
    latency = ("second_objective", "latency_batch", "latency_model")
    for key in ("trials", "p_subset", "seed", "sampler", *latency, "pruner", "after", "narrow"):
        put("search", key, getattr(args, key))
    put("search", "rungs", _parts(args.rungs))
    put("search", "fix", None if args.fix is None else [name.strip() for name in args.fix.split(",")])
    if args.top is not None or args.p_retrain is not None:
        for key in ("top", "p_retrain"):
            tables.get("search", {}).pop(key, None)
            put("search", key, getattr(args, key))
    return Config.from_dict(tables, "options")


def _tables_of(first: Path) -> dict:
    """Settings of a study from which another one starts, but for where it came from itself.

    Raises
    ------
    SearchError
        There is no study.
    """
    description = read_description(first)
    if description is None:
        raise SearchError(f"--after {first}: there is no study (no study.json)")
    tables = description["config"]
    search = {k: v for k, v in tables["search"].items() if k not in ("after", "fix", "narrow")}
    return {k: v for k, v in tables.items() if k != "stage"} | {"search": search, "slurm": description.get("slurm", {})}


def _parts(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [] if text == "none" else [float(part) for part in text.split(",")]
    except ValueError:
        raise SearchError(f"--rungs {text!r}: expected parts of the samples such as 0.005,0.02, or none") from None


def _ranks(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number of at least 1, or auto")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number above 0")
    return seconds


def _dimension(option: str, text: str | None):
    if text is None:
        return None
    try:
        if ":" in text:
            low, high = (int(v) for v in text.split(":"))
            return {"low": low, "high": high}
        values = [int(v) for v in text.split(",")]
    except ValueError:
        raise SearchError(f"{option} {text!r}: expected a whole number, a range 1:20 or a list 8,16,32") from None
    return values[0] if len(values) == 1 else {"choices": values}


def _with_data(config: Config, path: Path) -> Config:
    return replace(config, data=replace(config.data, path=str(path)))


def _generated_samples(args: argparse.Namespace, seed: int) -> Path:
    """The case study's samples, made by its own program, once: by one member for all that start with it."""
    path = DEFAULT_SAMPLES_FILE
    if path.exists() and args.samples is None:
        return path
    make_folder(args.out)
    with Member(args.out, devices=[], lease_seconds=args.lease_seconds) as member, ExitStack() as ends:
        leases = Crew.of(args.out, member, args.lease_seconds).leases
        ends.callback(leases.close)
        while not leases.take("samples"):
            time.sleep(_LOOK_S)
        if not path.exists() or args.samples is not None:
            _generate(args, seed, path)
        leases.release("samples")
    return path


def _generate(args: argparse.Namespace, seed: int, path: Path) -> None:
    samples = args.samples if args.samples is not None else DEFAULT_NUM_SAMPLES
    command = [sys.executable, "-m", "emulator.activation", "generate"]
    command += ["--samples", str(samples), "--seed", str(seed), "--out", str(path)]
    if args.workers is not None:
        command += ["--workers", str(args.workers)]
    if not args.quiet:
        print(f"no --data: making {samples:,} samples of the case study in {path} (once)", flush=True)
    status = subprocess.run(command, check=False).returncode
    if status == 130:
        raise Interrupted
    if status != 0:
        raise SearchError(f"the samples could not be generated (status {status}): {' '.join(command[1:])}")


if __name__ == "__main__":
    sys.exit(main())
