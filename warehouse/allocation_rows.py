"""What of a SKU a campaign has been given (fg_catalog): an allocation, its parts in the warehouses, and its bookings.

An allocation's quantity is what its campaign's file says and what was topped up, less what the closed campaign has
given back. All of it lies in warehouses, as parts; of a part, what has been shipped has left the house. Who moves an
allocation holds its campaign's row, so that everything that is read under that lock belongs together.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from adapters.mysql import insert_many
from domain.errors import OperationRefusedError
from warehouse.rules import BookingKind, spread
from warehouse.stock_rows import SKUS_A_STATEMENT, Booking, book, lock_stock

_CAMPAIGN: Final = """
INSERT INTO campaign (campaign_id, kind, opens_ms, closes_ms, definition)
VALUES (%s, '', 0, 0, '')
ON DUPLICATE KEY UPDATE campaign_id = campaign_id"""
_LOCK: Final = "SELECT load_no, definition, closed_at_ms FROM campaign WHERE campaign_id = %s FOR UPDATE"
_ALLOCATIONS: Final = (
    "SELECT sku_id, version, in_file, topped_up, withdrawn FROM allocation WHERE campaign_id = %s FOR UPDATE"
)
_PARTS: Final = (
    "SELECT sku_id, warehouse_id, quantity, shipped FROM warehouse_allocation "
    "WHERE campaign_id = %s AND sku_id IN %s ORDER BY sku_id, warehouse_id FOR UPDATE"
)
_SKUS: Final = """
INSERT INTO sku (sku_id)
VALUES (%s)
ON DUPLICATE KEY UPDATE sku_id = sku_id"""
_SET_ALLOCATIONS: Final = """
INSERT INTO allocation (campaign_id, sku_id, quantity, version, in_file, topped_up, withdrawn)
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE quantity = VALUES(quantity), version = VALUES(version), in_file = VALUES(in_file),
 topped_up = VALUES(topped_up), withdrawn = VALUES(withdrawn)"""
_SET_PARTS: Final = """
INSERT INTO warehouse_allocation (campaign_id, sku_id, warehouse_id, quantity)
VALUES (%s, %s, %s, %s)
ON DUPLICATE KEY UPDATE quantity = quantity + VALUES(quantity)"""
_REDUCE_PARTS: Final = """
INSERT INTO warehouse_allocation (campaign_id, sku_id, warehouse_id, quantity)
VALUES (%s, %s, %s, %s)
ON DUPLICATE KEY UPDATE quantity = VALUES(quantity)"""
_SHORT_NAMED_MAX: Final = 100
"""SKUs that a refusal names."""


class CampaignRow(NamedTuple):
    """A campaign's row."""

    load_no: int
    definition: str
    """JSON; empty: the row has just been made."""
    closed_at_ms: int | None


class Allocation(NamedTuple):
    """An allocation's row."""

    sku_id: str
    version: int
    in_file: int = 0
    topped_up: int = 0
    withdrawn: int = 0

    @property
    def quantity(self) -> int:
        """Units that the campaign may sell or has sold."""
        return self.in_file + self.topped_up - self.withdrawn


class Reason(NamedTuple):
    """What is booked, and for whom."""

    campaign_id: str
    ref: str
    who: str
    why: str
    now_ms: int


async def lock_campaign(cursor: Any, campaign_id: str, *, make: bool = False) -> CampaignRow | None:  # noqa: ANN401 -- aiomysql has no types
    """Lock a campaign's row until the transaction ends; None if there is none, unless it is to be made."""
    if make:
        await cursor.execute(_CAMPAIGN, (campaign_id,))
    await cursor.execute(_LOCK, (campaign_id,))
    row = await cursor.fetchone()
    return None if row is None else CampaignRow(*row)


async def lock_known(cursor: Any, campaign_id: str) -> CampaignRow:  # noqa: ANN401
    """Lock a campaign's row.

    Raises:
        OperationRefusedError: there is none.
    """
    row = await lock_campaign(cursor, campaign_id)
    if row is None:
        raise OperationRefusedError(f"there is no campaign {campaign_id!r}; load its file first")
    return row


async def read_allocations(cursor: Any, campaign_id: str) -> dict[str, Allocation]:  # noqa: ANN401
    """Return SKU id → allocation; the campaign's row must be locked."""
    await cursor.execute(_ALLOCATIONS, (campaign_id,))
    return {row[0]: Allocation(*row) for row in await cursor.fetchall()}


async def write_allocations(cursor: Any, campaign_id: str, rows: Iterable[Allocation]) -> None:  # noqa: ANN401
    """Write allocations as they are to be, each with a version one higher than it bears here."""
    values = [
        (campaign_id, one.sku_id, one.quantity, one.version + 1, one.in_file, one.topped_up, one.withdrawn)
        for one in sorted(rows)
    ]
    await insert_many(cursor, _SET_ALLOCATIONS, values)


async def add_skus(cursor: Any, sku_ids: Iterable[str]) -> None:  # noqa: ANN401
    """Have the catalog know these SKUs."""
    await insert_many(cursor, _SKUS, [(sku_id,) for sku_id in sorted(sku_ids)])


