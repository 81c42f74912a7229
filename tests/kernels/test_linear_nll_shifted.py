"""Logits far from 0: what float32 loses there, and no more."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hardmask.kernels.linear_nll import linear_nll

IMPLEMENTATIONS = ["reference", "triton"]


@pytest.fixture
def device(implementation, triton_device):
    return triton_device if implementation == "triton" else torch.device("cpu")


def case(tokens, width, vocabulary, device):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) * 2 / width**0.5
    bias = torch.randn(vocabulary, generator=generator)
    target = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return hidden.to(device), weight.to(device), bias.to(device), target.to(device)


def error(nll, hidden, weight, bias, target):
    """The largest, in nats."""
    logits = F.linear(hidden.double(), weight.double(), None if bias is None else bias.double())
    return float((nll.double() - F.cross_entropy(logits, target, reduction="none")).abs().max())


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("shift", "allowed"), [(1e3, 1.3e-4), (-1e3, 1.3e-4), (-200.0, 2e-5), (-88.0, 2e-5)])
def test_offset_in_the_bias(implementation, shift, allowed, device):
    """At 1,000 float32 logits are multiples of 6e-5; that is all that may be lost."""
    hidden, weight, bias, target = case(17, 32, 300, device)
    bias += shift
    nll = linear_nll(hidden, weight, target, bias=bias, budget_bytes=3000, implementation=implementation)
    assert error(nll, hidden, weight, bias, target) <= allowed


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shift", [-30.0, -100.0, 100.0])
@pytest.mark.parametrize("width", [64, 256])
def test_offset_in_the_product(implementation, shift, width, device):
    """Every step of the sum rounds to the size of the offset; torch's product does so too."""
    hidden, weight, _, target = case(33, width, 300, device)
    hidden[:, 0], weight[:, 0] = 1, shift
    nll = linear_nll(hidden, weight, target, implementation=implementation)
    usual = F.cross_entropy(F.linear(hidden, weight), target, reduction="none")
    assert error(nll, hidden, weight, None, target) <= 1.5 * error(usual, hidden, weight, None, target) + 2e-5


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_too_far_apart_for_the_kernel(implementation, device):
    """Both implementations take the same operands: such rows are copied for the kernel."""
    hidden, weight, bias, target = case(2, 8, 9, device)
    far = torch.empty(2**22 + 8, device=device)
    apart = far.as_strided((2, 8), (2**22, 1)).copy_(hidden)
    column = torch.empty(9, 64, device=device)[:, ::8].copy_(weight)
    expected = linear_nll(hidden, weight, target, bias=bias, implementation=implementation)
    for operands in ((apart, weight, target), (apart[:1], weight, target[:1]), (hidden, column, target)):
        found = linear_nll(*operands, bias=bias, implementation=implementation)
        assert torch.allclose(found, expected[: len(found)], rtol=0, atol=1e-5)
    found = linear_nll(hidden[::2, ::8], weight[:, ::8], target[::2], implementation=implementation)  # one number
    assert error(found, hidden[::2, ::8], weight[:, ::8], None, target[::2]) <= 2e-5
