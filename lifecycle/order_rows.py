"""Moving orders: compare-and-set on their rows, with everything that a move owes to others in the same transaction.

Locks are taken in the same order by everyone who moves stock in `fg_orders`: counters (by key), orders (by id), ledger,
the rest. A move that gives units up writes the ledger's release and a `stock_return` row; Redis is told afterwards, by
the lifecycle process (`lifecycle.keeper`). So Redis sells a unit again only once the ledger has its release, and a
crash in between leaves the row that says what is owed.
"""

import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from adapters.mysql import Pool, insert_many, query, transaction
from adapters.order_tables import INSERT_CHANGES, INSERT_LEDGER, INSERT_RETURNS, NONCE_BYTES, RELEASE, TAKE
from domain.errors import BackendError
from domain.order_state import FOLLOWS, OrderStatus, ReviewStatus
from domain.outbox import START
from lifecycle.rules import is_due

NO_ORIGIN: Final = START
"""Outbox id of a ledger row that no outbox entry stands behind."""

_COLUMNS: Final = (
    "order_id, campaign_id, sku_id, user_id, quantity, unit_price_cents, status, version, hold_no, pay_by_ms"
)
_FIND: Final = f"SELECT {_COLUMNS} FROM orders WHERE order_id IN %s ORDER BY order_id"  # noqa: S608 -- columns alone
_LOCK_COUNTERS: Final = (
    "SELECT sku_id FROM campaign_sku WHERE campaign_id = %s AND sku_id IN %s ORDER BY sku_id FOR UPDATE"
)
_DUE: Final = (
    f"SELECT {_COLUMNS} FROM orders FORCE INDEX (by_due) "  # noqa: S608 -- columns alone
    "WHERE status = %s AND pay_by_ms <= %s ORDER BY pay_by_ms LIMIT %s"
)
_MOVE: Final = (
    "UPDATE orders SET status = %s, version = version + 1, hold_no = hold_no + %s WHERE order_id IN %s AND status = %s"
)
_SOLD: Final = "UPDATE campaign_sku SET sold = sold + %s, version = version + 1 WHERE campaign_id = %s AND sku_id = %s"


class OrderFacts(NamedTuple):
    """An order's row, as far as its life goes."""

    order_id: str
    campaign_id: str
    sku_id: str
    user_id: str
    quantity: int
    unit_price_cents: int
    status: OrderStatus
    version: int
    hold_no: int
    pay_by_ms: int | None
    """Unix milliseconds; None: it never expires."""


def _facts(row: Sequence[Any]) -> OrderFacts:
    facts = OrderFacts(*row)
    return facts._replace(status=OrderStatus(facts.status))


async def find_order(pool: Pool, order_id: str) -> OrderFacts | None:
    """Return an order's row.

    Raises:
        BackendError: MySQL is not there.
    """
    return (await find_orders(pool, [order_id])).get(order_id)


async def find_orders(pool: Pool, order_ids: Sequence[str]) -> dict[str, OrderFacts]:
    """Return the rows that there are, by order id.

    Raises:
        BackendError: MySQL is not there.
    """
    return {row[0]: _facts(row) for row in await query(pool, _FIND, (sorted(order_ids),))}


async def due_orders(pool: Pool, now_ms: int, limit: int) -> list[OrderFacts]:
    """Return orders whose time to pay is over, those that have waited longest first.

    Raises:
        BackendError: MySQL is not there.
    """
    return [_facts(row) for row in await query(pool, _DUE, (OrderStatus.CONFIRMED, now_ms, limit))]


async def lock_order(cursor: Any, order_id: str) -> OrderFacts | None:  # noqa: ANN401 -- aiomysql has no types
    """Lock an order's row until the transaction ends; its counter must be locked before if stock is to move."""
    return (await lock_orders(cursor, [order_id])).get(order_id)


async def lock_orders(cursor: Any, order_ids: Iterable[str]) -> dict[str, OrderFacts]:  # noqa: ANN401
    """Lock orders' rows, by id, until the transaction ends; their counters must be locked before if stock is to move.

    Returns the rows that there are, by order id.
    """
    await cursor.execute(f"{_FIND} FOR UPDATE", (sorted(order_ids),))
    return {row[0]: _facts(row) for row in await cursor.fetchall()}


async def lock_counters(cursor: Any, counters: Iterable[tuple[str, str]]) -> None:  # noqa: ANN401
    """Lock counters, (campaign id, SKU id) each, until the transaction ends."""
    skus: dict[str, set[str]] = {}
    for campaign_id, sku_id in counters:
        skus.setdefault(campaign_id, set()).add(sku_id)
    for campaign_id in sorted(skus):
        await cursor.execute(_LOCK_COUNTERS, (campaign_id, sorted(skus[campaign_id])))


