"""Two processes on one run folder: commits are first-writer-wins, and one that was believed dead harms nothing."""

from __future__ import annotations

import signal

import numpy as np
from faults import WRITES, Watched
from undisturbed import HALF, cases, trials

from hardmask.pipeline.errors import DONE, USER_ERROR

WRITERS, TRAINERS = ("tokens", "score"), ("alm", "pretrain")


@cases(WRITERS, few=1, many=HALF)
def test_two_writers_of_which_one_is_killed(undisturbed, tmp_path, tally, seed, verb, count):
    line = tally(f"SIGKILL of one of two writers of {verb}")

    def trial(index):
        rng = np.random.default_rng([*seed, index])
        place = undisturbed.before(verb, tmp_path / f"run-{index}")
        both = [undisturbed.warm.start(undisturbed.command(verb, place)) for _ in range(2)]
        killed, other = both if rng.random() < 0.5 else both[::-1]
        killed.running(rng.uniform(0, 1.5 * undisturbed.seconds[verb]))
        killed.send(signal.SIGKILL)
        fired = killed.ended().code == -signal.SIGKILL
        line.add(injected=fired)
        ended = other.ended()
        assert ended.code == DONE, ended.text
        undisturbed.require_whole(place)
        undisturbed.finish(verb, place, line, writers=2)
        return int(fired)

    index = 0
    while line.injected < count:
        assert index < 20 * count, "signals come too late"
        trials(line, trial, range(index, index + count))
        index += count


@cases(WRITERS, few=1, many=HALF)
def test_a_writer_that_was_believed_dead(undisturbed, tmp_path, tally, rng, verb, count):
    """One is stopped just before it publishes or writes anything; another finishes; then the first one goes on."""
    line = tally(f"SIGSTOP of a writer of {verb} until another has finished")

    def trial(point):
        place = undisturbed.before(verb, tmp_path / f"run-{point}")
        # Every second one before it publishes a shard, the others before any change.
        events = ("os.link",) if point % 2 else WRITES
        watched = Watched(place, number=1 + point // 2, signal_name="SIGSTOP", events=events)
        believed_dead = undisturbed.warm.start(undisturbed.command(verb, place), watched=watched)
        fired = believed_dead.stopped()
        line.add(injected=fired)
        ended = undisturbed.warm.run(undisturbed.command(verb, place))
        assert ended.code == DONE, ended.text
        undisturbed.require_whole(place)
        believed_dead.send(signal.SIGCONT)
        ended = believed_dead.ended()
        assert ended.code == DONE, ended.text
        undisturbed.finish(verb, place, line, writers=2)
        return int(fired)

    points = rng.choice(max(20, count), size=count, replace=False)
    trials(line, trial, map(int, points))
    assert line.injected >= count // 2


@cases(TRAINERS, few=1, many=HALF)
def test_a_second_trainer_is_refused(undisturbed, tmp_path, tally, rng, verb, count):
    """While one trains, or is stopped in the middle of it, another is told so; then the first one goes on."""
    line = tally(f"a second process into {verb}")

    def trial(point):
        place = undisturbed.before(verb, tmp_path / f"run-{point}")
        watched = Watched(place, number=point, signal_name="SIGSTOP")
        first = undisturbed.warm.start(undisturbed.command(verb, place), watched=watched)
        fired = first.stopped()
        line.add(injected=fired)
        second = undisturbed.warm.run(undisturbed.command(verb, place))
        assert second.code in (DONE, USER_ERROR), second.text
        assert second.code == DONE or "another process trains here" in second.text, second.text
        first.send(signal.SIGCONT)
        ended = first.ended()
        assert ended.code == DONE or "another process" in ended.text, ended.text
        undisturbed.finish(verb, place, line)
        return int(fired)

    points = 1 + rng.choice(undisturbed.writes[verb], size=min(count, undisturbed.writes[verb]), replace=False)
    trials(line, trial, map(int, points))
    assert line.injected >= count // 2
