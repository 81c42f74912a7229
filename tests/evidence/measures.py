"""What is measured on finished models and shards, with intervals over documents."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobs import Context
from material import EDGE, base_path, settings_of, update_flop
from scipy.stats import spearmanr
from torch import Tensor

from hardmask.pipeline.distributed import choose_device
from hardmask.pipeline.masking_config import MaskingConfig
from hardmask.pipeline.reader import Batch, spread_rows, to_batch
from hardmask.pipeline.runfolder import DIRECTIONS
from hardmask.pipeline.shard_folder import HELD_OUT, TRAIN, ShardFolder
from hardmask.pipeline.shards import Rows
from hardmask.pipeline.training import autocast
from hardmask.stage1_score.alm import load_alm
from hardmask.stage1_score.scorer import perplexities
from hardmask.stage2_pretrain.analysed_rows import content_of, nll_of
from hardmask.stage2_pretrain.masking import ALPHAS, Vocabulary, mask_batch
from hardmask.stage2_pretrain.mlm import MaskedTokens, load_mlm
from hardmask.stage2_pretrain.presets import resolved
from hardmask.stage2_pretrain.samplers import group_count

HARD = 0.15
RESAMPLES = 9_999
ROWS_A_PASS = 16
MASK_SEED = 2**32 - 4  # no training's
Interval = list[float]
"""[value, low, high], 95 %."""


# Rows, models and intervals


def held_out(context: Context) -> Rows:
    rows = spread_rows(context.run_folder().shards("hardness"), HELD_OUT, context.setting.rows)
    assert rows is not None, "a setting holds text out"
    return rows


def documents_of(rows: Rows) -> np.ndarray:
    """[N]: numbers from 0 of the rows' documents; a row counts to its first."""
    numbers: np.ndarray = np.unique(rows.document_id, return_inverse=True)[1]
    return numbers


def resampled_means(values: np.ndarray, weights: np.ndarray, documents: np.ndarray, seed: int = 0) -> np.ndarray:
    """[1 + RESAMPLES, F]: weighted means of [N, F] values over rows, of all documents and of resampled ones.

    `weights`: [N, F], such as how many tokens a row's value is the mean of.
    """
    count = documents.max() + 1
    above, below = (np.zeros((count, values.shape[1])) for _ in range(2))
    np.add.at(above, documents, values * weights)
    np.add.at(below, documents, weights)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    times = np.concatenate([np.ones((1, count)), drawn])
    result: np.ndarray = (times @ above) / np.maximum(times @ below, 1e-9)
    return result


