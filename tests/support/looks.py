"""Looks at a campaign, made without any store."""

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Final

from consumers.reconcile_look import (
    FREED,
    HANDLED,
    HOLDING,
    STORED,
    CampaignLook,
    HoldKey,
    Stock,
    hold_key,
    pack_origin,
)
from consumers.reconcile_report import CampaignReport, Report, build_report
from consumers.reconcile_rules import judge
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


def key_of(one: OrderAccepted) -> HoldKey:
    """Return the hold that an event tells of."""
    return hold_key(one.order_id[-32:], one.hold_no, one.quantity)


def seen(look: CampaignLook, one: OrderAccepted, facts: int) -> None:
    """Note an event, in outbox, Kafka or dead letters."""
    look.event(key_of(one), one.sku_id, pack_origin(one.outbox_id, one.outbox_index), facts)


def in_redis(look: CampaignLook, one: OrderAccepted, *, held: bool = True) -> None:
    """Put an order into its buyer's record."""
    look.attempt(one.order_id[-32:], one.sku_id, one.quantity, one.hold_no, held=held)


def in_mysql(look: CampaignLook, one: OrderAccepted, *, status: str = "confirmed") -> None:
    """Put an order into MySQL, row and ledger."""
    look.order_row(key_of(one), one.sku_id, status, one.accepted_at_ms)
    look.ledger_row(key_of(one), one.sku_id, "take")


def released(look: CampaignLook, one: OrderAccepted) -> None:
    """Have an order expire in MySQL: its status and its ledger."""
    sku = look.sku(one.sku_id)
    sku.holds[key_of(one)] = sku.holds[key_of(one)] & ~HOLDING | FREED
    look.ledger_row(key_of(one), one.sku_id, "release")
    look.counter(one.sku_id, allocated=sku.mysql_allocated, sold=sku.mysql_sold - one.quantity)


def sold(count: int) -> tuple[CampaignLook, list[OrderAccepted]]:
    """Return a look at a sale of so many orders that is over, all of it in order."""
    look = CampaignLook("c-1", began_ms=QUIET_MS)
    events = [event(number) for number in range(count)]
    for one in events:
        in_redis(look, one)
        seen(look, one, HANDLED)
        in_mysql(look, one)
    taken(look, events)
    return look, events


def told(look: CampaignLook) -> CampaignReport:
    """Return the report of a look."""
    (campaign,) = build_report([judge(look)], poison=0).campaigns
    return campaign


def forget(look: CampaignLook, one: OrderAccepted, facts: int) -> None:
    """Take back what stores said of an order."""
    look.sku(one.sku_id).holds[key_of(one)] &= ~facts


def with_fault() -> CampaignLook:
    """Return a look that misses an order."""
    look, events = sold(3)
    forget(look, events[0], STORED)
    look.sku("box-1").ledger_units = 3
    return look


class Told:
    """Implements ReconcileMetrics: lets a test wait for a report."""

    def __init__(self) -> None:
        self.failures = 0
        self.reports: asyncio.Queue[Report] = asyncio.Queue()
        self.repairs: Counter[tuple[str, bool]] = Counter()

    def looked(self, report: Report, *, seconds: float) -> None:
        """Keep the report."""
        assert seconds >= 0
        self.reports.put_nowait(report)

    def failed(self) -> None:
        """Count."""
        self.failures += 1

    def repaired(self, kind: str, *, done: bool) -> None:
        """Count."""
        self.repairs[kind, done] += 1
