"""What a dead letter is, how it is shown, and what is owed for it, without any server."""

import json
from dataclasses import dataclass, field
from typing import Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.stock import Attempt
from cli.deadletter import letter_facts, letter_lines, listing_table
from consumers.dead_letter_desk import Listing
from consumers.dead_letter_rules import (
    Headers,
    LetterId,
    Mark,
    Origin,
    event_of,
    hold_of,
    iso,
    one_line,
    parse_letter_id,
    pretty,
    printable,
    read_letter,
    shorten,
    summarize,
    why_not_replayed,
)
from domain.draw_events import encode_draw_event
from domain.events import encode_order_accepted
from tests.support.events import draw_won, event

ESCAPES: Final = "\x1b[2J\x07\x9b31m\u202e\r\n\x00"
FACTS: Final = (
    ("reason", b"unknown_sku"),
    ("error", b"no SKU"),
    ("topic", b"orders.accepted"),
    ("partition", b"3"),
    ("offset", b"17"),
    ("failed_at", b"1790000000123"),
)


@dataclass(frozen=True)
class Found:
    """A record of a dead-letter topic."""

    topic: str = "orders.accepted.dead"
    partition: int = 1
    offset: int = 5
    timestamp_ms: int = 1_790_000_000_999
    key: bytes | None = b"key"
    value: bytes | None = b"value"
    headers: Headers = field(default=FACTS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "orders.accepted:0@1",
        "orders.accepted.dead:0",
        "orders.accepted.dead:-1@0",
        "orders.accepted.dead:0@1x",
        "orders accepted.dead:0@1",
        "o" * 96 + ".dead:0@1",
        "x.dead:0@1\n",
        "x.dead:٣@1",
    ],
)
def test_what_is_no_id(text: str) -> None:
    """Anything but `<topic>.dead:<partition>@<offset>` is no id."""
    assert parse_letter_id(text) is None


def test_ids_are_read_as_they_are_written() -> None:
    """An id that is shown can be given back."""
    one = LetterId("orders.accepted.dead", 3, 1_234)
    assert parse_letter_id(str(one)) == one


def test_own_headers_are_told_from_ours() -> None:
    """What a consumer added is taken off the end; a record's own headers stay, even where they bear the same names."""
    own = (("reason", b"its own"), ("topic", b"x"))
    letter = read_letter(Found(headers=(*own, *FACTS)))
    assert letter.headers == own
    assert (letter.reason, letter.error, letter.at_ms) == ("unknown_sku", "no SKU", 1_790_000_000_123)
    assert letter.origin == Origin("orders.accepted", 3, 17)
    assert why_not_replayed(letter) == ""


@pytest.mark.parametrize(
    "headers",
    [(), (("reason", b"x"),), FACTS[:5], FACTS[1:], (*FACTS, ("more", b""))],
    ids=["none", "one", "cut off", "without reason", "with more"],
)
def test_headers_that_are_not_ours(headers: Headers) -> None:
    """A record with other headers can be shown, is nobody's dead letter, and is never published anywhere."""
    letter = read_letter(Found(headers=headers))
    assert (letter.origin, letter.reason, letter.at_ms) == (None, "", 1_790_000_000_999)
    assert letter.headers == tuple(headers)
    assert why_not_replayed(letter) != ""


def test_outbox_entry_is_no_record() -> None:
    """What the relay set aside cannot be replayed, and the message says what to do instead."""
    letter = read_letter(Found(headers=(("reason", b"outbox entry cannot be read"), ("error", b"KeyError"))))
    assert letter.reason == "outbox entry cannot be read"
    assert "reconcile --repair" in why_not_replayed(letter)
    assert event_of(letter) is None


def test_only_the_topic_of_its_own_is_published_to() -> None:
    """A letter that names another topic than the one its dead-letter topic belongs to is not believed."""
    letter = read_letter(Found(headers=tuple((name, b"payments" if name == "topic" else raw) for name, raw in FACTS)))
    assert "payments" in why_not_replayed(letter)


