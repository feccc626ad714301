"""Products, their SKUs with attributes, and warehouses: writing what a catalog file says of them to fg_catalog.

A file changes what it names and nothing else: what stands in the catalog and not in the file, stays.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from adapters.mysql import Pool, insert_many, query, transaction
from domain.catalog_file import Catalog, CatalogSku, Product, Warehouse

ROWS_A_STATEMENT: Final = 500
"""Rows that are looked up at a time."""

_WAREHOUSES: Final = """
INSERT INTO warehouse (warehouse_id, name)
VALUES (%s, %s)
ON DUPLICATE KEY UPDATE name = VALUES(name)"""
_PRODUCTS: Final = """
INSERT INTO product (product_id, name)
VALUES (%s, %s)
ON DUPLICATE KEY UPDATE name = VALUES(name)"""
_SKUS: Final = """
INSERT INTO sku (sku_id, product_id)
VALUES (%s, %s)
ON DUPLICATE KEY UPDATE product_id = VALUES(product_id)"""
_ATTRIBUTES: Final = """
INSERT INTO sku_attribute (sku_id, name, value)
VALUES (%s, %s, %s)
ON DUPLICATE KEY UPDATE value = VALUES(value)"""
_FORGET_ATTRIBUTES: Final = "DELETE FROM sku_attribute WHERE sku_id = %s AND name IN %s"

_FIND_WAREHOUSES: Final = "SELECT warehouse_id, name FROM warehouse WHERE warehouse_id IN %s"
_FIND_PRODUCTS: Final = "SELECT product_id, name FROM product WHERE product_id IN %s"
_FIND_SKUS: Final = "SELECT sku_id, product_id FROM sku WHERE sku_id IN %s"
_FIND_ATTRIBUTES: Final = "SELECT sku_id, name, value FROM sku_attribute WHERE sku_id IN %s"

_ALL_WAREHOUSES: Final = "SELECT warehouse_id, name FROM warehouse ORDER BY warehouse_id"
_ALL_SKUS: Final = """
SELECT COALESCE(s.product_id, ''), COALESCE(p.name, ''), s.sku_id FROM sku AS s
LEFT JOIN product AS p ON p.product_id = s.product_id ORDER BY s.product_id, s.sku_id"""
_ALL_ATTRIBUTES: Final = "SELECT sku_id, name, value FROM sku_attribute ORDER BY sku_id, name"


class Loaded(NamedTuple):
    """What a load has changed, in warehouses, products and SKUs."""

    added: int
    changed: int
    unchanged: int


class Known(NamedTuple):
    """The whole catalog."""

    warehouses: list[Warehouse]
    products: list[Product]
    without_product: list[str]
    """SKUs that a campaign's file named, and no catalog file yet."""


async def load_catalog(pool: Pool, catalog: Catalog) -> Loaded:
    """Make the catalog say what the file says, in one transaction; a repeated load changes nothing.

    Attributes of the file's SKUs that are not in the file are removed.

    Raises:
        OutcomeUnknownError: COMMIT was sent and its answer lost; load again.
        BackendError: MySQL could not do it now; nothing was changed.
    """
    warehouses = {one.id: one.name for one in catalog.warehouse}
    products = {one.id: one.name for one in catalog.product}
    skus = {sku.id: product.id for product in catalog.product for sku in product.sku}
    attributes = {sku.id: sku.attributes for product in catalog.product for sku in product.sku}
    async with transaction(pool) as cursor:
        before = {
            **{("warehouse", row[0]): row[1] for row in await _find(cursor, _FIND_WAREHOUSES, warehouses)},
            **{("product", row[0]): row[1] for row in await _find(cursor, _FIND_PRODUCTS, products)},
            **{("sku", row[0]): row[1] for row in await _find(cursor, _FIND_SKUS, skus)},
        }
        await insert_many(cursor, _WAREHOUSES, sorted(warehouses.items()))
        await insert_many(cursor, _PRODUCTS, sorted(products.items()))
        await insert_many(cursor, _SKUS, sorted(skus.items()))
        # The SKUs' rows are locked now: two loads at once leave the attributes of one of them, not a mixture.
        other_attributes = await _set_attributes(cursor, attributes)
    after = {
        **{("warehouse", key): name for key, name in warehouses.items()},
        **{("product", key): name for key, name in products.items()},
        **{("sku", key): product_id for key, product_id in skus.items()},
    }
    added = len(after.keys() - before.keys())
    changed = sum(
        before[key] != value or (key[0] == "sku" and key[1] in other_attributes)
        for key, value in after.items()
        if key in before
    )
    return Loaded(added, changed, len(after) - added - changed)


async def _find(cursor: Any, sql: str, keys: Iterable[str]) -> list[tuple[Any, ...]]:  # noqa: ANN401 -- aiomysql has no types
    wanted, rows = sorted(keys), []
    for start in range(0, len(wanted), ROWS_A_STATEMENT):
        await cursor.execute(sql, (wanted[start : start + ROWS_A_STATEMENT],))
        rows += await cursor.fetchall()
    return rows


async def _set_attributes(cursor: Any, wanted: dict[str, dict[str, str]]) -> set[str]:  # noqa: ANN401
    """Give each SKU exactly these attributes; returns the SKUs that had others."""
    present: dict[str, dict[str, str]] = {sku_id: {} for sku_id in wanted}
    for sku_id, name, value in await _find(cursor, _FIND_ATTRIBUTES, wanted):
        present[sku_id][name] = value
    others = {sku_id for sku_id, attributes in wanted.items() if attributes != present[sku_id]}
    for sku_id in sorted(others):
        gone = sorted(present[sku_id].keys() - wanted[sku_id].keys())
        if gone:
            await cursor.execute(_FORGET_ATTRIBUTES, (sku_id, gone))
    rows = [(sku_id, *item) for sku_id in sorted(others) for item in sorted(wanted[sku_id].items())]
    await insert_many(cursor, _ATTRIBUTES, rows)
    return others


async def read_catalog(pool: Pool) -> Known:
    """Return the whole catalog, by id.

    Raises:
        BackendError: MySQL could not do it now.
    """
    warehouses = [Warehouse(id=key, name=name) for key, name in await query(pool, _ALL_WAREHOUSES)]
    attributes: dict[str, dict[str, str]] = {}
    for sku_id, name, value in await query(pool, _ALL_ATTRIBUTES):
        attributes.setdefault(sku_id, {})[name] = value
    skus: dict[tuple[str, str], list[CatalogSku]] = {}
    for product_id, name, sku_id in await query(pool, _ALL_SKUS):
        skus.setdefault((product_id, name), []).append(CatalogSku(id=sku_id, attributes=attributes.get(sku_id, {})))
    products = [Product(id=key, name=name, sku=tuple(of_it)) for (key, name), of_it in skus.items() if key]
    return Known(warehouses, products, [sku.id for sku in skus.get(("", ""), [])])
