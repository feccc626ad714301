"""What a batch of accepted orders means, decided without I/O.

Identity: an order is its id; a deduction is (order id, SKU, hold number); its origin is the outbox entry it came from.
The same deduction from the same origin is a harmless duplicate. From another origin it is a second deduction of stock,
whose units Redis has to get back. An event that was made anew, because its outbox entry had been lost, has no origin:
it says nothing of a second deduction, whichever comes first.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, TypeVar

from domain.errors import PoisonRecordError
from domain.events import OrderAccepted, decode_order_accepted

T = TypeVar("T")


class Reason(StrEnum):
    """Why a record went to the dead letters."""

    POISON = "poison"
    """It is not an event of this topic."""
    UNKNOWN_SKU = "unknown_sku"
    """Its campaign has no such SKU in MySQL."""
    OTHER_PAYLOAD = "other_payload"
    """Its order is known with another payload."""
    REFUSED = "refused"
    """MySQL refused it."""
    PARKED = "parked"
    """The saga of its redemption has failed too often and waits for people; published again, it is taken up anew."""


class Record(Protocol):
    """The part of a Kafka record that is looked at."""

    @property
    def topic(self) -> str:
        """Where it was read."""

    @property
    def partition(self) -> int:
        """Where it was read."""

    @property
    def offset(self) -> int:
        """Where it was read."""

    @property
    def key(self) -> bytes | None:
        """The key, as it came."""

    @property
    def value(self) -> bytes | None:
        """The value, as it came."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """The headers, as they came."""


class Counted(NamedTuple):
    """Key of a counter: one SKU of one campaign."""

    campaign_id: str
    sku_id: str


class Deduction(NamedTuple):
    """Key of a deduction."""

    order_id: str
    sku_id: str
    hold_no: int


class Payload(NamedTuple):
    """What an order is about."""

    fingerprint: str
    sku_id: str
    quantity: int


class Origin(NamedTuple):
    """The outbox entry that a deduction came from, and its place there."""

    outbox_id: str
    outbox_index: int

    def __str__(self) -> str:
        return f"{self.outbox_id}/{self.outbox_index}"


NO_ORIGIN: Final = Origin("0-0", 0)
"""Of an event that was made anew, and of a ledger row that no outbox entry stands behind."""


def origin_of(event: OrderAccepted) -> Origin:
    """Return where an event came from."""
    return Origin(event.outbox_id, event.outbox_index)


def is_second_deduction(known: Origin, origin: Origin) -> bool:
    """Tell whether a deduction that is known from one origin was made once more by another.

    An event that was made anew has none, and says nothing of a second one.
    """
    return known != origin and NO_ORIGIN not in {known, origin}


class Item(NamedTuple):
    """A record and the event in it."""

    record: Record
    event: OrderAccepted

    @property
    def counted(self) -> Counted:
        """The counter that the event moves."""
        return Counted(self.event.campaign_id, self.event.sku_id)

    @property
    def deduction(self) -> Deduction:
        """The deduction that the event reports."""
        return Deduction(self.event.order_id, self.event.sku_id, self.event.hold_no)

    @property
    def origin(self) -> Origin:
        """Where the deduction came from."""
        return origin_of(self.event)

    @property
    def payload(self) -> Payload:
        """What the order is about."""
        return Payload(self.event.fingerprint, self.event.sku_id, self.event.quantity)


@dataclass(frozen=True, slots=True)
class Dead:
    """A record for the dead letters."""

    record: Record
    reason: Reason
    error: str


@dataclass(slots=True)
class Outcome:
    """What became of the records of a batch; every record is counted once."""

    new: int = 0
    duplicates: int = 0
    second: list[Item] = field(default_factory=list)
    """Second deductions: Redis gets their units back."""
    dead: list[Dead] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Take in what became of another part of the batch."""
        self.new += other.new
        self.duplicates += other.duplicates
        self.second += other.second
        self.dead += other.dead


def split_poison(
    records: Iterable[Record], decode: Callable[[bytes | None], OrderAccepted] = decode_order_accepted
) -> tuple[list[Item], list[Dead]]:
    """Decode records; those that are no events are dead."""
    items: list[Item] = []
    dead: list[Dead] = []
    for record in records:
        try:
            items.append(Item(record, decode(record.value)))
        except PoisonRecordError as error:
            dead.append(Dead(record, Reason.POISON, str(error)))
        except RecursionError:
            dead.append(Dead(record, Reason.POISON, "the value is nested too deeply"))
    return items, dead


