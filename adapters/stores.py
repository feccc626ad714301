"""Clients of all schemas and of Redis together, for whoever works on all of them."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import redis.asyncio as redis

from adapters.mysql import Pool, catalog_dsn, connect_pool, orders_dsn, points_dsn
from adapters.redis import ScriptChannel, make_client
from domain.settings import Settings


@dataclass(frozen=True, slots=True)
class OpenStores:
    """The clients; each connects when it is first used. Implements `warehouse.stores.Stores`."""

    catalog: Pool
    orders: Pool
    points: Pool
    channel: ScriptChannel
    client: "redis.Redis"


@contextlib.asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[OpenStores]:
    """Yield the clients and close them.

    Raises:
        ConfigError: a DSN is none.
    """
    mysql = settings.mysql
    stores = OpenStores(
        connect_pool(catalog_dsn(mysql), mysql),
        connect_pool(orders_dsn(mysql), mysql),
        connect_pool(points_dsn(mysql), mysql),
        ScriptChannel(settings.redis),
        make_client(settings.redis),
    )
    try:
        yield stores
    finally:
        await stores.channel.close()
        await stores.client.aclose()
        await stores.points.close()
        await stores.orders.close()
        await stores.catalog.close()
