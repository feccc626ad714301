"""The points' side of a redemption's saga (fg_points): points are taken, and given back, once each.

The guard of a step and the ledger's row are written by one transaction. Whatever comes again finds the guard and says
what came of it the first time; whatever comes too late finds a tombstone. The ledger's rows are `spend` and `refund`,
both under the saga's id, which is the order's.

Locks: accounts by user, then guards, then the ledger.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from adapters.mysql import IDLE_IN_TRANSACTION_S, DataRefusedError, Pool, transaction
from adapters.points import move
from adapters.saga_guards import bury, enter, settle
from domain.points import LedgerKind, Moved, Movement
from domain.saga import SagaStep, StepOutcome

_LOCK: Final = "SELECT user_id FROM account WHERE user_id IN %s ORDER BY user_id FOR UPDATE"

_REFUSALS: Final = {Moved.SHORT: StepOutcome.SHORT, Moved.NO_ACCOUNT: StepOutcome.NO_ACCOUNT}


class PointsOfSaga(NamedTuple):
    """What a saga costs whom."""

    saga_id: str
    user_id: str
    points: int
    """In all; at least 1."""


async def deduct(pool: Pool, saga_id: str, user_id: str, points: int, *, at_ms: int) -> StepOutcome:
    """Take points for a saga, once; see `deduct_all`."""
    return (await deduct_all(pool, [PointsOfSaga(saga_id, user_id, points)], at_ms=at_ms))[saga_id]


async def refund_points(pool: Pool, saga_id: str, user_id: str, points: int, *, at_ms: int) -> StepOutcome:
    """Give back, once, what a saga has taken; see `refund_all`."""
    return (await refund_all(pool, [PointsOfSaga(saga_id, user_id, points)], at_ms=at_ms))[saga_id]


async def deduct_all(pool: Pool, wanted: Sequence[PointsOfSaga], *, at_ms: int) -> Mapping[str, StepOutcome]:
    """Take points for sagas, in one transaction; returns saga id → what came of it, now or the first time.

    `done`: they were taken. `short`, `no_account`: nothing was taken, and never will be. `void`: the saga was taken
    back before; nothing was taken.

    Args:
        pool: the database fg_points.
        wanted: the sagas, each once.
        at_ms: Unix milliseconds.

    Raises:
        OutcomeUnknownError: COMMIT was sent and its answer was lost; the same call again tells.
        BackendError: nothing was changed; call again.
        DataRefusedError: the ledger has something else under one of these sagas; nothing was changed for any.
    """
    outcomes: dict[str, StepOutcome] = {}
    async with transaction(pool, idle_max_s=IDLE_IN_TRANSACTION_S) as cursor:
        ordered = await _lock_accounts(cursor, wanted)
        ids = [one.saga_id for one in ordered]
        known = await enter(cursor, SagaStep.DEDUCT_POINTS, ids, at_ms=at_ms)
        for one in ordered:
            outcomes[one.saga_id] = known.get(one.saga_id) or await _spend(cursor, one, at_ms)
        for refusal in _REFUSALS.values():
            new = [one for one in ids if outcomes[one] is refusal and one not in known]
            await settle(cursor, SagaStep.DEDUCT_POINTS, refusal, new)
    return outcomes


async def refund_all(pool: Pool, wanted: Sequence[PointsOfSaga], *, at_ms: int) -> Mapping[str, StepOutcome]:
    """Give back what sagas have taken, in one transaction; returns saga id → what came of it, now or the first time.

    `done`: the points are back. `nothing`: none had been taken, and from now on none ever will be. May be called for a
    saga that has ended well, when its goods come back.

    Args:
        pool: the database fg_points.
        wanted: the sagas, each once, with the same points as when they were taken.
        at_ms: Unix milliseconds.

    Raises:
        OutcomeUnknownError: COMMIT was sent and its answer was lost; the same call again tells.
        BackendError: nothing was changed; call again.
        DataRefusedError: an account would have more than any may, or the ledger has something else under one of these
            sagas; nothing was changed for any.
    """
    outcomes: dict[str, StepOutcome] = {}
    async with transaction(pool, idle_max_s=IDLE_IN_TRANSACTION_S) as cursor:
        ordered = await _lock_accounts(cursor, wanted)
        known = await enter(cursor, SagaStep.REFUND_POINTS, [one.saga_id for one in ordered], at_ms=at_ms)
        new = [one for one in ordered if one.saga_id not in known]
        taken = await bury(cursor, SagaStep.DEDUCT_POINTS, [one.saga_id for one in new], at_ms=at_ms)
        outcomes.update(known)
        for one in new:
            outcomes[one.saga_id] = (
                await _give_back(cursor, one, at_ms) if one.saga_id in taken else StepOutcome.NOTHING
            )
        nothing = [one.saga_id for one in new if outcomes[one.saga_id] is StepOutcome.NOTHING]
        await settle(cursor, SagaStep.REFUND_POINTS, StepOutcome.NOTHING, nothing)
    return outcomes


async def _lock_accounts(cursor: Any, wanted: Sequence[PointsOfSaga]) -> list[PointsOfSaga]:  # noqa: ANN401
    """Lock the accounts that there are; returns the sagas in the order in which everyone moves accounts."""
    await cursor.execute(_LOCK, (sorted({one.user_id for one in wanted}),))
    await cursor.fetchall()
    return sorted(wanted, key=lambda one: (one.user_id, one.saga_id))


async def _spend(cursor: Any, one: PointsOfSaga, at_ms: int) -> StepOutcome:  # noqa: ANN401
    moved = await move(cursor, Movement(one.saga_id, LedgerKind.SPEND, one.user_id, -one.points), at_ms=at_ms)
    if moved in _REFUSALS:
        return _REFUSALS[moved]
    return _done(one, moved)


async def _give_back(cursor: Any, one: PointsOfSaga, at_ms: int) -> StepOutcome:  # noqa: ANN401
    return _done(
        one, await move(cursor, Movement(one.saga_id, LedgerKind.REFUND, one.user_id, one.points), at_ms=at_ms)
    )


def _done(one: PointsOfSaga, moved: Moved) -> StepOutcome:
    if moved in {Moved.NEW, Moved.KNOWN}:
        return StepOutcome.DONE
    text = "the account would have too many points" if moved is Moved.OVERFLOW else "the ledger has another movement"
    raise DataRefusedError(f"saga {one.saga_id}: {one.points} points of {one.user_id!r}: {text}")
