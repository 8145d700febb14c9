"""The network: a multi-layer perceptron, and the same wrapped so that it takes and gives physical units.

Axis legend: N samples, B batch, I inputs, O outputs, W features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from emulator.constraints import OutputConstraints
from emulator.heads import Head
from emulator.normalise import Normaliser

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}
OUTPUT_ACTIVATIONS = ("sigmoid", "tanh", "identity")
NORMALIZATIONS = ("none", "batch", "layer")
# Added to a variance before its root is taken: PyTorch's default for both kinds of normalization.
NORM_EPSILON = 1e-5
# Share of the newest batch in the running statistics of batch normalization: PyTorch's default.
_BATCH_NORM_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class MLPSpec:
    """Architecture of a multi-layer perceptron.

    Attributes
    ----------
    num_inputs, num_outputs : int
    hidden : tuple of int
        Width of each hidden layer, first to last; at least one.
    activation : str
        After each hidden layer, with PyTorch's defaults: one of `ACTIVATIONS`.
    output_activation : {'sigmoid', 'tanh', 'identity'}
    normalization : {'none', 'batch', 'layer'}
        Before the activation of each hidden layer.
    residual : bool
        Hidden layers as wide as their inputs add them to their outputs.
    """

    num_inputs: int
    hidden: tuple[int, ...]
    num_outputs: int
    activation: str = "relu"
    output_activation: str = "sigmoid"
    normalization: str = "none"
    residual: bool = False

    def __post_init__(self):
        object.__setattr__(self, "hidden", tuple(int(w) for w in self.hidden))
        if not self.hidden or min(self.widths) < 1:
            raise ValueError(f"layer widths {self.widths}: expected at least one hidden layer, all widths >= 1")
        for name, known in (
            ("activation", ACTIVATIONS),
            ("output_activation", OUTPUT_ACTIVATIONS),
            ("normalization", NORMALIZATIONS),
            ("residual", (False, True)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(map(str, known))}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Inputs, hidden layers, outputs."""
        return (self.num_inputs, *self.hidden, self.num_outputs)

    @property
    def num_parameters(self) -> int:
        """Weights and biases of the network as it is exported: batch normalization is then part of them."""
        scales = 2 * sum(self.hidden) if self.normalization == "layer" else 0
        return sum((a + 1) * b for a, b in itertools.pairwise(self.widths)) + scales

    def to_dict(self) -> dict:
        return asdict(self) | {"hidden": list(self.hidden)}

    @classmethod
    def from_dict(cls, data: dict) -> MLPSpec:
        return cls(**(data | {"hidden": tuple(data["hidden"])}))


@dataclass(frozen=True)
class LayerNames:
    """One layer in a network that `build_mlp` makes: names of its modules, which are those of its weights.

    `norm` is None where there is none; with `adds_input` the layer's input is added after its activation.
    """

    linear: str
    norm: str | None
    activation: str
    adds_input: bool


