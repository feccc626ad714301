"""What a dead letter is, how it is shown, and what is owed for one that is given up. Decided without I/O."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import orjson

from consumers.batch import Record
from domain.draw_events import decode_draw_order, decode_draw_won
from domain.errors import PoisonRecordError
from domain.events import (
    DEAD_SUFFIX,
    OrderAccepted,
    PointsAwarded,
    dead_topic,
    decode_order_accepted,
    decode_order_changed,
    decode_points_awarded,
)
from domain.order import split_order_id
from domain.redemption_events import RedemptionAccepted, decode_redemption_accepted

TOPIC_BYTES_MAX: Final = 100
"""As many as the table `dead_letter_done` takes."""
SHORT_TEXT_MAX: Final = 120
"""Characters of an error or a key in a list."""
DROPPED_REASON: Final = "dead letter dropped"
"""What `order_change` says of an order that was rejected because its dead letter was given up."""

OUR_HEADERS: Final = ("reason", "error", "topic", "partition", "offset", "failed_at")
"""What a consumer adds behind a record's own headers, in this order; see `consumers.dead_letters`."""
RELAY_HEADERS: Final = ("reason", "error")
"""What the relay gives an outbox entry that cannot be read; there is no record behind it."""

_ID: Final = re.compile(r"([A-Za-z0-9._-]+):([0-9]{1,9})@([0-9]{1,18})")

Headers = Sequence[tuple[str, bytes]]


class LetterId(NamedTuple):
    """Where a dead letter is; as text `<topic>:<partition>@<offset>`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}@{self.offset}"


class Action(StrEnum):
    """What was done with a dead letter."""

    REPLAYED = "replayed"
    DROPPED = "dropped"


class Mark(NamedTuple):
    """A row of `dead_letter_done`."""

    action: str
    at_ms: int


class Origin(NamedTuple):
    """Where the record of a dead letter was read."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}@{self.offset}"


class Hold(Protocol):
    """The part of an attempt in a buyer's record that is looked at (`adapters.stock.Attempt`)."""

    @property
    def digest(self) -> str:
        """The order, 32 hex digits."""

    @property
    def fingerprint(self) -> str:
        """Of its payload."""

    @property
    def sku_id(self) -> str:
        """What it is for."""

    @property
    def quantity(self) -> int:
        """Units."""

    @property
    def hold_no(self) -> int:
        """The number of its present hold."""

    @property
    def held(self) -> bool:
        """Whether Redis holds units for it now."""


class DeadRecord(Record, Protocol):
    """The part of a Kafka record that a letter is made of (`adapters.kafka_reader.FullRecord`).

    Its headers are the record's own, and ours behind them.
    """

    @property
    def timestamp_ms(self) -> int:
        """As its producer set it."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter."""

    id: LetterId
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    """The record's own, as they came."""
    reason: str
    error: str
    at_ms: int
    """When it was set aside, Unix milliseconds."""
    origin: Origin | None
    """None: no record of any topic stands behind it; the relay set an outbox entry aside."""

    @property
    def order_id(self) -> str:
        """The order it is about, by its key; empty if the key is no order id."""
        text = _text(self.key)
        return text if split_order_id(text) else ""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter in a list, without its value."""

    id: str
    at_ms: int
    reason: str
    order_id: str
    """Empty: its key is no order id."""
    key: str
    error: str
    origin: str
    """`<topic>:<partition>@<offset>` of the record; empty if there is none."""
    action: str
    """Empty: nothing was done with it."""
    action_at_ms: int | None


def parse_letter_id(text: str) -> LetterId | None:
    """Read `<topic>:<partition>@<offset>`; None if it is not one of a dead-letter topic."""
    parts = _ID.fullmatch(text)
    if parts is None or not parts[1].endswith(DEAD_SUFFIX) or len(parts[1]) > TOPIC_BYTES_MAX:
        return None
    return LetterId(parts[1], int(parts[2]), int(parts[3]))


def read_letter(record: DeadRecord) -> Letter:
    """Take a dead letter apart. Whatever its headers are, it can be shown; only what is ours is taken for ours."""
    own, ours = _split_headers(record.headers)
    origin = None
    if {"topic", "partition", "offset"} <= ours.keys():
        partition, offset = _number(ours["partition"]), _number(ours["offset"])
        if partition is not None and offset is not None:
            origin = Origin(_text(ours["topic"]), partition, offset)
    failed_at_ms = _number(ours.get("failed_at", b""))
    return Letter(
        id=LetterId(record.topic, record.partition, record.offset),
        key=record.key,
        value=record.value,
        headers=own,
        reason=_text(ours.get("reason")),
        error=_text(ours.get("error")),
        at_ms=record.timestamp_ms if failed_at_ms is None else failed_at_ms,
        origin=origin,
    )


def summarize(letter: Letter, mark: Mark | None) -> Summary:
    """Return what a list says of a letter."""
    return Summary(
        id=str(letter.id),
        at_ms=letter.at_ms,
        reason=letter.reason,
        order_id=letter.order_id,
        key=shorten(_text(letter.key)),
        error=letter.error,
        origin="" if letter.origin is None else str(letter.origin),
        action="" if mark is None else mark.action,
        action_at_ms=None if mark is None else mark.at_ms,
    )


def why_not_replayed(letter: Letter) -> str:
    """Return why a letter cannot be published again; empty if it can.

    Where it goes is written in its headers, so that a forged letter could name any topic: only the topic that this
    dead-letter topic belongs to is believed.
    """
    if letter.origin is None:
        return (
            "it is an outbox entry that the relay could not read, not a record, so there is nothing to publish again. "
            "If `./flashgate reconcile` misses orders of it, `reconcile --repair` publishes them from Redis; "
            "then drop this letter"
        )
    if dead_topic(letter.origin.topic) != letter.id.topic:
        return f"it says that it comes from {printable(letter.origin.topic)}, whose dead letters are not kept here"
    return ""


def event_of(letter: Letter) -> OrderAccepted | None:
    """Return the accepted order in a letter, or the one that delivers a prize or a redemption; None: it holds none."""
    if letter.origin is None:
        return None
    for decode in (decode_order_accepted, decode_draw_order):
        with contextlib.suppress(PoisonRecordError):
            return decode(letter.value)
    redemption = redemption_of(letter)
    return None if redemption is None else redemption.order()


def redemption_of(letter: Letter) -> RedemptionAccepted | None:
    """Return the accepted redemption in a letter, or None if it holds none."""
    if letter.origin is None:
        return None
    try:
        return decode_redemption_accepted(letter.value)
    except PoisonRecordError:
        return None


def award_of(letter: Letter) -> PointsAwarded | None:
    """Return the award in a letter, or None if it holds none."""
    if letter.origin is None:
        return None
    try:
        return decode_points_awarded(letter.value)
    except PoisonRecordError:
        return None


def hold_of(event: OrderAccepted, attempts: Sequence[Hold]) -> Hold | None:
    """Return what Redis holds for exactly this event, or None.

    Only the event that took the units may give them back: one with the same order id and another payload is forged,
    and the true one may still be on its way.
    """
    for attempt in attempts:
        if f"{event.campaign_id}~{attempt.digest}" == event.order_id:
            theirs = (event.fingerprint, event.sku_id, event.quantity, event.hold_no)
            ours = (attempt.fingerprint, attempt.sku_id, attempt.quantity, attempt.hold_no)
            return attempt if attempt.held and ours == theirs else None
    return None


def about(letter: Letter) -> str:
    """Return what a letter's record says, in words."""
    if letter.origin is None:
        return "an outbox entry that the relay could not read"
    for read in (_order_words, _redemption_words, _prize_words, _award_words, _change_words):
        with contextlib.suppress(PoisonRecordError):
            return read(letter.value)
    return "no event that is known here"


