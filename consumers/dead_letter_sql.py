"""MySQL's side of the dead letters: what was done with each, and the one transaction that gives an order up.

Locks are taken in the order of everyone who moves stock in `fg_orders`: the counter, the order, the ledger, the rest.
As in `consumers.orders_sql`, a row that bears this transaction's nonce after the insert was written by it.
"""

import secrets
from collections.abc import Collection, Sequence
from enum import Enum, auto
from typing import Any, Final

import msgspec
import pymysql.err

from adapters.mysql import Pool, query, transaction
from adapters.order_tables import (
    INSERT_CHANGES,
    INSERT_LEDGER,
    INSERT_ORDERS,
    INSERT_RETURNS,
    KEEP_KNOWN,
    NONCE_BYTES,
    RELEASE,
    TAKE,
    ledger_row,
    order_values,
    return_row,
)
from consumers.batch import NO_ORIGIN, Origin, is_second_deduction, origin_of
from consumers.dead_letter_rules import DROPPED_REASON, Action, LetterId, Mark
from domain.errors import BackendError, OperationRefusedError
from domain.events import OrderAccepted
from domain.order_state import OrderStatus

REJECTED_VERSION: Final = 2
"""As after `confirmed`, which has version 1: such an order was never confirmed to anybody."""

_MARK: Final = """
INSERT INTO dead_letter_done (topic, kafka_partition, kafka_offset, action, at_ms)
VALUES (%s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE action = VALUES(action), at_ms = VALUES(at_ms)"""
_MARKS: Final = (
    "SELECT kafka_offset, action, at_ms FROM dead_letter_done "
    "WHERE topic = %s AND kafka_partition = %s AND kafka_offset IN %s"
)
_COUNT: Final = (
    "SELECT COUNT(*) FROM dead_letter_done "
    "WHERE topic = %s AND kafka_partition = %s AND kafka_offset >= %s AND kafka_offset < %s"
)
_KNOWN_ORDER: Final = "SELECT 1 FROM orders WHERE order_id = %s"
_LOCK: Final = "SELECT sku_id FROM campaign_sku WHERE campaign_id = %s AND sku_id = %s FOR UPDATE"
_KNOWN_SKU: Final = "SELECT 1 FROM campaign_sku WHERE campaign_id = %s AND sku_id = %s"
_ORDER: Final = INSERT_ORDERS + KEEP_KNOWN
_LEDGER: Final = INSERT_LEDGER + KEEP_KNOWN
_CHANGE: Final = INSERT_CHANGES + KEEP_KNOWN
_RETURN: Final = INSERT_RETURNS + KEEP_KNOWN
_STORED: Final = "SELECT nonce, fingerprint, sku_id, quantity FROM orders WHERE order_id = %s"
_TAKEN: Final = (
    "SELECT outbox_id, outbox_index FROM stock_ledger "
    "WHERE order_id = %s AND sku_id = %s AND hold_no = %s AND kind = 'take'"
)
_LEDGER_WRITERS: Final = "SELECT nonce FROM stock_ledger WHERE order_id = %s"


class Settlement(Enum):
    """What giving a letter up came to."""

    REJECTED = auto()
    """Its order has a row now, which says so, and its units are owed to Redis."""
    SECOND = auto()
    """Its order had a row by then, from another outbox entry; the units of this one are owed to Redis."""
    STORED = auto()
    """Its order had a row by then; nothing but the mark was written."""
    NOTHING = auto()
    """There is no such order anywhere; nothing but the mark was written."""
    UNKNOWN_SKU = auto()
    """MySQL has no counter for it, though Redis holds units; nothing was written."""


async def read_marks(pool: Pool, letters: Collection[LetterId]) -> dict[LetterId, Mark]:
    """Return what was done with these letters; those with which nothing was done are absent.

    Raises:
        BackendError: MySQL is not there.
    """
    places: dict[tuple[str, int], list[int]] = {}
    for one in letters:
        places.setdefault((one.topic, one.partition), []).append(one.offset)
    found: dict[LetterId, Mark] = {}
    for (topic, partition), offsets in places.items():
        for offset, action, at_ms in await _read(pool, _MARKS, (topic, partition, offsets)):
            found[LetterId(topic, partition, offset)] = Mark(action, at_ms)
    return found


async def count_marks(pool: Pool, topic: str, partition: int, start: int, end: int) -> int:
    """Return with how many letters of a piece of a partition something was done.

    Raises:
        BackendError: MySQL is not there.
    """
    return int((await _read(pool, _COUNT, (topic, partition, start, end)))[0][0])


async def mark_letters(pool: Pool, letters: Sequence[LetterId], action: Action, now_ms: int) -> None:
    """Remember what was done with letters; the last one counts.

    Raises:
        BackendError: it may or may not be remembered; marking again is harmless.
    """
    async with transaction(pool) as cursor:
        for one in sorted(letters):
            await mark(cursor, one, action, now_ms)


async def has_row(pool: Pool, order_id: str) -> bool:
    """Tell whether an order is in MySQL.

    Raises:
        BackendError: MySQL is not there.
    """
    return bool(await _read(pool, _KNOWN_ORDER, (order_id,)))


