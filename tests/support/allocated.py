"""Campaigns in MySQL alone: allocated from the warehouse, with their counters, for tests that do without Redis."""

from dataclasses import dataclass

import redis.asyncio as redis

from adapters.catalog import bring_counters
from adapters.mysql import Pool
from adapters.redis import ScriptChannel
from domain.campaign import Campaign
from warehouse import allocation_due, loads
from warehouse.stock_up import receive_what_is_short
from warehouse.stores import wall_ms


@dataclass(frozen=True, slots=True)
class MysqlAlone:
    """Implements Stores, but for Redis."""

    catalog: Pool
    orders: Pool

    @property
    def channel(self) -> ScriptChannel:
        """There is none."""
        raise NotImplementedError

    @property
    def client(self) -> "redis.Redis":
        """There is none."""
        raise NotImplementedError


async def allocate_in_mysql(catalog: Pool, orders: Pool, campaign: Campaign) -> None:
    """Take in what a campaign needs, allocate it, and make the counters, or those that are missing."""
    await receive_what_is_short(catalog, campaign, who="test", why="a test")
    begun = await loads.begin(MysqlAlone(catalog, orders), campaign, "unchanged", who="test", now_ms=wall_ms())
    await bring_counters(catalog, orders, campaign.id)
    if begun is not None:
        await allocation_due.note_done(catalog, begun.due, wall_ms())
