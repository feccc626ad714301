"""The running reconciler beside a sale whose orders are bought, stored, released and given back all the time."""

import asyncio
from collections.abc import AsyncIterator, Collection

import pytest
import pytest_asyncio

from adapters.campaign_stock import load_campaign
from adapters.mysql import query
from consumers import reconcile
from consumers.reconcile import Reconciler, open_repairer, open_sources
from consumers.reconcile_sources import Look, Sources
from domain.order_state import OrderStatus
from stack.servers import Endpoints
from tests.support.events import sample_campaign
from tests.support.flow import Flow, Quiet, new_flow
from tests.support.looks import Told
from tests.support.metrics import Recorded

pytestmark = pytest.mark.usefixtures("stack")

PLENTY = 1_000_000
ROUNDS = 5
AN_HOUR_MS = 3_600_000


@pytest_asyncio.fixture
async def flow(endpoints: Endpoints) -> AsyncIterator[Flow]:
    """Return an open campaign that no other test uses, with stock enough."""
    async with new_flow(endpoints) as made:
        await load_campaign(made.channel, sample_campaign(made.id, stock=PLENTY))
        await made.sql(("UPDATE campaign_sku SET allocated = %s WHERE campaign_id = %s", (PLENTY, made.id)))
        yield made


async def confirmed(flow: Flow, digits: str, count: int) -> list[str]:
    """Return so many orders that are stored and hold their units, whose ids end in one of these digits."""
    rows = await query(
        flow.orders,
        "SELECT order_id FROM orders WHERE campaign_id = %s AND status = %s AND RIGHT(order_id, 1) IN %s LIMIT %s",
        (flow.id, OrderStatus.CONFIRMED, list(digits), count),
    )
    return [order_id for (order_id,) in rows]


class Racing:
    """Looks, and has releases begin and end in the midst of every look, between Redis and MySQL.

    One order is released in MySQL and in Redis after Redis was read: this look finds it held there, and released in
    the ledger with nothing owed.
    """

    def __init__(self, flow: Flow, sources: Sources) -> None:
        self._flow = flow
        self._sources = sources
        self.looks = 0
        self.raced = 0

    async def look(self, campaign_ids: Collection[str] | None) -> Look:
        """Look."""
        self.looks += 1
        chosen = await confirmed(self._flow, "89abcdef", 1)
        read_kafka = self._sources._read_kafka

        async def after_a_release(*args: object, **how: object) -> int:
            if chosen:  # before the first topic
                await self._flow.expire(chosen)
                await self._flow.give_back()
                self.raced += len(chosen)
                chosen.clear()
            return await read_kafka(*args, **how)  # type: ignore[arg-type]

        self._sources._read_kafka = after_a_release  # type: ignore[method-assign]
        try:
            return await self._sources.look(campaign_ids)
        finally:
            self._sources._read_kafka = read_kafka  # type: ignore[method-assign]


async def test_reconciler_races_the_traffic(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 32: while orders are bought and released as fast as it goes, no round reports drift or repairs anything.

    One release stays owed to Redis all the time. Guards that what is owed is known to be on its way, and that only
    what every look finds is drift: a release that ends in the midst of a look is suspected by that look alone.
    """
    monkeypatch.setattr(reconcile, "BUSY_SHARE", 1.0)
    (stuck,) = await flow.sell(1)
    await flow.expire([stuck])
    await flow.sql(("UPDATE stock_return SET next_at_ms = next_at_ms + %s", (AN_HOUR_MS,)))
    publisher, metrics, told = Quiet(flow.sale), Recorded(), Told()
    relay, writer = flow.make_relay(publisher), flow.sale.writer(metrics, batch_max=40)
    over = asyncio.Event()
    before = len(flow.order_ids)

    async def buy() -> None:
        while not over.is_set():
            await flow.accept(14)

    async def relay_all() -> None:
        while not over.is_set() or publisher.published < len(flow.order_ids) - before:
            await relay.run_once()

    async def store_all() -> None:
        while not over.is_set() or metrics.records < len(flow.order_ids) - before:
            await writer.run_once()
        await writer.close()

    async def release_all() -> None:
        while not over.is_set():
            await flow.expire(await confirmed(flow, "01234567", 5))
            await flow.give_back()

    tasks = [asyncio.create_task(work()) for work in (buy, relay_all, store_all, release_all)]
    async with (
        open_sources(flow.settings, topic=flow.sale.topic) as sources,
        open_repairer(flow.settings, topic=flow.sale.topic) as repairer,
    ):
        racing = Racing(flow, sources)
        reconciler = Reconciler(
            racing.look, campaign_ids=[flow.id], metrics=told, interval_s=0.01, recheck_pause_s=0, repairs=repairer
        )
        running = asyncio.create_task(reconciler.run())
        reports = [await told.reports.get() for _ in range(ROUNDS)]
        reconciler.stop()
        over.set()
        await asyncio.gather(running, *tasks)
    assert [report.drift for report in reports] == [0] * ROUNDS
    assert (told.failures, told.repairs) == (0, {})
    assert all(report.campaigns[0].pending_returns > 0 for report in reports)
    assert racing.raced >= ROUNDS
    assert racing.looks > ROUNDS  # what ended in the midst of a look was suspected, and looked at again
    await flow.sql(("UPDATE stock_return SET next_at_ms = 0", ()))
    while await flow.give_back():
        pass
    campaign = await flow.report()
    assert (campaign.drift, campaign.in_flight, campaign.pending_returns) == (0, 0, 0)
    assert campaign.redis_taken == campaign.mysql_rows == len(flow.order_ids)
    assert campaign.released == campaign.skus[0].returned > racing.raced
