"""Two gloo processes train on the same data and masks as one, to the same weights but for rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import synthetic
import torch
from safetensors.torch import load_file

PROGRAM = """
import dataclasses, json, sys
from pathlib import Path
import torch
from hardmask.pipeline.config import MlmConfig, Run
from hardmask.pipeline.distributed import start
from hardmask.pipeline.runfolder import RunFolder
from hardmask.stage2_pretrain import mlm, pretrain

out, log = Path(sys.argv[1]), Path(sys.argv[2])
prepare = mlm.MaskedTokens.prepare
def logged(self, batch, masking=None):
    masked = prepare(self, batch, masking)
    if masking is None:
        rank = start("cpu").rank
        steps = self.__dict__.setdefault("steps", [])
        steps.append(1)
        with open(log / f"rank-{rank}.jsonl", "a") as file:
            for i in range(len(batch)):
                file.write(json.dumps([len(steps), int(batch.sequence_id[i]), int(batch.epoch[i]),
                                       masked["positions"][i].tolist(), masked["input_ids"][i].tolist()]) + "\\n")
    return masked
mlm.MaskedTokens.prepare = logged
pretrain.analyse = lambda run, folder: None
config = MlmConfig(name="one", init="scratch", layers=1, width=16, heads=2, ffn=16, steps=5, batch_sequences=8,
                   micro_sequences=2, lr=1e-3, dropout=0.0, eval_sequences=8)
pretrain.pretrain(Run(device="cpu", quiet=True, mlm=config), RunFolder(out))
"""


def run(tmp_path, name, processes):
    folder = tmp_path / name
    synthetic.write_folder(folder / "hardness", "hardness", units=1, documents=60)
    synthetic_tokenizer(folder / "tokenizer")
    log = tmp_path / f"log-{name}"
    log.mkdir()
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launch = [sys.executable]
    if processes > 1:
        launch += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*launch, str(program), str(folder), str(log)],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [json.loads(line) for path in sorted(log.iterdir()) for line in path.read_text().splitlines()]
    weights = load_file(folder / "mlm/one/model.safetensors")
    lines = (folder / "mlm/one/training/metrics.jsonl").read_text().splitlines()
    norms = [json.loads(line)["gradient_norm"] for line in lines if "gradient_norm" in line]
    return seen, weights, norms


def synthetic_tokenizer(path):
    from hardmask.pipeline.tokenizer import train_tokenizer

    path.mkdir(parents=True)
    train_tokenizer(iter(["some text to learn from"]), 261).save(path)


@pytest.mark.slow
def test_two_processes_see_the_data_and_masks_of_one(tmp_path):
    seen_1, weights_1, norms_1 = run(tmp_path, "one", 1)
    seen_2, weights_2, norms_2 = run(tmp_path, "two", 2)
    assert len(seen_1) == 5 * 8
    assert sorted(map(json.dumps, seen_1)) == sorted(map(json.dumps, seen_2))
    for name, tensor in weights_1.items():
        assert torch.allclose(tensor, weights_2[name], atol=1e-5), name
    assert len(norms_1) == 5
    assert norms_1 == pytest.approx(norms_2, rel=1e-4), "Adam would hide gradients of another scale"
