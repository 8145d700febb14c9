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

from emulator import export_text, latency, models, select
from emulator.bundle import Bundle, load_bundle
from emulator.candidate_errors import candidate_errors
from emulator.candidates import RetrainedNetwork, holdout, retrained_networks
from emulator.constraints import OutputConstraints
from emulator.evaluate import evaluate
from emulator.libemulator import LibEmulator
from emulator.mlp import fold_batch_norm
from emulator.onnx_graph import build_onnx, metadata
from emulator.stability import cautious, picks_under_retraining, spreads
from emulator.variables import column_indices, names

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
    add("--batch", type=int, default=16, metavar="N", help="batch size whose latency counts (default: 16)")
    largest = "limit on the largest absolute error of an output on the validation samples: fn[2]=0.05; may be repeated"
    add("--max-error-of", action="append", default=[], metavar="OUTPUT=ERROR", help=largest)
    region = "also the MSE on validation samples in a region of the inputs: 'tair < 250'; may be repeated"
    add("--region", action="append", default=[], metavar="CONDITION", help=region)
    limits = "limit on the MSE in a region, in the order of the --region options"
    add("--max-region-mse", type=float, action="append", default=[], metavar="MSE", help=limits)
    spread = "choose by mean + K standard deviations over seeds, among networks that `hpo.study retrain` trained again"
    add("--stability", type=float, metavar="K", help=spread)
    bounds = "hold outputs within bounds in the exported graph: fn=0:1 or fn[2]=0: ; may be repeated"
    add("--bounds", action="append", default=[], metavar="OUTPUT=LOW:HIGH", help=bounds)
    order = "raise outputs so that 'a <= b <= c' holds, in the exported graph; may be repeated"
    add("--order", action="append", default=[], metavar="ORDER", help=order)
    bare = "export the network without its output head; the host has to apply the head itself"
    add("--without-head", action="store_true", help=bare)
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
    out = args.out or args.study / "model.onnx"
    if out.suffix and out.suffix not in FORMATS.values():
        raise ValueError(f"--out {out}: expected a name that ends in {' or '.join(FORMATS.values())}")
    if args.batch < 1:
        raise ValueError(f"--batch {args.batch}: expected 1 or more")
    networks = retrained_networks(args.study)
    if args.without_head:
        networks = _with_head(networks, console)
    first = load_bundle(networks[0].model)
    # before anything is measured: what is wrong with these shows now
    constraints = OutputConstraints.parse(args.bounds, args.order, first.output_columns)
    largest = _largest_errors(args.max_error_of, first)
    if args.without_head and constraints is not None:
        raise ValueError("--bounds and --order hold outputs, which a network --without-head does not give")
    form = _Form(constraints, args.without_head)
    latencies = _latencies(args, networks, form, form.variant(first), console)
    measures, limits = _measures(args, networks, largest, console)
    candidates = [
        select.Candidate(
            trial=n.trial,
            error=n.error,
            latency_ns=latencies[n.trial][args.batch],
            num_parameters=n.num_parameters,
            hidden=n.hidden,
            model=str(n.model),
            measures=measures[n.trial],
        )
        for n in networks
    ]
    known = spreads(args.study, {c.trial: c.error for c in candidates})

    def choose(some) -> select.Choice:
        return select.pick(
            some,
            args.pick,
            tolerance=args.tolerance,
            max_latency_ns=args.max_latency,
            max_error=args.max_error,
            limits=limits,
        )

    choice = choose(candidates if args.stability is None else cautious(candidates, known, args.stability))
    export_text.print_candidates(console, candidates, latencies, choice, known, args.stability, form.words)
    if known and not args.pick.startswith("trial:"):
        picks = picks_under_retraining(candidates, known, lambda some: choose(some).candidate)
        export_text.print_stability(console, picks, known)
    bundle = replace(load_bundle(choice.candidate.model), constraints=constraints)
    targets = {f: out.with_suffix(FORMATS[f]) for f in formats}
    rng = np.random.default_rng()  # fresh samples each time, on purpose
    fresh = training_range_samples(bundle, _NUM_VERIFY_SAMPLES, rng)
    if not args.no_holdout:
        samples, rows = holdout(bundle.provenance, args.data)
        fresh = np.concatenate([fresh, samples.read(rows[:_NUM_VERIFY_SAMPLES])[0]])
    checked = export(form.of(bundle), targets, fresh, args.verify_tolerance)
    export_text.print_verification(console, checked.num_samples, checked.tolerance, checked.differences)
    if not args.no_holdout:
        predictors = {f"emulator (trial {choice.candidate.trial})": bundle.predict}
        if constraints is not None:
            predictors["without bounds and order"] = replace(bundle, constraints=None).predict
        scores = evaluate(predictors | baselines(bundle), samples, rows)
        export_text.print_holdout(console, bundle.output_columns, scores)
    for path in targets.values():
        console.print(f"wrote {path} ({path.stat().st_size:,} bytes)")