def _order_words(value: bytes | None) -> str:
    one = decode_order_accepted(value)
    price = f"{one.unit_price_cents / 100:.2f} each"
    return f"an accepted order: {one.quantity} of {one.sku_id} for user {one.user_id}, {price}"


def _redemption_words(value: bytes | None) -> str:
    one = decode_redemption_accepted(value)
    return (
        f"an accepted redemption: {one.quantity} of {one.sku_id} for user {one.user_id}, {one.points_in_all:,} points; "
        f"`./flashgate saga show {one.order_id}` tells how far it is"
    )


def _prize_words(value: bytes | None) -> str:
    one = decode_draw_won(value)
    return (
        f"a draw that won: {one.sku_id} for user {one.user_id}, worth {one.points:,} points, line {one.seq} of the log"
    )


def _award_words(value: bytes | None) -> str:
    one = decode_points_awarded(value)
    return f"an award: {one.points:,} points for user {one.user_id}, of draw {one.ref_id}"


def _change_words(value: bytes | None) -> str:
    one = decode_order_changed(value)
    return f"news of an order: {one.status} ({one.reason}), version {one.version}"


# -- how it is shown -----------------------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Return a text in which everything that a terminal would obey, or not show, is written as an escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def shorten(text: str, characters_max: int = SHORT_TEXT_MAX) -> str:
    """Return the beginning of a text, with a mark if something was cut off."""
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"


def iso(at_ms: int) -> str:
    """Return a time as ISO 8601 in UTC, with milliseconds; what lies beyond the calendar stays a number."""
    try:
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def pretty(value: bytes | None) -> str:
    """Return a value for a person: JSON indented, anything else as text; nothing in it is obeyed by a terminal."""
    if value is None:
        return "(no value)"
    parsed = as_json(value)
    if parsed is None:
        return printable(_text(value))
    lines = orjson.dumps(parsed, option=orjson.OPT_INDENT_2).decode().splitlines()
    return "\n".join(printable(line) for line in lines)


def as_json(value: bytes | None) -> Any:  # noqa: ANN401 -- JSON is anything
    """Return the JSON in a value, or None if it is none."""
    try:
        return None if value is None else orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


def one_line(facts: object) -> str:
    """Return facts as one line of JSON in ASCII: a terminal obeys some of what lies beyond it."""
    return json.dumps(facts, separators=(",", ":"))


def _text(raw: bytes | None) -> str:
    return "" if raw is None else raw.decode("utf-8", "backslashreplace")


def _number(raw: bytes) -> int | None:
    text = _text(raw)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _split_headers(headers: Headers) -> tuple[tuple[tuple[str, bytes], ...], Mapping[str, bytes]]:
    """Return a record's own headers, and by name those that were added when it was set aside."""
    names = tuple(name for name, _ in headers)
    for added in (OUR_HEADERS, RELAY_HEADERS):
        if names[len(names) - len(added) :] == added:
            own = len(names) - len(added)
            return tuple(headers[:own]), dict(headers[own:])
    return tuple(headers), {}
