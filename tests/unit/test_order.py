"""Identity of an order, of a payload, and of an outbox entry."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.campaign import parse_campaign
from domain.errors import ConfigError, PoisonRecordError
from domain.order import fingerprint, order_id, split_order_id, user_hash
from domain.outbox import START, decode_entry, next_outbox_id, parse_outbox_id
from gateway.requests import InvalidRequestError, decode_place_order

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DIGEST = "0123456789abcdef" * 2


@given(TEXT, TEXT, TEXT, TEXT)
def test_different_identities_are_different_orders(user: str, key: str, other_user: str, other_key: str) -> None:
    """Two orders have one id exactly when buyer and key are the same, however the parts could run together."""
    same = (user, key) == (other_user, other_key)
    assert (order_id("c-1", user, key) == order_id("c-1", other_user, other_key)) == same


@given(TEXT, TEXT)
def test_parts_cannot_be_shifted(user: str, key: str) -> None:
    """Moving a character over the border between two parts makes another order."""
    assert order_id("c-1", user + "a", key) != order_id("c-1", user, "a" + key)
    assert order_id("c-1", user + "\x00", key) != order_id("c-1", user, "\x00" + key)


@given(st.text(max_size=60))
def test_only_order_ids_are_taken_apart(text: str) -> None:
    """What is taken apart is `<campaign id>~<32 hex>` and nothing else."""
    parts = split_order_id(text)
    assert (parts is not None) == bool(re.fullmatch(r"[a-z0-9-]{1,40}~[0-9a-f]{32}", text))


def test_campaign_in_an_order_id_is_a_campaign_id() -> None:
    """A stranger's order id names no Redis key but a campaign's: no braces, colons, newlines or surrogates."""
    assert split_order_id(f"c-1~{DIGEST}") == ("c-1", DIGEST)
    for campaign in ("", "C-1", "c 1", "c:0}:buyer:x", "c-1\n", "c~1", "\udcff", "c" * 41, "../c"):
        assert split_order_id(f"{campaign}~{DIGEST}") is None
    assert split_order_id(f"c-1~{DIGEST}\n") is None


def test_fixed_hashes() -> None:
    """The hashes never change: orders in Redis, Kafka and MySQL are known by them."""
    assert order_id("c-1", "ann", "k") == "c-1~d4552afae58c1d789344aa2c2ff3aa50"
    assert fingerprint("box", 1) == "82bff7984a1dc240"
    assert user_hash("ann").hex() == "8d3adf6abf23f3a5"


@pytest.mark.parametrize("name", ["campaign_id", "sku_id"])
def test_newline_at_the_end_of_an_id_is_refused(name: str) -> None:
    """An id that is right but for a newline at its end is no id, in requests and in campaign files."""
    body = {"campaign_id": "c-1", "sku_id": "box", "quantity": 1}
    assert decode_place_order(msgspec.json.encode(body)).quantity == 1
    with pytest.raises(InvalidRequestError, match=name):
        decode_place_order(msgspec.json.encode({**body, name: f"{body[name]}\n"}))
    file = (
        '[campaign]\nid = "c-1"\nopens_at = 2026-01-01T00:00:00Z\ncloses_at = 2027-01-01T00:00:00Z\n'
        '[[sku]]\nid = "box"\nstock = 1\n'
    )
    assert parse_campaign(file, source="x").id == "c-1"
    for value in ("c-1", "box"):
        with pytest.raises(ConfigError, match="id: Expected `str` matching"):
            parse_campaign(file.replace(f'"{value}"', f'"{value}\\n"'), source="x")


@given(
    st.tuples(st.integers(0, 1 << 48), st.integers(0, 1 << 32)), st.tuples(st.integers(0, 1 << 48), st.integers(0, 9))
)
def test_outbox_ids_sort_as_numbers(one: tuple[int, int], other: tuple[int, int]) -> None:
    """Outbox ids sort by their numbers, not by their characters, and the next id is the smallest larger one."""
    texts = [f"{ms}-{seq}" for ms, seq in (one, other)]
    assert (parse_outbox_id(texts[0]) < parse_outbox_id(texts[1])) == (one < other)
    assert parse_outbox_id(next_outbox_id(texts[0])) == (one[0], one[1] + 1)
    assert parse_outbox_id(START) <= one


def test_entry_is_decoded_in_order() -> None:
    """An entry of the outbox stands for its orders, with their place in it."""
    rows = [[DIGEST, "f" * 16, "box", 2, "ann", 5_900, 1], [DIGEST[::-1], "0" * 16, "bag", 1, "ben", 0, 3]]
    first, second = decode_entry("c-1", "17-4", {b"orders": msgspec.msgpack.encode(rows), b"t": b"17"})
    assert (first.order_id, first.user_id, first.outbox_index, first.hold_no) == (f"c-1~{DIGEST}", "ann", 0, 1)
    assert (second.sku_id, second.outbox_id, second.outbox_index, second.accepted_at_ms) == ("bag", "17-4", 1, 17)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {b"t": b"1"},
        {b"orders": b"\x90"},
        {b"orders": b"\x90", b"t": b"soon"},
        {b"orders": b"\xc1", b"t": b"1"},
        {b"orders": b"", b"t": b"1"},
        {b"orders": msgspec.msgpack.encode([["too", "short"]]), b"t": b"1"},
        {b"orders": msgspec.msgpack.encode([[DIGEST, "f", "box", "2", "ann", 1, 1]]), b"t": b"1"},
        {b"orders": b"\x91\x97\xa1\xff\xa1a\xa1a\x01\xa1a\x01\x01", b"t": b"1"},
    ],
)
def test_other_entries_are_poison(fields: dict[bytes, bytes]) -> None:
    """Whatever `admit_orders.lua` did not write is PoisonRecordError and never another exception."""
    with pytest.raises(PoisonRecordError, match="outbox entry 1-1 of campaign c-1"):
        decode_entry("c-1", "1-1", fields)
