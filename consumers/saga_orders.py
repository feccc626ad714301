"""The orders' side of a redemption's saga (fg_orders): its order, its payment in points, and taking both back.

Each step is one transaction for many sagas: locks are taken as everyone takes them who moves stock here (counters,
orders, ledger, the rest), the guards behind the counters. A guard says whether there is anything to do; what is done
commits with it.

An order of a redemption is confirmed without anything to pay, as one that delivers a prize. One that is refused has a
row all the same, which holds nothing: its ledger has the take, which Redis has made, and the release, which Redis is
told of by `stock_return`.
"""

import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from adapters.mysql import IDLE_IN_TRANSACTION_S, DataRefusedError, Pool, insert_many, transaction
from adapters.order_tables import (
    INSERT_CHANGES,
    INSERT_LEDGER,
    INSERT_ORDERS,
    INSERT_RETURNS,
    INSERT_REVIEWS,
    KEEP_KNOWN,
    NONCE_BYTES,
    RELEASE,
    TAKE,
    ledger_row,
    order_values,
    return_row,
)
from adapters.saga_guards import bury, enter, settle
from consumers.saga_rows import SagaRow
from domain.order_state import OrderStatus, PaymentStatus
from domain.saga import SagaStep, StepOutcome
from lifecycle.order_rows import OrderFacts, lock_counters, lock_orders, move, release, review_row
from lifecycle.rules import payment_id

PAID_BY_POINTS: Final = "points"
"""What `order_change` says of why an order is paid."""
PAYMENT_KEY: Final = ""
"""Stands in the payment's id where a buyer's has his Idempotency-Key; no buyer's is empty."""
_FIRST_VERSION: Final = 1
_ATTEMPT_NO: Final = 1

