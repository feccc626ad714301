"""What is moved by hand: goods that come in, and what the shop reserves, gives up and ships. Each once per key."""

from typing import Any, Final, NamedTuple

from adapters.mysql import Pool, transaction
from domain.errors import OperationRefusedError
from warehouse import stock_rows
from warehouse.review_rules import wrong_words
from warehouse.rules import (
    SHOP_MOVES,
    UNITS_MAX,
    BookingKind,
    is_key,
    is_sku_id,
    is_warehouse_id,
    shop_room,
    spread,
)
from warehouse.stock_rows import Booking, StockRow

MAIN: Final = "main"
"""The warehouse that is always there; goods come into it unless another is named."""

_WAREHOUSES: Final = "SELECT warehouse_id FROM warehouse ORDER BY warehouse_id"
_HAS_ROW: Final = "SELECT 1 FROM warehouse_stock WHERE sku_id = %s AND warehouse_id = %s"
_IS_KNOWN: Final = "SELECT 1 FROM sku WHERE sku_id = %s"
_ADD_SKU: Final = "INSERT INTO sku (sku_id, product_id) VALUES (%s, %s) ON DUPLICATE KEY UPDATE sku_id = sku_id"
_ADD_PRODUCT: Final = (
    "INSERT INTO product (product_id, name) VALUES (%s, %s) ON DUPLICATE KEY UPDATE product_id = product_id"
)
_ADD_ROW: Final = (
    "INSERT INTO warehouse_stock (sku_id, warehouse_id) VALUES (%s, %s) ON DUPLICATE KEY UPDATE sku_id = sku_id"
)
_RIVALS: Final = (
    "SELECT COUNT(*) FROM warehouse_ledger FORCE INDEX (booking) "
    "WHERE ref = %s AND kind = %s AND sku_id <> %s FOR UPDATE"
)


class Movement(NamedTuple):
    """Units of a SKU that a person moves."""

    kind: BookingKind
    """One of `warehouse.rules.SHOP_MOVES`."""
    sku_id: str
    units: int
    key: str
    """Which movement of its kind this is: asked again with the same key it is not made again."""
    warehouse_id: str = ""
    """Where; empty: `main` for goods that come in, else wherever there are some, by the warehouses' ids."""
    who: str = ""
    """Somebody has to do it: an empty name is refused, as are texts that are too long or steer a terminal."""
    why: str = ""

    @property
    def ref(self) -> str:
        """How the ledger calls it."""
        return f"shop {self.key}"


class Moved(NamedTuple):
    """What has become of a movement."""

    parts: dict[str, int]
    """Warehouse id → units."""
    done: bool
    """False: it had been made before under this key, and nothing was changed."""
    is_new_sku: bool = False
    """The catalog did not know the SKU, and does now."""


async def move(pool: Pool, movement: Movement, now_ms: int) -> Moved:
    """Move units, in one transaction.

    Raises:
        OperationRefusedError: it is not possible; the message says what to do, and nothing was changed.
        OutcomeUnknownError: COMMIT was sent and its answer lost; asking again with the same key finds out.
        BackendError: MySQL could not do it now; nothing was changed.
    """
    _check(movement)
    async with transaction(pool) as cursor:
        rows, is_new_sku = await _lock_rows(cursor, movement)
        earlier = await stock_rows.booked(cursor, movement.ref, movement.kind)
        if earlier:
            return Moved(_parts_of_same(movement, earlier), done=False)
        if not rows:
            raise await _unknown(cursor, movement)
        parts = _share_out(movement, rows)
        deltas = SHOP_MOVES[movement.kind]
        bookings = [
            Booking(
                movement.ref,
                movement.kind,
                movement.sku_id,
                warehouse_id,
                on_hand=deltas.on_hand * units,
                allocated=deltas.allocated * units,
                reserved=deltas.reserved * units,
                who=movement.who,
                why=movement.why,
            )
            for warehouse_id, units in parts.items()
        ]
        await stock_rows.book(cursor, bookings, now_ms)
        await _refuse_rival(cursor, movement)
    return Moved(parts, done=True, is_new_sku=is_new_sku)


def _check(movement: Movement) -> None:
    if not is_sku_id(movement.sku_id):
        raise OperationRefusedError(
            f"{movement.sku_id!r} is no SKU: at most 64 letters, digits, dots, dashes and underscores"
        )
    if not 1 <= movement.units <= UNITS_MAX:
        raise OperationRefusedError(f"{movement.units} units cannot be moved: give a number from 1 to {UNITS_MAX:,}")
    if not is_key(movement.key):
        raise OperationRefusedError("a key has 1 to 100 characters of ASCII, and no blanks")
    if movement.warehouse_id and not is_warehouse_id(movement.warehouse_id):
        raise OperationRefusedError(
            f"{movement.warehouse_id!r} is no warehouse: at most 40 small letters, digits and dashes"
        )
    wrong = wrong_words(movement.who, movement.why)
    if wrong:
        raise OperationRefusedError(wrong)


