"""What a batch of accepted orders means: pure decisions."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import batch
from consumers.batch import Counted, Deduction, Item, Origin, Payload, Reason
from domain.events import OrderAccepted, encode_order_accepted
from tests.support.events import event
from tests.support.records import Plain


def item(one: OrderAccepted, *, offset: int = 0) -> Item:
    """Return an event in a record."""
    return Item(Plain(offset=offset), one)


def known_from(*events: OrderAccepted) -> dict[Deduction, Origin]:
    """Return what the ledger says of these events when another transaction has written their rows."""
    return {item(one).deduction: item(one).origin for one in events}


def test_poison_is_told_from_events() -> None:
    """A value that is no event is dead with the reason; the others are decoded."""
    good = event(1)
    records = [Plain(value=encode_order_accepted(good), offset=0), Plain(value=b"{", offset=1), Plain(offset=2)]
    items, dead = batch.split_poison(records)
    assert [one.event for one in items] == [good]
    assert [(one.record.offset, one.reason) for one in dead] == [(1, Reason.POISON), (2, Reason.POISON)]


def test_counters_come_in_one_order() -> None:
    """Every batch names its counters sorted, each once."""
    events = [event(1, sku_id="b"), event(2, sku_id="a"), event(3, sku_id="b"), event(4, campaign_id="c-0", sku_id="z")]
    assert batch.counters(item(one) for one in events) == {"c-0": ["z"], "c-1": ["a", "b"]}
    assert list(batch.counters(item(one) for one in events)) == ["c-0", "c-1"]


def test_unknown_sku_is_dead() -> None:
    """An event whose counter does not exist is taken out."""
    items, dead = batch.split_unknown(
        [item(event(1, sku_id="a")), item(event(2, sku_id="b"))],
        {Counted("c-1", "a")},
    )
    assert [one.event.sku_id for one in items] == ["a"]
    assert [one.reason for one in dead] == [Reason.UNKNOWN_SKU]


def test_rows_are_unique_and_sorted() -> None:
    """Of each order and deduction the first item is written, in one order; another hold is another deduction."""
    first, again = event(1), msgspec.structs.replace(event(1), outbox_id="9-9")
    second_hold = msgspec.structs.replace(event(1), hold_no=2)
    items = [item(one) for one in (first, again, second_hold, event(2))]
    orders = batch.order_rows(items)
    assert [one.event.order_id for one in orders] == sorted({first.order_id, event(2).order_id})
    assert next(one.event for one in orders if one.event.order_id == first.order_id) is first
    ledger = batch.ledger_rows(items)
    assert [one.deduction for one in ledger] == sorted({one.deduction for one in items})


@pytest.mark.parametrize(
    "stored",
    [
        Payload("0" * 16, "box-1", 1),
        Payload(event(1).fingerprint, "box-2", 1),
        Payload(event(1).fingerprint, "box-1", 2),
    ],
)
def test_other_payload_is_dead(stored: Payload) -> None:
    """A known order with another fingerprint, SKU or quantity is taken out."""
    items, dead = batch.split_other_payload([item(event(1))], {event(1).order_id: stored})
    assert items == []
    assert [one.reason for one in dead] == [Reason.OTHER_PAYLOAD]


def test_of_a_batch_the_first_payload_counts() -> None:
    """An order that comes twice in a batch, with two payloads, is what its first record says."""
    first, other = item(event(1)), item(event(1, quantity=2), offset=1)
    kept, dead = batch.split_other_payload([first, other, first], {})
    assert kept == [first, first]
    assert [(one.record.offset, one.reason) for one in dead] == [(1, Reason.OTHER_PAYLOAD)]


def test_own_row_is_new_and_moves_its_counter() -> None:
    """A row that no other transaction has written moves the counter by its quantity."""
    outcome, moves = batch.judge([item(event(1, quantity=3))], {})
    assert (outcome.new, outcome.duplicates, outcome.second, outcome.dead) == (1, 0, [], [])
    assert moves == {Counted("c-1", "box-1"): 3}


def test_row_of_another_transaction_moves_nothing() -> None:
    """A row that another transaction has written, from the same origin, is a duplicate."""
    outcome, moves = batch.judge([item(event(1))], known_from(event(1)))
    assert (outcome.new, outcome.duplicates, outcome.second, outcome.dead, moves) == (0, 1, [], [], {})


def test_duplicate_within_a_batch_moves_once() -> None:
    """The same event twice in a batch is one new row and one duplicate."""
    one = event(1)
    outcome, moves = batch.judge([item(one), item(one, offset=1)], {})
    assert (outcome.new, outcome.duplicates) == (1, 1)
    assert moves == {Counted("c-1", "box-1"): 1}


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("change", [{"outbox_id": "9-9"}, {"outbox_index": 77}])
def test_other_origin_is_a_second_deduction(*, known: bool, change: dict[str, object]) -> None:
    """A deduction that is known from another origin moves nothing and is to be given back, also within a batch."""
    one = event(1)
    other = item(msgspec.structs.replace(one, **change), offset=1)
    outcome, moves = batch.judge([item(one), other], known_from(one) if known else {})
    assert (outcome.second, outcome.dead) == ([other], [])
    assert sum(moves.values()) == (0 if known else 1)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("remade_first", [False, True])
def test_an_event_made_anew_is_a_duplicate(*, known: bool, remade_first: bool) -> None:
    """An event without an origin is no second deduction, whether it or the original one comes first."""
    original, remade = event(1), msgspec.structs.replace(event(1), outbox_id="0-0", outbox_index=0)
    first, second = (remade, original) if remade_first else (original, remade)
    outcome, _ = batch.judge([item(first), item(second)], known_from(first) if known else {})
    assert (outcome.second, outcome.dead) == ([], [])
    assert (outcome.new, outcome.duplicates) == ((0, 2) if known else (1, 1))


def test_second_deductions_are_given_back_once_each() -> None:
    """Of each origin of an order's hold there is one return, in the order in which everyone writes them."""
    late = msgspec.structs.replace(event(1), outbox_id="9-9")
    later = msgspec.structs.replace(event(1), outbox_id="9-9", outbox_index=77)
    items = [item(one) for one in (later, late, event(2), later)]
    found = [(one.event.order_id, str(one.origin)) for one in batch.returns(items)]
    assert found == sorted({(one.event.order_id, str(one.origin)) for one in items})


