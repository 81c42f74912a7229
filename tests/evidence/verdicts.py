"""The rules of docs/results/claims.md."""

from __future__ import annotations

from typing import Any


def default_candidates(continued: dict[str, Any]) -> list[str]:
    """Strategies beyond the papers' that could become the default."""
    return []
