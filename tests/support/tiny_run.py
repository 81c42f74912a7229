"""The smallest run that goes through every stage, on a corpus made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SIZES = [
    "--device", "cpu", "--tokenizer.vocabulary", "300", "--tokens.sequence-length", "32", "--tokens.held-out", "0.1",
    "--tokens.unit-bytes", "16000",
    "--alm.layers", "1", "--alm.width", "16", "--alm.heads", "2", "--alm.ffn", "16", "--alm.steps", "10",
    "--alm.batch-sequences", "8", "--alm.checkpoint-steps", "3", "--alm.eval-steps", "4", "--alm.dropout", "0.1",
    "--alm.eval-sequences", "8",
    "--mlm.layers", "1", "--mlm.width", "16", "--mlm.heads", "2", "--mlm.ffn", "16", "--mlm.steps", "8",
    "--mlm.batch-sequences", "8", "--mlm.checkpoint-steps", "2", "--mlm.eval-steps", "3", "--mlm.dropout", "0.1",
    "--mlm.eval-sequences", "8",
]  # fmt: skip
GLUE = [
    "--glue.probe-rows", "100", "--glue.tasks", "word-order", "source", "--glue.lr", "3e-4", "--glue.seeds", "0", "1",
    "--glue.epochs", "1", "--glue.max-tokens", "32",
]  # fmt: skip
SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "sa", "to", "ve", "wi", "zu")


def write_corpus(folder: Path, size: int = 100_000) -> list[str]:
    """Two text files of documents between blank lines, `size` bytes in all; returns their paths."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(SYLLABLES, size=rng.integers(1, 4))) for _ in range(400)]
    paths = []
    for name in ("first", "second"):
        documents, used = [], 0
        while used < size // 2:
            sentences = [" ".join(rng.choice(words, size=8)).capitalize() + "." for _ in range(rng.integers(2, 9))]
            documents.append(" ".join(sentences))
            used += len(documents[-1]) + 2
        path = folder / f"{name}.txt"
        path.write_text("\n\n".join(documents) + "\n")
        paths.append(str(path))
    return paths
