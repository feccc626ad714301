"""What the three stores together mean: who is on the way, what is drift. Decided without I/O.

Each hold is judged by itself (`reconcile_look` says what a hold and a fact is). Sums are never held against each other
across stores: one lost and one doubled would cancel out.

A look takes time while a sale goes on, so `reconcile_sources` reads the stores in the order in which an order travels
(Redis, Kafka's committed offsets, Kafka, MySQL). Whatever an earlier store knew is then on its way or in the next one:
nothing that is well can look missing. A redemption is on its way until its saga has ended or its order has its row.
What was accepted after the look began may be known to a later store only; it is recognised by its outbox id or its row,
which have Redis's clock in them, and not judged extra or lost.

Releases travel the other way: first the ledger, with a row that says what is owed to Redis, then Redis. While that row
is there the release is on its way. One that was finished while the look went on (Redis was read before, MySQL after)
is suspected by this look, and not by the next one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, NamedTuple

from consumers.reconcile_look import (
    DEAD,
    FREED,
    FROM_EVENT,
    HANDLED,
    HOLDING,
    IN_KAFKA,
    KNOWN,
    OWED,
    QUEUED,
    REACQUIRING,
    REDIS,
    RELEASE,
    RETURNED,
    ROW,
    SAGA,
    SECOND,
    SETTLED,
    STORED,
    WAITING,
    CampaignLook,
    HoldKey,
    SkuLook,
    Stock,
    digest_of,
    facts_of,
    origin_ms,
    origin_of,
    split_key,
)
from domain.campaign import LOTTERY
from domain.outbox import OutboxPosition


class FaultKind(StrEnum):
    """What is wrong with an order, or with a counter. Those of orders weigh 1 an order, a counter its difference."""

    UNRELAYED = "unrelayed"
    """Accepted in Redis, and in neither outbox nor Kafka nor MySQL."""
    MISSING = "missing"
    """Accepted and handled, or taken anew, and not in MySQL."""
    HALF = "half"
    """In MySQL with the order's row or the ledger's, not both."""
    EXTRA = "extra"
    """In MySQL, and neither Redis nor Kafka knows of it."""
    DEAD_LETTER = "dead_letter"
    """Accepted, set aside by the consumers, and not in MySQL."""
    LOST = "lost"
    """Kafka or MySQL has it, and no buyer's record holds it: Redis would sell the unit again."""
    RELEASE = "release"
    """Released in the ledger, and Redis has not given it back."""
    RETURNED = "returned"
    """Given back in Redis, and not released in the ledger."""
    STATE = "state"
    """The order's status and its ledger disagree."""
    POINTS = "points"
    """The ledger of points has moved something else for it than it costs, or than its prize is worth."""
    ARITHMETIC = "arithmetic"
    OVERSOLD = "oversold"
    HELD = "held"
    ALLOCATED = "allocated"
    SOLD = "sold"


class Fault(NamedTuple):
    """One thing that is wrong; the same fault in two looks is equal."""

    kind: FaultKind
    sku_id: str
    order_id: str
    """Empty where it is a counter."""


class Finding(NamedTuple):
    """What a look found of a fault."""

    weight: int
    """In the drift."""
    hold_no: int = 0
    quantity: int = 0
    facts: int = 0
    """Of the hold; 0 where it is a counter."""
    text: str = ""
    """What is to be said of a counter, or of points."""


