"""The network: a multi-layer perceptron, and the same wrapped so that it takes and gives physical units.

Axis legend: N samples, I inputs, O outputs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass

import torch
from torch import nn

from emulator.heads import Head
from emulator.normalise import Normaliser

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "identity": nn.Identity}
OUTPUT_ACTIVATIONS = ("sigmoid", "tanh", "identity")


@dataclass(frozen=True, kw_only=True)
class MLPSpec:
    """Architecture of a multi-layer perceptron.

    Attributes
    ----------
    num_inputs, num_outputs : int
    hidden : tuple of int
        Width of each hidden layer, first to last; at least one.
    activation : {'relu', 'tanh', 'sigmoid', 'identity'}
        After each hidden layer.
    output_activation : {'sigmoid', 'tanh', 'identity'}
    """

    num_inputs: int
    hidden: tuple[int, ...]
    num_outputs: int
    activation: str = "relu"
    output_activation: str = "sigmoid"

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(int(w) for w in self.hidden))
        if not self.hidden or min(self.widths) < 1:
            raise ValueError(f"layer widths {self.widths}: expected at least one hidden layer, all widths >= 1")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation {self.activation!r}: expected one of {', '.join(ACTIVATIONS)}")
        if self.output_activation not in OUTPUT_ACTIVATIONS:
            raise ValueError(
                f"output_activation {self.output_activation!r}: expected one of {', '.join(OUTPUT_ACTIVATIONS)}"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden layers, outputs."""
        return (self.num_inputs, *self.hidden, self.num_outputs)

    @property
    def num_parameters(self) -> int:
        """Weights and biases."""
        return sum((a + 1) * b for a, b in itertools.pairwise(self.widths))

    def to_dict(self) -> dict:
        return asdict(self) | {"hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, data: dict) -> MLPSpec:
        return cls(**(data | {"hidden": tuple(data["hidden"])}))


def build_mlp(spec: MLPSpec, generator: torch.Generator) -> nn.Sequential:
    """Network with fresh weights, float32, on the CPU.

    Weights are uniform by Glorot & Bengio (2010, eq. 16) and biases zero: the initialisation of the paper's
    Keras models. They depend on the generator's state alone.
    """
    modules: list[nn.Module] = []
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(spec.widths)):
        linear = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
        bound = math.sqrt(6.0 / (fan_in + fan_out))
        with torch.no_grad():
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.zero_()
        last = k == len(spec.hidden)
        modules += [linear, ACTIVATIONS[spec.output_activation if last else spec.activation]()]
    return nn.Sequential(*modules)


class PhysicalMLP(nn.Module):
    """The network between its normalisers: physical units in, physical units out, both float64.

    Normalisation runs in float64, the layers in `dtype` (float32 as deployed; float64 as reference).
    What the network gives is taken to physical units by `outputs`, and from there to the outputs by a head, if there is
    one (`emulator.heads`). The module holds tensors only, so that it can be traced and saved.
    """

    def __init__(
        self,
        mlp: nn.Sequential,
        inputs: Normaliser,
        outputs: Normaliser,
        dtype=torch.float32,
        head: Head | None = None,
    ):
        super().__init__()
        self.head = head
        self.mlp = mlp.to(dtype)
        self.dtype = dtype
        self.before = _ColumnTransform(inputs, inverse=False)
        self.after = _ColumnTransform(outputs, inverse=True)

    def forward(self, x_NI: torch.Tensor) -> torch.Tensor:
        x_NI = x_NI.to(torch.float64)
        y_NO = self.after(self.mlp(self.before(x_NI).to(self.dtype)).to(torch.float64))
        return y_NO if self.head is None else self.head.outputs(x_NI, y_NO)


class _ColumnTransform(nn.Module):
    """`Normaliser.forward` or `.inverse` as tensor operations on constants."""

    def __init__(self, normaliser: Normaliser, *, inverse: bool):
        super().__init__()
        self.invert = inverse
        for name in ("lower", "upper", "mean", "std"):
            self.register_buffer(name, torch.from_numpy(getattr(normaliser, name).copy()))
        kinds = normaliser.transforms
        for kind in ("log", "log10", "sqrt", "logit"):
            self.register_buffer(f"is_{kind}", torch.tensor([k == kind for k in kinds]))
        self.kinds: list[str] = sorted(set(kinds) - {"none"})

    def forward(self, v_NC: torch.Tensor) -> torch.Tensor:
        return self._inverse(v_NC) if self.invert else self._forward(v_NC)

    def _forward(self, x_NC: torch.Tensor) -> torch.Tensor:
        x_NC = torch.where(x_NC < self.lower, self.lower, x_NC)
        x_NC = torch.where(x_NC > self.upper, self.upper, x_NC)
        t_NC, one = x_NC, torch.ones_like(x_NC)
        if "log" in self.kinds:
            t_NC = torch.where(self.is_log, torch.log(torch.where(self.is_log, x_NC, one)), t_NC)
        if "log10" in self.kinds:
            t_NC = torch.where(self.is_log10, torch.log10(torch.where(self.is_log10, x_NC, one)), t_NC)
        if "sqrt" in self.kinds:
            t_NC = torch.where(self.is_sqrt, torch.sqrt(torch.where(self.is_sqrt, x_NC, one)), t_NC)
        if "logit" in self.kinds:
            half = torch.where(self.is_logit, x_NC, 0.5 * one)
            t_NC = torch.where(self.is_logit, -torch.log(1.0 / half - 1.0), t_NC)
        return (t_NC - self.mean) / self.std

    def _inverse(self, z_NC: torch.Tensor) -> torch.Tensor:
        t_NC = z_NC * self.std + self.mean
        y_NC, zero = t_NC, torch.zeros_like(t_NC)
        if "log" in self.kinds:
            y_NC = torch.where(self.is_log, torch.exp(torch.where(self.is_log, t_NC, zero)), y_NC)
        if "log10" in self.kinds:
            ten = torch.exp(torch.where(self.is_log10, t_NC, zero) * math.log(10.0))
            y_NC = torch.where(self.is_log10, ten, y_NC)
        if "sqrt" in self.kinds:
            y_NC = torch.where(self.is_sqrt, torch.relu(t_NC) * torch.relu(t_NC), y_NC)
        if "logit" in self.kinds:
            y_NC = torch.where(self.is_logit, torch.sigmoid(t_NC), y_NC)
        return y_NC
