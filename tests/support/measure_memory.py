"""How much memory a command takes at its height."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any


def rss_of(command: Sequence[str], **settings: Any) -> float:
    """Peak resident megabytes of a command that must succeed; `settings` go to subprocess.Popen."""
    process = subprocess.Popen(command, **settings)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return usage.ru_maxrss / 1024


def rss_of_function(function: Callable[[], Any]) -> float:
    """Peak resident megabytes of a function in a fork of this process, what the fork began with included.

    The fork must not need threads that were started before it.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
    _, status, usage = os.wait4(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, f"{function} failed in its process"
    return usage.ru_maxrss / 1024
