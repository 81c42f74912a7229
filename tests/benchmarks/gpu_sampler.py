"""Masks of a batch of the paper's size on the GPU."""

from __future__ import annotations

from gpu_head import place
from measure import Comparison
from sampler import comparison_of


def comparisons(quick: bool, device: str) -> list[Comparison]:
    rows, length = (3, 16) if quick else (2_560, 512)
    limits = {"rounds": 2 if quick else 41, "limit_s": 2 if quick else 10}
    return [comparison_of(rows, length, device, implementation=place(device)["implementation"], **limits)]
