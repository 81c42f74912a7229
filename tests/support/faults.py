"""Run the command in children of a warm process, and stop, kill or starve them at chosen instants."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORKSERVER = Path(__file__).with_name("forkserver.py")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # a thread of pyarrow's that a fork would lose
}
PIPE_BYTES = 1 << 20  # what a child can say before it is read
WRITES = ("open", "os.link", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
"""Audit events that change a folder, where `open` opens for writing; Python raises them just before the change."""


@dataclass(frozen=True)
class Watched:
    """Send the child a signal just before its `number`-th write (from 1) below `folder`; 0: count only."""

    folder: Path
    number: int = 0
    signal_name: str = "SIGKILL"
    events: Sequence[str] = WRITES

    @property
    def seen(self) -> int:
        """Writes so far."""
        return int(Path(f"{self.folder}.writes").read_text()[:8])


@dataclass(frozen=True)
class Ended:
    """How a child ended: exit code (negative: the signal that killed it), after how long, and what it said."""

    code: int
    seconds: float
    text: str


@dataclass
class Child:
    """A running command."""

    warm: Warm
    pid: int
    output: int
    """The end for reading of the pipe it writes to: a file would count against its limits."""
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._descriptor = os.pidfd_open(self.pid)
        self._text = b""

    def text(self) -> str:
        """What it has said so far."""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self.output, 1 << 16):
                self._text += more
        return self._text.decode(errors="replace")

    def running(self, seconds: float = 0.0) -> bool:
        """Whether it still runs after at most so many seconds."""
        return not select.select([self._descriptor], [], [], seconds)[0]

    def send(self, number: int) -> None:
        """A signal; without effect once it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def stopped(self, seconds: float = 60.0) -> bool:
        """Wait for it to stop by SIGSTOP; False where it ends instead."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if not self.running(0.005):
                return False
            if Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T":
                return True
        raise TimeoutError(f"neither stopped nor ended: {self.text()}")

    def ended(self, seconds: float = 300.0) -> Ended:
        """Wait for its end; a child that takes longer is killed, and the test fails."""
        late = self.running(seconds)
        if late:
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
        took = time.monotonic() - self.started
        code = self.warm.ask({"reap": self.pid})["code"]
        text = self.text()
        os.close(self._descriptor)
        os.close(self.output)
        assert not late, f"no end after {seconds} s: {text[-3000:]}"
        return Ended(code, took, text)


class Warm:
    """A process that has imported everything and forks a child a command."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self._count, self._one_at_a_time = scratch, itertools.count(), threading.Lock()
        self._server = subprocess.Popen(
            [sys.executable, str(FORKSERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT},
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The server's answer to one request."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        with self._one_at_a_time:
            self._server.stdin.write(json.dumps(request, default=str) + "\n")
            self._server.stdin.flush()
            answer = self._server.stdout.readline()
        assert answer, "the fork server has died"
        return json.loads(answer)

    def start(
        self,
        arguments: Sequence[Any],
        *,
        watched: Watched | None = None,
        file_bytes: int = 0,
        function: str = "hardmask.pipeline.cli:main",
    ) -> Child:
        """Run `hardmask ARGUMENTS` in a child, or a function MODULE:NAME of them that returns an exit code.

        `file_bytes`: no file of it can grow past that.
        """
        output = self.scratch / f"output-{next(self._count):05d}"
        os.mkfifo(output)
        descriptor = os.open(output, os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        request = {
            "function": function,
            "arguments": list(arguments),
            "output": str(output),
            "file_bytes": file_bytes,
            "watched": watched
            and {
                "folder": str(watched.folder),
                "events": list(watched.events),
                "number": watched.number,
                "signal_name": watched.signal_name,
            },
        }
        return Child(self, self.ask(request)["pid"], descriptor)

    def run(self, arguments: Sequence[str], **options: Any) -> Ended:
        """`start`, and wait for the end."""
        return self.start(arguments, **options).ended()

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)


@contextlib.contextmanager
def warm(scratch: Path) -> Iterator[Warm]:
    """A `Warm` for the length of a block."""
    server = Warm(scratch)
    try:
        yield server
    finally:
        server.close()
