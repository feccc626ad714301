"""Sample campaigns and events."""

from collections.abc import Sequence
from typing import Final

from domain import order
from domain.campaign import Campaign, parse_campaign
from domain.draw_events import DrawWon
from domain.events import OrderAccepted

STOCK: Final = 1_000


def sample_campaign(campaign_id: str, sku_ids: Sequence[str] = ("box-1", "box-2"), stock: int = STOCK) -> Campaign:
    """Return a campaign that is open for long."""
    skus = "".join(f'[[sku]]\nid = "{sku_id}"\nstock = {stock}\nprice_cents = 5900\n' for sku_id in sku_ids)
    return parse_campaign(
        f'[campaign]\nid = "{campaign_id}"\nopens_at = 2026-01-01T00:00:00Z\ncloses_at = 2036-01-01T00:00:00Z\n{skus}',
        source="sample",
    )


def event(number: int, *, campaign_id: str = "c-1", sku_id: str = "box-1", quantity: int = 1) -> OrderAccepted:
    """Return the event of buyer `number`; the same number is the same order from the same origin."""
    user_id = f"buyer-{number}"
    return OrderAccepted(
        order_id=order.order_id(campaign_id, user_id, "key"),
        campaign_id=campaign_id,
        sku_id=sku_id,
        user_id=user_id,
        quantity=quantity,
        unit_price_cents=5_900,
        fingerprint=order.fingerprint(sku_id, quantity),
        hold_no=1,
        accepted_at_ms=1_790_000_000_000 + number,
        outbox_id=f"1790000000000-{number // 10}",
        outbox_index=number % 10,
    )


def draw_won(number: int = 1, *, campaign_id: str = "c-1", sku_id: str = "gold", points: int = 50) -> DrawWon:
    """Return the event of buyer `number`'s draw, which won."""
    user_id = f"buyer-{number}"
    return DrawWon(
        draw_id=order.order_id(campaign_id, user_id, "key"),
        campaign_id=campaign_id,
        sku_id=sku_id,
        user_id=user_id,
        points=points,
        seq=number + 1,
        hash="0" * 40,
        drawn_at_ms=1_790_000_000_000 + number,
        outbox_id=f"1790000000000-{number}",
        outbox_index=0,
    )
