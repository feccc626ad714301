"""What there is in the warehouses, read as of one instant."""

from typing import Any, Final, NamedTuple

from adapters.mysql import Pool, query, transaction
from domain.errors import OperationRefusedError
from warehouse.books import AllocationRow, Books, CountedRow, LedgerSum, PartRow, Report, SkuRow, report
from warehouse.rules import is_sku_id

READ_TIMEOUT_S: Final = 600.0
"""The ledger is summed up by the server, row by row."""

_SNAPSHOT: Final = (
    "COMMIT",  # of the transaction that `transaction` began: the level below holds for the next one
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)
# In each `{of}` becomes empty, or names one SKU.
_SKUS: Final = """
SELECT sku.sku_id, COALESCE(sku.product_id, ''), COALESCE(product.name, '') FROM sku
LEFT JOIN product ON product.product_id = sku.product_id {of} ORDER BY sku.sku_id"""
_ATTRIBUTES: Final = "SELECT sku_id, name, value FROM sku_attribute AS sku {of} ORDER BY sku_id, name"
_STOCK: Final = """
SELECT sku_id, warehouse_id, on_hand, allocated, reserved FROM warehouse_stock AS sku {of}
ORDER BY sku_id, warehouse_id"""
_LEDGER: Final = """
SELECT sku_id, warehouse_id, campaign_id, kind, CAST(SUM(on_hand) AS SIGNED), CAST(SUM(allocated) AS SIGNED),
 CAST(SUM(reserved) AS SIGNED)
FROM warehouse_ledger AS sku {of} GROUP BY sku_id, warehouse_id, campaign_id, kind"""
_ALLOCATIONS: Final = """
SELECT campaign_id, sku_id, quantity, in_file, topped_up, withdrawn FROM allocation AS sku {of}
ORDER BY campaign_id, sku_id"""
_PARTS: Final = """
SELECT campaign_id, sku_id, warehouse_id, quantity, shipped FROM warehouse_allocation AS sku {of}
ORDER BY campaign_id, sku_id, warehouse_id"""
_BOOKINGS: Final = """
SELECT id, created_at_ms, kind, sku_id, warehouse_id, campaign_id, on_hand, allocated, reserved, who, why, ref
FROM warehouse_ledger AS sku {of} ORDER BY id DESC LIMIT %s"""
LEDGER_MAX: Final = 1_000
"""Bookings in one answer."""
_OF_ONE: Final = "WHERE sku.sku_id = %s"


class LedgerRow(NamedTuple):
    """A booking: what it has moved the numbers of a SKU in a warehouse by."""

    id: int
    created_at_ms: int
    kind: str
    sku_id: str
    warehouse_id: str
    campaign_id: str
    on_hand: int
    allocated: int
    reserved: int
    who: str
    why: str
    ref: str


async def read_ledger(pool: Pool, sku_id: str, limit: int) -> list[LedgerRow]:
    """Return the newest bookings of one SKU, or of all if it is empty.

    Raises:
        OperationRefusedError: the catalog does not know the SKU.
        BackendError: MySQL could not do it now.
    """
    if sku_id and (not is_sku_id(sku_id) or not await query(pool, "SELECT 1 FROM sku WHERE sku_id = %s", (sku_id,))):
        raise _unknown(sku_id)
    args = (sku_id, min(limit, LEDGER_MAX)) if sku_id else (min(limit, LEDGER_MAX),)
    rows = await query(pool, _BOOKINGS.format(of=_OF_ONE if sku_id else ""), args)
    return [LedgerRow(*row) for row in rows]


async def read_report(pool: Pool, sku_id: str = "") -> Report:
    """Return the numbers of one SKU, or of all, and what does not add up; others may move stock meanwhile.

    Raises:
        OperationRefusedError: the catalog does not know the SKU.
        BackendError: MySQL could not do it now.
    """
    if sku_id and not is_sku_id(sku_id):
        raise _unknown(sku_id)
    books = await read_books(pool, sku_id)
    if sku_id and not books.skus:
        raise _unknown(sku_id)
    return report(books)


async def read_books(pool: Pool, sku_id: str = "") -> Books:
    """Read everything that `warehouse.books` looks at, as of one instant; errors as in `read_report`."""
    async with transaction(pool, timeout_s=READ_TIMEOUT_S) as cursor:
        for statement in _SNAPSHOT:
            await cursor.execute(statement)
        return Books(
            skus=[SkuRow(*row) for row in await _rows(cursor, _SKUS, sku_id)],
            attributes=await _rows(cursor, _ATTRIBUTES, sku_id),
            stock=[CountedRow(*row) for row in await _rows(cursor, _STOCK, sku_id)],
            ledger=[LedgerSum(*row) for row in await _rows(cursor, _LEDGER, sku_id)],
            allocations=[AllocationRow(*row) for row in await _rows(cursor, _ALLOCATIONS, sku_id)],
            parts=[PartRow(*row) for row in await _rows(cursor, _PARTS, sku_id)],
        )


async def _rows(cursor: Any, sql: str, sku_id: str) -> list[Any]:  # noqa: ANN401 -- aiomysql has no types
    await cursor.execute(sql.format(of=_OF_ONE if sku_id else ""), (sku_id,) if sku_id else None)
    return list(await cursor.fetchall())


def _unknown(sku_id: str) -> OperationRefusedError:
    return OperationRefusedError(
        f"the catalog does not know SKU {sku_id!r}; see what it knows by: ./flashgate warehouse show"
    )
