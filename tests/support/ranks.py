"""In a process of a training: the command, with every batch of an MLM training written down, and a chosen end."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def ranked(environment: dict[str, str], log: str, *words: str) -> int:
    """`recorded` as one of several processes, which the environment describes."""
    os.environ.update(environment)
    return recorded(log, *words)


def recorded(log: str, *words: str) -> int:
    """`hardmask WORDS`; `log/rank-R.jsonl` gets [step from 1, sequence_id, epoch, positions, input_ids] of every row.

    DIES="RANK STEP SIGNAL" in the environment: that process sends itself the signal in that step, the first time.
    """
    from hardmask.pipeline import cli
    from hardmask.stage2_pretrain import mlm

    rank, died = int(os.environ.get("RANK", "0")), Path(log) / "died"
    dying = os.environ.get("DIES", "-1 0 SIGKILL").split()
    prepare = mlm.MaskedTokens.prepare

    def logged(self: mlm.MaskedTokens, batch, *arguments, **options):
        masked = prepare(self, batch, *arguments, **options)
        if (before := options.get("step")) is not None:
            step = before + 1
            if [rank, step] == [int(word) for word in dying[:2]] and not died.exists():
                died.touch()
                os.kill(os.getpid(), getattr(signal, dying[2]))
            with (Path(log) / f"rank-{rank}.jsonl").open("a") as file:
                for i in range(len(batch)):
                    row = [step, int(batch.sequence_id[i]), int(batch.epoch[i]), masked["positions"][i].tolist(),
                           masked["input_ids"][i].tolist()]  # fmt: skip
                    print(json.dumps(row), file=file)
        return masked

    mlm.MaskedTokens.prepare = logged  # type: ignore[method-assign]
    sys.argv = ["hardmask", *words]
    return cli.main()


if __name__ == "__main__":
    sys.exit(recorded(*sys.argv[1:]))
