"""The `score` stage: how hard is each token, from both directions, into hardness shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardmask.pipeline import distributed, shards
from hardmask.pipeline.config import Run, as_json
from hardmask.pipeline.errors import UserError
from hardmask.pipeline.progress import bar
from hardmask.pipeline.runfolder import DIRECTIONS, RunFolder, Stage, weights_digest
from hardmask.pipeline.shard_folder import ShardFolder
from hardmask.pipeline.shards import Rows, round_to_8_bits
from hardmask.pipeline.training import autocast
from hardmask.stage1_score.alm import fingerprint, load_alm, token_nll_of_rows
from hardmask.stage1_score.packed import pack

# CPU: two cores, torch 2.13, packed layers; 2 sequences of 512 at once took 0.93 of the time of one, 4 took 0.95.
# CUDA: 33 sequences of 512, a token for each row of a tile on an H200 of 132 multiprocessors; not measured.
BATCH_TOKENS = {"cpu": 1_024, "cuda": 16_896}


def score(run: Run, folder: RunFolder) -> None:
    """Score every unit of `tokens/` into `hardness/`; units that are committed are kept."""
    tokens, target = folder.shards("tokens"), folder.shards("hardness")
    places = {d: getattr(run.alm, d) or str(folder.alm(d)) for d in DIRECTIONS}
    weights = {d: weights_digest(Path(places[d])) for d in DIRECTIONS}
    settings = {"tokens": tokens.manifest["fingerprint"], "alm": as_json(run.alm), "alm_weights": weights}
    stage = Stage(folder.hardness, settings)
    if stage.finished and target.finished:
        return
    device = distributed.choose_device(run.device)
    models = {d: load_alm(places[d], tokens.manifest["metadata"], d, device) for d in DIRECTIONS}
    metadata = {
        **tokens.manifest["metadata"],
        "kind": "hardness",
        "alm_forward": fingerprint(models["forward"]),
        "alm_backward": fingerprint(models["backward"]),
    }
    if device.type == "cpu":
        for model in models.values():  # after their fingerprints: packed weights have no plain form
            pack(model, run.score.batch_tokens or BATCH_TOKENS["cpu"])
    target.begin(metadata)
    stage.begin()
    planned = tokens.manifest["units"]
    total = sum(unit["sequences"] for unit in planned) * metadata["sequence_length"]
    with bar("score", total, quiet=run.quiet) as progress:
        for unit in planned:
            number = unit["unit"]
            counts = {k: unit[k] for k in ("split", "documents", "text_bytes", "replaced_characters", "first_document")}
            if target.settle(number, metadata, counts) is None:
                scored = _scored_batches(run, tokens, number, models, metadata, device, progress)
                record = target.write_unit(number, scored, metadata, counts)
                stage.log(unit=number, tokens=record["tokens"], clamped=record["clamped"], seconds=stage.seconds())
                continue
            progress.update(unit["sequences"] * metadata["sequence_length"])
    manifest = target.finish([unit["unit"] for unit in planned], metadata)
    if manifest["totals"]["tokens"] != tokens.manifest["totals"]["tokens"]:
        raise AssertionError("scored tokens differ from the tokens there are")
    stage.finish(**manifest["totals"])


def _scored_batches(
    run: Run,
    tokens: ShardFolder,
    unit: int,
    models: dict[str, Any],
    metadata: dict[str, Any],
    device: Any,
    progress: Any,
) -> Iterator[Rows]:
    """The record batches of a unit with both perplexities filled in."""
    special = torch.zeros(metadata["vocabulary"], dtype=torch.bool)
    special[metadata["special_ids"]] = True
    special = special.to(device)
    for rows in tokens.read_unit(unit):
        columns = {}
        for direction, model in models.items():
            columns[direction] = perplexities(
                model, rows, direction, special, batch_tokens=run.score.batch_tokens, where=tokens.where(unit)
            )
        rows.perplexity_forward, rows.perplexity_backward = columns["forward"], columns["backward"]
        progress.update(rows.input_ids.size)
        yield rows


@torch.inference_mode()
def perplexities(
    model: Any, rows: Rows, direction: str, special: Tensor, *, batch_tokens: int = 0, where: Path | str = ""
) -> np.ndarray:
    """[N, L] float32: 1/p of every content token given its context in the direction, 0 at the other positions.

    NLL is clamped to [0, 88] nats and the result rounded to 8 mantissa bits. NaN and infinite logits are refused.
    """
    device = special.device
    length = rows.input_ids.shape[1]
    per_pass = max(1, (batch_tokens or BATCH_TOKENS[device.type]) // length)
    out = np.empty(rows.input_ids.shape, dtype=np.float32)
    for start in range(0, len(rows), per_pass):
        part = slice(start, start + per_pass)
        ids = torch.from_numpy(rows.input_ids[part].astype(np.int64)).to(device)
        lengths = torch.from_numpy(rows.length[part].astype(np.int64)).to(device)
        with autocast(device):
            nll = token_nll_of_rows(model, ids, lengths, direction)
        if not bool(torch.isfinite(nll).all()):
            raise UserError(
                f"the {direction} LM gave NaN or infinite logits for sequence {rows.sequence_id[start]} or one of the "
                f"{len(ids) - 1} behind it",
                where=where,
                mend="Train the LM with a lower learning rate, or give another one",
            )
        content = ~special[ids] & (torch.arange(length, device=device) < lengths[:, None])
        values = nll.clamp(0.0, shards.NLL_LIMIT).exp().where(content, 0.0)
        out[part] = values.cpu().numpy()
    return round_to_8_bits(out)
