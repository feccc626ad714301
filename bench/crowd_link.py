"""A crowd seen from the process that started it."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

import msgspec

from bench.crowd_messages import GO, LINE_BYTES_MAX, Failed, Job, Progress, Ready, Result, from_line
from domain.errors import BackendError
from stack.errors import ChildFailed
from stack.paths import PROJECT_ROOT
from stack.process import Process

LANES_MAX: Final = 512
"""Connections of a crowd."""
SILENCE_MAX_S: Final = 120.0
"""A crowd that says nothing for so long is stuck; it may be minting tokens before it is ready."""


class CrowdLink:
    """A running crowd: `ready`, then `go`. Used as a context manager; leaving it leaves no process behind."""

    def __init__(self, job: Job, log: Path) -> None:
        to_child, self._go = os.pipe()
        self._answers, from_child = os.pipe()
        try:
            self._process = Process(
                (sys.executable, "-m", "bench.crowd_process", str(to_child), str(from_child), _text(job)),
                log=log,
                env={"PYTHONPATH": str(PROJECT_ROOT)},
                pass_fds=(to_child, from_child),
            )
        except BaseException:
            os.close(self._go)
            os.close(self._answers)
            raise
        finally:
            os.close(to_child)
            os.close(from_child)
        self._lines = asyncio.StreamReader(limit=LINE_BYTES_MAX)
        self._transport: asyncio.BaseTransport | None = None

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        reader = os.fdopen(self._answers, "rb", buffering=0)
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._lines), reader
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the process if it still runs."""
        self._process.destroy()
        if self._transport is not None:
            self._transport.close()
        os.close(self._go)

    async def ready(self) -> int:
        """Wait until everybody is connected and sees the sale; returns the number of connections.

        Raises:
            BackendError: the crowd cannot see the sale.
            ChildFailed: its process died.
        """
        message = await self._next()
        if isinstance(message, Failed):
            raise BackendError(f"crowd: {message.why}")
        if not isinstance(message, Ready):
            raise BackendError(f"crowd: told {type(message).__name__} before it was ready")
        return message.lanes

    async def go(self, on_progress: Callable[[Progress], None]) -> Result:
        """Let everybody loose and wait until all have their answer.

        Raises:
            BackendError: it is stuck.
            ChildFailed: its process died.
        """
        os.write(self._go, GO)
        while True:
            message = await self._next()
            match message:
                case Progress():
                    on_progress(message)
                case Result():
                    return message
                case _:
                    raise BackendError(f"crowd: told {type(message).__name__} in the middle of the sale")

    async def _next(self) -> Progress | Ready | Result | Failed:
        try:
            async with asyncio.timeout(SILENCE_MAX_S):
                line = await self._lines.readline()
        except TimeoutError:
            raise BackendError(f"crowd: has said nothing for {SILENCE_MAX_S:.0f} s") from None
        if not line.endswith(b"\n"):
            await self._process.exited.wait()
            raise ChildFailed("crowd", self._process.code, self._process.log_tail())
        return from_line(line)


def _text(job: Job) -> str:
    return msgspec.json.encode(job).decode()
