"""Output heads: a network predicts something else than the outputs, and a closed form leads from there to them.

A head says which further variables of the samples file it trains on, what the network predicts (its targets), and the
outputs that follow from the inputs and the targets. Packages offer heads as entry points of the group
`emulator.heads`: a callable `head(input_columns, output_columns, attributes)` that returns a `Head`. `attributes` are
the global attributes of the samples file (numbers, in which a process model says with what constants it was run) or,
for a trained network, those of them that the head asked to keep.

The closed form is written once, in what PyTorch's tensors and `emulator.onnx_graph.Expression` have in common: + - * /
with each other and with numbers, columns by `v[:, [0, 2]]`, the methods `exp`, `log`, `sqrt`, `erfc` and
`clamp(min=..., max=...)`, and `row` below for one number a column. So the same lines train a network, run it in PyTorch
and write `model.onnx`.

Axis legend: N samples, I inputs, V further variables, T targets, O outputs.
"""

from __future__ import annotations

import difflib
import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points

import numpy as np

from emulator.variables import Column

GROUP = "emulator.heads"
DIRECT = "direct"
"""The network predicts the outputs themselves: no head."""


class Head(ABC):
    """What a network predicts, and how the outputs follow.

    Attributes
    ----------
    name : str
        The entry point's.
    targets : tuple of Column, (T,)
        What the network predicts; at least one.
    variables : tuple of str
        Variables of the samples file that `target` needs beside the inputs, one dimension each.
    attributes : dict of str to float
        Attributes of the samples file that the closed form depends on; they are kept with every network.
    """

    name: str
    targets: tuple[Column, ...]
    variables: tuple[str, ...]
    attributes: Mapping[str, float]

    @abstractmethod
    def target(self, x_NI: np.ndarray, v_NV: np.ndarray) -> np.ndarray:
        """What the network should predict, (N, T) float64, from inputs and further variables in physical units."""

    @abstractmethod
    def outputs(self, x_NI, t_NT):
        """Outputs (N, O) from inputs and targets, all in physical units, as tensors or as ONNX expressions alike."""

    def to_dict(self) -> dict:
        """Plain data from which `head_of_network` makes it again."""
        return {"name": self.name, "attributes": {k: float(v) for k, v in self.attributes.items()}}


def row(like, values: Sequence[float]):
    """Constants of one value per column, to be combined with `like`."""
    return like.row(values) if hasattr(like, "row") else like.new_tensor([list(values)])


@functools.cache  # a look at the installed packages takes milliseconds
def known_heads() -> tuple[str, ...]:
    """Names that a configuration may give, `direct` first."""
    return (DIRECT, *sorted({point.name for point in entry_points(group=GROUP)}))


def load_head(
    name: str, input_columns: Sequence[Column], output_columns: Sequence[Column], attributes: Mapping[str, object]
) -> Head:
    """The head of that name for a network with those columns.

    Raises
    ------
    ValueError
        No such head; or its own reason why it does not fit the columns or the attributes.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        near = difflib.get_close_matches(name, points, n=1)
        raise ValueError(
            f"output head {name!r} is unknown; expected one of {', '.join(known_heads())}"
            + (f" (did you mean {near[0]!r}?)" if near else "")
            + f". Heads come with installed packages, as entry points of the group {GROUP!r}"
        )
    head = points[name].load()(tuple(input_columns), tuple(output_columns), dict(attributes))
    if head.name != name:
        raise ValueError(f"entry point {name!r} of the group {GROUP!r} gives a head named {head.name!r}")
    return head


def head_of_network(data: Mapping, input_columns: Sequence[Column], output_columns: Sequence[Column]) -> Head:
    """The head that a trained network was saved with (`Head.to_dict`)."""
    return load_head(data["name"], input_columns, output_columns, data["attributes"])
