"""Where a person looks at sagas of redemptions, has parked ones taken up anew, or turns one back.

A person decides as the driver does: by compare-and-set on the saga's row, before anything is done. What is under way
meanwhile finds the row changed and lets go of it; a step that it has done is taken back as all others.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import pymysql.err

from adapters.mysql import Pool, query, transaction
from consumers.saga_facts import (
    COMPENSATED_BY,
    COMPENSATED_WHY,
    SAGA_COLUMNS,
    SagaFacts,
    SagaStory,
    as_saga,
)
from consumers.saga_reads import read_points, read_saga
from consumers.saga_words import why_not_compensated, why_not_retried
from domain.errors import BackendError, OperationRefusedError
from domain.saga import SagaStatus
from lifecycle.order_attributes import add_missing

LIST_MAX: Final = 1_000

_UNDER_WAY: Final = f"SELECT {SAGA_COLUMNS} FROM saga FORCE INDEX (by_due) WHERE next_at_ms IS NOT NULL"  # noqa: S608
_PARKED: Final = f"SELECT {SAGA_COLUMNS} FROM saga FORCE INDEX (by_parked) WHERE parked_at_ms IS NOT NULL"  # noqa: S608
_ALL: Final = f"SELECT {SAGA_COLUMNS} FROM saga WHERE TRUE"  # noqa: S608
_LOCK: Final = f"SELECT {SAGA_COLUMNS} FROM saga WHERE saga_id = %s FOR UPDATE"  # noqa: S608
_RETRY: Final = (
    "UPDATE saga SET version = version + 1, attempts = 0, error = '', next_at_ms = %s, parked_at_ms = NULL "
    "WHERE saga_id = %s AND version = %s AND parked_at_ms IS NOT NULL"
)
_COMPENSATE: Final = (
    "UPDATE saga SET version = version + 1, status = %s, reason = %s, attempts = 0, error = '', next_at_ms = %s, "
    "parked_at_ms = NULL WHERE saga_id = %s AND version = %s AND status = %s"
)


class SagaDesk:
    """Looks at sagas and decides about them.

    Args:
        orders: the database fg_orders, which has the sagas.
        points: the database fg_points.
        now_ms: wall clock, Unix milliseconds.
    """

    def __init__(
        self, orders: Pool, points: Pool, *, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._orders = orders
        self._points = points
        self._now_ms = now_ms

    async def list_sagas(
        self, *, status: SagaStatus | None = None, campaign_id: str = "", parked: bool = False, limit: int = LIST_MAX
    ) -> list[SagaFacts]:
        """Return sagas that have not ended, the oldest first; of a status: whether ended or not, the newest first.

        Args:
            status: only those of this direction.
            campaign_id: only those of this campaign.
            parked: only those that wait for a person.
            limit: at most so many, up to LIST_MAX.

        Raises:
            BackendError: fg_orders is not there, or has no schema.
        """
        wanted = {"campaign_id": campaign_id, "status": "" if status is None else str(status)}
        values = [value for value in wanted.values() if value]
        filters = "".join(f" AND {name} = %s" for name, value in wanted.items() if value)
        if parked:
            sources, newest = [_PARKED], False
        elif status is not None:
            sources, newest = [_ALL], True
        else:
            sources, newest = [_UNDER_WAY, _PARKED], False
        union = " UNION ALL ".join(f"({one}{filters})" for one in sources)
        order = "DESC" if newest else "ASC"
        sql = f"SELECT * FROM ({union}) AS found ORDER BY started_at_ms {order}, saga_id LIMIT %s"  # noqa: S608
        try:
            rows = await query(self._orders, sql, (*values * len(sources), min(limit, LIST_MAX)))
        except pymysql.err.MySQLError as error:
            raise BackendError(f"MySQL: {error}; does the schema exist? `./flashgate migrate` makes it") from error
        return [as_saga(row) for row in rows]

    async def find(self, saga_id: str) -> SagaStory:
        """Return all that both schemas know of a saga; that fg_points is away is told in it.

        Raises:
            OperationRefusedError: there is no such saga.
            BackendError: fg_orders is not there.
        """
        story = await read_saga(self._orders, saga_id, now_ms=self._now_ms())
        if story is None:
            raise no_such_saga(saga_id)
        try:
            guards, story.moves = await read_points(self._points, saga_id)
        except BackendError as error:
            story.points_away = str(error)
        else:
            story.steps = sorted([*story.steps, *guards], key=lambda one: one.at_ms)
        return story

    async def retry(self, saga_id: str) -> SagaFacts:
        """Have a parked saga taken up anew, from the step at which it was parked; returns it as it was.

        Raises:
            OperationRefusedError: there is no such saga, or it is not parked; nothing was changed.
            BackendError: it may be taken up or not; calling again tells.
        """
        async with transaction(self._orders) as cursor:
            saga = await _lock(cursor, saga_id)
            _refuse(saga, why_not_retried(saga))
            await cursor.execute(_RETRY, (self._now_ms(), saga_id, saga.version))
            _moved(cursor, saga)
        return saga

    async def compensate(self, saga_id: str, *, who: str, why: str, reason: str) -> SagaFacts:
        """Turn a running saga back, parked or not; returns it as it was.

        Who and why are kept with its order, as attributes; a saga is turned back once.

        Args:
            saga_id: the saga.
            who: who decides.
            why: what for.
            reason: both in at most `REASON_CHARS_MAX` characters of ASCII, for the order's change.

        Raises:
            OperationRefusedError: there is no such saga, or it cannot turn back any more; nothing was changed.
            BackendError: it may be decided or not; calling again tells.
        """
        now_ms = self._now_ms()
        async with transaction(self._orders) as cursor:
            saga = await _lock(cursor, saga_id)
            _refuse(saga, why_not_compensated(saga))
            back, running = str(SagaStatus.COMPENSATING), str(SagaStatus.RUNNING)
            await cursor.execute(_COMPENSATE, (back, reason, now_ms, saga_id, saga.version, running))
            _moved(cursor, saga)
            said = [(saga_id, COMPENSATED_BY, who), (saga_id, COMPENSATED_WHY, why)]
            await add_missing(cursor, said, now_ms)
        return saga


def no_such_saga(saga_id: str) -> OperationRefusedError:
    """Return the error that there is no such saga."""
    return OperationRefusedError(
        f"there is no saga {saga_id}: it is no redemption, or was not taken in yet; "
        f"`./flashgate trace {saga_id}` tells where it is"
    )


async def _lock(cursor: Any, saga_id: str) -> SagaFacts:  # noqa: ANN401 -- aiomysql has no types
    await cursor.execute(_LOCK, (saga_id,))
    row = await cursor.fetchone()
    if row is None:
        raise no_such_saga(saga_id)
    return as_saga(row)


def _refuse(saga: SagaFacts, why_not: str) -> None:
    if why_not:
        raise OperationRefusedError(f"saga {saga.saga_id}: {why_not}; nothing was changed")


def _moved(cursor: Any, saga: SagaFacts) -> None:  # noqa: ANN401
    """Make sure that the compare-and-set took: the row is locked, so that it must have.

    Raises:
        BackendError: it did not; nothing is changed.
    """
    if cursor.rowcount != 1:
        raise BackendError(f"saga {saga.saga_id} was locked as {saga.status}, and could not be moved")
