"""What fg_orders owes the warehouse: parcels that leave, stay after all, or came back (table `warehouse_due`).

A row is written by the transaction that decides, in fg_orders. Carrying it out is a transaction in fg_catalog, which is
idempotent by its ledger, and then one in fg_orders, which moves order, review and row by compare-and-set. So a step may
be repeated from its beginning after a crash at any point, and by several at once.

An order that was approved and then rejected is owed both: its parcel leaves or stays, by which of the two the catalog
books first, under its lock. If it stays, the order is rejected and both rows are done. If it had left, the rejection is
void: the review is as it was, and the order is shipped.
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
from warehouse.parcel_rows import Parcel, ParcelCancelledError, ParcelLeftError
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
_NOT_LEAVING: Final = (
    "UPDATE warehouse_due SET done_at_ms = %s WHERE order_id IN %s AND kind = %s AND done_at_ms IS NULL"
)
_LEFT: Final = (
    "UPDATE warehouse_due SET done_at_ms = %s, error = %s WHERE order_id = %s AND kind = %s AND done_at_ms IS NULL"
)
_AS_APPROVED: Final = (
    "UPDATE outbound_review r JOIN warehouse_due d ON d.order_id = r.order_id AND d.kind = %s "
    "SET r.status = %s, r.version = r.version + 1, r.who = d.who, r.why = d.why, r.decided_at_ms = d.created_at_ms "
    "WHERE r.order_id = %s AND r.status = %s"
)
_LATER: Final = (
    "UPDATE warehouse_due SET attempts = attempts + 1, next_at_ms = %s, error = %s "
    "WHERE order_id = %s AND kind = %s AND done_at_ms IS NULL"
)
_REVIEWED: Final = "UPDATE outbound_review SET status = %s, version = version + 1 WHERE order_id IN %s AND status = %s"


Refused = OperationRefusedError | DataRefusedError
"""Why the warehouse does not do its part."""


class _Moves(NamedTuple):
    """What becomes of an order by a step."""

    was: OrderStatus
    reviewed: ReviewStatus
    """As it is before."""
    after: ReviewStatus
    reason: str = ""
    """Of an order that is rejected by it."""


_MOVES: Final = {
    BookingKind.SHIP: _Moves(OrderStatus.APPROVED, ReviewStatus.APPROVED, ReviewStatus.SHIPPED),
    BookingKind.RETURN: _Moves(
        OrderStatus.SHIPPED, ReviewStatus.RETURNING, ReviewStatus.RETURNED, "came back, taken in"
    ),
    BookingKind.CANCEL: _Moves(OrderStatus.APPROVED, ReviewStatus.REJECTING, ReviewStatus.REJECTED, "rejected"),
}


class Step(NamedTuple):
    """A row of `warehouse_due`."""

    order_id: str
    kind: BookingKind
    """SHIP, CANCEL or RETURN."""
    campaign_id: str
    sku_id: str
    quantity: int
    who: str
    why: str
    attempts: int = 0
    """How often it was tried in vain."""

    @property
    def parcel(self) -> Parcel:
        """What it is about."""
        return Parcel(self.order_id, self.campaign_id, self.sku_id, self.quantity, self.who, self.why)


async def owe(cursor: Any, steps: Sequence[Step], now_ms: int) -> None:  # noqa: ANN401 -- aiomysql has no types
    """Write steps down, in the transaction that decides them.

    Raises:
        DataRefusedError: one was owed before; an order leaves once, stays once and comes back once.
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
    parcels = [one.parcel for one in steps]
    match kind:
        case BookingKind.SHIP:
            await parcel_rows.ship(catalog, parcels, now_ms)
            reach("warehouse.after_ship")
        case BookingKind.CANCEL:
            await parcel_rows.cancel(catalog, parcels, now_ms)
            reach("warehouse.after_cancel")
        case BookingKind.RETURN:
            await parcel_rows.take_back(catalog, parcels, now_ms)
            reach("warehouse.after_return")
        case _:
            raise ValueError(f"{kind} is nothing that is owed for an order")
    return await _end(orders, kind, {one.order_id: one for one in steps}, now_ms)


