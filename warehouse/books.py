"""The warehouse's books: what is said of each SKU, and whether every number is what its ledger comes to. No I/O."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from warehouse.rules import BookingKind, Deltas


class SkuRow(NamedTuple):
    """A SKU as the catalog has it."""

    sku_id: str
    product_id: str
    """Empty: a campaign's file named the SKU, and no catalog file yet."""
    product: str
    """The product's name; empty as above."""


class CountedRow(NamedTuple):
    """The numbers of a SKU in a warehouse, as they stand in `warehouse_stock`."""

    sku_id: str
    warehouse_id: str
    on_hand: int
    allocated: int
    reserved: int


class LedgerSum(NamedTuple):
    """What all bookings of one kind come to, for a SKU, a warehouse and a campaign (empty: none)."""

    sku_id: str
    warehouse_id: str
    campaign_id: str
    kind: str
    on_hand: int
    allocated: int
    reserved: int


class AllocationRow(NamedTuple):
    """What a campaign was given of a SKU, as it stands in `allocation`."""

    campaign_id: str
    sku_id: str
    quantity: int
    in_file: int
    topped_up: int
    withdrawn: int


class PartRow(NamedTuple):
    """The same in one warehouse, as it stands in `warehouse_allocation`."""

    campaign_id: str
    sku_id: str
    warehouse_id: str
    quantity: int
    shipped: int


@dataclass(slots=True)
class Books:
    """Everything that was read, as of one instant, of one SKU or of all."""

    skus: Sequence[SkuRow] = ()
    attributes: Sequence[tuple[str, str, str]] = ()
    """SKU id, name, value."""
    stock: Sequence[CountedRow] = ()
    ledger: Sequence[LedgerSum] = ()
    allocations: Sequence[AllocationRow] = ()
    parts: Sequence[PartRow] = ()


class WarehouseLine(msgspec.Struct, kw_only=True):
    """A SKU in one warehouse, in units."""

    warehouse_id: str
    on_hand: int
    allocated: int
    """Of those on hand: what campaigns may sell, or have sold and not shipped."""
    reserved: int
    """Of those on hand: what the shop has sold."""
    free: int
    received: int
    """By the ledger, as the next two: what has ever come in."""
    shipped: int
    returned: int


class CampaignLine(msgspec.Struct, kw_only=True):
    """A SKU in one campaign, in units."""

    campaign_id: str
    allocated: int
    """What the campaign has been given in all: in_file + topped_up - withdrawn; shipped parcels count."""
    in_file: int
    topped_up: int
    withdrawn: int
    shipped: int
    """Of those allocated: what has left the house and not come back."""


class SkuLine(msgspec.Struct, kw_only=True):
    """A SKU: its numbers in all warehouses together, and in each."""

    sku_id: str
    product_id: str
    product: str
    attributes: dict[str, str]
    on_hand: int
    allocated: int
    reserved: int
    free: int
    received: int
    shipped: int
    returned: int
    warehouses: list[WarehouseLine]
    campaigns: list[CampaignLine]


class Report(msgspec.Struct, kw_only=True):
    """What `warehouse show` tells."""

    skus: list[SkuLine]
    balanced: bool
    differences: list[str]
    """What disagrees, a sentence each."""


def report(books: Books) -> Report:
    """Say how many units of each SKU there are, whose they are, and what does not add up."""
    warehouses: dict[str, list[WarehouseLine]] = defaultdict(list)
    flows = _Flows(books.ledger)
    for row in books.stock:
        warehouses[row.sku_id].append(_warehouse_line(row, flows))
    campaigns = _campaign_lines(books)
    attributes: dict[str, dict[str, str]] = defaultdict(dict)
    for sku_id, name, value in books.attributes:
        attributes[sku_id][name] = value
    differences = find_differences(books)
    return Report(
        skus=[_sku_line(sku, attributes[sku.sku_id], warehouses, campaigns) for sku in books.skus],
        balanced=not differences,
        differences=differences,
    )


class _Flows:
    """What came in, went out and came back, by SKU and warehouse."""

    def __init__(self, ledger: Iterable[LedgerSum]) -> None:
        self._units: dict[tuple[str, str, str], int] = defaultdict(int)
        for row in ledger:
            self._units[row.sku_id, row.warehouse_id, row.kind] += row.on_hand

    def units(self, sku_id: str, warehouse_id: str, kind: BookingKind) -> int:
        return self._units.get((sku_id, warehouse_id, kind), 0)


def _warehouse_line(row: CountedRow, flows: _Flows) -> WarehouseLine:
    place = row.sku_id, row.warehouse_id
    return WarehouseLine(
        warehouse_id=row.warehouse_id,
        on_hand=row.on_hand,
        allocated=row.allocated,
        reserved=row.reserved,
        free=row.on_hand - row.allocated - row.reserved,
        received=flows.units(*place, BookingKind.RECEIVE),
        shipped=-flows.units(*place, BookingKind.SHIP),
        returned=flows.units(*place, BookingKind.RETURN),
    )


def _campaign_lines(books: Books) -> dict[str, list[CampaignLine]]:
    shipped: dict[tuple[str, str], int] = defaultdict(int)
    for part in books.parts:
        shipped[part.campaign_id, part.sku_id] += part.shipped
    lines: dict[str, list[CampaignLine]] = defaultdict(list)
    for row in books.allocations:
        lines[row.sku_id].append(
            CampaignLine(
                campaign_id=row.campaign_id,
                allocated=row.quantity,
                in_file=row.in_file,
                topped_up=row.topped_up,
                withdrawn=row.withdrawn,
                shipped=shipped[row.campaign_id, row.sku_id],
            )
        )
    return lines


