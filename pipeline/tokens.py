"""The `tokens` stage: corpus → tokenizer → plan of units → shards of packed sequences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hardmask.pipeline import shards
from hardmask.pipeline.config import Run, as_json
from hardmask.pipeline.corpus import corpus_name, open_sources, read_documents
from hardmask.pipeline.errors import UserError
from hardmask.pipeline.packing import pack
from hardmask.pipeline.progress import bar
from hardmask.pipeline.publish import folder_published_as, write_json
from hardmask.pipeline.runfolder import RunFolder, Stage, differences, read_json
from hardmask.pipeline.shard_folder import TRAIN, ShardFolder
from hardmask.pipeline.tokenizer import Tokenizer, open_tokenizer, train_tokenizer
from hardmask.pipeline.units import Piece, Plan, Unit, UnitDigest, assign, make_plan

ENCODE_BYTES = 4_000_000  # text handed to the tokenizer at a time; it spreads documents over all cores


def make_tokens(run: Run, folder: RunFolder) -> None:
    """Tokenize and pack the corpus into `tokens/`; what is there already is kept."""
    stage = Stage(folder.tokens, {"corpus": as_json(run.corpus), **_settings(run)})
    target = folder.shards("tokens")
    if stage.finished and target.finished:
        return
    sources = open_sources(run.corpus, folder.corpus, quiet=run.quiet)

    def documents() -> Iterator[tuple[int, str]]:
        return read_documents(sources, run.corpus)

    tokenizer = _tokenizer(run, folder.tokenizer, documents)
    stage.begin()
    plan = _plan(run, folder.tokens / "plan.json", documents, [source.name for source in sources])
    metadata = {
        "format": shards.FORMAT_VERSION,
        "kind": "tokens",
        "corpus": corpus_name(run.corpus),
        "corpus_digest": plan.digest,
        "packing": shards.PACKING,
        "sequence_length": run.tokens.sequence_length,
        "tokenizer": tokenizer.fingerprint,
        "vocabulary": tokenizer.vocabulary,
        "special_ids": list(tokenizer.special_ids),
        "begin": tokenizer.begin,
        "end": tokenizer.end,
        "pad": tokenizer.pad,
        "mask": tokenizer.mask,
    }
    target.begin(metadata)
    _write_units(run, target, tokenizer, plan, metadata, documents, stage)
    manifest = target.finish([unit.unit for unit in plan.units], metadata)
    if not sum(rows for _, rows in target.units(TRAIN)):
        raise UserError(
            "the tokenizer makes no tokens of this corpus",
            where=folder.tokenizer,
            mend="Give another --tokenizer.path or --corpus.path, and another --out",
        )
    check_sums(manifest, plan)
    stage.finish(**manifest["totals"], empty_documents=plan.empty_documents, sources=plan.sources)


def _settings(run: Run) -> dict[str, Any]:
    return {"tokenizer": as_json(run.tokenizer), "tokens": as_json(run.tokens)}


def _tokenizer(run: Run, path: Path, documents: Any) -> Tokenizer:
    """The run folder's tokenizer: copied from where the settings say, or trained on the corpus."""
    trained = {} if run.tokenizer.path else {"corpus": as_json(run.corpus)}
    wanted = {"tokenizer": as_json(run.tokenizer), **trained}
    if path.exists():
        made_from = path / "made_from.json"
        different = differences(read_json(made_from) if made_from.exists() else {}, wanted)
        if different:
            raise UserError(
                f"this tokenizer was made with other settings: {'; '.join(different)}",
                where=path,
                mend="Give another --out, or remove that folder and tokens/ to make them anew",
            )
    else:
        if run.tokenizer.path:
            tokenizer = open_tokenizer(run.tokenizer.path)
        else:
            with bar("tokenizer", None, quiet=run.quiet, unit="B") as progress:
                tokenizer = train_tokenizer(_first_bytes(documents(), run, progress), run.tokenizer.vocabulary)
        with folder_published_as(path) as beside:
            tokenizer.save(beside)
            write_json(beside / "made_from.json", wanted)
    return open_tokenizer(str(path))


def _first_bytes(documents: Iterator[tuple[int, str]], run: Run, progress: Any) -> Iterator[str]:
    """Text of the corpus up to the number of bytes a tokenizer is trained on."""
    left = run.tokenizer.train_bytes
    for _, text in documents:
        if left <= 0:
            return
        data = text.encode()[:left]
        left -= len(data)
        progress.update(len(data))
        yield data.decode(errors="ignore")


