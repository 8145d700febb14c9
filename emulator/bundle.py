"""A trained emulator on disk: architecture, weights, training statistics, columns, provenance, in one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from emulator.constraints import OutputConstraints
from emulator.heads import Head, head_of_network
from emulator.mlp import MLPSpec, PhysicalMLP, build_mlp
from emulator.normalise import Normaliser
from emulator.variables import Column

SCHEMA = 1


@dataclass(frozen=True)
class Bundle:
    """Everything needed to run, export or judge one trained network.

    `state` holds the float32 weights by name, as `build_mlp` names them; `provenance` is plain JSON data. `outputs` and
    `output_columns` are what the emulator gives. With a `head`, the network gives `targets` instead, normalised so.
    `constraints` hold the outputs; they are chosen at export.
    """

    spec: MLPSpec
    state: Mapping[str, torch.Tensor]
    inputs: Normaliser
    outputs: Normaliser
    input_columns: tuple[Column, ...]
    output_columns: tuple[Column, ...]
    provenance: dict
    head: Head | None = None
    targets: Normaliser | None = None
    constraints: OutputConstraints | None = None

    @property
    def network_outputs(self) -> Normaliser:
        """Of what the network itself gives."""
        return self.outputs if self.head is None else self.targets

    def without_head(self) -> Bundle:
        """The network alone, which gives the head's targets; its provenance says which head a host has to apply.

        Constraints on the outputs are left out as well.

        Raises
        ------
        ValueError
            It has no head.
        """
        if self.head is None:
            raise ValueError("the network predicts its outputs directly: there is no output head to leave out")
        return replace(
            self,
            outputs=self.targets,
            output_columns=self.head.targets,
            provenance=self.provenance | {"head_to_apply": self.head.to_dict()},
            head=None,
            targets=None,
            constraints=None,
        )

    def mlp(self) -> torch.nn.Sequential:
        """The bare network (normalised units), float32, on the CPU."""
        mlp = build_mlp(self.spec, torch.Generator())
        mlp.load_state_dict(dict(self.state))
        return mlp.eval()

    def module(self, dtype: torch.dtype = torch.float32) -> PhysicalMLP:
        """The network in physical units; layers run in `dtype`."""
        return PhysicalMLP(
            self.mlp(), self.inputs, self.network_outputs, dtype, self.head, self.constraints
        ).eval()

    def predict(self, x_NI: np.ndarray, dtype: torch.dtype = torch.float32, batch: int = 65536) -> np.ndarray:
        """Outputs (N, O) float64 for inputs (N, I), both in physical units."""
        module = self.module(dtype)
        x = torch.as_tensor(np.ascontiguousarray(x_NI, dtype=np.float64))
        with torch.no_grad():
            parts = [module(x[k : k + batch]) for k in range(0, len(x), batch)]
        return torch.cat(parts).numpy() if parts else np.empty((0, len(self.output_columns)))


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
    head: Head | None = None,
    targets: Normaliser | None = None,
    constraints: OutputConstraints | None = None,
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
    if head is not None:
        data |= {"head": head.to_dict(), "targets": targets.to_dict()}
    if constraints is not None:
        data |= {"constraints": constraints.to_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(data, temporary)
    os.replace(temporary, path)


def load_bundle(path: str | os.PathLike) -> Bundle:
    """Read a bundle (tensors and plain data only: nothing in the file is executed).

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; not a bundle, or one of another schema, or with a head that is not installed.
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
    columns = {name: tuple(Column.from_dict(c) for c in data[name]) for name in ("input_columns", "output_columns")}
    head = targets = None
    if "head" in data:
        try:
            head = head_of_network(data["head"], **columns)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        targets = Normaliser.from_dict(data["targets"])
    return Bundle(
        spec=MLPSpec.from_dict(data["spec"]),
        state=data["state"],
        inputs=Normaliser.from_dict(data["inputs"]),
        outputs=Normaliser.from_dict(data["outputs"]),
        **columns,
        provenance=data["provenance"],
        head=head,
        targets=targets,
        constraints=OutputConstraints.from_dict(data["constraints"]) if "constraints" in data else None,
    )
