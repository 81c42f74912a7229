"""NLL of given logits against float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hardmask.kernels import token_nll as module
from hardmask.kernels.token_nll import token_nll


def logits_of(*shape, dtype=torch.float32):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)


def exact(logits, target):
    return F.cross_entropy(logits.double().flatten(0, -2), target.flatten(), reduction="none").reshape(target.shape)


@pytest.mark.parametrize("vocabulary", [1, 7, 255, 50_265])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_against_float64(vocabulary, dtype):
    logits = logits_of(3, 11, vocabulary, dtype=dtype)
    target = torch.randint(0, vocabulary, (3, 11))
    nll = token_nll(logits, target)
    assert nll.dtype == torch.float32
    assert (nll - exact(logits, target)).abs().max() <= 5e-6
    assert (nll >= 0).all()


@pytest.mark.parametrize("shift", [-1e3, 1e3, 1e6])
def test_shift_and_far_below_zero(shift):
    logits = logits_of(8, 100) + shift
    target = torch.arange(8)
    assert (token_nll(logits, target) - exact(logits, target)).abs().max() <= 5e-6


def test_float64_stays():
    logits, target = logits_of(5, 9, dtype=torch.float64), torch.arange(5)
    nll = token_nll(logits, target)
    assert nll.dtype == torch.float64
    assert (nll - exact(logits, target)).abs().max() < 1e-14


def test_rows_come_in_chunks(monkeypatch):
    sizes = []
    chunk_nll = module._chunk_nll

    def count(logits, column):
        sizes.append(logits.numel() * logits.element_size())
        return chunk_nll(logits, column)

    monkeypatch.setattr(module, "_chunk_nll", count)
    logits = logits_of(700, 10_000, dtype=torch.bfloat16)
    assert token_nll(logits, torch.zeros(700, dtype=torch.int64)).shape == (700,)
    assert len(sizes) > 1
    assert max(sizes) <= module.CHUNK_BYTES


def test_empty_nan_and_shapes():
    assert token_nll(torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64)).shape == (0,)
    logits = torch.zeros(2, 3)
    logits[0, 2] = torch.nan
    assert token_nll(logits, torch.zeros(2, dtype=torch.int64)).isnan().tolist() == [True, False]
    with pytest.raises(ValueError, match="target"):
        token_nll(logits, torch.zeros(3, dtype=torch.int64))
