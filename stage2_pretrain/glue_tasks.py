"""The ten GLUE tasks: what their files look like, and reading them from TSV folders or the hub's parquet layout.

A split is called by the stem of its official file: train, dev, test, and for MNLI dev_matched, dev_mismatched,
test_matched, test_mismatched. The hub says "validation" for "dev". Label ids are positions in `Task.labels`, which
is also the hub's numbering, so that both sources give the same rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardmask.pipeline.errors import UserError

HUB = "nyu-mll/glue"
SENTENCES = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")
ACCURACY_F1 = ("accuracy", "f1")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Where a task's files lie and what stands in them."""

    folder: str
    """Of the official TSV files."""
    texts: tuple[str, ...] = SENTENCES
    """Names of the one or two text columns in the TSV files."""
    hub_texts: tuple[str, ...] = SENTENCES
    """The same in the parquet files."""
    label: str = "label"
    """Name of the label column in the TSV files; it is `label` in the parquet files."""
    labels: tuple[str, ...] = ("0", "1")
    """Label strings of the TSV files, also those a submission needs, in the order of their ids; none: regression."""
    metrics: tuple[str, ...] = ("accuracy",)
    """Keys of `glue_metrics.METRICS`; the first is the one shown in tables."""
    sizes: dict[str, int]
    """Official rows of every split; its keys are the splits there are."""
    files: dict[str, str] = field(default_factory=dict)
    """Splits whose file is not SPLIT.tsv."""
    columns: tuple[str, ...] = ()
    """Names for the columns of train and dev files that lack a header line."""


def _sizes(train: int, dev: int, test: int) -> dict[str, int]:
    return {"train": train, "dev": dev, "test": test}


