"""The loss of masked-LM training: a weighted sum of negative log-likelihoods of a linear head."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hardmask.kernels.linear_nll import (
    ProductFormat,
    check_operands,
    operand,
    product,
    product_format,
    split_target,
)

# Bytes of the logits of one chunk of tokens. Every chunk adds to the whole weight gradient, so few are best. CPU:
# 128 MiB holds [512 x 50,265] whole, forward and backward 0.62 s against 0.72 s in two chunks of 64 MiB (two cores,
# torch 2.13, timed like linear_nll's block). CUDA: not measured.
CHUNK_BYTES = {"cpu": 128 * 2**20, "cuda": 1024 * 2**20}


def weighted_nll_sum(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    token_weight: Tensor,
    *,
    bias: Tensor | None = None,
    budget_bytes: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of token_weight * nll, with the gradients computed on the way: three matrix products instead of four.

    Equals `(token_weight * linear_nll(hidden, weight, target, bias=bias)).sum()` and differs in cost: it holds the
    logits of as many tokens as fit the budget, and the gradient of the weight from forward to backward. For a mean
    over all devices give token_weight = 1 / count, or divide the gradients.

    Args:
        hidden: [T, K] float.
        weight: [V, K], of hidden's dtype unless autocast is on.
        target: [T] int64, 0 … V-1, also where token_weight is 0.
        token_weight: [T] float, 0 at tokens that do not count.
        bias: [V] or None.
        budget_bytes: size of the logits of a chunk; None: what suits the device.

    Returns:
        loss: scalar float32 (float64 for float64 operands), differentiable in all four float inputs.
        nll: [T] of the same dtype, detached; nats ≥ 0, NaN where a logit is NaN or the target is no class.
        correct: [T] bool, detached; whether the target's logit is above every other. No host sync.

    Raises:
        ValueError: shapes or dtypes do not fit.
    """
    check_operands(hidden, weight, target, bias)
    if token_weight.shape != target.shape:
        raise ValueError(f"token_weight is {list(token_weight.shape)}; {list(target.shape)} is needed, as target has")
    form = product_format(hidden, budget_bytes, CHUNK_BYTES)
    loss, nll, correct = _WeightedNllSum.apply(
        hidden, weight, bias, target, token_weight, form, torch.is_grad_enabled()
    )
    return loss, nll, correct


class _WeightedNllSum(torch.autograd.Function):
    """Chunks of tokens with all their logits, which become the gradient of the logits in place."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        token_weight: Tensor,
        form: ProductFormat,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens, vocabulary = hidden.shape[0], weight.shape[0]
        need_hidden, need_weight, need_bias = (need and grad_enabled for need in ctx.needs_input_grad[:3])
        nll = torch.empty(tokens, dtype=form.result, device=hidden.device)
        correct = torch.empty(tokens, dtype=torch.bool, device=hidden.device)
        hidden_grad = torch.zeros_like(hidden, dtype=form.result) if need_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=form.result) if need_weight else None
        bias_grad = torch.zeros(vocabulary, dtype=form.result, device=hidden.device) if need_bias else None
        token_weight = token_weight.to(form.result)
        step = max(form.block_bytes // (form.result.itemsize * max(vocabulary, 1)), 1)
        with torch.autocast(hidden.device.type, enabled=False):
            left, right = operand(hidden, form), operand(weight, form)
            for start in range(0, tokens, step):
                rows = slice(start, start + step)
                logits = product(left[rows], right.T)
                if bias is not None:
                    logits += bias
                nll[rows], correct[rows] = _differentiate(logits, target[rows, None], token_weight[rows, None])
                if bias_grad is not None:
                    bias_grad += logits.sum(0)
                logits_grad = logits.to(left.dtype)
                if hidden_grad is not None:
                    hidden_grad[rows] = product(logits_grad, right)
                if weight_grad is not None:
                    weight_grad += product(logits_grad.T, left[rows])
        ctx.save_for_backward(hidden_grad, weight_grad, bias_grad, nll)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.mark_non_differentiable(nll, correct)
        return (token_weight * nll).sum(), nll, correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, loss_grad: Tensor, _nll_grad: Tensor, _correct_grad: Tensor) -> tuple[Tensor | None, ...]:
        *grads, nll = ctx.saved_tensors
        scaled = [
            None if grad is None else (grad * loss_grad).to(dtype)
            for grad, dtype in zip(grads, ctx.dtypes, strict=True)
        ]
        token_weight_grad = nll * loss_grad if ctx.needs_input_grad[4] else None
        return *scaled, None, token_weight_grad, None, None


def _differentiate(logits: Tensor, target: Tensor, token_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the logits [R, V] into the gradient of the weighted sum, in place; return nll [R] and correct [R].

    The formulas are those at the head of linear_nll.
    """
    here, logit = split_target(logits, target, 0, -math.inf)
    target_logit = torch.where(here, logit, math.nan)
    largest = logits.amax(1, keepdim=True)
    finite = torch.finfo(logits.dtype)
    total = logits.sub_(largest.clamp_min(finite.min)).exp_().sum(1, keepdim=True)
    margin = largest - target_logit + total.log()
    target_grad = margin.sigmoid() * token_weight
    logits.mul_(target_grad / total.clamp_min(finite.tiny))
    split_target(logits, target, 0, -target_grad)
    nll = torch.logaddexp(torch.zeros_like(margin), margin)
    return nll[:, 0], (target_logit > largest)[:, 0]