async def allocate(cursor: Any, reason: Reason, units: Mapping[str, int], after: Iterable[Allocation]) -> None:  # noqa: ANN401
    """Give a campaign units that lie free in the warehouses, all or nothing, and write its allocations.

    Args:
        cursor: in a transaction that has locked the campaign's row.
        reason: of the bookings.
        units: SKU id → how many, at least 1.
        after: the allocations as they are to be.

    Raises:
        OperationRefusedError: there are not so many; every SKU that is short is named.
    """
    stock = await lock_stock(cursor, units)
    parts: dict[tuple[str, str], int] = {}
    short: list[tuple[str, int, int | None]] = []
    for sku_id, wanted in sorted(units.items()):
        room = [(row.warehouse_id, row.free) for row in stock.get(sku_id, [])]
        taken = spread(wanted, room)
        if taken is None:
            short.append((sku_id, wanted, sum(free for _, free in room) if room else None))
        for warehouse_id, part in (taken or {}).items():
            parts[sku_id, warehouse_id] = part
    if short:
        raise OperationRefusedError(_too_few(short))
    await write_allocations(cursor, reason.campaign_id, after)
    await insert_many(cursor, _SET_PARTS, [(reason.campaign_id, *place, part) for place, part in parts.items()])
    await book(cursor, _bookings(reason, BookingKind.ALLOCATE, parts), reason.now_ms)


async def free(cursor: Any, reason: Reason, units: Mapping[str, int], after: Iterable[Allocation]) -> None:  # noqa: ANN401
    """Take units back from a campaign, which Redis has given up before, and write its allocations.

    Args:
        cursor: in a transaction that has locked the campaign's row.
        reason: of the bookings.
        units: SKU id → how many, at least 1.
        after: the allocations as they are to be.

    Raises:
        OperationRefusedError: more than the campaign has and has not shipped; a person has to look.
    """
    await lock_stock(cursor, units)
    parts = await _lock_parts(cursor, reason.campaign_id, sorted(units))
    taken_back: dict[tuple[str, str], int] = {}
    for sku_id, wanted in sorted(units.items()):
        room = [(warehouse_id, one.quantity - one.shipped) for warehouse_id, one in parts.get(sku_id, {}).items()]
        taken = spread(wanted, reversed(room))
        if taken is None:
            raise OperationRefusedError(
                f"campaign {reason.campaign_id!r}, SKU {sku_id!r}: {wanted} units are to go back to the warehouse, and "
                f"{sum(units for _, units in room)} are allocated and not shipped; a person has to look"
            )
        for warehouse_id, part in taken.items():
            taken_back[sku_id, warehouse_id] = part
    await write_allocations(cursor, reason.campaign_id, after)
    left = [
        (reason.campaign_id, sku_id, warehouse_id, parts[sku_id][warehouse_id].quantity - part)
        for (sku_id, warehouse_id), part in taken_back.items()
    ]
    await insert_many(cursor, _REDUCE_PARTS, left)
    given_up = {place: -part for place, part in taken_back.items()}
    await book(cursor, _bookings(reason, BookingKind.WITHDRAW, given_up), reason.now_ms)


class _Part(NamedTuple):
    quantity: int
    shipped: int


async def _lock_parts(
    cursor: Any,  # noqa: ANN401
    campaign_id: str,
    sku_ids: Sequence[str],
) -> dict[str, dict[str, _Part]]:
    """Return SKU id → warehouse → part, in the warehouses' order."""
    found: dict[str, dict[str, _Part]] = {}
    for start in range(0, len(sku_ids), SKUS_A_STATEMENT):
        await cursor.execute(_PARTS, (campaign_id, sku_ids[start : start + SKUS_A_STATEMENT]))
        for sku_id, warehouse_id, quantity, shipped in await cursor.fetchall():
            found.setdefault(sku_id, {})[warehouse_id] = _Part(quantity, shipped)
    return found


def _bookings(reason: Reason, kind: BookingKind, parts: Mapping[tuple[str, str], int]) -> list[Booking]:
    return [
        Booking(
            ref=reason.ref,
            kind=kind,
            sku_id=sku_id,
            warehouse_id=warehouse_id,
            campaign_id=reason.campaign_id,
            allocated=units,
            who=reason.who,
            why=reason.why,
        )
        for (sku_id, warehouse_id), units in parts.items()
    ]


def _too_few(short: Sequence[tuple[str, int, int | None]]) -> str:
    """Return what is said of SKUs that are short: (SKU, units wanted, units free; None: no warehouse has it)."""
    named = "; ".join(
        f"SKU {sku_id!r} needs {wanted} more units and "
        + ("no warehouse has ever had it (is its id right?): " if free_units is None else f"{free_units} are free: ")
        + f"./flashgate warehouse receive {sku_id} {wanted - (free_units or 0)}"
        for sku_id, wanted, free_units in short[:_SHORT_NAMED_MAX]
    )
    more = f"; and {len(short) - _SHORT_NAMED_MAX} more SKUs" if len(short) > _SHORT_NAMED_MAX else ""
    return f"the warehouse is short; nothing was changed. {named}{more}"