def interval(values: np.ndarray) -> Interval:
    """Of [1 + RESAMPLES] values, the first that of all documents."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return [float(values[0]), float(low), float(high)]


def objective_of(context: Context, path: Path) -> MaskedTokens:
    """An encoder ready to be evaluated."""
    metadata = context.run_folder().shards("hardness").manifest["metadata"]
    device = choose_device(context.setting.device)
    return MaskedTokens(load_mlm(path, metadata, 0.0), metadata, MaskingConfig(preset="random")).to(device).eval()


def batch_of(context: Context, rows: Rows) -> Batch:
    return to_batch(rows, np.zeros(len(rows), dtype=np.int64), choose_device(context.setting.device))


@torch.inference_mode()
def slot_nats(objective: MaskedTokens, tensors: dict[str, Tensor]) -> np.ndarray:
    """[B, S] nats of the targets; 0 at spare slots."""
    found = []
    for start in range(0, len(tensors["weights"]), ROWS_A_PASS):
        part = {name: tensor[start : start + ROWS_A_PASS] for name, tensor in tensors.items()}
        weights = part["weights"]
        with autocast(weights.device):
            _, nll, _ = objective.slot_nll(
                part["input_ids"],
                part.get("attention_mask"),
                part["positions"],
                part["targets"].reshape(-1),
                weights.reshape(-1),
            )
        found.append((nll.float().view(weights.shape) * weights).cpu())
    return torch.cat(found).double().numpy()


def hardest(values: np.ndarray, content: np.ndarray) -> np.ndarray:
    """[N, L] bool: of each row the hardest 15 % of its content, by value; ties as they stand."""
    counts = np.maximum(1, np.rint(content.sum(1) * HARD)).astype(np.int64)
    order = np.argsort(np.where(content, -values, np.inf), axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(order.shape[1])[None].repeat(len(order), 0), axis=1)
    return content & (rank < counts[:, None])


def overlap(one: np.ndarray, other: np.ndarray, documents: np.ndarray) -> Interval:
    """Share of the positions of one set, [N, L] bool, that the other has too."""
    size = one.sum(1, keepdims=True).astype(np.float64)
    shared = (one & other).sum(1, keepdims=True) / np.maximum(size, 1)
    return interval(resampled_means(shared, size, documents)[:, 0])


# 1


def curve(context: Context, size: str) -> dict[str, Any]:
    """Loss of random-mask encoders on masks of each α, mean over the bases, and its ratio to uniform masks."""
    rows = held_out(context)
    batch, documents = batch_of(context, rows), documents_of(rows)
    sums, counts = (np.zeros((len(rows), len(ALPHAS))) for _ in range(2))
    bases = []
    for seed in range(context.setting.bases):
        objective = objective_of(context, base_path(context, size, seed))
        mine = np.zeros_like(sums)
        for number, alpha in enumerate(ALPHAS):
            masking = MaskingConfig(preset="hardness", alpha=alpha, seed=MASK_SEED)
            tensors = objective.prepare(batch, masking)
            mine[:, number] = slot_nats(objective, tensors).sum(1)
            counts[:, number] += tensors["weights"].sum(1).cpu().numpy()
        sums += mine
        bases.append(np.exp(mine.sum(0) / (counts.sum(0) / (seed + 1))).tolist())
    losses = resampled_means(sums / np.maximum(counts, 1), counts, documents)
    uniform = losses[:, -1:]
    rises = [interval(losses[:, n + 1] - losses[:, n]) for n in range(len(ALPHAS) - 1)]
    return {
        "alphas": ["inf" if math.isinf(alpha) else alpha for alpha in ALPHAS],
        "perplexity": [interval(np.exp(losses[:, n])) for n in range(len(ALPHAS))],
        "ratio": [interval(np.exp(losses - uniform)[:, n]) for n in range(len(ALPHAS))],
        "rise_nats": rises,
        "perplexity_of_bases": bases,
        "documents": int(documents.max()) + 1,
        "sequences": len(rows),
    }


# 2


def mlm_hardness(objective: MaskedTokens, batch: Batch) -> np.ndarray:
    """[N, L] nats of every token under the encoder, each masked in one of seven disjoint rounds, as <mask>."""
    masking = MaskingConfig(preset="fully-explored", mask_share=1.0, random_share=0.0, seed=MASK_SEED)
    rounds = group_count(resolved(masking))
    tensors = objective.prepare(batch, masking)
    nats, weights, positions = slot_nats(objective, tensors), tensors["weights"].cpu(), tensors["positions"].cpu()
    values = np.zeros(tuple(batch.input_ids.shape))
    row, slot = (index.numpy() for index in weights.nonzero(as_tuple=True))
    values[row // rounds, positions.numpy()[row, slot]] = nats[row, slot]
    return values


def agreement(context: Context) -> dict[str, Any]:
    """The ALM's hardness against the encoders' own, with token frequency and another encoder beside it; and costs."""
    rows = held_out(context)
    shards = context.run_folder().shards("hardness")
    batch, documents = batch_of(context, rows), documents_of(rows)
    content = content_of(rows, shards.manifest["metadata"])
    alm = alm_nats(rows)
    rare = -frequencies(shards)[rows.input_ids]
    encoders = [
        mlm_hardness(objective_of(context, base_path(context, "small", seed)), batch)
        for seed in range(context.setting.bases)
    ]
    others = {
        "ALM": [alm] * len(encoders),
        "frequency": [rare] * len(encoders),
        "encoder of another seed": [*encoders[1:], encoders[0]],
    }
    found = {}
    for name, several in others.items():
        shares, sizes = [], []
        for other, own in zip(several, encoders, strict=True):
            one = hardest(own, content)
            shares.append((one & hardest(other, content)).sum(1) / np.maximum(one.sum(1), 1))
            sizes.append(one.sum(1))
        values, weights = np.mean(shares, 0)[:, None], np.mean(sizes, 0)[:, None]
        ranks = [spearmanr(o[content], own[content]).statistic for o, own in zip(several, encoders, strict=True)]
        found[name] = {
            "overlap": interval(resampled_means(values, weights, documents)[:, 0]),
            "spearman": float(np.mean(ranks)),
            "spearman_of_bases": [float(rank) for rank in ranks],
        }
    shares = [
        np.stack([(hardest(e, content) & hardest(o, content)).sum(1) / np.maximum(hardest(e, content).sum(1), 1)
                  for o in (alm, rare)], axis=1)
        for e in encoders
    ]  # fmt: skip
    both = resampled_means(np.mean(shares, 0), np.ones((len(rows), 2)), documents)
    return {
        "against": found,
        "alm_minus_frequency": interval(both[:, 0] - both[:, 1]),
        "costs": costs(context),
        "sequences": len(rows),
        "tokens": int(content.sum()),
    }


def costs(context: Context) -> dict[str, Any]:
    """FLOP and seconds of scoring all text either way; training of the scorer apart."""
    setting, folder = context.setting, context.run_folder()
    trained = [context.result(f"alm.whole.{direction}") for direction in DIRECTIONS]
    scored, base = context.result("hardness"), context.result("base.small.0")
    rounds = group_count(resolved(MaskingConfig(preset="fully-explored")))
    passes = scored["sequences"] / setting.mlm.batch_sequences * rounds / 3  # a forward pass is a third of an update
    return {
        "alm_training_flop": sum(one["flop"] for one in trained),
        "alm_training_seconds": sum(one["seconds"] for one in trained),
        "alm_scoring_flop": scored["flop"],
        "alm_scoring_seconds": scored["seconds"],
        "mlm_training_flop": base["flop"],
        "mlm_training_seconds": base["seconds"],
        "mlm_scoring_flop": passes * update_flop(setting.mlm, folder),
        "rounds": rounds,
    }


def alm_nats(rows: Rows) -> np.ndarray:
    """[N, L] mean nats of both directions, from stored perplexities."""
    assert rows.perplexity_forward is not None
    assert rows.perplexity_backward is not None
    mean: np.ndarray = (nll_of(rows.perplexity_forward) + nll_of(rows.perplexity_backward)) / 2
    return mean


def frequencies(shards: ShardFolder) -> np.ndarray:
    """[V] occurrences of every token id in the training rows."""
    counts = np.zeros(shards.manifest["metadata"]["vocabulary"], dtype=np.int64)
    for unit, _ in shards.units(TRAIN):
        for rows in shards.read_unit(unit):
            counts += np.bincount(rows.input_ids.reshape(-1), minlength=len(counts))
    return counts


# 3a and the edges


def concentration(context: Context) -> dict[str, Any]:
    """Share of P that a sequence's hardest positions hold, and how much of the masks falls on its ends."""
    shards = context.run_folder().shards("hardness")
    rows = spread_rows(shards, TRAIN, 2_000)
    assert rows is not None
    metadata = shards.manifest["metadata"]
    content, documents = content_of(rows, metadata), documents_of(rows)
    assert rows.perplexity_forward is not None
    assert rows.perplexity_backward is not None
    p = np.where(content, rows.perplexity_forward.astype(np.float64) + rows.perplexity_backward, 0.0)
    p /= p.sum(1, keepdims=True)
    held = np.where(hardest(p, content), p, 0.0).sum(1, keepdims=True)
    found: dict[str, Any] = {
        "hardest_15_percent": interval(resampled_means(held, np.ones_like(held), documents)[:, 0]),
        "cumulative": [],
    }
    ranked = np.sort(p, axis=1)[:, ::-1].cumsum(1).mean(0)
    shares = np.arange(1, p.shape[1] + 1) / (p.shape[1] - 2)
    found["cumulative"] = [[round(float(s), 4), round(float(v), 5)] for s, v in zip(shares, ranked, strict=True)][:-2]
    place = np.arange(p.shape[1])
    ends = content & ((place <= EDGE) | (place >= rows.length[:, None].astype(np.int64) - 1 - EDGE))
    found["ends"] = {}
    for name, alpha in (("hardness, α 0", 0.0), ("hardness, α 0.005", 0.005), ("random", math.inf)):
        masked = drawn(context, rows, MaskingConfig(preset="hardness", alpha=alpha, seed=MASK_SEED))
        of_ends = (masked & ends).sum() / ends.sum()
        found["ends"][name] = float(of_ends / ((masked & content & ~ends).sum() / (content & ~ends).sum()))
    found["sequences"] = len(rows)
    return found


