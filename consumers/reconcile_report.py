"""What the reconciler tells: numbers per SKU, totals per campaign, and what is at fault, as JSON and as a table."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

import msgspec
from rich import box
from rich.markup import escape
from rich.table import Table

from consumers.reconcile_explain import MISSING, advice, explain, hop_of
from consumers.reconcile_rules import Fault, FaultKind, Verdict
from consumers.repair_rules import Left, Repaired

IDS_MAX: Final = 20
"""Order ids, or faults, listed per campaign and kind of fault."""
SKUS_SHOWN_MAX: Final = 40
"""Rows of a campaign in the table; SKUs with drift come first, the JSON has all."""

_COLUMNS: Final = {
    "stock": "allocated",
    "left": "remaining",
    "taken": "taken",
    "back": "returned",
    "out-\nbox": "outbox",
    "in\nKafka": "kafka_distinct",
    "rows": "mysql_rows",
    "sold": "mysql_sold",
    "in\nflight": "in_flight",
    "miss-\ning": "missing",
    "extra": "extra",
    "drift": "drift",
}
"""Column of the table → what it shows."""


class SkuReport(msgspec.Struct, frozen=True, kw_only=True):
    """One SKU. `allocated` to `redis_held` are units in Redis, `mysql_sold` units in MySQL; the rest are orders."""

    sku_id: str
    allocated: int
    remaining: int
    taken: int
    returned: int
    redis_held: int
    outbox: int
    kafka_distinct: int
    mysql_rows: int
    mysql_sold: int
    in_flight: int
    missing: int
    extra: int
    dead_letters: int
    redis_lost: int
    releases: int
    second_deductions: int
    pending_returns: int
    drift: int


class FaultReport(msgspec.Struct, frozen=True, kw_only=True):
    """One difference between the stores: which order (empty: a counter), at which hop, what may be done about it."""

    order_id: str
    sku_id: str
    kind: str
    hop: str
    repair: str


class RepairReport(msgspec.Struct, frozen=True, kw_only=True):
    """One repair, or why it was not made."""

    campaign_id: str
    order_id: str
    sku_id: str
    kind: str
    done: bool
    text: str


class CampaignReport(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign. `redis_taken` and `sold` are units, `drift` is orders at fault plus differences of counters."""

    campaign_id: str
    redis_taken: int
    kafka_distinct: int
    mysql_rows: int
    sold: int
    confirmed: int
    """Orders whose row holds units now."""
    released: int
    """The other orders in MySQL."""
    in_flight: int
    pending_returns: int
    """Returns that MySQL owes to Redis: releases, and second deductions."""
    by_status: dict[str, int]
    """Order rows by status."""
    dead_letters: int
    points_spent: int = 0
    """Points of redemptions that were taken and not given back."""
    points_awarded: int = 0
    """Points that prizes were worth, once they are in the accounts."""
    points_drift: int = 0
    """Orders and draws whose points differ; part of `drift`."""
    drift: int
    skus: tuple[SkuReport, ...]
    missing_ids: tuple[str, ...]
    extra_ids: tuple[str, ...]
    faults: tuple[FaultReport, ...]
    """At most IDS_MAX of a kind."""
    explanations: tuple[str, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All campaigns that were looked at, by id."""

    drift: int
    in_flight: int
    points_spent: int = 0
    points_awarded: int = 0
    points_drift: int = 0
    poison: int
    """Records in Kafka that are no events; they belong to no campaign that could be named."""
    dead_letters_open: int = 0
    """Dead letters of all campaigns that nobody has dealt with."""
    campaigns: tuple[CampaignReport, ...]
    repairs: tuple[RepairReport, ...] = ()


def build_report(verdicts: Iterable[Verdict], *, poison: int, dead_letters: int = 0) -> Report:
    """Return the report of these verdicts.

    Args:
        verdicts: one a campaign.
        poison: records in Kafka that are no events.
        dead_letters: that nobody has dealt with.
    """
    campaigns = tuple(_campaign(verdict) for verdict in sorted(verdicts, key=lambda verdict: verdict.campaign_id))
    return Report(
        drift=sum(campaign.drift for campaign in campaigns),
        in_flight=sum(campaign.in_flight for campaign in campaigns),
        points_spent=sum(campaign.points_spent for campaign in campaigns),
        points_awarded=sum(campaign.points_awarded for campaign in campaigns),
        points_drift=sum(campaign.points_drift for campaign in campaigns),
        poison=poison,
        dead_letters_open=dead_letters,
        campaigns=campaigns,
    )


def repair_report(one: Repaired) -> RepairReport:
    """Return one repair as it is told."""
    action = one.action
    return RepairReport(
        campaign_id=action.campaign_id,
        order_id=action.order_id,
        sku_id=action.sku_id,
        kind=action.kind,
        done=one.done,
        text=one.text,
    )


def left_report(campaign_id: str, one: Left) -> RepairReport:
    """Return a repair that was not tried, and why, as it is told."""
    fault = one.fault
    return RepairReport(
        campaign_id=campaign_id,
        order_id=fault.order_id,
        sku_id=fault.sku_id,
        kind=fault.kind,
        done=False,
        text=f"left alone: {one.why}",
    )


def _campaign(verdict: Verdict) -> CampaignReport:
    by_sku: dict[str, dict[Fault, int]] = {}
    by_kind: dict[FaultKind, list[Fault]] = {}
    for fault, finding in sorted(verdict.faults.items(), key=lambda item: item[0]):
        by_sku.setdefault(fault.sku_id, {})[fault] = finding.weight
        by_kind.setdefault(fault.kind, []).append(fault)
    skus = tuple(_skus(verdict, by_sku))
    rows = sum(sku.mysql_rows for sku in skus)
    confirmed = sum(numbers.confirmed for numbers in verdict.skus)
    missing = sorted(fault.order_id for kind in MISSING for fault in by_kind.get(kind, []))
    return CampaignReport(
        campaign_id=verdict.campaign_id,
        redis_taken=sum(sku.taken for sku in skus),
        kafka_distinct=sum(sku.kafka_distinct for sku in skus),
        mysql_rows=rows,
        sold=sum(sku.mysql_sold for sku in skus),
        confirmed=confirmed,
        released=max(0, rows - confirmed),
        in_flight=sum(sku.in_flight for sku in skus),
        pending_returns=sum(sku.pending_returns for sku in skus),
        by_status=dict(sorted(verdict.by_status.items())),
        dead_letters=sum(sku.dead_letters for sku in skus),
        points_spent=verdict.points_spent,
        points_awarded=verdict.points_awarded,
        points_drift=sum(verdict.faults[fault].weight for fault in by_kind.get(FaultKind.POINTS, [])),
        drift=sum(finding.weight for finding in verdict.faults.values()),
        skus=skus,
        missing_ids=tuple(missing[:IDS_MAX]),
        extra_ids=tuple(fault.order_id for fault in by_kind.get(FaultKind.EXTRA, [])[:IDS_MAX]),
        faults=tuple(_faults(verdict, by_kind)),
        explanations=tuple(explain(verdict)),
    )


def _faults(verdict: Verdict, by_kind: Mapping[FaultKind, Sequence[Fault]]) -> Iterable[FaultReport]:
    numbers = {one.sku_id: one for one in verdict.skus}
    for faults in by_kind.values():
        for fault in faults[:IDS_MAX]:
            finding = verdict.faults[fault]
            yield FaultReport(
                order_id=fault.order_id,
                sku_id=fault.sku_id,
                kind=fault.kind,
                hop=hop_of(fault, finding),
                repair=advice(fault, finding, numbers),
            )


def _skus(verdict: Verdict, by_sku: dict[str, dict[Fault, int]]) -> Iterable[SkuReport]:
    for numbers in verdict.skus:
        faults = by_sku.get(numbers.sku_id, {})
        counts = dict.fromkeys(FaultKind, 0)
        for fault in faults:
            counts[fault.kind] += 1
        yield SkuReport(
            sku_id=numbers.sku_id,
            allocated=numbers.stock.allocated,
            remaining=numbers.stock.remaining,
            taken=numbers.stock.taken,
            returned=numbers.stock.returned,
            redis_held=numbers.redis_held,
            outbox=numbers.outbox,
            kafka_distinct=numbers.kafka_distinct,
            mysql_rows=numbers.mysql_rows,
            mysql_sold=numbers.mysql_sold,
            in_flight=numbers.in_flight,
            missing=sum(counts[kind] for kind in MISSING),
            extra=counts[FaultKind.EXTRA],
            dead_letters=counts[FaultKind.DEAD_LETTER],
            redis_lost=counts[FaultKind.LOST],
            releases=counts[FaultKind.RELEASE] + counts[FaultKind.RETURNED],
            second_deductions=numbers.second_deductions,
            pending_returns=numbers.pending_returns,
            drift=sum(faults.values()),
        )


def table(report: Report) -> Table:
    """Return the report as a table that fits 80 columns for a usual sale.

    SKUs past `SKUS_SHOWN_MAX` of a campaign are summed up in one row.
    """
    made = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    made.add_column("campaign\n SKU", overflow="fold")
    for name in _COLUMNS:
        made.add_column(name, justify="right", no_wrap=True)
    for campaign in report.campaigns:
        shown, rest = _shown(campaign.skus)
        made.add_row(escape(campaign.campaign_id), *_cells(campaign.skus, campaign.drift), style="bold")
        for sku in shown:
            made.add_row(f" {escape(sku.sku_id)}", *_cells([sku]))
        if rest:
            made.add_row(f" {len(rest)} more", *_cells(rest))
    return made


def _shown(skus: Sequence[SkuReport]) -> tuple[list[SkuReport], list[SkuReport]]:
    if len(skus) <= SKUS_SHOWN_MAX:
        return list(skus), []
    at_fault = iter(sorted(skus, key=lambda sku: (sku.drift == 0, sku.sku_id)))
    return list(islice(at_fault, SKUS_SHOWN_MAX)), list(at_fault)


def _cells(skus: Sequence[SkuReport], drift: int | None = None) -> list[str]:
    """Return the sums of SKUs; a campaign's drift may be more than theirs, for points belong to no SKU."""
    sums = [sum(getattr(sku, name) for sku in skus) for name in _COLUMNS.values()]
    drift = sums[-1] if drift is None else drift
    return [*(str(number) for number in sums[:-1]), f"[red]{drift}[/red]" if drift else f"[green]{drift}[/green]"]
