"""The keeper: everything that an order's life owes and nobody waits for.

It expires orders that are not paid in time, gives units back to Redis, tells Kafka how orders have moved, asks the
provider about payments that it is silent on, gets units back for late payments, and sends money and points back. Each
of these is found in MySQL, done, and then noted as done, so that a keeper that dies leaves nothing undone and nothing
done twice; several may run.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from adapters.holds import mark_paid, reacquire, release, return_duplicate
from adapters.kafka_sender import KafkaSender, Outgoing
from adapters.mysql import DataRefusedError, Pool
from adapters.redis import ScriptChannel, ScriptFailedError
from adapters.rounds import Rounds, RoundsMetrics, Work
from domain.backoff import pause_s
from domain.errors import FencedError, OperationRefusedError
from domain.events import TOPIC_ORDERS_EVENTS, OrderChanged, encode_order_changed
from domain.failpoints import reach
from domain.order import split_order_id
from domain.order_state import PaymentStatus
from domain.outcomes import DuplicateOutcome, MarkOutcome, ReacquireOutcome, ReleaseOutcome
from domain.settings import LifecycleSettings
from lifecycle import order_rows, owed, payment_rows
from lifecycle.order_rows import OrderFacts
from lifecycle.owed import Change, StockReturn
from lifecycle.payment_rows import Payment
from lifecycle.payments import PaymentDesk
from lifecycle.point_refunds import PointRefunds

log = logging.getLogger(__name__)

TO_CHECK: Final = frozenset({PaymentStatus.CREATING, PaymentStatus.UNKNOWN, PaymentStatus.PENDING})
CHECKS_AT_ONCE: Final = 16
"""Calls to the provider under way at a time."""

RELEASED: Final = frozenset({ReleaseOutcome.RELEASED, ReleaseOutcome.ALREADY_RELEASED})
RETURNED: Final = frozenset({DuplicateOutcome.RETURNED, DuplicateOutcome.ALREADY_RETURNED})
TAKEN: Final = frozenset({ReacquireOutcome.TAKEN, ReacquireOutcome.ALREADY_TAKEN})


class Keeper:
    """Does what is owed.

    Args:
        settings: how often and how much at once.
        pool: the database fg_orders.
        channel: Redis.
        sender: Kafka.
        desk: payments; None where no provider is configured.
        point_refunds: gives points back; None where there is no database of points.
        metrics: told of all that happens.
        now_ms: wall clock, Unix milliseconds.
    """

    def __init__(
        self,
        settings: LifecycleSettings,
        *,
        pool: Pool,
        channel: ScriptChannel,
        sender: KafkaSender,
        desk: PaymentDesk | None,
        point_refunds: PointRefunds | None = None,
        metrics: RoundsMetrics,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._channel = channel
        self._sender = sender
        self._desk = desk
        self._point_refunds = point_refunds
        self._metrics = metrics
        self._now_ms = now_ms
        works = {name: Work(work, settings.poll_ms / 1000) for name, work in self.works.items()}
        self._rounds = Rounds(works, metrics, batch_max=settings.batch_max, retry_initial_s=settings.retry_initial_s)

    @property
    def works(self) -> dict[str, Callable[[], Awaitable[int]]]:
        """Name → one round of each kind of work; a round returns how much it took up."""
        works: dict[str, Callable[[], Awaitable[int]]] = {
            "expire": self.expire_orders,
            "return": self.return_stock,
            "publish": self.publish_changes,
            "mark": self.mark_paid_orders,
        }
        if self._point_refunds is not None:
            works["refund_points"] = self.refund_points
        if self._desk is not None:
            works |= {
                "check": self.check_payments,
                "reacquire": self.reacquire_units,
                "refund": self.refund_payments,
            }
        return works

    async def run_once(self) -> int:
        """Do one round of every kind of work, one after the other; returns how much was taken up.

        Raises:
            BackendError: a server is away.
        """
        return await self._rounds.run_once()

    async def run(self) -> None:
        """Work until `stop`. Kinds of work do not wait for one another: a provider that is away holds up no expiry.

        Raises:
            Exception: something unforeseen; whoever supervises starts the process again.
        """
        try:
            await self._rounds.run()
        finally:
            await self._sender.close()

    def stop(self) -> None:
        """Have `run` end after the present rounds."""
        self._rounds.stop()

    # -- orders and stock --------------------------------------------------------------------------------------

    async def expire_orders(self) -> int:
        """Expire orders that were not paid in time; returns how many were looked at."""
        due = await order_rows.due_orders(self._pool, self._now_ms(), self._settings.batch_max)
        if due:
            self._metrics.done("expire", await self._expire(due))
            reach("keeper.after_expire")
        return len(due)

    async def _expire(self, due: Sequence[OrderFacts]) -> int:
        """Expire orders; one whose rows contradict each other does not hold up the others."""
        try:
            return await order_rows.expire(self._pool, due, self._now_ms())
        except DataRefusedError as error:
            if len(due) == 1:
                self._metrics.put_off("expire")
                log.error("order %s cannot expire: %s", due[0].order_id, error)  # noqa: TRY400 -- it says it all
                return 0
        middle = len(due) // 2
        return await self._expire(due[:middle]) + await self._expire(due[middle:])

    async def return_stock(self) -> int:
        """Give units back to Redis; returns how many returns were taken up."""
        due = await owed.due_returns(self._pool, self._now_ms(), self._settings.batch_max)
        done = []
        try:
            for one in due:
                if self._rounds.stopped:
                    break
                if await self._try_return(one):
                    done.append(one)
        finally:
            if done:
                reach("keeper.after_return")
            await owed.note_returned(self._pool, done, self._now_ms())
        self._metrics.done("return", len(done))
        return len(due)

    async def _try_return(self, one: StockReturn) -> bool:
        """Give one back; what cannot be given back is put off, with the reason in its row.

        Raises:
            BackendError: Redis or MySQL is away.
        """
        try:
            error = await self._return(one)
        except (FencedError, OperationRefusedError, ScriptFailedError) as refused:
            error = str(refused)
        if not error:
            return True
        self._metrics.put_off("return")
        log.error("order %s, hold %d %s: not given back: %s", one.order_id, one.hold_no, one.origin, error)
        wait_s = pause_s(one.attempts, self._settings.retry_initial_s, self._settings.retry_max_s)
        await owed.return_later(self._pool, one, self._now_ms() + round(1_000 * wait_s), error)
        return False

    async def _return(self, one: StockReturn) -> str:
        """Give one back; returns what is wrong, or nothing."""
        if not one.origin:
            outcome = await release(self._channel, one.campaign_id, _digest(one.order_id), one.user_id, one.hold_no)
            return "" if outcome in RELEASED else outcome.name
        # The releases come first: the second deduction's own record may still have to be emptied by them.
        for earlier in await owed.open_releases(self._pool, one.order_id):
            error = await self._return(earlier)
            if error:
                return f"its release comes first: {error}"
            await owed.note_returned(self._pool, [earlier], self._now_ms())
        duplicate = await return_duplicate(
            self._channel,
            one.campaign_id,
            _digest(one.order_id),
            one.user_id,
            origin=one.origin,
            sku_id=one.sku_id,
            quantity=one.quantity,
            released_hold_no=await owed.last_release(self._pool, one.order_id),
        )
        return "" if duplicate in RETURNED else duplicate.name

    # -- news --------------------------------------------------------------------------------------------------

    async def publish_changes(self) -> int:
        """Tell Kafka how orders have moved; returns how many changes were taken up."""
        changes = await owed.unpublished(self._pool, self._settings.batch_max)
        if not changes:
            return 0
        await self._sender.send([_outgoing(change) for change in changes])
        reach("keeper.after_publish")
        await owed.note_published(self._pool, changes)
        self._metrics.done("publish", len(changes))
        return len(changes)

    async def mark_paid_orders(self) -> int:
        """Have paid orders no longer count as unpaid in Redis; returns how many do not any more.

        A campaign that waits for recovery does not hold up the others.
        """
        changes = await owed.unmarked(self._pool, self._settings.batch_max)
        done = []
        try:
            for change in changes:
                if self._rounds.stopped:
                    break
                try:
                    await self._mark_paid(change)
                except FencedError:
                    self._metrics.put_off("mark")
                else:
                    done.append(change)
        finally:
            await owed.note_marked(self._pool, done)
        self._metrics.done("mark", len(done))
        return len(done)

    async def _mark_paid(self, change: Change) -> None:
        """Mark one; what can never be marked bounds its buyer more than it should, and that is all.

        Raises:
            FencedError: its campaign waits for recovery.
            BackendError: Redis is away.
        """
        try:
            outcome = await mark_paid(
                self._channel, change.campaign_id, _digest(change.order_id), change.user_id, change.hold_no
            )
        except OperationRefusedError as error:
            log.warning("order %s counts as unpaid in Redis: %s", change.order_id, error)
            return
        if outcome not in {MarkOutcome.MARKED, MarkOutcome.ALREADY_MARKED}:
            log.warning("order %s counts as unpaid in Redis: %s", change.order_id, outcome.name)

    # -- payments ----------------------------------------------------------------------------------------------

    async def check_payments(self) -> int:
        """Ask the provider about payments that it has said nothing of; returns how many."""
        return await self._each_payment("check", TO_CHECK, self._payments.check)

    async def refund_payments(self) -> int:
        """Send money back that came for nothing; returns how many payments were taken up."""
        return await self._each_payment("refund", {PaymentStatus.REFUND_DUE}, self._payments.refund)

    async def refund_points(self) -> int:
        """Give points back to those whose redemptions were rejected or came back; returns how many were taken up."""
        if self._point_refunds is None:
            raise RuntimeError("no database of points is configured")
        due = await self._point_refunds.due(self._settings.batch_max)
        return await self._each("refund_points", due, self._point_refunds.refund)

    async def reacquire_units(self) -> int:
        """Get units back for payments that came after expiry; returns how many payments were taken up."""
        return await self._each_payment("reacquire", {PaymentStatus.REACQUIRING}, self._reacquire)

    async def _each_payment(
        self,
        work: str,
        statuses: "set[PaymentStatus] | frozenset[PaymentStatus]",
        do: Callable[[Payment], Awaitable[None]],
    ) -> int:
        due = await payment_rows.due_payments(self._pool, statuses, self._now_ms(), self._settings.batch_max)
        return await self._each(work, due, do)

    async def _each(self, work: str, due: Sequence[Payment], do: Callable[[Payment], Awaitable[None]]) -> int:
        """Do something with each of these payments, a few at a time; returns how many they are."""
        for start in range(0, len(due), CHECKS_AT_ONCE):
            if self._rounds.stopped:
                break
            await _gather([do(payment) for payment in due[start : start + CHECKS_AT_ONCE]])
        self._metrics.done(work, len(due))
        return len(due)

    async def _reacquire(self, payment: Payment) -> None:
        order = await order_rows.find_order(self._pool, payment.order_id)
        if order is None:
            raise LookupError(f"order {payment.order_id} has a payment and no row")
        try:
            outcome = await reacquire(
                self._channel, order.campaign_id, _digest(order.order_id), order.user_id, payment.hold_no
            )
        except FencedError as error:
            self._metrics.put_off("reacquire")
            await self._payments.put_off(payment, str(error))
            return
        except OperationRefusedError as error:  # Redis has no such campaign any more
            log.warning("order %s: no unit can be taken anew, the money goes back: %s", payment.order_id, error)
            await payment_rows.not_reacquired(self._pool, payment, now_ms=self._now_ms())
            return
        reach("keeper.after_reacquire")
        if outcome in TAKEN:
            await payment_rows.reacquired(self._pool, payment, now_ms=self._now_ms())
        elif outcome is ReacquireOutcome.CORRUPT_RECORD:
            self._metrics.put_off("reacquire")
            log.error("order %s: its unit cannot be taken anew: %s", payment.order_id, outcome.name)
            await self._payments.put_off(payment, outcome.name)
        else:
            log.info("order %s: no unit can be taken anew, the money goes back: %s", payment.order_id, outcome.name)
            await payment_rows.not_reacquired(self._pool, payment, now_ms=self._now_ms())

    @property
    def _payments(self) -> PaymentDesk:
        if self._desk is None:
            raise RuntimeError("no payment provider is configured")
        return self._desk


async def _gather(calls: "Sequence[Awaitable[None]]") -> None:
    """Wait for all calls; then raise the first error, if there was one."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _digest(order_id: str) -> str:
    """Return what a buyer's record knows an order by; one that has no such thing is put off, and holds up no other."""
    parts = split_order_id(order_id)
    if parts is None:
        raise OperationRefusedError(f"{order_id!r} is no order id")
    return parts[1]


def _outgoing(change: Change) -> Outgoing:
    event = OrderChanged(
        order_id=change.order_id,
        campaign_id=change.campaign_id,
        sku_id=change.sku_id,
        user_id=change.user_id,
        quantity=change.quantity,
        status=change.status,
        version=change.version,
        reason=change.reason,
        at_ms=change.at_ms,
    )
    return Outgoing(TOPIC_ORDERS_EVENTS, change.order_id.encode(), encode_order_changed(event))
