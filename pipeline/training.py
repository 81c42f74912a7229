"""The one training loop: any objective over an ordered stream of rows, resumable bit for bit at any step.

Nothing random is carried from step to step: order and masks are functions of keys, dropout is seeded anew for every
step, so the state of a run is its weights, its optimizer and one integer.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hardmask.pipeline import checkpoint
from hardmask.pipeline.config import TrainConfig
from hardmask.pipeline.distributed import Ranks
from hardmask.pipeline.errors import UserError
from hardmask.pipeline.progress import bar
from hardmask.pipeline.reader import Batch, OrderedRows, prefetched, to_batch
from hardmask.pipeline.runfolder import Stage

# CPU: a 6-layer encoder of width 512 on two cores, torch 2.13, took 0.78 of the time of 4,096 at 2,048 and 0.79 at
# 1,024: activations that outgrow what the C library keeps are mapped anew, page by page. CUDA: not measured.
MICRO_TOKENS = {"cpu": 2_048, "cuda": 32_768}


class Objective(nn.Module, ABC):
    """What a model is trained for. The model is `self.model`, a Hugging Face model."""

    model: Any

    @abstractmethod
    def prepare(self, batch: Batch) -> dict[str, Tensor]:
        """Tensors [B, …] of one training batch, split by rows into micro-batches; `weights` [B, S] counts targets."""

    @abstractmethod
    def forward(self, **tensors: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted sum of losses in nats, and detached [2]: that sum again and the targets predicted exactly."""


def autocast(device: torch.device) -> Any:
    """bf16 on CUDA devices that have it (sm_80 and newer), else full precision."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def total_steps(config: TrainConfig, rows: int, sequence_length: int, tokens: int | None = None) -> int:
    """Optimizer steps of a training over `rows` sequences an epoch; of at most `tokens` positions, but at least one."""
    steps = config.steps if config.steps is not None else math.ceil(config.epochs * rows / config.batch_sequences)
    if tokens is not None:
        steps = min(steps, tokens // (config.batch_sequences * sequence_length))
    return max(1, steps)


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Of optimizer step `step` (from 0): rises linearly over the warm-up, then falls linearly to 0 behind the last."""
    warmup = config.warmup * steps
    if step + 1 <= warmup:
        return config.lr * (step + 1) / warmup
    return config.lr * min(1.0, (steps - step) / max(1.0, steps - warmup))


def optimizer_for(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; no weight decay on biases and norms, which are the one-dimensional parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    fused = any(p.is_cuda for p in parameters)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.epsilon, fused=fused)


