"""The weighted sum at the size of a training step, where there is a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hardmask.kernels.product import add_product_
from hardmask.kernels.weighted_nll_sum import weighted_nll_sum

pytestmark = pytest.mark.gpu

TOKENS, WIDTH, VOCABULARY = 4096, 768, 50_265


@pytest.fixture(scope="module")
def step():
    """hidden, weight, bias, token_weight in bfloat16 and float32, and the targets."""
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device="cuda")

    hidden, weight, bias = normal(TOKENS, WIDTH), normal(VOCABULARY, WIDTH) * 2 / WIDTH**0.5, normal(VOCABULARY)
    token_weight = torch.rand(TOKENS, generator=generator, device="cuda")
    token_weight[::7] = 0
    target = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator, device="cuda")
    return [hidden.bfloat16(), weight.bfloat16(), bias.bfloat16(), token_weight], target


def gradients(inputs, target, **options):
    hidden, weight, bias, token_weight = (value.detach().requires_grad_() for value in inputs)
    loss, nll, correct = weighted_nll_sum(hidden, weight, target, token_weight, bias=bias, **options)
    return loss.detach(), nll, correct, *torch.autograd.grad(loss, (hidden, weight, bias, token_weight))


def usual_gradients(inputs, target):
    values = [value.detach().requires_grad_() for value in inputs]
    logits = F.linear(*values[:3])
    logits = logits if logits.dtype == torch.float64 else logits.float()
    nll = F.cross_entropy(logits, target, reduction="none")
    return nll.detach(), *torch.autograd.grad((nll * values[3]).sum(), values)


@pytest.mark.parametrize("budget_bytes", [None, 256 * 2**20])
def test_no_worse_than_torch_in_the_same_dtype(step, budget_bytes):
    inputs, target = step
    loss, nll, _, *ours = gradients(inputs, target, budget_bytes=budget_bytes)
    true_nll, *true = usual_gradients([value.double() for value in inputs], target)
    _, *theirs = usual_gradients(inputs, target)
    assert (nll - true_nll).abs().max() <= 2e-5
    assert float(loss) == pytest.approx(float(true_nll @ inputs[3].double()), rel=1e-5)
    for mine, other, exact in zip(ours, theirs, true, strict=True):
        error, other_error = (mine.double() - exact).norm(), (other.double() - exact).norm()
        assert error <= other_error + 1e-7 * exact.norm()


def test_two_runs_agree_bit_for_bit(step):
    for one, two in zip(gradients(*step), gradients(*step), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("tokens", [0, 1, 33])
def test_triton_and_reference_agree(step, dtype, tokens):
    inputs, target = step
    hidden, weight, bias, token_weight = (value.to(dtype) for value in inputs)
    inputs = hidden[:tokens], weight, bias, token_weight[:tokens]
    reference, triton = (gradients(inputs, target[:tokens], implementation=name) for name in ("reference", "triton"))
    for one, two in zip(reference, triton, strict=True):
        assert torch.allclose(one.float(), two.float(), rtol=4 * torch.finfo(dtype).eps + 1e-5, atol=1e-5)


def test_no_sync_with_the_host(step):
    gradients(*step)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(*step)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_compiled_by_inductor(step):
    inputs, target = step

    def loss(hidden, weight, bias, token_weight):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return weighted_nll_sum(hidden, weight, target, token_weight, bias=bias)

    results = []
    for run in (loss, torch.compile(loss, fullgraph=True)):
        values = [value.detach().float().requires_grad_() for value in inputs]
        value, nll, correct = run(*values)
        results.append((value.detach(), nll, correct, *torch.autograd.grad(value, values)))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_add_product_in_half_precision(dtype):
    left, right = torch.randn(77, 50, device="cuda", dtype=dtype), torch.randn(50, 40, device="cuda", dtype=dtype)
    wide = torch.full((77, 64), torch.nan, device="cuda")
    add_product_(wide[:, :40], left, right, first=True)
    add_product_(wide[:, :40], left, right)
    assert torch.allclose(wide[:, :40].double(), 2 * left.double() @ right.double(), rtol=1e-4, atol=1e-4)
    assert wide[:, 40:].isnan().all()


def test_memory_is_that_of_a_chunk(step):
    inputs, target = step
    budget_bytes = 64 * 2**20
    gradients(inputs, target, budget_bytes=budget_bytes)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradients(inputs, target, budget_bytes=budget_bytes)
    # Logits and their gradient; three sizes of the weight's in float32 with its product by the loss's; the hidden's.
    weight_bytes, hidden_bytes = 4 * VOCABULARY * WIDTH, 4 * TOKENS * WIDTH
    assert torch.cuda.max_memory_allocated() - before <= budget_bytes + 3 * weight_bytes + 3 * hidden_bytes