def counters(items: Iterable[Item]) -> dict[str, list[str]]:
    """Return campaign id → SKU ids of the counters that a batch may move, in the order in which everyone locks them."""
    found: dict[str, list[str]] = {}
    for campaign_id, sku_id in sorted({item.counted for item in items}):
        found.setdefault(campaign_id, []).append(sku_id)
    return found


def split_unknown(items: Iterable[Item], known: Collection[Counted]) -> tuple[list[Item], list[Dead]]:
    """Take out events for a SKU that MySQL does not know."""
    kept: list[Item] = []
    dead: list[Dead] = []
    for item in items:
        if item.counted in known:
            kept.append(item)
        else:
            text = f"campaign {item.event.campaign_id!r} has no SKU {item.event.sku_id!r} in MySQL"
            dead.append(Dead(item.record, Reason.UNKNOWN_SKU, text))
    return kept, dead


def order_rows(items: Iterable[Item]) -> list[Item]:
    """Return the first item of each order, in the order in which everyone writes them."""
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(item.event.order_id, item)
    return [first[order_id] for order_id in sorted(first)]


def split_other_payload(items: Iterable[Item], stored: Mapping[str, Payload]) -> tuple[list[Item], list[Dead]]:
    """Take out events whose order is known with another payload.

    Args:
        items: the batch.
        stored: order id → payload in MySQL, for those orders of the batch whose row another transaction has written.
            The rows of all others were made from the first item of each.
    """
    kept: list[Item] = []
    dead: list[Dead] = []
    known = dict(stored)
    for item in items:
        payload = known.setdefault(item.event.order_id, item.payload)
        if payload == item.payload:
            kept.append(item)
        else:
            text = f"the order is known with {payload}, and came with {item.payload}"
            dead.append(Dead(item.record, Reason.OTHER_PAYLOAD, text))
    return kept, dead


def ledger_rows(items: Iterable[Item]) -> list[Item]:
    """Return the first item of each deduction, in the order in which everyone writes them."""
    first: dict[Deduction, Item] = {}
    for item in items:
        first.setdefault(item.deduction, item)
    return [first[deduction] for deduction in sorted(first)]


def is_new(deduction: Deduction, known: Mapping[Deduction, Origin]) -> bool:
    """Tell whether the ledger's row of a deduction was written by this transaction, and not by any other."""
    return deduction not in known


def judge(items: Iterable[Item], known: Mapping[Deduction, Origin]) -> tuple[Outcome, dict[Counted, int]]:
    """Say what became of each item, and by how much each counter must move.

    Args:
        items: the batch, after `split_other_payload`.
        known: deductions of the batch whose ledger row another transaction has written, and whence they came; read
            back after the insert. The rows of all others are this transaction's, made from the first item of each.
    """
    outcome = Outcome()
    moves: Counter[Counted] = Counter()
    mine: dict[Deduction, Item] = {}
    for item in items:
        deduction = item.deduction
        if deduction not in mine and is_new(deduction, known):
            mine[deduction] = item
            outcome.new += 1
            moves[item.counted] += item.event.quantity
            continue
        origin = item.origin
        first = mine[deduction].origin if deduction in mine else known[deduction]
        if is_second_deduction(first, origin):
            outcome.second.append(item)
        else:
            outcome.duplicates += 1
    return outcome, dict(moves)


def returns(second: Iterable[Item]) -> list[Item]:
    """Return the first item of each second deduction, in the order in which everyone writes them."""
    found: dict[tuple[str, int, Origin], Item] = {}
    for item in second:
        found.setdefault((item.event.order_id, item.event.hold_no, item.origin), item)
    return [found[key] for key in sorted(found)]


def same_moves(moves: Mapping[Counted, int]) -> list[tuple[tuple[str, int], list[str]]]:
    """Group counters of a campaign that move by the same number, so that one statement moves them.

    Returns:
        ((campaign id, number), SKU ids), all sorted.
    """
    groups: dict[tuple[str, int], list[str]] = {}
    for campaign_id, sku_id in sorted(moves):
        groups.setdefault((campaign_id, moves[Counted(campaign_id, sku_id)]), []).append(sku_id)
    return sorted(groups.items())


def halves(items: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """Split a batch of at least two, to find the record at fault."""
    middle = len(items) // 2
    return items[:middle], items[middle:]
