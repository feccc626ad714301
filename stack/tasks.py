"""Small helpers for concurrent work."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


async def all_or_first_error(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Await all; the first failure cancels the rest, waits for their end, and is raised as it is."""
    tasks = [asyncio.create_task(item) for item in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
