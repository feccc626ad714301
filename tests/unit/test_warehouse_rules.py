"""What follows from what in the warehouse, and what its books make of the rows they are given."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warehouse.books import AllocationRow, Books, CountedRow, LedgerSum, PartRow, SkuRow, find_differences, report
from warehouse.rules import (
    ON_HAND_MAX,
    SHOP_MOVES,
    BookingKind,
    is_key,
    is_sku_id,
    is_warehouse_id,
    shop_room,
    spread,
)

rooms = st.lists(st.tuples(st.uuids().map(str), st.integers(-5, 50)), max_size=6)


@given(st.integers(0, 200), rooms)
def test_spread_takes_all_or_nothing(units: int, room: list[tuple[str, int]]) -> None:
    """Exactly so many units are taken, no place gives more than it has, and nothing is taken if there are too few."""
    there = sum(max(has, 0) for _, has in room)
    parts = spread(units, room)
    if there < units:
        assert parts is None
    else:
        assert parts is not None
        assert sum(parts.values()) == units
        assert all(0 < part <= dict(room)[place] for place, part in parts.items())


def test_spread_fills_places_in_their_order() -> None:
    """A later place gives only what the earlier ones have not."""
    assert spread(7, [("a", 3), ("b", 0), ("c", 3), ("d", 9)]) == {"a": 3, "c": 3, "d": 1}
    assert spread(0, []) == {}


@given(
    st.sampled_from(sorted(SHOP_MOVES)),
    st.integers(0, ON_HAND_MAX),
    st.integers(0, ON_HAND_MAX),
    st.integers(0, ON_HAND_MAX),
)
def test_what_there_is_room_for_keeps_the_equation(kind: BookingKind, free: int, allocated: int, reserved: int) -> None:
    """Moving all that there is room for leaves no number below zero, and on_hand at least allocated + reserved."""
    on_hand = free + allocated + reserved
    room = shop_room(kind, on_hand=on_hand, allocated=allocated, reserved=reserved)
    deltas = SHOP_MOVES[kind]
    on_hand, reserved = on_hand + room * deltas.on_hand, reserved + room * deltas.reserved
    assert deltas.allocated == 0
    assert min(room, reserved) >= 0
    assert on_hand >= allocated + reserved


@pytest.mark.parametrize("kind", [BookingKind.ALLOCATE, BookingKind.WITHDRAW, BookingKind.RETURN])
def test_campaigns_units_are_not_moved_by_hand(kind: BookingKind) -> None:
    """What belongs to a campaign has rules of its own."""
    assert kind not in SHOP_MOVES
    with pytest.raises(ValueError, match="by hand"):
        shop_room(kind, on_hand=1, allocated=0, reserved=0)


@pytest.mark.parametrize("text", ["", "a b", "a\n", "ä", "a" * 101, "x'"])
def test_ids_and_keys_are_of_ascii(text: str) -> None:
    """Nothing that the tables' columns would refuse, or a terminal obey, is an id or a key."""
    assert not is_sku_id(text)
    assert not is_warehouse_id(text)
    assert is_key(text) == (text == "x'")


def balanced() -> Books:
    """Return the books of one SKU: 10 came in, a campaign was given 6 and has shipped 3, one parcel came back."""
    moves: list[tuple[str, BookingKind, int, int, int]] = [
        ("", BookingKind.RECEIVE, 10, 0, 0),
        ("c-1", BookingKind.ALLOCATE, 0, 8, 0),
        ("c-1", BookingKind.WITHDRAW, 0, -2, 0),
        ("c-1", BookingKind.SHIP, -3, -3, 0),
        ("c-1", BookingKind.RETURN, 1, 1, 0),
        ("", BookingKind.RESERVE, 0, 0, 4),
        ("", BookingKind.UNRESERVE, 0, 0, -1),
        ("", BookingKind.SHIP, -2, 0, -2),
    ]
    return Books(
        skus=[SkuRow("box", "boxes", "Box")],
        attributes=[("box", "colour", "red"), ("box", "size", "M")],
        stock=[CountedRow("box", "main", 6, 4, 1)],
        ledger=[LedgerSum("box", "main", campaign_id, kind, *deltas) for campaign_id, kind, *deltas in moves],
        allocations=[AllocationRow("c-1", "box", 6, 5, 3, 2)],
        parts=[PartRow("c-1", "box", "main", 6, 2)],
    )


def test_report_of_books_that_balance() -> None:
    """Every number of a SKU is shown, of each warehouse and each campaign."""
    found = report(balanced())
    assert (found.balanced, found.differences) == (True, [])
    (sku,) = found.skus
    assert (sku.sku_id, sku.product, sku.attributes) == ("box", "Box", {"colour": "red", "size": "M"})
    assert (sku.on_hand, sku.allocated, sku.reserved, sku.free) == (6, 4, 1, 1)
    assert (sku.received, sku.shipped, sku.returned) == (10, 5, 1)
    (line,) = sku.campaigns
    assert (line.allocated, line.in_file, line.topped_up, line.withdrawn, line.shipped) == (6, 5, 3, 2, 2)
    (place,) = sku.warehouses
    assert (place.warehouse_id, place.on_hand, place.free) == ("main", 6, 1)


@pytest.mark.parametrize(
    ("table", "row", "words"),
    [
        ("stock", CountedRow("box", "main", 7, 4, 1), ["on_hand is 7, its ledger comes to 6", "10 received - 5"]),
        (
            "stock",
            CountedRow("box", "main", 6, 5, 1),
            ["allocated is 5, its ledger", "campaigns have there comes to 4"],
        ),
        ("stock", CountedRow("box", "main", 6, 4, 3), ["reserved is 3, its ledger comes to 1", "and 6 on hand"]),
        ("allocations", AllocationRow("c-1", "box", 6, 5, 3, 1), ["5 in its file + 3 topped up - 1 withdrawn = 7"]),
        ("allocations", AllocationRow("c-1", "box", 7, 6, 3, 2), ["allocated is 7, its warehouses' parts come to 6"]),
        (
            "parts",
            PartRow("c-1", "box", "main", 6, 3),
            ["shipped is 3, its ledger comes to 2", "comes to 3", "= 3, its"],
        ),
        ("parts", PartRow("c-2", "box", "main", 6, 2), ["was given nothing there", "campaign c-2"]),
        ("ledger", LedgerSum("box", "main", "", BookingKind.UNRESERVE, 1, 0, 0), ["on_hand is 6, its ledger"]),
    ],
)
def test_each_number_that_is_wrong_is_told(table: str, row: Any, words: list[str]) -> None:
    """A number that is not what its ledger comes to is a sentence that says where, what and why."""
    books = balanced()
    setattr(books, table, [*books.ledger[:-1], row] if table == "ledger" else [row])
    differences = find_differences(books)
    for some in words:
        assert any(some in difference for difference in differences), differences
    assert not report(books).balanced


def test_sku_without_rows_has_no_units() -> None:
    """A SKU that the catalog names and no warehouse has is shown, with zeros."""
    found = report(Books(skus=[SkuRow("new", "", "")]))
    assert found.balanced
    assert (found.skus[0].on_hand, found.skus[0].warehouses) == (0, [])