class SkuNumbers(NamedTuple):
    """What is told about a SKU, whether anything is wrong or not."""

    sku_id: str
    in_redis: bool
    stock: Stock
    moving: bool
    """Redis's numbers changed while the buyers' records were read."""
    redis_held: int
    """Units that buyers' records hold."""
    outbox: int
    """Holds in the outbox, beyond the relay's checkpoint."""
    kafka_distinct: int
    """Distinct order ids in Kafka."""
    mysql_rows: int
    mysql_sold: int
    in_flight: int
    confirmed: int
    """Order rows that hold units now."""
    second_deductions: int
    """Holds that came from more than one outbox entry. Redis's counters tell whether stock was lost by it."""
    second_units: int
    """Units deducted a second time, which Redis is to get back or will be once the consumers are there."""
    pending_returns: int
    """Returns that MySQL owes to Redis."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a campaign comes to.

    Attributes:
        campaign_id: the campaign.
        skus: numbers, by SKU.
        by_status: order rows by status.
        faults: what is wrong.
        notes: what could not be read.
        accepted_to: the newest outbox entry, of several looks that of the first.
        checkpoint: how far the relay was, of several looks that of the last.
        points_spent: for redemptions, and not given back.
        points_awarded: to those who won.
        sagas_parked: sagas that wait for a person.
    """

    campaign_id: str
    skus: list[SkuNumbers]
    by_status: Mapping[str, int]
    faults: dict[Fault, Finding]
    notes: list[str]
    accepted_to: OutboxPosition
    checkpoint: OutboxPosition
    points_spent: int = 0
    points_awarded: int = 0
    sagas_parked: int = 0

    @property
    def all_relayed(self) -> bool:
        """Whether Kafka has acknowledged all that was accepted when the (first) look read the buyers' records.

        The checkpoint is read after the records and before Kafka, and moves only after Kafka's acknowledgement. So
        an entry of that time that Kafka does not have was gone from the outbox before the relay came to it, and no
        relay that works as it should still has it in hand.
        """
        return self.checkpoint >= self.accepted_to


def is_in_flight(facts: int) -> bool:
    """Tell whether a hold is on its way to MySQL: to be relayed, to be consumed, in a saga, or to be taken anew."""
    if facts & STORED:
        return False
    if facts & (QUEUED | REACQUIRING | SAGA):
        return True  # whatever became of it before, it is handled once more
    return bool(facts & WAITING) and not facts & (HANDLED | DEAD)


def is_second_in_flight(facts: int) -> bool:
    """Tell whether a second deduction is on its way to the consumers, who see to its return."""
    return bool(facts & SECOND and facts & (WAITING | QUEUED))


def is_used_up(facts: int) -> bool:
    """Tell whether a later hold is a number that Redis refused a late payment under; the ledger never hears of it."""
    return facts & ~REACQUIRING == REDIS | RETURNED


def fault_of(facts: int, *, is_new: bool, is_first: bool = True) -> FaultKind | None:
    """Judge one hold.

    Args:
        facts: what the stores say of it.
        is_new: it was accepted while the look went on, so that Redis may have been read before.
        is_first: of its order; later ones come from no event.
    """
    if not facts & KNOWN and is_first:
        return None if is_new or facts == REACQUIRING else FaultKind.EXTRA
    if facts & STORED == STORED:
        return _fault_of_stored(facts, is_new=is_new)
    if facts & RETURNED and not facts & RELEASE:
        return None if not is_first and is_used_up(facts) else FaultKind.RETURNED
    if is_in_flight(facts):
        return FaultKind.LOST if facts & (WAITING | QUEUED | SAGA) and not (facts & REDIS or is_new) else None
    if facts & DEAD:
        return FaultKind.DEAD_LETTER
    if facts & (STORED | RELEASE):
        return FaultKind.HALF
    if facts & FROM_EVENT or not is_first:
        return FaultKind.MISSING
    return FaultKind.UNRELAYED


def _fault_of_stored(facts: int, *, is_new: bool) -> FaultKind | None:
    """Judge a hold that MySQL has."""
    released, returned = bool(facts & RELEASE), bool(facts & RETURNED)
    if facts & (FREED if not released else HOLDING):
        return FaultKind.STATE
    if not facts & REDIS:
        # Lua writes the record with the outbox entry; it may forget a hold only after the ledger has its release.
        return None if released or is_new else FaultKind.LOST
    if returned and not released:
        return FaultKind.RETURNED
    if released and not returned:
        return None if facts & OWED or is_second_in_flight(facts) else FaultKind.RELEASE
    return None


