"""Giving up a redemption whose record was set aside: its saga is made, if there is none, and turned back at once.

So everything that is owed for it is done by the saga, as for any redemption that is refused: a rejected order with its
reason, the units back to Redis, and no points. A saga that there is keeps what it has; only a person may turn it back.
"""

import secrets
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final

import pymysql.err

from adapters.mysql import Pool, query, transaction
from adapters.order_tables import INSERT_RETURNS, KEEP_KNOWN, NONCE_BYTES, return_row
from consumers.batch import Origin, is_second_deduction
from consumers.dead_letter_rules import DROPPED_REASON, Action, LetterId
from consumers.dead_letter_sql import Settlement, is_ours, mark
from domain.errors import BackendError, OperationRefusedError
from domain.redemption_events import RedemptionAccepted
from domain.saga import SagaStatus

_LOCK: Final = "SELECT sku_id FROM campaign_sku WHERE campaign_id = %s AND sku_id = %s FOR UPDATE"
_INSERT: Final = """
INSERT INTO saga (saga_id, campaign_id, sku_id, user_id, quantity, points, fingerprint, hold_no, accepted_at_ms,
 outbox_id, outbox_index, nonce, status, reason, next_at_ms, started_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE saga_id = saga_id"""
_FIND: Final = (
    "SELECT nonce, fingerprint, sku_id, quantity, outbox_id, outbox_index, parked_at_ms IS NOT NULL FROM saga "
    "WHERE saga_id = %s FOR UPDATE"
)
_KNOWN: Final = "SELECT parked_at_ms, ended_at_ms FROM saga WHERE saga_id = %s"
_RETURN: Final = INSERT_RETURNS + KEEP_KNOWN


class Known(StrEnum):
    """How far a redemption's saga is, of which a letter tells."""

    NONE = "none"
    """There is none."""
    UNDER_WAY = "under way"
    PARKED = "parked"
    ENDED = "ended"


async def saga_of(pool: Pool, saga_id: str) -> Known:
    """Tell whether a saga is there, and how far.

    Raises:
        BackendError: MySQL is not there, or has no schema.
    """
    try:
        rows = await query(pool, _KNOWN, (saga_id,))
    except pymysql.err.MySQLError as error:
        raise BackendError(f"MySQL: {error}; does the schema exist? `./flashgate migrate` makes it") from error
    if not rows:
        return Known.NONE
    parked, ended = rows[0]
    if ended is not None:
        return Known.ENDED
    return Known.UNDER_WAY if parked is None else Known.PARKED


async def give_up(pool: Pool, event: RedemptionAccepted, letter: LetterId, now_ms: int, *, held: bool) -> Settlement:
    """Give up a redemption, and mark its letter as dropped; what it comes to is as of `dead_letter_sql.give_up`.

    Args:
        pool: the database fg_orders.
        event: the redemption.
        letter: what is marked.
        now_ms: Unix milliseconds.
        held: whether Redis holds units for exactly this event, and no saga was there.

    Raises:
        OutcomeUnknownError: COMMIT was sent and its answer was lost; dropping again finds out.
        BackendError: nothing was changed.
        DataRefusedError: MySQL refuses the saga; nothing was changed.
        OperationRefusedError: its saga is parked, so that a person has to turn it back; nothing was changed.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    async with transaction(pool) as cursor:
        await cursor.execute(_LOCK, (event.campaign_id, event.sku_id))
        if held and await cursor.fetchone() is None:
            return Settlement.UNKNOWN_SKU
        if held:
            await cursor.execute(_INSERT, _row(event, nonce, now_ms))
        settlement = await _settle(cursor, event, nonce, now_ms)
        await mark(cursor, letter, Action.DROPPED, now_ms)
    return settlement


async def _settle(cursor: Any, event: RedemptionAccepted, nonce: bytes, now_ms: int) -> Settlement:  # noqa: ANN401
    await cursor.execute(_FIND, (event.order_id,))
    row = await cursor.fetchone()
    if row is None:
        return Settlement.NOTHING
    if is_ours(row[0], nonce):
        return Settlement.REJECTED
    origin = Origin(event.outbox_id, event.outbox_index)
    same = row[1:4] == (event.fingerprint, event.sku_id, event.quantity)
    if same and is_second_deduction(Origin(row[4], row[5]), origin):
        await cursor.execute(_RETURN, return_row(event.order(), str(origin), now_ms))
        return Settlement.SECOND
    if same and row[6]:
        raise parked(event.order_id)
    return Settlement.STORED


def parked(saga_id: str) -> OperationRefusedError:
    """Return the error that a letter cannot be dropped while its saga is parked."""
    return OperationRefusedError(
        f"its saga is parked, and keeps its units and points: `./flashgate saga compensate {saga_id} --why TEXT` turns "
        f"it back, `./flashgate saga retry {saga_id}` goes on with it; then drop the letter"
    )


def _row(event: RedemptionAccepted, nonce: bytes, now_ms: int) -> Sequence[object]:
    return (
        event.order_id,
        event.campaign_id,
        event.sku_id,
        event.user_id,
        event.quantity,
        event.points_in_all,
        event.fingerprint,
        event.hold_no,
        event.accepted_at_ms,
        event.outbox_id,
        event.outbox_index,
        nonce,
        str(SagaStatus.COMPENSATING),
        DROPPED_REASON,
        now_ms,
        now_ms,
    )
