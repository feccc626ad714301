"""The chain of outbox entries: each names the one before it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import PoisonRecordError
from domain.outbox import START, TIME_MAX_MS, decode_entry, is_gap, parse_outbox_id, previous_id

ids = st.builds("{}-{}".format, st.integers(1, 10**13), st.integers(0, 10**6))


@given(st.lists(ids, min_size=1, max_size=8, unique=True), st.data())
def test_a_gap_is_noticed_exactly_where_entries_are_gone(made: list[str], data: st.DataObject) -> None:
    """Of a chain of entries any may be gone: a gap is noticed where a predecessor is missing, and only there."""
    made.sort(key=parse_outbox_id)
    named = dict(zip(made, [START, *made], strict=False))
    left = [one for one in made if data.draw(st.booleans())]
    position = START
    for one in left:
        assert is_gap(named[one], position) == (named[one] not in {START, *left})
        position = one


@given(ids, ids)
def test_entries_put_in_by_hand_are_no_gap(first: str, by_hand: str) -> None:
    """An entry that was put in between names nothing, and is not named; its successor is where it should be."""
    first, by_hand = sorted((first, by_hand), key=parse_outbox_id)
    assert previous_id({b"by": b"hand"}) is None
    assert not is_gap(first, by_hand)


@pytest.mark.parametrize("text", [b"", b"-", b"1", b"1-", b"-1", b"1-1\n", b"a-b", b"1-1-1", b"9" * 21 + b"-0"])
def test_what_is_no_id_names_nothing(text: bytes) -> None:
    """A name that is no outbox id is none, and never an exception; ids are told as they are."""
    assert previous_id({b"p": text}) is None
    assert previous_id({b"p": b"17-4"}) == "17-4"


@pytest.mark.parametrize("text", ["-1", str(TIME_MAX_MS + 1), "9" * 4_000, "9" * 5_000])
def test_times_that_are_none_are_poison(text: str) -> None:
    """A time that no event can have makes an entry poison, here and not only where it is encoded."""
    assert decode_entry("c-1", "1-1", {b"orders": b"\x90", b"t": str(TIME_MAX_MS).encode()}) == []
    with pytest.raises(PoisonRecordError, match="outbox entry 1-1 of campaign c-1"):
        decode_entry("c-1", "1-1", {b"orders": b"\x90", b"t": text.encode()})
