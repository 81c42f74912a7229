"""Training checkpoints: weights and optimizer as safetensors, the step as JSON; whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from hardmask.pipeline.errors import UserError
from hardmask.pipeline.publish import folder_published_as, write_json
from hardmask.pipeline.runfolder import read_json


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write `folder/step-NNNNNNNN`, then remove the older ones."""
    with folder_published_as(folder / f"step-{step:08d}") as beside:
        safetensors.torch.save_model(model, str(beside / "model.safetensors"))
        safetensors.torch.save_file(_optimizer_tensors(optimizer), beside / "optimizer.safetensors")
        write_json(beside / "state.json", {"step": step})
    for older in _saved(folder)[:-1]:
        shutil.rmtree(older)


def load_newest(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore the newest checkpoint in place and return its step; 0 where there is none."""
    found = _saved(folder)
    if not found:
        return 0
    newest = found[-1]
    try:
        safetensors.torch.load_model(model, str(newest / "model.safetensors"))
        tensors = safetensors.torch.load_file(newest / "optimizer.safetensors")
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(read_json(newest / "state.json")["step"])
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(
            f"this checkpoint is damaged ({error})",
            where=newest,
            mend="Remove it; the run then starts from its beginning",
        ) from error


def _saved(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """INDEX.NAME → tensor, INDEX counting parameters over all groups."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{key}": torch.as_tensor(value).contiguous()
        for index, values in state.items()
        for key, value in values.items()
    }