def _sku_line(
    sku: SkuRow,
    attributes: dict[str, str],
    warehouses: dict[str, list[WarehouseLine]],
    campaigns: dict[str, list[CampaignLine]],
) -> SkuLine:
    lines = warehouses[sku.sku_id]
    return SkuLine(
        sku_id=sku.sku_id,
        product_id=sku.product_id,
        product=sku.product,
        attributes=attributes,
        on_hand=sum(line.on_hand for line in lines),
        allocated=sum(line.allocated for line in lines),
        reserved=sum(line.reserved for line in lines),
        free=sum(line.free for line in lines),
        received=sum(line.received for line in lines),
        shipped=sum(line.shipped for line in lines),
        returned=sum(line.returned for line in lines),
        warehouses=lines,
        campaigns=campaigns[sku.sku_id],
    )


def find_differences(books: Books) -> list[str]:
    """Return what disagrees, a sentence each; nothing if every number is what its ledger comes to."""
    return [*_stock_differences(books), *_part_differences(books), *_allocation_differences(books)]


def _stock_differences(books: Books) -> list[str]:
    """Hold the numbers of each SKU in each warehouse against the ledger and against what campaigns have there."""
    ledger: dict[tuple[str, str], Deltas] = defaultdict(Deltas)
    for entry in books.ledger:
        place = entry.sku_id, entry.warehouse_id
        ledger[place] = _plus(ledger[place], entry)
    flows = _Flows(books.ledger)
    given: dict[tuple[str, str], int] = defaultdict(int)
    for part in books.parts:
        given[part.sku_id, part.warehouse_id] += part.quantity - part.shipped
    found = []
    for row in books.stock:
        where, place = f"SKU {row.sku_id} in warehouse {row.warehouse_id}", (row.sku_id, row.warehouse_id)
        for name, number, total in zip(Deltas._fields, row[2:], ledger[place], strict=True):
            if number != total:
                found.append(f"{where}: {name} is {number}, its ledger comes to {total}")
        line = _warehouse_line(row, flows)
        if line.on_hand != line.received - line.shipped + line.returned:
            found.append(
                f"{where}: on_hand is {line.on_hand}, but {line.received} received - {line.shipped} shipped "
                f"+ {line.returned} returned = {line.received - line.shipped + line.returned}"
            )
        if line.free < 0:
            found.append(f"{where}: {line.allocated} allocated + {line.reserved} reserved, and {line.on_hand} on hand")
        if line.allocated != given[place]:
            found.append(f"{where}: allocated is {line.allocated}, what campaigns have there comes to {given[place]}")
    return found


def _part_differences(books: Books) -> list[str]:
    """Hold what each campaign has in each warehouse against the ledger."""
    booked: dict[tuple[str, str, str], Deltas] = defaultdict(Deltas)
    for entry in books.ledger:
        if entry.campaign_id:
            place = entry.campaign_id, entry.sku_id, entry.warehouse_id
            booked[place] = _plus(booked[place], entry)
    found = []
    for part in books.parts:
        where = f"campaign {part.campaign_id}, SKU {part.sku_id} in warehouse {part.warehouse_id}"
        total = booked.pop((part.campaign_id, part.sku_id, part.warehouse_id), Deltas())
        if part.quantity - part.shipped != total.allocated:
            found.append(
                f"{where}: {part.quantity} allocated - {part.shipped} shipped = {part.quantity - part.shipped}, "
                f"its ledger comes to {total.allocated}"
            )
        if part.shipped != -total.on_hand:
            found.append(f"{where}: shipped is {part.shipped}, its ledger comes to {-total.on_hand}")
    for (campaign_id, sku_id, warehouse_id), total in booked.items():
        if total.allocated or total.on_hand:
            found.append(
                f"campaign {campaign_id}, SKU {sku_id} in warehouse {warehouse_id}: the ledger has bookings of a "
                "campaign that was given nothing there"
            )
    return found


def _allocation_differences(books: Books) -> list[str]:
    """Hold what each campaign was given against where it comes from, and against its parts."""
    parts: dict[tuple[str, str], int] = defaultdict(int)
    for part in books.parts:
        parts[part.campaign_id, part.sku_id] += part.quantity
    found = []
    for row in books.allocations:
        where = f"campaign {row.campaign_id}, SKU {row.sku_id}"
        made_of = row.in_file + row.topped_up - row.withdrawn
        if row.quantity != made_of:
            found.append(
                f"{where}: allocated is {row.quantity}, but {row.in_file} in its file + {row.topped_up} topped up "
                f"- {row.withdrawn} withdrawn = {made_of}"
            )
        in_parts = parts[row.campaign_id, row.sku_id]
        if row.quantity != in_parts:
            found.append(f"{where}: allocated is {row.quantity}, its warehouses' parts come to {in_parts}")
    return found


def _plus(sums: Deltas, entry: LedgerSum) -> Deltas:
    return Deltas(sums.on_hand + entry.on_hand, sums.allocated + entry.allocated, sums.reserved + entry.reserved)
