"""What fg_orders owes the warehouse: parcels that leave, and parcels that came back (table `warehouse_due`).

A row is written by the transaction that decides, in fg_orders. Carrying it out is a transaction in fg_catalog, which is
idempotent by its ledger, and then one in fg_orders, which moves order, review and row by compare-and-set. So a step may
be repeated from its beginning after a crash at any point, and by several at once.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from adapters.mysql import DataRefusedError, Pool, insert_many, query, transaction
from domain.backoff import pause_s
from domain.errors import OperationRefusedError
from domain.failpoints import reach
from domain.order_state import OrderStatus, ReviewStatus
from domain.settings import WarehouseSettings
from lifecycle.order_rows import OrderFacts, lock_counters, lock_orders, move, release
from lifecycle.payment_rows import send_back
from warehouse import parcel_rows
from warehouse.parcel_rows import Parcel
from warehouse.review_rules import change_reason
from warehouse.rules import BookingKind

log = logging.getLogger(__name__)

ERROR_CHARS_MAX: Final = 255

_COLUMNS: Final = "order_id, kind, campaign_id, sku_id, quantity, who, why, attempts"
_DUE: Final = (
    f"SELECT {_COLUMNS} FROM warehouse_due FORCE INDEX (by_due) "  # noqa: S608 -- columns alone
    "WHERE done_at_ms IS NULL AND next_at_ms <= %s AND kind = %s ORDER BY next_at_ms, order_id LIMIT %s"
)
_OWE: Final = """
INSERT INTO warehouse_due (order_id, kind, campaign_id, sku_id, quantity, who, why, created_at_ms, next_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_OPEN: Final = (
    "SELECT order_id FROM warehouse_due WHERE order_id IN %s AND kind = %s AND done_at_ms IS NULL "
    "ORDER BY order_id FOR UPDATE"
)
_DONE: Final = "UPDATE warehouse_due SET done_at_ms = %s, error = '' WHERE order_id IN %s AND kind = %s"
_LATER: Final = (
    "UPDATE warehouse_due SET attempts = attempts + 1, next_at_ms = %s, error = %s "
    "WHERE order_id = %s AND kind = %s AND done_at_ms IS NULL"
)
_REVIEWED: Final = "UPDATE outbound_review SET status = %s, version = version + 1 WHERE order_id IN %s AND status = %s"


class Step(NamedTuple):
    """A row of `warehouse_due`."""

    order_id: str
    kind: BookingKind
    """SHIP or RETURN."""
    campaign_id: str
    sku_id: str
    quantity: int
    who: str
    why: str
    attempts: int = 0
    """How often it was tried in vain."""


async def owe(cursor: Any, steps: Sequence[Step], now_ms: int) -> None:  # noqa: ANN401 -- aiomysql has no types
    """Write steps down, in the transaction that decides them.

    Raises:
        DataRefusedError: one was owed before; an order leaves once and comes back once.
    """
    await insert_many(cursor, _OWE, [(*one[:-1], now_ms, now_ms) for one in steps])


async def due_steps(orders: Pool, kind: BookingKind, now_ms: int, limit: int) -> list[Step]:
    """Return steps of a kind that are due, those that have waited longest first.

    Raises:
        BackendError: MySQL is not there.
    """
    rows = await query(orders, _DUE, (now_ms, kind, limit))
    return [Step(row[0], BookingKind(row[1]), *row[2:]) for row in rows]


async def carry_out(catalog: Pool, orders: Pool, steps: Sequence[Step], now_ms: int) -> int:
    """Carry out steps of one kind, all or none in each schema; returns how many this call ended, others not.

    Raises:
        OperationRefusedError: the warehouse cannot do one of them as things stand.
        BackendError: they may be half done; call again.
    """
    kind = steps[0].kind
    parcels = [Parcel(one.order_id, one.campaign_id, one.sku_id, one.quantity, one.who, one.why) for one in steps]
    if kind is BookingKind.SHIP:
        await parcel_rows.ship(catalog, parcels, now_ms)
        reach("warehouse.after_ship")
    else:
        await parcel_rows.take_back(catalog, parcels, now_ms)
        reach("warehouse.after_return")
    return await _end(orders, kind, {one.order_id: one for one in steps}, now_ms)


async def attempt(
    catalog: Pool, orders: Pool, steps: Sequence[Step], settings: WarehouseSettings, now_ms: Callable[[], int]
) -> dict[str, str]:
    """Carry out steps of one kind; what the warehouse refuses is put off, with the reason in its row.

    One that is refused does not hold up the others: they are tried in ever smaller groups.

    Returns:
        Order id → why it was put off.

    Raises:
        BackendError: a server is away; what is not done stays due.
    """
    if not steps:
        return {}
    try:
        await carry_out(catalog, orders, steps, now_ms())
    except (OperationRefusedError, DataRefusedError) as refused:
        if len(steps) == 1:
            (step,), error = steps, str(refused)
            log.error("%s is put off: %s", step.kind, error)  # noqa: TRY400 -- it says it all
            wait_s = pause_s(step.attempts, settings.retry_initial_s, settings.retry_max_s)
            await _put_off(orders, step, now_ms() + round(1_000 * wait_s), error)
            return {step.order_id: error}
    else:
        return {}
    middle = len(steps) // 2
    first = await attempt(catalog, orders, steps[:middle], settings, now_ms)
    return first | await attempt(catalog, orders, steps[middle:], settings, now_ms)


async def _end(orders: Pool, kind: BookingKind, steps: Mapping[str, Step], now_ms: int) -> int:
    """Have fg_orders know that the warehouse has done some steps; returns how many it did not know of.

    Args:
        orders: the database fg_orders.
        kind: of all of them.
        steps: order id → step.
        now_ms: Unix milliseconds.
    """
    ships = kind is BookingKind.SHIP
    was = OrderStatus.APPROVED if ships else OrderStatus.SHIPPED
    async with transaction(orders) as cursor:
        if not ships:
            await lock_counters(cursor, [(one.campaign_id, one.sku_id) for one in steps.values()])
        locked = await lock_orders(cursor, steps)
        await cursor.execute(_OPEN, (sorted(steps), kind))
        ids = [order_id for (order_id,) in await cursor.fetchall()]
        if not ids:
            return 0
        for one in ids:
            if one not in locked or locked[one].status is not was:
                raise OperationRefusedError(
                    f"order {one} is {locked[one].status if one in locked else 'gone'}, not {was}"
                )
        moving = [locked[one] for one in ids]
        if ships:
            before, after = ReviewStatus.APPROVED, ReviewStatus.SHIPPED
            await move(cursor, moving, OrderStatus.SHIPPED, "shipped", now_ms)
        else:
            before, after = ReviewStatus.RETURNING, ReviewStatus.RETURNED
            for reason, group in _by_reason(moving, steps).items():
                await release(cursor, group, OrderStatus.REJECTED, reason, now_ms)
            await send_back(cursor, ids, now_ms)
        await cursor.execute(_REVIEWED, (after, ids, before))
        if cursor.rowcount != len(ids):
            raise OperationRefusedError(f"of {len(ids)} reviews, {cursor.rowcount} are {before}, {ids[0]} for one")
        await cursor.execute(_DONE, (now_ms, ids, kind))
    return len(ids)


def _by_reason(orders: Sequence[OrderFacts], steps: Mapping[str, Step]) -> dict[str, list[OrderFacts]]:
    """Return orders by what their changes are to say of why their parcels came back."""
    groups: dict[str, list[OrderFacts]] = {}
    for one in orders:
        step = steps[one.order_id]
        groups.setdefault(change_reason("came back, taken in", step.who, step.why), []).append(one)
    return groups


async def _put_off(orders: Pool, step: Step, next_at_ms: int, error: str) -> None:
    async with transaction(orders) as cursor:
        await cursor.execute(_LATER, (next_at_ms, error[:ERROR_CHARS_MAX], step.order_id, step.kind))
