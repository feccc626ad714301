"""The calls about an order after the sale: cancel, payment, the provider's callback, the stream of its states.

They are rare beside orders and questions, so each is a coroutine of its own that ends in an answer. What changes
anything may be sent again with the same effect: an order moves by compare-and-set on its row, a payment has the id that
its order and its Idempotency-Key give it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import orjson

from adapters.mysql import Pool, query
from domain import outcomes
from domain.errors import BackendError, OperationRefusedError, OutcomeUnknownError, PoisonRecordError
from domain.order import split_order_id
from domain.order_state import OrderStatus, PaymentStatus
from domain.settings import Settings
from gateway.answers import BUSY_NOW, JSON, UNKNOWN_NOW, Answer, problem
from gateway.bound import Bound
from gateway.identity import Identity
from gateway.metrics import LifeMetrics
from gateway.order_status import NO_SUCH_ORDER, FindAttempts, StatusDesk, payment_told
from gateway.order_stream import Listener, OrderStreams, read_last_event_id
from gateway.orders import KEY_MISSING
from gateway.requests import InvalidRequestError, check_empty_body, read_idempotency_key
from lifecycle.callback import CallbackRefusedError, decode_callback, verify
from lifecycle.order_rows import OrderFacts, find_order, give_up
from lifecycle.payment_rows import Payment, Refusal
from lifecycle.payments import PaymentDesk
from lifecycle.rules import is_prize

CANCELS_INFLIGHT_MAX: Final = 256
CALLBACKS_INFLIGHT_MAX: Final = 256
UNCONFIGURED_AGAIN_S: Final = 60

_WAS_CANCELLED: Final = "SELECT 1 FROM order_change WHERE order_id = %s AND status = %s"

_AGAIN: Final = (("Retry-After", "1"),)
_NOT_READY: Final = problem(outcomes.NOT_READY, "the order is accepted; ask again in a moment", _AGAIN)
_NO_PAYMENTS: Final = problem(
    outcomes.BUSY, "payments are not configured", (("Retry-After", str(UNCONFIGURED_AGAIN_S)),)
)
_TOO_MANY_PAYMENTS: Final = problem(outcomes.LIMIT_REACHED, "the order has had as many payments as it may have")
_PAYMENT_FAILED: Final = problem(
    outcomes.STATE, "the payment provider refused this payment; begin another one with a new Idempotency-Key"
)
_NO_SUCH_PAYMENT: Final = problem(outcomes.NOT_FOUND, "there is no such payment")
_PRIZE: Final = problem(outcomes.STATE, "this is a prize: there is nothing to pay, and it cannot be given back")
_TAKEN_IN: Final = Answer(204, b"")

_STANDS: Final = {
    OrderStatus.CONFIRMED: "the time to pay is over",
    OrderStatus.EXPIRED: "the order has expired: it was not paid in time",
}


def not_possible(status: OrderStatus) -> Answer:
    """Return 409 STATE: what was asked for is not possible in this state."""
    return problem(outcomes.STATE, _STANDS.get(status, f"the order is {status.value}"))


def _is_prize(order: OrderFacts) -> bool:
    return is_prize(order.unit_price_cents, order.pay_by_ms)


def _cannot(order: OrderFacts) -> Answer:
    """Return 409 STATE about an order of one's own."""
    return _PRIZE if _is_prize(order) else not_possible(order.status)


def cancelled(order_id: str) -> Answer:
    """Return 200: the order is cancelled, by this call or an earlier one."""
    return Answer(200, orjson.dumps({"order_id": order_id, "status": OrderStatus.CANCELLED}), JSON)


def payment_answer(result: Payment | Refusal) -> Answer | None:
    """Return what a buyer is told of a payment; None if that needs another look at the order."""
    if isinstance(result, Refusal):
        return _TOO_MANY_PAYMENTS if result is Refusal.TOO_MANY else None
    if result.status is PaymentStatus.FAILED:
        return _PAYMENT_FAILED
    body = {
        "payment_id": result.payment_id,
        "status": payment_told(result.status),
        "pay_url": result.pay_url,
    }
    return Answer(202, orjson.dumps(body), JSON)


