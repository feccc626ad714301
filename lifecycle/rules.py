"""What follows from what, in the life of an order and its payments. Decided without I/O; clocks are passed in."""

import hashlib
from collections.abc import Iterable
from typing import Final

from domain.order_state import ACTIVE, CHARGED, HOLDING, OrderStatus, PaymentStatus

CHECK_PAUSE_MAX_S: Final = 86_400.0
"""A payment that nobody pays is asked for ever more seldom, down to once a day."""
PAYMENT_ID_BYTES: Final = 16


def payment_id(order_id: str, idempotency_key: str) -> str:
    """Return `p-<32 hex>`: the same key for the same order is the same payment."""
    order, key = order_id.encode(), idempotency_key.encode()
    parts = len(order).to_bytes(4, "big") + order + len(key).to_bytes(4, "big") + key
    return f"p-{hashlib.blake2b(parts, digest_size=PAYMENT_ID_BYTES).hexdigest()}"


def after_charge(order: OrderStatus, payment: PaymentStatus, others: Iterable[PaymentStatus]) -> PaymentStatus:
    """Say what becomes of a payment that the provider has charged.

    A charge told of again changes nothing. One that was declined before counts all the same: the provider's callbacks
    may come in any order, and it is the money that decides.

    Args:
        order: the order's status, locked.
        payment: the payment's status so far.
        others: of the order's other payments.
    """
    if payment in CHARGED:
        return payment
    if not {PaymentStatus.PAID, PaymentStatus.REACQUIRING}.isdisjoint(others):
        return PaymentStatus.REFUND_DUE
    if order is OrderStatus.CONFIRMED:
        return PaymentStatus.PAID
    return PaymentStatus.REACQUIRING if order is OrderStatus.EXPIRED else PaymentStatus.REFUND_DUE


def after_decline(payment: PaymentStatus) -> PaymentStatus:
    """Say what becomes of a payment that the provider has declined; what was charged stays charged."""
    return PaymentStatus.DECLINED if payment in ACTIVE else payment


def after_refund(order: OrderStatus, others: Iterable[PaymentStatus]) -> OrderStatus:
    """Say what becomes of an order when the money of one of its payments has gone back.

    An order that holds units was paid by another payment, or still waits for one; and one for which another payment is
    looking for a unit may still be paid by that. An order is refunded once all of the money has gone back: the last
    refund makes it so.

    Args:
        order: the order's status, locked.
        others: of the order's other payments.
    """
    under_way = {PaymentStatus.REACQUIRING, PaymentStatus.REFUND_DUE}
    if order in HOLDING or order is OrderStatus.REFUNDED or not under_way.isdisjoint(others):
        return order
    return OrderStatus.REFUNDED


def is_prize(unit_price_cents: int, pay_by_ms: int | None) -> bool:
    """Tell whether an order delivers a prize: there is nothing to pay, and nothing that could be given back."""
    return unit_price_cents == 0 and pay_by_ms is None


def is_due(pay_by_ms: int | None, now_ms: int) -> bool:
    """Tell whether the time to pay is over; an order of an earlier version of the schema has none."""
    return pay_by_ms is not None and pay_by_ms <= now_ms
