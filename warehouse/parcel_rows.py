"""Parcels of campaigns in the warehouse (fg_catalog): they leave the house, and some come back. Each once.

A parcel is known by its order's id. The SKUs' rows of `warehouse_stock` are locked first, and under that lock the
ledger says which parcels were booked before; see `warehouse.stock_rows`. One that is not to leave any more is booked
as cancelled, which moves no units, and which whoever comes later to ship it finds: a parcel leaves or is cancelled.
"""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, NamedTuple

from adapters.mysql import TRANSACTION_TIMEOUT_S, Pool, transaction
from domain.errors import FlashgateError, OperationRefusedError
from warehouse.rules import BookingKind, spread
from warehouse.stock_rows import Booking, book, booked_under, lock_stock

CANCELLING_TIMEOUT_S: Final = 2 * TRANSACTION_TIMEOUT_S
"""A transaction of fg_orders runs within it, and ends by its own bound."""

_ROOM: Final = (
    "SELECT sku_id, warehouse_id, quantity - shipped FROM warehouse_allocation "
    "WHERE campaign_id = %s AND sku_id IN %s ORDER BY sku_id, warehouse_id FOR UPDATE"
)
_SHIPPED: Final = (
    "UPDATE warehouse_allocation SET shipped = shipped + %s "
    "WHERE campaign_id = %s AND sku_id = %s AND warehouse_id = %s"
)


class ParcelLeftError(OperationRefusedError):
    """A parcel that is not to leave has left; nothing was changed."""


class ParcelCancelledError(OperationRefusedError):
    """A parcel that is to leave was cancelled before, and never leaves; nothing was changed."""


class Parcel(NamedTuple):
    """An order's units on their way out of the house, or back into it."""

    order_id: str
    """The order, which is the parcel's name."""
    campaign_id: str
    """Whose allocation the units are taken from, and go back to."""
    sku_id: str
    quantity: int
    who: str
    """Who decided it."""
    why: str


async def ship(pool: Pool, parcels: Sequence[Parcel], now_ms: int) -> int:
    """Have parcels leave the house, all or none; returns how many this call had leave, for each leaves once.

    Units come from the warehouses in which the campaign's are allocated, by their ids, one after the other.

    Args:
        pool: the database fg_catalog.
        parcels: whose orders are approved.
        now_ms: Unix milliseconds.

    Raises:
        ParcelCancelledError: one was cancelled; nothing was changed.
        OperationRefusedError: a campaign does not have so many units in the warehouses; nothing was changed.
        OutcomeUnknownError: COMMIT was sent and its answer lost; calling again finds out.
        BackendError: nothing was changed; call again.
    """
    async with transaction(pool) as cursor:
        await lock_stock(cursor, [one.sku_id for one in parcels])
        left = await booked_under(cursor, [one.order_id for one in parcels], BookingKind.SHIP)
        leaving = [one for one in parcels if one.order_id not in left]
        await _refuse_cancelled(cursor, leaving)
        room = await _lock_room(cursor, leaving)
        bookings: list[Booking] = []
        for parcel in leaving:
            bookings += _booked_out(parcel, room.get((parcel.campaign_id, parcel.sku_id), {}))
        await _move(cursor, bookings, now_ms)
    return len(leaving)


async def cancel(pool: Pool, parcels: Sequence[Parcel], now_ms: int) -> None:
    """Have parcels never leave, all or none; those that were cancelled before are left alone.

    Args:
        pool: the database fg_catalog.
        parcels: whose orders are being rejected.
        now_ms: Unix milliseconds.

    Raises:
        ParcelLeftError: one has left the house; nothing was changed.
        OperationRefusedError: no warehouse has heard of its SKU; nothing was changed.
        OutcomeUnknownError: COMMIT was sent and its answer lost; calling again finds out.
        BackendError: nothing was changed; call again.
    """
    async with cancelling(pool, parcels, now_ms) as kept:
        for one in parcels:
            if one.order_id not in kept:
                raise ParcelLeftError(f"order {one.order_id}: its parcel has left the house")


@contextlib.asynccontextmanager
async def cancelling(pool: Pool, parcels: Sequence[Parcel], now_ms: int) -> AsyncIterator[frozenset[str]]:
    """Have parcels wait in the house while a block runs, and never leave if the block ends well.

    Yields ids of the orders whose parcels have not left. What is raised in the block is raised as it is, and nothing is
    cancelled then. Without parcels nothing is asked of the catalog. In the block locks of fg_orders may be taken;
    nobody takes these in the other order.

    Raises:
        OperationRefusedError, OutcomeUnknownError, BackendError: as `cancel`; when raised at the block's end, the
            block's work stands.
    """
    if not parcels:
        yield frozenset()
        return
    raised: FlashgateError | None = None
    try:
        async with transaction(pool, timeout_s=CANCELLING_TIMEOUT_S) as cursor:
            kept = await _cancel(cursor, parcels, now_ms)
            try:
                yield kept
            except FlashgateError as error:
                raised = error
                raise
    except FlashgateError:
        if raised is not None:  # and not what this transaction makes of it: it may be an outcome that is unknown
            raise raised  # noqa: B904 -- it has its cause
        raise


