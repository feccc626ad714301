"""Where an order stands: MySQL's row owns that; before the row exists, the buyer's record in Redis says `accepted`.

After 10:00 everyone who bought asks again and again. So questions are gathered like orders are: one query answers all
that came in while the last one was away, and one MGET those of them that MySQL does not know yet. An order that MySQL
knows is answered without Redis.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import orjson

from adapters.stock import Attempt
from domain import outcomes
from domain.errors import BackendError, PoisonRecordError
from domain.order import split_order_id
from domain.order_state import ACTIVE, LAST, OrderStatus, PaymentStatus
from gateway.answers import BUSY_NOW, JSON, Answer, problem
from gateway.group_commit import GroupCommit

SOON_S: Final = 1
"""An order that is accepted is confirmed within a second or two."""
LATER_S: Final = (1, 2, 3)
"""One of these for each order, so that those who bought at the same time do not all come back at the same time."""
MUCH_LATER_S: Final = 30
"""What comes after payment takes people, and a payment that was not made in time may never be made."""


class OrderPayment(NamedTuple):
    """The payment that is told with an order."""

    payment_id: str
    status: PaymentStatus
    attempt_no: int


class OrderRow(NamedTuple):
    """What MySQL says of an order."""

    user_id: str
    sku_id: str
    quantity: int
    status: OrderStatus
    version: int
    pay_by_ms: int | None = None
    """Unix milliseconds; None: it never expires."""
    payment: OrderPayment | None = None


class Question(NamedTuple):
    """Somebody asks where an order stands."""

    order_id: str
    campaign_id: str
    digest: str
    user_id: str
    then: Callable[[OrderRow | Answer], None]


FindRows = Callable[[Sequence[str]], Awaitable[dict[str, OrderRow]]]
"""Order ids → the rows that there are, by order id."""

FindAttempts = Callable[[Sequence[tuple[str, str]]], Awaitable[list[list[Attempt] | PoisonRecordError]]]
"""(campaign id, user id) of each → the attempts in each buyer's record, in the same order."""

NO_SUCH_ORDER: Final = problem(outcomes.NOT_FOUND, "you have no such order")
NOT_TOLD: Final = problem(
    outcomes.UNKNOWN, "where the order stands cannot be told now", (("Retry-After", str(SOON_S)),)
)
_NO_STORE: Final = ("Cache-Control", "no-store")


# -- what is told, decided without I/O -------------------------------------------------------------------------------


def find_out(
    question: Question, row: OrderRow | None, attempts: list[Attempt] | BackendError | PoisonRecordError
) -> OrderRow | Answer:
    """Return where an order stands, or why that is not told; another's order is like one that does not exist.

    Args:
        question: who asks for what.
        row: MySQL's; None only if MySQL has said that it has none.
        attempts: of the buyer's record; they matter only if there is no row.
    """
    if row is not None:
        return row if row.user_id == question.user_id else NO_SUCH_ORDER
    if not isinstance(attempts, list):
        return NOT_TOLD
    for attempt in attempts:
        if attempt.digest == question.digest:
            return OrderRow(question.user_id, attempt.sku_id, attempt.quantity, OrderStatus.ACCEPTED, 0)
    return NO_SUCH_ORDER


def status_answer(order_id: str, row: OrderRow) -> Answer:
    """Return the answer to `GET /v1/orders/{id}`."""
    again_s = ask_again_s(order_id, row)
    headers = (_NO_STORE,) if again_s is None else (("Retry-After", str(again_s)), _NO_STORE)
    return Answer(200, status_body(order_id, row), JSON, headers)


def status_body(order_id: str, row: OrderRow) -> bytes:
    """Return what is told of an order, as JSON."""
    payment = row.payment
    body = {
        "order_id": order_id,
        "status": row.status,
        "campaign_id": order_id.partition("~")[0],
        "sku_id": row.sku_id,
        "quantity": row.quantity,
        "version": row.version,
        "pay_by": iso_utc(row.pay_by_ms) if row.status is OrderStatus.CONFIRMED and row.pay_by_ms else None,
        "payment": payment and {"payment_id": payment.payment_id, "status": payment_told(payment.status)},
    }
    return orjson.dumps(body)


def ask_again_s(order_id: str, row: OrderRow) -> int | None:
    """Return after how many seconds it makes sense to ask again, None if nothing will change any more."""
    status = row.status
    if status is OrderStatus.ACCEPTED:
        return SOON_S
    money = row.payment.status if row.payment is not None and status not in LAST else None
    if status is OrderStatus.CONFIRMED or money in _MONEY_UNDER_WAY:
        return LATER_S[int(order_id[-8:], 16) % len(LATER_S)]
    if status in {OrderStatus.PAID, OrderStatus.APPROVED} or money in ACTIVE:
        return MUCH_LATER_S
    return None


