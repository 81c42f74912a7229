"""The weighted sum against linear_nll and float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hardmask.kernels.linear_nll import linear_nll
from hardmask.kernels.weighted_nll_sum import weighted_nll_sum


def case(tokens, width, vocabulary, *, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64) * 2 / width**0.5
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
    token_weight = torch.rand(tokens, generator=generator, dtype=torch.float64)
    target = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return [x.to(dtype).requires_grad_() for x in (hidden, weight, bias, token_weight)], target


@pytest.mark.parametrize("tokens", [0, 1, 33])
@pytest.mark.parametrize("vocabulary", [1, 7, 257, 50_265])
@pytest.mark.parametrize("budget_bytes", [None, 1_000_000])
def test_against_float64(tokens, vocabulary, budget_bytes):
    (hidden, weight, bias, token_weight), target = case(tokens, 16, vocabulary)
    loss, nll, correct = weighted_nll_sum(hidden, weight, target, token_weight, bias=bias, budget_bytes=budget_bytes)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight, bias, token_weight)]
    logits = F.linear(*exact[:3])
    true = F.cross_entropy(logits, target, reduction="none")
    assert loss.dtype == nll.dtype == torch.float32
    assert not nll.requires_grad
    assert torch.allclose(nll.double(), true, rtol=0, atol=2e-5)
    assert torch.equal(correct, logits.argmax(1) == target)
    assert float(loss.detach()) == pytest.approx(float((true * exact[3]).detach().sum()), rel=1e-5)
    found = torch.autograd.grad(3 * loss, (hidden, weight, bias, token_weight))
    for grad, expected in zip(found, torch.autograd.grad(3 * (true * exact[3]).sum(), exact), strict=True):
        assert torch.allclose(grad.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("budget_bytes", [40, 10**6])
def test_gradcheck(budget_bytes):
    inputs, target = case(4, 3, 5, dtype=torch.float64)

    def run(hidden, weight, bias, token_weight):
        return weighted_nll_sum(hidden, weight, target, token_weight, bias=bias, budget_bytes=budget_bytes)[0]

    assert torch.autograd.gradcheck(run, inputs)


def test_equals_linear_nll_in_float64():
    (hidden, weight, bias, token_weight), target = case(33, 8, 257, dtype=torch.float64)
    ours = torch.autograd.grad(
        weighted_nll_sum(hidden, weight, target, token_weight, bias=bias)[0], (hidden, weight, bias)
    )
    other = torch.autograd.grad(
        (linear_nll(hidden, weight, target, bias=bias) * token_weight).sum(), (hidden, weight, bias)
    )
    for one, two in zip(ours, other, strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-13)


def test_tokens_of_weight_0_leave_no_trace():
    (hidden, weight, bias, _), target = case(6, 8, 20, dtype=torch.float64)
    token_weight = torch.tensor([1.0, 0, 1, 0, 0, 1], dtype=torch.float64)
    whole = torch.autograd.grad(weighted_nll_sum(hidden, weight, target, token_weight, bias=bias)[0], (hidden, weight))
    few = [0, 2, 5]
    part = torch.autograd.grad(
        weighted_nll_sum(hidden[few], weight, target[few], token_weight[few], bias=bias)[0], (hidden, weight)
    )
    for one, two in zip(whole, part, strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-14)
    assert not whole[0][[1, 3, 4]].any()


def test_no_gradient_where_none_is_wanted():
    (hidden, weight, bias, token_weight), target = case(6, 8, 20)
    with torch.no_grad():
        loss, nll, _ = weighted_nll_sum(hidden, weight, target, token_weight, bias=bias)
    assert not loss.requires_grad
    assert torch.allclose(nll, linear_nll(hidden, weight, target, bias=bias), atol=1e-5)
    weight.requires_grad_(False)
    loss, _, _ = weighted_nll_sum(hidden, weight, target, token_weight)
    loss.backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_backward_twice():
    (hidden, weight, _, token_weight), target = case(6, 8, 20)
    loss, _, _ = weighted_nll_sum(hidden, weight, target, token_weight)
    first = torch.autograd.grad(loss, weight, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, weight)[0])


def test_autocast_rounds_the_operands_only():
    (hidden, weight, _, token_weight), target = case(20, 16, 100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, nll, _ = weighted_nll_sum(hidden.bfloat16(), weight, target, token_weight)
    grad = torch.autograd.grad(loss, weight)[0]
    exact = [hidden.detach().bfloat16().double(), weight.detach().bfloat16().double().requires_grad_()]
    true = F.cross_entropy(F.linear(*exact), target, reduction="none")
    assert (nll - true).abs().max() < 2e-5
    assert grad.dtype == torch.float32
    expected = torch.autograd.grad((true * token_weight.detach()).sum(), exact[1])[0]
    assert torch.allclose(grad.double(), expected, rtol=1e-4, atol=1e-5)


def test_certain_shifted_and_not_a_number():
    weight = torch.tensor([[30.0], [0.0], [-5.0]])
    hidden = torch.ones(1, 1)
    bias = torch.full((3,), 1000.0)
    _, nll, correct = weighted_nll_sum(hidden, weight, torch.tensor([0]), torch.ones(1), bias=bias)
    assert float(nll) == pytest.approx(9.4e-14, rel=0.01)
    assert correct.all()
    _, nll, _ = weighted_nll_sum(hidden, weight, torch.tensor([3]), torch.ones(1))
    assert nll.isnan().all()
    _, nll, correct = weighted_nll_sum(hidden * torch.nan, weight, torch.tensor([0]), torch.ones(1))
    assert nll.isnan().all()
    assert not correct.any()


def test_equal_logits_are_not_correct():
    _, nll, correct = weighted_nll_sum(torch.zeros(1, 2), torch.zeros(4, 2), torch.tensor([0]), torch.ones(1))
    assert float(nll) == pytest.approx(1.386294)
    assert not correct.any()


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="token_weight"):
        weighted_nll_sum(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(2, dtype=torch.int64), torch.ones(3))
