"""`python -m emulator.evaluate`: errors of any exported model, through any backend, on any samples file.

Axis legend: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emulator import evaluation_text
from emulator.candidates import PARTS, rows_of_part
from emulator.dataset import SampleFile
from emulator.models import BACKENDS, Model, baselines, load_model
from emulator.progress import Progress
from emulator.regions import Region
from emulator.samples import ModelSamples
from emulator.scores import Scores, ScoreSum, WorstCases
from emulator.variables import Column

_BLOCK_ROWS = 1 << 18

Predict = Callable[[np.ndarray], np.ndarray]


def evaluate(predictors: Mapping[str, Predict], samples: SampleFile, rows: np.ndarray) -> dict[str, Scores]:
    """Scores of several predictors on the same rows of a samples file, one block of rows at a time.

    Parameters
    ----------
    predictors : mapping of name to function
        Each takes inputs (N, I) and returns outputs (N, O), float64, physical units.
    rows : (N,) increasing int array
    """
    sums = {name: ScoreSum(len(samples.output_columns)) for name in predictors}
    for start in range(0, len(rows), _BLOCK_ROWS):
        x, y = samples.read(rows[start : start + _BLOCK_ROWS])
        for name, predict in predictors.items():
            sums[name].add(y, predict(x))
    return {name: total.scores() for name, total in sums.items()}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Errors of some predictors on the same samples.

    Attributes
    ----------
    num_read : int
        Samples read; `num_selected` of them satisfied the condition.
    scores : mapping of group to mapping of predictor to Scores
        Groups: 'all', and 'inside' and 'outside' the training ranges (absent where there are no such samples).
    outside : tuple of (Column, below, above)
        Samples with that input below and above its training range, for inputs that have any.
    worst : mapping of predictor to WorstCases
    """

    num_read: int
    num_selected: int
    input_columns: tuple[Column, ...]
    output_columns: tuple[Column, ...]
    scores: Mapping[str, Mapping[str, Scores]]
    outside: tuple[tuple[Column, int, int], ...]
    worst: Mapping[str, WorstCases]


