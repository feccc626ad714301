"""What recovery has to bring back, decided without I/O.

Redis has gone back to an older state: the one after its newest outbox entry, or a little later. Since then orders may
have been accepted, given back, and taken anew; MySQL's rows say where they stand, and Kafka knows of orders that have
no row yet.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from adapters.stock import LostOrder
from domain.events import OrderAccepted
from domain.order import digest_of, user_hash
from domain.order_state import HOLDING, OrderStatus
from domain.outbox import START, OutboxPosition, parse_outbox_id

NO_ENTRY: Final = parse_outbox_id(START)
"""The outbox id of an event that was made anew because its entry had been lost."""


class StoredOrder(NamedTuple):
    """An order's row in MySQL."""

    event: OrderAccepted
    """As it would be published; `hold_no` is that of its last hold."""
    status: str


class Loss(NamedTuple):
    """What recovery has to bring back."""

    orders: list[LostOrder]
    """What gives units back first, so that what takes them finds them; then by age."""
    newest_id: str
    """The highest outbox id that Redis does not know, or `0-0`."""


class _Found(NamedTuple):
    event: OrderAccepted
    held: int
    position: OutboxPosition


def held_of(status: str) -> int:
    """Return what a buyer's record says of an order in this state: 0 given back, 1 held and unpaid, 2 paid."""
    if status not in HOLDING:
        return 0
    return 1 if status == OrderStatus.CONFIRMED else 2


def find_loss(rows: Iterable[StoredOrder], events: Iterable[OrderAccepted], last: OutboxPosition) -> Loss:
    """Say what Redis may have lost.

    An order with a row is as its row says; without one it holds what was accepted. A second origin of the same order
    is kept apart: it was a second deduction.

    Args:
        rows: orders of the campaign that were accepted, given back or taken anew since.
        events: orders of the campaign that were accepted since, repeated ones included.
        last: the newest outbox entry that Redis knows.
    """
    found: dict[tuple[str, OutboxPosition, int], _Found] = {}
    has_row = set()
    for row in rows:
        has_row.add(row.event.order_id)
        _add(found, row.event, held_of(row.status))
    for event in events:
        position = parse_outbox_id(event.outbox_id)
        if position > last or (position == NO_ENTRY and event.order_id not in has_row):
            _add(found, event, 1)
    in_order = sorted(found.values(), key=lambda one: (one.held > 0, one.position, one.event.outbox_index))
    newest = max(found.values(), key=lambda one: one.position, default=None)
    return Loss(
        orders=[_lost_order(one, is_lost=one.position > last) for one in in_order],
        newest_id=newest.event.outbox_id if newest is not None and newest.position > last else START,
    )


def _add(found: dict[tuple[str, OutboxPosition, int], _Found], event: OrderAccepted, held: int) -> None:
    position = parse_outbox_id(event.outbox_id)
    found.setdefault((event.order_id, position, event.outbox_index), _Found(event, held, position))


def _lost_order(one: _Found, *, is_lost: bool) -> LostOrder:
    event = one.event
    return LostOrder(
        digest=digest_of(event.order_id),
        fingerprint=event.fingerprint,
        sku_id=event.sku_id,
        quantity=event.quantity,
        user_id=event.user_id,
        user_hash=user_hash(event.user_id),
        hold_no=event.hold_no,
        held=one.held,
        origin=f"{event.outbox_id}/{event.outbox_index}" if is_lost else "",
    )
