"""What the three stores say of a campaign, gathered hold by hold.

A **hold** is what is counted: order, hold number and quantity, within one SKU. Stores that disagree about any of these
hold different things, so a wrong quantity shows as one hold missing and one extra. A store's witness is a *fact* about
a hold; facts are gathered here and judged in `reconcile_rules`, each hold by itself.

There may be millions of holds, so one is a string and a number in a dictionary and nothing more: about 180 bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from consumers.reconcile_points import PointsLook
from domain import order_state
from domain.outbox import OutboxPosition, parse_outbox_id

REDIS: Final = 1 << 0
"""A buyer's record has taken it."""
RETURNED: Final = 1 << 1
"""A buyer's record has given it back."""
WAITING: Final = 1 << 2
"""It is in the outbox, beyond the relay's checkpoint."""
QUEUED: Final = 1 << 3
"""It is in Kafka, at or beyond the offset that the consumers have committed."""
HANDLED: Final = 1 << 4
"""It is in Kafka, below that offset."""
DEAD: Final = 1 << 5
"""It is in the dead letters."""
SETTLED: Final = 1 << 6
"""It is in the dead letters, and a person has dealt with it."""
ROW: Final = 1 << 7
"""Its order has a row."""
TAKE: Final = 1 << 8
"""The ledger has its taking."""
RELEASE: Final = 1 << 9
"""The ledger has its release."""
HOLDING: Final = 1 << 10
"""The status of its order says that it is held."""
FREED: Final = 1 << 11
"""The status of its order, or a later hold, says that it was given back."""
OWED: Final = 1 << 12
"""MySQL notes that Redis has still to get units of it back."""
REACQUIRING: Final = 1 << 13
"""MySQL notes that Redis is asked to take it for a payment that came late."""
SECOND: Final = 1 << 14
"""It came from more than one outbox entry."""
SAGA: Final = 1 << 15
"""MySQL has a saga of it that has not ended."""

STORED: Final = ROW | TAKE
IN_KAFKA: Final = QUEUED | HANDLED
FROM_EVENT: Final = WAITING | IN_KAFKA | DEAD | SETTLED
KNOWN: Final = REDIS | FROM_EVENT

KIND_TAKE: Final = "take"

_FACT_BITS: Final = 16
_FACTS: Final = (1 << _FACT_BITS) - 1
_SEQ_BITS: Final = 64
_INDEX_BITS: Final = 16
_DIGEST_LENGTH: Final = 32

HoldKey = str
"""`<32 hex of the order> <hold number> <quantity>`."""


class Stock(NamedTuple):
    """A SKU's numbers in Redis."""

    remaining: int = 0
    taken: int = 0
    returned: int = 0
    allocated: int = 0


NO_STOCK: Final = Stock()


def hold_key(digest: str, hold_no: int, quantity: int) -> HoldKey:
    """Return the key of a hold."""
    return f"{digest} {hold_no} {quantity}"


def split_key(key: HoldKey) -> tuple[str, int, int]:
    """Return an order's 32 hex, hold number and quantity."""
    digest, hold_no, quantity = key.split(" ")
    return digest, int(hold_no), int(quantity)


def digest_of(key: HoldKey) -> str:
    """Return an order's 32 hex."""
    return key[:_DIGEST_LENGTH]


def facts_of(value: int) -> int:
    """Return the facts in a dictionary's value."""
    return value & _FACTS


def origin_of(value: int) -> int:
    """Return the origin in a dictionary's value, see `pack_origin`; 0 where none is known.

    Of a hold that no event told of, only the time in it is known, from the order's row.
    """
    return value >> _FACT_BITS


def pack_origin(outbox_id: str, index: int) -> int:
    """Return an outbox id and a place in it as one number that sorts the same way; 0 of an event made anew (0-0)."""
    ms, seq = parse_outbox_id(outbox_id)
    return (((ms << _SEQ_BITS) | seq) << _INDEX_BITS) | index


def origin_ms(origin: int) -> int:
    """Return the time in a packed origin, Unix milliseconds by Redis's clock."""
    return origin >> (_SEQ_BITS + _INDEX_BITS)


@dataclass(slots=True)
class SkuLook:
    """What the stores say of one SKU."""

    in_redis: bool = False
    before: Stock = NO_STOCK
    """Redis's numbers before the buyers' records were read."""
    after: Stock = NO_STOCK
    """And afterwards."""
    mysql_allocated: int = 0
    mysql_sold: int = 0
    ledger_units: int = 0
    order_rows: int = 0
    pending_returns: int = 0
    """Returns that MySQL owes to Redis."""
    second_units: int = 0
    """Units among them that were deducted a second time."""
    holds: dict[HoldKey, int] = field(default_factory=dict)
    """Hold → its facts and its origin."""

    def add(self, key: HoldKey, facts: int) -> None:
        """Note facts about a hold."""
        self.holds[key] = self.holds.get(key, 0) | facts

    def add_all(self, keys: Iterable[HoldKey], facts: int) -> None:
        """Note the same facts about many holds."""
        holds, known = self.holds, self.holds.get
        for key in keys:
            holds[key] = known(key, 0) | facts


