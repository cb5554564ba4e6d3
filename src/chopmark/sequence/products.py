"""Linear layers, their products by the faster of torch's two libraries.

On a CPU torch multiplies float32 by MKL, which runs on some processors at half the speed of
oneDNN, the library that torch brings along as well: 85 beside 190 GFLOPS on an AMD EPYC. Torch
has no public switch for it, and its way round (bfloat16) rounds on processors that have units
for that. So large products ask oneDNN directly; all else, and other devices, go the usual way.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn import functional as F

_LEAST_ROWS = 512
"""Below, the call costs more than the product saves."""


class Linear(Module):  # type: ignore[misc]
    """x W^T + b, with weights of unit gain drawn from a generator and a bias of zero.

    Attributes
    ----------
    weight : (fan_out, fan_in)
    bias : (fan_out,)
    """

    def __init__(self, fan_in: int, fan_out: int, generator: torch.Generator) -> None:
        super().__init__()
        drawn = torch.empty(fan_out, fan_in).normal_(0.0, fan_in**-0.5, generator=generator)
        self.weight = Parameter(drawn)
        self.bias = Parameter(torch.zeros(fan_out))

    def forward(self, x_NI: Tensor) -> Tensor:
        """(N, fan_out)."""
        if _MULTIPLY is None or x_NI.device.type != "cpu" or len(x_NI) < _LEAST_ROWS:
            return F.linear(x_NI, self.weight, self.bias)
        found: Tensor = _Product.apply(x_NI, self.weight, self.bias)
        return found


class _Product(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor) -> Tensor:
        ctx.save_for_backward(x_NI, weight_OI)
        return _product(x_NI, weight_OI, bias_O)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_NI, weight_OI = ctx.saved_tensors
        g_NO = gradients[0].contiguous()
        return _product(g_NO, weight_OI.T), _product(g_NO.T, x_NI.T), g_NO.sum(0)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = _MULTIPLY(x, weight, bias, "none", [], "")
    return found


def _multiply() -> Any:
    """oneDNN's product, where this torch has it and it does what it should."""
    try:
        multiply = torch.ops.mkldnn._linear_pointwise
        x, weight, bias = torch.ones(4, 3), torch.full((2, 3), 2.0), torch.ones(2)
        right = multiply(x, weight, bias, "none", [], "")
        return multiply if torch.equal(right, torch.full((4, 2), 7.0)) else None
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return None


_MULTIPLY = _multiply()
