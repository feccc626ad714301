"""Switches for outbound review and the parcels that follow from it."""

import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from typing import Any, Final

from tests.support.hooks import replace


def parcels_booked_once() -> None:
    """Whether a parcel has left the house is not asked of the warehouse's ledger."""
    from warehouse import parcel_rows
    from warehouse.rules import BookingKind
    from warehouse.stock_rows import Booking, booked_under

    async def forgotten(cursor: Any, refs: Iterable[str], kind: BookingKind) -> dict[str, list[Booking]]:
        return {} if kind is BookingKind.SHIP else await booked_under(cursor, refs, kind)

    replace(parcel_rows, "booked_under", forgotten)


def decided_under_lock() -> None:
    """A decision stands on what orders and reviews were before they are moved."""
    from lifecycle import order_rows
    from lifecycle.order_rows import OrderFacts
    from warehouse import outbound
    from warehouse.review_rules import Deed

    async def look(cursor: Any, deed: Deed, ids: Sequence[str], kept: Collection[str] = ()) -> list[OrderFacts]:
        await cursor.execute(order_rows._FIND, (list(ids),))
        known = {row[0]: order_rows._facts(row) for row in await cursor.fetchall()}
        await cursor.execute(outbound._REVIEWS, (list(ids),))
        outbound._refuse(deed, ids, known, await cursor.fetchall(), kept)
        return [known[one] for one in ids]

    replace(outbound, "_lock", look)


def decisions_need_the_state() -> None:
    """Anything may be decided about any order that has a review."""
    from warehouse import outbound

    def none(*_: Any) -> list[str]:
        return []

    replace(outbound, "refusals", none)


def review_opened_with_the_payment() -> None:
    """An order is paid, and its review is left to somebody else."""
    from lifecycle import payment_rows

    async def nothing(*_: Any) -> None:
        pass

    replace(payment_rows, "_open_review", nothing)


def parcels_owed_with_the_decision() -> None:
    """A decision is made, and nothing says what the warehouse is owed for it."""
    from warehouse import steps

    async def nothing(*_: Any) -> None:
        pass

    replace(steps, "owe", nothing)


def cancelled_parcels_stay() -> None:
    """Whoever has a parcel leave does not ask whether it was cancelled."""
    from warehouse import parcel_rows

    async def nothing(*_: Any) -> None:
        pass

    replace(parcel_rows, "_refuse_cancelled", nothing)


def stock_locked_while_rejecting() -> None:
    """Approved orders are rejected by what the orders say, and the warehouse is not asked before."""
    from warehouse import parcel_rows
    from warehouse.parcel_rows import Parcel

    @contextlib.asynccontextmanager
    async def unasked(_: Any, parcels: Sequence[Parcel], now_ms: int) -> AsyncIterator[frozenset[str]]:
        del now_ms
        yield frozenset(one.order_id for one in parcels)

    replace(parcel_rows, "cancelling", unasked)


def missing_reviews_opened() -> None:
    """Nobody looks for paid orders that have no review."""
    from warehouse import missing_reviews

    async def none(*_: Any) -> int:
        return 0

    replace(missing_reviews, "open_missing", none)


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "parcels_booked_once": parcels_booked_once,
    "decided_under_lock": decided_under_lock,
    "decisions_need_the_state": decisions_need_the_state,
    "review_opened_with_the_payment": review_opened_with_the_payment,
    "parcels_owed_with_the_decision": parcels_owed_with_the_decision,
    "cancelled_parcels_stay": cancelled_parcels_stay,
    "stock_locked_while_rejecting": stock_locked_while_rejecting,
    "missing_reviews_opened": missing_reviews_opened,
}
