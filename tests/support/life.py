"""The life of a shop's orders after the sale, moved by a test: keeper, clock, and what must hold at the end."""

import contextlib
import functools
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from adapters.kafka import make_producer
from adapters.kafka_reader import TopicReader
from adapters.kafka_sender import KafkaSender
from adapters.mysql import query, transaction
from adapters.redis import ScriptChannel
from adapters.stock import StockLine, read_snapshot
from domain.events import TOPIC_ORDERS_EVENTS, OrderChanged, decode_order_changed
from domain.order_state import HOLDING
from domain.settings import Settings
from lifecycle.keeper import Keeper
from lifecycle.payments import PaymentDesk
from lifecycle.point_refunds import PointRefunds
from lifecycle.provider import PaymentProvider
from tests.support.shop import SKU, Shop, until_true


@dataclass
class Kept:
    """Implements RoundsMetrics by remembering."""

    counts: Counter[str] = field(default_factory=Counter)
    puts_off: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    def done(self, work: str, count: int) -> None:
        """Add up."""
        self.counts[work] += count

    def put_off(self, work: str) -> None:
        """Add up."""
        self.puts_off[work] += 1

    def failed(self, work: str) -> None:
        """Add up."""
        self.failures[work] += 1


def now_ms() -> int:
    """Return Unix milliseconds."""
    return time.time_ns() // 1_000_000


def new_desk(settings: Settings, shop: Shop, provider: PaymentProvider) -> PaymentDesk:
    """Return who takes payments."""
    clients = shop.clients
    return PaymentDesk(
        *(clients.orders, clients.channel, provider, settings.payment, settings.lifecycle, settings.guard),
        now_ms=now_ms,
    )


async def make_due(shop: Shop) -> None:
    """Have the time to pay be over for this campaign's orders."""
    async with transaction(shop.clients.orders) as cursor:
        await cursor.execute("UPDATE orders SET pay_by_ms = 1 WHERE campaign_id = %s", (shop.id,))


@contextlib.asynccontextmanager
async def new_keeper(
    settings: Settings, shop: Shop, *, provider: PaymentProvider | None = None
) -> AsyncIterator[tuple[Keeper, Kept]]:
    """Return a keeper whose rounds a test calls one by one, or lets run."""
    channel = ScriptChannel(settings.redis)
    sender = KafkaSender(functools.partial(make_producer, settings.kafka), timeout_s=20.0)
    desk = None
    if provider is not None:
        desk = new_desk(settings, shop, provider)
    kept = Kept()
    try:
        yield (
            Keeper(
                settings.lifecycle,
                pool=shop.clients.orders,
                channel=channel,
                sender=sender,
                desk=desk,
                point_refunds=PointRefunds(
                    settings.lifecycle,
                    orders=shop.clients.orders,
                    points=shop.clients.points,
                    metrics=kept,
                    now_ms=now_ms,
                ),
                metrics=kept,
                now_ms=now_ms,
            ),
            kept,
        )
    finally:
        await sender.close()
        await channel.close()


async def confirmed(shop: Shop) -> None:
    """Have everything that was accepted stored."""
    await shop.relayed()
    async with shop.consumer():

        async def all_stored() -> bool:
            return set(shop.accepted) <= set(await shop.stored())

        await until_true(all_stored)


async def until_idle(keeper: Keeper) -> None:
    """Have a keeper work until nothing is due."""
    while await keeper.run_once():
        pass


async def statuses(shop: Shop) -> dict[str, str]:
    """Return order id → status of this campaign's rows."""
    rows = await query(shop.clients.orders, "SELECT order_id, status FROM orders WHERE campaign_id = %s", (shop.id,))
    return dict(rows)


async def line(shop: Shop, sku: str = SKU) -> StockLine:
    """Return one SKU's numbers in Redis."""
    snapshot = await read_snapshot(shop.clients.client, shop.id)
    assert snapshot is not None
    return snapshot.stock[sku]


async def ledger(shop: Shop) -> dict[str, list[tuple[str, int, int]]]:
    """Return order id → its ledger rows: kind, hold number, quantity."""
    rows = await query(
        shop.clients.orders,
        "SELECT order_id, kind, hold_no, quantity FROM stock_ledger WHERE campaign_id = %s ORDER BY id",
        (shop.id,),
    )
    found: dict[str, list[tuple[str, int, int]]] = {}
    for order_id, *row in rows:
        found.setdefault(order_id, []).append((row[0], row[1], row[2]))
    return found


async def events_of(shop: Shop) -> list[OrderChanged]:
    """Return this campaign's events in `orders.events`, duplicates included."""
    events = []
    async for record in TopicReader(shop.settings.kafka, TOPIC_ORDERS_EVENTS).read():
        event = decode_order_changed(record.value)
        if event.campaign_id == shop.id:
            events.append(event)
    return events


async def assert_settled(shop: Shop) -> None:
    """Assert invariants A and B once everything owed is done.

    Every accepted order has one row; the rows that hold units, the ledger, MySQL's counters and Redis's counters
    speak of the same units; nothing is owed.
    """
    pool = shop.clients.orders
    rows = await query(
        pool, "SELECT order_id, quantity, status, hold_no FROM orders WHERE campaign_id = %s", (shop.id,)
    )
    assert {row[0] for row in rows} == set(shop.accepted)
    entries = await ledger(shop)
    for order_id, quantity, status, hold_no in rows:
        takes = [("take", number, quantity) for number in range(1, hold_no + 1)]
        holds = status in HOLDING
        releases = [("release", number, quantity) for number in range(1, hold_no + (0 if holds else 1))]
        assert sorted(entries[order_id]) == sorted(takes + releases), (order_id, status)
    held = sum(quantity for _, quantity, status, _ in rows if status in HOLDING)
    sold = await query(pool, "SELECT CAST(SUM(sold) AS SIGNED) FROM campaign_sku WHERE campaign_id = %s", (shop.id,))
    assert sold == [(held,)]
    snapshot = await read_snapshot(shop.clients.client, shop.id)
    assert snapshot is not None
    for one in snapshot.stock.values():
        assert one.allocated == one.remaining + one.taken - one.returned
        assert one.remaining >= 0
    assert sum(one.taken - one.returned for one in snapshot.stock.values()) == held
    owed = await query(
        pool,
        "SELECT order_id, hold_no, origin, error FROM stock_return WHERE campaign_id = %s AND done_at_ms IS NULL",
        (shop.id,),
    )
    assert owed == []
