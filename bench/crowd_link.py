"""A crowd seen from the process that started it."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from bench.crowd_messages import GO, Failed, Job, Message, Progress, Ready, Result, from_line
from bench.link import ChildLink
from domain.errors import BackendError

LANES_MAX: Final = 512
"""Connections of a crowd."""
SILENCE_MAX_S: Final = 120.0
"""A crowd that says nothing for so long is stuck; it may be minting tokens before it is ready."""


class CrowdLink(ChildLink[Message]):
    """A running crowd: `ready`, then `go`. Used as a context manager; leaving it leaves no process behind."""

    def __init__(self, job: Job, log: Path) -> None:
        text = msgspec.json.encode(job).decode()
        super().__init__("crowd", "bench.crowd_process", text, log=log, decode=from_line, silence_max_s=SILENCE_MAX_S)

    async def ready(self) -> int:
        """Wait until everybody is connected and sees the sale; returns the number of connections.

        Raises:
            BackendError: the crowd cannot see the sale.
            ChildFailed: its process died.
        """
        message = await self.hear()
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
        self.say(GO)
        while True:
            message = await self.hear()
            match message:
                case Progress():
                    on_progress(message)
                case Result():
                    return message
                case _:
                    raise BackendError(f"crowd: told {type(message).__name__} in the middle of the sale")
