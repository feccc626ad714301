"""Where an order stands: MySQL's row owns that; before the row exists, the buyer's record in Redis says `accepted`.

After 10:00 everyone who bought asks again and again. So questions are gathered like orders are: one query and one
MGET answer all that came in while the last ones were away.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import orjson

from adapters.stock import Attempt
from domain import outcomes
from domain.errors import BackendError, PoisonRecordError
from domain.order import split_order_id
from gateway.answers import BUSY_NOW, JSON, Answer, problem
from gateway.group_commit import GroupCommit

POLL_AGAIN_S: Final = "1"


class OrderRow(NamedTuple):
    """What MySQL says of an order."""

    user_id: str
    sku_id: str
    quantity: int
    status: str
    version: int


class Question(NamedTuple):
    """Somebody asks where an order stands."""

    order_id: str
    campaign_id: str
    digest: str
    user_id: str
    then: Callable[[Answer], None]


FindRows = Callable[[Sequence[str]], Awaitable[dict[str, OrderRow]]]
"""Order ids → the rows that there are, by order id."""

FindAttempts = Callable[[Sequence[tuple[str, str]]], Awaitable[list[list[Attempt] | PoisonRecordError]]]
"""(campaign id, user id) of each → the attempts in each buyer's record, in the same order."""


def status_answer(
    question: Question, row: OrderRow | BackendError | None, attempts: list[Attempt] | BackendError | PoisonRecordError
) -> Answer:
    """Return the answer to `GET /v1/orders/{id}`; another's order is answered like one that does not exist."""
    if isinstance(row, OrderRow):
        return _answer(question, row) if row.user_id == question.user_id else _NOT_FOUND
    # Only if MySQL has said that it has no row: with MySQL away the order may be further than Redis knows.
    if row is None and isinstance(attempts, list):
        for attempt in attempts:
            if attempt.digest == question.digest:
                row = OrderRow(question.user_id, attempt.sku_id, attempt.quantity, "accepted", 0)
                return _answer(question, row)
        return _NOT_FOUND
    return _NOT_TOLD


class StatusDesk:
    """Answers where orders stand, for one worker."""

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
        """Answer at once, or promise an answer."""
        parts = split_order_id(order_id)
        if parts is None:
            return _NOT_FOUND
        if self._waiting >= self._inflight_max:
            return BUSY_NOW
        self._waiting += 1
        self._queue.submit(Question(order_id, *parts, user_id, promise()))
        return None

    async def _send(self, batch: list[Question]) -> None:
        try:
            rows, found = await asyncio.gather(
                self._find_rows([one.order_id for one in batch]),
                self._find_attempts([(one.campaign_id, one.user_id) for one in batch]),
                return_exceptions=True,
            )
        except BaseException:
            self._give_up(batch)
            raise
        for failure in (rows, found):
            if isinstance(failure, BaseException) and not isinstance(failure, BackendError):
                self._give_up(batch)
                raise failure
        for place, question in enumerate(batch):
            row = rows if isinstance(rows, BackendError) else rows.get(question.order_id)  # type: ignore[union-attr]
            attempts = found if isinstance(found, BackendError) else found[place]  # type: ignore[index]
            self._tell(question, status_answer(question, row, attempts))

    def _give_up(self, batch: list[Question]) -> None:
        for question in batch:
            self._tell(question, _NOT_TOLD)

    def _tell(self, question: Question, answer: Answer) -> None:
        self._waiting -= 1
        question.then(answer)


_NOT_FOUND: Final = problem(outcomes.NOT_FOUND, "you have no such order")
_NOT_TOLD: Final = problem(
    outcomes.UNKNOWN, "where the order stands cannot be told now", (("Retry-After", POLL_AGAIN_S),)
)


def _answer(question: Question, row: OrderRow) -> Answer:
    body = {
        "order_id": question.order_id,
        "status": row.status,
        "campaign_id": question.campaign_id,
        "sku_id": row.sku_id,
        "quantity": row.quantity,
        "version": row.version,
    }
    headers = (("Retry-After", POLL_AGAIN_S),) if row.status == "accepted" else ()
    return Answer(200, orjson.dumps(body), JSON, (*headers, ("Cache-Control", "no-store")))
