"""Tables and pictures of what was found."""

from __future__ import annotations

from pathlib import Path

from settings import Setting


def write(kept: Path, setting: Setting) -> None:
    """Not there yet."""