TASKS: dict[str, Task] = {
    "cola": Task(
        folder="CoLA",
        texts=("sentence",),
        hub_texts=("sentence",),
        metrics=("matthews", "accuracy"),
        sizes=_sizes(8_551, 1_043, 1_063),
        columns=("source", "label", "star", "sentence"),
    ),
    "sst2": Task(folder="SST-2", texts=("sentence",), hub_texts=("sentence",), sizes=_sizes(67_349, 872, 1_821)),
    "mrpc": Task(
        folder="MRPC",
        texts=("#1 String", "#2 String"),
        label="Quality",
        metrics=ACCURACY_F1,
        sizes=_sizes(3_668, 408, 1_725),
    ),
    "stsb": Task(
        folder="STS-B", label="score", labels=(), metrics=("spearman", "pearson"), sizes=_sizes(5_749, 1_500, 1_379)
    ),
    "qqp": Task(
        folder="QQP",
        texts=("question1", "question2"),
        hub_texts=("question1", "question2"),
        label="is_duplicate",
        metrics=ACCURACY_F1,
        sizes=_sizes(363_846, 40_430, 390_965),
    ),
    "mnli": Task(
        folder="MNLI",
        hub_texts=("premise", "hypothesis"),
        label="gold_label",
        labels=NLI,
        sizes={"train": 392_702, "dev_matched": 9_815, "dev_mismatched": 9_832}
        | {"test_matched": 9_796, "test_mismatched": 9_847},
    ),
    "qnli": Task(
        folder="QNLI",
        texts=("question", "sentence"),
        hub_texts=("question", "sentence"),
        labels=ENTAILMENT,
        sizes=_sizes(104_743, 5_463, 5_463),
    ),
    "rte": Task(folder="RTE", labels=ENTAILMENT, sizes=_sizes(2_490, 277, 3_000)),
    "wnli": Task(folder="WNLI", sizes=_sizes(635, 71, 146)),
    "ax": Task(
        folder="diagnostic",
        hub_texts=("premise", "hypothesis"),
        labels=NLI,
        metrics=("matthews",),
        sizes={"test": 1_104},
        files={"test": "diagnostic.tsv"},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows of a task; every list has one entry a row."""

    texts_a: list[str] = field(default_factory=list)
    texts_b: list[str] | None = None
    labels: list[int] | list[float] | None = None
    """Label ids, or scores of a regression; None in a test split, whose labels are not published."""
    index: list[int] = field(default_factory=list)
    """Row numbers from 0 or, in a test split, the file's own index, by which a submission names the rows."""
    dropped: int = 0
    """Rows of the file left out because their number of fields is not the header's."""

    def __len__(self) -> int:
        return len(self.texts_a)


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """A task as it is fine-tuned on: from GLUE or a probe made from the corpus."""

    name: str
    train: Split
    dev: dict[str, Split]
    test: dict[str, Split] = field(default_factory=dict)
    labels: tuple[str, ...]
    """Names of the classes by id; empty for a regression."""
    metrics: tuple[str, ...] = ("accuracy",)
    """Keys of `glue_metrics.METRICS`, the shown one first."""
    probe: bool = False
    """Made from the corpus; not GLUE."""

    @property
    def regression(self) -> bool:
        return not self.labels


def read_task(name: str, path: str | Path) -> TaskData:
    """Read every split of one task that is there; only test splits may be absent.

    `path`: the folder of the official TSV folders, a folder laid out like the hub's repository (NAME/SPLIT-*.parquet),
    or "hub". A number of rows other than the official one is a warning. UserError: unknown task, absent folder or
    file, wrong columns, an unknown label.
    """
    if name not in TASKS:
        raise UserError(f"there is no GLUE task {name!r}", where="--glue.tasks", mend=f"Choose from {' '.join(TASKS)}")
    task = TASKS[name]
    splits = {}
    for split in task.sizes:
        rows = _read_split(name, split, path)
        if rows is None:
            if split.startswith("test") and "train" in task.sizes:
                continue
            raise UserError(
                f"there is no {split} split of {name}",
                where=_tsv_file(task, split, path),
                mend="Add the file, choose other tasks with --glue.tasks, or read the hub's with --glue.path hub",
            )
        if len(rows) != task.sizes[split]:
            dropped = f" after {rows.dropped} malformed ones were dropped" if rows.dropped else ""
            message = f"{name} {split} of {path}: {len(rows):,} rows{dropped}, officially {task.sizes[split]:,}"
            warnings.warn(message, stacklevel=2)
        splits[split] = rows
    return TaskData(
        name=name,
        train=splits.get("train", Split()),
        dev={split: rows for split, rows in splits.items() if split.startswith("dev")},
        test={split: rows for split, rows in splits.items() if split.startswith("test")},
        labels=task.labels,
        metrics=task.metrics,
    )


def available_tasks(path: str | Path) -> list[str]:
    """Names of the tasks that can be trained on: their train and dev files are there. UserError: no such folder."""
    trainable = [name for name, task in TASKS.items() if "train" in task.sizes]
    if str(path) == "hub":
        return trainable
    _require_folder(path)
    needed = {name: [split for split in TASKS[name].sizes if not split.startswith("test")] for name in trainable}
    return [name for name in trainable if all(_files(name, split, path) for split in needed[name])]


def _read_split(name: str, split: str, path: str | Path) -> Split | None:
    task = TASKS[name]
    if str(path) == "hub":
        return _from_hub_columns(task, split, _hub_columns(name, split), where=f"{HUB} {name} {split}")
    _require_folder(path)
    files = _files(name, split, path)
    if not files:
        return None
    if files[0].suffix == ".parquet":
        return _from_hub_columns(task, split, _parquet_columns(files), where=files[0])
    if files[0].suffix == ".txt":
        return _read_msr(task, split, files[0])
    has_header = split.startswith("test") or not task.columns
    names, rows = _tsv_rows(files[0], () if has_header else task.columns)
    return _from_tsv_rows(task, split, names, rows, files[0])


def _require_folder(path: str | Path) -> None:
    if not Path(path).is_dir():
        mend = "Give the folder of the official TSV folders (CoLA, MRPC, …), hub, or nothing for probe tasks"
        raise UserError("there is no such folder", where=f"--glue.path {path}", mend=mend)


def _files(name: str, split: str, path: str | Path) -> list[Path]:
    """The parquet files of a split, else its TSV file, else the file of the MSR corpus it is made from, else none."""
    # SPLIT- with the hyphen: test- is not a prefix of test_matched-
    parquet = sorted((Path(path) / name).glob(f"{_hub_split(split)}-*.parquet"))
    tsv = _tsv_file(TASKS[name], split, path)
    if parquet or tsv.exists():
        return parquet or [tsv]
    msr = tsv.with_name("msr_paraphrase_test.txt" if split == "test" else "msr_paraphrase_train.txt")
    usable = name == "mrpc" and msr.exists() and (split == "test" or tsv.with_name("dev_ids.tsv").exists())
    return [msr] if usable else []


def _tsv_file(task: Task, split: str, path: str | Path) -> Path:
    return Path(path) / task.folder / task.files.get(split, f"{split}.tsv")


def _hub_split(split: str) -> str:
    return split.replace("dev", "validation")


# Official TSV files

Rows = list[tuple[int, list[str]]]
"""Line number in the file, from 1, and the fields of that line."""


def _from_tsv_rows(task: Task, split: str, names: Sequence[str], rows: Rows, file: Path) -> Split:
    labelled = not split.startswith("test")
    columns = [_column(name, names, file) for name in task.texts]
    whole = [(f"{file}:{line}", row) for line, row in rows if len(row) == len(names)]
    labels, index = None, list(range(len(whole)))
    if labelled:
        at = _column(task.label, names, file)
        labels = [_label(task, row[at], where) for where, row in whole]
    elif "index" in names or "id" in names:
        at = names.index("index" if "index" in names else "id")
        index = [_whole_number(row[at], where) for where, row in whole]
    return Split(
        texts_a=[row[columns[0]] for _, row in whole],
        texts_b=[row[columns[1]] for _, row in whole] if len(columns) == 2 else None,
        labels=labels,
        index=index,
        dropped=len(rows) - len(whole),
    )


def _read_msr(task: Task, split: str, file: Path) -> Split:
    """MRPC from the MSR corpus: its train file holds train and dev, told apart by the pairs in dev_ids.tsv."""
    names, rows = _tsv_rows(file)
    if split != "test":
        ids = (_column("#1 ID", names, file), _column("#2 ID", names, file))
        _, dev_rows = _tsv_rows(file.with_name("dev_ids.tsv"), header=("#1 ID", "#2 ID"))
        dev_pairs = {tuple(pair) for _, pair in dev_rows}
        in_dev = [tuple(row[i] for i in ids if i < len(row)) in dev_pairs for _, row in rows]
        rows = [row for row, is_dev in zip(rows, in_dev, strict=True) if is_dev == (split == "dev")]
    return _from_tsv_rows(task, split, names, rows, file)


def _tsv_rows(file: Path, header: Sequence[str] = ()) -> tuple[list[str], Rows]:
    """Column names, from `header` where the file has no header line, and all rows. Quotes mean nothing."""
    try:
        # Lines end at \n alone: fields may hold what Python takes for line ends, such as \x85
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"this is not UTF-8 ({error})", where=file, mend="Download the file again") from error
    fields = [(number, line.rstrip("\r").split("\t")) for number, line in enumerate(lines, 1) if line.strip()]
    if header:
        return list(header), fields
    if not fields:
        raise UserError("the file is empty", where=file, mend="Download the file again")
    return fields[0][1], fields[1:]


def _column(name: str, names: Sequence[str], where: object) -> int:
    if name not in names:
        mend = "Use the task's official files, tab-separated with their header line"
        raise UserError(f"there is no column {name!r} among {', '.join(names)}", where=where, mend=mend)
    return list(names).index(name)


def _label(task: Task, text: str, where: str) -> Any:
    """The id of a label string, or the score of a regression."""
    if text in task.labels:
        return task.labels.index(text)
    try:
        if not task.labels:
            return float(text)
    except ValueError:
        pass
    wanted = f"one of {', '.join(task.labels)}" if task.labels else "a number"
    raise UserError(f"the label is {text!r}, not {wanted}", where=where, mend="Use the task's official files")


def _whole_number(text: str, where: str) -> int:
    if not text.isdecimal():
        raise UserError(f"the index is {text!r}, not a number", where=where, mend="Use the task's official files")
    return int(text)


# The hub's parquet files


def _hub_columns(name: str, split: str) -> Mapping[str, Sequence[Any]]:
    from datasets import load_dataset

    try:
        rows = load_dataset(HUB, name, split=_hub_split(split))
    except (ConnectionError, FileNotFoundError) as error:
        mend = "Try again with a connection, or give the folder of the official TSV files with --glue.path"
        raise UserError(f"the hub gave nothing ({error})", where=f"{HUB} {name}", mend=mend) from error
    return {column: list(rows[column]) for column in rows.column_names}


def _parquet_columns(files: Sequence[Path]) -> Mapping[str, Sequence[Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = pa.concat_tables([parquet.read_table(file) for file in files])
    except pa.ArrowInvalid as error:
        raise UserError(f"this is not parquet ({error})", where=files[0], mend="Download the file again") from error
    return table.to_pydict()


def _from_hub_columns(task: Task, split: str, columns: Mapping[str, Sequence[Any]], where: object) -> Split:
    """Rows from the hub's columns; test labels, -1 there, become None."""
    names = list(columns)
    for name in (*task.hub_texts, "label", "idx"):
        _column(name, names, where)
    labelled = not split.startswith("test")
    texts = [list(columns[name]) for name in task.hub_texts]
    kind = int if task.labels else float
    return Split(
        texts_a=texts[0],
        texts_b=texts[1] if len(texts) == 2 else None,
        labels=[kind(label) for label in columns["label"]] if labelled else None,
        index=list(range(len(texts[0]))) if labelled else [int(i) for i in columns["idx"]],
    )
