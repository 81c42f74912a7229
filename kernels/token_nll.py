"""Negative log-likelihood of given logits."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_BYTES = 16 * 2**20  # of one chunk of rows in float32


def token_nll(logits: Tensor, target: Tensor) -> Tensor:
    """-ln softmax(logits)[target] in nats, for scoring with models that return logits.

    Works through chunks of rows, so half-precision logits never have a full-size float32 copy. For training use
    `linear_nll` or `weighted_nll_sum`, which need no logits at all.

    Args:
        logits: [..., V], any float dtype.
        target: [...] int64, 0 … V-1.

    Returns:
        [...] float32 ≥ 0, float64 for float64 logits; NaN where a logit is NaN. No host sync.

    Raises:
        ValueError: the shapes do not fit.
    """
    if logits.shape[:-1] != target.shape:
        raise ValueError(
            f"logits are {list(logits.shape)} and target {list(target.shape)}; [..., V] and [...] are needed"
        )
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    vocabulary = logits.shape[-1]
    rows = logits.reshape(-1, vocabulary)
    columns = target.reshape(-1, 1)
    chunk = max(CHUNK_BYTES // (4 * max(vocabulary, 1)), 1)
    nll = [
        _chunk_nll(rows[start : start + chunk].to(dtype), columns[start : start + chunk])
        for start in range(0, rows.shape[0], chunk)
    ]
    return torch.cat(nll).reshape(target.shape) if nll else torch.zeros(target.shape, dtype=dtype, device=logits.device)


def _chunk_nll(logits: Tensor, column: Tensor) -> Tensor:
    """[R, V], [R, 1] -> [R]. The maximum is taken off before anything is added, so a shift of a row is harmless."""
    shifted = logits - logits.amax(1, keepdim=True)
    return (shifted.exp().sum(1, keepdim=True).log() - shifted.gather(1, column))[:, 0]
