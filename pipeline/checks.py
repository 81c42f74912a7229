"""Refusing a setting, with the flag that set it."""

from __future__ import annotations

import math
from typing import Any

from hardmask.pipeline.errors import UserError

SEED = "Give a whole number from 0 to 4294967295"


def check_field(config: Any, prefix: str, name: str, good: bool, mend: str) -> None:
    """Refuse the value of a field, such as of --masking's `rate`, unless it is good."""
    if not good:
        raise UserError(f"it is {getattr(config, name)}", where=f"{prefix}.{name.replace('_', '-')}", mend=mend)


def check_range(
    config: Any, prefix: str, *names: str, least: float = 0, above: float = -math.inf, below: float = math.inf
) -> None:
    """Refuse fields that are not finite numbers of at least `least`, and above and below those; None passes."""
    kind = f"above {above:g}" if above >= least else f"of at least {least:g}"
    limit = f" and below {below:g}" if math.isfinite(below) else ""
    for name in names:
        value = getattr(config, name)
        good = value is None or (least <= value < below and value > above)
        check_field(config, prefix, name, good, f"Give a number {kind}{limit}")