def test_numbers_that_are_none() -> None:
    """A partition or offset that is no number leaves the letter without a record; a bad time is Kafka's."""
    for name in ("partition", "offset"):
        letter = read_letter(Found(headers=tuple((key, b"-1" if key == name else raw) for key, raw in FACTS)))
        assert letter.origin is None
    letter = read_letter(Found(headers=tuple((key, b"soon" if key == "failed_at" else raw) for key, raw in FACTS)))
    assert letter.at_ms == 1_790_000_000_999


def test_units_are_owed_for_exactly_what_redis_holds() -> None:
    """Only the event with the payload and the hold number that the buyer's record has may give its units back."""
    one = event(1, quantity=2)
    hold = Attempt(one.order_id[-32:], one.fingerprint, one.sku_id, 2, 1, held=True)
    other = Attempt("0" * 32, one.fingerprint, one.sku_id, 2, 1, held=True)
    assert hold_of(one, [other, hold]) == hold
    assert hold_of(one, []) is None
    assert hold_of(one, [other]) is None
    assert hold_of(one, [hold._replace(held=False)]) is None
    for change in ({"fingerprint": "f" * 16}, {"sku_id": "box-2"}, {"quantity": 3}, {"hold_no": 2}):
        assert hold_of(msgspec.structs.replace(one, **change), [hold]) is None


def test_event_in_a_letter() -> None:
    """A letter's value is an accepted order, or it is none."""
    assert event_of(read_letter(Found(value=encode_order_accepted(event(1))))) == event(1)
    won = draw_won()
    assert event_of(read_letter(Found(value=encode_draw_event(won)))) == won.order()
    for value in (None, b"", b"{}", b"[" * 10_000):
        assert event_of(read_letter(Found(value=value))) is None


@given(st.text())
def test_printable_is_printable(text: str) -> None:
    """Whatever a text holds, nothing is left that a terminal obeys; what was printable stays as it is."""
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


@given(st.binary(max_size=200))
def test_pretty_obeys_nothing(value: bytes) -> None:
    """Any value can be shown, line by line, without anything that a terminal obeys."""
    assert all(line.isprintable() for line in pretty(value).split("\n"))


def test_everything_shown_is_printable() -> None:
    """A letter full of terminal escapes is shown with all of them written out, in `show`, in `list` and as JSON."""
    raw = ESCAPES.encode()
    headers = tuple((name, raw if name in {"reason", "error"} else text) for name, text in FACTS)
    value = json.dumps({"text": ESCAPES, "more": [1, None]}, ensure_ascii=False).encode()
    letter = read_letter(Found(key=raw, value=value, headers=((ESCAPES, raw), *headers)))
    for mark in (None, Mark("replayed", 5)):
        lines = letter_lines(letter, mark)
        assert all(line.isprintable() for line in lines)
        assert any("\\x1b[2J" in line for line in lines)
        assert one_line(letter_facts(letter, mark)).isascii()
        assert json.loads(one_line(letter_facts(letter, mark)))["value"]["text"] == ESCAPES
    listing = Listing(letters=[summarize(letter, None)], open=1, not_looked_at=0)
    cells = [cell for column in listing_table(listing, with_done=True).columns for cell in column.cells]
    assert cells
    assert all(str(cell).isprintable() for cell in cells)
    assert one_line(msgspec.to_builtins(listing)).isascii()


def test_values_as_a_person_reads_them() -> None:
    """JSON is indented, text is text, bytes that are none are written out, and no value is said to be none."""
    assert pretty(b'{"a":[1,2]}') == '{\n  "a": [\n    1,\n    2\n  ]\n}'
    assert pretty(b"t=1\nx=\xff") == "t=1\\nx=\\xff"
    assert pretty(None) == "(no value)"


def test_times_and_lengths() -> None:
    """Times are UTC to the millisecond, whatever the number; a long text ends in a mark."""
    assert iso(1_790_000_000_123) == "2026-09-21T14:13:20.123Z"
    assert iso(10**18) == f"{10**18} ms"
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"
