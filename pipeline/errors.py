"""What can go wrong that is not a bug, and the exit codes of the command."""

from __future__ import annotations

DONE = 0
BUG = 1
USER_ERROR = 2
STOPPED = 75  # EX_TEMPFAIL of sysexits.h: run again to go on


class UserError(Exception):
    """Something the user must change: one line that says what, where, and how to mend it. Exit code 2."""

    def __init__(self, what: str, *, where: object = "", mend: str) -> None:
        """`what` went wrong, `where` (a file, flag or folder), and how to `mend` it."""
        place = f"{where}: " if str(where) else ""
        super().__init__(" ".join(f"{place}{what.rstrip('.')}. {mend.rstrip('.')}.".split()))


class Stopped(BaseException):
    """A signal asked the run to end; what was committed stays. Exit code 75.

    Like KeyboardInterrupt not an Exception, so that no `except Exception` swallows it.
    """
