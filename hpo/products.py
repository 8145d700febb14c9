"""Products of wide layers on a CPU, the same ones for the plain loop and the fast one.

PyTorch gives products of float32 to MKL, of other types to oneDNN. On Zen 4 oneDNN does 100 to 110 GFLOP/s in layers of
256 x 256 weights and more, MKL 90 to 100; narrower layers gain nothing. The two add in different orders. Deep networks
amplify such a rounding until two trainings in five stop at another epoch, so both loops have to use the same.

Axis legend: B batch, I inputs, O outputs.
"""

from __future__ import annotations

import torch
from torch import nn

_WIDE = 1 << 16  # weights
_product = torch.ops.mkldnn._linear_pointwise if torch.backends.mkldnn.is_available() else None


def is_wide(weight_OI: torch.Tensor) -> bool:
    """Whether the functions below are for that layer."""
    on_cpu, single = weight_OI.device.type == "cpu", weight_OI.dtype == torch.float32
    return _product is not None and on_cpu and single and weight_OI.numel() >= _WIDE


def outputs(
    x_BI: torch.Tensor, weight_OI: torch.Tensor, bias_O: torch.Tensor | None, *, relu: bool = False
) -> torch.Tensor:
    return _product(x_BI, weight_OI, bias_O, "relu" if relu else "none", [], "")


def gradient_by_inputs(d_BO: torch.Tensor, weight_OI: torch.Tensor) -> torch.Tensor:
    return _product(d_BO, weight_OI.t(), None, "none", [], "")


def gradient_by_weights(d_BO: torch.Tensor, x_BI: torch.Tensor) -> torch.Tensor:
    """Turning the smaller factor round first makes it a tenth faster."""
    return _product(d_BO.t().contiguous(), x_BI.t(), None, "none", [], "")


def with_wide_layers(network: nn.Sequential) -> nn.Sequential:
    """The network, its wide layers computed by the functions above; the weights stay what they were."""
    for k, module in enumerate(network):
        if isinstance(module, nn.Linear) and is_wide(module.weight):
            network[k] = WideLinear.of(module)
    return network


class WideLinear(nn.Linear):
    """A layer that is wide."""

    @classmethod
    def of(cls, linear: nn.Linear) -> WideLinear:
        """The same weights, not a copy of them."""
        wide = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        wide.weight, wide.bias = linear.weight, linear.bias
        return wide

    def forward(self, x_BI: torch.Tensor) -> torch.Tensor:
        if not len(x_BI):  # a rank without rows; oneDNN has no empty products
            return super().forward(x_BI)
        return _WideProduct.apply(x_BI, self.weight, self.bias)


class _WideProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_BI, weight_OI, bias_O):
        ctx.save_for_backward(x_BI, weight_OI)
        return outputs(x_BI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx, d_BO):
        x_BI, weight_OI = ctx.saved_tensors
        d_BO = d_BO.contiguous()
        by_inputs = gradient_by_inputs(d_BO, weight_OI) if ctx.needs_input_grad[0] else None
        by_bias = d_BO.sum(0) if ctx.needs_input_grad[2] else None
        return by_inputs, gradient_by_weights(d_BO, x_BI), by_bias
