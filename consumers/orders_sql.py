"""The one transaction that stores a batch of accepted orders.

Everyone who moves stock in `fg_orders` takes locks in the same order: the counters (`campaign_sku`, by key), then the
orders (by id), then the ledger (by key). The counters come first because a ledger row's foreign key takes a shared
lock on its counter: two writers that held it shared and then both wanted to move the counter would deadlock.

What is new is decided by the ledger alone: a row that bears this transaction's random nonce after the insert was
written by this transaction. The nonce differs with every attempt, so a batch whose COMMIT took effect while its answer
was lost finds its rows with another nonce when it comes again, and moves nothing.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from adapters.mysql import Pool, insert_many, transaction
from consumers import batch
from consumers.batch import Counted, Deduction, Item, LedgerRow, Outcome, Payload

NONCE_BYTES: Final = 16

_INSERT_ORDERS: Final = """
INSERT INTO orders (order_id, campaign_id, sku_id, user_id, quantity, unit_price_cents, fingerprint, status, version,
 hold_no, outbox_id, outbox_index, nonce, accepted_at_ms, confirmed_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE order_id = order_id"""

_INSERT_LEDGER: Final = """
INSERT INTO stock_ledger (order_id, campaign_id, sku_id, hold_no, kind, quantity, outbox_id, outbox_index, nonce,
 created_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE order_id = order_id"""

_LOCK: Final = """
SELECT sku_id FROM campaign_sku WHERE campaign_id = %s AND sku_id IN %s ORDER BY sku_id FOR UPDATE"""

_KNOWN_ORDERS: Final = """
SELECT order_id, fingerprint, sku_id, quantity FROM orders WHERE order_id IN %s AND nonce <> %s"""

# The index is named, for statistics of a table that grew in a minute may make the server read all of it.
_LEDGER_OF: Final = """
SELECT order_id, sku_id, hold_no, outbox_id, outbox_index, nonce FROM stock_ledger FORCE INDEX (deduction)
WHERE order_id IN %s AND kind = %s"""

_MOVE: Final = """
UPDATE campaign_sku SET sold = sold + %s, version = version + 1 WHERE campaign_id = %s AND sku_id IN %s"""

_CONFIRMED: Final = "confirmed"
_TAKE: Final = "take"
_FIRST_VERSION: Final = 1


async def store(pool: Pool, items: Sequence[Item], *, now_ms: int) -> Outcome:
    """Store a batch; returns what became of each record.

    Raises:
        BackendError: transient; the batch may or may not have been stored, and must be stored again.
        DataRefusedError: MySQL refused something in it; nothing was stored.
    """
    outcome = Outcome()
    if not items:
        return outcome
    nonce = secrets.token_bytes(NONCE_BYTES)
    async with transaction(pool) as cursor:
        known = await _lock_counters(cursor, batch.counters(items))
        items, dead = batch.split_unknown(items, known)
        outcome.dead += dead
        if items:
            stored = await _insert_orders(cursor, batch.order_rows(items), nonce, now_ms)
            items, dead = batch.split_other_payload(items, stored)
            outcome.dead += dead
        if items:
            ledger = await _insert_ledger(cursor, batch.ledger_rows(items), nonce, now_ms)
            judged, moves = batch.judge(items, ledger, nonce)
            outcome.add(judged)
            for (campaign_id, delta), sku_ids in batch.same_moves(moves):
                await cursor.execute(_MOVE, (delta, campaign_id, sku_ids))
    return outcome


async def _lock_counters(cursor: Any, counters: Mapping[str, Sequence[str]]) -> set[Counted]:  # noqa: ANN401
    """Lock the counters (campaign id → SKU ids, all in order) and return those that exist."""
    known: set[Counted] = set()
    for campaign_id, sku_ids in counters.items():
        await cursor.execute(_LOCK, (campaign_id, sku_ids))
        known.update(Counted(campaign_id, sku_id) for (sku_id,) in await cursor.fetchall())
    return known


async def _insert_orders(cursor: Any, rows: Sequence[Item], nonce: bytes, now_ms: int) -> dict[str, Payload]:  # noqa: ANN401
    """Insert orders where they are missing; returns what MySQL now holds for each."""
    await insert_many(cursor, _INSERT_ORDERS, [_order_row(item, nonce, now_ms) for item in rows])
    stored = {item.event.order_id: item.payload for item in rows}
    await cursor.execute(_KNOWN_ORDERS, (list(stored), nonce))
    stored.update({row[0]: Payload(*row[1:]) for row in await cursor.fetchall()})
    return stored


async def _insert_ledger(
    cursor: Any,  # noqa: ANN401
    rows: Sequence[Item],
    nonce: bytes,
    now_ms: int,
) -> dict[Deduction, LedgerRow]:
    """Insert ledger rows where they are missing; returns what the ledger now holds for these orders."""
    await insert_many(cursor, _INSERT_LEDGER, [_ledger_row(item, nonce, now_ms) for item in rows])
    await cursor.execute(_LEDGER_OF, (sorted({item.event.order_id for item in rows}), _TAKE))
    return {Deduction(*row[:3]): LedgerRow(*row[3:]) for row in await cursor.fetchall()}


def _order_row(item: Item, nonce: bytes, now_ms: int) -> tuple[object, ...]:
    event = item.event
    return (
        event.order_id,
        event.campaign_id,
        event.sku_id,
        event.user_id,
        event.quantity,
        event.unit_price_cents,
        event.fingerprint,
        _CONFIRMED,
        _FIRST_VERSION,
        event.hold_no,
        event.outbox_id,
        event.outbox_index,
        nonce,
        event.accepted_at_ms,
        now_ms,
    )


def _ledger_row(item: Item, nonce: bytes, now_ms: int) -> tuple[object, ...]:
    event = item.event
    return (
        event.order_id,
        event.campaign_id,
        event.sku_id,
        event.hold_no,
        _TAKE,
        event.quantity,
        event.outbox_id,
        event.outbox_index,
        nonce,
        now_ms,
    )
