"""The one transaction that stores a batch of accepted orders.

Everyone who moves stock in `fg_orders` takes locks in the same order: the counters (`campaign_sku`, by key), then the
orders (by id), then the ledger (by key), then the rest. The counters come first because a ledger row's foreign key
takes a shared lock on its counter: two writers that held it shared and then both wanted to move the counter would
deadlock.

What is new is decided by the ledger alone: a row that bears this transaction's random nonce after the insert was
written by this transaction. The nonce differs with every attempt, so a batch whose COMMIT took effect while its answer
was lost finds its rows with another nonce when it comes again, and moves nothing.

An order's row is written once, as confirmed, and never changed here: a record that comes again when its order has
expired or been paid leaves it as it is. A second deduction is written down in `stock_return` in the same transaction;
the lifecycle process has Redis take its units back.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from adapters.mysql import IDLE_IN_TRANSACTION_S, Pool, insert_many, transaction
from adapters.mysql_statements import Escapes, InsertStatements, execute_all, in_slices
from adapters.order_tables import (
    INSERT_LEDGER,
    INSERT_ORDERS,
    INSERT_RETURNS,
    KEEP_KNOWN,
    NONCE_BYTES,
    TAKE,
    Row,
    ledger_row,
    order_values,
    return_row,
)
from consumers import batch
from consumers.batch import Counted, Dead, Deduction, Item, Origin, Outcome, Payload, Record
from domain import failpoints
from domain.draw_events import decode_draw_order
from domain.events import decode_order_accepted
from domain.order_state import OrderStatus

PREPARED_AGE_MAX_MS: Final = 1_000
"""Statements that are older are made anew: their time is that of the orders' confirmation."""
COUNTERS_REMEMBERED_MAX: Final = 10_000
LEDGER_ROWS_LOOKED_AT: Final = 4
"""For each row of a batch, where others write at the same time."""

_INSERT_ORDERS: Final = INSERT_ORDERS + KEEP_KNOWN
_INSERT_LEDGER: Final = INSERT_LEDGER + KEEP_KNOWN
_INSERT_RETURNS: Final = INSERT_RETURNS + KEEP_KNOWN

_LOCK: Final = """
SELECT sku_id, pay_within_s FROM campaign_sku WHERE campaign_id = %s AND sku_id IN %s ORDER BY sku_id FOR UPDATE"""

_KNOWN_ORDERS: Final = """
SELECT order_id, fingerprint, sku_id, quantity FROM orders WHERE order_id IN %s AND nonce <> %s"""

# The index is named, for statistics of a table that grew in a minute may make the server read all of it.
_KNOWN_DEDUCTIONS: Final = """
SELECT order_id, sku_id, hold_no, outbox_id, outbox_index FROM stock_ledger FORCE INDEX (deduction)
WHERE order_id IN %s AND kind = %s AND nonce <> %s"""

# Ids are given out in sequence, so what this transaction has written stands close together at the ledger's end.
_COUNT_OWN: Final = """
SELECT COUNT(*) FROM
 (SELECT order_id, nonce FROM stock_ledger FORCE INDEX (PRIMARY) WHERE id >= %s ORDER BY id LIMIT %s) AS l
 STRAIGHT_JOIN orders AS o FORCE INDEX (PRIMARY) ON o.order_id = l.order_id
WHERE l.nonce = %s AND o.nonce = %s"""

_MOVE: Final = """
UPDATE campaign_sku SET sold = sold + %s, version = version + 1 WHERE campaign_id = %s AND sku_id IN %s"""

_CONFIRMED: Final = str(OrderStatus.CONFIRMED)
_FIRST_VERSION: Final = 1
_MS_PER_S: Final = 1_000


