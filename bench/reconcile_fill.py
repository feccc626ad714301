"""Redis, Kafka and MySQL filled with one sale that is over, as the product itself would leave them.

Orders are placed by the admission script; their outbox entries are read, put into Kafka and written to MySQL here, in
large pieces, past the relay and the consumers. Part of them has expired: released in the ledger and in Redis. MySQL
gets its rows in the order of its keys: a million of them in the order of time would take it several minutes more.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import redis.asyncio as redis
from aiokafka import TopicPartition

from adapters.holds import release
from adapters.kafka import make_consumer, make_producer, start_bounded, stop_bounded
from adapters.mysql import Pool, insert_many, transaction
from adapters.order_tables import INSERT_LEDGER, INSERT_ORDERS, RELEASE, TAKE, Row, ledger_row, order_values
from adapters.redis import ScriptChannel
from bench.errors import BenchError
from bench.prefill import place_orders
from domain import keys
from domain.campaign import Campaign
from domain.events import TOPIC_ORDERS_ACCEPTED, OrderAccepted, encode_order_accepted
from domain.order import split_order_id
from domain.order_state import OrderStatus
from domain.outbox import START, decode_entry, next_outbox_id
from domain.outcomes import ReleaseOutcome
from domain.settings import Settings

PIECE: Final = 20_000
"""Orders that are on their way to Kafka at a time."""
ENTRIES_AT_ONCE: Final = 200
ROWS_AT_ONCE: Final = 5_000
"""In one transaction."""
EXPIRED_EVERY: Final = 20
"""One order out of so many has expired."""
RELEASERS: Final = 8
LINGER_MS: Final = 20

_RETURNS: Final = """
INSERT INTO stock_return (order_id, hold_no, origin, campaign_id, sku_id, user_id, quantity, created_at_ms,
 next_at_ms, done_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""

_SOLD: Final = "UPDATE campaign_sku SET sold = sold + %s WHERE campaign_id = %s AND sku_id = %s"


class Filler:
    """Fills the stores with the orders of one campaign.

    Args:
        settings: where Redis and Kafka are.
        channel, client: to Redis.
        pool: the database fg_orders.
        campaign: open, with stock enough, on its own in these stores.
        topic: of accepted orders; it exists.
    """

    def __init__(
        self,
        settings: Settings,
        channel: ScriptChannel,
        client: "redis.Redis",
        pool: Pool,
        campaign: Campaign,
        *,
        topic: str = TOPIC_ORDERS_ACCEPTED,
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._client = client
        self._pool = pool
        self._campaign = campaign
        self._topic = topic
        self._read_to = START
        self._nonce = secrets.token_bytes(16)

    async def fill(self, orders: int, say: Callable[[str], None]) -> None:
        """Let so many buyers order one unit each, over the SKUs in turn, and let their orders go the whole way.

        Raises:
            FlashgateError: a store refused something.
        """
        events = await self._sell(orders, say)
        await self._pass_relay()
        events.sort(key=lambda event: event.order_id)
        for start in range(0, len(events), ROWS_AT_ONCE):
            await self._store(events[start : start + ROWS_AT_ONCE])
        say(f"{orders:,} orders in MySQL")
        await self._release([event for event in events if _has_expired(event)])
        await self._commit_offsets()

    async def _sell(self, orders: int, say: Callable[[str], None]) -> list[OrderAccepted]:
        """Have orders accepted, and put them into Kafka."""
        producer = make_producer(self._settings.kafka, linger_ms=LINGER_MS)
        await start_bounded(producer, timeout_s=self._settings.kafka.client_start_timeout_s)
        sold: list[OrderAccepted] = []
        try:
            for start in range(0, orders, PIECE):
                numbers = range(start, min(orders, start + PIECE))
                await place_orders(self._channel, self._campaign, "b", numbers)
                events = await self._read_outbox()
                if len(events) != len(numbers):
                    raise BenchError(f"{len(numbers)} orders were placed, and the outbox has {len(events)}")
                await self._publish(producer, events)
                sold += events
                if numbers.stop % (10 * PIECE) == 0 or numbers.stop == orders:
                    say(f"{numbers.stop:,} orders in Redis and Kafka")
        finally:
            await stop_bounded(producer)
        return sold

    async def _read_outbox(self) -> list[OrderAccepted]:
        events: list[OrderAccepted] = []
        while True:
            page: Any = await self._client.xrange(
                keys.outbox(self._campaign.id), min=next_outbox_id(self._read_to), count=ENTRIES_AT_ONCE
            )
            if not page:
                return events
            for outbox_id, fields in page:
                events += decode_entry(self._campaign.id, outbox_id.decode(), fields)
            self._read_to = page[-1][0].decode()

    async def _publish(self, producer: Any, events: Sequence[OrderAccepted]) -> None:  # noqa: ANN401
        sent = [
            await producer.send(
                self._topic,
                value=encode_order_accepted(event),
                key=event.order_id.encode(),
                timestamp_ms=event.accepted_at_ms,
            )
            for event in events
        ]
        await asyncio.gather(*sent)

    async def _pass_relay(self) -> None:
        """Leave the outbox as the relay does when it has caught up."""
        await self._client.hset(keys.relay(self._campaign.id), "checkpoint", self._read_to)
        await self._client.xtrim(keys.outbox(self._campaign.id), minid=next_outbox_id(self._read_to), approximate=False)

    async def _store(self, events: Sequence[OrderAccepted]) -> None:
        gone = [event for event in events if _has_expired(event)]
        ledger = [self._ledger_row(event, TAKE) for event in events]
        ledger += [self._ledger_row(event, RELEASE) for event in gone]
        async with transaction(self._pool) as cursor:
            for sku_id, units in _units(events, gone).items():
                await cursor.execute(_SOLD, (units, self._campaign.id, sku_id))
            await insert_many(cursor, INSERT_ORDERS, [self._order_row(event) for event in events])
            await insert_many(cursor, INSERT_LEDGER, ledger)
            await insert_many(cursor, _RETURNS, [_return_row(event) for event in gone])

    async def _release(self, events: Sequence[OrderAccepted]) -> None:
        """Give the units of expired orders back, over several connections."""

        async def work(share: Iterable[OrderAccepted]) -> None:
            channel = ScriptChannel(self._settings.redis)
            try:
                for event in share:
                    done = await release(channel, event.campaign_id, _digest(event), event.user_id, event.hold_no)
                    if done is not ReleaseOutcome.RELEASED:
                        raise BenchError(f"{event.order_id} was not released: {done.name}")
            finally:
                await channel.close()

        await asyncio.gather(*[work(events[number::RELEASERS]) for number in range(RELEASERS)])

    async def _commit_offsets(self) -> None:
        """Have the consumers' group say that all of the topic is stored."""
        settings = self._settings
        consumer = make_consumer(
            settings.kafka,
            [],
            group=f"{settings.consumer.group}.orders",
            session_timeout_ms=settings.consumer.session_timeout_ms,
        )
        await start_bounded(consumer, timeout_s=settings.kafka.client_start_timeout_s)
        try:
            places = [TopicPartition(self._topic, number) for number in range(settings.kafka.partitions)]
            consumer.assign(places)
            await consumer.commit(await consumer.end_offsets(places))
        finally:
            await stop_bounded(consumer)

    def _order_row(self, event: OrderAccepted) -> tuple[object, ...]:
        status = OrderStatus.EXPIRED if _has_expired(event) else OrderStatus.PAID
        return (*order_values(event, status, 2, self._nonce, event.accepted_at_ms), None)

    def _ledger_row(self, event: OrderAccepted, kind: str) -> Row:
        return ledger_row(event, kind, self._nonce, event.accepted_at_ms)


def _has_expired(event: OrderAccepted) -> bool:
    """Tell whether an order is one of those that expire, by its id."""
    return int(_digest(event)[-8:], 16) % EXPIRED_EVERY == 0


def _digest(event: OrderAccepted) -> str:
    parts = split_order_id(event.order_id)
    if parts is None:
        raise BenchError(f"{event.order_id!r} is no order id")
    return parts[1]


def _units(taken: Iterable[OrderAccepted], given_back: Iterable[OrderAccepted]) -> dict[str, int]:
    """Return SKU → units that are sold after these."""
    units: dict[str, int] = {}
    for sign, events in ((1, taken), (-1, given_back)):
        for event in events:
            units[event.sku_id] = units.get(event.sku_id, 0) + sign * event.quantity
    return units


def _return_row(event: OrderAccepted) -> tuple[object, ...]:
    at_ms = event.accepted_at_ms
    stock = (event.campaign_id, event.sku_id, event.user_id, event.quantity)
    return (event.order_id, event.hold_no, "", *stock, at_ms, at_ms, at_ms)
