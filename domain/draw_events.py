"""A lottery on its way over Kafka: its log, and what follows from the draws that won.

A lottery's outbox entry holds lines of its log (`domain.lottery`), of one batch of draws or of one other change. All
events are made from these lines, so that whoever has the log can make them again, the same ones.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

import msgspec
import orjson

from domain.campaign import CampaignId, SkuId
from domain.errors import PoisonRecordError
from domain.events import OrderAccepted, OutboxId, PointsAwarded, SchemaRef
from domain.lottery import PRIZE_UNITS, Drawn, LogEntry, parse_line
from domain.order import USER_ID_MAX_BYTES, fingerprint, split_order_id
from domain.points import AWARD_MAX

TOPIC_DRAWS_WON: Final = "draws.won"
TOPIC_DRAWS_LOG: Final = "draws.log"
"""The logs of all lotteries; key = campaign id, so that one log lies in one partition, in order."""

FIRST_HOLD: Final = 1

DRAW_WON_V1: Final = SchemaRef("draw.won", 1)
DRAW_LOG_V1: Final = SchemaRef("draw.log", 1)

Millis = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]


class DrawWon(msgspec.Struct, frozen=True, kw_only=True):
    """A draw that won a prize; `seq` is its line in the lottery's log, `hash` that of the entry there."""

    schema: SchemaRef = DRAW_WON_V1
    draw_id: str
    campaign_id: CampaignId
    sku_id: SkuId
    user_id: Annotated[str, msgspec.Meta(min_length=1, max_length=USER_ID_MAX_BYTES)]
    points: Annotated[int, msgspec.Meta(ge=0, le=AWARD_MAX)]
    seq: Annotated[int, msgspec.Meta(ge=1, le=1 << 48)]
    hash: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}$(?!\n)")]
    drawn_at_ms: Millis
    outbox_id: OutboxId
    outbox_index: Annotated[int, msgspec.Meta(ge=0, le=65_535)]

    def order(self) -> OrderAccepted:
        """Return the order that delivers the prize: one unit, nothing to pay."""
        return OrderAccepted(
            order_id=self.draw_id,
            campaign_id=self.campaign_id,
            sku_id=self.sku_id,
            user_id=self.user_id,
            quantity=PRIZE_UNITS,
            unit_price_cents=0,
            fingerprint=fingerprint(self.sku_id, PRIZE_UNITS),
            hold_no=FIRST_HOLD,
            accepted_at_ms=self.drawn_at_ms,
            outbox_id=self.outbox_id,
            outbox_index=self.outbox_index,
        )

    def award(self) -> PointsAwarded | None:
        """Return the points that the prize is worth, None if it is worth none."""
        if self.points == 0:
            return None
        return PointsAwarded(
            ref_id=self.draw_id,
            user_id=self.user_id,
            campaign_id=self.campaign_id,
            points=self.points,
            at_ms=self.drawn_at_ms,
        )


class DrawLog(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of a lottery's log: what one outbox entry holds. The same one may come again."""

    schema: SchemaRef = DRAW_LOG_V1
    campaign_id: CampaignId
    outbox_id: OutboxId
    at_ms: Millis
    seq: Annotated[int, msgspec.Meta(ge=1, le=1 << 48)]
    """Number of the first line."""
    hash: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}$(?!\n)")]
    lines: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=65_535)]

    @property
    def entry(self) -> LogEntry:
        """The entry alone."""
        return LogEntry(self.seq, self.hash, self.lines)

    def won(self) -> list[DrawWon]:
        """Return what follows from the draws in it that won.

        Raises:
            PoisonRecordError: a line cannot be read.
        """
        parsed = [parse_line(line) for line in self.lines]
        return [
            DrawWon(
                draw_id=f"{self.campaign_id}~{what.digest}",
                campaign_id=self.campaign_id,
                sku_id=what.sku_id,
                user_id=what.user_id,
                points=what.points,
                seq=self.seq + index,
                hash=self.hash,
                drawn_at_ms=self.at_ms,
                outbox_id=self.outbox_id,
                outbox_index=index,
            )
            for index, what in enumerate(parsed)
            if isinstance(what, Drawn) and what.sku_id
        ]


_unpack_lines: Final = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_won_decoder: Final = msgspec.json.Decoder(DrawWon)
_log_decoder: Final = msgspec.json.Decoder(DrawLog)


def decode_log_entry(campaign_id: str, outbox_id: str, fields: Mapping[bytes, bytes], at_ms: int) -> DrawLog:
    """Read an outbox entry of a lottery.

    Raises:
        KeyError, ValueError, msgspec.MsgspecError, PoisonRecordError: it is none.
    """
    log = DrawLog(
        campaign_id=campaign_id,
        outbox_id=outbox_id,
        at_ms=at_ms,
        seq=int(fields[b"seq"]),
        hash=fields[b"hash"].decode(),
        lines=_unpack_lines(fields[b"log"]),
    )
    log.won()
    return log


def encode_draw_event(event: DrawWon | DrawLog) -> bytes:
    """Return the Kafka value of an event."""
    return orjson.dumps(msgspec.to_builtins(event))


def decode_draw_won(value: bytes | None) -> DrawWon:
    """Decode a Kafka value.

    Raises:
        PoisonRecordError: not JSON, a wrong or missing field, an unknown schema, or ids that contradict each other.
    """
    try:
        event = _won_decoder.decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PoisonRecordError(f"not a {DRAW_WON_V1.name} event: {error}") from None
    if event.schema != DRAW_WON_V1:
        raise PoisonRecordError(f"unknown schema {event.schema.name!r} version {event.schema.version}")
    parts = split_order_id(event.draw_id)
    if parts is None or parts[0] != event.campaign_id:
        raise PoisonRecordError(f"draw id {event.draw_id!r} does not belong to campaign {event.campaign_id!r}")
    return event


def decode_draw_order(value: bytes | None) -> OrderAccepted:
    """Decode a Kafka value to the order that delivers the prize. Errors as in `decode_draw_won`."""
    return decode_draw_won(value).order()


def decode_draw_log(value: bytes | None) -> DrawLog:
    """Decode a Kafka value.

    Raises:
        PoisonRecordError: not JSON, a wrong or missing field, or an unknown schema.
    """
    try:
        event = _log_decoder.decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PoisonRecordError(f"not a {DRAW_LOG_V1.name} event: {error}") from None
    if event.schema != DRAW_LOG_V1:
        raise PoisonRecordError(f"unknown schema {event.schema.name!r} version {event.schema.version}")
    return event


def in_order(logs: Iterable[DrawLog], after_seq: int = 0) -> list[DrawLog]:
    """Return entries in the order of their numbers, each once; only those beyond `after_seq`.

    Two different ones with the same number are both kept: the chain cannot hold then.
    """
    found: dict[tuple[int, str, tuple[str, ...]], DrawLog] = {}
    for log in logs:
        if log.entry.last_seq > after_seq:
            found.setdefault(log.entry, log)
    return [found[key] for key in sorted(found)]