@dataclass(slots=True)
class Prepared:
    """The statements that store a batch, made before its transaction begins, for one attempt.

    Attributes:
        items: the batch.
        unlike: of these, those that speak of an order of the batch with another payload than its first.
        if_all_new: what becomes of the others, and by how much the counters move, if nobody else has written any.
        nonce: of the transaction.
        now_ms: when the orders are confirmed, Unix milliseconds.
        pay_within_s: what was known of the counters when the statements were made.
        orders: insert the orders.
        ledger: insert the ledger's rows.
        deductions: the number of these rows.
        used: whether the nonce has been in use: another attempt must have another.
    """

    items: Sequence[Item]
    unlike: Sequence[Dead]
    if_all_new: tuple[Outcome, Mapping[Counted, int]]
    nonce: bytes
    now_ms: int
    pay_within_s: Mapping[Counted, int]
    orders: Sequence[bytes]
    ledger: Sequence[bytes]
    deductions: int
    used: bool = False

    def fits(self, items: Sequence[Item], pay_within_s: Mapping[Counted, int], now_ms: int) -> bool:
        """Tell whether it may be used for these items, with the counters as they have been locked now."""
        return (
            not self.used
            and self.items is items
            and 0 <= now_ms - self.now_ms <= PREPARED_AGE_MAX_MS
            and all(self.pay_within_s[counted] == seconds for counted, seconds in pay_within_s.items())
        )


class OrderStore:
    """Stores batches of accepted orders, or of prizes that were won: orders for which nothing is to be paid.

    Args:
        pool: the database fg_orders.
        prizes: the records tell of draws that won.
    """

    def __init__(self, pool: Pool, *, prizes: bool = False) -> None:
        self._pool = pool
        self._prizes = prizes
        self._pay_within_s: dict[Counted, int] = {}

    def split(self, records: Sequence[Record]) -> tuple[Sequence[Item], Sequence[Dead]]:
        """Decode records; those that are none of this topic's events are dead."""
        return batch.split_poison(records, decode_draw_order if self._prizes else decode_order_accepted)

    async def prepare(self, items: Sequence[Item], *, now_ms: int) -> Prepared | None:
        """Make the statements for a batch, with what is known of its counters; None if not enough is known.

        Leaves room for other tasks in between.
        """
        counted = {item.counted for item in items}
        if not items or not counted <= self._pay_within_s.keys():
            return None
        return await self._make(items, {key: self._pay_within_s[key] for key in counted}, now_ms)

    async def store(self, items: Sequence[Item], *, now_ms: int, prepared: Prepared | None = None) -> Outcome:
        """Store a batch; returns what became of each record.

        Args:
            items: the batch.
            now_ms: Unix milliseconds.
            prepared: the statements for exactly these items, if there are any; used where they still fit.

        Raises:
            BackendError: transient; the batch may or may not have been stored, and must be stored again.
            DataRefusedError: MySQL refused something in it; nothing was stored.
        """
        outcome = Outcome()
        if not items:
            return outcome
        async with transaction(self._pool, idle_max_s=IDLE_IN_TRANSACTION_S) as cursor:
            pay_within_s = await _lock_counters(cursor, batch.counters(items))
            self._remember(pay_within_s)
            kept, outcome.dead = batch.split_unknown(items, pay_within_s)
            if kept:
                if prepared is None or outcome.dead or not prepared.fits(items, pay_within_s, now_ms):
                    prepared = await self._make(kept, pay_within_s, now_ms)
                prepared.used = True
                outcome.add(await self._write(cursor, prepared))
            failpoints.reach("consumer.before_mysql_commit")
        return outcome

    async def _write(self, cursor: Any, prepared: Prepared) -> Outcome:  # noqa: ANN401 -- aiomysql has no types
        """Insert what is missing, and move the counters by what is new; the counters are locked."""
        await execute_all(cursor, prepared.orders)
        await cursor.execute("SAVEPOINT before_ledger")
        first_id = await execute_all(cursor, prepared.ledger)
        dead, (judged, moves) = prepared.unlike, prepared.if_all_new
        if not await _is_all_new(cursor, prepared, first_id):
            await cursor.execute("ROLLBACK TO SAVEPOINT before_ledger")
            items, dead, known = await self._write_ledger(cursor, prepared)
            judged, moves = batch.judge(items, known)
        for (campaign_id, delta), sku_ids in batch.same_moves(moves):
            await cursor.execute(_MOVE, (delta, campaign_id, sku_ids))
        returns = [return_row(item.event, str(item.origin), prepared.now_ms) for item in batch.returns(judged.second)]
        await insert_many(cursor, _INSERT_RETURNS, returns)
        outcome = Outcome(dead=list(dead))
        outcome.add(judged)
        return outcome

    async def _write_ledger(
        self,
        cursor: Any,  # noqa: ANN401
        prepared: Prepared,
    ) -> tuple[Sequence[Item], Sequence[Dead], Mapping[Deduction, Origin]]:
        """Write the ledger of a batch of which something was known: only for orders whose payload is the same.

        Returns:
            items of which the ledger now has a row, dead ones, and the deductions that others had written.
        """
        nonce = prepared.nonce
        await cursor.execute(_KNOWN_ORDERS, (sorted({item.event.order_id for item in prepared.items}), nonce))
        stored = {row[0]: Payload(*row[1:]) for row in await cursor.fetchall()}
        items, dead = batch.split_other_payload(prepared.items, stored)
        rows = batch.ledger_rows(items)
        if not rows:
            return items, dead, {}
        await execute_all(cursor, await self._ledger_statements(rows, nonce, prepared.now_ms, Escapes()))
        await cursor.execute(_KNOWN_DEDUCTIONS, (sorted({item.event.order_id for item in rows}), TAKE, nonce))
        return items, dead, {Deduction(*row[:3]): Origin(*row[3:]) for row in await cursor.fetchall()}

    async def _make(self, items: Sequence[Item], pay_within_s: Mapping[Counted, int], now_ms: int) -> Prepared:
        nonce, escapes = secrets.token_bytes(NONCE_BYTES), Escapes()
        orders = InsertStatements(_INSERT_ORDERS, self._pool.statement_bytes_max, escapes)
        rows = batch.order_rows(items)
        async for some in in_slices(rows):
            orders.add([self._order_row(item, nonce, now_ms, pay_within_s) for item in some])
        alike, unlike = (items, []) if len(rows) == len(items) else batch.split_other_payload(items, {})
        rows = batch.ledger_rows(alike)
        ledger = await self._ledger_statements(rows, nonce, now_ms, escapes)
        return Prepared(
            items=items,
            unlike=unlike,
            if_all_new=batch.judge(alike, {}),
            nonce=nonce,
            now_ms=now_ms,
            pay_within_s=pay_within_s,
            orders=orders.statements(),
            ledger=ledger,
            deductions=len(rows),
        )

    def _order_row(self, item: Item, nonce: bytes, now_ms: int, pay_within_s: Mapping[Counted, int]) -> Row:
        return order_row(item, nonce, now_ms, None if self._prizes else pay_within_s[item.counted])

    async def _ledger_statements(
        self, rows: Sequence[Item], nonce: bytes, now_ms: int, escapes: Escapes
    ) -> Sequence[bytes]:
        ledger = InsertStatements(_INSERT_LEDGER, self._pool.statement_bytes_max, escapes)
        async for some in in_slices(rows):
            ledger.add([ledger_row(item.event, TAKE, nonce, now_ms) for item in some])
        return ledger.statements()

    def _remember(self, pay_within_s: Mapping[Counted, int]) -> None:
        if len(self._pay_within_s) > COUNTERS_REMEMBERED_MAX:
            self._pay_within_s.clear()
        self._pay_within_s.update(pay_within_s)


