"""Group commit in front of Redis: one script call is outstanding, and the next batch forms meanwhile.

There is no timer. An idle worker sends what came in within one turn of the event loop; a loaded one sends what has
gathered while the last call was away. So the batch grows with the load, and the cost of an order falls with it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from adapters.stock import BatchReply, OrderRequest
from domain.errors import BackendError, FencedError, OutcomeUnknownError
from domain.outcomes import BUSY, PROBLEM_OF_OUTCOME, UNKNOWN, Outcome
from gateway.answers import Decision

ACCEPTED = Decision()
REPLAYED = Decision(replayed=True)


class Waiting(NamedTuple):
    """An order that waits for its decision."""

    order: OrderRequest
    decision: "asyncio.Future[Decision]"
    deadline_s: float
    """Event loop time past which it is not sent any more."""


class Observer(Protocol):
    """What a batcher tells about its work."""

    def batch_sent(self, size: int, seconds: float) -> None:
        """Tell that a batch came back after so many seconds."""

    def batch_failed(self, size: int, error: BackendError) -> None:
        """Tell that a batch came to nothing, or to nobody knows what."""


def decision_of(outcome: Outcome, detail: int) -> Decision:
    """Translate one outcome of the script."""
    if outcome is Outcome.ACCEPTED:
        return ACCEPTED
    if outcome is Outcome.REPLAYED:
        return REPLAYED
    policy = "user" if outcome is Outcome.USER_RATE_LIMITED else "campaign"
    return Decision(PROBLEM_OF_OUTCOME[outcome], wait_ms=detail, policy=policy)


class Batcher:
    """Orders of one campaign and one worker on their way to Redis."""

    def __init__(
        self,
        admit: Callable[[list[OrderRequest]], Awaitable[BatchReply]],
        on_reply: Callable[[list[Waiting], BatchReply], None],
        observer: Observer,
        *,
        batch_max: int,
        answer_timeout_s: float,
    ) -> None:
        self._admit = admit
        self._on_reply = on_reply
        self._observer = observer
        self._batch_max = batch_max
        self._answer_timeout_s = answer_timeout_s
        self._queue: deque[Waiting] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.waiting = 0
        """Orders taken in and not decided yet."""

    def submit(self, order: OrderRequest) -> "asyncio.Future[Decision]":
        """Take an order in; the future always gets a decision, never an exception."""
        decision: asyncio.Future[Decision] = self._loop.create_future()
        self._queue.append(Waiting(order, decision, self._loop.time() + self._answer_timeout_s))
        self.waiting += 1
        if self._sender is None:
            self._sender = self._loop.create_task(self._send_all())
        return decision

    async def _send_all(self) -> None:
        try:
            while self._queue:
                await self._send_one_batch()
        finally:
            self._sender = None

    async def _send_one_batch(self) -> None:
        batch: list[Waiting] = []
        overdue: list[Waiting] = []
        now = self._loop.time()
        while self._queue and len(batch) < self._batch_max:
            waiting = self._queue.popleft()
            (batch if waiting.deadline_s > now else overdue).append(waiting)
        self.settle(overdue, Decision(BUSY, wait_ms=1_000))
        if not batch:
            return
        try:
            reply = await self._admit([waiting.order for waiting in batch])
        except (FencedError, OutcomeUnknownError) as error:
            # Nothing is known of an earlier attempt with the same key either, so this is what all of them are told.
            self._observer.batch_failed(len(batch), error)
            self.settle(batch, Decision(UNKNOWN, wait_ms=1_000))
        except BackendError as error:
            self._observer.batch_failed(len(batch), error)
            self.settle(batch, Decision(BUSY, wait_ms=1_000))
        except BaseException:
            self.settle(batch, Decision(UNKNOWN, wait_ms=1_000))
            raise
        else:
            self._observer.batch_sent(len(batch), self._loop.time() - now)
            try:
                self._on_reply(batch, reply)
            except BaseException:
                self.settle([one for one in batch if not one.decision.done()], Decision(UNKNOWN, wait_ms=1_000))
                raise

    def settle(self, batch: list[Waiting], decision: Decision) -> None:
        """Give all of them the same decision."""
        for waiting in batch:
            self.settle_one(waiting, decision)

    def settle_each(self, decided: list[tuple[Waiting, Decision]]) -> None:
        """Give each of them its own decision."""
        for waiting, decision in decided:
            self.settle_one(waiting, decision)

    def settle_one(self, waiting: Waiting, decision: Decision) -> None:
        """Give one its decision, once; a buyer who has gone away is no error."""
        self.waiting -= 1
        if not waiting.decision.done():
            waiting.decision.set_result(decision)