_INSERT_ORDERS: Final = INSERT_ORDERS + KEEP_KNOWN
_OTHERS: Final = "SELECT order_id FROM orders WHERE order_id IN %s AND nonce <> %s"
_SOLD: Final = "UPDATE campaign_sku SET sold = sold + %s, version = version + 1 WHERE campaign_id = %s AND sku_id = %s"
_INSERT_PAYMENTS: Final = """
INSERT INTO payment (payment_id, order_id, campaign_id, attempt_no, amount_cents, points, status, created_at_ms,
 updated_at_ms, next_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
_MOVE_PAYMENTS: Final = "UPDATE payment SET status = %s, updated_at_ms = %s WHERE payment_id IN %s AND status = %s"

Outcomes = Mapping[str, StepOutcome]


async def create_order(pool: Pool, sagas: Sequence[SagaRow], *, at_ms: int) -> Outcomes:
    """Write the orders, confirmed, with the ledger's rows of their stock; returns saga id → what came of it.

    `other_order`: there is an order under this id that no saga has written; nothing was changed for it.

    Raises (as all steps here):
        OutcomeUnknownError: COMMIT was sent and its answer was lost; the same call again tells.
        BackendError: nothing was changed; call again.
        DataRefusedError: MySQL refused something of one of these sagas; nothing was changed for any.
    """
    async with transaction(pool, idle_max_s=IDLE_IN_TRANSACTION_S) as cursor:
        await lock_counters(cursor, [_counter(one) for one in sagas])
        known = await enter(cursor, SagaStep.CREATE_ORDER, _ids(sagas), at_ms=at_ms)
        new = [one for one in sagas if one.saga_id not in known]
        nonce = secrets.token_bytes(NONCE_BYTES)
        await _insert_orders(cursor, new, OrderStatus.CONFIRMED, _FIRST_VERSION, nonce, at_ms)
        foreign = await _others(cursor, new, nonce)
        ours = [one for one in new if one.saga_id not in foreign]
        await _write_ledger(cursor, ours, [TAKE], nonce, at_ms)
        for (campaign_id, sku_id), units in sorted(_units(ours).items()):
            await cursor.execute(_SOLD, (units, campaign_id, sku_id))
        await settle(cursor, SagaStep.CREATE_ORDER, StepOutcome.OTHER_ORDER, foreign)
    return {
        **dict.fromkeys(_ids(ours), StepOutcome.DONE),
        **dict.fromkeys(foreign, StepOutcome.OTHER_ORDER),
        **known,
    }


async def create_payment(pool: Pool, sagas: Sequence[SagaRow], *, at_ms: int) -> Outcomes:
    """Write the payments: no money, all points, held until the saga is confirmed."""
    async with transaction(pool, idle_max_s=IDLE_IN_TRANSACTION_S) as cursor:
        known = await enter(cursor, SagaStep.CREATE_PAYMENT, _ids(sagas), at_ms=at_ms)
        rows = [
            (
                _payment_id(one),
                one.saga_id,
                one.campaign_id,
                _ATTEMPT_NO,
                0,
                one.points,
                str(PaymentStatus.HELD),
                *(at_ms, at_ms, at_ms),
            )
            for one in sagas
            if one.saga_id not in known
        ]
        await insert_many(cursor, _INSERT_PAYMENTS, rows)
    return _all_done(sagas, known)


async def confirm_order(pool: Pool, sagas: Sequence[SagaRow], *, at_ms: int) -> Outcomes:
    """Have the orders be paid by their points, and be reviewed before they go out."""
    async with transaction(pool, idle_max_s=IDLE_IN_TRANSACTION_S) as cursor:
        known = await enter(cursor, SagaStep.CONFIRM_ORDER, _ids(sagas), at_ms=at_ms)
        new = [one for one in sagas if one.saga_id not in known]
        if new:
            orders = await _lock_confirmed(cursor, new)
            await _move_payments(cursor, new, PaymentStatus.PAID, at_ms)
            await move(cursor, orders, OrderStatus.PAID, PAID_BY_POINTS, at_ms)
            await insert_many(cursor, INSERT_REVIEWS, [review_row(one, at_ms) for one in orders])
    return _all_done(sagas, known)


async def void_payment(pool: Pool, sagas: Sequence[SagaRow], *, at_ms: int) -> Outcomes:
    """Take the payments back; the points themselves go back by a step of their own."""
    async with transaction(pool, idle_max_s=IDLE_IN_TRANSACTION_S) as cursor:
        known = await enter(cursor, SagaStep.VOID_PAYMENT, _ids(sagas), at_ms=at_ms)
        new = [one for one in sagas if one.saga_id not in known]
        made = await bury(cursor, SagaStep.CREATE_PAYMENT, _ids(new), at_ms=at_ms)
        await _move_payments(cursor, [one for one in new if one.saga_id in made], PaymentStatus.VOID, at_ms)
        nothing = [one.saga_id for one in new if one.saga_id not in made]
        await settle(cursor, SagaStep.VOID_PAYMENT, StepOutcome.NOTHING, nothing)
    return {**_all_done(sagas, known), **dict.fromkeys(nothing, StepOutcome.NOTHING)}


async def reject_order(pool: Pool, sagas: Sequence[SagaRow], *, at_ms: int) -> Outcomes:
    """Reject the orders, with the sagas' reasons; where there is none, write one that is rejected. Stock goes back.

    `nothing`: the order under this id is another's, and is left as it is.
    """
    async with transaction(pool, idle_max_s=IDLE_IN_TRANSACTION_S) as cursor:
        await lock_counters(cursor, [_counter(one) for one in sagas])
        known = await enter(cursor, SagaStep.REJECT_ORDER, _ids(sagas), at_ms=at_ms)
        new = [one for one in sagas if one.saga_id not in known]
        made = await bury(cursor, SagaStep.CREATE_ORDER, _ids(new), at_ms=at_ms)
        await _release(cursor, [one for one in new if one.saga_id in made], at_ms)
        missing = [one for one in new if one.saga_id not in made]
        foreign = await _write_rejected(cursor, missing, at_ms)
        await settle(cursor, SagaStep.REJECT_ORDER, StepOutcome.NOTHING, foreign)
    return {**_all_done(sagas, known), **dict.fromkeys(foreign, StepOutcome.NOTHING)}


# -- parts of steps --------------------------------------------------------------------------------------------------


async def _insert_orders(
    cursor: Any,  # noqa: ANN401 -- aiomysql has no types
    sagas: Sequence[SagaRow],
    status: OrderStatus,
    version: int,
    nonce: bytes,
    at_ms: int,
) -> None:
    events = [one.event().order() for one in _ordered(sagas)]
    rows = [(*order_values(event, str(status), version, nonce, at_ms), None) for event in events]
    await insert_many(cursor, _INSERT_ORDERS, rows)


async def _others(cursor: Any, sagas: Sequence[SagaRow], nonce: bytes) -> Collection[str]:  # noqa: ANN401
    """Return ids of orders that others have written."""
    if not sagas:
        return ()
    await cursor.execute(_OTHERS, (_ids(sagas), nonce))
    return {order_id for (order_id,) in await cursor.fetchall()}


async def _write_ledger(
    cursor: Any,  # noqa: ANN401
    sagas: Sequence[SagaRow],
    kinds: Sequence[str],
    nonce: bytes,
    at_ms: int,
) -> None:
    events = [one.event().order() for one in _ordered(sagas)]
    await insert_many(
        cursor, INSERT_LEDGER, [ledger_row(event, kind, nonce, at_ms) for event in events for kind in kinds]
    )


async def _release(cursor: Any, sagas: Sequence[SagaRow], at_ms: int) -> None:  # noqa: ANN401
    """Reject orders that there are."""
    reasons: dict[str, list[SagaRow]] = {}
    for one in sagas:
        reasons.setdefault(one.reason, []).append(one)
    if sagas:
        locked = {one.order_id: one for one in await _lock_confirmed(cursor, sagas)}
        for reason in sorted(reasons):
            orders = [locked[one.saga_id] for one in reasons[reason]]
            await release(cursor, orders, OrderStatus.REJECTED, reason, at_ms)


async def _write_rejected(cursor: Any, sagas: Sequence[SagaRow], at_ms: int) -> Collection[str]:  # noqa: ANN401
    """Write orders that were never confirmed, as rejected; returns ids of those that others have written.

    Their counters stay as they are: they sell nothing.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    version = _FIRST_VERSION + 1
    await _insert_orders(cursor, sagas, OrderStatus.REJECTED, version, nonce, at_ms)
    foreign = await _others(cursor, sagas, nonce)
    ours = [one for one in _ordered(sagas) if one.saga_id not in foreign]
    await _write_ledger(cursor, ours, [RELEASE, TAKE], nonce, at_ms)
    changes = [(one.saga_id, version, str(OrderStatus.REJECTED), one.reason, at_ms) for one in ours]
    await insert_many(cursor, INSERT_CHANGES, changes)
    await insert_many(cursor, INSERT_RETURNS, [return_row(one.event().order(), "", at_ms) for one in ours])
    return foreign


