"""Asking both schemas what they know of one redemption's saga."""

from typing import Any, Final

import pymysql.err

from adapters.mysql import Pool, query, transaction
from consumers.saga_facts import (
    COMPENSATED_BY,
    COMPENSATED_WHY,
    IN_ORDERS,
    IN_POINTS,
    SAGA_COLUMNS,
    PaidFacts,
    PointsFacts,
    SagaStory,
    StepFacts,
    StockFacts,
    as_saga,
)
from domain.errors import BackendError

READ_TIMEOUT_S: Final = 20.0

_SAGA: Final = f"SELECT {SAGA_COLUMNS} FROM saga WHERE saga_id = %s"  # noqa: S608 -- columns alone
_STEPS: Final = "SELECT step, outcome, at_ms FROM saga_step WHERE saga_id = %s ORDER BY at_ms, step"
_ORDER: Final = "SELECT status, version FROM orders WHERE order_id = %s"
_PAYMENT: Final = (
    "SELECT payment_id, status, points, attempts, error, updated_at_ms FROM payment "
    "WHERE order_id = %s AND points > 0 ORDER BY attempt_no"
)
_STOCK: Final = "SELECT kind, hold_no, quantity, created_at_ms FROM stock_ledger WHERE order_id = %s ORDER BY id"
_OWED: Final = "SELECT COUNT(*) FROM stock_return WHERE order_id = %s AND done_at_ms IS NULL"
_ATTRIBUTES: Final = "SELECT name, value FROM order_attribute WHERE order_id = %s AND name IN %s"
_MOVES: Final = "SELECT kind, delta, user_id, at_ms FROM points_ledger WHERE ref_id = %s ORDER BY id"


async def read_saga(orders: Pool, saga_id: str, *, now_ms: int, timeout_s: float = READ_TIMEOUT_S) -> SagaStory | None:
    """Return what fg_orders knows of a saga, None if there is none.

    Raises:
        BackendError: fg_orders is not there, or has no schema.
    """
    try:
        async with transaction(orders, timeout_s=timeout_s) as cursor:

            async def rows(statement: str, *more: object) -> list[tuple[Any, ...]]:
                await cursor.execute(statement, (saga_id, *more))
                return list(await cursor.fetchall())

            found = await rows(_SAGA)
            if not found:
                return None
            order = await rows(_ORDER)
            attributes = dict(await rows(_ATTRIBUTES, [COMPENSATED_BY, COMPENSATED_WHY]))
            return SagaStory(
                saga=as_saga(found[0]),
                now_ms=now_ms,
                steps=[
                    StepFacts(schema=IN_ORDERS, step=step, outcome=outcome, at_ms=at_ms)
                    for step, outcome, at_ms in await rows(_STEPS)
                ],
                order_status=order[0][0] if order else "",
                order_version=order[0][1] if order else 0,
                payments=[
                    PaidFacts(
                        payment_id=row[0], status=row[1], points=row[2], attempts=row[3], error=row[4], at_ms=row[5]
                    )
                    for row in await rows(_PAYMENT)
                ],
                stock=[
                    StockFacts(kind=kind, hold_no=hold_no, quantity=quantity, at_ms=at_ms)
                    for kind, hold_no, quantity, at_ms in await rows(_STOCK)
                ],
                stock_owed=(await rows(_OWED))[0][0],
                compensated_by=attributes.get(COMPENSATED_BY, ""),
                compensated_why=attributes.get(COMPENSATED_WHY, ""),
            )
    except pymysql.err.MySQLError as error:
        raise _unusable(error) from error


async def read_points(
    points: Pool, ref_id: str, *, timeout_s: float = READ_TIMEOUT_S
) -> tuple[list[StepFacts], list[PointsFacts]]:
    """Return what fg_points knows of an order or a draw: guards, and rows of the ledger.

    Raises:
        BackendError: fg_points is not there, or has no schema.
    """
    try:
        guards = await query(points, _STEPS, (ref_id,), timeout_s=timeout_s)
        moves = await query(points, _MOVES, (ref_id,), timeout_s=timeout_s)
    except pymysql.err.MySQLError as error:
        raise _unusable(error) from error
    return (
        [StepFacts(schema=IN_POINTS, step=step, outcome=outcome, at_ms=at_ms) for step, outcome, at_ms in guards],
        [PointsFacts(kind=kind, delta=delta, user_id=user_id, at_ms=at_ms) for kind, delta, user_id, at_ms in moves],
    )


def _unusable(error: Exception) -> BackendError:
    return BackendError(f"MySQL: {error}; does the schema exist? `./flashgate migrate` makes it")
