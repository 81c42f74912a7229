"""glibc keeps freed memory once told to."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from hardmask.pipeline.allocator import keep_freed_memory
if not keep_freed_memory():
    sys.exit(3)
import torch
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):  # the heap needs a few rounds to find its size
    before = faults()
    block = [torch.ones(2 * 2**20) for _ in range(8)]
    del block
print((faults() - before) * resource.getpagesize())
"""


def test_blocks_of_the_size_of_freed_ones_need_no_new_pages():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2**20