def drawn(context: Context, rows: Rows, masking: MaskingConfig, *, epoch: int = 0) -> np.ndarray:
    """[N, L] bool: positions masked, from the perplexities of the rows."""
    metadata = tokens_metadata(context)
    batch = to_batch(rows, np.full(len(rows), epoch, dtype=np.int64), torch.device("cpu"))
    assert batch.perplexity_forward is not None
    assert batch.perplexity_backward is not None
    vocabulary = Vocabulary(
        size=metadata["vocabulary"], mask_id=metadata["mask"], special_ids=tuple(metadata["special_ids"])
    )
    masked = mask_batch(
        batch.input_ids,
        batch.perplexity_forward,
        batch.perplexity_backward,
        batch.sequence_id,
        batch.epoch,
        config=masking,
        vocabulary=vocabulary,
    )
    counts = torch.zeros(batch.input_ids.shape).scatter_add_(1, masked.positions, masked.weights)
    result: np.ndarray = (counts > 0).numpy()
    return result


# 3c and 6


def scored(context: Context, part: str, rows: Rows) -> Rows:
    """The rows with perplexities of the LM pair of a part."""
    folder = context.run_folder(part)
    metadata = context.run_folder().shards("tokens").manifest["metadata"]
    device = choose_device(context.setting.device)
    special = torch.zeros(metadata["vocabulary"], dtype=torch.bool)
    special[metadata["special_ids"]] = True
    both = [
        perplexities(load_alm(folder.alm(direction), metadata, direction, device), rows, direction, special.to(device))
        for direction in DIRECTIONS
    ]
    return dataclasses.replace(rows, perplexity_forward=both[0], perplexity_backward=both[1])


