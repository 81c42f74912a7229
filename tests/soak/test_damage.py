"""Flipped bits and cut files: all are found, none brings a reader down, and repair makes whole what it can."""

from __future__ import annotations

import json
import shutil

import damage
import numpy as np
import pytest
from faults import Watched
from undisturbed import FAULTS, FLIPS, trials

from hardmask.pipeline.errors import DONE, USER_ERROR

FLIPPED = 500
"""Bits flipped by `make test`."""
ENDED_BY_KILL = -9
kinds = pytest.mark.parametrize("kind", damage.KINDS)


@pytest.fixture(scope="session")
def half_trained(undisturbed, tmp_path_factory):
    """A run folder of which everything is there: finished stages, a finished MLM, and checkpoints of the next."""
    for share in (0.9, 0.8, 0.7, 0.6, 0.5):
        place = undisturbed.before("pretrain", tmp_path_factory.mktemp("half") / "run")
        watched = Watched(place, number=int(share * undisturbed.writes["pretrain"]))
        assert undisturbed.warm.run(undisturbed.command("pretrain", place), watched=watched).code == ENDED_BY_KILL
        if all(damage.files_of(place, kind) for kind in damage.KINDS):
            return place
    raise AssertionError("no instant with both a finished model and checkpoints")


def check(undisturbed, folder, function, kind, count, seed, line):
    """Injected damages; fails with those that were not found or did harm."""
    copy = folder.parent / f"{folder.name}-{function}-{kind.replace(' ', '-')}-{seed[-1]}"
    shutil.copytree(folder, copy)
    out = copy.with_suffix(".json")
    arguments = (copy, undisturbed.after("glue"), kind, count, seed, out)
    ended = undisturbed.warm.start(arguments, function=f"damage:{function}").ended(seconds=1_000)
    assert ended.code == DONE, ended.text[-5_000:]
    shutil.rmtree(copy)
    found = json.loads(out.read_text())
    line.injected += found["injected"]
    line.survived += found["injected"] - len(found["failures"])
    line.rows_compared += found["rows"]
    line.differences += len(found["failures"])
    assert not found["failures"], found["failures"][:10]
    return found["injected"]


@pytest.mark.parametrize("count", [FLIPPED, pytest.param(FLIPS, marks=pytest.mark.soak)])
@kinds
def test_flipped_bits_are_found(undisturbed, half_trained, tally, seed, kind, count):
    line = tally(f"one bit of {kind} flipped")
    share = -(-count // len(damage.KINDS) // 2)
    tried = trials(
        lambda part: check(undisturbed, half_trained, "check_flips", kind, share, [*seed, part], line), range(2)
    )
    assert tried >= count / len(damage.KINDS)


@pytest.mark.parametrize("files", [1, pytest.param(1_000, marks=pytest.mark.soak)])
@kinds
def test_cut_files_are_found(undisturbed, half_trained, tally, seed, kind, files):
    line = tally(f"files of {kind} cut at every 1/50")
    assert check(undisturbed, half_trained, "check_cuts", kind, files, [*seed, 0], line) >= 25


@pytest.mark.parametrize("count", [1, pytest.param(FAULTS, marks=pytest.mark.soak)])
def test_repair_makes_whole_what_was_damaged(undisturbed, tmp_path, tally, seed, count):
    line = tally("1 to 4 damages, then repair")

    def trial(index):
        rng = np.random.default_rng([*seed, index])
        place = tmp_path / f"run-{index}"
        shutil.copytree(undisturbed.after("score"), place)
        paths = [path for kind in list(damage.KINDS)[:3] for path in damage.files_of(place, kind)]
        picked = rng.choice(len(paths), size=int(rng.integers(1, 5)), replace=False)
        for path in (paths[i] for i in picked):
            what = rng.integers(3)
            if what == 0:
                path.unlink()
            else:
                size = path.stat().st_size
                bit, cut = (int(rng.integers(8 * size)), -1) if what == 1 else (-1, int(rng.integers(size)))
                damage.Damage(path, bit=bit, cut=cut).apply()
        verify = ["verify", str(place), "--level", "3"]
        found = undisturbed.warm.run(verify)
        assert found.code == USER_ERROR, found.text
        assert all(paths[i].name in found.text for i in picked), (found.text, [paths[i] for i in picked])
        repaired = undisturbed.warm.run(["repair", str(place)])
        assert repaired.code == DONE, repaired.text
        again = undisturbed.warm.run(verify)
        assert again.code == DONE, again.text
        undisturbed.finish("score", place, line, writers=2)
        line.survived += len(picked)
        return len(picked)

    line.injected = trials(trial, range(count))
