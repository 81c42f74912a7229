"""The processes of one training, as torchrun started them; one process is the ordinary case."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from hardmask.pipeline.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """This process among `world`."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            dist.barrier()

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, in place; stays on the device."""
        if self.world > 1:
            dist.all_reduce(value)
        return value


def start(device: str) -> Ranks:
    """Join the process group torchrun describes in the environment, with nccl on CUDA and gloo on CPU."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Ranks()
    ranks = Ranks(int(os.environ["RANK"]), world, int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        # Stages that one process does alone (tokens, scoring) keep the others waiting for as long as they take.
        kind = choose_device(device, ranks).type
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=datetime.timedelta(days=7))
    return ranks


def choose_device(wanted: str, ranks: Ranks | None = None) -> torch.device:
    """The device of this process; CUDA asked for and absent is refused."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "torch sees no CUDA device",
            where="--device cuda",
            mend="Install a CUDA build of torch, or leave --device away",
        )
    device = torch.device("cuda", ranks.local_rank if ranks else 0)
    torch.cuda.set_device(device)
    return device
