"""Payments in MySQL. A payment is written before the provider is asked, and moves under the lock of its order's row.

A status that ends in something to be done (`creating`, `unknown`, `pending`, `reacquiring`, `refund_due`) is found
again after any crash by `due_payments`.
"""

from collections.abc import Collection, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from adapters.mysql import Pool, insert_many, query, transaction
from adapters.order_tables import INSERT_REVIEWS
from domain.order_state import ACTIVE, OrderStatus, PaymentStatus
from lifecycle.order_rows import OrderFacts, lock_counters, lock_order, move, review_row, take_again
from lifecycle.rules import after_charge, after_decline, after_refund, is_due, is_prize, payment_id

ERROR_TEXT_MAX: Final = 255

_COLUMNS: Final = "payment_id, order_id, attempt_no, amount_cents, status, pay_url, hold_no, attempts, points"
_OF_ORDER: Final = f"SELECT {_COLUMNS} FROM payment WHERE order_id = %s ORDER BY attempt_no FOR UPDATE"  # noqa: S608
_FIND: Final = f"SELECT {_COLUMNS} FROM payment WHERE payment_id = %s"  # noqa: S608 -- columns alone
_DUE: Final = (
    f"SELECT {_COLUMNS} FROM payment WHERE status IN %s AND next_at_ms <= %s AND points = 0 "  # noqa: S608
    "ORDER BY next_at_ms LIMIT %s"
)
_DUE_IN_POINTS: Final = (
    f"SELECT {_COLUMNS} FROM payment WHERE status = %s AND next_at_ms <= %s AND points > 0 "  # noqa: S608
    "ORDER BY next_at_ms LIMIT %s"
)
_INSERT: Final = (
    "INSERT INTO payment (payment_id, order_id, campaign_id, attempt_no, amount_cents, status, created_at_ms, "
    "updated_at_ms, next_at_ms) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
_SET: Final = (
    "UPDATE payment SET status = %s, hold_no = %s, updated_at_ms = %s, next_at_ms = %s, attempts = 0, error = '' "
    "WHERE payment_id = %s"
)
_MADE: Final = (
    "UPDATE payment SET status = %s, pay_url = %s, updated_at_ms = %s, next_at_ms = %s, attempts = 0, error = '' "
    "WHERE payment_id = %s AND status IN %s"
)
_NOT_MADE: Final = (
    "UPDATE payment SET status = %s, updated_at_ms = %s, next_at_ms = %s, error = %s "
    "WHERE payment_id = %s AND status IN %s"
)
_SEND_BACK: Final = (
    "UPDATE payment SET status = %s, updated_at_ms = %s, next_at_ms = %s, attempts = 0, error = '' "
    "WHERE order_id IN %s AND status = %s"
)
_PAID_BY: Final = "SELECT order_id, payment_id FROM payment WHERE order_id IN %s AND status = %s"
_LATER: Final = (
    "UPDATE payment SET attempts = attempts + 1, next_at_ms = %s, error = %s WHERE payment_id = %s AND status = %s"
)


class Payment(NamedTuple):
    """A payment's row."""

    payment_id: str
    order_id: str
    attempt_no: int
    amount_cents: int
    status: PaymentStatus
    pay_url: str
    hold_no: int
    """The hold that a payment after expiry takes anew; 0 for others."""
    attempts: int
    """How often what is to be done was tried in vain."""
    points: int = 0
    """What a redemption was paid with; 0: it was paid with money, and the provider has its say."""


class Refusal(StrEnum):
    """Why a payment is not begun."""

    NO_ORDER = "no_order"
    """There is no row of this order, or it is another's."""
    STATE = "state"
    """The order cannot be paid as it stands."""
    TOO_MANY = "too_many"
    """The order has had as many payments as it may have."""


def _payment(row: Sequence[Any]) -> Payment:
    found = Payment(*row)
    return found._replace(status=PaymentStatus(found.status))


async def _payments_of(cursor: Any, order_id: str) -> list[Payment]:  # noqa: ANN401 -- aiomysql has no types
    await cursor.execute(_OF_ORDER, (order_id,))
    return [_payment(row) for row in await cursor.fetchall()]


async def begin(
    pool: Pool, order_id: str, user_id: str, idempotency_key: str, *, now_ms: int, check_at_ms: int, attempts_max: int
) -> tuple[Payment, bool] | Refusal:
    """Write a payment down before the provider is asked for it; returns it and whether it is new.

    The same key gives the same payment. While one may still be charged, another key gives that one, too.

    Raises:
        OutcomeUnknownError, BackendError: call again with the same key.
    """
    async with transaction(pool) as cursor:
        order = await lock_order(cursor, order_id)
        if order is None or order.user_id != user_id:
            return Refusal.NO_ORDER
        payments = await _payments_of(cursor, order_id)
        new_id = payment_id(order_id, idempotency_key)
        for known in payments:
            if known.payment_id == new_id:
                return known, False
        prize = is_prize(order.unit_price_cents, order.pay_by_ms)
        if order.status is not OrderStatus.CONFIRMED or prize or is_due(order.pay_by_ms, now_ms):
            return Refusal.STATE
        for known in payments:
            if known.status in ACTIVE:
                return known, False
        if len(payments) >= attempts_max:
            return Refusal.TOO_MANY
        amount = order.unit_price_cents * order.quantity
        made = Payment(new_id, order_id, len(payments) + 1, amount, PaymentStatus.CREATING, "", 0, 0)
        row = (new_id, order_id, order.campaign_id, made.attempt_no, amount, made.status, now_ms, now_ms, check_at_ms)
        await cursor.execute(_INSERT, row)
    return made, True


async def find_payment(pool: Pool, which: str) -> Payment | None:
    """Return a payment's row.

    Raises:
        BackendError: MySQL is not there.
    """
    rows = await query(pool, _FIND, (which,))
    return _payment(rows[0]) if rows else None


async def due_payments(pool: Pool, statuses: Collection[PaymentStatus], now_ms: int, limit: int) -> list[Payment]:
    """Return payments of these statuses with something to be done, those that have waited longest first.

    Payments in points are none of them: no provider knows of these.

    Raises:
        BackendError: MySQL is not there.
    """
    return [_payment(row) for row in await query(pool, _DUE, (sorted(statuses), now_ms, limit))]


async def due_point_refunds(pool: Pool, now_ms: int, limit: int) -> list[Payment]:
    """Return payments in points that have to go back, those that have waited longest first.

    Raises:
        BackendError: MySQL is not there.
    """
    return [_payment(row) for row in await query(pool, _DUE_IN_POINTS, (PaymentStatus.REFUND_DUE, now_ms, limit))]


async def note_made(pool: Pool, which: str, pay_url: str, *, now_ms: int, check_at_ms: int) -> None:
    """Note that the provider has a payment and waits for the buyer; one that is further by now is left alone."""
    asked = [PaymentStatus.CREATING, PaymentStatus.UNKNOWN]
    async with transaction(pool) as cursor:
        await cursor.execute(_MADE, (PaymentStatus.PENDING, pay_url, now_ms, check_at_ms, which, asked))


async def note_not_made(
    pool: Pool, which: str, status: PaymentStatus, error: str, *, now_ms: int, check_at_ms: int
) -> None:
    """Note that the provider refused a payment (FAILED), or that nobody knows what it did (UNKNOWN)."""
    asked = [PaymentStatus.CREATING, PaymentStatus.UNKNOWN]
    if status is PaymentStatus.FAILED:
        asked.append(PaymentStatus.PENDING)
    async with transaction(pool) as cursor:
        await cursor.execute(_NOT_MADE, (status, now_ms, check_at_ms, error[:ERROR_TEXT_MAX], which, asked))


async def try_later(pool: Pool, payment: Payment, next_at_ms: int, error: str) -> None:
    """Put off what is to be done with a payment, unless its status is another one by now."""
    async with transaction(pool) as cursor:
        await cursor.execute(_LATER, (next_at_ms, error[:ERROR_TEXT_MAX], payment.payment_id, payment.status))


async def charged(pool: Pool, payment: Payment, *, now_ms: int) -> PaymentStatus:
    """Take in that the provider has charged a payment: the order is paid by it, or it has to wait, or to go back.

    Raises:
        OutcomeUnknownError, BackendError: take it in again.
    """
    async with transaction(pool) as cursor:
        order, mine, others = await _locked(cursor, payment)
        status = after_charge(order.status, mine.status, others)
        if status is not mine.status:
            if status is PaymentStatus.PAID:
                await move(cursor, [order], OrderStatus.PAID, f"payment {mine.attempt_no}", now_ms)
                await _open_review(cursor, order, now_ms)
            hold_no = order.hold_no + 1 if status is PaymentStatus.REACQUIRING else 0
            await cursor.execute(_SET, (status, hold_no, now_ms, now_ms, mine.payment_id))
    return status


async def declined(pool: Pool, payment: Payment, *, now_ms: int) -> PaymentStatus:
    """Take in that the provider has declined a payment.

    Raises:
        OutcomeUnknownError, BackendError: take it in again.
    """
    async with transaction(pool) as cursor:
        _, mine, _ = await _locked(cursor, payment)
        status = after_decline(mine.status)
        if status is not mine.status:
            await cursor.execute(_SET, (status, 0, now_ms, now_ms, mine.payment_id))
    return status


async def reacquired(pool: Pool, payment: Payment, *, now_ms: int) -> bool:
    """Take in that Redis has taken the units anew: the order is paid after all. Returns whether this call did it.

    Raises:
        OutcomeUnknownError, BackendError: take it in again.
    """
    async with transaction(pool) as cursor:
        await lock_counters(cursor, [await _counter_of(cursor, payment.order_id)])
        order, mine, _ = await _locked(cursor, payment)
        if mine.status is not PaymentStatus.REACQUIRING:
            return False
        await take_again(cursor, order, OrderStatus.PAID, f"payment {mine.attempt_no}, after expiry", now_ms)
        await _open_review(cursor, order, now_ms)
        await cursor.execute(_SET, (PaymentStatus.PAID, mine.hold_no, now_ms, now_ms, mine.payment_id))
    return True


async def not_reacquired(pool: Pool, payment: Payment, *, now_ms: int) -> None:
    """Take in that no unit is left: the money has to go back.

    Raises:
        OutcomeUnknownError, BackendError: take it in again.
    """
    async with transaction(pool) as cursor:
        _, mine, _ = await _locked(cursor, payment)
        if mine.status is PaymentStatus.REACQUIRING:
            await cursor.execute(_SET, (PaymentStatus.REFUND_DUE, 0, now_ms, now_ms, mine.payment_id))


async def refunded(pool: Pool, payment: Payment, *, now_ms: int) -> None:
    """Take in that money, or points, of a payment went back; an order that holds nothing is refunded by it.

    Raises:
        OutcomeUnknownError, BackendError: take it in again.
    """
    async with transaction(pool) as cursor:
        order, mine, others = await _locked(cursor, payment)
        if mine.status in ACTIVE:  # charged and sent back there, before we heard of either
            await cursor.execute(_SET, (PaymentStatus.REFUNDED, 0, now_ms, now_ms, mine.payment_id))
        if mine.status is not PaymentStatus.REFUND_DUE:
            return
        after = after_refund(order.status, others)
        if after is not order.status:
            await move(cursor, [order], after, f"payment {mine.attempt_no} went back", now_ms)
        await cursor.execute(_SET, (PaymentStatus.REFUNDED, 0, now_ms, now_ms, mine.payment_id))


async def paid_by(cursor: Any, order_ids: Sequence[str]) -> dict[str, str]:  # noqa: ANN401
    """Return order id → the payment that the order, which is locked, was paid by."""
    await cursor.execute(_PAID_BY, (list(order_ids), PaymentStatus.PAID))
    return dict(await cursor.fetchall())


async def send_back(cursor: Any, order_ids: Sequence[str], now_ms: int) -> int:  # noqa: ANN401
    """Have the money, or the points, go back that locked orders were paid by, now that they hold nothing.

    Returns how many payments.
    """
    refund, paid = PaymentStatus.REFUND_DUE, PaymentStatus.PAID
    await cursor.execute(_SEND_BACK, (refund, now_ms, now_ms, list(order_ids), paid))
    return int(cursor.rowcount)


async def _open_review(cursor: Any, order: OrderFacts, now_ms: int) -> None:  # noqa: ANN401
    """Have an order that has just been paid be reviewed before it goes out."""
    await insert_many(cursor, INSERT_REVIEWS, [review_row(order, now_ms)])


async def _counter_of(cursor: Any, order_id: str) -> tuple[str, str]:  # noqa: ANN401
    """Return campaign and SKU of an order that has a row, which never change."""
    await cursor.execute("SELECT campaign_id, sku_id FROM orders WHERE order_id = %s", (order_id,))
    campaign_id, sku_id = await cursor.fetchone()
    return campaign_id, sku_id


async def _locked(cursor: Any, payment: Payment) -> tuple[OrderFacts, Payment, list[PaymentStatus]]:  # noqa: ANN401
    """Lock an order and its payments; returns the order, this payment as it is now, and the others' statuses.

    A payment's order always has a row.
    """
    order = await lock_order(cursor, payment.order_id)
    if order is None:
        raise LookupError(f"order {payment.order_id} has a payment and no row")
    payments = await _payments_of(cursor, payment.order_id)
    mine = next(one for one in payments if one.payment_id == payment.payment_id)
    return order, mine, [one.status for one in payments if one.payment_id != payment.payment_id]
