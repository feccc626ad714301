"""Which topics tell of an order, by the kind of its campaign, and what their records say. Decided without I/O."""

from collections.abc import Callable
from typing import Final, NamedTuple

from consumers.saga_facts import SagaFacts
from consumers.trace_facts import DrawFacts, EventFacts
from domain.campaign import LOTTERY, REDEMPTION
from domain.draw_events import TOPIC_DRAWS_WON, decode_draw_won
from domain.events import TOPIC_POINTS_AWARDED, OrderAccepted, decode_order_accepted, decode_points_awarded
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED, decode_redemption_accepted


class Told(NamedTuple):
    """What a record says."""

    event: EventFacts | None
    draw: DrawFacts | None = None


class Way(NamedTuple):
    """A topic that an order's records lie in, and who takes them."""

    topic: str
    consumer: str
    """Its group is `<consumer.group>.<consumer>`."""
    read: Callable[[bytes | None], Told]
    """Raises PoisonRecordError."""


def event_facts(event: OrderAccepted) -> EventFacts:
    """Return what an event tells of an order."""
    return EventFacts(
        user_id=event.user_id,
        sku_id=event.sku_id,
        quantity=event.quantity,
        hold_no=event.hold_no,
        accepted_at_ms=event.accepted_at_ms,
        outbox_id=event.outbox_id,
        outbox_index=event.outbox_index,
    )


def event_of_saga(saga: SagaFacts) -> EventFacts:
    """Return what a saga tells of an order."""
    return EventFacts(
        user_id=saga.user_id,
        sku_id=saga.sku_id,
        quantity=saga.quantity,
        hold_no=saga.hold_no,
        accepted_at_ms=saga.accepted_at_ms,
        outbox_id=saga.outbox_id,
        outbox_index=saga.outbox_index,
    )


def ways_of(kind: str, topic: str) -> tuple[Way, ...]:
    """Return the topics to look into, the one that tells of the order itself first.

    Args:
        kind: of the campaign; empty if nobody knows it: then all are looked into.
        topic: of accepted orders.
    """
    orders = Way(topic, "orders", _order)
    if kind == REDEMPTION:
        return (_REDEMPTIONS,)
    if kind == LOTTERY:
        return (_DRAWS, _AWARDS)
    return (orders,) if kind else (orders, _REDEMPTIONS, _DRAWS, _AWARDS)


def _order(value: bytes | None) -> Told:
    return Told(event_facts(decode_order_accepted(value)))


def _redemption(value: bytes | None) -> Told:
    return Told(event_facts(decode_redemption_accepted(value).order()))


def _draw(value: bytes | None) -> Told:
    won = decode_draw_won(value)
    draw = DrawFacts(sku_id=won.sku_id, points=won.points, seq=won.seq, hash=won.hash)
    return Told(event_facts(won.order()), draw)


def _award(value: bytes | None) -> Told:
    decode_points_awarded(value)
    return Told(None)


_REDEMPTIONS: Final = Way(TOPIC_REDEMPTIONS_ACCEPTED, "redemptions", _redemption)
_DRAWS: Final = Way(TOPIC_DRAWS_WON, "draws", _draw)
_AWARDS: Final = Way(TOPIC_POINTS_AWARDED, "points", _award)
