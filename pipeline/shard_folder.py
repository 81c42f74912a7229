"""A folder of shards: `shards/` with nothing but finished Arrow files, `commits/` with a record of each, a manifest.

A unit is one shard. It is committed by an exclusive link from `.tmp/` to its final name: atomic, first writer wins, so
retries and a second writer are harmless. Its record is a pure function of the file and of what the plan says of the
unit, so a writer killed between the two steps loses nothing: the next one writes the record from the file.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hardmask.pipeline import shards
from hardmask.pipeline.errors import UserError
from hardmask.pipeline.publish import (
    fsync_path,
    publish_exclusively,
    temporary_name,
    write_json,
)
from hardmask.pipeline.runfolder import differences, read_json
from hardmask.pipeline.shards import HashingSink, Rows

TRAIN, HELD_OUT = "train", "held-out"
SUMS = (
    "documents",
    "text_bytes",
    "replaced_characters",
    "sequences",
    "tokens",
    "special",
    "padding",
    "clamped",
    "bytes",
)


class ShardFolder:
    """One folder of shards, all with the same metadata."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shards, self.commits, self.temporary = path / "shards", path / "commits", path / ".tmp"

    # ------------------------------------------------------------------ writing

    def begin(self, metadata: Mapping[str, Any]) -> None:
        """Make the folder ready for writing; one that holds shards of other metadata is refused, field by field."""
        for folder in (self.shards, self.commits, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.shards.iterdir())[:1]:
            different = differences(shards.read_metadata(path), dict(metadata))
            if different:
                raise UserError(
                    f"its shards were made otherwise: {'; '.join(different)}",
                    where=self.path,
                    mend="Give another --out, or remove that folder to make it anew",
                )

    def file_of(self, unit: int) -> Path:
        return self.shards / f"shard-{unit:05d}.arrow"

    def record_of(self, unit: int) -> dict[str, Any] | None:
        """The commit record of a unit, None if it is not committed."""
        path = self.commits / f"{unit:05d}.json"
        return read_json(path) if path.exists() and self.file_of(unit).exists() else None

    def write_unit(
        self, unit: int, batches: Iterable[Rows], metadata: Mapping[str, Any], counts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write and commit one unit from batches of at most ROWS_PER_BATCH rows; returns its record.

        `counts`: what the plan says of the unit, kept in the record. Where another writer was faster, its shard stays.
        """
        layout = shards.schema(metadata)
        temporary = self.temporary / temporary_name(f"{unit:05d}")
        tally = _Tally(metadata)
        try:
            with temporary.open("wb") as file:
                sink = HashingSink(file)
                options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1))
                with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), layout, options=options) as writer:
                    for rows in batches:
                        writer.write_batch(shards.to_arrow(rows, layout))
                        tally.add(rows)
                file.flush()
                os.fsync(file.fileno())
            record = {**tally.record(), "unit": unit, "bytes": sink.size, "sha256": sink.sha256.hexdigest(), **counts}
            if not publish_exclusively(temporary, self.file_of(unit)):
                return self.adopt(unit, counts)
            return self._commit(unit, record)
        finally:
            temporary.unlink(missing_ok=True)

    def adopt(self, unit: int, counts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the record of a published shard that lacks one, from the file itself."""
        path = self.file_of(unit)
        metadata = shards.read_metadata(path)
        tally = _Tally(metadata)
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            for index in range(reader.num_record_batches):
                tally.add(shards.from_arrow(reader.get_batch(index)))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        record = {**tally.record(), "unit": unit, "bytes": path.stat().st_size, "sha256": digest, **counts}
        return self._commit(unit, record)

    def _commit(self, unit: int, record: dict[str, Any]) -> dict[str, Any]:
        # The link was the commit; the record is a function of the shard, so whoever writes it last writes the same.
        write_json(self.commits / f"{unit:05d}.json", record)
        return record

    def finish(self, units: Sequence[int], metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest over all units, which must be committed; returns it."""
        records = []
        for unit in units:
            record = self.record_of(unit)
            if record is None:
                raise UserError(f"unit {unit} is not there", where=self.path, mend="Run the same command again")
            records.append(record)
        manifest = {
            "format": shards.FORMAT_VERSION,
            "fingerprint": shards.fingerprint(metadata),
            "metadata": dict(metadata),
            "totals": {name: sum(r[name] for r in records) for name in SUMS if all(name in r for r in records)},
            "units": [{k: v for k, v in r.items() if k not in ("crc32", "corpus_documents")} for r in records],
        }
        write_json(self.path / "manifest.json", manifest)
        for leftover in self.temporary.iterdir():  # of killed writers
            leftover.unlink(missing_ok=True)
        fsync_path(self.shards)
        return manifest

    # ------------------------------------------------------------------ reading

    @functools.cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished folder."""
        path = self.path / "manifest.json"
        if not path.exists():
            raise UserError("there is no manifest", where=self.path, mend="Run `make score` for this --out to its end")
        manifest: dict[str, Any] = read_json(path)
        if manifest["format"] > shards.FORMAT_VERSION:
            raise UserError(f"format {manifest['format']} is newer", where=path, mend="Install a newer hardmask")
        return manifest

    @property
    def finished(self) -> bool:
        """Whether there is a manifest, and every unit it names."""
        there = (self.path / "manifest.json").exists()
        return there and all(self.record_of(unit["unit"]) for unit in self.manifest["units"])

    def units(self, split: str) -> list[tuple[int, int]]:
        """(unit, rows) of every unit of a split, in order."""
        return [(u["unit"], u["sequences"]) for u in self.manifest["units"] if u["split"] == split]

    def read_batch(self, unit: int, index: int) -> Rows:
        """Record batch `index` of a unit, its checksum verified; a UserError names a damaged shard."""
        reader, crcs = self._open(unit)
        try:
            batch = reader.get_batch(index)
            batch.validate(full=True)  # damaged offsets must not be followed
            rows = shards.from_arrow(batch)
        except (pa.ArrowException, OSError, IndexError, ValueError) as error:
            raise self._damaged(unit, str(error)) from error
        if rows.crc32() != crcs[index]:
            raise self._damaged(unit, f"the checksum of record batch {index} differs")
        return rows

    def read_unit(self, unit: int) -> Iterator[Rows]:
        """All record batches of a unit."""
        for index in range(len(self._open(unit)[1])):
            yield self.read_batch(unit, index)

    def _damaged(self, unit: int, what: str) -> UserError:
        return UserError(
            f"this shard is damaged ({what})",
            where=self.file_of(unit),
            mend=f"Remove it, {self.commits / f'{unit:05d}.json'} and the manifest, and run the same stage again",
        )

    @functools.lru_cache(maxsize=256)  # noqa: B019  folders live as long as the process that reads them
    def _open(self, unit: int) -> tuple[pa.RecordBatchFileReader, list[int]]:
        record = self.record_of(unit)
        if record is None:
            raise UserError(f"unit {unit} is not there", where=self.path, mend="Run the stage that makes it again")
        try:
            return pa.ipc.open_file(pa.memory_map(str(self.file_of(unit)))), record["crc32"]
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(unit, str(error)) from error


class _Tally:
    """Counts over the rows of a unit that its record states."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.special = np.zeros(metadata["vocabulary"], dtype=bool)
        self.special[metadata["special_ids"]] = True
        self.limit = shards.round_to_8_bits(np.exp(np.array([shards.NLL_LIMIT], dtype=np.float32)))[0]
        self.has_hardness = metadata["kind"] == "hardness"
        self.sequences = self.tokens = self.used = self.positions = self.clamped = 0
        self.crc32: list[int] = []

    def add(self, rows: Rows) -> None:
        inside = np.arange(rows.input_ids.shape[1]) < rows.length[:, None]
        self.sequences += len(rows)
        self.tokens += int((inside & ~self.special[rows.input_ids]).sum())
        self.used += int(rows.length.sum(dtype=np.int64))
        self.positions += rows.input_ids.size
        for column in (rows.perplexity_forward, rows.perplexity_backward):
            self.clamped += 0 if column is None else int((column >= self.limit).sum())
        self.crc32.append(rows.crc32())

    def record(self) -> dict[str, Any]:
        record = {
            "sequences": self.sequences,
            "tokens": self.tokens,
            "special": self.used - self.tokens,
            "padding": self.positions - self.used,
            "crc32": self.crc32,
        }
        return {**record, "clamped": self.clamped} if self.has_hardness else record