def judge(look: CampaignLook) -> Verdict:
    """Say what a look comes to."""
    faults: dict[Fault, Finding] = {}
    numbers = []
    settled = _settled_orders(look)
    for sku_id in sorted(look.skus):
        sku = look.skus[sku_id]
        numbers.append(_judge_holds(look, sku_id, settled, faults))
        for kind, difference, text in _counter_faults(sku, numbers[-1]):
            faults[Fault(kind, sku_id, "")] = Finding(difference, text=f"SKU {sku_id}: {text}")
    for order_id, sku_id in look.strays:
        faults[Fault(FaultKind.EXTRA, sku_id, order_id)] = Finding(1)
    faults.update(_points_faults(look))
    return Verdict(
        campaign_id=look.campaign_id,
        skus=numbers,
        by_status=look.by_status,
        faults=faults,
        notes=look.notes,
        accepted_to=look.accepted_to,
        checkpoint=look.checkpoint,
        points_spent=look.points.spent,
        points_awarded=look.points.awarded,
        sagas_parked=look.sagas_parked,
    )


def confirm(earlier: Verdict, later: Verdict) -> Verdict:
    """Return the later verdict with only those faults that the earlier one had as well."""
    faults = {fault: finding for fault, finding in later.faults.items() if fault in earlier.faults}
    return replace(later, faults=faults, accepted_to=earlier.accepted_to)


def _points_faults(look: CampaignLook) -> dict[Fault, Finding]:
    """Return orders and draws whose points differ.

    A draw that is still in the outbox may have been relayed by half. One that Kafka has forgotten, and Redis or MySQL
    know, is not judged: nobody else says what its prize was worth.
    """
    differ = {one.digest: one for one in look.points.differences()}
    if not differ:
        return {}
    facts: dict[str, int] = {}
    skus: dict[str, str] = {}
    for sku_id, sku in look.skus.items():
        for key, value in sku.holds.items():
            digest = digest_of(key)
            if digest in differ:
                facts[digest] = facts.get(digest, 0) | facts_of(value)
                skus[digest] = sku_id
    found = {}
    for digest, one in differ.items():
        known = facts.get(digest, 0)
        forgotten = look.kind == LOTTERY and not one.due and known & (REDIS | ROW) and not known & FROM_EVENT
        if not known & WAITING and not forgotten:
            fault = Fault(FaultKind.POINTS, skus.get(digest, ""), f"{look.campaign_id}~{digest}")
            found[fault] = Finding(1, text=one.text)
    return found


def _settled_orders(look: CampaignLook) -> set[str]:
    """Return the 32 hex of orders that MySQL has otherwise than a dead letter said that a person has dealt with.

    Such a dead letter (a forged record, say) is nothing that could still be missing.
    """
    asked = {
        digest_of(key)
        for sku in look.skus.values()
        for key, value in sku.holds.items()
        if value & SETTLED and not value & (REDIS | ROW)
    }
    if not asked:
        return asked
    return {
        digest_of(key)
        for sku in look.skus.values()
        for key, value in sku.holds.items()
        if value & ROW and digest_of(key) in asked
    }


