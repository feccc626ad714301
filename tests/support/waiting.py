"""Waiting for what a mechanism brings about: without it, an assertion fails instead of the test hanging."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from tests.support.shop import until_true

WAIT_MAX_S: Final = 60.0
"""Far longer than anything waited for takes; nothing is asserted about how long that is."""


async def in_time(condition: Callable[[], Any], missed: str) -> None:
    """Wait until an asynchronous condition holds; `missed` says what has not happened."""
    try:
        async with asyncio.timeout(WAIT_MAX_S):
            await until_true(condition)
    except TimeoutError:
        raise AssertionError(missed) from None
