"""The reconciler's findings in plain words: what is wrong, at which hop, and what may be done about it."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from consumers.reconcile_look import IN_KAFKA
from consumers.reconcile_rules import Fault, FaultKind, Finding, SkuNumbers, Verdict
from consumers.repair_rules import Repair, repair_of

IDS_EXPLAINED_MAX: Final = 3
"""Order ids named in one sentence; the JSON has more."""


class Hop(StrEnum):
    """Where on an order's way something went wrong."""

    BUYER = "buyer -> Redis"
    RELAY = "Redis -> Kafka (outbox, relay)"
    CONSUMER = "Kafka -> consumer (dead letters)"
    MYSQL = "consumer -> MySQL"
    STATE = "MySQL (an order's status, its ledger, its counter)"
    RETURN = "MySQL -> Redis (release)"
    POINTS = "fg_orders -> fg_points (saga, refund, award)"
    ANEW = "Redis -> MySQL (taken anew for a late payment)"
    ALLOCATION = "load, top-up -> Redis, MySQL"


_SAID: Final = {
    FaultKind.UNRELAYED: "accepted by Redis; the outbox entry is gone, and Kafka never got it",
    FaultKind.MISSING: "accepted, not on the way any more, and not in MySQL",
    FaultKind.HALF: "in MySQL with an order row or a ledger row, not with both",
    FaultKind.EXTRA: "in MySQL, and unknown to Redis and Kafka",
    FaultKind.DEAD_LETTER: "accepted, set aside in the dead letters, and not in MySQL",
    FaultKind.LOST: "accepted, and no buyer's record in Redis holds it: Redis would sell the units again",
    FaultKind.RELEASE: "released in MySQL's ledger, and Redis neither gave the units back nor is about to",
    FaultKind.RETURNED: "given back in Redis, and MySQL's ledger has no release",
    FaultKind.POINTS: "in fg_points with other points than it costs or is worth",
    FaultKind.STATE: "in MySQL with a status that its ledger contradicts: held by the one, released by the other",
}
_HOPS: Final = {
    FaultKind.UNRELAYED: Hop.RELAY,
    FaultKind.MISSING: Hop.MYSQL,
    FaultKind.HALF: Hop.MYSQL,
    FaultKind.EXTRA: Hop.MYSQL,
    FaultKind.DEAD_LETTER: Hop.CONSUMER,
    FaultKind.LOST: Hop.BUYER,
    FaultKind.RELEASE: Hop.RETURN,
    FaultKind.RETURNED: Hop.RETURN,
    FaultKind.STATE: Hop.STATE,
    FaultKind.POINTS: Hop.POINTS,
    FaultKind.ARITHMETIC: Hop.BUYER,
    FaultKind.OVERSOLD: Hop.BUYER,
    FaultKind.HELD: Hop.BUYER,
    FaultKind.ALLOCATED: Hop.ALLOCATION,
    FaultKind.SOLD: Hop.STATE,
}
MISSING: Final = (FaultKind.UNRELAYED, FaultKind.MISSING, FaultKind.HALF)


def hop_of(fault: Fault, finding: Finding) -> Hop:
    """Return where on its way an order was lost, or a counter went wrong."""
    if fault.kind is FaultKind.MISSING and finding.hold_no > 1:
        return Hop.ANEW
    if fault.kind is FaultKind.MISSING and not finding.facts & IN_KAFKA:
        return Hop.CONSUMER
    return _HOPS[fault.kind]


def advice(fault: Fault, finding: Finding, numbers: Mapping[str, SkuNumbers]) -> str:
    """Return how a fault is repaired: `automatic`, or what a person can do."""
    of_sku = numbers.get(fault.sku_id)
    repair = Repair.NONE if of_sku is None else repair_of(fault, finding, of_sku)
    if repair is not Repair.NONE:
        return str(repair)
    if fault.order_id:
        return repair.replace("ORDER", fault.order_id)
    return "none: a person has to look"


def explain(verdict: Verdict) -> Iterable[str]:
    """Yield a sentence for each kind of difference, with some orders, the hop and what may be done; notes first."""
    yield from verdict.notes
    numbers = {one.sku_id: one for one in verdict.skus}
    groups: dict[tuple[FaultKind, Hop, Repair], list[str]] = {}
    texts = {fault.order_id: f" ({finding.text})" for fault, finding in verdict.faults.items() if finding.text}
    for fault, finding in verdict.faults.items():
        if fault.order_id:
            of_sku = numbers.get(fault.sku_id)
            repair = Repair.NONE if of_sku is None else repair_of(fault, finding, of_sku)
            groups.setdefault((fault.kind, hop_of(fault, finding), repair), []).append(fault.order_id)
    kinds = list(FaultKind)
    for (kind, hop, repair), ids in sorted(groups.items(), key=lambda item: (kinds.index(item[0][0]), item[0][1:])):
        named = [
            one + (texts.get(one, "") if kind is FaultKind.POINTS else "") for one in sorted(ids)[:IDS_EXPLAINED_MAX]
        ]
        more = ", …" if len(ids) > IDS_EXPLAINED_MAX else ""
        yield f"{_orders(len(ids))} {_SAID[kind]}: {', '.join(named)}{more} [at {hop}; repair {repair}]"
    yield from _contradictions(verdict)
    for fault, finding in verdict.faults.items():
        if not fault.order_id:
            yield f"{finding.text} [at {hop_of(fault, finding)}; repair {advice(fault, finding, numbers)}]"
    yield from _told_anyway(verdict)


def _contradictions(verdict: Verdict) -> Iterable[str]:
    missing = {fault.order_id for fault in verdict.faults if fault.kind in MISSING}
    both = missing & {fault.order_id for fault in verdict.faults if fault.kind is FaultKind.EXTRA}
    if both:
        yield f"{_orders(len(both))} of these missing and extra: the stores disagree about SKU, quantity or hold number"


def _told_anyway(verdict: Verdict) -> Iterable[str]:
    """Yield what is no drift and worth knowing."""
    second = sum(one.second_deductions for one in verdict.skus)
    if second:
        yield f"{_orders(second)} from more than one outbox entry (no drift while Redis's counters agree)"
    if verdict.sagas_parked:
        yield f"{_orders(verdict.sagas_parked)} whose saga waits for a person: flashgate saga list --parked"


def _orders(count: int) -> str:
    return "1 order" if count == 1 else f"{count} orders"
