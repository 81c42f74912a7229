"""Which words of a row stand together: entries of a vocabulary of n-grams, found and chosen so that none overlap.

Where entries overlap, the longest wins; of equally long ones a keyed draw by sequence and position decides, so that no
side is preferred and a row is cut the same way each time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from hardmask.pipeline.shards import Rows
from hardmask.stage2_pretrain.ngram_counts import KeyTable, mix
from hardmask.stage2_pretrain.word_runs import WordReader, WordRuns

POSITION_BITS = 13  # of at most 8,192 positions


class Segmenter:
    """Cuts rows into units by a vocabulary that `collocations` wrote."""

    def __init__(self, vocabulary: Path, reader: WordReader) -> None:
        self.reader = reader
        with pa.memory_map(str(vocabulary)) as file:
            table = pa.ipc.open_file(file).read_all()
            lengths = table.column("words").to_numpy()
            flat = table.column("keys").combine_chunks().flatten().to_numpy()
        ends = np.cumsum(lengths, dtype=np.int64)
        self.tables: dict[int, KeyTable] = {}
        for words in np.unique(lengths)[::-1].tolist():
            rows = np.flatnonzero(lengths == words)
            keys = flat[(ends[rows] - words)[:, None] + np.arange(words)]
            self.tables[words] = KeyTable(np.unique(entry_key(keys)))

    def mark(self, rows: Rows) -> np.ndarray:
        """[N, L] uint8: 1 where a unit begins, which is a chosen entry or a word outside of them."""
        runs = self.reader.read(rows.input_ids)
        marks = np.zeros(rows.input_ids.shape, dtype=np.uint8)
        marks.reshape(-1)[runs.first[~self.inner(runs, rows)]] = 1
        return marks

    def inner(self, runs: WordRuns, rows: Rows) -> np.ndarray:
        """[W] bool: the word belongs to a chosen entry and is not its first."""
        row, position = np.divmod(runs.first, rows.input_ids.shape[1])
        draw = mix((rows.sequence_id[row].astype(np.uint64) << np.uint64(POSITION_BITS)) | position.astype(np.uint64))
        taken = np.zeros(len(runs.key), dtype=bool)
        inner = np.zeros(len(runs.key), dtype=bool)
        for words, table in self.tables.items():
            at = _free(_matches(runs, table, words), taken, words)
            while len(at):
                chosen = at[_winners(at, draw[at], words)]
                for gap in range(words):
                    taken[chosen + gap] = True
                    inner[chosen + gap] = gap > 0
                at = _free(at, taken, words)
        return inner


def entry_key(keys: np.ndarray) -> np.ndarray:
    """A key for n words in order: [..., n] uint64 -> [...] uint64."""
    factors = mix(np.arange(1, keys.shape[-1] + 1, dtype=np.uint64)) | np.uint64(1)
    return mix((keys * factors).sum(axis=-1, dtype=np.uint64))


def _matches(runs: WordRuns, table: KeyTable, words: int) -> np.ndarray:
    """Words at which an entry of so many words begins, int64 ascending."""
    starts = max(0, len(runs.key) - words + 1)
    whole = np.ones(starts, dtype=bool)
    for gap in range(words - 1):
        whole &= runs.joined[gap : gap + starts]
    at = np.flatnonzero(whole)
    return at[table.find(entry_key(runs.key[at[:, None] + np.arange(words)])) >= 0]


def _free(at: np.ndarray, taken: np.ndarray, words: int) -> np.ndarray:
    """Matches none of whose words is taken."""
    return at[~taken[at[:, None] + np.arange(words)].any(axis=1)]


def _winners(at: np.ndarray, draw: np.ndarray, words: int) -> np.ndarray:
    """[matches] bool: no overlapping match has a higher draw, nor the same one further left."""
    wins = np.ones(len(at), dtype=bool)
    for step in range(1, words):
        near = at[step:] - at[:-step] < words
        higher = draw[step:] > draw[:-step]
        wins[:-step] &= ~(near & higher)
        wins[step:] &= ~near | higher
    return wins
