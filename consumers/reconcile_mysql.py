"""Reading MySQL for the reconciler: everything as of one instant, in pages that the server puts together.

A page is one row: the server writes so many rows into one text, which costs a twentieth of reading them one by one.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import pymysql.err
from aiomysql import SSCursor

from adapters.mysql import Pool, query, transaction
from consumers.reconcile_look import RELEASE, TAKE, CampaignLook, hold_key, pack_origin
from domain.campaign import REDEMPTION
from domain.errors import BackendError
from domain.order import split_order_id
from domain.order_state import PaymentStatus

ROWS_AT_ONCE: Final = 10_000
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""More than so many of the longest rows take."""
STRAYS_MAX: Final = 1_000
"""Rows with an id of another campaign that are told of."""
READ_TIMEOUT_S: Final = 1_800.0

_SNAPSHOT: Final = (
    f"SET SESSION group_concat_max_len = {PAGE_BYTES_MAX}",
    "COMMIT",  # of the transaction that `transaction` began: the level below holds for the next one
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)
_CAMPAIGNS: Final = "SELECT campaign_id FROM campaign_sku UNION SELECT DISTINCT campaign_id FROM orders"
_COUNTERS: Final = "SELECT sku_id, allocated, sold FROM campaign_sku WHERE campaign_id = %s"

# The order ids of a campaign are one range of the primary key.
_ORDERS: Final = r"""
SELECT MAX(order_id), COUNT(*),
 GROUP_CONCAT(RIGHT(order_id, 32), ' ', hold_no, ' ', quantity, '\t', sku_id, '\t', status, '\t', accepted_at_ms
  SEPARATOR '\n')
FROM (
 SELECT order_id, hold_no, quantity, sku_id, status, accepted_at_ms FROM orders FORCE INDEX (PRIMARY)
 WHERE order_id > %s AND order_id LIKE %s AND campaign_id = %s ORDER BY order_id LIMIT %s
) AS page"""
_STRAY_ORDERS: Final = "SELECT order_id, sku_id FROM orders WHERE campaign_id = %s AND order_id NOT LIKE %s LIMIT %s"

# An index ends in the primary key: the rows of a SKU come in the order in which they were written.
_LEDGER: Final = r"""
SELECT MAX(id), COUNT(*), COALESCE(CAST(SUM(IF(kind = 'take', quantity, -quantity)) AS SIGNED), 0),
 GROUP_CONCAT(IF(kind = 'take' AND order_id LIKE %s, hold, NULL) SEPARATOR '\n'),
 GROUP_CONCAT(IF(kind <> 'take' AND order_id LIKE %s, hold, NULL) SEPARATOR '\n'),
 GROUP_CONCAT(IF(order_id LIKE %s, NULL, order_id) SEPARATOR '\n')
FROM (
 SELECT id, order_id, kind, quantity, CONCAT(RIGHT(order_id, 32), ' ', hold_no, ' ', quantity) AS hold
 FROM stock_ledger FORCE INDEX (by_sku)
 WHERE campaign_id = %s AND sku_id = %s AND id > %s ORDER BY id LIMIT %s
) AS page"""

_RETURNS: Final = (
    "SELECT order_id, sku_id, quantity, hold_no, origin FROM stock_return WHERE campaign_id = %s AND done_at_ms IS NULL"
)
_REACQUIRING: Final = (
    "SELECT p.order_id, o.sku_id, o.quantity, p.hold_no FROM payment p JOIN orders o ON o.order_id = p.order_id "
    "WHERE p.campaign_id = %s AND p.status = %s"
)
_SAGAS: Final = (
    "SELECT saga_id, sku_id, quantity, hold_no, outbox_id, outbox_index, parked_at_ms IS NOT NULL FROM saga "
    "WHERE campaign_id = %s AND ended_at_ms IS NULL"
)
_POINTS: Final = (
    "SELECT p.order_id, p.points, p.status, o.status FROM payment p JOIN orders o ON o.order_id = p.order_id "
    "WHERE p.campaign_id = %s AND p.points > 0"
)
_SETTLED: Final = "SELECT kafka_partition, kafka_offset FROM dead_letter_done WHERE topic = %s"


async def mysql_campaigns(pool: Pool) -> list[str]:
    """Return the campaigns that MySQL knows.

    Raises:
        BackendError: MySQL is not there, or has no schema.
    """
    try:
        return [campaign_id for (campaign_id,) in await query(pool, _CAMPAIGNS)]
    except pymysql.err.MySQLError as error:
        raise _unusable(error) from error


