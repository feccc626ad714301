"""Payments: the provider is asked, what it says is taken in, and what nobody knows is asked again.

An order is paid only by what the provider confirmed, in a callback or when it is asked (`check`).
"""

from collections.abc import Callable
from typing import Final

from adapters.mysql import Pool
from domain.errors import FlashgateError, OperationRefusedError, OutcomeUnknownError
from domain.order_state import ACTIVE, OrderStatus, PaymentStatus
from domain.settings import LifecycleSettings, PaymentSettings
from lifecycle import payment_rows
from lifecycle.callback import Callback
from lifecycle.order_rows import find_order
from lifecycle.payment_rows import Payment, Refusal
from lifecycle.provider import Created, PaymentProvider, ProviderRefusedError, ProviderState
from lifecycle.rules import CHECK_PAUSE_MAX_S, pause_s

TO_MAKE: Final = frozenset({PaymentStatus.CREATING, PaymentStatus.UNKNOWN})
"""The provider may not know of these."""


class PaymentDesk:
    """Payments of one process.

    Args:
        pool: the database fg_orders.
        provider: the payment provider.
        payment: its bounds.
        lifecycle: how long to wait before it is asked again.
        now_ms: wall clock, Unix milliseconds.
    """

    def __init__(
        self,
        pool: Pool,
        provider: PaymentProvider,
        payment: PaymentSettings,
        lifecycle: LifecycleSettings,
        *,
        now_ms: Callable[[], int],
    ) -> None:
        self._pool = pool
        self._provider = provider
        self._settings = payment
        self._lifecycle = lifecycle
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

        Raises:
            OperationRefusedError: it speaks of another amount; nothing was changed.
            BackendError: MySQL is not there; the provider has to call again.
        """
        payment = await payment_rows.find_payment(self._pool, callback.payment_id)
        if payment is None:
            return None
        if callback.amount_cents != payment.amount_cents:
            raise OperationRefusedError(
                f"payment {payment.payment_id} is about {payment.amount_cents} cents, not {callback.amount_cents}"
            )
        return await self._told(payment, ProviderState(callback.state))

    async def check(self, payment: Payment) -> None:
        """Ask the provider how a payment stands that it has said nothing of; what fails is put off.

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
        if await self._told(payment, state) in ACTIVE:
            await self.put_off(payment, "")

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

    async def _not_made(self, payment: Payment, status: PaymentStatus, error: str) -> None:
        await payment_rows.note_not_made(
            self._pool, payment.payment_id, status, error, now_ms=self._now_ms(), check_at_ms=self._check_at_ms(0)
        )

    def _check_at_ms(self, attempts: int, max_s: float = CHECK_PAUSE_MAX_S) -> int:
        return self._now_ms() + round(1_000 * pause_s(attempts, self._lifecycle.check_after_s, max_s))
