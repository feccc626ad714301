"""What the three stores together mean: who is on the way, what is drift. Decided without I/O.

A **hold** is what is counted: order id, hold number and quantity, within one SKU. Stores that disagree about any of
these hold different things, so a wrong quantity shows as one hold missing and one extra. A store's witness is a
*fact* about a hold; facts are gathered in a `CampaignLook` and then judged, each hold by itself. Sums are never held
against each other across stores: one lost and one doubled would cancel out.

A look takes time while a sale goes on, so `reconcile_sources` reads the stores in the order in which an order travels
(Redis, Kafka's committed offsets, Kafka, MySQL). Whatever an earlier store knew is then on its way or in the next one:
nothing that is well can look missing. What was accepted after the look began may be known to a later store only; it is
recognised by its outbox id or its row, which have Redis's clock in them, and not judged extra or lost.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from domain.events import OrderAccepted
from domain.outbox import parse_outbox_id

REDIS: Final = 1
"""A buyer's record has taken it."""
RETURNED: Final = 2
"""A buyer's record has given it back."""
WAITING: Final = 4
"""It is in the outbox, beyond the relay's checkpoint."""
PUBLISHED: Final = 8
"""It is in Kafka."""
DONE: Final = 16
"""It is in Kafka below the offset that the consumers have committed."""
DEAD: Final = 32
"""It is in the dead letters."""
ROW: Final = 64
"""Its order has a row."""
TAKE: Final = 128
"""The ledger has its taking."""
RELEASE: Final = 256
"""The ledger has its release."""
SECOND: Final = 512
"""It came from more than one outbox entry."""

STORED: Final = ROW | TAKE
FROM_EVENT: Final = WAITING | PUBLISHED | DEAD
KNOWN: Final = REDIS | FROM_EVENT

KIND_TAKE: Final = "take"

_SEQ_BITS: Final = 64
_INDEX_BITS: Final = 16

HoldKey = tuple[str, int, int]
"""Order id, hold number, quantity."""


class FaultKind(StrEnum):
    """What is wrong with an order, or with a counter. The first six weigh 1 an order, a counter its difference."""

    MISSING = "missing"
    """Accepted and handled, or nowhere on its way, and not in MySQL."""
    HALF = "half"
    """In MySQL with the order's row or the ledger's, not both."""
    EXTRA = "extra"
    """In MySQL, and neither Redis nor Kafka knows of it."""
    DEAD_LETTER = "dead_letter"
    """Accepted, set aside by the consumers, and not in MySQL."""
    LOST = "lost"
    """Kafka or the outbox has it, and no buyer's record holds it: Redis would sell the unit again."""
    RELEASE = "release"
    """Given back in Redis and not in the ledger, or the reverse."""
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


class Stock(NamedTuple):
    """A SKU's numbers in Redis."""

    remaining: int = 0
    taken: int = 0
    returned: int = 0
    allocated: int = 0


NO_STOCK: Final = Stock()


class Hold:
    """What the stores say of one hold."""

    __slots__ = ("facts", "origin")

    def __init__(self) -> None:
        self.facts = 0
        self.origin = 0
        """Outbox id and place in it as one number; of a hold that no event told of, only the time in it is known."""


@dataclass(slots=True)
class SkuLook:
    """What the stores say of one SKU."""

    before: Stock = NO_STOCK
    """Redis's numbers before the buyers' records were read."""
    after: Stock = NO_STOCK
    """And afterwards."""
    mysql_allocated: int = 0
    mysql_sold: int = 0
    ledger_units: int = 0
    order_rows: int = 0
    holds: dict[HoldKey, Hold] = field(default_factory=dict)

    def hold(self, order_id: str, hold_no: int, quantity: int) -> Hold:
        """Return the hold, known or new."""
        key = (order_id, hold_no, quantity)
        found = self.holds.get(key)
        if found is None:
            found = self.holds[key] = Hold()
        return found


