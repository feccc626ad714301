"""A SKU's stock in the warehouses, and its ledger (fg_catalog): the primitives of everyone who moves them.

Who moves a SKU's numbers holds the SKU's rows of `warehouse_stock`, all of them, until COMMIT. So "has this been booked
already?" is asked under that lock, and a repeat finds what the first has written; the unique index `booking` is the net
below it. Locks are taken in the same order by everyone: campaign, `warehouse_stock` (by SKU and warehouse),
`allocation`, `warehouse_allocation`, ledger, `allocation_due`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from adapters.mysql import insert_many
from warehouse.rules import BookingKind

SKUS_A_STATEMENT: Final = 500
"""SKUs that one statement locks or moves; a campaign may have more."""

_LOCK: Final = """
SELECT sku_id, warehouse_id, on_hand, allocated, reserved FROM warehouse_stock FORCE INDEX (PRIMARY)
WHERE sku_id IN %s ORDER BY sku_id, warehouse_id FOR UPDATE"""
_BOOKED: Final = """
SELECT ref, kind, sku_id, warehouse_id, campaign_id, on_hand, allocated, reserved, who, why FROM warehouse_ledger
WHERE ref IN %s AND kind = %s ORDER BY ref, sku_id, warehouse_id"""
_LEDGER: Final = """
INSERT INTO warehouse_ledger
 (ref, kind, sku_id, warehouse_id, campaign_id, on_hand, allocated, reserved, who, why, created_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""


class Booking(NamedTuple):
    """One row of `warehouse_ledger`: what it moves the three numbers of a SKU in a warehouse by."""

    ref: str
    """What was booked, at most 128 bytes of ASCII: with the kind it is booked once."""
    kind: BookingKind
    sku_id: str
    warehouse_id: str
    campaign_id: str = ""
    """Empty: the shop's or nobody's."""
    on_hand: int = 0
    allocated: int = 0
    reserved: int = 0
    who: str = ""
    why: str = ""


class StockRow(NamedTuple):
    """A row of `warehouse_stock`: units of a SKU in a warehouse."""

    sku_id: str
    warehouse_id: str
    on_hand: int
    allocated: int
    """Of those on hand: what campaigns may sell or have sold and not shipped."""
    reserved: int
    """Of those on hand: what the shop has sold."""

    @property
    def free(self) -> int:
        """Units that nobody has been given."""
        return self.on_hand - self.allocated - self.reserved


async def lock_stock(cursor: Any, sku_ids: Iterable[str]) -> dict[str, list[StockRow]]:  # noqa: ANN401 -- aiomysql has no types
    """Lock the rows of some SKUs until the transaction ends; to be called once in it, for all that it moves.

    Returns:
        SKU id → its rows, by warehouse; a SKU that no warehouse has a row for is absent.
    """
    wanted = sorted(set(sku_ids))
    found: dict[str, list[StockRow]] = {}
    for start in range(0, len(wanted), SKUS_A_STATEMENT):
        await cursor.execute(_LOCK, (wanted[start : start + SKUS_A_STATEMENT],))
        for row in await cursor.fetchall():
            found.setdefault(row[0], []).append(StockRow(*row))
    return found


async def booked(cursor: Any, ref: str, kind: BookingKind) -> list[Booking]:  # noqa: ANN401
    """Return what has been booked under this reference, nothing if nothing has; the SKU's rows must be locked."""
    return (await booked_under(cursor, [ref], kind)).get(ref, [])


async def booked_under(cursor: Any, refs: Iterable[str], kind: BookingKind) -> dict[str, list[Booking]]:  # noqa: ANN401
    """Return reference → what has been booked under it; one under which nothing has is absent."""
    await cursor.execute(_BOOKED, (sorted(refs), kind))
    found: dict[str, list[Booking]] = {}
    for row in await cursor.fetchall():
        found.setdefault(row[0], []).append(Booking(row[0], BookingKind(row[1]), *row[2:]))
    return found


async def book(cursor: Any, bookings: Sequence[Booking], now_ms: int) -> None:  # noqa: ANN401
    """Write rows of the ledger and move the stock by them; the SKUs' rows must be locked, and the room be there.

    Raises:
        DataRefusedError: at the end of the surrounding transaction, if the same was booked before, if there is no such
            row of stock, or if more were given away than lies there.
    """
    await insert_many(cursor, _LEDGER, [(*one, now_ms) for one in bookings])
    for warehouse_id, moves in sorted(_moves(bookings).items()):
        for start in range(0, len(moves), SKUS_A_STATEMENT):
            await _move(cursor, warehouse_id, dict(list(moves.items())[start : start + SKUS_A_STATEMENT]))


def _moves(bookings: Iterable[Booking]) -> dict[str, dict[str, tuple[int, int, int]]]:
    """Return warehouse id → SKU id → what its three numbers are moved by, SKUs in order."""
    sums: dict[str, dict[str, tuple[int, int, int]]] = {}
    for one in sorted(bookings, key=lambda booking: booking.sku_id):
        moves = sums.setdefault(one.warehouse_id, {})
        on_hand, allocated, reserved = moves.get(one.sku_id, (0, 0, 0))
        moves[one.sku_id] = on_hand + one.on_hand, allocated + one.allocated, reserved + one.reserved
    return sums


async def _move(cursor: Any, warehouse_id: str, moves: Mapping[str, tuple[int, int, int]]) -> None:  # noqa: ANN401
    case = f"CASE sku_id {'WHEN %s THEN %s ' * len(moves)}ELSE 0 END"
    args: list[object] = []
    for number in range(3):
        for sku_id, deltas in moves.items():
            args += [sku_id, deltas[number]]
    await cursor.execute(
        f"UPDATE warehouse_stock SET on_hand = on_hand + {case}, allocated = allocated + {case}, "  # noqa: S608 -- placeholders alone
        f"reserved = reserved + {case}, version = version + 1 WHERE sku_id IN %s AND warehouse_id = %s",
        (*args, list(moves), warehouse_id),
    )
