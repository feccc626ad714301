"""The tables that an order's facts are written into (fg_orders): the statements, and an accepted order as their rows.

Whoever may come upon rows that are known adds KEEP_KNOWN; for everybody else a known row is an error.
"""

from typing import Final

from domain.events import OrderAccepted

INSERT_ORDERS: Final = """
INSERT INTO orders (order_id, campaign_id, sku_id, user_id, quantity, unit_price_cents, fingerprint, status, version,
 hold_no, outbox_id, outbox_index, nonce, accepted_at_ms, confirmed_at_ms, pay_by_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
INSERT_LEDGER: Final = """
INSERT INTO stock_ledger (order_id, campaign_id, sku_id, hold_no, kind, quantity, outbox_id, outbox_index, nonce,
 created_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""
INSERT_CHANGES: Final = """
INSERT INTO order_change (order_id, version, status, reason, at_ms)
VALUES (%s, %s, %s, %s, %s)"""
INSERT_RETURNS: Final = """
INSERT INTO stock_return (order_id, hold_no, origin, campaign_id, sku_id, user_id, quantity, created_at_ms, next_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"""
INSERT_REVIEWS: Final = """
INSERT INTO outbound_review (order_id, campaign_id, sku_id, quantity, status, version, opened_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s)"""
KEEP_KNOWN: Final = "\nON DUPLICATE KEY UPDATE order_id = order_id"

TAKE: Final = "take"
RELEASE: Final = "release"
NONCE_BYTES: Final = 16

Row = tuple[str | int | bytes | None, ...]


def order_values(event: OrderAccepted, status: str, version: int, nonce: bytes, now_ms: int) -> Row:
    """Return the values that INSERT_ORDERS takes, but for the last one, `pay_by_ms`."""
    return (
        event.order_id,
        event.campaign_id,
        event.sku_id,
        event.user_id,
        event.quantity,
        event.unit_price_cents,
        event.fingerprint,
        status,
        version,
        event.hold_no,
        event.outbox_id,
        event.outbox_index,
        nonce,
        event.accepted_at_ms,
        now_ms,
    )


def ledger_row(event: OrderAccepted, kind: str, nonce: bytes, now_ms: int) -> Row:
    """Return the values that INSERT_LEDGER takes."""
    return (
        event.order_id,
        event.campaign_id,
        event.sku_id,
        event.hold_no,
        kind,
        event.quantity,
        event.outbox_id,
        event.outbox_index,
        nonce,
        now_ms,
    )


def return_row(event: OrderAccepted, origin: str, now_ms: int) -> Row:
    """Return the values that INSERT_RETURNS takes; `origin` is empty for the release of a hold."""
    return (
        event.order_id,
        event.hold_no,
        origin,
        event.campaign_id,
        event.sku_id,
        event.user_id,
        event.quantity,
        now_ms,
        now_ms,
    )
