"""Progress bars of long steps."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def bar(what: str, total: float | None, *, quiet: bool, unit: str = "tok", done: float = 0) -> Any:
    """A tqdm bar with rate and time left; silent with `quiet` or where standard error is no terminal.

    `done`: how much of the total earlier runs did; it counts as finished but not in the rate.
    """
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit=unit,
        unit_scale=True,
        disable=quiet or not sys.stderr.isatty(),
        dynamic_ncols=True,
        mininterval=0.5,
        leave=True,
    )