class CampaignLook:
    """Gathers what the stores say of one campaign; the order of the calls does not matter.

    Args:
        campaign_id: the campaign.
        began_ms: Redis's clock before anything was read, Unix milliseconds.
    """

    def __init__(self, campaign_id: str, *, began_ms: int) -> None:
        self.campaign_id = campaign_id
        self.kind = ""
        """As Redis says; where it has lost the campaign, what its events and sagas tell."""
        self.points = PointsLook()
        self.sagas_parked = 0
        """Sagas that wait for a person."""
        self.began_ms = began_ms
        self.ended_ms = began_ms
        """Redis's clock after everything was read."""
        self.accepted_to: OutboxPosition = (0, 0)
        """The newest outbox entry when the buyers' records had been read."""
        self.checkpoint: OutboxPosition = (0, 0)
        """How far the relay was then."""
        self.skus: dict[str, SkuLook] = {}
        self.by_status: dict[str, int] = {}
        """Order rows by status."""
        self.strays: set[tuple[str, str]] = set()
        """Order ids in MySQL's rows of this campaign that are none of its own, and their SKUs."""
        self.notes: list[str] = []
        """What could not be read."""

    def note(self, text: str) -> None:
        """Note what could not be read."""
        if text not in self.notes:
            self.notes.append(text)

    def sku(self, sku_id: str) -> SkuLook:
        """Return what is gathered about a SKU."""
        found = self.skus.get(sku_id)
        if found is None:
            found = self.skus[sku_id] = SkuLook()
        return found

    def attempt(self, digest: str, sku_id: str, quantity: int, hold_no: int, *, held: bool) -> None:
        """Note an attempt in a buyer's record; a higher hold number says that the holds before were given back."""
        sku = self.sku(sku_id)
        sku.add(hold_key(digest, hold_no, quantity), REDIS if held else REDIS | RETURNED)
        for number in range(1, hold_no):
            sku.add(hold_key(digest, number, quantity), REDIS | RETURNED)

    def event(self, key: HoldKey, sku_id: str, origin: int, facts: int) -> None:
        """Note an event found in the outbox (WAITING), in Kafka (QUEUED or HANDLED) or in the dead letters.

        One that was made anew (origin 0) is no second deduction, whatever else is known of its hold.
        """
        holds = self.sku(sku_id).holds
        value = holds.get(key, 0)
        known = value >> _FACT_BITS
        if value & FROM_EVENT and known and origin and known != origin:
            facts |= SECOND
        holds[key] = (origin or known) << _FACT_BITS | value & _FACTS | facts

    def counter(self, sku_id: str, *, allocated: int, sold: int) -> None:
        """Note MySQL's counter of a SKU."""
        sku = self.sku(sku_id)
        sku.mysql_allocated, sku.mysql_sold = allocated, sold

    def order_row(self, key: HoldKey, sku_id: str, status: str, accepted_at_ms: int) -> None:
        """Note a row of `orders`, by its last hold; it stands for all holds up to that one."""
        sku = self.sku(sku_id)
        sku.order_rows += 1
        self.by_status[status] = self.by_status.get(status, 0) + 1
        says = HOLDING if status in order_state.HOLDING else FREED
        value = sku.holds.get(key, 0)
        origin = value >> _FACT_BITS or accepted_at_ms << (_SEQ_BITS + _INDEX_BITS)
        sku.holds[key] = origin << _FACT_BITS | value & _FACTS | ROW | says
        if key[_DIGEST_LENGTH:].startswith(" 1 "):
            return
        digest, hold_no, quantity = split_key(key)
        for number in range(1, hold_no):
            sku.add(hold_key(digest, number, quantity), ROW | FREED)

    def stray(self, order_id: str, sku_id: str) -> None:
        """Note a row with an order id that is none of this campaign's."""
        self.strays.add((order_id, sku_id))

    def ledger_row(self, key: HoldKey, sku_id: str, kind: str) -> None:
        """Note a row of `stock_ledger`; whatever is no taking gives back."""
        sku = self.sku(sku_id)
        quantity = split_key(key)[2]
        sku.add(key, TAKE if kind == KIND_TAKE else RELEASE)
        sku.ledger_units += quantity if kind == KIND_TAKE else -quantity

    def pending_return(self, key: HoldKey, sku_id: str, *, second: bool) -> None:
        """Note what MySQL owes to Redis: the release of a hold, or what was deducted a second time for it."""
        sku = self.sku(sku_id)
        sku.add(key, OWED)
        sku.pending_returns += 1
        if second:
            sku.second_units += split_key(key)[2]

    def saga(self, key: HoldKey, sku_id: str, origin: int, *, parked: bool) -> None:
        """Note a saga that has not ended, and where its units were deducted (see `pack_origin`)."""
        holds = self.sku(sku_id).holds
        value = holds.get(key, 0)
        holds[key] = (value >> _FACT_BITS or origin) << _FACT_BITS | value & _FACTS | SAGA
        self.points.under_way.add(digest_of(key))
        self.sagas_parked += parked

    def reacquiring(self, key: HoldKey, sku_id: str) -> None:
        """Note a payment that came after its order had expired, and the hold that Redis is asked to take for it."""
        self.sku(sku_id).add(key, REACQUIRING)
