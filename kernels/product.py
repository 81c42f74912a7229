"""hidden @ weight.T as the kernels of the loss compute it: which precision, and in blocks of which size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ProductFormat:
    """How hidden @ weight.T is computed: the operands' dtype, the result's, and the bytes of a block of it."""

    operands: torch.dtype
    result: torch.dtype
    block_bytes: int


def product_format(hidden: Tensor, budget_bytes: int | None, defaults: dict[str, int]) -> ProductFormat:
    """The format for these hidden states; autocast, where on, sets the operands' dtype as it does for a linear.

    Args:
        budget_bytes: of a block of logits; None: what `defaults` says for the device.
    """
    device = hidden.device.type
    operands = hidden.dtype
    if operands != torch.float64 and torch.is_autocast_enabled(device):
        operands = torch.get_autocast_dtype(device)
    result = torch.float64 if operands == torch.float64 else torch.float32
    return ProductFormat(operands, result, budget_bytes or defaults.get(device, defaults["cuda"]))


def check_operands(hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None) -> None:
    """Raise ValueError unless the shapes and dtypes fit."""
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden is {list(hidden.shape)} and weight {list(weight.shape)}; [T, K] and [V, K] are needed. "
            "Is the weight transposed?"
        )
    if target.shape != hidden.shape[:1]:
        raise ValueError(f"target is {list(target.shape)}; [{hidden.shape[0]}] is needed, one for each row of hidden")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias is {list(bias.shape)}; [{weight.shape[0]}] is needed, one for each row of weight")
    if hidden.dtype != weight.dtype and not torch.is_autocast_enabled(hidden.device.type):
        raise ValueError(f"hidden is {hidden.dtype} and weight {weight.dtype}; without autocast they must agree")


def operand(value: Tensor, form: ProductFormat) -> Tensor:
    """The value as an operand of `product`. Only CUDA multiplies half precision into float32; elsewhere the operand
    is rounded, then widened."""
    value = value.to(form.operands)
    return value if value.is_cuda else value.to(form.result)


def product(left: Tensor, right: Tensor, *, out: Tensor | None = None) -> Tensor:
    """left @ right of two operands, in float32 or float64 and never rounded to half precision."""
    if left.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(left, right, out_dtype=torch.float32, out=out)
    return torch.mm(left, right, out=out)
