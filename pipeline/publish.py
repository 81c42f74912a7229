"""Files appear whole or not at all: write beside, flush to disk, then publish under the final name in one step."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def fsync_path(path: Path) -> None:
    """Flush a file's or folder's entry to disk; file systems that refuse this for folders are let be."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def temporary_name(stem: str) -> str:
    """A name no other process uses: STEM-PID-RANDOM."""
    return f"{stem}-{os.getpid()}-{secrets.token_hex(4)}"


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path`; a reader sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name("." + temporary_name(path.name))
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    fsync_path(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a JSON value; NaN and infinity are refused, JSON has neither."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def publish_exclusively(temporary: Path, final: Path) -> bool:
    """Give a finished, flushed file its final name unless somebody did before: True for the first, False for others.

    The temporary name is gone afterwards either way. Both must lie on one file system.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(temporary, final)
        return True
    except FileExistsError:
        return False
    except FileNotFoundError:
        if final.exists():  # who came first has cleaned up
            return False
        raise
    finally:
        temporary.unlink(missing_ok=True)
        fsync_path(final.parent)


@contextlib.contextmanager
def folder_published_as(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final`, which becomes `final` when the block ends well, unless that is there."""
    final.parent.mkdir(parents=True, exist_ok=True)
    beside = final.with_name("." + temporary_name(final.name))
    beside.mkdir()
    try:
        yield beside
        for path in (*beside.rglob("*"), beside):
            fsync_path(path)
        try:
            os.rename(beside, final)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    fsync_path(final.parent)
