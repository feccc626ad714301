"""The accepted orders of `bench drain`, and the rows that they become."""

import secrets
import time
from collections import Counter
from typing import Any, Final, NamedTuple

import msgspec

from adapters.mysql import Pool, insert_many, orders_dsn, query, transaction
from adapters.order_tables import INSERT_LEDGER, INSERT_ORDERS, TAKE, Row, ledger_row
from bench.drain_load import NO_RECORD, Tally, replace_database
from consumers.app import make_order_writer
from consumers.batch import Item
from consumers.metrics import ConsumerMetrics
from consumers.orders import OrderWriter
from consumers.orders_sql import order_row
from domain.events import TOPIC_ORDERS_ACCEPTED, OrderAccepted, encode_order_accepted
from domain.order import fingerprint, order_id
from domain.settings import Dsn, Settings
from migrations.runner import Schema

CAMPAIGN_ID: Final = "bench-drain"
SKUS: Final = 4
PAY_WITHIN_S: Final = 900
ORDERS_AN_ENTRY: Final = 100
"""Of the outbox that the orders seem to come from."""
ACCEPTED_AT_MS: Final = 1_790_000_000_000
PRICE_CENTS: Final = 5_900
NONCE_BYTES: Final = 16

_COUNTERS: Final = """
INSERT INTO campaign_sku (campaign_id, sku_id, allocated, pay_within_s)
VALUES (%s, %s, %s, %s)"""
_MOVE: Final = "UPDATE campaign_sku SET sold = sold + %s, version = version + 1 WHERE campaign_id = %s AND sku_id = %s"
_TALLY: Final = (
    "SELECT COUNT(*) FROM orders",
    "SELECT COUNT(*) FROM stock_ledger",
    "SELECT CAST(SUM(sold) AS SIGNED) FROM campaign_sku",
)


def sku_id(number: int) -> str:
    """Return the SKU of an order."""
    return f"sku-{number % SKUS}"


_PRINTS: Final = {sku_id(number): fingerprint(sku_id(number), 1) for number in range(SKUS)}


def make_event(number: int) -> OrderAccepted:
    """Return an order's event: each is another buyer's first, for one unit."""
    user_id, sku = f"buyer-{number:09}", sku_id(number)
    return OrderAccepted(
        order_id=order_id(CAMPAIGN_ID, user_id, "key"),
        campaign_id=CAMPAIGN_ID,
        sku_id=sku,
        user_id=user_id,
        quantity=1,
        unit_price_cents=PRICE_CENTS,
        fingerprint=_PRINTS[sku],
        hold_no=1,
        accepted_at_ms=ACCEPTED_AT_MS + number // ORDERS_AN_ENTRY,
        outbox_id=f"{ACCEPTED_AT_MS + number // ORDERS_AN_ENTRY}-0",
        outbox_index=number % ORDERS_AN_ENTRY,
    )


class BareOrders(NamedTuple):
    """The rows of one transaction."""

    orders: list[Row]
    ledger: list[Row]
    moves: list[tuple[str, int]]


class OrderLoad:
    """See `bench.drain_load.DrainLoad`."""

    topic = TOPIC_ORDERS_ACCEPTED
    schema: Schema = "orders"
    what = "accepted orders"

    def record(self, number: int) -> tuple[bytes, bytes]:
        """See the protocol."""
        event = make_event(number)
        return event.order_id.encode(), encode_order_accepted(event)

    def dsn(self, settings: Settings) -> Dsn:
        """See the protocol."""
        return orders_dsn(settings.mysql)

    def with_database(self, settings: Settings, database: str) -> Settings:
        """See the protocol."""
        dsn = replace_database(settings.mysql.orders_dsn, database)
        return msgspec.structs.replace(settings, mysql=msgspec.structs.replace(settings.mysql, orders_dsn=dsn))

    async def prepare(self, pool: Pool, records: int) -> None:
        """Write the campaign's counters."""
        async with transaction(pool) as cursor:
            rows = [(CAMPAIGN_ID, sku_id(number), records, PAY_WITHIN_S) for number in range(SKUS)]
            await insert_many(cursor, _COUNTERS, rows)

    def writer(self, settings: Settings, pool: Pool, *, topic: str, metrics: ConsumerMetrics) -> OrderWriter:
        """See the protocol."""
        return make_order_writer(settings, pool, topic=topic, metrics=metrics)

    def bare_batch(self, numbers: range) -> BareOrders:
        """See the protocol."""
        now_ms, nonce = time.time_ns() // 1_000_000, secrets.token_bytes(NONCE_BYTES)
        items = [Item(record=NO_RECORD, event=make_event(number)) for number in numbers]
        return BareOrders(
            [order_row(item, nonce, now_ms, PAY_WITHIN_S) for item in items],
            [ledger_row(item.event, TAKE, nonce, now_ms) for item in items],
            sorted(Counter(item.event.sku_id for item in items).items()),
        )

    async def insert_bare(self, cursor: Any, made: BareOrders) -> None:  # noqa: ANN401
        """See the protocol."""
        await insert_many(cursor, INSERT_ORDERS, made.orders)
        await insert_many(cursor, INSERT_LEDGER, made.ledger)
        for sku, units in made.moves:
            await cursor.execute(_MOVE, (units, CAMPAIGN_ID, sku))

    async def tally(self, pool: Pool, timeout_s: float) -> Tally:
        """See the protocol."""
        orders, ledger, sold = [int((await query(pool, sql, timeout_s=timeout_s))[0][0]) for sql in _TALLY]
        text = f"{orders:,} orders, {ledger:,} ledger rows and {sold:,} units sold"
        return Tally(orders, orders == ledger == sold, text)
