"""`python -m emulator.export`: choose a network of a study and write it as ONNX and TorchScript, verified."""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from emulator import latency, models, select
from emulator.bundle import Bundle, load_bundle
from emulator.candidates import holdout, retrained_networks
from emulator.evaluate import Scores, evaluate
from emulator.libemulator import LibEmulator
from emulator.mlp import fold_batch_norm
from emulator.onnx_graph import build_onnx, metadata
from emulator.variables import names

FORMATS = {"onnx": ".onnx", "torchscript": ".pt"}
# Largest difference accepted between runtimes, as a fraction of an output's training range: float32 sums of up to
# 2048 terms through 20 layers stay within about 100 roundings (6e-8 each) of the float64 result.
VERIFY_TOLERANCE = 1e-5
_NUM_CHECK_SAMPLES = 8
_NUM_VERIFY_SAMPLES = 4096


class VerificationError(RuntimeError):
    """The exported file does not compute what the trained network computes."""


@dataclass(frozen=True)
class Verification:
    """Largest difference from PyTorch in float64, as a fraction of the output's training range, by runtime."""

    differences: dict[str, float]
    num_samples: int
    tolerance: float


def write_onnx(bundle: Bundle, path: str | os.PathLike, tolerance: float = VERIFY_TOLERANCE) -> None:
    """Write `model.onnx`, check samples included. Not verified: see `export`."""
    model = build_onnx(bundle, _check_samples(bundle), tolerance)
    Path(path).write_bytes(model.SerializeToString(deterministic=True))


