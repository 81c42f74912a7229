"""Corruption: shares, what may be put in, and that nothing else changes."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch

from hardmask.kernels.corrupt_tokens import corrupt_tokens
from hardmask.kernels.philox import Purpose, keyed_words

MASK_ID = 4
ORDINARY = torch.tensor([id_ for id_ in range(50) if id_ not in (0, 1, 2, 3, MASK_ID)])


@pytest.fixture(params=["reference", "triton"])
def on(request):
    """The device of the Triton twin, or None for the reference on the CPU."""
    return None if request.param == "reference" else request.getfixturevalue("triton_device")


def corrupt(
    input_ids, positions, filled=None, *, mask_share=0.8, random_share=0.1, seed=1, epoch=0, sequence_id=None, on=None
):
    device = on or torch.device("cpu")
    filled = torch.ones_like(positions, dtype=torch.bool) if filled is None else filled
    corrupted, targets = corrupt_tokens(
        input_ids.to(device),
        positions.to(device),
        filled.to(device),
        mask_id=MASK_ID,
        ordinary_ids=ORDINARY.to(device),
        mask_share=mask_share,
        random_share=random_share,
        seed=seed,
        sequence_id=(torch.arange(input_ids.shape[0]) if sequence_id is None else sequence_id).to(device),
        epoch=epoch if isinstance(epoch, int) else epoch.to(device),
        implementation="triton" if on else "reference",
    )
    assert corrupted.is_contiguous()
    return corrupted.cpu(), targets.cpu()


def rows(count, length):
    return torch.randint(5, 50, (count, length), generator=torch.Generator().manual_seed(0))


def test_shares_and_replacements(on):
    ids = torch.full((200, 500), 7)
    corrupted, targets = corrupt(ids, torch.arange(500).expand(200, 500), on=on)
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
def test_whole_shares(on, mask_share, random_share, masked, kept):
    ids = rows(4, 100)
    corrupted, _ = corrupt(
        ids, torch.arange(100).expand(4, 100), mask_share=mask_share, random_share=random_share, on=on
    )
    assert (corrupted == MASK_ID).all() == masked
    assert torch.equal(corrupted, ids) == kept


def test_only_drawn_positions_change(on):
    ids = rows(8, 20)
    before = ids.clone()
    positions = torch.stack([torch.randperm(20)[:6] for _ in range(8)])
    filled = torch.arange(6) < torch.arange(8)[:, None].clamp_max(6)
    corrupted, targets = corrupt(ids, positions * filled, filled, mask_share=1.0, random_share=0.0, on=on)
    assert torch.equal(ids, before)
    assert corrupted.is_contiguous()
    for row in range(8):
        drawn = positions[row][filled[row]].tolist()
        assert corrupted[row, drawn].tolist() == [MASK_ID] * len(drawn)
        assert targets[row][filled[row]].tolist() == ids[row, drawn].tolist()
        assert not targets[row][~filled[row]].any()
        kept = [i for i in range(20) if i not in drawn]
        assert torch.equal(corrupted[row, kept], ids[row, kept])


def test_position_0_drawn_beside_spare_slots(on):
    ids = torch.full((1, 6), 9)
    filled = torch.tensor([[True, False, False]])
    corrupted, targets = corrupt(
        ids, torch.zeros(1, 3, dtype=torch.int64), filled, mask_share=1.0, random_share=0.0, on=on
    )
    assert corrupted.tolist() == [[MASK_ID, 9, 9, 9, 9, 9]]
    assert targets.tolist() == [[9, 0, 0]]


def test_a_token_depends_on_nothing_around_it(on):
    ids = rows(6, 30)
    whole, _ = corrupt(ids, torch.arange(30).expand(6, 30), on=on)
    part, targets = corrupt(ids[4:5], torch.tensor([[17, 3]]), sequence_id=torch.tensor([4]), on=on)
    assert part[0, [3, 17]].tolist() == whole[4, [3, 17]].tolist()
    assert targets.tolist() == [ids[4, [17, 3]].tolist()]


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 2}])
def test_epochs_and_seeds_differ(on, change):
    ids = rows(20, 100)
    positions = torch.arange(100).expand(20, 100)
    one, other = (corrupt(ids, positions, mask_share=0.5, **kind, on=on)[0] == MASK_ID for kind in ({}, change))
    assert abs(float((one == other).float().mean()) - 0.5) < 0.05


def test_no_slots(on):
    ids = rows(2, 5)
    corrupted, targets = corrupt(ids, torch.zeros(2, 0, dtype=torch.int64), on=on)
    assert torch.equal(corrupted, ids)
    assert targets.shape == (2, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": rows(3, 9)}, "input_ids"),
        ({"positions": torch.zeros(3, 5, dtype=torch.int64)}, "positions"),
        ({"positions": torch.zeros(5, dtype=torch.int64)}, "positions"),
        ({"filled": torch.ones(2, 4, dtype=torch.bool)}, "filled"),
        ({"sequence_id": torch.arange(1)}, "sequence_id"),
        ({"sequence_id": torch.tensor(1)}, "sequence_id"),
        ({"epoch": torch.arange(3)}, "epoch"),
    ],
)
def test_rows_that_do_not_agree(on, change, message):
    operands = {"input_ids": rows(2, 9), "positions": torch.arange(5).repeat(2, 1), "sequence_id": torch.arange(2)}
    operands["filled"] = torch.ones(2, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"{message}.* is needed|{message}.* are needed"):
        corrupt(**{**operands, **change}, on=on)
    corrupt(**operands, epoch=torch.arange(2), on=on)


@pytest.mark.parametrize(("mask_share", "random_share"), [(-0.1, 0.1), (0.8, 0.3), (0.1, -0.1)])
def test_no_such_shares(on, mask_share, random_share):
    with pytest.raises(ValueError, match="shares"):
        corrupt(
            rows(1, 4), torch.zeros(1, 1, dtype=torch.int64), mask_share=mask_share, random_share=random_share, on=on
        )


def test_shares_are_exact(on):
    """A word of random bits equal to the threshold is not below it."""
    positions = torch.arange(8)[None]
    word = keyed_words(1, Purpose.CORRUPTION, position=positions, sequence_id=torch.tensor([0]), epoch=0)[0]
    middle = int(word.sort().values[0, 3])
    ids = torch.full((1, 8), 1_000)
    corrupted, _ = corrupt(ids, positions, mask_share=middle / 2**32, random_share=0.0, on=on)
    assert torch.equal(corrupted == MASK_ID, word < middle)
    corrupted, _ = corrupt(ids, positions, mask_share=0.0, random_share=middle / 2**32, on=on)
    assert torch.equal(corrupted != 1_000, word < middle)


GOLDEN = {"corrupted": "e12a615218a09b4c", "targets": "ae77dbed515c4edc"}


def test_golden_corruption(on):
    """What is put in for a token must never change under a user's feet."""
    ids = torch.arange(4 * 512).reshape(4, 512) % 45 + 5
    positions = (torch.arange(77) * 37 % 512).repeat(4, 1)
    filled = torch.arange(77) < torch.tensor([77, 0, 1, 60])[:, None]
    sequence_id = torch.tensor([0, 1, 2**32, 2**62 + 12345])
    found = corrupt(ids, positions, filled, mask_share=0.4, random_share=0.4, seed=2**32 - 1, epoch=3,
                    sequence_id=sequence_id, on=on)  # fmt: skip
    hashes = [hashlib.sha256(x.numpy().astype("<i8").tobytes()).hexdigest()[:16] for x in found]
    assert dict(zip(("corrupted", "targets"), hashes, strict=True)) == GOLDEN
