"""Where an order stands: MySQL's row owns that; before the row exists, the buyer's record in Redis says `accepted`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import orjson

from adapters.stock import Attempt
from domain import outcomes
from domain.errors import BackendError, PoisonRecordError
from domain.order import split_order_id
from gateway.answers import JSON, Answer, problem

POLL_AGAIN_S: Final = "1"


class OrderRow(NamedTuple):
    """What MySQL says of an order."""

    sku_id: str
    quantity: int
    status: str
    version: int


FindRow = Callable[[str, str], Awaitable[OrderRow | None]]
"""(order id, user id) → the row, only if the order is the user's."""

FindAttempts = Callable[[str, str], Awaitable[list[Attempt]]]
"""(campaign id, user id) → the attempts in the buyer's record."""


async def order_status(order_id: str, user_id: str, find_row: FindRow, find_attempts: FindAttempts) -> Answer:
    """Return the answer to `GET /v1/orders/{id}`; another's order is answered like one that does not exist."""
    parts = split_order_id(order_id)
    if parts is None:
        return _NOT_FOUND
    campaign_id, digest = parts
    row, attempts = await asyncio.gather(
        find_row(order_id, user_id), find_attempts(campaign_id, user_id), return_exceptions=True
    )
    for failure in (row, attempts):
        if isinstance(failure, BaseException) and not isinstance(failure, BackendError | PoisonRecordError):
            raise failure
    if isinstance(row, OrderRow):
        return _answer(order_id, campaign_id, row)
    # Only if MySQL has said that it has no row: with MySQL away the order may be further than Redis knows.
    if row is None and isinstance(attempts, list):
        for attempt in attempts:
            if attempt.digest == digest:
                return _answer(order_id, campaign_id, OrderRow(attempt.sku_id, attempt.quantity, "accepted", 0))
        return _NOT_FOUND
    return problem(outcomes.UNKNOWN, "where the order stands cannot be told now", (("Retry-After", POLL_AGAIN_S),))


_NOT_FOUND: Final = problem(outcomes.NOT_FOUND, "you have no such order")


def _answer(order_id: str, campaign_id: str, row: OrderRow) -> Answer:
    body = {
        "order_id": order_id,
        "status": row.status,
        "campaign_id": campaign_id,
        "sku_id": row.sku_id,
        "quantity": row.quantity,
        "version": row.version,
    }
    headers = (("Retry-After", POLL_AGAIN_S),) if row.status == "accepted" else ()
    return Answer(200, orjson.dumps(body), JSON, (*headers, ("Cache-Control", "no-store")))
