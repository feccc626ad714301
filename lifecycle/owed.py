"""What is owed to others because orders have moved: units to Redis (`stock_return`), news to Kafka (`order_change`).

Both are written in the transaction that moved the order, and both may be done twice without harm.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from adapters.mysql import Pool, insert_many, query, transaction

ERROR_TEXT_MAX: Final = 255

_COLUMNS: Final = (
    "order_id, hold_no, origin, campaign_id, sku_id, user_id, quantity, created_at_ms, next_at_ms, attempts"
)
_DUE: Final = (
    f"SELECT {_COLUMNS} FROM stock_return FORCE INDEX (by_due) "  # noqa: S608 -- columns alone
    "WHERE done_at_ms IS NULL AND next_at_ms <= %s ORDER BY next_at_ms, order_id, hold_no, origin LIMIT %s"
)
_OPEN_RELEASES: Final = (
    f"SELECT {_COLUMNS} FROM stock_return "  # noqa: S608 -- columns alone
    "WHERE order_id = %s AND origin = '' AND done_at_ms IS NULL ORDER BY hold_no"
)
_LAST_RELEASE: Final = (
    "SELECT COALESCE(MAX(hold_no), 0) FROM stock_ledger WHERE order_id = %s AND kind <> 'take' AND hold_no >= "
    "(SELECT MAX(hold_no) FROM stock_ledger WHERE order_id = %s AND kind = 'take')"
)
# The rows are there, so this moves them, all by one statement.
_DONE: Final = """
INSERT INTO stock_return (order_id, hold_no, origin, campaign_id, sku_id, user_id, quantity, created_at_ms, next_at_ms,
 attempts, done_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE done_at_ms = VALUES(done_at_ms), error = ''"""
_LATER: Final = (
    "UPDATE stock_return SET attempts = attempts + 1, next_at_ms = %s, error = %s "
    "WHERE order_id = %s AND hold_no = %s AND origin = %s AND done_at_ms IS NULL"
)
_CHANGES: Final = (
    "SELECT c.id, c.order_id, o.campaign_id, o.sku_id, o.user_id, o.quantity, o.hold_no, c.status, c.version, "
    "c.reason, c.at_ms FROM order_change c FORCE INDEX (unpublished) JOIN orders o ON o.order_id = c.order_id "
    "WHERE c.published = %s ORDER BY c.id LIMIT %s"
)
_PUBLISHED: Final = "UPDATE order_change SET published = IF(status = 'paid', 2, 1) WHERE id IN %s AND published = 0"
_MARKED: Final = "UPDATE order_change SET published = 1 WHERE id IN %s"

NOT_PUBLISHED: Final = 0
NOT_MARKED: Final = 2
"""Published, and Redis has not been told that the order is paid; 1: nothing is owed any more."""


class StockReturn(NamedTuple):
    """Units that Redis has to get back."""

    order_id: str
    hold_no: int
    origin: str
    """Empty: the release of a hold. Else the outbox entry and place of a second deduction."""
    campaign_id: str
    sku_id: str
    user_id: str
    quantity: int
    created_at_ms: int
    next_at_ms: int
    attempts: int
    """How often it was tried in vain."""


class Change(NamedTuple):
    """A move of an order that Kafka or Redis has not been told of; `hold_no` is the order's present one."""

    id: int
    order_id: str
    campaign_id: str
    sku_id: str
    user_id: str
    quantity: int
    hold_no: int
    status: str
    version: int
    reason: str
    at_ms: int


async def due_returns(pool: Pool, now_ms: int, limit: int) -> list[StockReturn]:
    """Return what is owed to Redis and due, what has waited longest first.

    Raises:
        BackendError: MySQL is not there.
    """
    return [StockReturn(*row) for row in await query(pool, _DUE, (now_ms, limit))]


async def open_releases(pool: Pool, order_id: str) -> list[StockReturn]:
    """Return the releases of one order that Redis has not been told of.

    Raises:
        BackendError: MySQL is not there.
    """
    return [StockReturn(*row) for row in await query(pool, _OPEN_RELEASES, (order_id,))]


async def last_release(pool: Pool, order_id: str) -> int:
    """Return the number of an order's last hold if the ledger has its release, else 0.

    Raises:
        BackendError: MySQL is not there.
    """
    return int((await query(pool, _LAST_RELEASE, (order_id, order_id)))[0][0])


async def note_returned(pool: Pool, returns: Sequence[StockReturn], now_ms: int) -> None:
    """Note that Redis has got these back.

    Raises:
        BackendError: Redis will be told again, which is harmless.
    """
    if not returns:
        return
    async with transaction(pool) as cursor:
        await insert_many(cursor, _DONE, [(*one, now_ms) for one in sorted(returns)])


async def return_later(pool: Pool, one: StockReturn, next_at_ms: int, error: str) -> None:
    """Put a return off.

    Raises:
        BackendError: it comes again at once.
    """
    async with transaction(pool) as cursor:
        await cursor.execute(_LATER, (next_at_ms, error[:ERROR_TEXT_MAX], one.order_id, one.hold_no, one.origin))


async def unpublished(pool: Pool, limit: int) -> list[Change]:
    """Return moves that Kafka has not been told of, in their order.

    Raises:
        BackendError: MySQL is not there.
    """
    return [Change(*row) for row in await query(pool, _CHANGES, (NOT_PUBLISHED, limit))]


async def unmarked(pool: Pool, limit: int) -> list[Change]:
    """Return moves to `paid` that Kafka has been told of and Redis has not, in their order.

    Raises:
        BackendError: MySQL is not there.
    """
    return [Change(*row) for row in await query(pool, _CHANGES, (NOT_MARKED, limit))]


async def note_published(pool: Pool, changes: Sequence[Change]) -> None:
    """Note that Kafka has these.

    Raises:
        BackendError: Kafka will be told again, which is harmless.
    """
    await _note(pool, _PUBLISHED, changes)


async def note_marked(pool: Pool, changes: Sequence[Change]) -> None:
    """Note that Redis has been told of these.

    Raises:
        BackendError: Redis will be told again, which is harmless.
    """
    await _note(pool, _MARKED, changes)


async def _note(pool: Pool, statement: str, changes: Sequence[Change]) -> None:
    if changes:
        async with transaction(pool) as cursor:
            await cursor.execute(statement, ([one.id for one in changes],))