async def _lock_confirmed(cursor: Any, sagas: Sequence[SagaRow]) -> list[OrderFacts]:  # noqa: ANN401
    """Lock orders that have been made, and are confirmed for as long as their saga has not ended.

    Raises:
        DataRefusedError: one is not there, or somebody has moved it.
    """
    locked = await lock_orders(cursor, _ids(sagas))
    for one in sagas:
        order = locked.get(one.saga_id)
        if order is None or order.status is not OrderStatus.CONFIRMED:
            raise DataRefusedError(f"order {one.saga_id} is {'gone' if order is None else order.status}, not confirmed")
    return list(locked.values())


async def _move_payments(cursor: Any, sagas: Sequence[SagaRow], to: PaymentStatus, at_ms: int) -> None:  # noqa: ANN401
    """Move payments that are held.

    Raises:
        DataRefusedError: one is not there, or not held.
    """
    if not sagas:
        return
    ids = sorted(_payment_id(one) for one in sagas)
    await cursor.execute(_MOVE_PAYMENTS, (str(to), at_ms, ids, str(PaymentStatus.HELD)))
    if cursor.rowcount != len(ids):
        raise DataRefusedError(f"{len(ids)} payments should be held, and {cursor.rowcount} are, from {ids[0]} on")


# -- what is short ---------------------------------------------------------------------------------------------------


def _ordered(sagas: Sequence[SagaRow]) -> list[SagaRow]:
    return sorted(sagas, key=lambda one: one.saga_id)


def _ids(sagas: Sequence[SagaRow]) -> list[str]:
    return sorted(one.saga_id for one in sagas)


def _counter(saga: SagaRow) -> tuple[str, str]:
    return saga.campaign_id, saga.sku_id


def _payment_id(saga: SagaRow) -> str:
    return payment_id(saga.saga_id, PAYMENT_KEY)


def _units(sagas: Sequence[SagaRow]) -> "Counter[tuple[str, str]]":
    units: Counter[tuple[str, str]] = Counter()
    for one in sagas:
        units[_counter(one)] += one.quantity
    return units


def _all_done(sagas: Sequence[SagaRow], known: Outcomes) -> dict[str, StepOutcome]:
    return {**dict.fromkeys(_ids(sagas), StepOutcome.DONE), **known}