def _largest_errors(texts: list[str], bundle: Bundle) -> dict[str, float]:
    """Limits on the largest absolute error, by name of the output."""
    found: dict[str, float] = {}
    for text in texts:
        name, equals, value = text.rpartition("=")
        try:
            limit = float(value)
            if not equals or not limit >= 0.0:
                raise ValueError
        except ValueError:
            raise ValueError(f"--max-error-of {text!r}: expected OUTPUT=ERROR, for instance fn[2]=0.05") from None
        try:
            found |= {bundle.output_columns[k].name: limit for k in column_indices(name, bundle.output_columns)}
        except ValueError as error:
            raise ValueError(f"--max-error-of {text!r}: among the outputs {error}") from None
    return found


def _measures(
    args: argparse.Namespace, networks: list[RetrainedNetwork], largest: dict[str, float], console: Console
) -> tuple[dict[int, dict[str, float]], list[select.Limit]]:
    """What is asked for beside error and latency: values by trial and name, and the limits on them."""
    regions = [" ".join(text.split()) for text in args.region]
    if len(args.max_region_mse) not in (0, len(regions)):
        raise ValueError(
            f"{len(regions)} --region and {len(args.max_region_mse)} --max-region-mse: expected one limit for each "
            "region, or none"
        )
    limits = [select.Limit(f"largest error of {name}", limit) for name, limit in largest.items()]
    limits += [select.Limit(f"MSE where {r}", m) for r, m in zip(regions, args.max_region_mse, strict=False)]
    if not largest and not regions:
        return {n.trial: {} for n in networks}, []
    with console.status("errors on the validation samples ...") as status:
        errors = candidate_errors(
            args.study,
            networks,
            regions,
            args.data,
            lambda done, total: status.update(f"errors on the validation samples: {done} of {total} networks ..."),
        )
    return {
        trial: {f"largest error of {name}": e["largest"][name] for name in largest}
        | {f"MSE where {r}": e["regions"][r] for r in regions}
        for trial, e in errors.items()
    }, limits


def _formats(text: str) -> list[str]:
    formats = [f.strip() for f in text.split(",") if f.strip()]
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown or not formats:
        raise ValueError(f"--format {text!r}: unknown {unknown}; expected a list of {', '.join(FORMATS)}")
    return formats


@dataclass(frozen=True)
class _Form:
    """What becomes of a network when it is exported."""

    constraints: OutputConstraints | None
    without_head: bool

    @property
    def words(self) -> str:
        """Empty: it is exported as it was trained."""
        return " and ".join(
            ["with bounds or order"] * (self.constraints is not None) + ["without head"] * self.without_head
        )

    def of(self, bundle: Bundle) -> Bundle:
        bundle = replace(bundle, constraints=self.constraints)
        return bundle.without_head() if self.without_head else bundle

    def variant(self, bundle: Bundle) -> str:
        """By what `latency.json` tells it from the network as it was trained."""
        limits = [] if self.constraints is None else [self.constraints.to_json(bundle.output_columns)]
        return ", ".join([*limits, *["without head"] * self.without_head])


def _with_head(networks: list[RetrainedNetwork], console: Console) -> list[RetrainedNetwork]:
    """Those that have an output head, which `--without-head` may leave out."""
    found = [n for n in networks if load_bundle(n.model).head is not None]
    if not found:
        raise ValueError("--without-head: no network of the study has an output head to leave out")
    if len(found) < len(networks):
        without = sorted({n.trial for n in networks} - {n.trial for n in found})
        console.print(f"without a head to leave out, and so no candidates: {', '.join(f'trial {t}' for t in without)}")
    return found


def _latencies(
    args: argparse.Namespace, networks: list, form: _Form, variant: str, console: Console
) -> dict[int, dict[int, float]]:
    """Of what would be exported of each network."""
    with console.status("measuring latencies through libemulator ...") as status:

        def writer(network):
            return lambda path: write_onnx(form.of(load_bundle(network.model)), path)

        return latency.measure_study(
            args.study,
            [(n.trial, writer(n)) for n in networks],
            sorted({*latency.BATCH_SIZES, args.batch}),
            again=args.remeasure,
            variant=variant,
            progress=lambda t: status.update(f"measuring the latency of trial {t} through libemulator ..."),
        )


if __name__ == "__main__":
    sys.exit(main())