async def take_back(pool: Pool, parcels: Sequence[Parcel], now_ms: int) -> int:
    """Take parcels that came back into the warehouses that they left, for the campaigns that they were sold by.

    Returns how many this call took in, for each comes back once.

    Args:
        pool: the database fg_catalog.
        parcels: that have come back.
        now_ms: Unix milliseconds.

    Raises:
        OperationRefusedError: one has not left the house; nothing was changed.
        OutcomeUnknownError: COMMIT was sent and its answer lost; calling again finds out.
        BackendError: nothing was changed; call again.
    """
    async with transaction(pool) as cursor:
        await lock_stock(cursor, [one.sku_id for one in parcels])
        ids = [one.order_id for one in parcels]
        back = await booked_under(cursor, ids, BookingKind.RETURN)
        left = await booked_under(cursor, ids, BookingKind.SHIP)
        returning = [one for one in parcels if one.order_id not in back]
        bookings: list[Booking] = []
        for parcel in returning:
            if parcel.order_id not in left:
                raise OperationRefusedError(f"order {parcel.order_id}: its parcel has not left the warehouse")
            bookings += [
                one._replace(
                    kind=BookingKind.RETURN,
                    on_hand=-one.on_hand,
                    allocated=-one.allocated,
                    who=parcel.who,
                    why=parcel.why,
                )
                for one in left[parcel.order_id]
            ]
        await _move(cursor, bookings, now_ms)
    return len(returning)


async def _cancel(cursor: Any, parcels: Sequence[Parcel], now_ms: int) -> frozenset[str]:  # noqa: ANN401 -- aiomysql has no types
    """Book those parcels as cancelled that have not left; returns their orders' ids, of those known before, too."""
    stock = await lock_stock(cursor, [one.sku_id for one in parcels])
    ids = [one.order_id for one in parcels]
    left = await booked_under(cursor, ids, BookingKind.SHIP)
    known = await booked_under(cursor, ids, BookingKind.CANCEL)
    bookings = []
    for one in parcels:
        if one.order_id in left or one.order_id in known:
            continue
        if one.sku_id not in stock:
            raise OperationRefusedError(f"order {one.order_id}: no warehouse has ever had SKU {one.sku_id!r}")
        place = stock[one.sku_id][0].warehouse_id
        bookings.append(
            Booking(one.order_id, BookingKind.CANCEL, one.sku_id, place, one.campaign_id, who=one.who, why=one.why)
        )
    await book(cursor, bookings, now_ms)
    return frozenset(one for one in ids if one not in left)


async def _refuse_cancelled(cursor: Any, parcels: Sequence[Parcel]) -> None:  # noqa: ANN401
    """Refuse to ship what was cancelled; the SKUs' rows must be locked.

    Raises:
        ParcelCancelledError: the first of them.
    """
    if not parcels:
        return
    cancelled = await booked_under(cursor, [one.order_id for one in parcels], BookingKind.CANCEL)
    for order_id, (booking, *_) in sorted(cancelled.items()):
        raise ParcelCancelledError(f"order {order_id} was rejected by {booking.who}: its parcel never leaves the house")


async def _lock_room(cursor: Any, parcels: Sequence[Parcel]) -> dict[tuple[str, str], dict[str, int]]:  # noqa: ANN401 -- aiomysql has no types
    """Return (campaign, SKU) → warehouse → units that have not left, locked until the transaction ends."""
    skus: dict[str, set[str]] = {}
    for one in parcels:
        skus.setdefault(one.campaign_id, set()).add(one.sku_id)
    room: dict[tuple[str, str], dict[str, int]] = {}
    for campaign_id in sorted(skus):
        await cursor.execute(_ROOM, (campaign_id, sorted(skus[campaign_id])))
        for sku_id, warehouse_id, units in await cursor.fetchall():
            room.setdefault((campaign_id, sku_id), {})[warehouse_id] = units
    return room


def _booked_out(parcel: Parcel, room: dict[str, int]) -> list[Booking]:
    """Return how the ledger has a parcel that leaves, and take its units out of `room`.

    Raises:
        OperationRefusedError: there are not so many.
    """
    parts = spread(parcel.quantity, sorted(room.items()))
    if parts is None:
        raise OperationRefusedError(
            f"order {parcel.order_id}: {parcel.quantity} of SKU {parcel.sku_id!r} cannot be shipped, campaign "
            f"{parcel.campaign_id!r} has {sum(room.values())} of it left in the warehouses"
        )
    for warehouse_id, units in parts.items():
        room[warehouse_id] -= units
    return [
        Booking(
            parcel.order_id,
            BookingKind.SHIP,
            parcel.sku_id,
            warehouse_id,
            parcel.campaign_id,
            on_hand=-units,
            allocated=-units,
            who=parcel.who,
            why=parcel.why,
        )
        for warehouse_id, units in parts.items()
    ]


async def _move(cursor: Any, bookings: Sequence[Booking], now_ms: int) -> None:  # noqa: ANN401
    shipped: Counter[tuple[str, str, str]] = Counter()
    for one in bookings:
        shipped[one.campaign_id, one.sku_id, one.warehouse_id] -= one.on_hand
    for key in sorted(shipped):
        await cursor.execute(_SHIPPED, (shipped[key], *key))
    await book(cursor, bookings, now_ms)
