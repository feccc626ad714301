"""What the sandbox provider does with a payment: create, find, refund, and let the buyer decide. Knows no HTTP."""

import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec

from domain.errors import FlashgateError
from lifecycle.callback import Callback
from lifecycle.provider import ProviderState
from sandbox.rules import (
    Behaviour,
    Manner,
    Mode,
    Payment,
    Told,
    manner_of,
    plan_callbacks,
    state_when_created,
)
from sandbox.store import SandboxStore

PAYMENTS_MAX: Final = 1_000_000
TOLD_MAX: Final = 10_000
"""Payments and orders about which something was told."""

_ALL_NEW: Final = "*"


class RefusalError(FlashgateError):
    """A refusal in the provider's own words.

    Attributes:
        status: of HTTP.
        code: stable, for programs.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class SandboxDesk:
    """The provider's decisions; `wake` is called whenever there are new callbacks to deliver."""

    def __init__(
        self, store: SandboxStore, wake: Callable[[], None], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._wake = wake
        self._clock = clock
        self._count = store.count()

    def create(self, payment_id: str, order_id: str, amount_cents: int) -> tuple[Payment | None, Manner]:
        """Create a payment, unless it is there.

        Returns:
            The payment, None if it was told to take no notice, and how to answer.

        Raises:
            RefusalError: it is there with another order or amount, or there is no room.
        """
        known = self._store.payment(payment_id)
        if known is not None:
            if (known.order_id, known.amount_cents) != (order_id, amount_cents):
                raise RefusalError(409, "CONFLICT", "there is a payment of that id for something else")
            return known, manner_of(known.behaviour)
        behaviour = self._behaviour(payment_id, order_id)
        if behaviour.mode is Mode.TIMEOUT:
            return None, Manner.NEVER
        if self._count >= PAYMENTS_MAX:
            raise RefusalError(429, "FULL", f"there are {PAYMENTS_MAX} payments")
        payment = Payment(payment_id, order_id, amount_cents, ProviderState.PENDING, behaviour)
        payment = self._move(payment, state_when_created(behaviour))
        self._count += 1
        return payment, manner_of(behaviour)

    def find(self, payment_id: str) -> Payment:
        """Return a payment.

        Raises:
            RefusalError: there is none of that id.
        """
        payment = self._store.payment(payment_id)
        if payment is None:
            raise RefusalError(404, "NOT_FOUND", "there is no payment of that id")
        return payment

    def refund(self, payment_id: str, amount_cents: int) -> Payment:
        """Give a payment's money back, once.

        Raises:
            RefusalError: there is no such payment, it is not charged, or its amount is another one.
        """
        payment = self.find(payment_id)
        if payment.amount_cents != amount_cents:
            raise RefusalError(422, "AMOUNT", f"the payment is over {payment.amount_cents} cents; all of it goes back")
        if payment.state is ProviderState.REFUNDED:
            return payment
        if payment.state is not ProviderState.APPROVED:
            raise RefusalError(409, "NOT_CHARGED", f"the payment is {payment.state.value}")
        return self._move(payment, ProviderState.REFUNDED)

    def decide(self, payment_id: str, state: ProviderState) -> Payment:
        """Do as the buyer says, who says it once.

        Args:
            payment_id: which payment.
            state: APPROVED or DECLINED.

        Raises:
            RefusalError: there is no such payment, or it was decided otherwise before.
        """
        payment = self.find(payment_id)
        if payment.state is state:
            return payment
        if payment.state is not ProviderState.PENDING:
            raise RefusalError(409, "DECIDED", f"the payment is {payment.state.value} already")
        return self._move(payment, state)

    def tell(self, told: Told) -> None:
        """Remember how to behave. A payment that is there and still waits is done with as if it came now.

        Raises:
            RefusalError: there is no room.
        """
        about = _about(told.payment_id, told.order_id)
        if self._store.count_told() >= TOLD_MAX and self._store.told(about) is None:
            raise RefusalError(429, "FULL", f"something was told about {TOLD_MAX} payments and orders")
        self._store.tell(about, told.behaviour)
        for payment in self._there(told):
            now = msgspec.structs.replace(payment, behaviour=told.behaviour)
            state = state_when_created(told.behaviour)
            if payment.state is ProviderState.PENDING and state is not ProviderState.PENDING:
                self._move(now, state)
            else:
                self._store.put(now)

    def reset(self) -> None:
        """Forget all that was told. What was decided stays."""
        self._store.forget_told()

    def _there(self, told: Told) -> list[Payment]:
        if told.payment_id is not None:
            found = self._store.payment(told.payment_id)
            return [] if found is None else [found]
        return [] if told.order_id is None else self._store.payments_of(told.order_id)

    def _behaviour(self, payment_id: str, order_id: str) -> Behaviour:
        """Return how to behave about a new payment: the closest that was told."""
        for about in (_about(payment_id, None), _about(None, order_id), _ALL_NEW):
            told = self._store.told(about)
            if told is not None:
                return told
        return Behaviour()

    def _move(self, payment: Payment, state: ProviderState) -> Payment:
        """Write a payment's new state together with the callbacks about it."""
        moved = msgspec.structs.replace(payment, state=state)
        planned = () if state is ProviderState.PENDING else plan_callbacks(payment.behaviour, state)
        events = {one.event: f"evt_{secrets.token_hex(12)}" for one in planned}
        bodies = [
            msgspec.json.encode(Callback(events[one.event], payment.payment_id, one.state, payment.amount_cents))
            for one in planned
        ]
        self._store.put(moved, planned, bodies, self._clock())
        if planned:
            self._wake()
        return moved


def _about(payment_id: str | None, order_id: str | None) -> str:
    if payment_id is not None:
        return f"payment {payment_id}"
    return _ALL_NEW if order_id is None else f"order {order_id}"
