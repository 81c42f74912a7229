"""Flip bits of a run folder's files and cut them, and see whether that is found and harms no reader."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardmask.pipeline import checkpoint
from hardmask.pipeline.errors import UserError
from hardmask.pipeline.reader import concatenate
from hardmask.pipeline.runfolder import RunFolder
from hardmask.pipeline.shard_folder import ShardFolder
from hardmask.pipeline.verify import verify_run

KINDS = {
    "shards": ("tokens/shards/*", "hardness/shards/*"),
    "commit records": ("tokens/commits/*", "hardness/commits/*"),
    "manifests and plan": ("*/manifest.json", "*/metadata.json", "tokens/plan.json"),
    "checkpoints": ("mlm/*/training/checkpoints/step-*/*",),
    "models": ("alm/*/model.safetensors", "mlm/*/model.safetensors", "alm/*/config.json", "mlm/*/config.json"),
}
"""What a run folder vouches for, by glob."""


@dataclass(frozen=True)
class Damage:
    """What is done to a file: a bit flipped, or all from a byte on cut away."""

    path: Path
    bit: int = -1
    cut: int = -1

    def __str__(self) -> str:
        return f"{self.path} " + (f"bit {self.bit} flipped" if self.cut < 0 else f"cut to {self.cut} bytes")

    def apply(self) -> None:
        """Do it."""
        data = bytearray(self.path.read_bytes())
        if self.cut >= 0:
            del data[self.cut :]
        else:
            data[self.bit // 8] ^= 1 << self.bit % 8
        self.path.write_bytes(data)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Do it for the length of a block."""
        data = self.path.read_bytes()
        try:
            self.apply()
            yield
        finally:
            self.path.write_bytes(data)


def files_of(folder: Path, kind: str) -> list[Path]:
    """The files of a kind that are there."""
    return [path for pattern in KINDS[kind] for path in sorted(folder.glob(pattern))]


def random_flips(folder: Path, kind: str, count: int, rng: np.random.Generator) -> list[Damage]:
    """So many single bits, of files drawn evenly."""
    paths = files_of(folder, kind)
    picked = [paths[i] for i in rng.integers(len(paths), size=count)]
    return [Damage(path, bit=int(rng.integers(8 * path.stat().st_size))) for path in picked]


def cuts(path: Path, parts: int = 50) -> list[Damage]:
    """A file cut at every 1/50 of its length."""
    size = path.stat().st_size
    return [Damage(path, cut=cut) for cut in sorted({size * part // parts for part in range(parts)})]


def check_flips(folder: str, expected: str, kind: str, count: int, seed: list[int], out: str) -> int:
    """In a process of its own, which damaged bytes might bring down: flips into `out`, one JSON object."""
    rng = np.random.default_rng(seed)
    return _check(Path(folder), Path(expected), random_flips(Path(folder), kind, count, rng), Path(out))


def check_cuts(folder: str, expected: str, kind: str, files: int, seed: list[int], out: str) -> int:
    """The same for cuts of so many files."""
    rng = np.random.default_rng(seed)
    paths = files_of(Path(folder), kind)
    picked = rng.choice(len(paths), size=min(files, len(paths)), replace=False)
    return _check(Path(folder), Path(expected), [cut for i in picked for cut in cuts(paths[i])], Path(out))


def _check(folder: Path, expected: Path, damages: list[Damage], out: Path) -> int:
    rows = {kind: _all_rows(expected / kind) for kind in ("tokens", "hardness")}
    whole = _failures(folder, rows, None)
    failures = [f"before any damage: {failure}" for failure in whole]
    for damage in damages:
        print(damage, flush=True)  # the last one shows where a process ended that did not return
        with damage.applied():
            failures += [f"{damage}: {failure}" for failure in _failures(folder, rows, damage.path)]
    compared = len(damages) * sum(len(values["length"]) for values in rows.values())
    out.write_text(json.dumps({"injected": len(damages), "rows": compared, "failures": failures}))
    return 0


def _failures(folder: Path, rows: dict[str, dict[str, np.ndarray]], damaged: Path | None) -> list[str]:
    """What should not have happened; `damaged` is the file that verifying must name, None: it must name nothing."""
    found = []
    findings = verify_run(RunFolder(folder), 3)
    named = {finding.path for finding in findings}
    if damaged is None:
        found += [f"verify finds {named}"] if named else []
    elif not {str(damaged), str(damaged.parent)} & named:
        found.append(f"verify names {sorted(named)}")
    readers: list[Callable[[], str]] = [lambda kind=kind: _read(folder / kind, rows[kind]) for kind in rows]
    readers += [lambda path=path: _load(path) for path in sorted(folder.glob("mlm/*/training/checkpoints"))]
    for read in readers:
        try:
            found += [what] if (what := read()) else []
        except UserError as error:
            found += [f"with nothing damaged: {error}"] if damaged is None else []
        except Exception:
            found.append(f"a reader crashed: {traceback.format_exc()}")
    return found


def _all_rows(folder: Path) -> dict[str, np.ndarray]:
    shards = ShardFolder(folder)
    units = [entry["unit"] for entry in shards.manifest["units"]]
    return vars(concatenate([rows for unit in units for rows in shards.read_unit(unit)]))


def _read(folder: Path, expected: dict[str, np.ndarray]) -> str:
    """Read all rows; says so if they are not those expected, which is worse than an error."""
    found = _all_rows(folder)
    different = [name for name, values in expected.items() if not np.array_equal(found[name], values)]
    return f"wrong rows of {folder.name}: {different}" if different else ""


def _load(folder: Path) -> str:
    """Open the newest whole checkpoint; what it holds was verified on the way."""
    with contextlib.redirect_stderr(None):
        newest = checkpoint.newest(folder)
    return "no checkpoint is seen" if newest is None else ""
