"""What recovery brings back, decided without I/O."""

import msgspec
import pytest

from adapters.stock import LostOrder
from domain.errors import BackendError
from domain.events import OrderAccepted
from domain.order import digest_of
from domain.order_state import HOLDING, OrderStatus
from domain.outbox import START
from gateway.recovery_rules import StoredOrder, find_loss, held_of
from tests.support.events import event

LAST = (1_790_000_000_000, 0)
"""Orders 0 to 9 are in this entry (see `tests.support.events.event`), 10 to 19 in the next, and so on."""


def brief(orders: list[LostOrder]) -> list[tuple[str, int, int, str]]:
    """Return user, hold number, held and origin of each."""
    return [(one.user_id, one.hold_no, one.held, one.origin) for one in orders]


def row(one: OrderAccepted, status: str = "confirmed", hold_no: int = 1) -> StoredOrder:
    """Return an order as its row has it."""
    return StoredOrder(msgspec.structs.replace(one, hold_no=hold_no), status)


def test_nothing_is_lost() -> None:
    """What Redis knows is not brought back, and the ids of its outbox stay."""
    assert find_loss([], [event(3)], LAST) == ([], START)


def test_orders_accepted_since_come_back_once_in_their_order() -> None:
    """An order that Kafka has twice, and MySQL too, is one; the newest id is that of the last entry."""
    events = [event(21), event(11), event(3), event(11), event(10)]
    loss = find_loss([row(event(11)), row(event(12), "paid")], events, LAST)
    assert brief(loss.orders) == [
        ("buyer-10", 1, 1, "1790000000000-1/0"),
        ("buyer-11", 1, 1, "1790000000000-1/1"),
        ("buyer-12", 1, 2, "1790000000000-1/2"),
        ("buyer-21", 1, 1, "1790000000000-2/1"),
    ]
    assert loss.newest_id == "1790000000000-2"
    first = loss.orders[0]
    assert (first.digest, first.fingerprint) == (event(10).order_id[-32:], event(10).fingerprint)
    assert (first.sku_id, first.quantity) == ("box-1", 1)


def test_what_is_given_back_comes_first() -> None:
    """Units that were given back are there for the orders that took them."""
    rows = [row(event(30)), row(event(20), "expired"), row(event(1), "cancelled"), row(event(2), "paid", hold_no=2)]
    assert brief(find_loss(rows, [], LAST).orders) == [
        ("buyer-1", 1, 0, ""),
        ("buyer-20", 1, 0, "1790000000000-2/0"),
        ("buyer-2", 2, 2, ""),
        ("buyer-30", 1, 1, "1790000000000-3/0"),
    ]


def test_the_row_decides() -> None:
    """What the event of an order says counts only where the order has no row."""
    assert brief(find_loss([row(event(10), "expired")], [event(10)], LAST).orders) == [
        ("buyer-10", 1, 0, "1790000000000-1/0")
    ]


def test_second_deductions_are_kept_apart() -> None:
    """An order that was accepted twice since, under two origins, is told twice: the second is no second order."""
    again = msgspec.structs.replace(event(10), outbox_id="1790000000000-5", outbox_index=7)
    loss = find_loss([row(event(10))], [event(10), again], LAST)
    assert brief(loss.orders) == [
        ("buyer-10", 1, 1, "1790000000000-1/0"),
        ("buyer-10", 1, 1, "1790000000000-5/7"),
    ]
    assert loss.newest_id == "1790000000000-5"


def test_events_made_anew_come_back_too() -> None:
    """An event without an origin may be of an order accepted since: it comes back unless its row tells more."""
    anew = msgspec.structs.replace(event(3), outbox_id=START, outbox_index=0)
    assert brief(find_loss([], [anew], LAST).orders) == [("buyer-3", 1, 1, "")]
    assert find_loss([], [anew], LAST).newest_id == START
    stored = StoredOrder(anew, "expired")
    assert brief(find_loss([stored], [anew], LAST).orders) == [("buyer-3", 1, 0, "")]
    assert brief(find_loss([row(event(3), "expired")], [anew], LAST).orders) == [("buyer-3", 1, 0, "")]


@pytest.mark.parametrize("status", [one for one in OrderStatus if one is not OrderStatus.ACCEPTED])
def test_held_as_the_status_says(status: OrderStatus) -> None:
    """A confirmed order is held and unpaid, one that is further is paid, all others hold nothing."""
    assert held_of(str(status)) == (0 if status not in HOLDING else 1 if status is OrderStatus.CONFIRMED else 2)


def test_what_is_no_order_id_is_an_error() -> None:
    """An id that no record can know stops recovery: it is not left out in silence."""
    with pytest.raises(BackendError, match="no order id"):
        digest_of("c-1~short")
