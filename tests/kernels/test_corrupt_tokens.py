"""Corruption: shares, what may be put in, and that nothing else changes."""

from __future__ import annotations

import math

import pytest
import torch

from hardmask.kernels.corrupt_tokens import corrupt_tokens

MASK_ID = 4
ORDINARY = torch.tensor([id_ for id_ in range(50) if id_ not in (0, 1, 2, 3, MASK_ID)])


def corrupt(input_ids, positions, filled=None, *, mask_share=0.8, random_share=0.1, seed=1, epoch=0, sequence_id=None):
    return corrupt_tokens(
        input_ids,
        positions,
        torch.ones_like(positions, dtype=torch.bool) if filled is None else filled,
        mask_id=MASK_ID,
        ordinary_ids=ORDINARY,
        mask_share=mask_share,
        random_share=random_share,
        seed=seed,
        sequence_id=torch.arange(input_ids.shape[0]) if sequence_id is None else sequence_id,
        epoch=epoch,
    )


def rows(count, length):
    return torch.randint(5, 50, (count, length), generator=torch.Generator().manual_seed(0))


def test_shares_and_replacements():
    ids = torch.full((200, 500), 7)
    corrupted, targets = corrupt(ids, torch.arange(500).expand(200, 500))
    total = 100_000
    assert (targets == 7).all()
    for found, share in (
        (corrupted == MASK_ID, 0.8),
        (corrupted == 7, 0.1 + 0.1 / 45),
        ((corrupted != MASK_ID) & (corrupted != 7), 0.1 * 44 / 45),
    ):
        assert abs(float(found.sum()) - share * total) < 4 * math.sqrt(share * (1 - share) * total)
    put_in = torch.bincount(corrupted.flatten(), minlength=50)
    assert not put_in[:4].any()
    others = torch.cat([put_in[5:7], put_in[8:]]).double()  # 44 ids, about 222 each
    assert ((others - others.mean()) ** 2 / others.mean()).sum() < 43 + 4 * math.sqrt(86)


@pytest.mark.parametrize(
    ("mask_share", "random_share", "masked", "kept"), [(1.0, 0.0, True, False), (0.0, 0.0, False, True)]
)
def test_whole_shares(mask_share, random_share, masked, kept):
    ids = rows(4, 100)
    corrupted, _ = corrupt(ids, torch.arange(100).expand(4, 100), mask_share=mask_share, random_share=random_share)
    assert (corrupted == MASK_ID).all() == masked
    assert torch.equal(corrupted, ids) == kept


def test_only_drawn_positions_change():
    ids = rows(8, 20)
    before = ids.clone()
    positions = torch.stack([torch.randperm(20)[:6] for _ in range(8)])
    filled = torch.arange(6) < torch.arange(8)[:, None].clamp_max(6)
    corrupted, targets = corrupt(ids, positions * filled, filled, mask_share=1.0, random_share=0.0)
    assert torch.equal(ids, before)
    assert corrupted.is_contiguous()
    for row in range(8):
        drawn = positions[row][filled[row]].tolist()
        assert corrupted[row, drawn].tolist() == [MASK_ID] * len(drawn)
        assert targets[row][filled[row]].tolist() == ids[row, drawn].tolist()
        assert not targets[row][~filled[row]].any()
        kept = [i for i in range(20) if i not in drawn]
        assert torch.equal(corrupted[row, kept], ids[row, kept])


def test_position_0_drawn_beside_spare_slots():
    ids = torch.full((1, 6), 9)
    filled = torch.tensor([[True, False, False]])
    corrupted, targets = corrupt(ids, torch.zeros(1, 3, dtype=torch.int64), filled, mask_share=1.0, random_share=0.0)
    assert corrupted.tolist() == [[MASK_ID, 9, 9, 9, 9, 9]]
    assert targets.tolist() == [[9, 0, 0]]


def test_a_token_depends_on_nothing_around_it():
    ids = rows(6, 30)
    whole, _ = corrupt(ids, torch.arange(30).expand(6, 30))
    part, targets = corrupt(ids[4:5], torch.tensor([[17, 3]]), sequence_id=torch.tensor([4]))
    assert part[0, [3, 17]].tolist() == whole[4, [3, 17]].tolist()
    assert targets.tolist() == [ids[4, [17, 3]].tolist()]


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 2}])
def test_epochs_and_seeds_differ(change):
    ids = rows(20, 100)
    positions = torch.arange(100).expand(20, 100)
    one, other = (corrupt(ids, positions, mask_share=0.5, **kind)[0] == MASK_ID for kind in ({}, change))
    assert abs(float((one == other).float().mean()) - 0.5) < 0.05


def test_no_slots():
    ids = rows(2, 5)
    corrupted, targets = corrupt(ids, torch.zeros(2, 0, dtype=torch.int64))
    assert torch.equal(corrupted, ids)
    assert targets.shape == (2, 0)


@pytest.mark.parametrize(("mask_share", "random_share"), [(-0.1, 0.1), (0.8, 0.3), (0.1, -0.1)])
def test_no_such_shares(mask_share, random_share):
    with pytest.raises(ValueError, match="shares"):
        corrupt(rows(1, 4), torch.zeros(1, 1, dtype=torch.int64), mask_share=mask_share, random_share=random_share)
