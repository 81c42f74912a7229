"""Killed or stopped at any instant, a run that is started again ends with what an undisturbed one made."""

from __future__ import annotations

import signal

import numpy as np
from faults import Watched
from undisturbed import HALF, VERBS, cases, trials

from hardmask.pipeline.errors import DONE, STOPPED

GRACE_SECONDS = 10.0
"""What a signalled process may take to end."""
IN_A_ROW = 3
"""Faults of one run folder before it may finish, at most."""


def require_ended_by(number, ended, sent_after=0.0):
    """Killed; or stopped as the user can understand it: in time, one line, no traceback."""
    if number == signal.SIGKILL:
        assert ended.code == -number, ended.text
        return
    assert ended.code == STOPPED, ended.text
    assert ended.seconds - sent_after < GRACE_SECONDS, ended
    assert "Traceback" not in ended.text, ended.text
    assert ended.text.count("run the same command again") == 1, ended.text


def disturb(undisturbed, verb, place, rng, number):
    """One run with a signal at a random instant of the undisturbed run's length; whether it came before the end."""
    instant = rng.uniform(0, undisturbed.seconds[verb])
    child = undisturbed.warm.start(undisturbed.command(verb, place))
    child.running(instant)
    child.send(number)
    ended = child.ended()
    if ended.code == DONE or (number == signal.SIGTERM and ended.code == -signal.SIGTERM):
        return False  # finished already, or not yet listening
    require_ended_by(number, ended, instant)
    undisturbed.require_whole(place)
    return True


def at_random_instants(undisturbed, tmp_path, tally, seed, verb, count, number):
    """Up to IN_A_ROW signals to runs of one folder, then the comparison; until so many have come in time."""
    line = tally(f"{number.name} at a random instant of {verb}")

    def trial(index):
        rng = np.random.default_rng([*seed, index])
        place = undisturbed.before(verb, tmp_path / f"run-{index}")
        wanted = int(rng.integers(1, IN_A_ROW + 1))
        fired = 0
        for _ in range(3 * wanted):
            fired += disturb(undisturbed, verb, place, rng, number)
            if fired == wanted:
                break
        line.add(injected=fired)
        undisturbed.finish(verb, place, line)
        return fired

    index = 0
    while line.injected < count:
        assert index < 20 * count, "signals come too late"
        batch = range(index, index + max(2, (count - line.injected) // IN_A_ROW))
        trials(line, trial, batch)
        index = batch.stop


def before_writes(undisturbed, tmp_path, tally, rng, verb, count, number):
    """Before a file is opened for writing, renamed, linked or removed: before so many of them, or all; and again."""
    line = tally(f"{number.name} just before a write of {verb}")
    writes = undisturbed.writes[verb]

    def trial(point):
        place = undisturbed.before(verb, tmp_path / f"run-{point}")
        fired = 0
        for at in (point, 1 + point % 7):
            watched = Watched(place, number=at, signal_name=number.name)
            ended = undisturbed.warm.run(undisturbed.command(verb, place), watched=watched)
            if ended.code == DONE:
                break
            require_ended_by(number, ended)
            undisturbed.require_whole(place)
            fired += 1
        line.add(injected=fired)
        undisturbed.finish(verb, place, line)
        return fired

    points = 1 + rng.choice(writes, size=min(count, writes), replace=False)
    trials(line, trial, map(int, points))
    assert line.injected >= len(points)


@cases(VERBS, few=3)
def test_killed_at_random_instants(undisturbed, tmp_path, tally, seed, verb, count):
    at_random_instants(undisturbed, tmp_path, tally, seed, verb, count, signal.SIGKILL)


@cases(VERBS, few=1, many=HALF)
def test_stopped_at_random_instants(undisturbed, tmp_path, tally, seed, verb, count):
    at_random_instants(undisturbed, tmp_path, tally, seed, verb, count, signal.SIGTERM)


@cases(VERBS, few=1)
def test_killed_just_before_a_write(undisturbed, tmp_path, tally, rng, verb, count):
    before_writes(undisturbed, tmp_path, tally, rng, verb, count, signal.SIGKILL)


@cases(VERBS, few=1, many=HALF, brief=["tokens"])
def test_stopped_just_before_a_write(undisturbed, tmp_path, tally, rng, verb, count):
    before_writes(undisturbed, tmp_path, tally, rng, verb, count, signal.SIGTERM)
