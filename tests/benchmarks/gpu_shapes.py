"""The scoring head on the GPU at other numbers of tokens, widths and vocabularies."""

from __future__ import annotations

from gpu_head import MAIN, QUICK, head
from measure import Comparison

SHAPES = (
    {"vocabulary": 50_304},
    {"tokens": 4_096},
    {"width": 768},
    {"tokens": 512},
    {"width": 1024},
    {"tokens": 67_584},
)


def comparisons(quick: bool, device: str) -> list[Comparison]:
    if quick:
        return [head({**QUICK, "tokens": 7}, quick, device, rounds=2, limit_s=2, everyone=False)]
    return [head({**MAIN, **shape}, quick, device, rounds=15, limit_s=8, everyone=False) for shape in SHAPES]
