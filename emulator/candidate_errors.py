"""Errors of a study's retrained networks on their validation samples: the largest of each output, and in regions.

They are kept in `errors.json` of the study, each with the checksum of its model file: computed once.

Axis legend: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from emulator.bundle import load_bundle
from emulator.candidates import RetrainedNetwork, rows_of_part, study_samples
from emulator.models import load_model
from emulator.regions import Region
from emulator.samples import ModelSamples
from emulator.variables import names

SCHEMA = 1
_TOGETHER = 8  # networks held in memory while the samples are read once

Progress = Callable[[int, int], None]


def candidate_errors(
    study: Path,
    networks: Sequence[RetrainedNetwork],
    regions: Sequence[str] = (),
    data: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[int, dict]:
    """Errors by trial: `{"largest": {output: value}, "regions": {text: MSE}}`, physical units, PyTorch in float32.

    Parameters
    ----------
    study : path
    networks : sequence of RetrainedNetwork
        Of one study: all were validated on the same samples.
    regions : sequence of str
        Conditions on inputs (`emulator.regions`). The MSE is the mean over outputs, as a validation MSE is, over the
        validation samples inside.
    data : path, optional
        Where the samples file is now, if it was moved.
    progress : function of networks done and of networks to do

    Raises
    ------
    FileNotFoundError, ValueError
        The samples are gone or others; a condition is wrong; no validation sample satisfies it.
    """
    path = Path(study) / "errors.json"
    kept = _read(path)
    checksums = {n.trial: _checksum(n.model) for n in networks}
    texts = [" ".join(text.split()) for text in regions]
    known = {n.trial: _still_true(kept.get(str(n.trial)), checksums[n.trial]) for n in networks}

    def missing(network: RetrainedNetwork) -> list[str]:
        return [t for t in texts if t not in known[network.trial]["regions"]]

    todo = [n for n in networks if known[n.trial]["largest"] is None or missing(n)]
    for start in range(0, len(todo), _TOGETHER):
        progress(start, len(todo))
        some = todo[start : start + _TOGETHER]
        for trial, found in _measure(some, sorted({t for n in some for t in missing(n)}), data).items():
            entry = known[trial]
            entry["largest"] = found["largest"]
            entry["regions"] |= found["regions"]
            kept[str(trial)] = {"model": checksums[trial], **entry}
        _write(path, kept)
    return {n.trial: known[n.trial] for n in networks}


def _measure(networks: Sequence[RetrainedNetwork], texts: Sequence[str], data: Path | None) -> dict[int, dict]:
    provenance = load_bundle(networks[0].model).provenance
    opened = [load_model(n.model) for n in networks]
    samples = ModelSamples(study_samples(provenance, data).path, opened)
    regions = [Region(text, samples.input_columns) for text in texts]
    largest = np.zeros((len(networks), len(samples.output_columns)))
    squares = np.zeros((len(networks), len(regions)))
    inside = np.zeros(len(regions), np.int64)
    for _, x_NI, y_NO in samples.blocks(rows_of_part(provenance, "validation")):
        masks = [region.mask(x_NI) for region in regions]
        inside += np.array([mask.sum() for mask in masks], np.int64)
        for k, model in enumerate(opened):
            error_NO = samples.predict(model, x_NI) - y_NO
            # np.maximum passes NaN on: such a network satisfies no limit
            largest[k] = np.maximum(largest[k], np.abs(error_NO).max(axis=0))
            squares[k] += [float((error_NO[mask] ** 2).sum()) for mask in masks]
    for region, count in zip(regions, inside, strict=True):
        if count == 0:
            raise ValueError(f"no validation sample satisfies the condition {region.text!r}; widen the region")
    outputs = names(samples.output_columns)
    mse = squares / (inside * len(outputs)) if regions else squares
    return {
        n.trial: {
            "largest": dict(zip(outputs, largest[k].tolist(), strict=True)),
            "regions": dict(zip(texts, mse[k].tolist(), strict=True)),
        }
        for k, n in enumerate(networks)
    }


def _still_true(entry: dict | None, checksum: str) -> dict:
    if entry is None or entry["model"] != checksum:
        return {"largest": None, "regions": {}}
    return {"largest": entry["largest"], "regions": dict(entry["regions"])}


def _checksum(model: Path) -> str:
    with open(model, "rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _read(path: Path) -> dict[str, dict]:
    """What is kept; nothing if the file is missing or of another version."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}; remove it, and the errors are computed again") from None
    return data["trials"] if data.get("schema") == SCHEMA else {}


def _write(path: Path, trials: dict) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps({"schema": SCHEMA, "trials": trials}, indent=1) + "\n")
    os.replace(temporary, path)