class CampaignLook:
    """Gathers what the stores say of one campaign; the order of the calls does not matter.

    Args:
        campaign_id: the campaign.
        began_ms: Redis's clock before anything was read, Unix milliseconds.
    """

    def __init__(self, campaign_id: str, *, began_ms: int) -> None:
        self.campaign_id = campaign_id
        self.began_ms = began_ms
        self.ended_ms = began_ms
        """Redis's clock after everything was read."""
        self.skus: dict[str, SkuLook] = {}
        self.notes: list[str] = []
        """What could not be read."""

    def sku(self, sku_id: str) -> SkuLook:
        """Return what is gathered about a SKU."""
        found = self.skus.get(sku_id)
        if found is None:
            found = self.skus[sku_id] = SkuLook()
        return found

    def attempt(self, order_id: str, sku_id: str, quantity: int, hold_no: int, *, held: bool) -> None:
        """Note an attempt in a buyer's record; a higher hold number says that the holds before were given back."""
        sku = self.sku(sku_id)
        for number in range(1, hold_no):
            sku.hold(order_id, number, quantity).facts |= REDIS | RETURNED
        sku.hold(order_id, hold_no, quantity).facts |= REDIS if held else REDIS | RETURNED

    def event(self, event: OrderAccepted, facts: int) -> None:
        """Note an event found in the outbox (WAITING), in Kafka (PUBLISHED, and DONE) or in the dead letters (DEAD)."""
        hold = self.sku(event.sku_id).hold(event.order_id, event.hold_no, event.quantity)
        origin = pack_origin(event.outbox_id, event.outbox_index)
        if hold.facts & FROM_EVENT and hold.origin != origin:
            facts |= SECOND
        hold.facts |= facts
        hold.origin = origin

    def counter(self, sku_id: str, *, allocated: int, sold: int) -> None:
        """Note MySQL's counter of a SKU."""
        sku = self.sku(sku_id)
        sku.mysql_allocated, sku.mysql_sold = allocated, sold

    def order_row(self, order_id: str, sku_id: str, quantity: int, hold_no: int, accepted_at_ms: int) -> None:
        """Note a row of `orders`; it stands for all holds up to its hold number."""
        sku = self.sku(sku_id)
        sku.order_rows += 1
        for number in (*range(1, hold_no), hold_no):
            hold = sku.hold(order_id, number, quantity)
            hold.facts |= ROW
            hold.origin = hold.origin or accepted_at_ms << (_SEQ_BITS + _INDEX_BITS)

    def ledger_row(self, order_id: str, sku_id: str, quantity: int, hold_no: int, kind: str) -> None:
        """Note a row of `stock_ledger`; whatever is no taking gives back."""
        sku = self.sku(sku_id)
        sku.hold(order_id, hold_no, quantity).facts |= TAKE if kind == KIND_TAKE else RELEASE
        sku.ledger_units += quantity if kind == KIND_TAKE else -quantity


class SkuNumbers(NamedTuple):
    """What is told about a SKU, whether anything is wrong or not."""

    sku_id: str
    stock: Stock
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at a campaign comes to."""

    campaign_id: str
    skus: list[SkuNumbers]
    faults: dict[Fault, int]
    """Each with its weight in the drift."""
    counters: dict[Fault, str]
    """What is to be said of counters at fault."""
    notes: list[str]


def pack_origin(outbox_id: str, index: int) -> int:
    """Return an outbox id and a place in it as one number that sorts the same way."""
    ms, seq = parse_outbox_id(outbox_id)
    return (((ms << _SEQ_BITS) | seq) << _INDEX_BITS) | index


def origin_ms(origin: int) -> int:
    """Return the time in a packed origin, Unix milliseconds by Redis's clock."""
    return origin >> (_SEQ_BITS + _INDEX_BITS)


def is_in_flight(facts: int) -> bool:
    """Tell whether a hold is on its way: to be relayed or to be consumed, not set aside and not in MySQL."""
    return bool(facts & (WAITING | PUBLISHED)) and not facts & (DONE | DEAD | STORED)