async def expire(pool: Pool, orders: Sequence[OrderFacts], now_ms: int) -> int:
    """Expire those orders that are still not paid and due; returns how many.

    Raises:
        BackendError: it may or may not have happened; look again for what is due.
    """

    def due(order: OrderFacts) -> bool:
        return order.status is OrderStatus.CONFIRMED and is_due(order.pay_by_ms, now_ms)

    return len(await give_up(pool, orders, OrderStatus.EXPIRED, "not paid in time", now_ms, may=due))


async def give_up(
    pool: Pool,
    orders: Iterable[OrderFacts],
    to: OrderStatus,
    reason: str,
    now_ms: int,
    *,
    may: Callable[[OrderFacts], bool],
) -> list[OrderFacts]:
    """Move orders to a state in which they hold nothing, all or none of those for which `may` says so when locked.

    Returns them as they were before.

    Raises:
        OutcomeUnknownError: COMMIT was sent and its answer lost; asking again finds out.
        BackendError: nothing was changed.
    """
    known = list(orders)
    if not known:
        return []
    async with transaction(pool) as cursor:
        await lock_counters(cursor, [_stock(one) for one in known])
        locked = await lock_orders(cursor, [one.order_id for one in known])
        moving = [facts for facts in locked.values() if may(facts)]
        if moving:
            await release(cursor, moving, to, reason, now_ms)
    return moving


async def release(cursor: Any, orders: Sequence[OrderFacts], to: OrderStatus, reason: str, now_ms: int) -> None:  # noqa: ANN401
    """Move locked orders, with locked counters, to a state in which they hold nothing; Redis is owed their units."""
    await move(cursor, orders, to, reason, now_ms)
    await _write_ledger(cursor, orders, RELEASE, now_ms)
    await insert_many(
        cursor,
        INSERT_RETURNS,
        [(*_hold(one), "", *_stock(one), one.user_id, one.quantity, now_ms, now_ms) for one in orders],
    )


async def take_again(cursor: Any, order: OrderFacts, to: OrderStatus, reason: str, now_ms: int) -> OrderFacts:  # noqa: ANN401
    """Move a locked order that holds nothing to a state in which it holds its units anew, which Redis has taken."""
    await move(cursor, [order], to, reason, now_ms, holds=1)
    order = order._replace(hold_no=order.hold_no + 1, status=to, version=order.version + 1)
    await _write_ledger(cursor, [order], TAKE, now_ms)
    return order


async def move(
    cursor: Any,  # noqa: ANN401
    orders: Sequence[OrderFacts],
    to: OrderStatus,
    reason: str,
    now_ms: int,
    *,
    holds: int = 0,
) -> None:
    """Move locked orders, which may be in several states, to another; `order_change` tells of each.

    Raises:
        BackendError: a row was not as it was locked.
        ValueError: `to` cannot follow.
    """
    by_status: dict[OrderStatus, list[str]] = {}
    for order in orders:
        if to not in FOLLOWS[order.status]:
            raise ValueError(f"{order.order_id}: {to} cannot follow {order.status}")
        by_status.setdefault(order.status, []).append(order.order_id)
    for status, ids in by_status.items():
        await cursor.execute(_MOVE, (to, holds, ids, status))
        if cursor.rowcount != len(ids):
            raise BackendError(f"{len(ids)} orders were locked as {status}, and {cursor.rowcount} could be moved")
    await insert_many(cursor, INSERT_CHANGES, [(one.order_id, one.version + 1, to, reason, now_ms) for one in orders])


async def _write_ledger(cursor: Any, orders: Sequence[OrderFacts], kind: str, now_ms: int) -> None:  # noqa: ANN401
    """Write one ledger row for each order's present hold, and move the counters by it."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    rows = [
        (one.order_id, *_stock(one), one.hold_no, kind, one.quantity, NO_ORIGIN, 0, nonce, now_ms) for one in orders
    ]
    await insert_many(cursor, INSERT_LEDGER, rows)
    units: Counter[tuple[str, str]] = Counter()
    for one in orders:
        units[one.campaign_id, one.sku_id] += one.quantity
    for key in sorted(units):
        await cursor.execute(_SOLD, (units[key] if kind == TAKE else -units[key], *key))


def review_row(order: OrderFacts, opened_at_ms: int) -> tuple[str | int, ...]:
    """Return the values that INSERT_REVIEWS takes, of a review that waits."""
    return order.order_id, order.campaign_id, order.sku_id, order.quantity, ReviewStatus.WAITING, 1, opened_at_ms


def _hold(order: OrderFacts) -> tuple[str, int]:
    return order.order_id, order.hold_no


def _stock(order: OrderFacts) -> tuple[str, str]:
    return order.campaign_id, order.sku_id
