"""Payments: the provider is asked, what it says is taken in, and what nobody knows is asked again.

An order is paid only by what the provider confirmed, in a callback or when it is asked (`check`). Which payment it was
paid by is then written down as an attribute of the order, in a transaction of its own, under the fact's guard. Whoever
finds the guard busy and is not called again, or dies in between, leaves that to the outbound approval, which writes
what is missing.
"""

import logging
from collections.abc import Callable
from typing import Final

from adapters.insert_once import insert_once
from adapters.mysql import Pool, transaction
from adapters.redis import ScriptChannel
from domain.backoff import pause_s
from domain.errors import BackendError, FlashgateError, OperationRefusedError, OutcomeUnknownError
from domain.failpoints import reach
from domain.order_state import ACTIVE, OrderStatus, PaymentStatus
from domain.settings import GuardSettings, LifecycleSettings, PaymentSettings
from lifecycle import payment_rows
from lifecycle.callback import Callback
from lifecycle.order_attributes import PAYMENT_ID, add_missing, fact
from lifecycle.order_rows import find_order
from lifecycle.payment_rows import Payment, Refusal
from lifecycle.provider import Created, PaymentProvider, ProviderRefusedError, ProviderState
from lifecycle.rules import CHECK_PAUSE_MAX_S

log = logging.getLogger(__name__)

TO_MAKE: Final = frozenset({PaymentStatus.CREATING, PaymentStatus.UNKNOWN})
"""The provider may not know of these."""