async def _lock_counters(cursor: Any, counters: Mapping[str, Sequence[str]]) -> dict[Counted, int]:  # noqa: ANN401
    """Lock the counters (campaign id → SKU ids, all in order); returns those that exist → seconds to pay within."""
    known: dict[Counted, int] = {}
    for campaign_id, sku_ids in counters.items():
        await cursor.execute(_LOCK, (campaign_id, sku_ids))
        known.update({Counted(campaign_id, sku_id): seconds for sku_id, seconds in await cursor.fetchall()})
    return known


async def _is_all_new(cursor: Any, prepared: Prepared, first_id: int) -> bool:  # noqa: ANN401
    """Tell whether every deduction of the batch has a ledger row of this transaction, for an order of this transaction.

    That is so for nearly every batch, and reading back one number is quicker than reading what others may have written.
    """
    if first_id == 0:
        return False
    rows_max = LEDGER_ROWS_LOOKED_AT * prepared.deductions
    await cursor.execute(_COUNT_OWN, (first_id, rows_max, prepared.nonce, prepared.nonce))
    (count,) = await cursor.fetchone()
    return bool(count == prepared.deductions)


def order_row(item: Item, nonce: bytes, now_ms: int, pay_within_s: int | None) -> Row:
    """Return the values that INSERT_ORDERS takes; without `pay_within_s` there is nothing to pay."""
    values = order_values(item.event, _CONFIRMED, _FIRST_VERSION, nonce, now_ms)
    return (*values, None if pay_within_s is None else now_ms + pay_within_s * _MS_PER_S)