def test_counters_that_move_alike_share_a_statement() -> None:
    """Counters of a campaign are grouped by how far they move, sorted."""
    moves = {Counted("c-2", "x"): 1, Counted("c-1", "b"): 1, Counted("c-1", "a"): 1, Counted("c-1", "c"): 5}
    assert batch.same_moves(moves) == [(("c-1", 1), ["a", "b"]), (("c-1", 5), ["c"]), (("c-2", 1), ["x"])]


@given(st.lists(st.integers(0, 9), min_size=2, max_size=40))
def test_halves_lose_nothing(numbers: list[int]) -> None:
    """Both halves are smaller than the whole and together are the whole."""
    items = [item(event(number)) for number in numbers]
    left, right = batch.halves(items)
    assert [*left, *right] == items
    assert max(len(left), len(right)) < len(items)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(1, 3)), max_size=40), st.sets(st.integers(0, 5))
)
def test_every_record_is_counted_once_and_counters_equal_new_rows(
    plan: list[tuple[int, bool, int]],
    known: set[int],
) -> None:
    """New + duplicates + second + dead is the batch, and the counters move by exactly the rows that are new."""
    events = [
        msgspec.structs.replace(event(number), outbox_id="9-9" if forged else "1-1", hold_no=hold)
        for number, forged, hold in plan
    ]
    items = [item(one, offset=offset) for offset, one in enumerate(events)]
    firsts = batch.ledger_rows(items)
    others = [one.event for one in firsts if int(one.event.user_id.removeprefix("buyer-")) in known]
    outcome, moves = batch.judge(items, known_from(*others))
    assert outcome.new + outcome.duplicates + len(outcome.second) + len(outcome.dead) == len(items)
    assert sum(moves.values()) == outcome.new == len(firsts) - len(others)
