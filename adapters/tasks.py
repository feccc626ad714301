"""Background tasks that end for certain, and pauses that end when a task is told to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, Final

CANCEL_AGAIN_S: Final = 0.2


async def end_tasks(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks until all have ended.

    Once is not enough: `asyncio.wait_for`, which redis-py sends with, returns normally in Python 3.11 when it is
    cancelled in the very moment its work is done, and the task goes on as if nothing had been said.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)


@contextlib.asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have work go on until the block ends; an error of its own is raised then."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        await end_tasks([task])
        if not task.cancelled() and (error := task.exception()):
            raise error


async def pause(seconds: float, stopping: asyncio.Event) -> bool:
    """Wait so long, or until told to stop; returns whether that was told."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
    return stopping.is_set()