def _judge_holds(look: CampaignLook, sku_id: str, settled: set[str], faults: dict[Fault, Finding]) -> SkuNumbers:
    """Judge all holds of a SKU. Most are alike: what is said of a set of facts is said once."""
    sku = look.skus[sku_id]
    counts: dict[int, int] = {}
    units: dict[int, int] = {}
    suspects: list[HoldKey] = []
    sound: dict[int, bool] = {}
    for key, value in sku.holds.items():
        facts = facts_of(value)
        counts[facts] = counts.get(facts, 0) + 1
        units[facts] = units.get(facts, 0) + int(key[key.rindex(" ") :])
        fine = sound.get(facts)
        if fine is None:
            fine = sound[facts] = fault_of(facts, is_new=False) is None and bool(facts & KNOWN)
        if not fine:
            suspects.append(key)
    for key in suspects:
        fault, finding = _fault_in(look, sku, sku_id, key)
        if fault is not None and not (finding.facts & SETTLED and digest_of(key) in settled):
            faults[fault] = finding

    def count(*, having: int, without: int = 0) -> int:
        return sum(number for facts, number in counts.items() if facts & having and not facts & without)

    return SkuNumbers(
        sku_id=sku_id,
        in_redis=sku.in_redis,
        stock=sku.after,
        moving=sku.before != sku.after,
        redis_held=sum(number for facts, number in units.items() if facts & (REDIS | RETURNED) == REDIS),
        outbox=count(having=WAITING),
        kafka_distinct=count(having=IN_KAFKA) - _doubled(sku, suspects),
        mysql_rows=sku.order_rows,
        mysql_sold=sku.mysql_sold,
        in_flight=sum(number for facts, number in counts.items() if is_in_flight(facts)),
        confirmed=sum(number for facts, number in counts.items() if facts & (STORED | RELEASE) == STORED),
        second_deductions=count(having=SECOND),
        second_units=sku.second_units + sum(number for facts, number in units.items() if is_second_in_flight(facts)),
        pending_returns=sku.pending_returns,
    )


def _fault_in(look: CampaignLook, sku: SkuLook, sku_id: str, key: HoldKey) -> tuple[Fault | None, Finding]:
    value = sku.holds[key]
    digest, hold_no, quantity = split_key(key)
    finding = Finding(1, hold_no, quantity, facts_of(value))
    is_new = look.began_ms <= origin_ms(origin_of(value)) <= look.ended_ms
    kind = fault_of(finding.facts, is_new=is_new, is_first=hold_no == 1)
    return (None if kind is None else Fault(kind, sku_id, f"{look.campaign_id}~{digest}")), finding


def _doubled(sku: SkuLook, suspects: Iterable[HoldKey]) -> int:
    """Return how many holds in Kafka are of an order that has another one there, in another quantity."""
    odd = {digest_of(key) for key in suspects if sku.holds[key] & IN_KAFKA}
    if not odd:
        return 0
    found = [digest_of(key) for key, value in sku.holds.items() if value & IN_KAFKA and digest_of(key) in odd]
    return len(found) - len(set(found))


def _counter_faults(sku: SkuLook, numbers: SkuNumbers) -> list[tuple[FaultKind, int, str]]:
    """Return (kind, difference, text) of each counter that does not equal what it counts."""
    stock, held = sku.after, numbers.redis_held
    counted = stock.remaining + stock.taken - stock.returned
    # The records were read between the two readings of the counters, one after the other: while a sale goes on they
    # may hold anything between these two; when it is quiet the two are one number. What was deducted a second time is
    # in no record, until it is given back.
    least = sku.before.taken - stock.returned - numbers.second_units
    most = stock.taken - sku.before.returned
    twice = f", and {numbers.second_units} were deducted a second time" if numbers.second_units else ""
    parts = f"{stock.remaining} left + {stock.taken} taken - {stock.returned} returned"
    found: Final = [
        (
            FaultKind.ARITHMETIC,
            stock.allocated - counted,
            f"Redis: allocated {stock.allocated}, but {parts} = {counted}",
        ),
        (FaultKind.OVERSOLD, min(0, stock.remaining), f"Redis: remaining is {stock.remaining}"),
        (
            FaultKind.HELD,
            min(0, held - least) or max(0, held - most),
            f"Redis: taken - returned = {stock.taken - stock.returned}, but buyers' records hold {held} units{twice}",
        ),
        (
            FaultKind.ALLOCATED,
            stock.allocated - sku.mysql_allocated,
            f"allocated: {stock.allocated} in Redis, {sku.mysql_allocated} in MySQL",
        ),
        (
            FaultKind.SOLD,
            sku.mysql_sold - sku.ledger_units,
            f"MySQL: sold is {sku.mysql_sold}, but the ledger holds {sku.ledger_units} units",
        ),
    ]
    return [(kind, abs(difference), text) for kind, difference, text in found if difference]
