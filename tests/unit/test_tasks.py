"""Background tasks that end for certain, though what they call may swallow a cancellation."""

import asyncio

import pytest

from adapters.tasks import end_tasks, meanwhile


class Deaf:
    """Work that goes on when it is cancelled for the first time, as `asyncio.wait_for` of Python 3.11 may."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.swallowed = 0

    async def run(self) -> None:
        """Work for ever."""
        while True:
            try:
                self.began.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if self.swallowed:
                    raise
                self.swallowed += 1


async def test_a_task_that_swallows_its_cancellation_ends() -> None:
    """Whoever swallows the first is told again, until the end."""
    deaf = Deaf()
    task = asyncio.create_task(deaf.run())
    await deaf.began.wait()
    await end_tasks([task])
    assert task.cancelled()
    assert deaf.swallowed == 1


async def test_a_block_with_work_meanwhile_ends() -> None:
    """Leaving the block ends the work, though it swallows a cancellation, and no task stays."""
    deaf, others = Deaf(), asyncio.all_tasks()
    async with meanwhile(deaf.run()):
        await deaf.began.wait()
        assert len(asyncio.all_tasks() - others) == 1
    assert deaf.swallowed == 1
    assert asyncio.all_tasks() <= others


async def test_a_block_that_is_cancelled_stays_cancelled() -> None:
    """Who waits for the end of such work is not kept from being cancelled himself."""
    deaf, inside = Deaf(), asyncio.Event()

    async def block() -> None:
        async with meanwhile(deaf.run()):
            await deaf.began.wait()
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await inside.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_an_error_of_work_meanwhile_is_raised() -> None:
    """What went wrong in the background is not lost."""

    async def fail() -> None:
        raise ValueError("away")

    with pytest.raises(ValueError, match="away"):
        async with meanwhile(fail()):
            await asyncio.sleep(0)
