"""The gradient of given logits in their place against float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from hardmask.kernels.token_nll import split_target, token_nll, token_nll_

IMPLEMENTATIONS = ["reference", "triton"]
# In Triton's interpreter NumPy warns of what is meant: ln 0, and NaN out of infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


@pytest.fixture
def device(implementation, triton_device):
    return triton_device if implementation == "triton" else torch.device("cpu")


def case(rows, vocabulary, *, device="cpu", dtype=torch.float32, stride=None):
    """Logits that are the first columns of wider rows of sentinels, targets, and weights of which one is 0."""
    generator = torch.Generator().manual_seed(rows + vocabulary)
    wide = torch.full((rows, stride or vocabulary + 39), 77.0, dtype=dtype)
    wide[:, :vocabulary] = torch.randn(rows, vocabulary, generator=generator) * 4
    target = torch.randint(0, vocabulary, (rows,), generator=generator)
    weight = torch.rand(rows, generator=generator)
    weight[rows // 2] = 0
    return wide.to(device), target.to(device), weight.to(device)


def exact(logits, target, weight, bias=None):
    """nll, gradient and correct in float64."""
    logits = (logits.double() + (0 if bias is None else bias.double())).requires_grad_()
    nll = F.cross_entropy(logits, target, reduction="none")
    correct = logits.argmax(1) == target
    return nll.detach(), torch.autograd.grad((nll * weight).sum(), logits)[0], correct


def compare(found, expected, gradient, *, rtol=2e-5):
    (nll, correct), (true, true_gradient, true_correct) = found, expected
    assert nll.dtype == torch.float32
    assert (nll >= 0).all()
    assert torch.allclose(nll.double(), true, rtol=0, atol=2e-5)
    assert torch.equal(correct, true_correct)
    assert torch.allclose(gradient.double(), true_gradient, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize("vocabulary", [1, 7, 255, 256, 257, 1000])
def test_against_float64(rows, vocabulary, implementation, device):
    if implementation == "triton" and vocabulary == 1000:
        rows = min(rows, 9)
    wide, target, weight = case(rows, vocabulary, device=device)
    logits = wide[:, :vocabulary]
    expected = exact(logits, target, weight)
    compare(token_nll_(logits, target, weight, implementation=implementation), expected, logits)
    assert (wide[:, vocabulary:] == 77).all()  # what stands beside the rows is not ours
    assert not logits[rows // 2].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3), (torch.float32, 2e-5)])
def test_gradient_elsewhere_and_narrower(dtype, rtol, implementation, device):
    wide, target, weight = case(5, 1000, device=device)
    logits = wide[:, :1000]
    expected = exact(logits, target, weight)
    beside = torch.full((5, 1024), 77.0, dtype=dtype, device=device)
    found = token_nll_(logits, target, weight, gradient=beside[:, :1000], implementation=implementation)
    compare(found, expected, beside[:, :1000], rtol=rtol)
    assert (beside[:, 1000:] == 77).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_roberta_vocabulary_with_a_bias(dtype, implementation, device):
    wide, target, weight = case(2, 50_265, device=device, dtype=dtype, stride=50_304)
    logits = wide[:, :50_265]
    bias = torch.randn(50_265, generator=torch.Generator().manual_seed(0)).to(device)
    expected = exact(logits, target, weight, bias)
    found = token_nll_(logits, target, weight, bias=bias, implementation=implementation)
    compare(found, expected, logits, rtol=2 * torch.finfo(dtype).eps + 2e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("margin", [20, 40, 80])
def test_certain_targets_keep_relative_accuracy(margin, implementation, device):
    logits = torch.zeros(2, 300, device=device)
    logits[0, 7] = logits[1, 299] = margin
    target = torch.tensor([7, 299], device=device)
    nll, correct = token_nll_(logits, target, torch.tensor([1.0, 0.25], device=device), implementation=implementation)
    odds = 299 * math.exp(-margin)
    assert nll.tolist() == pytest.approx([math.log1p(odds)] * 2, rel=3e-5)
    assert correct.all()
    sigmoid = odds / (1 + odds)
    assert logits[:, 0].tolist() == pytest.approx([sigmoid / 299, sigmoid / 299 / 4], rel=3e-5)
    assert logits[[0, 1], target].tolist() == pytest.approx([-sigmoid, -sigmoid / 4], rel=3e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shift", [-1e3, 1e3, 1e6])
def test_shifts(shift, implementation, device):
    wide, target, weight = case(4, 300, device=device)
    logits = wide + shift
    expected = exact(logits, target, weight)
    compare(token_nll_(logits, target, weight, implementation=implementation), expected, logits)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ignored_rows(implementation, device):
    wide, target, weight = case(4, 300, device=device)
    logits = wide.clone()
    logits[1] = torch.nan
    target[1], target[3] = -100, -100
    expected = exact(wide[[0, 2]], target[[0, 2]], weight[[0, 2]])
    nll, correct = token_nll_(logits, target, weight, implementation=implementation)
    compare((nll[[0, 2]], correct[[0, 2]]), expected, logits[[0, 2]])
    assert not torch.cat([nll[[1, 3]], correct[[1, 3]], logits[[1, 3]].flatten()]).any()
    logits = wide[:, :300].clone()
    target[:] = logits.argmax(1)[1]  # row 1 would be correct
    nll, correct = token_nll_(logits, target, weight, ignore_index=int(target[0]), implementation=implementation)
    assert not torch.cat([nll, correct, logits.flatten()]).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_not_a_number_infinities_and_no_class(implementation, device):
    wide, _, _ = case(9, 300, device=device)
    logits = wide[:, :300]
    target = torch.tensor([5, 5, 5, 5, 300, -100, 5, 5, 5], device=device)
    logits[0, 299] = torch.nan
    logits[1, 5] = torch.nan
    logits[2, 0] = torch.inf
    logits[3, 5] = torch.inf
    logits[6] = -torch.inf
    logits[7, 5] = -torch.inf
    logits[8] = -torch.inf
    logits[8, 5] = 0
    before = logits.double()
    ones = torch.ones(9, device=device)
    nll, correct = token_nll_(logits, target, ones, ignore_index=None, implementation=implementation)
    assert nll.isnan().tolist() == [True] * 7 + [False] * 2
    assert nll[7:].tolist() == [torch.inf, 0]
    assert correct.tolist() == [False] * 8 + [True]
    assert logits[:7].isnan().any(1).all()
    others = before[7].softmax(0).float()
    others[5] = -1
    assert torch.allclose(logits[7], others, rtol=1e-5, atol=1e-7)
    assert not logits[8].any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_and_weights_with_strides_of_their_own(implementation, device):
    wide, target, _ = case(6, 300, device=device)
    expected = exact(wide[::2, :300], target[::2], torch.full((3,), 0.5, device=device))
    weight = torch.tensor(0.5, device=device).expand(3)
    found = token_nll_(wide[::2, :300], target[::2], weight, implementation=implementation)
    compare(found, expected, wide[::2, :300])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_equal_logits_are_not_correct_and_no_rows(implementation, device):
    target, weight = torch.zeros(1, dtype=torch.int64, device=device), torch.ones(1, device=device)
    _, correct = token_nll_(torch.zeros(1, 4, device=device), target, weight, implementation=implementation)
    assert not correct.any()
    nll, _ = token_nll_(torch.zeros(0, 4, device=device), target[:0], weight[:0], implementation=implementation)
    assert nll.shape == (0,)


def test_float64_stays():
    wide, target, weight = case(5, 90, dtype=torch.float64)
    true, gradient, _ = exact(wide, target, weight)
    nll, _ = token_nll_(wide, target, weight)
    assert torch.allclose(nll, true, rtol=0, atol=1e-13)
    assert torch.allclose(wide, gradient, rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match="float64"):
        token_nll_(wide, target, weight, implementation="triton")


def test_what_does_not_fit():
    logits, target, weight = case(3, 5)
    for message, call in {
        r"\[R, V\]": lambda: token_nll_(logits, target, weight[:2]),
        "int64": lambda: token_nll_(logits, target.int(), weight),
        "bias": lambda: token_nll_(logits, target, weight, bias=torch.zeros(5)),
        "gradient is": lambda: token_nll_(logits, target, weight, gradient=logits[:2]),
        "adjoin": lambda: token_nll_(torch.zeros(5, 3).T, target, weight),
        "detach": lambda: token_nll_(logits.clone().requires_grad_(), target, weight),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_split_target():
    logits = torch.arange(6.0).reshape(2, 3)
    here, logit = split_target(logits, torch.tensor([[4], [9]]), 3, -math.inf)
    assert here.tolist() == [[True], [False]]
    assert logit[0] == 1
    assert logits.tolist() == [[0, -math.inf, 2], [3, 4, 5]]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_large_on_gpu(dtype):
    wide, target, weight = case(1024, 50_265, device="cuda", stride=50_304)
    logits = wide[:, :50_265]
    expected = exact(logits, target, weight)
    results = []
    for _ in range(2):
        beside = torch.full((1024, 50_304), 77.0, dtype=dtype, device="cuda")
        found = token_nll_(logits.clone(), target, weight, gradient=beside[:, :50_265], implementation="triton")
        compare(found, expected, beside[:, :50_265], rtol=2 * torch.finfo(dtype).eps + 2e-5)
        results.append((*found, beside))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
    nll, _ = token_nll_(logits, target, weight, implementation="triton")
    assert torch.equal(nll, results[0][0])


@pytest.mark.gpu
def test_more_than_2_to_the_31_logits_on_gpu():
    """45,000 x 50,304 is 2.26e9: the last rows lie beyond the reach of 31 bits."""
    wide = torch.zeros(45_000, 50_304, dtype=torch.bfloat16, device="cuda")
    some, target, weight = case(16, 50_265, dtype=torch.bfloat16, device="cuda", stride=50_304)
    wide[-16:] = some
    logits = wide[:, :50_265]
    targets, weights = torch.zeros(45_000, dtype=torch.int64, device="cuda"), torch.zeros(45_000, device="cuda")
    targets[-16:], weights[-16:] = target, weight
    expected = exact(some[:, :50_265], target, weight)
    nll = token_nll(logits, targets, implementation="triton")
    assert torch.allclose(nll[-16:].double(), expected[0], rtol=0, atol=2e-5)
    assert torch.allclose(nll[:-16], torch.full_like(nll[:-16], math.log(50_265)), rtol=0, atol=2e-5)
    nll, correct = token_nll_(logits, targets, weights, implementation="triton")
    compare((nll[-16:], correct[-16:]), expected, logits[-16:], rtol=8e-3)
    assert not logits[:-16].any()
    assert (wide[-16:, 50_265:] == 77).all()
