"""Reviews of paid orders that have none, because a process of a version before there were reviews made them paid.

The migration opens them for what was paid before it (migrations/orders/versions/0003_outbound.py); this is for what
such a process, left running, makes paid after it.
"""

from typing import Final

from adapters.mysql import Pool, insert_many, query, transaction
from adapters.order_tables import INSERT_REVIEWS, KEEP_KNOWN
from domain.order_state import OrderStatus
from lifecycle.order_rows import lock_orders, review_row

_MISSING: Final = """
SELECT o.order_id, o.confirmed_at_ms FROM orders o FORCE INDEX (by_due)
LEFT JOIN outbound_review r ON r.order_id = o.order_id
WHERE o.status = %s AND r.order_id IS NULL LIMIT %s"""


async def open_missing(orders: Pool, limit: int) -> int:
    """Open a review for paid orders that have none, at most `limit`, as the migration does; returns for how many.

    What is read is every paid order that nobody has approved yet, by an index, and its review by its key.

    Raises:
        BackendError: MySQL is not there; what was not opened is found again.
    """
    missing = dict(await query(orders, _MISSING, (OrderStatus.PAID, limit)))
    if not missing:
        return 0
    async with transaction(orders) as cursor:
        locked = (await lock_orders(cursor, missing)).values()
        paid = [one for one in locked if one.status is OrderStatus.PAID]
        rows = [review_row(one, missing[one.order_id]) for one in paid]
        await insert_many(cursor, INSERT_REVIEWS + KEEP_KNOWN, rows)
    return len(rows)
