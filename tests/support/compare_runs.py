"""Are two run folders the same but for times? And is a folder whole, at any instant of a run?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
from safetensors import safe_open

TIMES = frozenset({"started", "finished", "seconds", "tokens_per_second", "command", "seal"})
"""Keys whose values differ from run to run; a seal covers the times beside it."""
UNIT_LOGS = ("tokens/metrics.jsonl", "hardness/metrics.jsonl")
"""One line a unit, in the order in which units were made."""
TEMPORARY = re.compile(r".*-\d+-[0-9a-f]{8}")
CHECKPOINT_FILES = {"model.safetensors", "optimizer.safetensors", "state.json"}


def without_times(value: Any) -> Any:
    """A JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {key: without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [without_times(inner) for inner in value] if isinstance(value, list) else value


def files_of(folder: Path) -> dict[str, Path]:
    """Every file below a folder by its relative name, but curves, which are made from metrics.jsonl."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".tfevents." not in path.name)
    return {str(path.relative_to(folder)): path for path in files}


def rows_of(folder: Path) -> int:
    """Rows in all shards below a folder."""
    return sum(read_shard(path).num_rows for path in folder.rglob("shards/*.arrow"))


def read_shard(path: Path) -> pa.Table:
    """All of a shard, by pyarrow alone."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all()


def differences(there: Path, expected: Path, *, writers: int = 1) -> list[str]:
    """In what a run folder differs from an undisturbed one, times aside; also by files too many, such as temporaries.

    `writers`: how many worked at the same time, each of which may log a unit it lost the race for.
    """
    ours, theirs = files_of(there), files_of(expected)
    found = [f"{name} is missing" for name in sorted(set(theirs) - set(ours))]
    found += [f"{name} is too many" for name in sorted(set(ours) - set(theirs))]
    for name in sorted(set(ours) & set(theirs)):
        if name in UNIT_LOGS:
            same = _unit_lines_fit(_lines(ours[name]), _lines(theirs[name]), writers)
        else:
            same = _comparable(ours[name]) == _comparable(theirs[name])
        found += [] if same else [f"{name} differs"]
    return found


def _comparable(path: Path) -> Any:
    if path.suffix == ".arrow":
        table = read_shard(path)
        return table.schema.metadata, table.to_pydict()
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return _lines(path)
    return path.read_bytes()


def _lines(path: Path) -> list[Any]:
    return [without_times(json.loads(line)) for line in path.read_text().splitlines()]


def _unit_lines_fit(ours: list[Any], theirs: list[Any], writers: int) -> bool:
    """Every line is one of the undisturbed run's; a writer killed between a commit and its line has left it out."""
    return all(line in theirs and ours.count(line) <= writers for line in ours)


def faults_of(there: Path, expected: Path) -> list[str]:
    """What is not whole in a run folder that a fault has just interrupted.

    Shards and commit records under their final names are those of the undisturbed run, and checkpoints are complete.
    """
    found = []
    for name, path in files_of(there).items():
        if any(TEMPORARY.fullmatch(part) for part in path.relative_to(there).parts):
            continue
        try:
            if path.parent.name in ("shards", "commits") and not _is_of(path, expected / name):
                found.append(f"{name} is not what this run makes")
            elif path.suffix == ".json":
                json.loads(path.read_text())
        except (pa.ArrowException, OSError, ValueError) as error:
            found.append(f"{name} is not whole: {error}")
        if path.parent.name == "commits" and not (path.parents[1] / f"shards/shard-{path.stem}.arrow").exists():
            found.append(f"{name} vouches for no shard")
    for folder in there.rglob("checkpoints/*"):
        if not TEMPORARY.fullmatch(folder.name):
            found += [f"{folder.relative_to(there)}: {what}" for what in _checkpoint_faults(folder)]
    return found


def _is_of(path: Path, expected: Path) -> bool:
    return expected.exists() and _comparable(path) == _comparable(expected)


def _checkpoint_faults(folder: Path) -> list[str]:
    if not re.fullmatch(r"step-\d{8}", folder.name):
        return ["no name of a checkpoint"]
    missing = CHECKPOINT_FILES - {path.name for path in folder.iterdir()}
    if missing:
        return [f"{name} is missing" for name in sorted(missing)]
    try:
        for name in ("model.safetensors", "optimizer.safetensors"):
            with safe_open(folder / name, "numpy") as file:
                for key in file.keys():  # noqa: SIM118  not a dict
                    file.get_tensor(key)
    except Exception as error:  # safetensors raises its own error, which is an Exception
        return [f"not whole: {error}"]
    return []