def evaluate_blocks(
    predictors: Mapping[str, Predict],
    blocks: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]],
    input_columns: Sequence[Column],
    output_columns: Sequence[Column],
    *,
    input_range: np.ndarray | None = None,
    output_range: np.ndarray | None = None,
    region: Region | None = None,
    num_worst: int = 5,
    advance: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Scores of several predictors, block by block, samples outside the training ranges apart.

    Parameters
    ----------
    predictors : mapping of name to function
        Each takes inputs (N, I) and returns outputs (N, O), float64, physical units.
    blocks : iterator of rows (N,), inputs (N, I), outputs (N, O)
    input_range : (2, I') array, I' <= I, optional
        Training ranges of the first inputs; NaN where unknown (then nothing is outside).
    output_range : (2, O) array, optional
        Worst cases over all outputs compare errors as fractions of it, unless all outputs have one unit.
    region : Region, optional
        Samples to look at; by default all.
    num_worst : int
        Cases kept, over all and of each output.
    advance : function of a number of samples
        Told after each block.

    Raises
    ------
    ValueError
        No sample satisfies the condition.
    """
    num_outputs = len(output_columns)
    low, high = np.full(len(input_columns), -np.inf), np.full(len(input_columns), np.inf)
    if input_range is not None:
        for end, known in ((low, input_range[0]), (high, input_range[1])):
            end[: len(known)] = np.where(np.isnan(known), end[: len(known)], known)
    groups = {g: {name: ScoreSum(num_outputs) for name in predictors} for g in ("all", "inside", "outside")}
    worst = {name: WorstCases(num_worst, _scale(output_columns, output_range)) for name in predictors}
    below, above = np.zeros(len(input_columns), np.int64), np.zeros(len(input_columns), np.int64)
    num_read = 0
    for rows_N, x_NI, y_NO in blocks:
        num_read_now = len(rows_N)
        if region is not None:
            inside = region.mask(x_NI)
            rows_N, x_NI, y_NO = rows_N[inside], x_NI[inside], y_NO[inside]
        below_NI, above_NI = x_NI < low, x_NI > high
        below += below_NI.sum(axis=0)
        above += above_NI.sum(axis=0)
        outside_N = (below_NI | above_NI).any(axis=1)
        for name, predict in predictors.items() if len(rows_N) else ():
            predicted_NO = predict(x_NI)
            groups["all"][name].add(y_NO, predicted_NO)
            groups["inside"][name].add(y_NO[~outside_N], predicted_NO[~outside_N])
            groups["outside"][name].add(y_NO[outside_N], predicted_NO[outside_N])
            worst[name].add(rows_N, x_NI, y_NO, predicted_NO)
        num_read += num_read_now
        advance(num_read_now)
    num_selected = next(iter(groups["all"].values())).num_samples
    if num_selected == 0:
        condition = f" satisfies the condition {region.text!r}" if region is not None else ""
        raise ValueError(f"none of {num_read:,} samples{condition}; there is nothing to evaluate")
    return Evaluation(
        num_read=num_read,
        num_selected=num_selected,
        input_columns=tuple(input_columns),
        output_columns=tuple(output_columns),
        scores={
            g: {name: total.scores() for name, total in sums.items()}
            for g, sums in groups.items()
            if next(iter(sums.values())).num_samples
        },
        outside=tuple((c, int(b), int(a)) for c, b, a in zip(input_columns, below, above, strict=True) if b or a),
        worst=worst,
    )


def _scale(output_columns: Sequence[Column], output_range: np.ndarray | None) -> np.ndarray:
    """What errors are divided by before outputs are compared: their training range, unless they have one unit."""
    ones = np.ones(len(output_columns))
    if output_range is None or len({c.units for c in output_columns}) == 1:
        return ones
    span = output_range[1] - output_range[0]
    return np.where(span > 0, span, ones)


# -- the command ------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m emulator.evaluate",
        description="Errors of an exported model on a samples file of any size, against other models and the schemes "
        "that it replaces.",
        epilog="example: python -m emulator.evaluate model.onnx --data samples.nc --where 'tair < 260 and wbar < 20'",
    )
    add = parser.add_argument
    add("model", type=Path, help="model.onnx, a TorchScript model.pt, or a network of a study (step2/models/*.pt)")
    add("--data", type=Path, metavar="FILE", help="samples file (default: the one that the model's study used)")
    what = "native (libemulator; default for .onnx), onnxruntime, or torch (default for .pt)"
    add("--backend", choices=BACKENDS, help=f"what runs the model: {what}")
    other = "another model, to compare; may be repeated"
    add("--against", action="append", default=[], metavar="MODEL[@BACKEND]", help=other)
    add("--no-baselines", action="store_true", help="without the schemes that the model replaces")
    part = "part of the study's own samples file (default: test, the hold-out); of another file: all"
    add("--part", choices=(*PARTS, "all"), help=part)
    condition = "only samples that satisfy a condition on inputs, such as 'tair < 260 and num_aer[2] > 100'"
    add("--where", metavar="CONDITION", help=condition)
    add("--worst", type=int, default=5, metavar="K", help="worst cases shown (default: 5)")
    add("--inputs", metavar="LIST", help="names of the inputs, in order, of a model that carries none: a,b,c")
    add("--outputs", metavar="LIST", help="the same of the outputs")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--json", action="store_true", help="everything, as JSON, instead of the table")
    kinds.add_argument("--csv", action="store_true", help="scores as CSV, one line per model, group and output")
    add("--quiet", action="store_true", help="no progress on standard error")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        text = _run(args)
    except (ValueError, OSError, ImportError, RuntimeError, MemoryError) as error:
        print(f"emulator.evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    sys.stdout.write(text)
    return 0


def _run(args: argparse.Namespace) -> str:
    if args.worst < 0:
        raise ValueError(f"--worst {args.worst}: expected 0 or more")
    names = {side: _listed(getattr(args, side)) for side in ("inputs", "outputs")}
    model = load_model(args.model, args.backend, **names)
    for side, given in names.items():
        if given is not None and tuple(given) != getattr(model, f"{side[:-1]}_names"):
            kept = ", ".join(getattr(model, f"{side[:-1]}_names"))
            raise ValueError(
                f"--{side} {','.join(given)}: {model.path} carries names itself: {kept}; leave the option out"
            )
    models = [model, *(load_model(*_with_backend(text), **names) for text in args.against)]
    if args.data is None and "data" not in model.provenance:
        raise ValueError(f"{model.path} does not say which samples it was trained on; name a file with --data")
    samples = ModelSamples(args.data or Path(model.provenance["data"]["path"]), models)
    region = Region(args.where, samples.input_columns) if args.where else None
    checksum = samples.file.checksum()
    part, rows = _rows(args.part, model, samples, checksum)
    predictors: dict[str, Predict] = {}
    for label, m in zip(_labels(models), models, strict=True):
        predictors[label] = lambda x, m=m: samples.predict(m, x)
    if not args.no_baselines:
        columns = len(model.input_names)
        for name, scheme in baselines(model.input_names, model.output_names).items():
            predictors[name] = lambda x, scheme=scheme: scheme(x[:, :columns])
    progress = contextlib.nullcontext() if args.quiet else Progress("evaluating", len(rows))
    with progress as shown:
        found = evaluate_blocks(
            predictors,
            samples.blocks(rows),
            samples.input_columns,
            samples.output_columns,
            input_range=model.input_range,
            output_range=model.output_range,
            region=region,
            num_worst=args.worst,
            advance=shown.advance if shown else lambda count: None,
        )
    about = evaluation_text.About(
        samples=samples.file.path,
        part=part,
        where=region.text if region else None,
        models=dict(zip(_labels(models), models, strict=True)),
        notes=tuple(_notes(models, checksum, part)),
    )
    write = evaluation_text.as_json if args.json else evaluation_text.as_csv if args.csv else evaluation_text.as_table
    return write(about, found)


def _with_backend(text: str) -> tuple[str, str | None]:
    """`model.onnx@onnxruntime` as path and backend."""
    path, _, backend = text.rpartition("@")
    return (path, backend) if path and backend in BACKENDS else (text, None)


def _listed(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _labels(models: Sequence[Model]) -> list[str]:
    """A short name for each model that no other one has."""
    short = [str(m) for m in models]
    full = [f"{m.path} ({m.backend})" for m in models]
    labels = [s if short.count(s) == 1 else f for s, f in zip(short, full, strict=True)]
    return [f"{label} #{k + 1}" if labels.count(label) > 1 else label for k, label in enumerate(labels)]


def _rows(wanted: str | None, model: Model, samples: ModelSamples, checksum: str) -> tuple[str, np.ndarray | range]:
    """Part and rows: the hold-out of the study's own file, or all of another one."""
    used = model.provenance.get("data")
    if wanted is None:
        own = used is not None and used["checksum"] == checksum
        wanted = "test" if own and used["test_fraction"] else "all"
    if wanted == "all":
        return wanted, range(samples.file.num_samples)
    if used is None:
        raise ValueError(f"--part {wanted}: {model.path} does not say how its samples were split; take --part all")
    if used["checksum"] != checksum:
        raise ValueError(
            f"--part {wanted}: {samples.file.path} has checksum {checksum}, the study of {model.path} used "
            f"{used['checksum']}: only that file has such a part; take --part all"
        )
    return wanted, rows_of_part(model.provenance, wanted)


def _notes(models: Sequence[Model], checksum: str, part: str) -> Iterator[str]:
    """What a reader of the numbers has to know about where they come from."""
    split = _split(models[0])
    for label, model in zip(_labels(models), models, strict=True):
        if model.provenance.get("data", {}).get("checksum") != checksum:
            continue
        if part in ("train", "all"):
            yield f"{label} was trained on some of these samples"
        elif _split(model) != split:
            yield f"{label} comes from another split of this file: it was trained on some of these samples"


def _split(model: Model) -> tuple:
    used = model.provenance.get("data", {})
    return used.get("seed"), used.get("test_fraction"), used.get("num_samples")


if __name__ == "__main__":
    sys.exit(main())
