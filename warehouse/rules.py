"""What follows from what in the warehouse. Decided without I/O; clocks are passed in."""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from domain.campaign import STOCK_MAX

UNITS_MAX: Final = STOCK_MAX
"""Units that one movement may be about."""
ON_HAND_MAX: Final = 10 * STOCK_MAX
"""Units of a SKU that may lie in one warehouse."""


class BookingKind(StrEnum):
    """What a row of the warehouse's ledger says: each kind moves other numbers of a SKU in a warehouse."""

    RECEIVE = "receive"
    """Goods came in: on_hand rises."""
    RESERVE = "reserve"
    """The shop has sold them: reserved rises."""
    UNRESERVE = "unreserve"
    ALLOCATE = "allocate"
    """A campaign may sell them: allocated rises."""
    WITHDRAW = "withdraw"
    """A campaign gives up what it has not sold: allocated falls."""
    SHIP = "ship"
    """Goods left the house: on_hand falls, and with it allocated (a campaign's) or reserved (the shop's)."""
    RETURN = "return"
    """A parcel came back: on_hand and its campaign's allocated rise."""
    CANCEL = "cancel"
    """A parcel is never to leave: moves nothing, and is looked for before one leaves."""


def spread(units: int, room: Iterable[tuple[str, int]]) -> dict[str, int] | None:
    """Take `units` from places one after the other; None if there is not so much room in all of them together.

    Args:
        units: how many, at least 0.
        room: (place, units that it has).
    """
    taken = {}
    for place, has in room:
        part = min(units, has)
        if part > 0:
            taken[place] = part
            units -= part
    return taken if units == 0 else None


class Deltas(NamedTuple):
    """What a movement does to the three numbers of a SKU in a warehouse."""

    on_hand: int = 0
    allocated: int = 0
    reserved: int = 0


SHOP_MOVES: Final = {
    BookingKind.RECEIVE: Deltas(on_hand=1),
    BookingKind.RESERVE: Deltas(reserved=1),
    BookingKind.UNRESERVE: Deltas(reserved=-1),
    BookingKind.SHIP: Deltas(on_hand=-1, reserved=-1),
}
"""What each unit does that is moved by hand: goods that come in, and what the shop has sold."""


def shop_room(kind: BookingKind, *, on_hand: int, allocated: int, reserved: int) -> int:
    """Return how many units of a SKU in a warehouse can be moved by hand this way, at least 0."""
    match kind:
        case BookingKind.RECEIVE:
            room = ON_HAND_MAX - on_hand
        case BookingKind.RESERVE:
            room = on_hand - allocated - reserved
        case BookingKind.UNRESERVE | BookingKind.SHIP:
            room = reserved
        case _:
            raise ValueError(f"{kind} is nothing that is moved by hand")
    return max(room, 0)


def is_sku_id(text: str) -> bool:
    """Tell whether a text may be the id of a SKU."""
    return re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text) is not None


def is_warehouse_id(text: str) -> bool:
    """Tell whether a text may be the id of a warehouse."""
    return re.fullmatch(r"[a-z0-9-]{1,40}", text) is not None


def is_key(text: str) -> bool:
    """Tell whether a text may be the key of a movement: 1 to 100 letters, digits and signs of ASCII, no blanks."""
    return re.fullmatch(r"[!-~]{1,100}", text) is not None