def write_torchscript(bundle: Bundle, path: str | os.PathLike, tolerance: float = VERIFY_TOLERANCE) -> None:
    """Write `model.pt`: the same function as TorchScript, float64 in and out, with the metadata of `model.onnx` as
    extra files. Not verified: see `export`."""
    example = torch.from_numpy(training_range_samples(bundle, 4, np.random.default_rng(0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch announces TorchScript's retirement at every call
        spec, state = fold_batch_norm(bundle.spec, bundle.state)
        traced = torch.jit.trace(replace(bundle, spec=spec, state=state).module(), example)
        extra = metadata(bundle, _check_samples(bundle), tolerance)
        torch.jit.save(traced, str(path), _extra_files=extra)


def _check_samples(bundle: Bundle) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=[0, 0xC4EC]))
    return training_range_samples(bundle, _NUM_CHECK_SAMPLES, rng)


def training_range_samples(bundle: Bundle, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Inputs spread over the training ranges, evenly in the transformed (logarithmic, say) columns; (n, I)."""
    inputs = bundle.inputs
    low, high = inputs.transform(np.stack([inputs.minimum, inputs.maximum]))
    t = low + (high - low) * rng.random((num_samples, bundle.spec.num_inputs))
    unscaled = type(inputs)(**(inputs.__dict__ | {"mean": np.zeros_like(low), "std": np.ones_like(low)}))
    return np.clip(unscaled.inverse(t), inputs.minimum, inputs.maximum)


def verify(bundle: Bundle, files: dict[str, Path], x_NI: np.ndarray, tolerance: float) -> Verification:
    """Compare every runtime that will run the files with PyTorch in float64.

    Raises
    ------
    VerificationError
        A difference above the tolerance, with the runtime, output and sample.
    """
    truth = bundle.predict(x_NI, dtype=torch.float64)
    runs = {"PyTorch float32": bundle.predict(x_NI)}
    if "onnx" in files:
        runs["ONNX Runtime"] = _run_onnxruntime(files["onnx"], x_NI)
        runs["libemulator"] = LibEmulator(files["onnx"]).infer(x_NI)
    if "torchscript" in files:
        runs["TorchScript"] = _run_torchscript(files["torchscript"], x_NI)
    span = bundle.outputs.maximum - bundle.outputs.minimum
    span = np.where(span > 0, span, np.maximum(np.abs(bundle.outputs.maximum), 1.0))
    differences = {}
    for runtime, y in runs.items():
        scaled = np.abs(y - truth) / span
        differences[runtime] = float(scaled.max())
        if not scaled.max() <= tolerance:  # NaN fails too
            row, column = np.unravel_index(np.nanargmax(np.where(np.isnan(scaled), np.inf, scaled)), scaled.shape)
            raise VerificationError(
                f"{runtime} gives {y[row, column]!r} for {bundle.output_columns[column].name}, PyTorch in float64 "
                f"gives {truth[row, column]!r}: {scaled[row, column]:.3g} of the output's range, tolerance "
                f"{tolerance:g}. Nothing was written. Inputs of that sample: {x_NI[row].tolist()}"
            )
    return Verification(differences, len(x_NI), tolerance)


def export(
    bundle: Bundle, targets: dict[str, Path], x_NI: np.ndarray, tolerance: float = VERIFY_TOLERANCE
) -> Verification:
    """Write the files, verify them, and only then put them at their targets.

    Parameters
    ----------
    bundle : Bundle
    targets : mapping of format ('onnx', 'torchscript') to path
    x_NI : (N, I) float64
        Fresh samples, physical units.
    tolerance : float

    Raises
    ------
    VerificationError
        Nothing is left at the targets, nor is a file that stood there touched.
    """
    writers = {
        "onnx": lambda path: write_onnx(bundle, path, tolerance),
        "torchscript": lambda path: write_torchscript(bundle, path, tolerance),
    }
    temporary = {f: p.with_name(f".{p.stem}.{os.getpid()}{FORMATS[f]}") for f, p in targets.items()}
    try:
        for name, path in temporary.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            writers[name](path)
        result = verify(bundle, temporary, x_NI, tolerance)
        for name, path in temporary.items():
            os.replace(path, targets[name])
        return result
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def baselines(bundle: Bundle) -> dict[str, models.Predict]:
    """Schemes that the network replaces, by name (`emulator.models.baselines`)."""
    return models.baselines(names(bundle.input_columns), names(bundle.output_columns))


def _run_onnxruntime(path: Path, x_NI: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x_NI})[0]


def _run_torchscript(path: Path, x_NI: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return torch.jit.load(str(path))(torch.from_numpy(x_NI)).numpy()


# -- the command ------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emulator.export",
        description="Choose a network of a study by validation error and measured latency, and export it.",
        epilog="example: python -m emulator.export study --pick lightest --out model.onnx",
    )
    add = parser.add_argument
    add("study", type=Path, nargs="?", default=Path("study"), help="folder written by hpo.search (default: study)")
    rules = "best, lightest (default), fastest, knee, or trial:N"
    add("--pick", default="lightest", metavar="RULE", help=rules)
    accepted = "lightest: accept errors up to (1 + T) times the best (default: 1)"
    add("--tolerance", type=float, default=1.0, metavar="T", help=accepted)
    add("--max-latency", type=float, default=math.inf, metavar="NS", help="limit in ns per sample at --batch")
    add("--max-error", type=float, default=math.inf, metavar="MSE", help="limit on the validation MSE")
    add("--batch", type=int, default=16, choices=latency.BATCH_SIZES, help="batch size that counts (default: 16)")
    add("--remeasure", action="store_true", help="measure latencies again instead of using latency.json")
    add("--format", default="onnx,torchscript", metavar="LIST", help="onnx, torchscript or both (default)")
    add("--out", type=Path, metavar="FILE", help="target; default: STUDY/model.onnx (and .pt)")
    add("--data", type=Path, metavar="FILE", help="samples file, if it was moved since the search")
    accepted = f"largest difference accepted, as a fraction of an output's range (default: {VERIFY_TOLERANCE:g})"
    add("--verify-tolerance", type=float, default=VERIFY_TOLERANCE, metavar="T", help=accepted)
    add("--no-holdout", action="store_true", help="do not compute the hold-out error")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 120)
    try:
        _run(args, console)
    except (ValueError, OSError, ImportError, VerificationError, latency.MeasurementError) as error:
        print(f"emulator.export: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; latencies measured so far are kept, run the same command again", file=sys.stderr)
        return 130
    return 0


def _run(args: argparse.Namespace, console: Console) -> None:
    formats = _formats(args.format)
    networks = retrained_networks(args.study)
    latencies = _latencies(args, networks, console)
    candidates = [
        select.Candidate(
            trial=n.trial,
            error=n.error,
            latency_ns=latencies[n.trial][args.batch],
            num_parameters=n.num_parameters,
            hidden=n.hidden,
            model=str(n.model),
        )
        for n in networks
    ]
    choice = select.pick(
        candidates,
        args.pick,
        tolerance=args.tolerance,
        max_latency_ns=args.max_latency,
        max_error=args.max_error,
    )
    _print_candidates(console, candidates, latencies, choice)
    bundle = load_bundle(choice.candidate.model)
    out = args.out or args.study / "model.onnx"
    targets = {f: out.with_suffix(FORMATS[f]) for f in formats}
    rng = np.random.default_rng()  # fresh samples each time, on purpose
    fresh = training_range_samples(bundle, _NUM_VERIFY_SAMPLES, rng)
    if not args.no_holdout:
        samples, rows = holdout(bundle.provenance, args.data)
        fresh = np.concatenate([fresh, samples.read(rows[:_NUM_VERIFY_SAMPLES])[0]])
    checked = export(bundle, targets, fresh, args.verify_tolerance)
    console.print(f"\nverified on {checked.num_samples} fresh samples; largest difference from PyTorch in float64,")
    console.print(f"as a fraction of an output's range (tolerance {checked.tolerance:g}):")
    for runtime, difference in checked.differences.items():
        console.print(f"  {runtime:16s} {difference:.2e}")
    if not args.no_holdout:
        predictors = {f"emulator (trial {choice.candidate.trial})": bundle.predict, **baselines(bundle)}
        _print_holdout(console, bundle, evaluate(predictors, samples, rows))
    for path in targets.values():
        console.print(f"wrote {path} ({path.stat().st_size:,} bytes)")


def _formats(text: str) -> list[str]:
    formats = [f.strip() for f in text.split(",") if f.strip()]
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ValueError(f"--format {text!r}: unknown {unknown}; expected a list of {', '.join(FORMATS)}")
    return formats


def _latencies(args: argparse.Namespace, networks: list, console: Console) -> dict[int, dict[int, float]]:
    with console.status("measuring latencies through libemulator ...") as status:

        def writer(network):
            return lambda path: write_onnx(load_bundle(network.model), path)

        return latency.measure_study(
            args.study,
            [(n.trial, writer(n)) for n in networks],
            again=args.remeasure,
            progress=lambda t: status.update(f"measuring the latency of trial {t} through libemulator ..."),
        )


def _print_candidates(console, candidates, latencies, choice: select.Choice) -> None:
    table = Table(title="retrained networks; latency in ns per sample, one thread", title_justify="left")
    for heading in ("", "trial", "validation MSE", "parameters", *(f"batch {b}" for b in latency.BATCH_SIZES)):
        table.add_column(heading, justify="right")
    table.add_column("hidden layers", overflow="fold")
    for c in candidates:
        mark = ("*" if c.trial in choice.front else "") + (">" if c is choice.candidate else "")
        cost = [f"{latencies[c.trial][b]:.4g}" for b in latency.BATCH_SIZES]
        hidden = "-".join(map(str, c.hidden))
        table.add_row(mark, str(c.trial), f"{c.error:.3e}", f"{c.num_parameters:,}", *cost, hidden)
    console.print(table)
    console.print("* on the Pareto front of error and latency   > chosen")
    c = choice.candidate
    console.print(
        f"trial {c.trial}: {choice.reason}.\nIt has {c.num_parameters:,} parameters, a validation MSE of "
        f"{c.error:.3e} and takes {c.latency_ns:.4g} ns per sample on {latency.machine()}."
    )


def _print_holdout(console: Console, bundle: Bundle, scores: dict[str, Scores]) -> None:
    some = next(iter(scores.values()))
    table = Table(title=f"hold-out error, {some.num_samples:,} samples: MSE (R²)", title_justify="left")
    table.add_column("")
    table.add_column("all outputs", justify="right")
    for column in bundle.output_columns:
        table.add_column(column.name, justify="right")
    for name, s in scores.items():
        each = [
            f"{mse:.2e} ({'-' if r2 is None else f'{r2:.4f}'})"
            for mse, r2 in zip(s.mse_per_output, s.r2_per_output, strict=True)
        ]
        table.add_row(name, f"{s.mse:.3e}", *each)
    console.print(table)
    if any(r2 is None for r2 in some.r2_per_output):
        console.print("(-: the output hardly varies, so R² has no meaning)")


if __name__ == "__main__":
    sys.exit(main())
