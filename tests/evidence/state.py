"""What a run leaves: its numbers in one file, and its state in parts that can travel to another machine."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from hardmask.pipeline.publish import write_text

PART_BYTES = 15_000_000
TRAVELS = ("results", "tokenizer", "tokens", "hardness", "annotations")
"""Of a run folder. Encoders do not: each call trains those it goes on from."""


def collect(results: Path, kept: Path) -> None:
    """Every job's record as a line of `kept`, in the order of names; records there of other jobs stay."""
    there = {record["name"]: record for record in records(kept)}
    there |= {record["name"]: record for record in map(_read, sorted(results.glob("*.json")))}
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, "".join(json.dumps(there[name], separators=(",", ":")) + "\n" for name in sorted(there)))


def records(kept: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []


def _read(path: Path) -> dict[str, object]:
    record: dict[str, object] = json.loads(path.read_text())
    return record


def pack(folder: Path, target: Path) -> None:
    """Put what travels into `target`/state.00, state.01, …, of PART_BYTES each: a tar file in parts."""
    target.mkdir(parents=True, exist_ok=True)
    for part in target.glob("state.*"):
        part.unlink()
    with tarfile.open(fileobj=_Parts(target), mode="w|xz") as tar:  # type: ignore[arg-type]
        for name in TRAVELS:
            if (folder / name).exists():
                tar.add(folder / name, arcname=name)


def unpack(source: Path, folder: Path) -> None:
    """The state in `source`, where there is any, into a run folder."""
    parts = sorted(source.glob("state.*"))
    if parts:
        whole = io.BytesIO(b"".join(part.read_bytes() for part in parts))
        with tarfile.open(fileobj=whole, mode="r:xz") as tar:
            tar.extractall(folder, filter="data")


class _Parts:
    """A file that goes on in the next one when it is full."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number, self.left = folder, -1, 0

    def write(self, data: bytes) -> int:
        done = 0
        while done < len(data):
            if not self.left:
                self.number, self.left = self.number + 1, PART_BYTES
            piece = data[done : done + self.left]
            with (self.folder / f"state.{self.number:02}").open("ab") as file:
                file.write(piece)
            done, self.left = done + len(piece), self.left - len(piece)
        return done