async def read_mysql(
    pool: Pool, looks: Iterable[CampaignLook], dead_topics: Iterable[str]
) -> set[tuple[str, int, int]]:
    """Read counters, orders, ledger and what is owed, as of one instant.

    Returns:
        (topic, partition, offset) of the dead letters that a person has dealt with.

    Raises:
        BackendError: MySQL is not there, or has no schema.
    """
    try:
        async with transaction(pool, timeout_s=READ_TIMEOUT_S) as cursor:
            for statement in _SNAPSHOT:
                await cursor.execute(statement)
            for look in looks:
                await _read_campaign(cursor, look)
            return {(topic, *place) for topic in dead_topics async for place in _rows(cursor, _SETTLED, topic)}
    except pymysql.err.MySQLError as error:
        raise _unusable(error) from error


async def _read_campaign(cursor: Any, look: CampaignLook) -> None:  # noqa: ANN401 -- aiomysql has no types
    campaign_id = look.campaign_id
    async for sku_id, allocated, sold in _rows(cursor, _COUNTERS, campaign_id):
        look.counter(sku_id, allocated=allocated, sold=sold)
    await _read_orders(cursor, look)
    for sku_id in sorted(look.skus):  # a ledger row's foreign key is one of the counters
        await _read_ledger(cursor, look, sku_id)
    async for order_id, sku_id, quantity, hold_no, origin in _rows(cursor, _RETURNS, campaign_id):
        look.pending_return(hold_key(_digest(order_id), hold_no, quantity), sku_id, second=bool(origin))
    reacquiring = _rows(cursor, _REACQUIRING, campaign_id, PaymentStatus.REACQUIRING)
    async for order_id, sku_id, quantity, hold_no in reacquiring:
        look.reacquiring(hold_key(_digest(order_id), hold_no, quantity), sku_id)
    async for saga_id, sku_id, quantity, hold_no, outbox_id, outbox_index, parked in _rows(cursor, _SAGAS, campaign_id):
        look.kind = look.kind or REDEMPTION
        key = hold_key(_digest(saga_id), hold_no, quantity)
        look.saga(key, sku_id, pack_origin(outbox_id, outbox_index), parked=bool(parked))
    async for order_id, points, payment, order in _rows(cursor, _POINTS, campaign_id):
        look.kind = look.kind or REDEMPTION
        look.points.payment(_digest(order_id), points, payment, order)


async def _read_orders(cursor: Any, look: CampaignLook) -> None:  # noqa: ANN401
    like, last, count = _like(look), "", ROWS_AT_ONCE
    while count == ROWS_AT_ONCE:
        await cursor.execute(_ORDERS, (last, like, look.campaign_id, ROWS_AT_ONCE))
        last, count, text = await cursor.fetchone()
        lines = _lines(text)
        _check(len(lines), count, "orders")
        for line in lines:
            key, sku_id, status, accepted_at_ms = line.split("\t")
            look.order_row(key, sku_id, status, int(accepted_at_ms))
    async for order_id, sku_id in _rows(cursor, _STRAY_ORDERS, look.campaign_id, like, STRAYS_MAX):
        look.stray(order_id, sku_id)


async def _read_ledger(cursor: Any, look: CampaignLook, sku_id: str) -> None:  # noqa: ANN401
    like, last, count, sku = _like(look), 0, ROWS_AT_ONCE, look.sku(sku_id)
    while count == ROWS_AT_ONCE:
        await cursor.execute(_LEDGER, (like, like, like, look.campaign_id, sku_id, last, ROWS_AT_ONCE))
        last, count, units, takes, releases, strays = await cursor.fetchone()
        pages = [_lines(text) for text in (takes, releases, strays)]
        _check(sum(map(len, pages)), count, "stock_ledger")
        sku.add_all(pages[0], TAKE)
        sku.add_all(pages[1], RELEASE)
        sku.ledger_units += units
        for order_id in pages[2]:
            look.stray(order_id, sku_id)


def _like(look: CampaignLook) -> str:
    """Return the pattern of the campaign's order ids: 32 of any character after its own."""
    return f"{look.campaign_id}~{'_' * 32}"


def _lines(text: str | None) -> list[str]:
    return text.split("\n") if text else []


def _check(found: int, count: int, table: str) -> None:
    """Make sure that the server's text holds all rows of a page.

    Raises:
        BackendError: it does not.
    """
    if found != count:
        raise BackendError(f"MySQL: {found} of {count} rows of {table} came; is max_allowed_packet below 4 MiB?")


def _digest(order_id: str) -> str:
    parts = split_order_id(order_id)
    return parts[1] if parts else order_id.replace(" ", "")


async def _rows(cursor: Any, sql: str, *args: object) -> AsyncIterator[tuple[Any, ...]]:  # noqa: ANN401
    """Yield rows as the server sends them, on the connection of `cursor`."""
    async with cursor.connection.cursor(SSCursor) as stream:
        await stream.execute(sql, args)
        while rows := await stream.fetchmany(ROWS_AT_ONCE):
            for row in rows:
                yield row


def _unusable(error: Exception) -> BackendError:
    return BackendError(f"MySQL: {error}; does the schema exist? `flashgate migrate` makes it")