def rows_of(context: Context, part: str) -> Rows:
    """Rows of the half of the documents that a part is trained on."""
    rows = spread_rows(context.run_folder(part).shards("tokens"), TRAIN, context.setting.rows)
    assert rows is not None
    return rows


def masks_at(context: Context, rows: Rows) -> np.ndarray:
    masking = MaskingConfig(preset="hardness", alpha=context.setting.masks_alpha, seed=MASK_SEED)
    return drawn(context, rows, masking)


def depth(context: Context) -> dict[str, Any]:
    """A shallow ALM against a deeper one, and that against one of another seed, on text none of them has seen."""
    rows = rows_of(context, "half-b")
    content, documents = content_of(rows, tokens_metadata(context)), documents_of(rows)
    deep, again, shallow = (scored(context, part, rows) for part in ("half-a", "half-a-again", "half-a-shallow"))
    found = {
        name: {
            "hardest": overlap(hardest(alm_nats(deep), content), hardest(alm_nats(other), content), documents),
            "masks": overlap(masks_at(context, deep), masks_at(context, other), documents),
        }
        for name, other in (("shallow", shallow), ("another seed", again))
    }
    nats = {name: float(alm_nats(of)[content].mean()) for name, of in (("deep", deep), ("shallow", shallow))}
    layers = [settings_of(context, part).alm.layers for part in ("half-a", "half-a-shallow")]
    return {**found, "nats": nats, "layers": layers, "sequences": len(rows)}


def in_sample(context: Context) -> dict[str, Any]:
    """What a document's hardness loses where the ALM was trained on it, and how many masks that changes."""
    pairs = {"half-a": ("half-a", "half-b", "half-a-again"), "half-b": ("half-b", "half-a", None)}
    found: dict[str, Any] = {}
    for half, (seen_by, unseen_by, again) in pairs.items():
        rows = rows_of(context, half)
        content, documents = content_of(rows, tokens_metadata(context)), documents_of(rows)
        seen, unseen = scored(context, seen_by, rows), scored(context, unseen_by, rows)
        count = content.sum(1, keepdims=True).astype(np.float64)
        gap = ((alm_nats(unseen) - alm_nats(seen)) * content).sum(1, keepdims=True) / np.maximum(count, 1)
        masks = [masks_at(context, one) for one in (seen, unseen)]
        found[half] = {
            "gap_nats": interval(resampled_means(gap, count, documents)[:, 0]),
            "nats_seen": float(alm_nats(seen)[content].mean()),
            "masks_differ": _differ(masks[0], masks[1], documents),
        }
        if again:
            other = masks_at(context, scored(context, again, rows))
            found[half]["masks_differ_between_seeds"] = _differ(masks[0], other, documents)
            found[half]["more"] = _more(masks[0], masks[1], other, documents)
    return {**found, "epochs": context.setting.alm.epochs, "sequences": context.setting.rows}


def _differ(one: np.ndarray, other: np.ndarray, documents: np.ndarray) -> Interval:
    """Share of the positions of one set that the other has not."""
    value, low, high = overlap(one, other, documents)
    return [1 - value, 1 - high, 1 - low]


def _more(seen: np.ndarray, unseen: np.ndarray, again: np.ndarray, documents: np.ndarray) -> Interval:
    """How much more of a mask differs from an LM that has not seen the text than from one that has, as a share."""
    size = np.maximum(seen.sum(1), 1).astype(np.float64)
    values = np.stack([1 - (seen & other).sum(1) / size for other in (unseen, again)], axis=1)
    means = resampled_means(values, np.stack([size, size], axis=1), documents)
    return interval(means[:, 0] - means[:, 1])


def tokens_metadata(context: Context) -> dict[str, Any]:
    metadata: dict[str, Any] = context.run_folder().shards("tokens").manifest["metadata"]
    return metadata
