"""NLL of given logits against float64."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from hardmask.kernels import token_nll as module
from hardmask.kernels.token_nll import token_nll

IMPLEMENTATIONS = ["reference", "triton"]
SUPPORT = Path(__file__).parents[1] / "support"
HALVES = [torch.float16, torch.bfloat16]
# In Triton's interpreter NumPy warns of what is meant: ln 0, and NaN out of infinities.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


@pytest.fixture
def device(implementation, triton_device):
    return triton_device if implementation == "triton" else torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def logits_of(*shape, dtype=torch.float32, device="cpu"):
    return (torch.randn(*shape, generator=seeded()) * 4).to(device, dtype)


def exact(logits, target):
    logits, target = logits.double().cpu(), target.cpu()
    return F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").reshape(target.shape)


def check(logits, target, implementation, atol=2e-5):
    nll = token_nll(logits, target, implementation=implementation)
    assert nll.shape == target.shape
    assert nll.dtype == torch.float32
    assert (nll.cpu() - exact(logits, target)).abs().max() <= atol
    assert (nll >= 0).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("vocabulary", [1, 7, 255, 256, 257, 1000, 50_265])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_against_float64(vocabulary, dtype, implementation, device):
    if dtype == torch.bfloat16 and implementation == "triton" and device.type == "cpu":
        pytest.skip("the interpreter has no bfloat16 arithmetic")
    rows = (3, 11) if implementation == "reference" or vocabulary < 2000 else (1, 2)
    logits = logits_of(*rows, vocabulary, dtype=dtype, device=device)
    target = torch.randint(0, vocabulary, rows, generator=seeded(1)).to(device)
    check(logits, target, implementation)


def test_vocabulary_of_whole_cache_lines():
    check(logits_of(5, 50_304), torch.arange(5), "reference")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shift", [-1e3, 1e3, 1e6])
def test_shift_and_far_below_zero(shift, implementation, device):
    check(logits_of(8, 100, device=device) + shift, torch.arange(8, device=device), implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_maximum_far_above_what_came_first(implementation, device):
    logits = logits_of(3, 300, device=device) - 200
    logits[0, 299], logits[1, 256], logits[2, 0] = 0, 0, 0
    check(logits, torch.tensor([1, 2, 0], device=device), implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_certain_targets_keep_relative_accuracy(implementation, device):
    logits = torch.zeros(3, 1000, device=device)
    logits[0, 5], logits[1, 999], logits[2, 0] = 20, 40, 60
    nll = token_nll(logits, torch.tensor([5, 999, 0], device=device), implementation=implementation)
    true = torch.tensor([math.log1p(999 * math.exp(-margin)) for margin in (20, 40, 60)], dtype=torch.float64)
    assert torch.allclose(nll.double().cpu(), true, rtol=3e-5, atol=0)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_ignored_rows(implementation, device):
    logits = logits_of(4, 50, device=device)
    logits[1] = torch.nan
    target = torch.tensor([3, -100, 49, -100], device=device)
    nll = token_nll(logits, target, implementation=implementation)
    assert nll[[1, 3]].tolist() == [0, 0]
    assert torch.allclose(nll[[0, 2]].cpu().double(), exact(logits[[0, 2]], target[[0, 2]]), atol=2e-5)
    assert token_nll(logits[2:], target[1:3], ignore_index=49, implementation=implementation)[1] == 0
    assert not token_nll(logits, torch.full((4,), -100, device=device), implementation=implementation).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_not_a_number_infinities_and_no_class(implementation, device):
    logits = logits_of(9, 300, device=device)
    target = torch.tensor([5, 5, 5, 5, 300, -1, 5, 5, 5], device=device)
    logits[0, 299] = torch.nan
    logits[1, 5] = torch.nan
    logits[2, 0] = torch.inf
    logits[3, 5] = torch.inf
    logits[6] = -torch.inf
    logits[7, 5] = -torch.inf
    logits[8] = -torch.inf
    logits[8, 5] = 0
    nll = token_nll(logits, target, implementation=implementation)
    assert nll.isnan().tolist() == [True] * 7 + [False] * 2
    assert nll[7:].tolist() == [torch.inf, 0]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 2, 3), (0,), (2, 0)])
def test_shapes(shape, implementation, device):
    logits, target = logits_of(*shape, 40, device=device), torch.full(shape, 7, device=device)
    nll = token_nll(logits, target, implementation=implementation)
    assert nll.shape == shape
    if nll.numel():
        assert torch.allclose(nll.cpu(), -logits.cpu().log_softmax(-1)[..., 7], atol=2e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_strides(implementation, device):
    logits = logits_of(2, 4, 320, device=device)
    views = [logits[0, :, :300], logits[:, :-1], logits[:, 1:, 7:], logits[None, :, ::2], logits.transpose(0, 1)]
    views += [logits[:, :, :9].transpose(1, 2), logits[:, :1].expand(2, 4, 320)]
    for view in views:
        target = torch.randint(0, view.shape[-1], view.shape[:-1], generator=seeded()).to(device)
        check(view, target, implementation)
    target = torch.tensor([[3], [4]], device=device)
    check(logits[:, :4], target.expand(2, 4), implementation)
    check(logits[0, :2], target.expand(2, 4)[:, 1], implementation)


def test_padded_rows_and_sequences_without_their_end_are_not_copied():
    logits = torch.zeros(2, 5, 320)
    for view in (logits[..., :300], logits[:, :-1], logits[0, :, :300], logits[0, 0]):
        assert module._strided_rows(view).untyped_storage().data_ptr() == logits.untyped_storage().data_ptr()


def test_float64_stays():
    logits, target = logits_of(5, 9, dtype=torch.float64), torch.arange(5)
    nll = token_nll(logits, target)
    assert nll.dtype == torch.float64
    assert (nll - exact(logits, target)).abs().max() < 1e-14
    with pytest.raises(ValueError, match="float64"):
        token_nll(logits, target, implementation="triton")


def test_rows_come_in_chunks(monkeypatch):
    sizes = []
    chunk_nll = module._chunk_nll

    def count(logits, column):
        sizes.append(logits.numel() * logits.element_size())
        return chunk_nll(logits, column)

    monkeypatch.setattr(module, "_chunk_nll", count)
    logits = logits_of(700, 10_000, dtype=torch.bfloat16)
    assert token_nll(logits, torch.zeros(700, dtype=torch.int64), implementation="reference").shape == (700,)
    assert len(sizes) > 1
    assert max(sizes) <= module.CHUNK_BYTES["cpu"]


def test_shapes_and_dtypes_that_do_not_fit():
    with pytest.raises(ValueError, match="target"):
        token_nll(torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="int64"):
        token_nll(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match="no implementation"):
        token_nll(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), implementation="fast")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradient(dtype, implementation, device):
    padded = logits_of(2, 5, 320, dtype=dtype, device=device).requires_grad_()
    target = torch.randint(0, 300, (2, 4), generator=seeded(1)).to(device)
    target[0, 1] = -100
    weight = torch.rand(2, 4, generator=seeded(2)).to(device)
    nll = token_nll(padded[:, :-1, :300], target, implementation=implementation)
    grad = torch.autograd.grad((nll * weight).sum(), padded)[0]
    oracle = padded.detach().double().requires_grad_()
    true = F.cross_entropy(oracle[:, :-1, :300].flatten(0, 1), target.flatten(), reduction="none")
    expected = torch.autograd.grad((true * weight.flatten()).sum(), oracle)[0]
    assert grad.dtype == dtype
    assert torch.allclose(grad.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=2e-7)


def test_gradcheck():
    logits = logits_of(3, 2, 5, dtype=torch.float64).requires_grad_()
    target = torch.tensor([[0, 4], [-100, 2], [1, 1]])
    assert torch.autograd.gradcheck(lambda z: token_nll(z, target), logits)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_compiled(implementation, device):
    logits, target = logits_of(2, 5, 300, device=device).requires_grad_(), torch.full((2, 5), 7, device=device)

    def loss(logits):
        return token_nll(logits.tanh(), target, implementation=implementation)

    nll = torch.compile(loss, fullgraph=True, backend="aot_eager")(logits)
    assert torch.equal(nll, loss(logits))
    grads = [torch.autograd.grad(value.sum(), logits)[0] for value in (nll, loss(logits))]
    assert torch.equal(*grads)


def test_operations_keep_the_rules_of_the_library():
    logits, target = logits_of(2, 5, 30).requires_grad_(), torch.full((2, 5), 7)
    torch.library.opcheck(module._token_nll, (logits, target, -100, None))
    torch.library.opcheck(module._gradient, (logits.detach(), target, torch.ones(2, 5), -100, None))


def without_interpreter(*command):
    """What a Python process prints in which kernels are compiled and not interpreted."""
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=SUPPORT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90"])
def test_kernels_compile_without_spills(capability):
    names = ["token_nll", "token_nll-float32", "token_nll-odd"]
    names += ["token_nll_", "token_nll_-bias", "token_nll_-float32", "token_nll_-odd", "token_nll_-tail"]
    lines = without_interpreter("compile_only.py", capability, *names).splitlines()
    kernels = [json.loads(line) for line in lines]
    assert [kernel["launch"] for kernel in kernels] == names
    assert [kernel["stack_bytes"] for kernel in kernels] == [0] * len(names)
    assert max(kernel["registers"] for kernel in kernels[:3]) <= 128  # two programs of 8 warps a multiprocessor
    assert all(kernel["barrier"] for kernel in kernels[3:])  # or a warp overwrites what another has yet to read


@pytest.mark.slow
def test_rows_that_start_anywhere_do_not_recompile():
    program = """