class PaymentDesk:
    """Payments of one process.

    Args:
        pool: the database fg_orders.
        channel: Redis, where the guards are.
        provider: the payment provider.
        payment: its bounds.
        lifecycle: how long to wait before it is asked again.
        guard: how long guards are held and waited for.
        now_ms: wall clock, Unix milliseconds.
    """

    def __init__(
        self,
        pool: Pool,
        channel: ScriptChannel,
        provider: PaymentProvider,
        payment: PaymentSettings,
        lifecycle: LifecycleSettings,
        guard: GuardSettings,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._pool = pool
        self._channel = channel
        self._provider = provider
        self._settings = payment
        self._lifecycle = lifecycle
        self._guard = guard
        self._now_ms = now_ms

    async def pay(self, order_id: str, user_id: str, idempotency_key: str) -> Payment | Refusal:
        """Begin a payment, or return the one that there is; a new one is PENDING when the provider has it.

        Raises:
            OutcomeUnknownError: what the provider or MySQL did is not known; call again with the same key.
            BackendError: MySQL or the provider is not there; call again with the same key.
        """
        begun = await payment_rows.begin(
            self._pool,
            order_id,
            user_id,
            idempotency_key,
            now_ms=self._now_ms(),
            check_at_ms=self._check_at_ms(0),
            attempts_max=self._settings.attempts_max,
        )
        if isinstance(begun, Refusal):
            return begun
        payment, _ = begun
        return await self._make(payment) if payment.status in TO_MAKE else payment

    async def take_in(self, callback: Callback) -> PaymentStatus | None:
        """Take in a callback that is known to come from the provider; None if there is no such payment.

        A callback that has paid its order comes to its end only once the attribute that says so is there. One that
        could not write it has to come again, and does write it then, though the payment is PAID already.

        Raises:
            OperationRefusedError: it speaks of another amount, or of a payment in points, in which no provider has a
                say; nothing was changed.
            BackendError: MySQL or Redis is not there, or another flow writes the same attribute; the provider has to
                call again.
        """
        payment = await payment_rows.find_payment(self._pool, callback.payment_id)
        if payment is None:
            return None
        if payment.points:
            raise OperationRefusedError(
                f"payment {payment.payment_id} is in points, of which the provider knows nothing"
            )
        if callback.amount_cents != payment.amount_cents:
            raise OperationRefusedError(
                f"payment {payment.payment_id} is about {payment.amount_cents} cents, not {callback.amount_cents}"
            )
        state = ProviderState(callback.state)
        # What has paid its order is not locked again: the callback does not wait for a long transaction about it.
        known = payment.status is PaymentStatus.PAID and state is ProviderState.APPROVED
        status = PaymentStatus.PAID if known else await self._told(payment, state)
        if status is PaymentStatus.PAID:
            await self._note_paid_by(payment)
        return status

    async def check(self, payment: Payment) -> None:
        """Ask the provider how a payment stands that it has said nothing of; what fails is put off.

        The attribute that says what the order was paid by is tried once. Where its guard is busy, or Redis away, this
        is logged and no more: the payment is PAID and not asked for again. The attribute is not lost by that: a
        callback that still comes writes it, and so does the outbound approval, before which nobody needs it.

        Raises:
            BackendError: MySQL is not there.
        """
        try:
            state = await self._provider.find(payment.payment_id, payment.order_id, payment.amount_cents)
            if state is ProviderState.ABSENT or (state is ProviderState.PENDING and payment.status in TO_MAKE):
                await self._make_late(payment, state)
                return
        except FlashgateError as error:
            await self.put_off(payment, str(error))
            return
        status = await self._told(payment, state)
        if status in ACTIVE:
            await self.put_off(payment, "")
        elif status is PaymentStatus.PAID:
            await self._try_note_paid_by(payment)

    async def refund(self, payment: Payment) -> None:
        """Have the money of a payment sent back; what fails is put off.

        Raises:
            BackendError: MySQL is not there.
        """
        try:
            state = await self._provider.refund(payment.payment_id, payment.amount_cents)
        except FlashgateError as error:
            await self.put_off(payment, str(error))
            return
        if state is ProviderState.REFUNDED:
            await payment_rows.refunded(self._pool, payment, now_ms=self._now_ms())
        else:
            await self.put_off(payment, f"the provider says {state}")

    async def put_off(self, payment: Payment, error: str) -> None:
        """Try later what could not be done for a payment: ever more seldom if it is the buyer who is waited for.

        Raises:
            BackendError: MySQL is not there.
        """
        max_s = CHECK_PAUSE_MAX_S if payment.status is PaymentStatus.PENDING else self._lifecycle.retry_max_s
        await payment_rows.try_later(self._pool, payment, self._check_at_ms(payment.attempts, max_s), error)

    async def _make(self, payment: Payment) -> Payment:
        """Have the provider make a payment; asking twice for the same one is harmless."""
        try:
            made = await self._provider.create(payment.payment_id, payment.order_id, payment.amount_cents)
        except ProviderRefusedError as error:
            await self._not_made(payment, PaymentStatus.FAILED, str(error))
            return payment._replace(status=PaymentStatus.FAILED)
        except OutcomeUnknownError as error:
            await self._not_made(payment, PaymentStatus.UNKNOWN, str(error))
            raise
        return await self._made(payment, made)

    async def _made(self, payment: Payment, made: Created) -> Payment:
        if made.state is ProviderState.PENDING:
            now_ms, check_at_ms = self._now_ms(), self._check_at_ms(0)
            await payment_rows.note_made(
                self._pool, payment.payment_id, made.pay_url, now_ms=now_ms, check_at_ms=check_at_ms
            )
            return payment._replace(status=PaymentStatus.PENDING, pay_url=made.pay_url)
        status = await self._told(payment, made.state)
        if status is PaymentStatus.PAID:
            await self._try_note_paid_by(payment)
        return payment._replace(status=status, pay_url=made.pay_url)

    async def _make_late(self, payment: Payment, state: ProviderState) -> None:
        """Make a payment that the provider does not know, if its order still waits for one; it never charged."""
        order = await find_order(self._pool, payment.order_id)
        if state is ProviderState.PENDING or (
            order is not None and order.status is OrderStatus.CONFIRMED and payment.status in TO_MAKE
        ):
            await self._make(payment)
        else:
            await self._not_made(payment, PaymentStatus.FAILED, "the provider does not know this payment")

    async def _told(self, payment: Payment, state: ProviderState) -> PaymentStatus:
        """Take in what the provider says of a payment; returns its status afterwards."""
        if state is ProviderState.APPROVED:
            return await payment_rows.charged(self._pool, payment, now_ms=self._now_ms())
        if state is ProviderState.DECLINED:
            return await payment_rows.declined(self._pool, payment, now_ms=self._now_ms())
        if state is ProviderState.REFUNDED:
            await payment_rows.refunded(self._pool, payment, now_ms=self._now_ms())
        return payment.status

    async def _note_paid_by(self, payment: Payment) -> None:
        """Write down which payment an order was paid by, once.

        Raises:
            BackendError: it may not be there.
        """
        facts = [fact(payment.order_id, PAYMENT_ID)]
        async with insert_once(self._channel, facts, self._guard) as guard, transaction(self._pool) as cursor:
            await add_missing(cursor, [(payment.order_id, PAYMENT_ID, payment.payment_id)], self._now_ms())
            reach("payments.attribute_written")
            guard.assert_held()

    async def _try_note_paid_by(self, payment: Payment) -> None:
        """Write it down unless something is in the way: nobody would call again, and the approval writes it as well."""
        try:
            await self._note_paid_by(payment)
        except BackendError as error:
            log.warning("order %s: left to its approval to note what paid it: %s", payment.order_id, error)

    async def _not_made(self, payment: Payment, status: PaymentStatus, error: str) -> None:
        await payment_rows.note_not_made(
            self._pool, payment.payment_id, status, error, now_ms=self._now_ms(), check_at_ms=self._check_at_ms(0)
        )

    def _check_at_ms(self, attempts: int, max_s: float = CHECK_PAUSE_MAX_S) -> int:
        return self._now_ms() + round(1_000 * pause_s(attempts, self._lifecycle.check_after_s, max_s))
