"""`GET /v1/points`: a user's own balance, and what it is made of."""

import asyncio
from collections.abc import Callable
from typing import Final

import orjson

from adapters.mysql import Pool
from adapters.points import LEDGER_SHOWN_MAX, Statement, read_statement
from domain import outcomes
from domain.errors import BackendError
from gateway.answers import BUSY_NOW, JSON, Answer, problem
from gateway.bound import Bound
from gateway.identity import Identity
from gateway.order_status import iso_utc

INFLIGHT_MAX: Final = 256
"""Users of a worker whose balance is being read; past it 503 BUSY."""
_NO_STORE: Final = ("Cache-Control", "no-store")
NOT_TOLD: Final = problem(outcomes.UNKNOWN, "your points cannot be told now", (("Retry-After", "1"),))


def points_answer(found: Statement | None) -> Answer:
    """Return what a user is told; one without an account has no points."""
    statement = found or Statement(0, [])
    body = {
        "balance": statement.balance,
        "ledger": [
            {"ref_id": one.ref_id, "kind": one.kind, "delta": one.delta, "at": iso_utc(one.at_ms)}
            for one in statement.ledger
        ],
    }
    return Answer(200, orjson.dumps(body), JSON, (_NO_STORE,))


class PointsDesk:
    """Answers for one worker.

    Args:
        identify: the token's user, or the answer 401.
        pool: the database fg_points.
        answer_timeout_s: how long an answer may take.
    """

    def __init__(
        self, identify: Callable[[bytes | None], Identity | Answer], pool: Pool, *, answer_timeout_s: float
    ) -> None:
        self._identify = identify
        self._pool = pool
        self._answer_s = answer_timeout_s
        self._reading = Bound(INFLIGHT_MAX)

    async def get(self, authorization: bytes | None) -> Answer:
        """`GET /v1/points`: of whoever the token names, and of nobody else."""
        user = self._identify(authorization)
        if isinstance(user, Answer):
            return user
        with self._reading.place() as free:
            if not free:
                return BUSY_NOW
            try:
                async with asyncio.timeout(self._answer_s):
                    return points_answer(await read_statement(self._pool, user.user_id, rows_max=LEDGER_SHOWN_MAX))
            except (BackendError, TimeoutError):
                return NOT_TOLD
