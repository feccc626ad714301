"""The rows of sagas (`fg_orders.saga`): who takes one up, how far it is, which way it goes.

A saga is due when `next_at_ms` has come. Whoever takes it up moves that time on by a lease: others pass it over until
then, and if he dies, it is due again by itself. The lease is no lock and none is needed: a step that two do is done
once, by its guard, and every note here is a compare-and-set on the row's version, so that whoever comes too late
changes nothing and lets go of the saga.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from adapters.mysql import Pool, query, transaction
from adapters.saga_points import PointsOfSaga
from domain.redemption_events import RedemptionAccepted
from domain.saga import REASON_CHARS_MAX, SagaStatus, SagaStep, Turn

ERROR_TEXT_MAX: Final = 255

_COLUMNS: Final = (
    "saga_id, campaign_id, sku_id, user_id, quantity, points, fingerprint, hold_no, accepted_at_ms, outbox_id, "
    "outbox_index, status, step, version, reason, attempts"
)
_DUE: Final = (
    f"SELECT {_COLUMNS} FROM saga FORCE INDEX (by_due) WHERE next_at_ms <= %s "  # noqa: S608 -- columns alone
    "ORDER BY next_at_ms LIMIT %s FOR UPDATE SKIP LOCKED"
)
_LEASE: Final = "UPDATE saga SET next_at_ms = %s WHERE saga_id IN %s"
_FIND: Final = f"SELECT {_COLUMNS} FROM saga WHERE saga_id IN %s ORDER BY saga_id FOR UPDATE"  # noqa: S608
_LET_GO: Final = "UPDATE saga SET next_at_ms = %s WHERE saga_id IN %s AND next_at_ms > %s"
_OPEN: Final = """
SELECT (SELECT COUNT(*) FROM saga FORCE INDEX (by_due) WHERE next_at_ms IS NOT NULL),
 (SELECT COUNT(*) FROM saga FORCE INDEX (by_parked) WHERE parked_at_ms IS NOT NULL)"""
_SET: Final = "UPDATE saga SET version = version + 1, {} WHERE saga_id IN %s"
_PROGRESS: Final = _SET.format("step = %s, attempts = 0, error = '', next_at_ms = %s")
_ENDED: Final = _SET.format("step = %s, attempts = 0, error = '', next_at_ms = NULL, ended_at_ms = %s")
_TURNED: Final = _SET.format("status = %s, reason = %s, attempts = 0, error = %s, next_at_ms = %s")
_LATER: Final = _SET.format("attempts = %s, error = %s, next_at_ms = %s")
_PARKED: Final = _SET.format("attempts = %s, error = %s, next_at_ms = NULL, parked_at_ms = %s")


class SagaRow(NamedTuple):
    """A saga as it was read, or as it was left by the last note of one's own."""

    saga_id: str
    campaign_id: str
    sku_id: str
    user_id: str
    quantity: int
    points: int
    """In all, as `points_in_all` of its event."""
    fingerprint: str
    hold_no: int
    accepted_at_ms: int
    outbox_id: str
    outbox_index: int
    status: SagaStatus
    step: SagaStep | None
    """The last one noted as done."""
    version: int
    reason: str
    attempts: int
    """Of its next step, that have failed."""

    @property
    def cost(self) -> PointsOfSaga:
        """What it costs whom."""
        return PointsOfSaga(self.saga_id, self.user_id, self.points)

    def event(self) -> RedemptionAccepted:
        """Return the event that it was made of."""
        return RedemptionAccepted(
            order_id=self.saga_id,
            campaign_id=self.campaign_id,
            sku_id=self.sku_id,
            user_id=self.user_id,
            quantity=self.quantity,
            points=self.points // self.quantity,
            fingerprint=self.fingerprint,
            hold_no=self.hold_no,
            accepted_at_ms=self.accepted_at_ms,
            outbox_id=self.outbox_id,
            outbox_index=self.outbox_index,
        )


def _saga(row: Sequence[Any]) -> SagaRow:
    found = SagaRow(*row)
    return found._replace(status=SagaStatus(found.status), step=SagaStep(found.step) if found.step else None)


async def claim(pool: Pool, *, now_ms: int, lease_ms: int, limit: int) -> list[SagaRow]:
    """Take up sagas that are due, those that have waited longest first; nobody else does before the lease is over.

    Raises:
        BackendError: MySQL is not there, or some may be taken up by nobody until the lease is over.
    """
    async with transaction(pool) as cursor:
        await cursor.execute(_DUE, (now_ms, limit))
        sagas = [_saga(row) for row in await cursor.fetchall()]
        if sagas:
            await cursor.execute(_LEASE, (now_ms + lease_ms, [one.saga_id for one in sagas]))
    return sagas