def micro_sequences(config: TrainConfig, sequence_length: int, device: torch.device) -> int:
    """Sequences per forward pass on this device."""
    return config.micro_sequences or max(1, MICRO_TOKENS[device.type] // sequence_length)


def accumulate_gradients(
    wrapped: nn.Module, prepared: dict[str, Tensor], *, micro: int, ranks: Ranks, seed: int, device: torch.device
) -> Tensor:
    """Gradients of the mean loss over all targets of all processes, into `.grad`: dropout aside, however it is divided.

    Returns [3] on the device: the loss sum in nats, exactly predicted targets and targets of this process.
    """
    mine = prepared["weights"].sum()
    everywhere = ranks.sum(mine.clone()).clamp_(min=1)  # a batch of rows too short for a mask leaves all as it is
    starts = range(0, len(prepared["weights"]), micro)
    sums = torch.zeros(2, dtype=torch.float64 if mine.dtype == torch.float64 else torch.float32, device=device)
    for index, start in enumerate(starts):
        torch.manual_seed(_dropout_seed(seed, ranks.rank, index))
        part = {name: tensor[start : start + micro] for name, tensor in prepared.items()}
        is_last = start + micro >= len(prepared["weights"])
        no_sync = contextlib.nullcontext() if is_last or ranks.world == 1 else wrapped.no_sync()  # type: ignore[operator]
        with no_sync:
            with autocast(device):
                loss, counts = wrapped(**part)
            # DistributedDataParallel averages gradients over processes; the loss is a sum over them.
            (loss * (ranks.world / everywhere)).backward()
        sums += counts
    return torch.cat([sums, mine[None]])


def _dropout_seed(seed: int, rank: int, micro: int) -> int:
    """Distinct for every (step seed, process, micro-batch) up to 99 processes of 10,006 micro-batches."""
    return (seed * 1_000_003 + rank * 10_007 + micro) & (2**63 - 1)


def train(
    objective: Objective,
    rows: OrderedRows,
    config: TrainConfig,
    *,
    steps: int,
    sequence_length: int,
    stage: Stage,
    ranks: Ranks,
    device: torch.device,
    evaluate: Callable[[], dict[str, float]],
    what: str,
    quiet: bool,
) -> None:
    """Train `objective.model` in place for `steps` optimizer steps, going on from the newest checkpoint in the stage.

    `evaluate` is called on the first process every `eval_steps` and after the last step; what it returns is logged.
    """
    if config.batch_sequences % ranks.world:
        raise UserError(
            f"{config.batch_sequences} sequences a step do not divide among {ranks.world} processes",
            where=f"--{config.prefix}.batch-sequences",
            mend="Give a multiple of the number of processes",
        )
    stage.begin()
    optimizer = optimizer_for(objective.model, config)
    folder = stage.folder / "checkpoints"
    first = checkpoint.load_newest(folder, objective.model, optimizer)
    stage.forget_after(first)
    if ranks.first and not quiet:
        print(f"hardmask {what}: steps {first + 1:,} to {steps:,}", file=sys.stderr, flush=True)
    wrapped = _wrap(objective, config, ranks, device)
    progress = bar(what, steps * config.batch_sequences * sequence_length, quiet=quiet or not ranks.first,
                   done=first * config.batch_sequences * sequence_length)  # fmt: skip
    log = _Log(stage, config.batch_sequences * sequence_length, steps)
    batches = prefetched(lambda: _batches(rows, config, ranks, device, range(first, steps)))
    with progress, contextlib.closing(batches):
        for step, batch in zip(range(first, steps), batches, strict=False):
            objective.train()
            rate = learning_rate(config, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            sums = accumulate_gradients(
                wrapped,
                objective.prepare(batch),
                micro=micro_sequences(config, sequence_length, device),
                ranks=ranks,
                seed=config.seed * 1_000_003 + step,
                device=device,
            )
            norm = nn.utils.clip_grad_norm_(objective.model.parameters(), config.clip_norm or math.inf)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            log.step(step + 1, sums, norm, rate, ranks)
            progress.update(config.batch_sequences * sequence_length)
            evaluating, saving = ((step + 1) % n == 0 for n in (config.eval_steps, config.checkpoint_steps))
            if step + 1 == steps or not (evaluating or saving):
                continue
            with log.paused():
                if ranks.first:
                    check_finite(float(sums[0]), step + 1, stage)
                    if evaluating:
                        stage.log(step=step + 1, **evaluate())
                    if saving:
                        checkpoint.save(folder, objective.model, optimizer, step + 1)
                        stage.keep_seconds()
                ranks.barrier()


def _wrap(objective: Objective, config: TrainConfig, ranks: Ranks, device: torch.device) -> nn.Module:
    """The objective as it is called in a step: compiled and spread over processes where asked."""
    wrapped: nn.Module = objective
    if ranks.world > 1:
        ids = [device.index] if device.type == "cuda" else None
        wrapped = nn.parallel.DistributedDataParallel(objective, device_ids=ids, gradient_as_bucket_view=True)
    return torch.compile(wrapped) if config.compile else wrapped  # type: ignore[return-value]


def _batches(
    rows: OrderedRows, config: TrainConfig, ranks: Ranks, device: torch.device, steps: range
) -> Iterator[Batch]:
    """This process's share of every global batch; the batches themselves know nothing of processes."""
    share = config.batch_sequences // ranks.world
    for step in steps:
        start = step * config.batch_sequences + ranks.rank * share
        yield to_batch(*rows.read(start, start + share), device)


def check_finite(loss: float, step: int, stage: Stage) -> None:
    """Refuse to go on, or to save, where training has diverged."""
    if not math.isfinite(loss):
        raise UserError(
            f"the loss of step {step} is {loss}",
            where=stage.folder,
            mend="Remove that folder, and run again with a lower learning rate",
        )


def perplexity(nats: float) -> float:
    """exp of a mean loss; what float64 cannot hold is cut to its largest power of e."""
    return math.exp(min(nats, 709.0))


class _Log:
    """Loss and speed of the steps since the last line, about 200 lines a training; a line costs the one host sync."""

    def __init__(self, stage: Stage, tokens_per_step: int, steps: int) -> None:
        self.stage, self.tokens_per_step, self.every, self.steps = stage, tokens_per_step, max(1, steps // 200), steps
        self.since, self.count, self.sums = time.monotonic(), 0, torch.zeros(3)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count as training time."""
        began = time.monotonic()
        yield
        self.since += time.monotonic() - began

    def step(self, step: int, sums: Tensor, norm: Tensor, rate: float, ranks: Ranks) -> None:
        self.sums = self.sums.to(sums) + sums
        self.count += 1
        if step % self.every and step != self.steps:
            return
        loss, correct, targets = ranks.sum(self.sums.clone()).tolist()
        check_finite(loss, step, self.stage)
        seconds = time.monotonic() - self.since
        self.stage.log(
            step=step,
            loss=loss / max(1, targets),
            accuracy=correct / max(1, targets),
            lr=rate,
            gradient_norm=float(norm),
            tokens=step * self.tokens_per_step,
            tokens_per_second=round(self.count * self.tokens_per_step / seconds, 1),
        )
        self.since, self.count, self.sums = time.monotonic(), 0, torch.zeros(3)


def evaluate_sums(
    objective: Objective, tensors: dict[str, Tensor], micro: int, device: torch.device
) -> tuple[float, float, float]:
    """(loss sum in nats, exactly predicted, targets) without gradients or dropout."""
    objective.eval()
    sums = torch.zeros(2, device=device)
    with torch.no_grad(), autocast(device):
        for start in range(0, len(tensors["weights"]), micro):
            sums += objective(**{name: tensor[start : start + micro] for name, tensor in tensors.items()})[1]
    loss, correct = sums.tolist()
    return loss, correct, float(tensors["weights"].sum())
