"""Negative log-likelihood of a linear head, without ever holding a [tokens, vocabulary] tensor.

With d = lse_others - z_target, where lse_others is the log-sum-exp over every class but the target:

    nll = ln(1 + e^d),    d nll / d z_target = -sigmoid(d),    d nll / d z_j = sigmoid(d) * softmax_others(j)

Nothing cancels, however near the target's probability is to 1, and nll cannot be negative. T tokens, K width,
V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Bytes of one block of logits. CPU: torch 2.13, one AMD EPYC core with 1 MiB of second-level cache, flat from 1 to
# 8 MiB, 0.31 s for [512 x 512] x [50,265]; OMP_NUM_THREADS=1 python -m timeit -n 1 -s "import torch; from
# hardmask.kernels.linear_nll import linear_nll as f; h, w, y = torch.randn(512, 512), .1 * torch.randn(50265, 512),
# torch.arange(512)" "f(h, w, y, budget_bytes=2**21)". CUDA: a block of 8,192 x 8,192, not measured.
BLOCK_BYTES = {"cpu": 2 * 2**20, "cuda": 256 * 2**20}


def linear_nll(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    budget_bytes: int | None = None,
) -> Tensor:
    """-ln softmax(hidden @ weight.T + bias)[target] in nats; differentiable in hidden, weight and bias.

    Logits exist as blocks of at most `budget_bytes` and are computed again in backward. Operands have the dtype of
    `hidden`, or autocast's where that is on; products, sums and gradients are float32, or float64 for float64.

    Args:
        hidden: [T, K] float.
        weight: [V, K], of hidden's dtype unless autocast is on.
        target: [T] int64, 0 … V-1 or `ignore_index`.
        bias: [V] or None.
        ignore_index: rows with this target have nll 0 and no gradient.
        budget_bytes: size of a block of logits; None: what suits the device.

    Returns:
        [T] float32 ≥ 0, float64 for float64 operands. NaN where a logit is NaN or +inf, or the target is no class.
        No host sync.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    check_operands(hidden, weight, target, bias)
    return _LinearNll.apply(hidden, weight, bias, target, ignore_index, product_format(hidden, budget_bytes))


@dataclass(frozen=True)
class ProductFormat:
    """How hidden @ weight.T is computed: the operands' dtype, the result's, and the bytes of a block of it."""

    operands: torch.dtype
    result: torch.dtype
    block_bytes: int


def product_format(hidden: Tensor, budget_bytes: int | None, defaults: dict[str, int] = BLOCK_BYTES) -> ProductFormat:
    """The format for these hidden states; autocast, where on, sets the operands' dtype as it does for a linear."""
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


def product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right of two operands, in float32 or float64 and never rounded to half precision."""
    if left.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left, right)


def split_target(logits: Tensor, target: Tensor, first_class: int, value: Tensor | float) -> tuple[Tensor, Tensor]:
    """Overwrite the target's logit of every row whose target is in this block of classes, in place.

    Args:
        logits: [R, C], of classes first_class … first_class + C - 1.
        target: [R, 1] int64.
        value: what to write, a number or [R, 1].

    Returns:
        here: [R, 1] bool, whether the target is in the block; logit: [R, 1], what it was (anything elsewhere).
    """
    classes = logits.shape[1]
    column = target - first_class
    here = (column >= 0) & (column < classes)
    column = column.clamp(0, classes - 1)
    logit = logits.gather(1, column)
    logits.scatter_(1, column, torch.where(here, value, logit))
    return here, logit


class _LinearNll(torch.autograd.Function):
    """Forward keeps three numbers a token; backward goes through the same blocks again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        ignore_index: int,
        form: ProductFormat,
    ) -> Tensor:
        tokens = hidden.shape[0]
        column = target[:, None]
        largest = hidden.new_full((tokens, 1), torch.finfo(form.result).min, dtype=form.result)
        total = torch.zeros_like(largest)  # of e^(z_j - largest) over the classes but the target
        target_logit = torch.full_like(largest, math.nan)  # stays NaN if the target is no class
        with torch.autocast(hidden.device.type, enabled=False):
            for rows, classes, logits, _, _ in _blocks(hidden, weight, bias, form):
                here, logit = split_target(logits, column[rows], classes.start, -math.inf)
                target_logit[rows] = torch.where(here, logit, target_logit[rows])
                new_largest = torch.maximum(largest[rows], logits.amax(1, keepdim=True))
                rescaled = total[rows] * (largest[rows] - new_largest).exp()
                total[rows] = rescaled + logits.sub_(new_largest).exp_().sum(1, keepdim=True)
                largest[rows] = new_largest
        margin = largest - target_logit + total.log()
        ignored = column == ignore_index
        ctx.save_for_backward(hidden, weight, bias, column, largest, total, margin.sigmoid().masked_fill(ignored, 0))
        ctx.form = form
        return torch.logaddexp(torch.zeros_like(margin), margin).masked_fill(ignored, 0)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, nll_grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, column, largest, total, sigmoid = ctx.saved_tensors
        form = ctx.form
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        target_grad = sigmoid * nll_grad[:, None].to(form.result)  # of the target's logit, but for the sign
        # With no other class, or all of them at -inf, both are 0.
        scale = target_grad / total.clamp_min(torch.finfo(form.result).tiny)
        hidden_grad = torch.zeros_like(hidden, dtype=form.result) if need_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=form.result) if need_weight else None
        bias_grad = torch.zeros(weight.shape[0], dtype=form.result, device=weight.device) if need_bias else None
        with torch.autocast(hidden.device.type, enabled=False):
            for rows, classes, logits, left, right in _blocks(hidden, weight, bias, form):
                logits_grad = logits.sub_(largest[rows]).exp_().mul_(scale[rows])
                split_target(logits_grad, column[rows], classes.start, -target_grad[rows])
                if bias_grad is not None:
                    bias_grad[classes] += logits_grad.sum(0)
                logits_grad = logits_grad.to(left.dtype)
                if hidden_grad is not None:
                    hidden_grad[rows] += product(logits_grad, right)
                if weight_grad is not None:
                    weight_grad[classes] += product(logits_grad.T, left)
        return (
            None if hidden_grad is None else hidden_grad.to(hidden.dtype),
            None if weight_grad is None else weight_grad.to(weight.dtype),
            None if bias_grad is None else bias_grad.to(bias.dtype),
            None,
            None,
            None,
        )


def _blocks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, form: ProductFormat
) -> Iterator[tuple[slice, slice, Tensor, Tensor, Tensor]]:
    """Blocks of logits, all tokens of some classes before the next classes, so that the weight is read once.

    Yields:
        Slices of tokens and of classes, the block [R, C] of at most form.block_bytes, and the operands it is the
        product of, [R, K] and [C, K].
    """
    tokens, vocabulary = hidden.shape[0], weight.shape[0]
    size = max(form.block_bytes // form.result.itemsize, 1)
    row_step = max(min(tokens, math.isqrt(size)), 1)
    class_step = max(size // row_step, 1)
    left = operand(hidden, form)
    for start in range(0, vocabulary, class_step):
        classes = slice(start, min(start + class_step, vocabulary))
        right = operand(weight[classes], form)
        for row in range(0, tokens, row_step):
            rows = slice(row, min(row + row_step, tokens))
            logits = product(left[rows], right.T)
            if bias is not None:
                logits += bias[classes]
            yield rows, classes, logits, left[rows], right
