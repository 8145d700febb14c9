"""Measuring the networks of a search space: what `hpo.latency_model` is fitted to.

Networks that fill the space evenly get random weights, are exported as `emulator.export` would and timed by
`emu-bench`, as it times them. A fourth is held out from the fit: how far the model is off is told of those.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from emulator import latency
from emulator.bundle import Bundle
from emulator.export import write_onnx
from emulator.libemulator import LibraryNotFoundError, find_tool
from emulator.mlp import MLPSpec, build_mlp
from hpo.errors import SearchError
from hpo.latency_model import LatencyModel, fit, relative_errors
from hpo.samplers import Sobol
from hpo.trial import StudyContext

# Networks: so many, and more for every kind of hidden unit (activation, normalization); about 15 s in all.
_NETWORKS, _FOR_EACH_KIND = 40, 8
_HELD_OUT = 4  # one in so many
# Each is measured so often, some time apart, and the least counts: other work on the machine only ever adds.
TURNS = 2
_SECONDS = 0.1  # each time
_TOOL = "emu-bench"


@dataclass(frozen=True)
class Shape:
    """A network of the space as far as its latency goes."""

    spec: MLPSpec
    head: str
    variant: int  # of the inputs' transforms
    counts: Mapping[str, float]


def check_tool() -> None:
    """Refuse to begin what cannot be measured here.

    Raises
    ------
    SearchError
    """
    try:
        find_tool(_TOOL)
    except LibraryNotFoundError as error:
        raise SearchError(
            f"second_objective = 'latency' times networks through libemulator, which is not installed here: {error}. "
            "Or give the latency_model.json of a study that was begun on the machine in question as latency_model, or "
            "set second_objective = 'parameters'"
        ) from None


def spanning(context: StudyContext) -> list[Shape]:
    """Different networks that fill the space evenly; fewer where it has no more."""
    space, found = context.space, {}
    sobol = Sobol(space)
    for k in range(8 * _NETWORKS):
        params = sobol.params(k)
        variant = space.input_transforms.index(space.transforms(params))
        shape = Shape(context.spec(space, params), space.head(params), variant, context.counts(space, params))
        found.setdefault((shape.spec, shape.head, shape.variant), shape)
        kinds = {name for s in found.values() for name in s.counts if name.startswith("unit ")}
        wanted = _NETWORKS + _FOR_EACH_KIND * len(kinds)
        if len(found) >= wanted:
            break
    return list(found.values())


def measured_model(
    context: StudyContext, shapes: list[Shape], batch: int, advance: Callable[[int], None]
) -> LatencyModel:
    """Measure networks on this machine and fit a model to them.

    Parameters
    ----------
    context : StudyContext
    shapes : list of Shape
        See `spanning`.
    batch : int
        Samples in a call.
    advance : function of a number
        Told how many more measurements are done, of `TURNS` for each network.

    Raises
    ------
    SearchError
        libemulator is not installed, or cannot run a network of this space.
    """
    check_tool()
    ns, told = np.full(len(shapes), np.inf), {}
    for _ in range(TURNS):
        for k, shape in enumerate(shapes):
            try:
                told = _bench(context, shape, batch)
            except latency.MeasurementError as error:
                raise SearchError(f"a network of this space, {shape.spec}, could not be timed: {error}") from None
            ns[k] = min(ns[k], told["results"][0]["ns_per_sample"])
            advance(1)
    return _fitted(shapes, ns, batch, {"library": told["library"], "isa": told["isa"]})


def _bench(context: StudyContext, shape: Shape, batch: int) -> dict:
    prepared = context.prepared[2]
    bundle = Bundle(
        spec=shape.spec,
        state=build_mlp(shape.spec, torch.Generator().manual_seed(0)).state_dict(),
        inputs=prepared.inputs[shape.variant],
        outputs=prepared.outputs,
        input_columns=context.input_columns,
        output_columns=context.output_columns,
        provenance={},
        head=context.heads.get(shape.head),
        targets=prepared.targets.get(shape.head),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(bundle, path)
        return latency.bench(path, (batch,), seconds=_SECONDS)


def _held_out(shapes: list[Shape]) -> np.ndarray:
    """Which networks the fit does not see: by lot, but none that is the only one of its kind."""
    held = np.zeros(len(shapes), dtype=bool)
    for k in np.random.default_rng(0).permutation(len(shapes)).tolist():
        others = set().union(*(s.counts for j, s in enumerate(shapes) if j != k and not held[j]))
        held[k] = held.sum() < len(shapes) // _HELD_OUT and others >= shapes[k].counts.keys()
    return held


def _fitted(shapes: list[Shape], ns: np.ndarray, batch: int, made: Mapping[str, str]) -> LatencyModel:
    held = _held_out(shapes)
    fitted = np.flatnonzero(~held).tolist()
    terms = fit([shapes[k].counts for k in fitted], ns[fitted])
    model = LatencyModel(batch=batch, terms=terms)
    off = relative_errors(model, [s.counts for s in shapes], ns)
    said = {
        "machine": latency.machine(),
        **made,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "fitted": len(fitted),
        "held_out": int(held.sum()),
        "median_error": float(np.median(off[held])) if held.any() else None,
        "largest_error": float(off[held].max()) if held.any() else None,
    }
    networks = [
        {
            "hidden": "-".join(map(str, s.spec.hidden)),
            "activation": s.spec.activation,
            "normalization": s.spec.normalization,
            "residual": s.spec.residual,
            "head": s.head,
            "ns": float(t),
            "modelled_ns": model.ns(s.counts),
            "held_out": bool(h),
        }
        for s, t, h in zip(shapes, ns, held, strict=True)
    ]
    return LatencyModel(batch=batch, terms=terms, made=said, networks=networks)