async def attempt(
    catalog: Pool, orders: Pool, steps: Sequence[Step], settings: WarehouseSettings, now_ms: Callable[[], int]
) -> dict[str, Refused]:
    """Carry out steps of one kind; what the warehouse refuses is put off, with the reason in its row.

    One that is refused does not hold up the others: they are tried in ever smaller groups.

    Returns:
        Order id → why it was put off; a ParcelLeftError says that its parcel cannot stay any more, and that is that.

    Raises:
        BackendError: a server is away; what is not done stays due.
    """
    if not steps:
        return {}
    try:
        await carry_out(catalog, orders, steps, now_ms())
    except (OperationRefusedError, DataRefusedError) as refused:
        if len(steps) == 1:
            await _not_done(orders, steps[0], refused, settings, now_ms())
            return {steps[0].order_id: refused}
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
    moves = _MOVES[kind]
    was = moves.was
    async with transaction(orders) as cursor:
        if moves.reason:
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
        if moves.reason:
            for reason, group in _by_reason(moves.reason, moving, steps).items():
                await release(cursor, group, OrderStatus.REJECTED, reason, now_ms)
            await send_back(cursor, ids, now_ms)
        else:
            await move(cursor, moving, OrderStatus.SHIPPED, "shipped", now_ms)
        await cursor.execute(_REVIEWED, (moves.after, ids, moves.reviewed))
        if cursor.rowcount != len(ids):
            raise OperationRefusedError(
                f"of {len(ids)} reviews, {cursor.rowcount} are {moves.reviewed}, {ids[0]} for one"
            )
        await cursor.execute(_DONE, (now_ms, ids, kind))
        if kind is BookingKind.CANCEL:
            await cursor.execute(_NOT_LEAVING, (now_ms, ids, BookingKind.SHIP))
    return len(ids)


def _by_reason(what: str, orders: Sequence[OrderFacts], steps: Mapping[str, Step]) -> dict[str, list[OrderFacts]]:
    """Return orders by what their changes are to say of why they are rejected."""
    groups: dict[str, list[OrderFacts]] = {}
    for one in orders:
        step = steps[one.order_id]
        groups.setdefault(change_reason(what, step.who, step.why), []).append(one)
    return groups


async def _not_done(orders: Pool, step: Step, refused: Refused, settings: WarehouseSettings, now_ms: int) -> None:
    """Note that a step was refused: it is tried later, unless it is void."""
    error = str(refused)
    if isinstance(refused, ParcelLeftError):
        log.error("the rejection of an order is void: %s", error)
        await _stays_approved(orders, step, error, now_ms)
        return
    level = logging.INFO if isinstance(refused, ParcelCancelledError) else logging.ERROR
    log.log(level, "%s is put off: %s", step.kind, error)
    wait_s = pause_s(step.attempts, settings.retry_initial_s, settings.retry_max_s)
    async with transaction(orders) as cursor:
        next_at_ms = now_ms + round(1_000 * wait_s)
        await cursor.execute(_LATER, (next_at_ms, error[:ERROR_CHARS_MAX], step.order_id, step.kind))


async def _stays_approved(orders: Pool, step: Step, error: str, now_ms: int) -> None:
    """End a rejection that came too late: the review is as it was, and the step that ships goes on."""
    async with transaction(orders) as cursor:
        await lock_orders(cursor, [step.order_id])
        await cursor.execute(_LEFT, (now_ms, error[:ERROR_CHARS_MAX], step.order_id, step.kind))
        if cursor.rowcount:
            back = (BookingKind.SHIP, ReviewStatus.APPROVED, step.order_id, ReviewStatus.REJECTING)
            await cursor.execute(_AS_APPROVED, back)