async def let_go(pool: Pool, sagas: Sequence[SagaRow], *, due_at_ms: int) -> None:
    """Have sagas be due earlier than the end of their lease, whatever their rows say now.

    Raises:
        BackendError: they are due when the lease is over.
    """
    async with transaction(pool) as cursor:
        await cursor.execute(_LET_GO, (due_at_ms, sorted(one.saga_id for one in sagas), due_at_ms))


async def note_done(pool: Pool, sagas: Sequence[SagaRow], step: SagaStep, *, lease_until_ms: int) -> list[SagaRow]:
    """Note a step as done, and hold on to the sagas; returns those that are still ours, as they are now.

    Raises:
        BackendError: it may be noted or not; the step may be done again without harm.
    """
    after = (str(step), lease_until_ms)
    return await _note(pool, sagas, lambda _: (_PROGRESS, after), lambda one: one._replace(step=step, attempts=0))


async def note_ended(pool: Pool, sagas: Sequence[SagaRow], step: SagaStep, *, now_ms: int) -> list[SagaRow]:
    """Note the last step as done: nothing is left. Returns those of which this call has noted it.

    Raises:
        BackendError: it may be noted or not; the step may be done again without harm.
    """
    return await _note(pool, sagas, lambda _: (_ENDED, (str(step), now_ms)), lambda one: one._replace(step=step))


async def turn(
    pool: Pool, sagas: Sequence[SagaRow], turn: Turn, *, error: str = "", lease_until_ms: int
) -> list[SagaRow]:
    """Decide which way running sagas go; returns those of which this call has decided it.

    For all others somebody else has, or will; they are no longer ours.

    Raises:
        OutcomeUnknownError, BackendError: it may be decided or not, and has to be looked at anew.
    """
    reason = turn.reason[:REASON_CHARS_MAX]
    values = (str(turn.to), reason, error[:ERROR_TEXT_MAX], lease_until_ms)
    running = [one for one in sagas if one.status is SagaStatus.RUNNING]
    return await _note(
        pool, running, lambda _: (_TURNED, values), lambda one: one._replace(status=turn.to, reason=reason, attempts=0)
    )


async def note_later(
    pool: Pool, sagas: Sequence[SagaRow], *, attempts: Mapping[str, int], error: str, next_at_ms: int
) -> None:
    """Let go of sagas until a time.

    Args:
        pool: fg_orders.
        sagas: all of them.
        attempts: saga id → attempts of the step that have failed.
        error: why.
        next_at_ms: when they are due again.

    Raises:
        BackendError: they are due when the lease is over.
    """

    def after(one: SagaRow) -> tuple[str, tuple[object, ...]]:
        return _LATER, (attempts[one.saga_id], error[:ERROR_TEXT_MAX], next_at_ms)

    await _note(pool, sagas, after, lambda one: one)


async def park(pool: Pool, saga: SagaRow, *, attempts: int, error: str, now_ms: int) -> bool:
    """Leave a saga to people; returns whether this call did it.

    Raises:
        BackendError: it may be parked or not; if not it is due when the lease is over.
    """
    after = (_PARKED, (attempts, error[:ERROR_TEXT_MAX], now_ms))
    return bool(await _note(pool, [saga], lambda _: after, lambda one: one))


async def count_open(pool: Pool) -> tuple[int, int]:
    """Return how many sagas are under way, and how many are parked.

    Raises:
        BackendError: MySQL is not there.
    """
    ((under_way, parked),) = await query(pool, _OPEN)
    return int(under_way), int(parked)


def is_as_read(found: SagaRow, read: SagaRow) -> bool:
    """Tell whether nobody has changed a saga since it was read; `found` is locked."""
    return (found.version, found.status) == (read.version, read.status)


async def _note(
    pool: Pool,
    sagas: Iterable[SagaRow],
    after: Callable[[SagaRow], tuple[str, tuple[object, ...]]],
    changed: Callable[[SagaRow], SagaRow],
) -> list[SagaRow]:
    """Change rows that nobody else has changed since they were read; returns these as they are now."""
    read = {one.saga_id: one for one in sagas}
    if not read:
        return []
    async with transaction(pool) as cursor:
        await cursor.execute(_FIND, (sorted(read),))
        locked = [_saga(row) for row in await cursor.fetchall()]
        ours = [read[found.saga_id] for found in locked if is_as_read(found, read[found.saga_id])]
        statements: dict[tuple[str, tuple[object, ...]], list[str]] = {}
        for one in ours:
            statements.setdefault(after(one), []).append(one.saga_id)
        for (statement, values), saga_ids in statements.items():
            await cursor.execute(statement, (*values, saga_ids))
    return [changed(one)._replace(version=one.version + 1) for one in ours]
