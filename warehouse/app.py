"""Where the warehouse process's parts are put together; nothing else in `warehouse/` constructs a client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import redis.asyncio as redis
from prometheus_client import REGISTRY

from adapters.mysql import Pool, catalog_dsn, connect_pool, orders_dsn
from adapters.process import run_process, run_until_told
from adapters.redis import ScriptChannel, make_client
from adapters.rounds import RoundsMetrics
from domain.settings import Settings
from warehouse.keeper import WarehouseKeeper
from warehouse.metrics import warehouse_metrics
from warehouse.outbound import OutboundDesk
from warehouse.stores import wall_ms


@dataclass(frozen=True, slots=True)
class OpenStores:
    """Implements `warehouse.stores.Stores`."""

    catalog: Pool
    orders: Pool
    channel: ScriptChannel
    client: "redis.Redis"


@contextlib.asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[OpenStores]:
    """Yield clients of both schemas and of Redis, which connect when they are first used, and close them.

    Raises:
        ConfigError: a DSN is none.
    """
    mysql = settings.mysql
    stores = OpenStores(
        connect_pool(catalog_dsn(mysql), mysql),
        connect_pool(orders_dsn(mysql), mysql),
        ScriptChannel(settings.redis),
        make_client(settings.redis),
    )
    try:
        yield stores
    finally:
        await stores.channel.close()
        await stores.client.aclose()
        await stores.orders.close()
        await stores.catalog.close()


@contextlib.asynccontextmanager
async def open_outbound(settings: Settings) -> AsyncIterator[OutboundDesk]:
    """Yield a desk for outbound review with clients of its own, and close them.

    Raises:
        ConfigError: a DSN is none.
    """
    async with open_stores(settings) as stores:
        yield OutboundDesk(stores, guard=settings.guard, settings=settings.warehouse, now_ms=wall_ms)


@contextlib.asynccontextmanager
async def open_keeper(settings: Settings, metrics: RoundsMetrics) -> AsyncIterator[WarehouseKeeper]:
    """Yield a keeper with clients of its own, and close them.

    Raises:
        ConfigError: a DSN is none.
    """
    async with open_stores(settings) as stores:
        yield WarehouseKeeper(settings.warehouse, stores=stores, metrics=metrics, now_ms=wall_ms)


async def run_warehouse(settings: Settings, *, stop: asyncio.Event) -> None:
    """Run the keeper until `stop` is set.

    Raises:
        ConfigError: the settings contradict themselves.
    """
    async with open_keeper(settings, warehouse_metrics(REGISTRY)) as keeper:
        await run_until_told(keeper.run(), keeper.stop, stop)


def main_warehouse(settings: Settings) -> None:
    """Run the keeper as this process, until SIGTERM or SIGINT."""
    run_process("consumer warehouse", lambda stop: run_warehouse(settings, stop=stop))