def fault_of(facts: int, *, is_new: bool) -> FaultKind | None:
    """Judge one hold.

    Args:
        facts: what the stores say of it.
        is_new: it was accepted while the look went on, so that Redis may have been read before.
    """
    if not facts & KNOWN:
        return None if is_new else FaultKind.EXTRA
    # Lua writes the record with the outbox entry; it may forget a hold only after the ledger has its release.
    lost = not (facts & (REDIS | RELEASE) or is_new)
    if facts & STORED == STORED:
        if lost:
            return FaultKind.LOST
        returned, released = bool(facts & RETURNED), bool(facts & RELEASE)
        return FaultKind.RELEASE if facts & REDIS and returned != released else None
    if facts & DEAD:
        return FaultKind.DEAD_LETTER
    if facts & STORED:
        return FaultKind.HALF
    if not is_in_flight(facts):
        return FaultKind.MISSING
    return FaultKind.LOST if lost else None


def judge(look: CampaignLook) -> Verdict:
    """Say what a look comes to."""
    faults: dict[Fault, int] = {}
    counters: dict[Fault, str] = {}
    numbers = []
    for sku_id in sorted(look.skus):
        sku = look.skus[sku_id]
        numbers.append(_judge_holds(look, sku_id, faults))
        for kind, difference, text in _counter_faults(sku, numbers[-1].redis_held):
            fault = Fault(kind, sku_id, "")
            faults[fault], counters[fault] = difference, f"SKU {sku_id}: {text}"
    return Verdict(look.campaign_id, numbers, faults, counters, look.notes)


def confirm(earlier: Verdict, later: Verdict) -> Verdict:
    """Return the later verdict with only those faults that the earlier one had as well."""
    faults = {fault: weight for fault, weight in later.faults.items() if fault in earlier.faults}
    counters = {fault: text for fault, text in later.counters.items() if fault in faults}
    return Verdict(later.campaign_id, later.skus, faults, counters, later.notes)


def _judge_holds(look: CampaignLook, sku_id: str, faults: dict[Fault, int]) -> SkuNumbers:
    sku = look.skus[sku_id]
    held = waiting = in_flight = confirmed = second = 0
    published: set[str] = set()
    for (order_id, _, quantity), hold in sku.holds.items():
        facts = hold.facts
        held += quantity if facts & (REDIS | RETURNED) == REDIS else 0
        waiting += bool(facts & WAITING)
        in_flight += is_in_flight(facts)
        confirmed += facts & (STORED | RELEASE) == STORED
        second += bool(facts & SECOND)
        if facts & PUBLISHED:
            published.add(order_id)
        is_new = look.began_ms <= origin_ms(hold.origin) <= look.ended_ms
        kind = fault_of(facts, is_new=is_new)
        if kind is not None:
            faults[Fault(kind, sku_id, order_id)] = 1
    return SkuNumbers(
        sku_id=sku_id,
        stock=sku.after,
        redis_held=held,
        outbox=waiting,
        kafka_distinct=len(published),
        mysql_rows=sku.order_rows,
        mysql_sold=sku.mysql_sold,
        in_flight=in_flight,
        confirmed=confirmed,
        second_deductions=second,
    )


def _counter_faults(sku: SkuLook, held: int) -> list[tuple[FaultKind, int, str]]:
    """Return (kind, difference, text) of each counter that does not equal what it counts."""
    stock = sku.after
    counted = stock.remaining + stock.taken - stock.returned
    # The records were read between the two readings of the counters, one after the other: while a sale goes on they
    # may hold anything between these two; when it is quiet the two are one number.
    least = sku.before.taken - stock.returned
    most = stock.taken - sku.before.returned
    parts = f"{stock.remaining} left + {stock.taken} taken - {stock.returned} returned"
    found = [
        (
            FaultKind.ARITHMETIC,
            stock.allocated - counted,
            f"Redis: allocated {stock.allocated}, but {parts} = {counted}",
        ),
        (FaultKind.OVERSOLD, min(0, stock.remaining), f"Redis: remaining is {stock.remaining}"),
        (
            FaultKind.HELD,
            min(0, held - least) or max(0, held - most),
            f"Redis: taken - returned = {stock.taken - stock.returned}, but the buyers' records hold {held} units",
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
