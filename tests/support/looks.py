"""Looks at a campaign, made without any store."""

from collections.abc import Collection
from typing import Final

from consumers.reconcile_report import CampaignReport, build_report
from consumers.reconcile_rules import DONE, PUBLISHED, STORED, CampaignLook, Stock, judge
from domain.events import OrderAccepted
from tests.support.events import event

STOCK: Final = 1_000
SALE_MS: Final = 1_790_000_000_000
"""The time in the outbox ids of `event`."""
QUIET_MS: Final = SALE_MS + 60_000


def taken(look: CampaignLook, events: Collection[OrderAccepted], *, sku_id: str = "box-1") -> None:
    """Let Redis and MySQL say that a SKU's stock is taken by these events and nothing else."""
    units = sum(one.quantity for one in events)
    sku = look.sku(sku_id)
    sku.before = sku.after = Stock(STOCK - units, units, 0, STOCK)
    look.counter(sku_id, allocated=STOCK, sold=units)


def in_redis(look: CampaignLook, one: OrderAccepted, *, held: bool = True) -> None:
    """Put an order into its buyer's record."""
    look.attempt(one.order_id, one.sku_id, one.quantity, one.hold_no, held=held)


def in_mysql(look: CampaignLook, one: OrderAccepted) -> None:
    """Put an order into MySQL, row and ledger."""
    look.order_row(one.order_id, one.sku_id, one.quantity, one.hold_no, one.accepted_at_ms)
    look.ledger_row(one.order_id, one.sku_id, one.quantity, one.hold_no, "take")


def sold(count: int) -> tuple[CampaignLook, list[OrderAccepted]]:
    """Return a look at a sale of so many orders that is over, all of it in order."""
    look = CampaignLook("c-1", began_ms=QUIET_MS)
    events = [event(number) for number in range(count)]
    for one in events:
        in_redis(look, one)
        look.event(one, PUBLISHED | DONE)
        in_mysql(look, one)
    taken(look, events)
    return look, events


def told(look: CampaignLook) -> CampaignReport:
    """Return the report of a look."""
    (campaign,) = build_report([judge(look)], poison=0).campaigns
    return campaign


def forget(look: CampaignLook, one: OrderAccepted, facts: int) -> None:
    """Take back what stores said of an order."""
    look.sku(one.sku_id).holds[one.order_id, one.hold_no, one.quantity].facts &= ~facts


def with_fault() -> CampaignLook:
    """Return a look that misses an order."""
    look, events = sold(3)
    forget(look, events[0], STORED)
    look.sku("box-1").ledger_units = 3
    return look
