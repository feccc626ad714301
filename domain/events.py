"""Events as they travel over Kafka: JSON with a versioned schema, key = order id."""

from typing import Annotated, Final

import msgspec
import orjson

from domain.campaign import CampaignId, Cents, SkuId
from domain.errors import PoisonRecordError
from domain.order import QUANTITY_MAX, USER_ID_MAX_BYTES, is_user_id, split_order_id
from domain.points import AWARD_MAX, RefId

TOPIC_ORDERS_ACCEPTED: Final = "orders.accepted"
TOPIC_ORDERS_EVENTS: Final = "orders.events"
TOPIC_POINTS_AWARDED: Final = "points.awarded"
DEAD_SUFFIX: Final = ".dead"


def dead_topic(topic: str) -> str:
    """Return the name of a topic's dead-letter topic."""
    return topic + DEAD_SUFFIX


class SchemaRef(msgspec.Struct, frozen=True):
    """Name and version of an event's schema."""

    name: str
    version: int


ORDER_ACCEPTED_V1: Final = SchemaRef("order.accepted", 1)

OutboxId = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,20}-[0-9]{1,20}$(?!\n)")]


class OrderAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """An order that holds stock: written by `admit_orders.lua`, published by the relay, stored by the consumer.

    `outbox_id` and `outbox_index` are the event's origin: the stream entry and the place in it. The same order from
    the same origin is a harmless duplicate; from another origin it is a second deduction.
    """

    schema: SchemaRef = ORDER_ACCEPTED_V1
    order_id: str
    campaign_id: CampaignId
    sku_id: SkuId
    user_id: Annotated[str, msgspec.Meta(min_length=1, max_length=USER_ID_MAX_BYTES)]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)]
    unit_price_cents: Cents
    fingerprint: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$(?!\n)")]
    hold_no: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    accepted_at_ms: Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
    outbox_id: OutboxId
    outbox_index: Annotated[int, msgspec.Meta(ge=0, le=65_535)]


ORDER_CHANGED_V1: Final = SchemaRef("order.changed", 1)


class OrderChanged(msgspec.Struct, frozen=True, kw_only=True):
    """An order that moved from one status to another after it was confirmed: paid, cancelled, expired, ….

    `version` rises by one with every move of an order, from 2 on, so that a reader can put repeated events in order.
    An event may be published twice. A reader that needs the order itself finds its row in MySQL: it is there before.
    """

    schema: SchemaRef = ORDER_CHANGED_V1
    order_id: str
    campaign_id: str
    sku_id: str
    user_id: str
    quantity: int
    status: str
    version: int
    reason: str
    at_ms: int


_decoder: Final = msgspec.json.Decoder(OrderAccepted)


def encode_order_accepted(event: OrderAccepted) -> bytes:
    """Return the Kafka value of an event."""
    return orjson.dumps(msgspec.to_builtins(event))


def decode_order_accepted(value: bytes | None) -> OrderAccepted:
    """Decode a Kafka value.

    Raises:
        PoisonRecordError: not JSON, a wrong or unknown field, an unknown schema, or ids that contradict each other.
    """
    if value is None:
        raise PoisonRecordError("the record has no value")
    try:
        event = _decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PoisonRecordError(f"not an {ORDER_ACCEPTED_V1.name} event: {error}") from None
    if event.schema != ORDER_ACCEPTED_V1:
        raise PoisonRecordError(f"unknown schema {event.schema.name!r} version {event.schema.version}")
    parts = split_order_id(event.order_id)
    if parts is None or parts[0] != event.campaign_id:
        raise PoisonRecordError(f"order id {event.order_id!r} does not belong to campaign {event.campaign_id!r}")
    return event


def encode_order_changed(event: OrderChanged) -> bytes:
    """Return the Kafka value of an event."""
    return orjson.dumps(msgspec.to_builtins(event))


_changed_decoder: Final = msgspec.json.Decoder(OrderChanged)


def decode_order_changed(value: bytes | None) -> OrderChanged:
    """Decode a Kafka value.

    Raises:
        PoisonRecordError: not JSON, a wrong or missing field, or an unknown schema.
    """
    try:
        event = _changed_decoder.decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PoisonRecordError(f"not an {ORDER_CHANGED_V1.name} event: {error}") from None
    if event.schema != ORDER_CHANGED_V1:
        raise PoisonRecordError(f"unknown schema {event.schema.name!r} version {event.schema.version}")
    return event


POINTS_AWARDED_V1: Final = SchemaRef("points.awarded", 1)


class PointsAwarded(msgspec.Struct, frozen=True, kw_only=True):
    """Points that a prize is worth; the key is `ref_id`, so that all copies of an award lie in one partition.

    `ref_id` is the id of the draw, which has the form of an order id. An account is moved by an award once: whatever
    comes again under the same `ref_id` moves nothing.
    """

    schema: SchemaRef = POINTS_AWARDED_V1
    ref_id: RefId
    user_id: Annotated[str, msgspec.Meta(min_length=1, max_length=USER_ID_MAX_BYTES)]
    campaign_id: CampaignId
    points: Annotated[int, msgspec.Meta(ge=1, le=AWARD_MAX)]
    at_ms: Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]


def encode_points_awarded(event: PointsAwarded) -> bytes:
    """Return the Kafka value of an event."""
    return orjson.dumps(msgspec.to_builtins(event))


_awarded_decoder: Final = msgspec.json.Decoder(PointsAwarded)


def decode_points_awarded(value: bytes | None) -> PointsAwarded:
    """Decode a Kafka value.

    Raises:
        PoisonRecordError: not JSON, a wrong or unknown field, an unknown schema, or ids that contradict each other.
    """
    if value is None:
        raise PoisonRecordError("the record has no value")
    try:
        event = _awarded_decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PoisonRecordError(f"not a {POINTS_AWARDED_V1.name} event: {error}") from None
    if event.schema != POINTS_AWARDED_V1:
        raise PoisonRecordError(f"unknown schema {event.schema.name!r} version {event.schema.version}")
    parts = split_order_id(event.ref_id)
    if parts is None or parts[0] != event.campaign_id:
        raise PoisonRecordError(f"draw id {event.ref_id!r} does not belong to campaign {event.campaign_id!r}")
    if not is_user_id(event.user_id):
        raise PoisonRecordError("the user can be nobody: blanks at its ends, or characters that cannot be printed")
    return event
