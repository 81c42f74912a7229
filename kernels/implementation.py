"""Which implementation of an operation runs: its plain torch reference or its Triton twin."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

IMPLEMENTATIONS = ("reference", "triton")
LEAST_CAPABILITY = (8, 0)  # of CUDA devices the Triton twins are built for


def choose(implementation: str | None, device: torch.device, dtype: torch.dtype | None = None) -> str:
    """The implementation to run on a device; None: Triton where it can run, else the reference.

    "triton" works on CUDA devices of compute capability 8.0 and newer, and on any device in Triton's interpreter
    (TRITON_INTERPRET=1 in the environment), which is for tests. float64, if that is the dtype, is the reference's.

    Raises:
        ValueError: no such implementation, or it cannot run on this device.
    """
    if implementation is None:
        return "triton" if _runs_triton(device) and dtype != torch.float64 else "reference"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"there is no implementation {implementation!r}; choose one of {', '.join(IMPLEMENTATIONS)}")
    if implementation == "triton" and not (_runs_triton(device) or os.environ.get("TRITON_INTERPRET") == "1"):
        raise ValueError(
            f"Triton's kernels do not run on {device}; they need a CUDA device of compute capability "
            f"{'.'.join(map(str, LEAST_CAPABILITY))} or newer and the package triton. Use implementation='reference'"
        )
    if implementation == "triton" and dtype == torch.float64:
        raise ValueError("the values are float64, which Triton's kernels do not compute in; use the reference")
    return implementation


@functools.cache
def _runs_triton(device: torch.device) -> bool:
    return (
        device.type == "cuda"
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY
        and importlib.util.find_spec("triton") is not None
    )
