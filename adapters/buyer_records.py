"""All buyers' records of a campaign, page by page."""

from collections.abc import AsyncIterator
from typing import Final

import redis.asyncio as redis

from adapters.redis import ANSWERS_LOST
from domain import keys
from domain.errors import BackendError

SCAN_COUNT: Final = 1_000
"""Keys that one SCAN step looks at, and so about as many records as one MGET asks for."""


async def scan_records(client: "redis.Redis", campaign_id: str) -> AsyncIterator[list[tuple[bytes, bytes | None]]]:
    """Yield key and packed record of every buyer; None: it has expired since it was named. One may come twice.

    The records of one page are asked for together with the names of the next.

    Raises:
        BackendError: Redis is not there.
    """
    pattern = keys.buyer_pattern(campaign_id)
    names: list[bytes] = []
    cursor: int | None = None
    while cursor != 0 or names:
        try:
            async with client.pipeline(transaction=False) as pipe:
                if names:
                    pipe.mget(names)
                if cursor != 0:
                    pipe.scan(cursor or 0, match=pattern, count=SCAN_COUNT)
                answers = await pipe.execute()
        except ANSWERS_LOST as error:
            raise BackendError(f"Redis: buyers' records cannot be read: {error}") from error
        yield list(zip(names, answers.pop(0) if names else (), strict=True))
        cursor, names = answers.pop() if answers else (0, [])
