"""Compile Triton kernels exactly as they are launched, for a GPU that need not be there.

    python tests/support/compile_only.py 90 [NAME ...]

calls the launch functions of `LAUNCHES` (all, or those named) on CPU tensors with a driver that says "a GPU of compute
capability 9.0" and launches nothing, and prints one JSON object a kernel: what it is, its registers, stack and shared
memory, and whether it uses Hopper's matrix instructions. Not in Triton's interpreter: TRITON_INTERPRET must be unset.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class AbsentGpu:
    """The part of a Triton driver that compiling needs."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def compiled(launch: Callable[[], Any], capability: int) -> list[dict[str, Any]]:
    """What became of every kernel that `launch` launches."""
    kernels = []
    run = JITFunction.run

    def compile_instead(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        kernels.append(run(self, *args, grid=grid, warmup=True, **kwargs))
        return kernels[-1]

    driver.set_active(AbsentGpu(capability))
    JITFunction.run = compile_instead
    try:
        launch()
    finally:
        JITFunction.run = run
        driver._active = None  # not reset_active(), which looks for a GPU
    return [_described(kernel) for kernel in kernels]


def _described(kernel: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {
        "kernel": kernel.metadata.name,
        "warps": kernel.metadata.num_warps,
        "stages": kernel.metadata.num_stages,
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack_bytes": int(re.search(r"STACK:(\d+)", usage)[1]),
        "shared_bytes": kernel.metadata.shared,
        "wgmma": "wgmma.mma_async" in kernel.asm["ptx"],
        "tma": "cp.async.bulk.tensor" in kernel.asm["ptx"],
    }


LAUNCHES: dict[str, Callable[[int], Callable[[], Any]]] = {}
"""Name -> function of the compute capability (80, 90) that gives the call to compile."""


def main(capability: str, *names: str) -> None:
    unknown = set(names) - set(LAUNCHES)
    if unknown:
        raise SystemExit(f"no such launch: {', '.join(unknown)}; there are {', '.join(LAUNCHES)}")
    for name in names or LAUNCHES:
        for kernel in compiled(LAUNCHES[name](int(capability)), int(capability)):
            print(json.dumps({"launch": name, "capability": int(capability), **kernel}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
