"""A trained emulator on disk: architecture, weights, training statistics, columns, provenance, in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emulator.mlp import MLPSpec, PhysicalMLP, build_mlp
from emulator.normalise import Normaliser
from emulator.variables import Column

SCHEMA = 1


@dataclass(frozen=True)
class Bundle:
    """Everything needed to run, export or judge one trained network.

    `state` holds the float32 weights by name, as `build_mlp` names them; `provenance` is plain JSON data.
    """

    spec: MLPSpec
    state: Mapping[str, torch.Tensor]
    inputs: Normaliser
    outputs: Normaliser
    input_columns: tuple[Column, ...]
    output_columns: tuple[Column, ...]
    provenance: dict

    def mlp(self) -> torch.nn.Sequential:
        """The bare network (normalised units), float32, on the CPU."""
        mlp = build_mlp(self.spec, torch.Generator())
        mlp.load_state_dict(dict(self.state))
        return mlp.eval()

    def module(self, dtype: torch.dtype = torch.float32) -> PhysicalMLP:
        """The network in physical units; layers run in `dtype`."""
        return PhysicalMLP(self.mlp(), self.inputs, self.outputs, dtype).eval()

    def predict(self, x_NI: np.ndarray, dtype: torch.dtype = torch.float32, batch: int = 65536) -> np.ndarray:
        """Outputs (N, O) float64 for inputs (N, I), both in physical units."""
        module = self.module(dtype)
        x = torch.as_tensor(np.ascontiguousarray(x_NI, dtype=np.float64))
        with torch.no_grad():
            parts = [module(x[k : k + batch]) for k in range(0, len(x), batch)]
        return torch.cat(parts).numpy() if parts else np.empty((0, self.spec.num_outputs))


def save_bundle(
    path: str | os.PathLike,
    *,
    spec: MLPSpec,
    state: Mapping[str, torch.Tensor],
    inputs: Normaliser,
    outputs: Normaliser,
    input_columns: Sequence[Column],
    output_columns: Sequence[Column],
    provenance: dict,
) -> None:
    """Write a bundle; the file appears whole or not at all."""
    path = Path(path)
    data = {
        "schema": SCHEMA,
        "spec": spec.to_dict(),
        "state": {k: v.detach().to("cpu", torch.float32).clone() for k, v in state.items()},
        "inputs": inputs.to_dict(),
        "outputs": outputs.to_dict(),
        "input_columns": [c.to_dict() for c in input_columns],
        "output_columns": [c.to_dict() for c in output_columns],
        "provenance": provenance,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(data, temporary)
    os.replace(temporary, path)


def load_bundle(path: str | os.PathLike) -> Bundle:
    """Read a bundle (tensors and plain data only: nothing in the file is executed).

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; not a bundle, or one of another schema.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"emulator bundle {path}: no such file")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
        schema = data["schema"]
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise ValueError(f"{path}: not an emulator bundle, or damaged ({error})") from error
    if schema != SCHEMA:
        raise ValueError(f"{path}: bundle schema {schema}; this version reads schema {SCHEMA}")
    return Bundle(
        spec=MLPSpec.from_dict(data["spec"]),
        state=data["state"],
        inputs=Normaliser.from_dict(data["inputs"]),
        outputs=Normaliser.from_dict(data["outputs"]),
        input_columns=tuple(Column.from_dict(c) for c in data["input_columns"]),
        output_columns=tuple(Column.from_dict(c) for c in data["output_columns"]),
        provenance=data["provenance"],
    )
