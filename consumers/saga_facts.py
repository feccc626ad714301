"""What the stores know of one redemption's saga, as plain values. Times are Unix milliseconds."""

from typing import Any, Final

import msgspec

COMPENSATED_BY: Final = "compensated_by"
"""Attribute of an order: who had its saga turn back."""
COMPENSATED_WHY: Final = "compensated_why"
IN_ORDERS: Final = "fg_orders"
IN_POINTS: Final = "fg_points"

SAGA_COLUMNS: Final = (
    "saga_id, campaign_id, sku_id, user_id, quantity, points, hold_no, accepted_at_ms, outbox_id, outbox_index, "
    "status, step, version, reason, attempts, error, next_at_ms, parked_at_ms, started_at_ms, ended_at_ms"
)


class SagaFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `saga`."""

    saga_id: str
    campaign_id: str
    sku_id: str
    user_id: str
    quantity: int
    points: int
    """In all."""
    hold_no: int
    accepted_at_ms: int
    outbox_id: str
    outbox_index: int
    status: str
    step: str
    """The last one noted as done; empty: none."""
    version: int
    reason: str
    """Why it turned back."""
    attempts: int
    """Of its next step, that have failed."""
    error: str
    next_at_ms: int | None
    parked_at_ms: int | None
    started_at_ms: int
    ended_at_ms: int | None


class StepFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The guard of a step."""

    schema: str
    """IN_ORDERS or IN_POINTS."""
    step: str
    outcome: str
    at_ms: int


class PaidFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The payment in points."""

    payment_id: str
    status: str
    points: int
    attempts: int
    error: str
    at_ms: int


class StockFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the stock ledger."""

    kind: str
    hold_no: int
    quantity: int
    at_ms: int


class PointsFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the points' ledger."""

    kind: str
    delta: int
    user_id: str
    at_ms: int


class SagaStory(msgspec.Struct, kw_only=True):
    """All that was found out about a saga."""

    saga: SagaFacts
    now_ms: int
    steps: list[StepFacts] = []
    """Guards, of both schemas."""
    order_status: str = ""
    """Empty: there is no order yet."""
    order_version: int = 0
    payments: list[PaidFacts] = []
    stock: list[StockFacts] = []
    stock_owed: int = 0
    """Returns that MySQL owes to Redis."""
    compensated_by: str = ""
    compensated_why: str = ""
    moves: list[PointsFacts] = []
    points_away: str = ""
    """Why fg_points could not be asked; empty: it was."""


def as_saga(row: Any) -> SagaFacts:  # noqa: ANN401 -- aiomysql has no types
    """Return a row of SAGA_COLUMNS."""
    return SagaFacts(**dict(zip(SAGA_COLUMNS.split(", "), row, strict=True)))
