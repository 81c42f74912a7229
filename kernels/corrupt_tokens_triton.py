"""Triton twin of the corruption: one launch over the slots, equal to the reference bit for bit."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hardmask.kernels.philox import Purpose
from hardmask.kernels.philox_triton import key_of, keyed_words, per_row, row_value

SLOT_BLOCK = 1_024  # slots a program, at most; not measured, no GPU was there


def corrupt_tokens(
    input_ids: Tensor,
    positions: Tensor,
    filled: Tensor,
    *,
    mask_id: int,
    ordinary_ids: Tensor,
    below_mask: int,
    below_random: int,
    seed: int,
    sequence_id: Tensor,
    epoch: Tensor | int,
    chosen_at: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`corrupt_tokens` of arguments it has checked; thresholds are in units of 2^-32. No host sync."""
    corrupted = input_ids.clone(memory_format=torch.contiguous_format)
    rows, slots = positions.shape
    targets = torch.empty(rows, slots, dtype=input_ids.dtype, device=input_ids.device)
    if targets.numel() == 0:
        return corrupted, targets
    block = min(triton.next_power_of_2(slots), SLOT_BLOCK)
    with torch.cuda.device_of(input_ids):
        _corrupt[(rows, triton.cdiv(slots, block))](
            corrupted,
            targets,
            positions.contiguous(),
            positions if chosen_at is None else chosen_at.contiguous(),
            filled.expand(rows, slots).contiguous(),
            ordinary_ids.contiguous(),
            per_row(sequence_id, rows),
            per_row(epoch, rows),
            input_ids.shape[1],
            slots,
            ordinary_ids.shape[0],
            mask_id,
            below_mask,
            below_random,
            key_of(seed, Purpose.CORRUPTION),
            CHOSEN_ELSEWHERE=chosen_at is not None,
            BLOCK=block,
            num_warps=min(max(block // 64, 1), 4),
        )
    return corrupted, targets


@triton.jit(
    do_not_specialize=[
        "epoch", "length", "slots", "choices", "mask_id", "below_mask", "below_random", "key"
    ]
)  # fmt: skip
def _corrupt(
    corrupted: tl.tensor,  # [B, L] int64, in and out
    targets: tl.tensor,  # [B, S] int64, out
    positions: tl.tensor,  # [B, S] int64
    chosen_at: tl.tensor,  # [B, S] int64, read if CHOSEN_ELSEWHERE
    filled: tl.tensor,  # [B, S] bool
    ordinary_ids: tl.tensor,  # [V'] int64
    sequence_id: tl.tensor,  # [B] int64
    epoch: tl.tensor,  # [B] int64, or an integer
    length: tl.tensor,
    slots: tl.tensor,
    choices: tl.tensor,
    mask_id: tl.tensor,
    below_mask: tl.int64,
    below_random: tl.int64,
    key: tl.int64,
    CHOSEN_ELSEWHERE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = slot < slots
    at = row * slots + slot
    drawn = tl.load(filled + at, mask=inside, other=0).to(tl.int1)
    position = tl.load(positions + at, mask=drawn, other=0)
    # Drawn positions of a row are different, so no other slot has written here.
    token = corrupted + row * length + position
    original = tl.load(token, mask=drawn, other=0)
    row_id, row_epoch = tl.load(sequence_id + row), row_value(epoch, row)
    choice, draw, _, _ = keyed_words(key, position, row_id, row_epoch)
    if CHOSEN_ELSEWHERE:
        choice, _, _, _ = keyed_words(key, tl.load(chosen_at + at, mask=drawn, other=0), row_id, row_epoch)
    choice = choice.to(tl.int64)
    masked = choice < below_mask
    random = (choice < below_random) & ~masked
    random_id = tl.load(ordinary_ids + ((draw.to(tl.int64) * choices) >> 32), mask=drawn & random, other=0)
    replaced = tl.where(masked, mask_id, tl.where(random, random_id, original))
    tl.store(token, replaced, mask=drawn)
    tl.store(targets + at, original, mask=inside)