def layer_names(spec: MLPSpec) -> list[LayerNames]:
    """Hidden layers and the output layer, first to last."""
    names, count = [], itertools.count()
    for k, (fan_in, fan_out) in enumerate(itertools.pairwise(spec.widths)):
        is_hidden = k < len(spec.hidden)
        linear = str(next(count))
        norm = str(next(count)) if is_hidden and spec.normalization != "none" else None
        adds_input = is_hidden and spec.residual and fan_in == fan_out
        names.append(LayerNames(linear, norm, str(next(count)), adds_input))
    return names


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe & Szegedy 2015, arXiv:1502.03167) of B samples of W features.

    In training with the mean and variance of the batch, of which running ones are kept for evaluation.
    """

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x_BW: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(
            x_BW,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training,
            momentum=_BATCH_NORM_SHARE,
            eps=NORM_EPSILON,
        )

    def update(self, mean_W: torch.Tensor, var_W: torch.Tensor) -> None:
        """Take the statistics of a batch, the variance unbiased, into the running ones."""
        self.running_mean.lerp_(mean_W, _BATCH_NORM_SHARE)
        self.running_var.lerp_(var_W, _BATCH_NORM_SHARE)


class ResidualMLP(nn.Sequential):
    """Layers one after the other, some of which add their input to their output."""

    def __init__(self, modules: list[nn.Module], names: list[LayerNames]):
        super().__init__(*modules)
        self._names = names

    def forward(self, x_BI: torch.Tensor) -> torch.Tensor:
        for layer in self._names:
            y_BO = x_BI
            for name in (layer.linear, layer.norm, layer.activation):
                if name is not None:
                    y_BO = self._modules[name](y_BO)
            x_BI = y_BO + x_BI if layer.adds_input else y_BO
        return x_BI


def build_mlp(
    spec: MLPSpec,
    generator: torch.Generator,
    batch_norm: type[BatchNorm] = BatchNorm,
    initialization: str = "glorot_uniform",
) -> nn.Sequential:
    """Network with fresh weights, float32, on the CPU.

    By default weights are uniform by Glorot & Bengio (2010, eq. 16) and biases zero: the initialisation of the paper's
    Keras models. Others have the variance of He et al. (2015, eq. 10) or LeCun et al. (1998), or are normal. They
    depend on the generator's state alone. A layer before a batch normalization, which takes any mean away, has no
    biases.
    """
    kind, shape = initialization.split("_")
    modules: list[nn.Module] = []
    names = layer_names(spec)
    for (fan_in, fan_out), layer in zip(itertools.pairwise(spec.widths), names, strict=True):
        has_bias = layer.norm is None or spec.normalization != "batch"
        linear = nn.Linear(fan_in, fan_out, bias=has_bias, device="meta").to_empty(device="cpu")
        fan = {"glorot": fan_in + fan_out, "he": fan_in, "lecun": 2 * fan_in}[kind]  # the variance is 2 / fan
        bound = math.sqrt(6.0 / fan)
        with torch.no_grad():
            if shape == "uniform":
                linear.weight.uniform_(-bound, bound, generator=generator)
            else:
                linear.weight.normal_(0.0, math.sqrt(2.0 / fan), generator=generator)
            if has_bias:
                linear.bias.zero_()
        modules.append(linear)
        if layer.norm is not None:
            is_batch = spec.normalization == "batch"
            modules.append(batch_norm(fan_out) if is_batch else nn.LayerNorm(fan_out, eps=NORM_EPSILON))
        modules.append(ACTIVATIONS[spec.output_activation if layer is names[-1] else spec.activation]())
    return ResidualMLP(modules, names) if spec.residual else nn.Sequential(*modules)


def fold_batch_norm(spec: MLPSpec, state: Mapping[str, torch.Tensor]) -> tuple[MLPSpec, dict[str, torch.Tensor]]:
    """The same network without batch normalization: its scales and shifts become part of the linear layers.

    Computed in float64 from the running statistics, rounded once to the type of the weights. Other networks are given
    back as they are.
    """
    if spec.normalization != "batch":
        return spec, dict(state)
    plain = replace(spec, normalization="none")
    folded = {}
    for old, new in zip(layer_names(spec), layer_names(plain), strict=True):
        weight = state[f"{old.linear}.weight"]
        if old.norm is None:
            folded |= {f"{new.linear}.{kind}": state[f"{old.linear}.{kind}"] for kind in ("weight", "bias")}
            continue
        scale, shift, mean, var = (
            state[f"{old.norm}.{kind}"].double() for kind in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale / torch.sqrt(var + NORM_EPSILON)
        folded[f"{new.linear}.weight"] = (weight.double() * scale[:, None]).to(weight.dtype)
        folded[f"{new.linear}.bias"] = (shift - mean * scale).to(weight.dtype)
    return plain, folded


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
        constraints: OutputConstraints | None = None,
    ):
        super().__init__()
        self.head = head
        self.mlp = mlp.to(dtype)
        self.dtype = dtype
        self.before = ColumnTransform(inputs, inverse=False)
        self.after = ColumnTransform(outputs, inverse=True)
        self.constrain = nn.Identity() if constraints is None else constraints.module(dtype)

    def forward(self, x_NI: torch.Tensor) -> torch.Tensor:
        x_NI = x_NI.to(torch.float64)
        y_NO = self.after(self.mlp(self.before(x_NI).to(self.dtype)).to(torch.float64))
        if self.head is not None:
            y_NO = self.head.outputs(x_NI, y_NO)
        return self.constrain(y_NO)


class ColumnTransform(nn.Module):
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
