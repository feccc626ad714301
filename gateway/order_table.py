"""What the gateway reads of orders in MySQL: by their ids, many at a time."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from adapters.mysql import Pool, query
from domain.order_state import OrderStatus, PaymentStatus
from gateway.order_status import OrderPayment, OrderRow, choose_payment

# An order has a few payments at most, so the join costs one look into an index an order.
_ROWS: Final = (
    "SELECT o.order_id, o.user_id, o.sku_id, o.quantity, o.status, o.version, o.pay_by_ms, "
    "p.payment_id, p.status, p.attempt_no FROM orders o LEFT JOIN payment p ON p.order_id = o.order_id "
    "WHERE o.order_id IN %s"
)
_MOVED: Final = "SELECT order_id FROM orders WHERE order_id IN %s AND version > %s"
_CHANGES: Final = "SELECT order_id, version, status FROM order_change WHERE order_id IN %s"


class OrderChange(NamedTuple):
    """One of the states that an order has come to."""

    order_id: str
    version: int
    status: OrderStatus


class OrderTable:
    """Reads orders.

    Every call raises BackendError when MySQL is not there.

    Args:
        pool: the database fg_orders.
        timeout_s: how long a query may take.
    """

    def __init__(self, pool: Pool, *, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    async def find_rows(self, order_ids: Sequence[str]) -> dict[str, OrderRow]:
        """Return the rows that there are, by order id."""
        rows: dict[str, OrderRow] = {}
        payments: dict[str, list[OrderPayment]] = {}
        found = await query(self._pool, _ROWS, (list(order_ids),), timeout_s=self._timeout_s)
        for order_id, user_id, sku_id, quantity, status, version, pay_by_ms, *payment in found:
            rows[order_id] = OrderRow(user_id, sku_id, quantity, OrderStatus(status), version, pay_by_ms)
            if payment[0] is not None:
                payments.setdefault(order_id, []).append(
                    OrderPayment(payment[0], PaymentStatus(payment[1]), payment[2])
                )
        for order_id, several in payments.items():
            rows[order_id] = rows[order_id]._replace(payment=choose_payment(several))
        return rows

    async def find_moved(self, order_ids: Sequence[str], version: int) -> list[str]:
        """Return those of the orders that have come further than `version`; 0: that have a row at all."""
        found = await query(self._pool, _MOVED, (list(order_ids), version), timeout_s=self._timeout_s)
        return [order_id for (order_id,) in found]

    async def find_changes(self, order_ids: Sequence[str]) -> list[OrderChange]:
        """Return the states that these orders have come to, those from version 2 on."""
        found = await query(self._pool, _CHANGES, (list(order_ids),), timeout_s=self._timeout_s)
        return [OrderChange(order_id, version, OrderStatus(status)) for order_id, version, status in found]
