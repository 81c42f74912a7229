"""What every test shares."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any import of transformers or datasets
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch
from hypothesis import settings

settings.register_profile("hardmask", deadline=None, max_examples=50)
settings.load_profile("hardmask")


def pytest_collection_modifyitems(items):
    usable = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    for item in items:
        if item.get_closest_marker("gpu") and not usable:
            item.add_marker(pytest.mark.skip(reason="no CUDA device of compute capability 8.0 or newer"))
