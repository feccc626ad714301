"""A redemption on its way over Kafka: points for goods, admitted and holding stock, not decided yet.

In Redis a redemption is an order whose SKU has a price in points: its outbox entry has that price where a sale's has
cents.
"""

from typing import Annotated, Final

import msgspec
import orjson

from domain.campaign import CampaignId, SkuId
from domain.errors import PoisonRecordError
from domain.events import OrderAccepted, OutboxId, SchemaRef
from domain.order import QUANTITY_MAX, USER_ID_MAX_BYTES, is_user_id, split_order_id
from domain.points import BALANCE_MAX

TOPIC_REDEMPTIONS_ACCEPTED: Final = "redemptions.accepted"

REDEMPTION_ACCEPTED_V1: Final = SchemaRef("redemption.accepted", 1)


class RedemptionAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """A redemption that holds stock: the saga of this order id does the rest.

    `points` is the price of one unit at the time of admission, and no later one. The origin is as of `OrderAccepted`.
    """

    schema: SchemaRef = REDEMPTION_ACCEPTED_V1
    order_id: str
    campaign_id: CampaignId
    sku_id: SkuId
    user_id: Annotated[str, msgspec.Meta(min_length=1, max_length=USER_ID_MAX_BYTES)]
    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)]
    points: Annotated[int, msgspec.Meta(ge=1, le=BALANCE_MAX)]
    fingerprint: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$(?!\n)")]
    hold_no: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    accepted_at_ms: Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
    outbox_id: OutboxId
    outbox_index: Annotated[int, msgspec.Meta(ge=0, le=65_535)]

    @property
    def points_in_all(self) -> int:
        """Points that the whole order costs."""
        return self.points * self.quantity

    def order(self) -> OrderAccepted:
        """Return the order that delivers the goods: there is no money to pay."""
        return OrderAccepted(
            order_id=self.order_id,
            campaign_id=self.campaign_id,
            sku_id=self.sku_id,
            user_id=self.user_id,
            quantity=self.quantity,
            unit_price_cents=0,
            fingerprint=self.fingerprint,
            hold_no=self.hold_no,
            accepted_at_ms=self.accepted_at_ms,
            outbox_id=self.outbox_id,
            outbox_index=self.outbox_index,
        )


def redemption_of(order: OrderAccepted) -> RedemptionAccepted:
    """Return the redemption that an outbox entry of a redemption campaign stands for.

    Raises:
        PoisonRecordError: its price is none in points.
    """
    if not 1 <= order.unit_price_cents <= BALANCE_MAX:
        raise PoisonRecordError(f"order {order.order_id}: {order.unit_price_cents} is no price in points")
    return RedemptionAccepted(
        order_id=order.order_id,
        campaign_id=order.campaign_id,
        sku_id=order.sku_id,
        user_id=order.user_id,
        quantity=order.quantity,
        points=order.unit_price_cents,
        fingerprint=order.fingerprint,
        hold_no=order.hold_no,
        accepted_at_ms=order.accepted_at_ms,
        outbox_id=order.outbox_id,
        outbox_index=order.outbox_index,
    )


def encode_redemption_accepted(event: RedemptionAccepted) -> bytes:
    """Return the Kafka value of an event; its key is the order id."""
    return orjson.dumps(msgspec.to_builtins(event))


_decoder: Final = msgspec.json.Decoder(RedemptionAccepted)


def decode_redemption_accepted(value: bytes | None) -> RedemptionAccepted:
    """Decode a Kafka value.

    Raises:
        PoisonRecordError: not JSON, a wrong or missing field, an unknown schema, ids that contradict each other, or
            more points than any account can have.
    """
    if value is None:
        raise PoisonRecordError("the record has no value")
    try:
        event = _decoder.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PoisonRecordError(f"not a {REDEMPTION_ACCEPTED_V1.name} event: {error}") from None
    if event.schema != REDEMPTION_ACCEPTED_V1:
        raise PoisonRecordError(f"unknown schema {event.schema.name!r} version {event.schema.version}")
    parts = split_order_id(event.order_id)
    if parts is None or parts[0] != event.campaign_id:
        raise PoisonRecordError(f"order id {event.order_id!r} does not belong to campaign {event.campaign_id!r}")
    if not is_user_id(event.user_id):
        raise PoisonRecordError("the user can be nobody: blanks at its ends, or characters that cannot be printed")
    if event.points_in_all > BALANCE_MAX:
        raise PoisonRecordError(f"no account can have the {event.points_in_all} points that it costs")
    return event
