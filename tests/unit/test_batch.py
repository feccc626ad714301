"""What a batch of accepted orders means: pure decisions."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import batch
from consumers.batch import Counted, Deduction, Item, LedgerRow, Payload, Reason
from domain.events import OrderAccepted, encode_order_accepted
from tests.support.events import event
from tests.support.records import Plain

MINE = b"m" * 16
OTHERS = b"o" * 16


def item(one: OrderAccepted, *, offset: int = 0) -> Item:
    """Return an event in a record."""
    return Item(Plain(offset=offset), one)


def written(one: OrderAccepted, nonce: bytes) -> dict[Deduction, LedgerRow]:
    """Return the ledger after a transaction with this nonce has written the event."""
    row = LedgerRow(one.outbox_id, one.outbox_index, nonce)
    return {Deduction(one.order_id, one.sku_id, one.hold_no): row}


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


def test_own_row_is_new_and_moves_its_counter() -> None:
    """A row that bears this transaction's nonce moves the counter by its quantity."""
    one = event(1, quantity=3)
    outcome, moves = batch.judge([item(one)], written(one, MINE), MINE)
    assert (outcome.new, outcome.duplicates, outcome.dead) == (1, 0, [])
    assert moves == {Counted("c-1", "box-1"): 3}


def test_row_of_another_transaction_moves_nothing() -> None:
    """A row that bears another nonce, from the same origin, is a duplicate."""
    one = event(1)
    outcome, moves = batch.judge([item(one)], written(one, OTHERS), MINE)
    assert (outcome.new, outcome.duplicates, outcome.dead, moves) == (0, 1, [], {})


def test_duplicate_within_a_batch_moves_once() -> None:
    """The same event twice in a batch is one new row and one duplicate."""
    one = event(1)
    outcome, moves = batch.judge([item(one), item(one, offset=1)], written(one, MINE), MINE)
    assert (outcome.new, outcome.duplicates) == (1, 1)
    assert moves == {Counted("c-1", "box-1"): 1}


@pytest.mark.parametrize("nonce", [MINE, OTHERS])
@pytest.mark.parametrize("change", [{"outbox_id": "9-9"}, {"outbox_index": 77}])
def test_other_origin_is_a_second_deduction(nonce: bytes, change: dict[str, object]) -> None:
    """A deduction that is known from another origin is dead and moves nothing, also within a batch."""
    one = event(1)
    other = msgspec.structs.replace(one, **change)
    outcome, moves = batch.judge([item(one), item(other, offset=1)], written(one, nonce), MINE)
    assert [(dead.record.offset, dead.reason) for dead in outcome.dead] == [(1, Reason.SECOND_DEDUCTION)]
    assert sum(moves.values()) == (1 if nonce == MINE else 0)


def test_counters_that_move_alike_share_a_statement() -> None:
    """Counters of a campaign are grouped by how far they move, sorted."""
    moves = {Counted("c-2", "x"): 1, Counted("c-1", "b"): 1, Counted("c-1", "a"): 1, Counted("c-1", "c"): 5}
    assert batch.same_moves(moves) == [(("c-1", 1), ["a", "b"]), (("c-1", 5), ["c"]), (("c-2", 1), ["x"])]


def test_next_offsets_are_one_past_the_last() -> None:
    """Each partition goes on after its last record, whatever order they came in."""
    records = [Plain(partition=0, offset=7), Plain(partition=1, offset=3), Plain(partition=0, offset=5)]
    assert batch.next_offsets(records) == {("orders.accepted", 0): 8, ("orders.accepted", 1): 4}


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
    """New + duplicates + dead is the batch, and the counters move by exactly the rows that bear the nonce."""
    events = [
        msgspec.structs.replace(event(number), outbox_id="9-9" if forged else "1-1", hold_no=hold)
        for number, forged, hold in plan
    ]
    items = [item(one, offset=offset) for offset, one in enumerate(events)]
    ledger: dict[Deduction, LedgerRow] = {}
    for one in batch.ledger_rows(items):
        number = int(one.event.user_id.removeprefix("buyer-"))
        ledger.update(written(one.event, OTHERS if number in known else MINE))
    outcome, moves = batch.judge(items, ledger, MINE)
    assert outcome.new + outcome.duplicates + len(outcome.dead) == len(items)
    assert sum(moves.values()) == sum(1 for row in ledger.values() if row.nonce == MINE)
