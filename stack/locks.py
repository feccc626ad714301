"""Files that one process at a time may hold. The kernel frees them when their last holder is gone."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from stack.errors import StackInUseError

POLL_S: Final = 0.05


async def lock_file(path: Path, *, timeout_s: float) -> int:
    """Wait for an exclusive lock and return the descriptor that holds it; children that inherit it hold it too.

    Raises:
        StackInUseError: it was held by somebody else for all of `timeout_s` seconds.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        async with asyncio.timeout(timeout_s):
            while not _try_lock(fd):  # noqa: ASYNC110 -- another process is waited for
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        os.close(fd)
        raise StackInUseError(f"{path.parent} is in use by another process") from None
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextlib.asynccontextmanager
async def exclusive_file(path: Path, *, timeout_s: float) -> AsyncIterator[None]:
    """Hold a lock for the length of a block; errors as in `lock_file`."""
    fd = await lock_file(path, timeout_s=timeout_s)
    try:
        yield
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