_MONEY_UNDER_WAY: Final = frozenset({PaymentStatus.REACQUIRING, PaymentStatus.REFUND_DUE})
_TOLD_AS: Final = {
    PaymentStatus.CREATING: PaymentStatus.PENDING,
    PaymentStatus.UNKNOWN: PaymentStatus.PENDING,
    PaymentStatus.HELD: PaymentStatus.PENDING,
    PaymentStatus.VOID: PaymentStatus.FAILED,
}
_COUNTS: Final = frozenset({PaymentStatus.PAID, PaymentStatus.REACQUIRING})


def payment_told(status: PaymentStatus) -> str:
    """Return a payment's status as buyers are told: how far we are inside is no matter of theirs."""
    return _TOLD_AS.get(status, status)


def choose_payment(payments: Iterable[OrderPayment]) -> OrderPayment | None:
    """Return which of an order's payments is told with it: the one it was paid by, else the last."""
    return max(payments, key=lambda one: (one.status in _COUNTS, one.attempt_no), default=None)


def iso_utc(unix_ms: int) -> str:
    """Return a time as RFC 3339 has it, UTC, with milliseconds."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- asking ----------------------------------------------------------------------------------------------------------


class StatusDesk:
    """Finds out where orders stand, for one worker."""

    def __init__(
        self,
        find_rows: FindRows,
        find_attempts: FindAttempts,
        *,
        batch_max: int,
        inflight_max: int,
        answer_timeout_s: float,
    ) -> None:
        self._find_rows = find_rows
        self._find_attempts = find_attempts
        self._inflight_max = inflight_max
        self._waiting = 0
        self._queue: GroupCommit[Question] = GroupCommit(
            self._send, self._give_up, batch_max=batch_max, wait_max_s=answer_timeout_s
        )

    def ask(self, order_id: str, user_id: str, promise: Callable[[], Callable[[Answer], None]]) -> Answer | None:
        """Answer `GET /v1/orders/{id}` at once, or promise an answer."""

        def told() -> Callable[[OrderRow | Answer], None]:
            then = promise()
            return lambda found: then(found if isinstance(found, Answer) else status_answer(order_id, found))

        return self._submit(order_id, user_id, told)

    async def look(self, order_id: str, user_id: str) -> OrderRow | Answer:
        """Return where an order stands, or the answer that says why that is not told."""
        told: asyncio.Future[OrderRow | Answer] = asyncio.get_running_loop().create_future()

        def then(found: OrderRow | Answer) -> None:
            if not told.done():  # whoever asked has given up
                told.set_result(found)

        refused = self._submit(order_id, user_id, lambda: then)
        return refused if refused is not None else await told

    def _submit(
        self, order_id: str, user_id: str, promise: Callable[[], Callable[[OrderRow | Answer], None]]
    ) -> Answer | None:
        parts = split_order_id(order_id)
        if parts is None:
            return NO_SUCH_ORDER
        if self._waiting >= self._inflight_max:
            return BUSY_NOW
        self._waiting += 1
        self._queue.submit(Question(order_id, *parts, user_id, promise()))
        return None

    async def _send(self, batch: list[Question]) -> None:
        """Find out for a batch; each of its questions is answered, whatever happens."""
        try:
            rows = await self._find_rows([one.order_id for one in batch])
        except BackendError:
            # With MySQL away an order may be further than Redis knows.
            self._give_up(batch)
            return
        except BaseException:
            self._give_up(batch)
            raise
        missing = []
        for question in batch:
            row = rows.get(question.order_id)
            if row is None:
                missing.append(question)
            else:
                self._tell(question, find_out(question, row, []))
        if missing:
            await self._ask_redis(missing)

    async def _ask_redis(self, missing: list[Question]) -> None:
        try:
            found = await self._find_attempts([(one.campaign_id, one.user_id) for one in missing])
        except BackendError:
            self._give_up(missing)
            return
        except BaseException:
            self._give_up(missing)
            raise
        for question, attempts in zip(missing, found, strict=True):
            self._tell(question, find_out(question, None, attempts))

    def _give_up(self, batch: list[Question]) -> None:
        for question in batch:
            self._tell(question, NOT_TOLD)

    def _tell(self, question: Question, found: OrderRow | Answer) -> None:
        self._waiting -= 1
        question.then(found)
