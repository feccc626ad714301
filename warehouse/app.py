"""Where the warehouse process's parts are put together; nothing else in `warehouse/` constructs a client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from prometheus_client import REGISTRY

from adapters.process import run_process, run_until_told
from adapters.rounds import RoundsMetrics
from adapters.stores import open_stores
from domain.settings import Settings
from warehouse.keeper import WarehouseKeeper
from warehouse.metrics import warehouse_metrics
from warehouse.outbound import OutboundDesk
from warehouse.stores import wall_ms


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