async def give_up(pool: Pool, event: OrderAccepted, letter: LetterId, now_ms: int, *, held: bool) -> Settlement:
    """Give up an accepted order that could not be stored, with what is owed for it, and mark its letter as dropped.

    If Redis holds its units and it has no row, it gets one that says `rejected`; the ledger has the taking and the
    release of its hold, so that the counter stays what it was; `stock_return` says what Redis has to get back, once,
    and `order_change` tells the buyer. If it has a row by then, the consumer has stored it, and that counts: only what
    another outbox entry deducted a second time is given back, as the consumer would have done.

    Args:
        pool: the database fg_orders.
        event: the order.
        letter: what is marked.
        now_ms: Unix milliseconds.
        held: whether Redis holds units for exactly this event.

    Raises:
        OutcomeUnknownError: COMMIT was sent and its answer was lost; dropping again finds out.
        BackendError: nothing was changed.
        DataRefusedError: MySQL refuses the order; nothing was changed.
        OperationRefusedError: the ledger knows the order although `orders` does not; nothing was changed.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    async with transaction(pool) as cursor:
        await cursor.execute(_LOCK, (event.campaign_id, event.sku_id))
        if held and await cursor.fetchone() is None:
            return Settlement.UNKNOWN_SKU
        settlement = await _settle(cursor, event, nonce, now_ms, held=held)
        await mark(cursor, letter, Action.DROPPED, now_ms)
    return settlement


async def knows_sku(pool: Pool, event: OrderAccepted) -> bool:
    """Tell whether MySQL has a counter for an event's SKU.

    Raises:
        BackendError: MySQL is not there.
    """
    return bool(await _read(pool, _KNOWN_SKU, (event.campaign_id, event.sku_id)))


def unknown_sku(event: OrderAccepted) -> OperationRefusedError:
    """Return the error that MySQL has no counter for an event's SKU."""
    return OperationRefusedError(
        f"MySQL knows no SKU {event.sku_id!r} of campaign {event.campaign_id!r}, of which Redis holds "
        f"{event.quantity} for this order: load the campaign (`./flashgate campaign load FILE`), then "
        "replay or drop the letter"
    )


def is_ours(row_nonce: bytes, nonce: bytes) -> bool:
    """Tell whether a row that was read back was written by the transaction that bears `nonce`."""
    return row_nonce == nonce


async def _read(pool: Pool, statement: str, args: Sequence[object]) -> list[tuple[Any, ...]]:
    try:
        return await query(pool, statement, args)
    except pymysql.err.MySQLError as error:
        raise BackendError(f"MySQL: {error}; does the schema exist? `./flashgate migrate` makes it") from error


async def _settle(
    cursor: Any,  # noqa: ANN401
    event: OrderAccepted,
    nonce: bytes,
    now_ms: int,
    *,
    held: bool,
) -> Settlement:
    if held:
        values = order_values(event, OrderStatus.REJECTED, REJECTED_VERSION, nonce, now_ms)
        await cursor.execute(_ORDER, (*values, None))  # nobody will pay it
    await cursor.execute(_STORED, (event.order_id,))
    row = await cursor.fetchone()
    if row is None:
        return Settlement.NOTHING
    if held and is_ours(row[0], nonce):
        await _write_release(cursor, event, nonce, now_ms)
        return Settlement.REJECTED
    await cursor.execute(_TAKEN, (event.order_id, event.sku_id, event.hold_no))
    taken = await cursor.fetchone()
    if taken is None or row[1:] != (event.fingerprint, event.sku_id, event.quantity):
        return Settlement.STORED
    origin = origin_of(event)
    if not is_second_deduction(Origin(*taken), origin):
        return Settlement.STORED
    await cursor.execute(_RETURN, return_row(event, str(origin), now_ms))
    return Settlement.SECOND


async def _write_release(cursor: Any, event: OrderAccepted, nonce: bytes, now_ms: int) -> None:  # noqa: ANN401
    from_nowhere = msgspec.structs.replace(event, outbox_id=NO_ORIGIN.outbox_id, outbox_index=NO_ORIGIN.outbox_index)
    await cursor.execute(_LEDGER, ledger_row(event, TAKE, nonce, now_ms))
    await cursor.execute(_LEDGER, ledger_row(from_nowhere, RELEASE, nonce, now_ms))
    await cursor.execute(_LEDGER_WRITERS, (event.order_id,))
    if [row[0] for row in await cursor.fetchall()] != [nonce, nonce]:
        raise OperationRefusedError(
            f"{event.order_id}: the ledger knows it although `orders` does not; `./flashgate reconcile` tells more. "
            "Nothing was changed"
        )
    await cursor.execute(_CHANGE, (event.order_id, REJECTED_VERSION, OrderStatus.REJECTED, DROPPED_REASON, now_ms))
    await cursor.execute(_RETURN, return_row(event, "", now_ms))


async def mark(cursor: Any, letter: LetterId, action: Action, now_ms: int) -> None:  # noqa: ANN401
    """Remember what was done with a letter, in the caller's transaction."""
    await cursor.execute(_MARK, (*letter, action, now_ms))
