"""Is there room for what is to be written: asked before the work, and told apart from other errors behind it."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from hardmask.pipeline.errors import UserError

MARGIN = 1.1  # estimates come from samples
IDS_BYTES = 1.75  # of a token's id in a shard, behind zstd: 1.6 to 1.8 (English, BPE of 4,096 to 50,265 entries)
HARDNESS_BYTES = 4.25  # of a token's two perplexities behind zstd: 4.0 to 4.3
ROW_BYTES = 20  # of a row's other columns
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "StorageFull")


def require_free(place: Path | str, needed_bytes: float, what: str) -> None:
    """Refuse work whose files, `needed_bytes` and a margin, do not fit where `place` lies.

    `place` need not exist yet. Behind a URL nobody can tell, so nothing is refused.
    """
    if "://" in str(place):
        return
    free, needed = free_bytes(place), needed_bytes * MARGIN
    if needed > free:
        raise UserError(
            f"{what} would take about {gigabytes(needed)} and {gigabytes(free)} are free",
            where=place,
            mend="Free space there, or give --out on a larger disk, or a --store for the shards",
        )


def free_bytes(place: Path | str) -> int:
    """Bytes free on the file system of a path that need not exist yet."""
    folder = Path(place).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def gigabytes(count: float) -> str:
    """Bytes in words, with three digits: 0.00123 GB, 12.3 GB, 1,230 GB."""
    value = count / 1e9
    return f"{value:,.0f} GB" if value >= 100 else f"{value:.3g} GB"


def hardness_bytes(tokens: int, positions: int, *, sequence_length: int = 512) -> float:
    """Bytes of hardness shards over `tokens` content tokens in rows of `positions` positions in all."""
    return tokens * (IDS_BYTES + HARDNESS_BYTES) + positions / sequence_length * ROW_BYTES


def checkpoint_bytes(parameters: float, keep: int) -> float:
    """Bytes a training takes: fp32 weights and two moments `keep` times, once more while one is written; the model."""
    return parameters * (12 * (keep + 1) + 4)


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or the one behind it, says that a disk, a quota or a file's size limit is used up."""
    while error is not None:
        # safetensors and tokenizers raise their own kinds, in which only the words are left
        if getattr(error, "errno", None) in FULL or any(words in str(error) for words in FULL_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def refused_when_full() -> Iterator[None]:
    """What a full disk breaks off inside is a UserError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not disk_full(error):
            raise
        mend = "Free some there, or raise the quota or limit, and run the same command again"
        raise UserError("no space is left", where=_place_of(error), mend=mend) from error


def _place_of(error: BaseException | None) -> str:
    """The file an error, or the one behind it, is about; empty where none says."""
    while error is not None:
        if name := getattr(error, "filename", None):
            return str(name)
        error = error.__cause__ or error.__context__
    return ""