import sys
sys.path.insert(0, "")
import torch
from compile_only import compiled
from hardmask.kernels import token_nll_triton as module

def launch(first, rows):
    logits = torch.empty(rows, 320)
    target, weight = torch.zeros(first + rows, dtype=torch.int64)[first:], torch.ones(first + rows)[first:]
    module.token_nll_triton(logits, target, -100)
    module.differentiate_triton(logits, target, weight, None, None, logits)

for first, rows in ((0, 16), (1, 16), (2, 1), (3, 17)):
    compiled(lambda: launch(first, rows), 90)
print(*(len(kernel.device_caches[0][0]) for kernel in (module._token_nll, module._differentiate)))
"""
    assert without_interpreter("-c", program).split() == ["1", "1"]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_device_that_is_not_the_current_one():
    logits = logits_of(5, 300, device="cuda:1").requires_grad_()
    target = torch.arange(5, device="cuda:1")
    assert torch.cuda.current_device() == 0
    check(logits.detach(), target, "triton")
    grad = torch.autograd.grad(token_nll(logits, target, implementation="triton").sum(), logits)[0]
    expected = logits.detach().softmax(1) - F.one_hot(target, 300)
    assert torch.allclose(grad, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES)
def test_large_on_gpu(dtype):
    logits = logits_of(1024, 50_304, dtype=dtype, device="cuda")[:, :50_265]
    target = torch.randint(0, 50_265, (1024,), generator=seeded(1)).cuda()
    check(logits, target, "triton")
    first, second = (token_nll(logits, target) for _ in range(2))
    assert torch.equal(first, second)
