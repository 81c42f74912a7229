"""Masked-LM batches from sequences and their perplexities: one pure function, made for any training loop."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hardmask.kernels.corrupt_tokens import corrupt_tokens
from hardmask.kernels.race import mask_slots, race
from hardmask.kernels.sample_positions import hardness_weights
from hardmask.pipeline.config import MaskingConfig
from hardmask.pipeline.errors import UserError

ALPHAS = (0.0, 1e-4, 1e-3, 5e-3, 2e-2, 1e-1, math.inf)
"""At which strategies are compared: from the hardest masks to uniform ones."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What masking needs to know of a tokenizer, such as size=50265, mask_id=50264, special_ids=(0, 1, 2, 3)."""

    size: int
    """Token ids are 0 … size-1."""
    mask_id: int
    """Id of the mask token."""
    special_ids: tuple[int, ...]
    """Ids never masked and never put in for another token, padding among them; mask_id counts as one anyway."""

    def __post_init__(self) -> None:
        special = {self.mask_id, *self.special_ids}
        if min(special) < 0 or max(special) >= self.size or len(special) == self.size:
            raise UserError(
                f"special ids {sorted(special)} do not fit a vocabulary of {self.size}",
                where="Vocabulary",
                mend="Give ids below the size and leave some ordinary ones",
            )


@dataclass(frozen=True)
class MaskedBatch:
    """What a masked-LM step needs; S = slots, the most masks a row of L tokens can have."""

    input_ids: Tensor
    """[B, L] int64, corrupted."""
    positions: Tensor
    """[B, S] int64, where to predict; 0 at spare slots."""
    targets: Tensor
    """[B, S] int64, the original ids there; 0 at spare slots."""
    weights: Tensor
    """[B, S] float32, 1 at filled slots, 0 at spare ones."""


def mask_batch(
    input_ids: Tensor,
    perplexity_forward: Tensor,
    perplexity_backward: Tensor,
    sequence_id: Tensor,
    epoch: Tensor | int,
    *,
    config: MaskingConfig,
    vocabulary: Vocabulary,
) -> MaskedBatch:
    """Choose the tokens of every sequence to predict, by the strategy `config.preset`, and corrupt them.

    The columns of a hardness shard go in as they are, and the loss is a sum over the slots divided by the number
    of filled ones, of all devices together:

        masked = mask_batch(
            ids, forward, backward, sequence_id, epoch, config=MaskingConfig(alpha=0.005), vocabulary=vocabulary
        )
        hidden = encoder(masked.input_ids)  # [B, L, K]
        hidden = hidden.gather(1, masked.positions[..., None].expand(-1, -1, hidden.shape[-1]))  # [B, S, K]
        nll = cross_entropy(head(hidden).flatten(0, 1), masked.targets.flatten(), reduction="none")
        loss = (nll * masked.weights.flatten()).sum() / masked.weights.sum()

    A pure function: a row's masks depend on its own values, sequence_id, epoch and config.seed, not on the rest of
    the batch, the device or earlier calls. A row with n tokens that are not special has rate * n of them masked,
    rounded to the nearest, halves up. Tensors have the same shape in every call: S = `slot_count(L, config)`.
    Call it outside torch.compile, which would trace the tables it keeps for each vocabulary and device.

    Args:
        input_ids: [B, L] int64, special tokens and padding included. L at most 8,192.
        perplexity_forward, perplexity_backward: [B, L] float32, finite and ≥ 0 (not checked); values at special
            tokens do not matter. `random` does not look at them.
        sequence_id: [B] int64, the same for the same sequence in every epoch.
        epoch: which pass over the data, an integer or [B] int64, 0 … 2^32-1.
        config: strategy, rate, shares and seed.
        vocabulary: size and special ids of the tokenizer.

    Returns:
        A MaskedBatch on the device of the input. No host sync but for constants in the first call.

    Raises:
        UserError: unknown preset, or alpha, rate or seed out of range.
        TypeError: perplexities that are not float32.
    """
    if config.preset not in STRATEGIES:
        raise UserError(
            f"there is no strategy {config.preset!r}",
            where="--masking.preset",
            mend=f"Choose one of {', '.join(STRATEGIES)}",
        )
    special, ordinary_ids = _tables(vocabulary, input_ids.device)
    maskable = ~special[input_ids]
    weights = STRATEGIES[config.preset](perplexity_forward, perplexity_backward, maskable, config)
    try:
        positions, filled = race(
            weights,
            maskable,
            rate_permille=_rate_permille(config),
            slots=slot_count(input_ids.shape[1], config),
            seed=config.seed,
            sequence_id=sequence_id,
            epoch=epoch,
        )
        corrupted, targets = corrupt_tokens(
            input_ids,
            positions,
            filled,
            mask_id=vocabulary.mask_id,
            ordinary_ids=ordinary_ids,
            mask_share=config.mask_share,
            random_share=config.random_share,
            seed=config.seed,
            sequence_id=sequence_id,
            epoch=epoch,
        )
    except ValueError as error:
        raise UserError(str(error), where="masking", mend="Give values within that range") from error
    return MaskedBatch(corrupted, positions, targets, filled.to(torch.float32))


def check_masking(config: MaskingConfig, length: int) -> None:
    """Refuse settings no batch of rows of `length` tokens can be masked with, before anything is spent on them."""
    row = torch.zeros(1, length)
    vocabulary = Vocabulary(size=2, mask_id=0, special_ids=())
    mask_batch(row.long() + 1, row, row, torch.zeros(1, dtype=torch.int64), 0, config=config, vocabulary=vocabulary)


def slot_count(length: int, config: MaskingConfig) -> int:
    """S of every batch of rows of `length` tokens: the masks of a row with <s>, </s> and no other special token.

    A row without any special token can be due one mask more; it gets S.
    """
    return mask_slots(max(length - 2, 0), _rate_permille(config))


def hardness(
    perplexity_forward: Tensor, perplexity_backward: Tensor, maskable: Tensor, config: MaskingConfig
) -> Tensor:
    """Chances proportional to normalised perplexity + alpha (Eq. 3 and 4 of the paper)."""
    try:
        return hardness_weights(perplexity_forward, perplexity_backward, maskable, alpha=config.alpha)
    except ValueError as error:
        raise UserError(str(error), where="--masking.alpha", mend="Give a share such as 0.005, or inf") from error


def random(
    _perplexity_forward: Tensor, _perplexity_backward: Tensor, maskable: Tensor, _config: MaskingConfig
) -> Tensor:
    """Equal chances; the same masks as hardness with alpha = inf."""
    return maskable.to(torch.int64)


Strategy = Callable[[Tensor, Tensor, Tensor, MaskingConfig], Tensor]
"""Perplexities [B, L] float32 twice, maskable [B, L] bool, settings -> integer weights [B, L] int64 for `race`."""

STRATEGIES: dict[str, Strategy] = {"hardness": hardness, "random": random}


def _rate_permille(config: MaskingConfig) -> int:
    permille = round(config.rate * 1000)
    if not 0 < permille < 1000:
        raise UserError(f"it is {config.rate}", where="--masking.rate", mend="Give a share of 0.001 to 0.999")
    return permille


@functools.cache
def _tables(vocabulary: Vocabulary, device: torch.device) -> tuple[Tensor, Tensor]:
    """Whether each id is special, [V] bool, and the ids that are not, [V'] int64."""
    special_ids = {vocabulary.mask_id, *vocabulary.special_ids}
    special = torch.tensor([token in special_ids for token in range(vocabulary.size)])
    return special.to(device), (~special).nonzero()[:, 0].to(device)