def _plan(run: Run, path: Path, documents: Any, names: list[str]) -> Plan:
    if not path.exists():
        settings = run.tokens
        with bar("plan", run.corpus.max_bytes, quiet=run.quiet, unit="B") as progress:

            def counted() -> Iterator[tuple[int, str]]:
                for source, text in documents():
                    progress.update(len(text.encode()))
                    yield source, text

            plan = make_plan(
                counted, names, unit_bytes=settings.unit_bytes, held_out=settings.held_out, seed=settings.split_seed
            )
        if not sum(unit.text_bytes for unit in plan.units):
            raise UserError(
                "the corpus holds no text", where=", ".join(names), mend="Give --corpus.path files with text"
            )
        write_json(path, plan.as_json())
    return Plan.from_json(read_json(path))


def _write_units(
    run: Run,
    target: ShardFolder,
    tokenizer: Tokenizer,
    plan: Plan,
    metadata: dict[str, Any],
    documents: Any,
    stage: Stage,
) -> None:
    """Read the corpus again, along the plan, and commit every unit that is not."""
    planned = {unit.unit: unit for unit in plan.units}
    committed = target.committed()
    missing = {
        number
        for number, unit in planned.items()
        if number not in committed and target.settle(number, metadata, _counts(unit)) is None
    }
    if not missing:
        return
    settings = run.tokens
    pieces = assign(
        documents(),
        unit_bytes=settings.unit_bytes,
        held_out=plan.held_out,
        seed=settings.split_seed,
        forced=plan.forced_held_out,
    )
    total = sum(unit.text_bytes for unit in plan.units)
    with bar("tokens", total, quiet=run.quiet, unit="B") as progress:
        for number, encoded, digest in _encoded_units(pieces, missing, tokenizer, progress):
            unit = planned[number]
            if digest != unit.digest:
                raise _changed(target, f"the text of unit {number} is another")
            rows = pack(
                encoded,
                unit=number,
                first_document=unit.first_document,
                sequence_length=settings.sequence_length,
                begin=tokenizer.begin,
                end=tokenizer.end,
                pad=tokenizer.pad,
                dtype=shards.id_type(tokenizer.vocabulary),
            )
            batches = (rows.slice(at, at + shards.ROWS_PER_BATCH) for at in range(0, len(rows), shards.ROWS_PER_BATCH))
            record = target.write_unit(number, batches, metadata, _counts(unit))
            stage.log(unit=number, sequences=record["sequences"], tokens=record["tokens"], seconds=stage.seconds())
            missing.discard(number)
    if missing:
        raise _changed(target, f"unit {min(missing)} is not in it any more")


def _changed(target: ShardFolder, how: str) -> UserError:
    return UserError(
        f"the corpus has changed since it was planned: {how}",
        where=target.place,
        mend="Restore the corpus, or remove that folder to read the corpus anew",
    )


def _counts(unit: Unit) -> dict[str, Any]:
    names = ("split", "documents", "text_bytes", "replaced_characters", "first_document", "digest", "corpus_documents")
    return {name: getattr(unit, name) for name in names}


def _encoded_units(
    pieces: Iterator[Piece], missing: set[int], tokenizer: Tokenizer, progress: Any
) -> Iterator[tuple[int, list[tuple[np.ndarray, bool]], str]]:
    """(unit, its pieces as (ids, document ends), digest of its text) of each missing unit, as soon as it is whole."""
    waiting: list[Piece] = []
    encoded: dict[int, list[tuple[np.ndarray, bool]]] = {}
    digests: dict[int, UnitDigest] = {}

    def encode() -> None:
        for piece, ids in zip(waiting, tokenizer.encode([p.text for p in waiting]), strict=True):
            encoded.setdefault(piece.unit, []).append((ids, piece.ends))
            digests.setdefault(piece.unit, UnitDigest()).add(piece.text.encode())
        waiting.clear()

    size = 0
    latest: dict[str, int] = {}  # split -> its open unit
    for piece in pieces:
        closed = latest.get(piece.split, piece.unit)
        latest[piece.split] = piece.unit
        if closed != piece.unit or size > ENCODE_BYTES:
            encode()
            size = 0
        if closed != piece.unit and closed in encoded:
            yield closed, encoded.pop(closed), digests.pop(closed).hex()
        if piece.unit in missing:
            waiting.append(piece)
            size += piece.size
        progress.update(piece.size)
    encode()
    for unit in sorted(encoded):
        yield unit, encoded.pop(unit), digests.pop(unit).hex()


def check_sums(manifest: dict[str, Any], plan: Plan) -> None:
    """Nothing was dropped: documents, bytes and positions add up. A difference is a bug."""
    totals, metadata = manifest["totals"], manifest["metadata"]
    positions = totals["sequences"] * metadata["sequence_length"]
    assert positions == totals["tokens"] + totals["special"] + totals["padding"], totals
    assert totals["documents"] == plan.documents == sum(s["documents"] for s in plan.sources), totals
    assert totals["text_bytes"] == sum(s["text_bytes"] for s in plan.sources), totals
