"""Stands in for hypothesis where it is not installed: property tests are skipped, the others in their files run."""

from __future__ import annotations

import importlib.machinery
import sys
from unittest.mock import MagicMock

import pytest


class Settings:
    """`hypothesis.settings` as a decorator that does nothing, with profiles that are not kept."""

    def __init__(self, *_args, **_kwargs):
        pass

    def __call__(self, test):
        return test

    @staticmethod
    def register_profile(*_args, **_kwargs):
        pass

    load_profile = register_profile


def given(*_args, **_kwargs):
    return pytest.mark.skip(reason="hypothesis is not installed")


def install():
    """Make `import hypothesis` find this; returns its settings."""
    absent = MagicMock(given=given, settings=Settings, example=lambda *_args, **_kwargs: lambda test: test)
    sys.modules["hypothesis"] = absent
    for name in ("strategies", "extra", "extra.numpy"):
        sys.modules[f"hypothesis.{name}"] = MagicMock()
    absent.strategies = sys.modules["hypothesis.strategies"]
    for name in ("hypothesis", *(f"hypothesis.{part}" for part in ("strategies", "extra", "extra.numpy"))):
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)  # torch's compiler looks for it
    return Settings
