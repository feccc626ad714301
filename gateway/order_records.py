"""An outbox entry of orders as records for Kafka: to the topic of its campaign's kind. Pure."""

from collections.abc import Callable
from typing import Final, NamedTuple

from domain.campaign import REDEMPTION
from domain.errors import PoisonRecordError
from domain.events import TOPIC_ORDERS_ACCEPTED, OrderAccepted, dead_topic, encode_order_accepted
from domain.outbox import decode_entry, parse_outbox_id
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED, encode_redemption_accepted, redemption_of
from gateway.outbox_source import Entry
from gateway.outgoing import Outgoing

EVENT_BYTES_MAX: Final = 64 * 1024
"""Far more than an order takes. An event that Kafka refuses would hold up all others."""
DEAD_VALUE_BYTES_MAX: Final = 512 * 1024
"""Of an entry that cannot be read; the rest is left out, for the same reason."""


class _Way(NamedTuple):
    """Where an accepted order goes, and as what."""

    topic: str
    encode: Callable[[OrderAccepted], bytes]


def _encode_redemption(order: OrderAccepted) -> bytes:
    return encode_redemption_accepted(redemption_of(order))


_ORDERS: Final = _Way(TOPIC_ORDERS_ACCEPTED, encode_order_accepted)
_REDEMPTIONS: Final = _Way(TOPIC_REDEMPTIONS_ACCEPTED, _encode_redemption)


def _way_of(kind: str) -> _Way:
    return _REDEMPTIONS if kind == REDEMPTION else _ORDERS


def order_records(entry: Entry, kind: str) -> list[Outgoing]:
    """Return the records of an entry's orders, in its order.

    Args:
        entry: of the outbox.
        kind: its campaign's.

    Raises:
        PoisonRecordError: the entry was not written by one of our scripts, or one of its orders is too long, or none
            of this kind of campaign.
    """
    way, timestamp_ms = _way_of(kind), parse_outbox_id(entry.outbox_id)[0]
    records = [
        Outgoing(way.topic, order.order_id.encode(), way.encode(order), timestamp_ms)
        for order in decode_entry(entry.campaign_id, entry.outbox_id, entry.fields)
    ]
    if max((len(record.value) for record in records), default=0) > EVENT_BYTES_MAX:
        raise PoisonRecordError(
            f"outbox entry {entry.outbox_id} of campaign {entry.campaign_id}: an order of more than "
            f"{EVENT_BYTES_MAX} bytes"
        )
    return records


def dead_record(entry: Entry, kind: str, error: PoisonRecordError) -> Outgoing:
    """Return the dead letter of an entry that cannot be read; its value is the entry, field by field."""
    value = b"\n".join(name + b"=" + content for name, content in entry.fields.items())
    text = str(error)
    if len(value) > DEAD_VALUE_BYTES_MAX:
        text = f"{text} (of {len(value)} bytes only the first {DEAD_VALUE_BYTES_MAX} are kept)"
    return Outgoing(
        dead_topic(_way_of(kind).topic),
        f"{entry.campaign_id} {entry.outbox_id}".encode(),
        value[:DEAD_VALUE_BYTES_MAX],
        parse_outbox_id(entry.outbox_id)[0],
        (("reason", b"outbox entry cannot be read"), ("error", text.encode())),
    )