async def _lock_rows(cursor: Any, movement: Movement) -> tuple[list[StockRow], bool]:  # noqa: ANN401 -- aiomysql has no types
    """Lock the SKU's rows; returns those that count for the movement, and whether the SKU was added to the catalog."""
    sku_id = movement.sku_id
    wanted, is_new_sku = movement.warehouse_id, False
    if movement.kind is BookingKind.RECEIVE:
        wanted = wanted or MAIN
        is_new_sku = await _make_row(cursor, sku_id, wanted)
    rows = (await stock_rows.lock_stock(cursor, [sku_id])).get(sku_id, [])
    if wanted and rows:
        here = [row for row in rows if row.warehouse_id == wanted]
        if not here:
            await _refuse_unknown_warehouse(cursor, wanted)
        rows = here or [StockRow(sku_id, wanted, 0, 0, 0)]
    return rows, is_new_sku


async def _make_row(cursor: Any, sku_id: str, warehouse_id: str) -> bool:  # noqa: ANN401
    """See to it that a SKU has a row in a warehouse; returns whether the catalog did not know the SKU.

    A campaign's load takes the lock on the SKU before those on its stock, too.
    """
    await cursor.execute(_HAS_ROW, (sku_id, warehouse_id))
    if await cursor.fetchone():
        return False
    await _refuse_unknown_warehouse(cursor, warehouse_id)
    await cursor.execute(_ADD_SKU, (sku_id, sku_id))
    is_new_sku = bool(cursor.rowcount == 1)
    if is_new_sku:
        await cursor.execute(_ADD_PRODUCT, (sku_id, sku_id))
    await stock_rows.lock_stock(cursor, [sku_id])  # those that it has, before one is added
    await cursor.execute(_ADD_ROW, (sku_id, warehouse_id))
    return is_new_sku


async def _refuse_unknown_warehouse(cursor: Any, warehouse_id: str) -> None:  # noqa: ANN401
    await cursor.execute(_WAREHOUSES)
    known = [found for (found,) in await cursor.fetchall()]
    if warehouse_id not in known:
        raise OperationRefusedError(
            f"there is no warehouse {warehouse_id!r}; there are: {', '.join(known)}; "
            "another is added by a [[warehouse]] in a catalog file: ./flashgate catalog load FILE"
        )


async def _unknown(cursor: Any, movement: Movement) -> OperationRefusedError:  # noqa: ANN401
    """Say why a SKU that no warehouse has a row for cannot be moved."""
    await cursor.execute(_IS_KNOWN, (movement.sku_id,))
    why = (
        f"no warehouse has had SKU {movement.sku_id!r} yet"
        if await cursor.fetchone()
        else f"the catalog does not know SKU {movement.sku_id!r}"
    )
    return OperationRefusedError(
        f"{why}; ./flashgate warehouse show tells what there is; if the id is right, goods come in by: "
        f"./flashgate warehouse receive {movement.sku_id} {movement.units}"
    )


def _parts_of_same(movement: Movement, earlier: list[Booking]) -> dict[str, int]:
    """Return warehouse id → units of what was booked under this key before.

    A repeat that names no warehouse repeats what was booked in any.

    Raises:
        OperationRefusedError: it was something else.
    """
    deltas = SHOP_MOVES[movement.kind]
    each = deltas.on_hand or deltas.reserved
    parts = {one.warehouse_id: (one.on_hand or one.reserved) * each for one in earlier}
    skus = sorted({one.sku_id for one in earlier})
    wanted = movement.warehouse_id or (MAIN if movement.kind is BookingKind.RECEIVE else "")
    if skus != [movement.sku_id] or sum(parts.values()) != movement.units or (wanted and set(parts) != {wanted}):
        raise OperationRefusedError(
            f"the key {movement.key!r} was used before, to {movement.kind} {', '.join(skus)} {sum(parts.values())} "
            f"in {', '.join(sorted(parts))}; give another key to make another movement"
        )
    return parts


def _share_out(movement: Movement, rows: list[StockRow]) -> dict[str, int]:
    """Return warehouse id → units.

    Raises:
        OperationRefusedError: there are not so many.
    """
    kind = movement.kind
    room = [
        (row.warehouse_id, shop_room(kind, on_hand=row.on_hand, allocated=row.allocated, reserved=row.reserved))
        for row in rows
    ]
    parts = spread(movement.units, room)
    if parts is not None:
        return parts
    there = sum(units for _, units in room)
    where = f" in warehouse {movement.warehouse_id}" if movement.warehouse_id else ""
    sku_id = movement.sku_id
    if kind is BookingKind.RECEIVE:
        raise OperationRefusedError(f"SKU {sku_id}: there is room for {there:,} more units{where}, no more")
    if kind is BookingKind.RESERVE:
        raise OperationRefusedError(
            f"SKU {sku_id}: {there:,} units are free{where}, {movement.units:,} were asked for; "
            f"goods come in by: ./flashgate warehouse receive {sku_id} {movement.units - there}"
            + (f" --warehouse {movement.warehouse_id}" if movement.warehouse_id else "")
        )
    raise OperationRefusedError(
        f"SKU {sku_id}: {there:,} units are reserved for the shop{where}, {movement.units:,} were asked for; "
        f"see: ./flashgate warehouse show {sku_id}"
    )


async def _refuse_rival(cursor: Any, movement: Movement) -> None:  # noqa: ANN401
    """Refuse a key under which another SKU was moved at the same time: the lock on this SKU says nothing of that.

    Of two that have both written and both look, MySQL ends one as a deadlock.
    """
    await cursor.execute(_RIVALS, (movement.ref, movement.kind, movement.sku_id))
    (rivals,) = await cursor.fetchone()
    if rivals:
        raise OperationRefusedError(
            f"the key {movement.key!r} has just been used to {movement.kind} another SKU; give another key"
        )
