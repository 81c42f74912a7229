"""The plan of a corpus: which documents are held out, and which run of documents makes which unit.

Both are functions of the documents alone, so a second reading of the corpus falls into the same units.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from hardmask.pipeline.shard_folder import HELD_OUT, TRAIN


@dataclass(frozen=True)
class Piece:
    """A document, or a part of one that is longer than a unit."""

    unit: int
    split: str
    text: str
    size: int  # UTF-8 bytes
    source: int
    document: int  # index in the corpus as it was read
    begins: bool  # the document's first part
    ends: bool  # its last


@dataclass
class Unit:
    """One planned unit; the fields are what its commit record says of it."""

    unit: int
    split: str
    documents: int = 0  # that end here
    text_bytes: int = 0
    replaced_characters: int = 0  # U+FFFD in the text, which is what invalid UTF-8 becomes
    first_document: int = 0  # document_id, consecutive over the units of a split
    digest: str = ""  # sha256 over the pieces
    corpus_documents: list[list[int]] = field(default_factory=list)  # [first, end) of indices in the corpus


@dataclass(frozen=True)
class Plan:
    """All units of a corpus and where its documents came from."""

    units: list[Unit]
    sources: list[dict[str, Any]]  # name, documents, text_bytes
    documents: int
    empty_documents: int
    cut_documents: int
    held_out: float  # the share asked for, or 0 where it would leave nothing to train on
    forced_held_out: int  # index of the one document held out because chance held out none; −1: chance did
    digest: str  # sha256 of all documents

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> Plan:
        return Plan(**{**values, "units": [Unit(**unit) for unit in values["units"]]})


class UnitDigest:
    """sha256 over texts, each preceded by its length, so that where one ends counts too."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, text: bytes) -> None:
        self._sha256.update(len(text).to_bytes(8, "little"))
        self._sha256.update(text)

    def hex(self) -> str:
        return self._sha256.hexdigest()


def held_out_number(text: bytes, seed: int) -> int:
    """A keyed 32-bit number of a document's content; below share · 2³² means held out.

    By content, so that copies of a document fall on the same side.
    """
    return int.from_bytes(hashlib.blake2b(text, digest_size=4, key=seed.to_bytes(8, "little")).digest(), "little")


def cut(text: str, limit: int) -> list[str]:
    """Parts of at most `limit` UTF-8 bytes, cut behind white space where there is any in a part's second half."""
    data = text.encode()
    parts, start = [], 0
    while len(data) - start > limit:
        end = start + limit
        space = max(data.rfind(mark, start + limit // 2, end) for mark in (b" ", b"\n", b"\t"))
        end = space + 1 if space >= 0 else end
        while data[end] & 0xC0 == 0x80:  # not inside a character
            end -= 1
        parts.append(data[start:end].decode())
        start = end
    return [*parts, data[start:].decode()]


def assign(
    documents: Iterable[tuple[int, str]], *, unit_bytes: int, held_out: float, seed: int, forced: int = -1
) -> Iterator[Piece]:
    """Give every document (source, text) its unit; units are numbered as they are opened.

    Each split has one open unit; it closes when the next piece would take it past `unit_bytes`.
    """
    threshold = round(held_out * 2**32)
    open_unit: dict[str, tuple[int, int]] = {}  # split -> unit, bytes
    opened = 0
    for index, (source, text) in enumerate(documents):
        data = text.encode()
        number = held_out_number(data, seed) if data else 2**32
        split = HELD_OUT if number < threshold or index == forced else TRAIN
        parts = cut(text, unit_bytes) if len(data) > unit_bytes else [text]
        for place, part in enumerate(parts):
            size = len(data) if len(parts) == 1 else len(part.encode())
            unit, used = open_unit.get(split, (-1, 0))
            if unit < 0 or (used and used + size > unit_bytes):
                unit, used, opened = opened, 0, opened + 1
            open_unit[split] = (unit, used + size)
            yield Piece(unit, split, part, size, source, index, place == 0, place == len(parts) - 1)


def make_plan(
    read: Callable[[], Iterable[tuple[int, str]]], names: Sequence[str], *, unit_bytes: int, held_out: float, seed: int
) -> Plan:
    """Read a corpus once, by calling `read`, and plan its units.

    Where chance holds out none of two or more documents, which only a small corpus meets, it is read once more with
    the one of the smallest keyed number held out; where it holds out all there is, with none held out.
    """
    plan, smallest = _plan(read(), names, unit_bytes=unit_bytes, held_out=held_out, seed=seed, forced=-1)
    if not any(u.text_bytes for u in plan.units if u.split == TRAIN):
        return _plan(read(), names, unit_bytes=unit_bytes, held_out=0.0, seed=seed, forced=-1)[0]
    if held_out > 0 and all(u.split == TRAIN for u in plan.units) and plan.documents - plan.empty_documents > 1:
        plan, _ = _plan(read(), names, unit_bytes=unit_bytes, held_out=held_out, seed=seed, forced=smallest)
    return plan


def _plan(
    documents: Iterable[tuple[int, str]],
    names: Sequence[str],
    *,
    unit_bytes: int,
    held_out: float,
    seed: int,
    forced: int,
) -> tuple[Plan, int]:
    """The plan with `forced` held out besides, and the index of the document with the smallest keyed number."""
    units: dict[int, Unit] = {}
    digests: dict[int, UnitDigest] = {}
    sources: list[dict[str, Any]] = [{"name": name, "documents": 0, "text_bytes": 0} for name in names]
    whole = UnitDigest()
    count = empty = cut_documents = 0
    smallest = (2**32, -1)
    for piece in assign(documents, unit_bytes=unit_bytes, held_out=held_out, seed=seed, forced=forced):
        data = piece.text.encode()
        unit = units.setdefault(piece.unit, Unit(piece.unit, piece.split))
        digests.setdefault(piece.unit, UnitDigest()).add(data)
        whole.add(data)
        unit.text_bytes += piece.size
        unit.replaced_characters += piece.text.count("\ufffd")
        unit.documents += piece.ends
        ranges = unit.corpus_documents
        if ranges and ranges[-1][1] == piece.document:
            ranges[-1][1] += 1
        else:
            ranges.append([piece.document, piece.document + 1])
        sources[piece.source]["documents"] += piece.ends
        sources[piece.source]["text_bytes"] += piece.size
        count += piece.ends
        empty += piece.ends and piece.begins and not data
        cut_documents += piece.ends and not piece.begins
        if piece.begins and data:
            smallest = min(smallest, (held_out_number(data, seed), piece.document))
    for number, unit in units.items():
        unit.digest = digests[number].hex()
    following = 0
    for split in (TRAIN, HELD_OUT):
        for unit in units.values():
            if unit.split == split:
                unit.first_document = following
                following += unit.documents
    plan = Plan(
        units=[units[number] for number in sorted(units)],
        sources=sources,
        documents=count,
        empty_documents=empty,
        cut_documents=cut_documents,
        held_out=held_out,
        forced_held_out=forced,
        digest=whole.hex(),
    )
    return plan, smallest[1]
