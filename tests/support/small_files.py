"""A disk that is full, for files of this process."""

from __future__ import annotations

import contextlib
import resource
import signal


@contextlib.contextmanager
def small_files(limit=2_000):
    """No file of this process grows past so many bytes: not to be left on while pytest itself may write to one."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
