"""What a batch of accepted redemptions means, decided without I/O.

A redemption is its order id, and so is its saga. What comes again from the same outbox entry is a harmless duplicate;
what comes from another one is a second deduction of stock, whose units Redis has to get back.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from consumers.batch import Counted, Dead, Item, Origin, Outcome, Payload, Reason, Record, is_second_deduction
from domain.errors import PoisonRecordError
from domain.redemption_events import RedemptionAccepted, decode_redemption_accepted


class Redemption(NamedTuple):
    """A record and the event in it."""

    record: Record
    event: RedemptionAccepted

    @property
    def counted(self) -> Counted:
        """The counter of its SKU."""
        return Counted(self.event.campaign_id, self.event.sku_id)

    @property
    def payload(self) -> Payload:
        """What it is about."""
        return Payload(self.event.fingerprint, self.event.sku_id, self.event.quantity)

    @property
    def origin(self) -> Origin:
        """Where its units were deducted."""
        return Origin(self.event.outbox_id, self.event.outbox_index)


class Known(NamedTuple):
    """A saga that another transaction has written."""

    payload: Payload
    origin: Origin
    parked: bool


@dataclass(slots=True)
class Judged:
    """What became of a batch."""

    outcome: Outcome = field(default_factory=Outcome)
    resumed: set[str] = field(default_factory=set)
    """Parked sagas whose record has come again: they are taken up anew."""


def split_poison(records: Iterable[Record]) -> tuple[list[Redemption], list[Dead]]:
    """Decode records; those that are no events are dead."""
    found: list[Redemption] = []
    dead: list[Dead] = []
    for record in records:
        try:
            found.append(Redemption(record, decode_redemption_accepted(record.value)))
        except PoisonRecordError as error:
            dead.append(Dead(record, Reason.POISON, str(error)))
    return found, dead


def counters(redemptions: Iterable[Redemption]) -> dict[str, list[str]]:
    """Return campaign id → SKU ids that a batch speaks of."""
    found: dict[str, list[str]] = {}
    for campaign_id, sku_id in sorted({one.counted for one in redemptions}):
        found.setdefault(campaign_id, []).append(sku_id)
    return found


def split_unknown(redemptions: Iterable[Redemption], known: Collection[Counted]) -> tuple[list[Redemption], list[Dead]]:
    """Take out redemptions of a SKU that MySQL does not know."""
    kept: list[Redemption] = []
    dead: list[Dead] = []
    for one in redemptions:
        if one.counted in known:
            kept.append(one)
        else:
            text = f"campaign {one.event.campaign_id!r} has no SKU {one.event.sku_id!r} in MySQL"
            dead.append(Dead(one.record, Reason.UNKNOWN_SKU, text))
    return kept, dead


def saga_rows(redemptions: Iterable[Redemption]) -> list[Redemption]:
    """Return the first of each saga, in the order in which everyone writes them."""
    first: dict[str, Redemption] = {}
    for one in redemptions:
        first.setdefault(one.event.order_id, one)
    return [first[saga_id] for saga_id in sorted(first)]


def judge(redemptions: Iterable[Redemption], known: Mapping[str, Known]) -> Judged:
    """Say what became of each redemption.

    Args:
        redemptions: the batch.
        known: saga id → what another transaction has written, read back after the insert. The rows of all others are
            this transaction's, made from the first of each.
    """
    judged = Judged()
    rows = dict(known)
    for one in redemptions:
        saga_id, outcome = one.event.order_id, judged.outcome
        row = rows.get(saga_id)
        if row is None:
            rows[saga_id] = Known(one.payload, one.origin, parked=False)
            outcome.new += 1
        elif row.payload != one.payload:
            text = f"the redemption is known with {row.payload}, and came with {one.payload}"
            outcome.dead.append(Dead(one.record, Reason.OTHER_PAYLOAD, text))
        elif is_second_deduction(row.origin, one.origin):
            outcome.second.append(Item(one.record, one.event.order()))
        else:
            outcome.duplicates += 1
            if row.parked:
                judged.resumed.add(saga_id)
    return judged
