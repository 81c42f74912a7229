"""The weighted sum in graphs of torch.compile: one node, the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from hardmask.kernels import weighted_nll_sum as module
from hardmask.kernels.weighted_nll_sum import weighted_nll_sum

IMPLEMENTATIONS = ["reference", "triton"]


@pytest.fixture
def device(implementation, triton_device):
    return triton_device if implementation == "triton" else torch.device("cpu")


def case(tokens, width, vocabulary, *, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64) * 2 / width**0.5
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
    token_weight = torch.rand(tokens, generator=generator, dtype=torch.float64)
    target = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return [x.to(dtype).requires_grad_() for x in (hidden, weight, bias, token_weight)], target


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("frozen", [None, 0, 1, 2])
def test_compiled(implementation, frozen, device):
    inputs, target = case(6, 8, 100)
    inputs, target = [value.detach().to(device).requires_grad_() for value in inputs], target.to(device)
    if frozen is not None:
        inputs[frozen].requires_grad_(False)
    graphs = []

    def backend(graph, example_inputs):
        graphs.append([node.target for node in graph.graph.nodes if "hardmask" in str(node.target)])
        return aot_eager(graph, example_inputs)

    def loss(hidden, weight, bias, token_weight):
        value, nll, correct = weighted_nll_sum(
            hidden.tanh(), weight, target, token_weight, bias=bias, budget_bytes=800, implementation=implementation
        )
        return value / 3, nll, correct

    results = []
    for run in (loss, torch.compile(loss, fullgraph=True, backend=backend)):
        value, nll, correct = run(*inputs)
        results.append((value, nll, correct, *torch.autograd.grad(value, [x for x in inputs if x.requires_grad])))
    assert [len(nodes) for nodes in graphs] == [1]
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_compiled_under_autocast_and_without_gradients():
    (hidden, weight, _, token_weight), target = case(20, 16, 100)

    def loss(hidden, weight):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return weighted_nll_sum(hidden, weight, target, token_weight)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for one, two in zip(loss(hidden, weight), compiled(hidden, weight), strict=True):
        assert torch.equal(one, two)
    with torch.no_grad():
        for one, two in zip(loss(hidden, weight), compiled(hidden, weight), strict=True):
            assert torch.equal(one, two)
            assert not two.requires_grad


@pytest.mark.parametrize("tokens", [0, 5])
@pytest.mark.parametrize("needs", [[True, True, True], [True, False, False], [False, False, False]])
def test_operation_keeps_the_rules_of_the_library(tokens, needs):
    (hidden, weight, bias, token_weight), target = case(tokens, 4, 7)
    for value, need in zip((hidden, weight, bias), needs, strict=True):
        value.requires_grad_(need)
    formats = (torch.float32, torch.float32, 60, *needs, -100, None)
    torch.library.opcheck(module.nll_sum_and_gradients, (hidden, weight, bias, target, token_weight, *formats))
