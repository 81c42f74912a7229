"""How the C library treats memory that torch gives back on a CPU."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_KEPT_BLOCK = 32 * 2**20  # where glibc's own threshold ends; larger ones would leave holes as large
KEPT_BYTES = 512 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of returning it to the system page by page.

    Activations are else mapped anew in every pass, and their pages zeroed when first touched, which on virtual
    machines can take as long as the arithmetic. Up to half a GiB stays, in blocks of at most 32 MiB. For the whole
    process.

    Returns:
        Whether the C library has such a setting; where it has none nothing happens.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK)) & bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
