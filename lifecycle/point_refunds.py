"""Points that go back: of redemptions that an operator has rejected, or whose parcel has come back.

The points' side is the saga's own step (`adapters.saga_points`): its guard and the ledger's row are one transaction of
fg_points, so that points go back once, however often they are given back here, and by whomever. Only then is the
payment refunded in fg_orders. Whoever dies in between leaves a payment that is still due: it comes again, finds the
guard, and moves nothing but the payment.
"""

import logging
from collections.abc import Callable
from typing import Final

from adapters.mysql import DataRefusedError, Pool
from adapters.rounds import RoundsMetrics
from adapters.saga_points import refund_points
from domain.backoff import pause_s
from domain.failpoints import reach
from domain.saga import StepOutcome
from domain.settings import LifecycleSettings
from lifecycle import payment_rows
from lifecycle.order_rows import find_order
from lifecycle.payment_rows import Payment

log = logging.getLogger(__name__)

NEVER_TAKEN: Final = "the ledger of points has taken nothing for this order"


class PointRefunds:
    """Gives points back.

    Args:
        settings: how what fails is put off.
        orders: the database fg_orders.
        points: the database fg_points.
        metrics: told of what is put off.
        now_ms: wall clock, Unix milliseconds.
    """

    def __init__(
        self,
        settings: LifecycleSettings,
        *,
        orders: Pool,
        points: Pool,
        metrics: RoundsMetrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._orders = orders
        self._points = points
        self._metrics = metrics
        self._now_ms = now_ms

    async def due(self, limit: int) -> list[Payment]:
        """Return payments in points that have to go back.

        Raises:
            BackendError: fg_orders is not there.
        """
        return await payment_rows.due_point_refunds(self._orders, self._now_ms(), limit)

    async def refund(self, payment: Payment) -> None:
        """Give the points of one payment back, once, and note it as refunded; what is refused is put off.

        Raises:
            OutcomeUnknownError: a COMMIT was sent and its answer lost; the payment is still due, or done.
            BackendError: a database is not there; the payment is still due.
        """
        order = await find_order(self._orders, payment.order_id)
        if order is None:
            raise LookupError(f"order {payment.order_id} has a payment and no row")
        now_ms = self._now_ms()
        try:
            outcome = await refund_points(self._points, order.order_id, order.user_id, payment.points, at_ms=now_ms)
        except DataRefusedError as error:
            await self._put_off(payment, str(error))
            return
        if outcome is not StepOutcome.DONE:
            await self._put_off(payment, NEVER_TAKEN)
            return
        reach("keeper.after_refund_points")
        await payment_rows.refunded(self._orders, payment, now_ms=self._now_ms())

    async def _put_off(self, payment: Payment, error: str) -> None:
        """Try later; a person finds the reason in the payment's row."""
        self._metrics.put_off("refund_points")
        log.error("order %s: %d points cannot go back: %s", payment.order_id, payment.points, error)
        wait_s = pause_s(payment.attempts, self._settings.retry_initial_s, self._settings.retry_max_s)
        await payment_rows.try_later(self._orders, payment, self._now_ms() + round(1_000 * wait_s), error)
