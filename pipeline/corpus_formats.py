"""How documents are read out of one file, URL or hub data set: a function a format, in `READERS`.

Text and JSON lines are opened here rather than by the text reader of `datasets`, which loses `encoding_errors` for
compressed files (5.2: invalid UTF-8 in a .gz ends the run) and takes a .zst that was cut short for a shorter file.
Parquet and Arrow go through pyarrow, which shows the column without decoding the rest; `datasets` reads the hub.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TextIO
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from hardmask.pipeline.errors import UserError

FORMATS = {
    ".txt": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
}
CODECS: dict[str, Callable[[Any], Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".xz": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
    # Unlike zstandard's reader, pyarrow's says when the file ends inside a frame.
    ".zst": lambda raw: pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"),
}
DAMAGED = (OSError, EOFError, lzma.LZMAError, zlib.error, pa.ArrowException)
ROWS = 64  # documents taken out of a column at a time: long ones must not pile up as Python strings
STOP_CHARACTERS = 1_000_000  # between places of a text at which reading can begin
STREAM_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # closes an Arrow stream


def is_url(entry: str) -> bool:
    """Whether fsspec opens it rather than `open`."""
    return "://" in entry


def format_of(location: str) -> str:
    """Format by extension, below that of a codec; "" if unknown."""
    endings = suffixes(location)
    while endings and endings[-1] in CODECS:
        endings.pop()
    return FORMATS.get(endings[-1], "") if endings else ""


def suffixes(location: str) -> list[str]:
    """Extensions in lower case: web.TXT.xz -> .txt .xz."""
    path = (
        urlsplit(location).path if location.startswith(("http://", "https://")) else location.split("::", maxsplit=1)[0]
    )
    return [suffix.lower() for suffix in PurePosixPath(path).suffixes]


class Cursor:
    """Where the reader of a part stands, at places it can begin at again."""

    def __init__(self, at: int = 0) -> None:
        """`at`: where to begin, a place an earlier reader `passed`; 0 is the beginning."""
        self.at = at
        self.skip = 0
        """Documents given since `at`; counted by who takes them."""

    def passed(self, at: int) -> None:
        """Said by a reader before a document at which it can begin."""
        self.at, self.skip = at, 0


# Readers: (location, name of the text field, cursor) -> documents from the cursor on


@contextlib.contextmanager
def _open_bytes(location: str) -> Iterator[BinaryIO]:
    """A file or URL, decompressed by its extension; damage found while it is read is a UserError."""
    codec = CODECS.get("".join(suffixes(location)[-1:]), contextlib.nullcontext)
    try:
        if is_url(location):
            import fsspec

            opened = fsspec.open(location, "rb")
        else:
            opened = open(location, "rb")  # noqa: SIM115 (closed below)
        with opened as raw, codec(raw) as stream:
            yield stream
    except PermissionError as error:
        raise UserError("it may not be read", where=location, mend="Give yourself the right to read it") from error
    except DAMAGED as error:
        what = f"cannot be read ({error or type(error).__name__})"
        raise UserError(what, where=location, mend="The file is damaged or cut short; make it again") from error


@contextlib.contextmanager
def _open_text(location: str, cursor: Cursor) -> Iterator[_Text]:
    # utf-8-sig: a byte order mark at the beginning is no text
    with _open_bytes(location) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace") as text:
        if cursor.at:
            text.seek(cursor.at)
        yield _Text(text, cursor)


class _Text:
    """Lines of a text, and now and then a place to begin at again."""

    def __init__(self, text: TextIO, cursor: Cursor) -> None:
        self.text, self._cursor, self._since = text, cursor, 0
        self._can_seek = text.seekable()

    def __iter__(self) -> Iterator[str]:
        return iter(self.text.readline, "")  # unlike iteration, this lets `tell` be asked

    def between_documents(self, size: int) -> None:
        """Said behind a document of `size` characters."""
        self._since += size
        if self._since >= STOP_CHARACTERS and self._can_seek:
            self._cursor.passed(self.text.tell())
            self._since = 0


@contextlib.contextmanager
def _open_seekable(location: str) -> Iterator[BinaryIO]:
    """Parquet and Arrow are read from the end: what is compressed as a whole is unpacked to a temporary file."""
    with _open_bytes(location) as stream:
        if not CODECS.keys() & set(suffixes(location)[-1:]):
            yield stream
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(stream, unpacked, 1 << 20)
            unpacked.seek(0)
            yield unpacked


def _read_blank_line(location: str, field: str, cursor: Cursor) -> Iterator[str]:
    """Lines up to the next blank one, joined by their line ends; a line of white space alone is blank."""
    with _open_text(location, cursor) as lines:
        document: list[str] = []
        for line in lines:
            if not line.isspace():
                document.append(line)
            elif document:
                text = "".join(document)
                document = []
                yield text.removesuffix("\n")
                lines.between_documents(len(text))
        if document:
            yield "".join(document).removesuffix("\n")


def _read_line(location: str, field: str, cursor: Cursor) -> Iterator[str]:
    with _open_text(location, cursor) as lines:
        for line in lines:
            yield line.removesuffix("\n")
            lines.between_documents(len(line))


def _read_file(location: str, field: str, cursor: Cursor) -> Iterator[str]:
    with _open_text(location, cursor) as lines:
        yield lines.text.read()


def _read_jsonl(location: str, field: str, cursor: Cursor) -> Iterator[str]:
    """One object a line. The first must have the field; where a later one lacks it, the document is empty."""
    first = not cursor.at
    behind = f" (behind byte {cursor.at})" if cursor.at else ""
    with _open_text(location, cursor) as lines:
        for number, line in enumerate(lines, 1):
            if line.isspace():
                continue
            where = f"{location}:{number}{behind}"
            try:
                value = json.loads(line)
            except ValueError as error:
                raise UserError(f"not JSON: {error}", where=where, mend="Give one JSON object a line") from error
            if not isinstance(value, dict):
                raise UserError(f"a {type(value).__name__}", where=where, mend="Give one JSON object a line")
            if first:
                _check_field(field, list(value), where)
                first = False
            text = value.get(field)
            if text is not None and not isinstance(text, str):
                raise _not_text(field, type(text).__name__, where)
            yield text or ""
            lines.between_documents(len(line))


def _read_parquet(location: str, field: str, cursor: Cursor) -> Iterator[str]:
    """Can begin at any row group."""
    with _open_seekable(location) as file:
        table = pq.ParquetFile(file, buffer_size=1 << 20)
        _check_field(field, table.schema_arrow.names, location)
        for group in range(cursor.at, table.num_row_groups):  # one by one: else several are held at a time
            cursor.passed(group)
            for batch in table.iter_batches(batch_size=ROWS, row_groups=[group], columns=[field]):
                yield from _column_texts(batch.column(field), field, location)


def _read_arrow(location: str, field: str, cursor: Cursor) -> Iterator[str]:
    """IPC files and streams, from any record batch. A stream without its end mark was cut, which Arrow overlooks."""
    with _open_seekable(location) as file:
        if file.read(6) == b"ARROW1":
            names = pa.ipc.open_file(file).schema.names
            _check_field(field, names, location)
            only = pa.ipc.IpcReadOptions(included_fields=[names.index(field)])
            reader = pa.ipc.open_file(file, options=only)
            batches: Iterator[pa.RecordBatch] = map(reader.get_batch, range(cursor.at, reader.num_record_batches))
        else:
            file.seek(-min(len(STREAM_END), file.seek(0, io.SEEK_END)), io.SEEK_END)
            if file.read() != STREAM_END:
                raise EOFError("neither an Arrow file nor a whole Arrow stream")
            file.seek(0)
            stream = pa.ipc.open_stream(file)
            _check_field(field, stream.schema.names, location)
            batches = itertools.islice(stream, cursor.at, None)
        yield from _batch_texts(batches, field, location, cursor)


def _batch_texts(batches: Iterator[Any], field: str, where: str, cursor: Cursor) -> Iterator[str]:
    """Texts of record batches, the first of which is number `cursor.at` of its part."""
    for number, batch in enumerate(batches, cursor.at):
        cursor.passed(number)
        yield from _column_texts(batch.column(field), field, where)


def _read_hub(location: str, field: str, cursor: Cursor) -> Iterator[str]:
    """NAME?config=C&split=S&field=F&revision=R, all but the name optional; NAME may be a local folder."""
    import datasets

    where = f"hub:{location}"
    name, _, query = location.partition("?")
    options = {key: values[-1] for key, values in parse_qs(query, keep_blank_values=True).items()}
    if unknown := sorted(set(options) - {"config", "split", "field", "revision"}):
        raise UserError(f"unknown option {unknown[0]}", where=where, mend="Use config, split, field or revision")
    split, field = options.get("split", "train"), options.get("field", field)
    try:
        data = datasets.load_dataset(
            name, options.get("config"), split=split, revision=options.get("revision"), streaming=True
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        mend = "Check the name and ?config=…&split=…, and that the hub can be reached"
        raise UserError(f"cannot be opened: {error}", where=where, mend=mend) from error

    def batches() -> Iterator[Any]:
        try:
            for number, batch in enumerate(data.with_format("arrow").iter(batch_size=ROWS)):
                if number >= cursor.at:  # those before are fetched, but their texts not made
                    _check_field(field, batch.column_names, where)
                    yield batch
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise UserError(f"reading broke off: {error}", where=where, mend="Run the same command again") from error

    yield from _batch_texts(batches(), field, where, cursor)


def _column_texts(column: pa.Array | pa.ChunkedArray, field: str, where: str) -> Iterator[str]:
    """Values as text, ROWS at a time; bytes are taken for UTF-8."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    texts = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.null())
    if kind not in texts:
        raise _not_text(field, str(kind), where)
    for start in range(0, len(column), ROWS):
        # As bytes: Arrow does not check that a string column holds UTF-8.
        for value in column.slice(start, ROWS).cast(pa.large_binary()).to_pylist():
            yield "" if value is None else value.decode(errors="replace")


def _check_field(field: str, names: Sequence[str], where: str) -> None:
    if field not in names:
        what = f"no field {field!r}, only {', '.join(names) or 'none at all'}"
        raise UserError(what, where=where, mend="Name the one with the text: --corpus.text-field, for the hub ?field=")


def _not_text(field: str, kind: str, where: str) -> UserError:
    return UserError(
        f"field {field!r} holds {kind}, not text", where=where, mend="Name another one with --corpus.text-field"
    )


READERS: dict[str, Callable[[str, str, Cursor], Iterator[str]]] = {
    "blank-line": _read_blank_line,
    "line": _read_line,
    "file": _read_file,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
    "hub": _read_hub,
}
