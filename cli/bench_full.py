"""One row of `bench compare`: flashgate with relay, Kafka, consumer and MySQL behind it, on the same machine."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Final

import msgspec

from adapters.mysql import query
from adapters.stock import read_snapshot
from bench.compare import orders_at_most, sale_of
from bench.errors import BenchError
from bench.figures import ACCEPTED
from bench.measure import Driver, Effort, Measured, measure
from bench.servers import FLASHGATE, OUTBOX_ENTRIES_MAX, Place, Target
from cli.clients import Clients, open_clients
from cli.config import local_defaults
from cli.services import ServicePlan, Services
from domain.settings import Settings, load_settings
from stack.servers import Endpoints, LocalStack
from stack.supervisor import Supervisor
from warehouse.stock_up import put_on_sale

NAME: Final = "flashgate, all"
POLL_S: Final = 0.1
STALLED_S: Final = 30.0
"""MySQL has got no further for so long: what is missing will not come."""


async def measure_full(place: Place, driver: Driver, effort: Effort) -> Measured:
    """Start everything in a home of its own, drive one worker, wait until MySQL has every order, stop everything.

    Raises:
        FlashgateError: something did not start, or an accepted order did not reach MySQL.
    """
    home = place.folder / "full"
    async with contextlib.AsyncExitStack() as opened:
        supervisor = Supervisor()
        stack = LocalStack(home, supervisor=supervisor)
        opened.push_async_callback(stack.stop)
        settings = _settings(await stack.start(), home, place)
        services = Services(
            supervisor, ServicePlan(settings, home, 1, with_reconciler=False, with_ops=False, with_sandbox=False)
        )
        opened.push_async_callback(services.stop)
        await services.start()
        clients = await opened.enter_async_context(open_clients(settings))
        sale = sale_of(ACCEPTED, orders_at_most(effort))
        await put_on_sale(clients, sale.campaign(), who="bench")

        async def units_taken() -> int:
            snapshot = await read_snapshot(clients.client, sale.campaign_id)
            return sum(line.taken - line.returned for line in snapshot.stock.values()) if snapshot else 0

        gateway, redis = supervisor.pid("gateway 1"), supervisor.pid("redis")
        if gateway is None or redis is None:
            raise BenchError(f"{FLASHGATE}: a process has ended; see {home / 'logs'}")
        port = int(services.gateway_url.rpartition(":")[2])
        target = Target(FLASHGATE, port, (gateway,), redis, clients.client, units_taken, settings.redis)
        measured = await measure(target, sale, driver, effort)
        await _until_stored(clients, sale.campaign_id, await units_taken())
    return msgspec.structs.replace(measured, target=NAME)


def _settings(endpoints: Endpoints, home: Path, place: Place) -> Settings:
    """Return settings of their own: no file or environment leads them to servers of another purpose."""
    settings = load_settings(defaults=local_defaults(endpoints, home))
    gateway = msgspec.structs.replace(settings.gateway, port=0, outbox_entries_max=OUTBOX_ENTRIES_MAX)
    auth = msgspec.structs.replace(settings.auth, key_file=str(place.key_file), audience=place.audience)
    return msgspec.structs.replace(settings, gateway=gateway, auth=auth)


async def _until_stored(clients: Clients, campaign_id: str, units: int) -> None:
    """Wait until MySQL has every unit that Redis has sold.

    Raises:
        BenchError: it has not, and gets no further, or it has more.
    """
    sql = "SELECT SUM(sold) FROM campaign_sku WHERE campaign_id = %s"
    stored, moved_at_s = 0, time.monotonic()
    while stored < units and time.monotonic() - moved_at_s < STALLED_S:
        ((sold,),) = await query(clients.orders, sql, (campaign_id,))
        if int(sold or 0) > stored:
            stored, moved_at_s = int(sold), time.monotonic()
        else:
            await asyncio.sleep(POLL_S)
    if stored != units:
        raise BenchError(f"{NAME}: {units:,} units were sold in Redis, and MySQL has {stored:,}")
