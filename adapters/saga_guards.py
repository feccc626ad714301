"""Guards of a saga's steps: table `saga_step`, which fg_orders and fg_points have each, for the steps done there.

A step writes its guard in the transaction that has its effect. The guard's row is unique by (saga, step), and the one
that bears this transaction's random nonce after the insert is new: only then has the step anything to do. A rival that
does the same step at the same time waits for the row, and then finds what came of it. A compensation puts a tombstone
(`void`) in the place of the step that it takes back; if that step comes later, it finds it and does nothing.
"""

import secrets
from collections.abc import Collection, Mapping
from typing import Any, Final

from adapters.mysql import insert_many
from domain.saga import SagaStep, StepOutcome

NONCE_BYTES: Final = 16

_INSERT: Final = """
INSERT INTO saga_step (saga_id, step, outcome, nonce, at_ms)
VALUES (%s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE saga_id = saga_id"""
_KNOWN: Final = "SELECT saga_id, outcome FROM saga_step WHERE saga_id IN %s AND step = %s AND nonce <> %s"
_SETTLE: Final = "UPDATE saga_step SET outcome = %s WHERE saga_id IN %s AND step = %s"


async def enter(
    cursor: Any,  # noqa: ANN401 -- aiomysql has no types
    step: SagaStep,
    saga_ids: Collection[str],
    *,
    at_ms: int,
    outcome: StepOutcome = StepOutcome.DONE,
) -> Mapping[str, StepOutcome]:
    """Write guards that are missing, and lock all of them; returns saga id → outcome of those that were there.

    For all others the step is the caller's to do, in this transaction.

    Args:
        cursor: of a transaction on the schema that the step belongs to.
        step: the step.
        saga_ids: of the sagas.
        at_ms: Unix milliseconds.
        outcome: of the guards that are written; `settle` changes it.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    ids = sorted(saga_ids)
    await insert_many(cursor, _INSERT, [(one, str(step), str(outcome), nonce, at_ms) for one in ids])
    return await _known(cursor, step, ids, nonce)


async def bury(
    cursor: Any,  # noqa: ANN401
    step: SagaStep,
    saga_ids: Collection[str],
    *,
    at_ms: int,
) -> Collection[str]:
    """Leave a tombstone where a step has no guard yet; returns the sagas in which the step has had its effect."""
    known = await enter(cursor, step, saga_ids, at_ms=at_ms, outcome=StepOutcome.VOID)
    return {saga_id for saga_id, outcome in known.items() if outcome is StepOutcome.DONE}


async def settle(cursor: Any, step: SagaStep, outcome: StepOutcome, saga_ids: Collection[str]) -> None:  # noqa: ANN401
    """Give guards that this transaction has written another outcome."""
    if saga_ids:
        await cursor.execute(_SETTLE, (str(outcome), sorted(saga_ids), str(step)))


async def _known(cursor: Any, step: SagaStep, ids: list[str], nonce: bytes) -> Mapping[str, StepOutcome]:  # noqa: ANN401
    """Return what other transactions have written."""
    if not ids:
        return {}
    await cursor.execute(_KNOWN, (ids, str(step), nonce))
    return {saga_id: StepOutcome(outcome) for saga_id, outcome in await cursor.fetchall()}
