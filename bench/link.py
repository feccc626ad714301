"""A measuring process seen from the one that started it: JSON documents, one a line, over pipes of its own."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, Self, TypeVar

from domain.errors import BackendError
from stack.errors import ChildFailed
from stack.paths import PROJECT_ROOT
from stack.process import Process

LINE_BYTES_MAX: Final = 1 << 28
"""A crowd tells all accepted order ids in one line: about 75 bytes each."""

M = TypeVar("M")


class ChildLink(Generic[M]):
    """Runs `python -m MODULE FD_IN FD_OUT JOB`. A context manager; leaving it leaves no process behind.

    Args:
        name: for messages.
        module: what to run.
        job: its last argument.
        log: where its stdout and stderr go.
        decode: makes a message of a line.
        silence_max_s: it is stuck when it has said nothing for so long.
    """

    def __init__(
        self, name: str, module: str, job: str, *, log: Path, decode: Callable[[bytes], M], silence_max_s: float
    ) -> None:
        self._name = name
        self._decode = decode
        self._silence_max_s = silence_max_s
        to_child, self._orders = os.pipe()
        self._answers, from_child = os.pipe()
        try:
            self._process = Process(
                (sys.executable, "-m", module, str(to_child), str(from_child), job),
                log=log,
                env={"PYTHONPATH": str(PROJECT_ROOT)},
                pass_fds=(to_child, from_child),
            )
        except BaseException:
            os.close(self._orders)
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
        os.close(self._orders)

    def say(self, line: bytes) -> None:
        """Tell the process something short, which fits into the pipe."""
        os.write(self._orders, line)

    async def hear(self) -> M:
        """Return the next message.

        Raises:
            BackendError: the process is stuck.
            ChildFailed: it died.
        """
        try:
            async with asyncio.timeout(self._silence_max_s):
                line = await self._lines.readline()
        except TimeoutError:
            raise BackendError(f"{self._name}: has said nothing for {self._silence_max_s:.0f} s") from None
        if not line.endswith(b"\n"):
            await self._process.exited.wait()
            raise ChildFailed(self._name, self._process.code, self._process.log_tail())
        return self._decode(line)


def tell(fd: int, line: bytes) -> None:
    """Write a line, whole: the parent reads. For the process's side."""
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(fd, rest) :]