class Payments(NamedTuple):
    """What is needed to take payments."""

    desk: PaymentDesk
    key: bytes
    """What the provider signs with."""


class LifeCalls:
    """The calls of one worker about orders after the sale.

    Args:
        settings: bounds.
        identify: the token's buyer, or the answer 401.
        pool: the database fg_orders; of its own, for those who cancel wait for one another's locks.
        find_attempts: what Redis knows of buyers.
        status: where orders stand.
        streams: who listens.
        payments: None where no provider is configured.
        metrics: counts.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        identify: Callable[[bytes | None], Identity | Answer],
        pool: Pool,
        find_attempts: FindAttempts,
        status: StatusDesk,
        streams: OrderStreams,
        payments: Payments | None,
        metrics: LifeMetrics,
    ) -> None:
        self._settings = settings
        self._identify = identify
        self._pool = pool
        self._find_attempts = find_attempts
        self._status = status
        self._streams = streams
        self._payments = payments
        self._metrics = metrics
        self._answer_s = settings.gateway.answer_timeout_s
        self._cancels = Bound(CANCELS_INFLIGHT_MAX)
        self._paying = Bound(settings.payment.inflight_max)
        self._callbacks = Bound(CALLBACKS_INFLIGHT_MAX)

    # -- POST /v1/orders/{id}/cancel -------------------------------------------------------------------------------

    async def cancel(self, authorization: bytes | None, key: bytes | None, order_id: str, body: bytes) -> Answer:
        """Cancel an order of one's own that is not paid."""
        asked = self._taken(authorization, key, order_id, body)
        if isinstance(asked, Answer):
            return asked
        buyer, _ = asked
        with self._cancels.place() as free:
            if not free:
                return self._told("cancel", BUSY_NOW)
            try:
                async with asyncio.timeout(self._answer_s):
                    return self._told("cancel", await self._cancel(order_id, buyer.user_id))
            except (BackendError, TimeoutError):
                return self._told("cancel", UNKNOWN_NOW)

    async def _cancel(self, order_id: str, user_id: str) -> Answer:
        def may(order: OrderFacts) -> bool:
            return order.status is OrderStatus.CONFIRMED and order.user_id == user_id and not _is_prize(order)

        order = await find_order(self._pool, order_id)
        if order is not None and may(order):
            now_ms = time.time_ns() // 1_000_000
            if await give_up(self._pool, [order], OrderStatus.CANCELLED, "by the buyer", now_ms, may=may):
                return cancelled(order_id)
            order = await find_order(self._pool, order_id)  # it has moved meanwhile
        if order is None:
            return await self._without_row(order_id, user_id)
        if order.user_id != user_id:
            return NO_SUCH_ORDER
        if order.status is OrderStatus.CANCELLED or await self._was_cancelled(order):
            return cancelled(order_id)
        return _cannot(order)

    async def _was_cancelled(self, order: OrderFacts) -> bool:
        """Tell whether an order was cancelled, and then money that came late was sent back."""
        if order.status is not OrderStatus.REFUNDED:
            return False
        return bool(await query(self._pool, _WAS_CANCELLED, (order.order_id, OrderStatus.CANCELLED)))

    # -- POST /v1/orders/{id}/payment ------------------------------------------------------------------------------

    async def pay(self, authorization: bytes | None, key: bytes | None, order_id: str, body: bytes) -> Answer:
        """Begin a payment of an order of one's own, or tell of the one that there is."""
        asked = self._taken(authorization, key, order_id, body)
        if isinstance(asked, Answer):
            return asked
        buyer, key_text = asked
        if self._payments is None:
            return self._told("payment", _NO_PAYMENTS)
        with self._paying.place() as free:
            if not free:
                return self._told("payment", BUSY_NOW)
            try:
                # The provider's time is bounded by itself; before and after it MySQL is asked.
                async with asyncio.timeout(self._answer_s + self._settings.payment.timeout_s):
                    result = await self._payments.desk.pay(order_id, buyer.user_id, key_text)
                    answer = payment_answer(result) or await self._cannot_pay(order_id, buyer.user_id, result)
                    return self._told("payment", answer)
            except (OutcomeUnknownError, TimeoutError):
                return self._told("payment", UNKNOWN_NOW)
            except BackendError:
                return self._told("payment", BUSY_NOW)

    async def _cannot_pay(self, order_id: str, user_id: str, why: Payment | Refusal) -> Answer:
        order = await find_order(self._pool, order_id)
        if order is None:
            return await self._without_row(order_id, user_id)
        if order.user_id != user_id:
            return NO_SUCH_ORDER
        # It had no row when it was looked for, and has one now.
        came = why is Refusal.NO_ORDER and order.status is OrderStatus.CONFIRMED
        return _NOT_READY if came and not _is_prize(order) else _cannot(order)

    # -- POST /v1/webhooks/payment ---------------------------------------------------------------------------------

    async def callback(self, signature: str | None, body: bytes) -> Answer:
        """Take in what the payment provider says; nothing is read of it before its signature is verified."""
        if self._payments is None:
            return self._told("callback", _NO_PAYMENTS)
        try:
            age_max_s = self._settings.payment.signature_age_max_s
            verify(signature, body, self._payments.key, now_s=time.time(), age_max_s=age_max_s)
            said = decode_callback(body)
        except CallbackRefusedError as error:
            return self._told("callback", _unsigned(error))
        except PoisonRecordError as error:
            return self._told("callback", problem(outcomes.INVALID, str(error)))
        with self._callbacks.place() as free:
            if not free:
                return self._told("callback", BUSY_NOW)
            try:
                async with asyncio.timeout(self._answer_s):
                    found = await self._payments.desk.take_in(said)
            except OperationRefusedError as error:
                return self._told("callback", problem(outcomes.INVALID, str(error)))
            except (BackendError, TimeoutError):
                return self._told("callback", UNKNOWN_NOW)
        return self._told("callback", _NO_SUCH_PAYMENT if found is None else _TAKEN_IN)

    # -- GET /v1/orders/{id}/events --------------------------------------------------------------------------------

    async def listen(
        self, authorization: bytes | None, order_id: str, last_event_id: bytes | None
    ) -> Listener | Answer:
        """Open a stream of an order of one's own; it ends when the token does, at the latest."""
        buyer = self._identify(authorization)
        if isinstance(buyer, Answer):
            return buyer
        refused = self._streams.refuse(buyer.user_id)
        if refused is not None:
            return self._told("events", refused)
        row = await self._status.look(order_id, buyer.user_id)
        if isinstance(row, Answer):
            return row
        lasts_s = min(self._settings.gateway.stream_max_s, buyer.expires_s - time.time())
        ends_s = time.monotonic() + lasts_s
        opened = self._streams.listen(order_id, row, read_last_event_id(last_event_id), ends_s)
        return self._told("events", opened) if isinstance(opened, Answer) else opened

    # -- what they share -------------------------------------------------------------------------------------------

    def _taken(
        self, authorization: bytes | None, key: bytes | None, order_id: str, body: bytes
    ) -> tuple[Identity, str] | Answer:
        """Return who asks, and with which key; the answer if it is no such call."""
        buyer = self._identify(authorization)
        if isinstance(buyer, Answer):
            return buyer
        if not key:
            return KEY_MISSING
        try:
            key_text = read_idempotency_key(key)
            check_empty_body(body)
        except InvalidRequestError as error:
            return problem(outcomes.INVALID, str(error))
        return (buyer, key_text) if split_order_id(order_id) else NO_SUCH_ORDER

    async def _without_row(self, order_id: str, user_id: str) -> Answer:
        """Return the answer about an order that MySQL does not know: it is on its way, or there is none.

        Raises:
            BackendError: Redis cannot tell.
        """
        campaign_id, _, digest = order_id.partition("~")
        (attempts,) = await self._find_attempts([(campaign_id, user_id)])
        if isinstance(attempts, PoisonRecordError):
            return UNKNOWN_NOW
        return _NOT_READY if any(attempt.digest == digest for attempt in attempts) else NO_SUCH_ORDER

    def _told(self, call: str, answer: Answer) -> Answer:
        self._metrics.told(call, answer.status)
        return answer


def _unsigned(error: CallbackRefusedError) -> Answer:
    return problem(outcomes.UNSIGNED, str(error), (("WWW-Authenticate", "X-Signature"),))
