"""Figures of what a network costs in the host: error against measured latency, inference time against size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from emulator import select
from emulator.bundle import load_bundle
from emulator.latency import MeasurementError, measure_study
from hpo.report.ranks import error_label, of_study
from hpo.report.studies import StudyView
from hpo.report.style import (
    FAINT,
    FRONT,
    INK,
    STEP2,
    NothingToDraw,
    Panel,
    Section,
    axes,
    dots,
    legend,
    log_scale,
    study_color,
    study_marker,
)
from hpo.report.words import count, number

# An E3SM chunk holds 16 columns: the batch that a host calls with.
BATCH_SIZE = 16
# What the paper's figure S7 times.
_S7_BATCH, _S7_SAMPLES = 1024, 100_000


def measure_latencies(study: StudyView, progress: Callable[[int], None]) -> str | None:
    """Measure what is missing in `latency.json`; a sentence if that could not be done."""
    if not study.second:
        return None
    if study.running:
        return (
            f"Latencies of {study.label} are not measured while its search runs: they would be wrong, and slow it; run "
            "the report again when it has ended."
        )
    from emulator.export import write_onnx

    def writer(record: dict):
        return lambda path: write_onnx(load_bundle(study.folder / record["model"]), path)

    models = [(r["trial"], writer(r)) for r in study.second]
    try:
        measure_study(study.folder, models, progress=progress)
    except (MeasurementError, OSError, ValueError) as error:
        return f"Latencies of {study.label} are not measured: {error}."
    return None


def batch_size(latency: dict) -> int:
    sizes = latency["batch_sizes"]
    return BATCH_SIZE if BATCH_SIZE in sizes else sizes[0]


def _timed(study: StudyView, batch: int) -> list[select.Candidate]:
    rows = (study.latency or {"trials": {}})["trials"]
    return [
        select.Candidate(
            trial=r["trial"],
            error=r["validation_mse"],
            latency_ns=rows[str(r["trial"])][str(batch)],
            num_parameters=r["num_parameters"],
            hidden=tuple(r["hidden"]),
            model=str(Path(r["model"] or "")),
        )
        for r in study.second
        if str(batch) in rows.get(str(r["trial"]), {})
    ]


def error_against_latency(studies: Sequence[StudyView], tolerance: float = 1.0) -> Section:
    """Error of retrained networks against measured nanoseconds per sample: Pareto front and pick.

    `tolerance`: of the pick, as in `emulator.select.pick`.
    """
    measured = [s for s in studies if s.latency is not None]
    if not measured:
        raise NothingToDraw("no latency is measured yet")
    machines = {s.latency["machine"] for s in measured}
    if len(machines) > 1:
        raise NothingToDraw(f"the latencies were measured on different machines ({', '.join(sorted(machines))})")
    batch = batch_size(measured[0].latency)
    timed = [(k, s, _timed(s, batch)) for k, s in enumerate(studies)]
    timed = [row for row in timed if row[2]]
    if not timed:
        raise NothingToDraw(f"no retrained network has a measured latency at batch size {batch}")
    figure, drawn = axes(f"time per sample at batch size {batch} [ns]", error_label("step 2", studies))
    sentences = [f"Measured through libemulator on one core of {machines.pop()}."]
    for k, study, networks in timed:
        color, marker = (STEP2, "o") if len(studies) == 1 else (study_color(k), study_marker(k))
        label = f"retrained networks ({len(networks)})" if len(studies) == 1 else study.label
        x, y = [c.latency_ns for c in networks], [c.error for c in networks]
        dots(drawn, x, y, color, size=5.5, marker=marker, label=label)
        pick = select.pick(networks, "lightest", tolerance=tolerance)
        front = select.pareto_front(networks)
        line = FRONT if len(studies) == 1 else color
        drawn.plot(
            [c.latency_ns for c in front], [c.error for c in front], "-", color=line, linewidth=1.5,
            label=f"Pareto front ({len(front)}, by trial)" if len(studies) == 1 else None,
        )  # fmt: skip
        chosen = pick.candidate
        drawn.plot(
            chosen.latency_ns, chosen.error, "*", color=line, markersize=15, markeredgecolor=INK, markeredgewidth=0.8,
            label="pick: lightest" if k == timed[0][0] else None, linestyle="none",
        )  # fmt: skip
        sentences += of_study(studies, study, _latency_sentences(front, pick, len(networks)))
    if len(studies) == 1:
        limit = (1.0 + tolerance) * front[-1].error
        drawn.axhline(
            limit, color=FAINT, linestyle=":", linewidth=1.2, label=f"{1.0 + tolerance:g} times the best error"
        )
    log_scale(drawn, "x", "y")
    if len(studies) == 1:
        _name_points(drawn, front)
    legend(drawn)
    return Section(
        title="Error against latency",
        sentences=tuple(sentences),
        panels=(Panel(name="error-latency", alt="Error against latency. " + sentences[1], figure=figure),),
        gist=(len(sentences) - 1,) if len(studies) == 1 else (),
    )


def _name_points(drawn, front: Sequence[select.Candidate]) -> None:
    """Trial numbers beside the points of the front, where there is room for them."""
    ends = [np.log(drawn.get_xlim()), np.log(drawn.get_ylim())]
    named: list[np.ndarray] = []
    for c in reversed(front):  # the best first
        at = np.array(
            [(v - low) / (high - low) for v, (low, high) in zip(np.log([c.latency_ns, c.error]), ends, strict=True)]
        )
        if at[0] < 0.93 and all(abs(at - other)[0] > 0.1 or abs(at - other)[1] > 0.07 for other in named):
            named.append(at)
            drawn.annotate(
                str(c.trial),
                (c.latency_ns, c.error),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=8.5,
                color=INK,
            )


def _latency_sentences(front: list[select.Candidate], pick: select.Choice, networks: int) -> list[str]:
    fast, best, chosen = front[0], front[-1], pick.candidate
    text = (
        f"The fastest network takes {number(fast.latency_ns)} ns per sample (trial {fast.trial}, MSE "
        f"{number(fast.error)}), the best {number(best.latency_ns)} ns (trial {best.trial}, MSE {number(best.error)}): "
        f"{number(best.latency_ns / fast.latency_ns)} times the time for {number(fast.error / best.error)} times less "
        f"error; {len(front)} of {count(networks, 'network')} {'lies' if len(front) == 1 else 'lie'} on the Pareto "
        "front."
    )
    return [
        text,
        f"The pick `lightest` is trial {chosen.trial}: {number(chosen.latency_ns)} ns, "
        f"{count(chosen.num_parameters, 'parameter')}, MSE {number(chosen.error)}, "
        f"{number(chosen.error / best.error)} times the best.",
    ]


def inference_time(studies: Sequence[StudyView]) -> Section:
    """Time for 100,000 samples against the number of parameters (figure S7)."""
    timed = [(k, s, _timed(s, _S7_BATCH)) for k, s in enumerate(studies)]
    timed = [row for row in timed if row[2]]
    if not timed:
        raise NothingToDraw(f"no retrained network has a measured latency at batch size {_S7_BATCH}")
    figure, drawn = axes("parameters (weights and biases)", f"time for {_S7_SAMPLES:,} samples [s]")
    everyone = []
    for k, study, networks in timed:
        seconds = [c.latency_ns * _S7_SAMPLES * 1e-9 for c in networks]
        color, marker = (STEP2, "o") if len(studies) == 1 else (study_color(k), study_marker(k))
        label = study.label if len(studies) > 1 else None
        dots(drawn, [c.num_parameters for c in networks], seconds, color, size=5.5, marker=marker, label=label)
        everyone += list(zip(networks, seconds, strict=True))
    log_scale(drawn, "x", "y")
    legend(drawn)
    (low, fastest), (high, slowest) = (f(everyone, key=lambda pair: pair[1]) for f in (min, max))
    sentence = (
        f"{_S7_SAMPLES:,} samples take from {number(fastest)} s (trial {low.trial}, "
        f"{count(low.num_parameters, 'parameter')}) to {number(slowest)} s (trial {high.trial}, "
        f"{count(high.num_parameters, 'parameter')}) on one core, at batch size {_S7_BATCH:,}."
    )
    return Section(
        title="Inference time",
        sentences=(sentence,),
        panels=(Panel(name="inference-time", alt="Inference time against size. " + sentence, figure=figure),),
    )
