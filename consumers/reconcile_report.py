"""What the reconciler tells: numbers per SKU, totals per campaign, and what is at fault, as JSON and as a table."""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

import msgspec
from rich import box
from rich.markup import escape
from rich.table import Table

from consumers.reconcile_rules import Fault, FaultKind, Verdict

IDS_MAX: Final = 20
"""Order ids listed per campaign and kind of fault."""
IDS_EXPLAINED_MAX: Final = 3
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

_MISSING: Final = (FaultKind.MISSING, FaultKind.HALF)
_SAID: Final = {
    FaultKind.MISSING: "accepted, not on the way any more, and not in MySQL",
    FaultKind.HALF: "in MySQL with an order row or a ledger row, not with both",
    FaultKind.EXTRA: "in MySQL, and unknown to Redis and Kafka",
    FaultKind.DEAD_LETTER: "accepted, set aside in the dead letters, and not in MySQL",
    FaultKind.LOST: "accepted, and no buyer's record in Redis holds it: Redis would sell the units again",
    FaultKind.RELEASE: "given back in Redis and not in the ledger, or the reverse",
}


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
    drift: int


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
    dead_letters: int
    drift: int
    skus: tuple[SkuReport, ...]
    missing_ids: tuple[str, ...]
    extra_ids: tuple[str, ...]
    explanations: tuple[str, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All campaigns that were looked at, by id."""

    drift: int
    in_flight: int
    poison: int
    """Records in Kafka that are no events; they belong to no campaign that could be named."""
    campaigns: tuple[CampaignReport, ...]


def build_report(verdicts: Iterable[Verdict], *, poison: int) -> Report:
    """Return the report of these verdicts."""
    campaigns = tuple(_campaign(verdict) for verdict in sorted(verdicts, key=lambda verdict: verdict.campaign_id))
    return Report(
        drift=sum(campaign.drift for campaign in campaigns),
        in_flight=sum(campaign.in_flight for campaign in campaigns),
        poison=poison,
        campaigns=campaigns,
    )


def _campaign(verdict: Verdict) -> CampaignReport:
    by_sku: dict[str, dict[Fault, int]] = {}
    by_kind: dict[FaultKind, list[str]] = {}
    for fault, weight in verdict.faults.items():
        by_sku.setdefault(fault.sku_id, {})[fault] = weight
        if fault.order_id:
            by_kind.setdefault(fault.kind, []).append(fault.order_id)
    skus = tuple(_skus(verdict, by_sku))
    rows = sum(sku.mysql_rows for sku in skus)
    confirmed = sum(numbers.confirmed for numbers in verdict.skus)
    missing = [order_id for kind in _MISSING for order_id in by_kind.get(kind, [])]
    return CampaignReport(
        campaign_id=verdict.campaign_id,
        redis_taken=sum(sku.taken for sku in skus),
        kafka_distinct=sum(sku.kafka_distinct for sku in skus),
        mysql_rows=rows,
        sold=sum(sku.mysql_sold for sku in skus),
        confirmed=confirmed,
        released=max(0, rows - confirmed),
        in_flight=sum(sku.in_flight for sku in skus),
        dead_letters=sum(sku.dead_letters for sku in skus),
        drift=sum(sku.drift for sku in skus),
        skus=skus,
        missing_ids=tuple(sorted(missing)[:IDS_MAX]),
        extra_ids=tuple(sorted(by_kind.get(FaultKind.EXTRA, []))[:IDS_MAX]),
        explanations=tuple(_explanations(verdict, by_kind)),
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
            missing=sum(counts[kind] for kind in _MISSING),
            extra=counts[FaultKind.EXTRA],
            dead_letters=counts[FaultKind.DEAD_LETTER],
            redis_lost=counts[FaultKind.LOST],
            releases=counts[FaultKind.RELEASE],
            second_deductions=numbers.second_deductions,
            drift=sum(faults.values()),
        )


def _explanations(verdict: Verdict, by_kind: dict[FaultKind, list[str]]) -> Iterable[str]:
    yield from verdict.notes
    for kind, said in _SAID.items():
        ids = sorted(by_kind.get(kind, []))
        if ids:
            more = ", …" if len(ids) > IDS_EXPLAINED_MAX else ""
            yield f"{_orders(len(ids))} {said}: {', '.join(ids[:IDS_EXPLAINED_MAX])}{more}"
    both = {order_id for kind in _MISSING for order_id in by_kind.get(kind, [])} & set(by_kind.get(FaultKind.EXTRA, []))
    if both:
        yield f"{_orders(len(both))} of these missing and extra: the stores disagree about SKU, quantity or hold number"
    yield from verdict.counters.values()
    second = sum(numbers.second_deductions for numbers in verdict.skus)
    if second:
        yield f"{_orders(second)} from more than one outbox entry (no drift while Redis's counters agree)"


def _orders(count: int) -> str:
    return "1 order" if count == 1 else f"{count} orders"


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
        made.add_row(escape(campaign.campaign_id), *_cells(campaign.skus), style="bold")
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


def _cells(skus: Sequence[SkuReport]) -> list[str]:
    sums = [sum(getattr(sku, name) for sku in skus) for name in _COLUMNS.values()]
    drift = sums[-1]
    return [*(str(number) for number in sums[:-1]), f"[red]{drift}[/red]" if drift else f"[green]{drift}[/green]"]
