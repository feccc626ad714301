"""What an operator does to a lottery, over Redis and MySQL: its seed, loading it, moving it.

The seed is made once, when the lottery is first loaded, and kept in fg_catalog, whatever happens to Redis. Redis has a
copy, for the gateway; buyers are told its SHA-256, and the seed itself once the lottery is closed.
"""

import secrets
from typing import Final

import redis.asyncio as redis

from adapters.campaign_stock import move_campaign
from adapters.draws import lottery_fields, move_lottery, read_log_head
from adapters.mysql import Pool, query, transaction
from adapters.redis import ScriptChannel
from domain.campaign import LOTTERY, Campaign
from domain.lottery import SEED_BYTES

_KEEP: Final = """
INSERT INTO lottery_seed (campaign_id, seed)
VALUES (%s, %s)
ON DUPLICATE KEY UPDATE campaign_id = campaign_id"""
_READ: Final = "SELECT seed FROM lottery_seed WHERE campaign_id = %s"


async def read_seed(catalog: Pool, campaign_id: str) -> bytes | None:
    """Return a lottery's seed, None if it has none.

    Raises:
        BackendError: MySQL is not there.
    """
    rows = await query(catalog, _READ, (campaign_id,))
    return bytes(rows[0][0]) if rows else None


async def keep_seed(catalog: Pool, campaign_id: str) -> bytes:
    """Return a lottery's seed, which is made if it has none yet.

    Raises:
        BackendError: MySQL is not there; call again.
    """
    seed = await read_seed(catalog, campaign_id)
    if seed is None:
        async with transaction(catalog) as cursor:
            await cursor.execute(_KEEP, (campaign_id, secrets.token_bytes(SEED_BYTES)))
            await cursor.execute(_READ, (campaign_id,))  # another load may have been quicker
            ((seed,),) = await cursor.fetchall()
    return bytes(seed)


async def fields_of_kind(catalog: Pool, campaign: Campaign) -> list[tuple[str, str | int]]:
    """Return what `load_campaign` is to write for a campaign's kind besides; makes a lottery's seed.

    Raises:
        BackendError: MySQL is not there.
    """
    if campaign.campaign.kind != LOTTERY:
        return []
    return lottery_fields(campaign, await keep_seed(catalog, campaign.id))


async def move(channel: ScriptChannel, client: "redis.Redis", campaign_id: str, verb: str) -> tuple[str, bool]:
    """Open, pause, resume or close a campaign of any kind; returns the new state and whether it was another before.

    Raises:
        OperationRefusedError: not possible from its present state, or closed before; nothing was changed.
        BackendError: Redis is not there.
    """
    if await read_log_head(client, campaign_id) is None:
        return await move_campaign(channel, campaign_id, verb)
    return await move_lottery(channel, campaign_id, verb)
