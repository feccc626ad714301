"""Clients for commands that do one thing and end."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import redis.asyncio as redis

from adapters.mysql import Pool, catalog_dsn, connect_pool, orders_dsn, points_dsn
from adapters.redis import ScriptChannel, make_client
from domain.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clients:
    """Everything that an operator's command may need; connections are made when first used."""

    channel: ScriptChannel
    client: "redis.Redis"
    catalog: Pool
    orders: Pool
    points: Pool


@asynccontextmanager
async def open_clients(settings: Settings) -> AsyncIterator[Clients]:
    """Yield the clients and close them."""
    mysql = settings.mysql
    clients = Clients(
        ScriptChannel(settings.redis),
        make_client(settings.redis),
        connect_pool(catalog_dsn(mysql), mysql),
        connect_pool(orders_dsn(mysql), mysql),
        connect_pool(points_dsn(mysql), mysql),
    )
    try:
        yield clients
    finally:
        await clients.channel.close()
        await clients.client.aclose()
        await clients.catalog.close()
        await clients.orders.close()
        await clients.points.close()


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine."""
    return asyncio.run(work)
