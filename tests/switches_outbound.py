"""Switches for outbound review and the parcels that follow from it."""

from collections.abc import Callable, Iterable, Sequence
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

    async def look(cursor: Any, deed: Deed, ids: Sequence[str]) -> list[OrderFacts]:
        await cursor.execute(order_rows._FIND, (list(ids),))
        known = {row[0]: order_rows._facts(row) for row in await cursor.fetchall()}
        await cursor.execute(outbound._REVIEWS, (list(ids),))
        outbound._refuse(deed, ids, known, await cursor.fetchall())
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


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "parcels_booked_once": parcels_booked_once,
    "decided_under_lock": decided_under_lock,
    "decisions_need_the_state": decisions_need_the_state,
    "review_opened_with_the_payment": review_opened_with_the_payment,
    "parcels_owed_with_the_decision": parcels_owed_with_the_decision,
}
