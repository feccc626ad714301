"""Switches for the warehouse: what a booking is known by, and the lock on a SKU's rows."""

from collections.abc import Callable
from typing import Any, Final

from tests.support.hooks import replace


def bookings_known() -> None:
    """A movement is booked whether or not it has been booked under its key before."""
    from warehouse import stock_rows

    async def nothing(_cursor: Any, _ref: str, _kind: object) -> list[stock_rows.Booking]:
        return []

    replace(stock_rows, "booked", nothing)


def stock_locked() -> None:
    """Who moves a SKU's numbers reads them and locks nothing."""
    from warehouse import stock_rows

    replace(stock_rows, "_LOCK", stock_rows._LOCK.replace("FOR UPDATE", ""))


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "bookings_known": bookings_known,
    "stock_locked": stock_locked,
}
