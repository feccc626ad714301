"""A catalog as the operator writes it: products, their SKUs with attributes, and warehouses."""

from typing import Annotated, Any, Final

import msgspec

from domain import toml_source
from domain.campaign import SKUS_MAX, SkuId
from domain.errors import ConfigError

PRODUCTS_MAX: Final = 5_000
WAREHOUSES_MAX: Final = 100
ATTRIBUTES_MAX: Final = 50

WarehouseId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,40}$(?!\n)")]
# MySQL takes no difference between a text and the same with blanks at its end; control characters move a terminal.
Name = Annotated[str, msgspec.Meta(pattern=r"^(?!\s)[^\x00-\x1f\x7f-\x9f]{1,200}$(?<!\s)")]
AttributeName = Annotated[str, msgspec.Meta(pattern=r"^(?!\s)[^\x00-\x1f\x7f-\x9f]{1,64}$(?<!\s)")]
AttributeValue = Annotated[str, msgspec.Meta(pattern=r"^(?!\s)[^\x00-\x1f\x7f-\x9f]{1,255}$(?<!\s)")]


class Warehouse(msgspec.Struct, frozen=True, kw_only=True):
    """One `[[warehouse]]` table."""

    id: WarehouseId
    name: Name


class CatalogSku(msgspec.Struct, frozen=True, kw_only=True):
    """One `[[product.sku]]` table: the product with its attributes' values."""

    id: SkuId
    attributes: Annotated[dict[AttributeName, AttributeValue], msgspec.Meta(max_length=ATTRIBUTES_MAX)] = {}


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """One `[[product]]` table."""

    id: SkuId
    name: Name
    sku: Annotated[tuple[CatalogSku, ...], msgspec.Meta(min_length=1, max_length=SKUS_MAX)]


class Catalog(msgspec.Struct, frozen=True, kw_only=True):
    """A whole catalog file."""

    warehouse: Annotated[tuple[Warehouse, ...], msgspec.Meta(max_length=WAREHOUSES_MAX)] = ()
    product: Annotated[tuple[Product, ...], msgspec.Meta(max_length=PRODUCTS_MAX)] = ()


def parse_catalog(text: str, *, source: str) -> Catalog:
    """Parse and check a catalog file.

    Raises:
        ConfigError: the message names the line and the field.
    """
    data: dict[str, Any] = toml_source.parse(text, source)
    catalog = toml_source.convert(data, Catalog, source=source, text=text)
    seen: set[tuple[str, str]] = set()

    def once(kind: str, found: str, path: list[str | int]) -> None:
        if (kind, found) in seen:
            raise ConfigError(
                f"{toml_source.place(source, text, path)}: the {kind} {found!r} stands twice in this file"
            )
        seen.add((kind, found))

    for number, warehouse in enumerate(catalog.warehouse):
        once("warehouse", warehouse.id, ["warehouse", number, "id"])
    for number, product in enumerate(catalog.product):
        once("product", product.id, ["product", number, "id"])
        known: dict[tuple[tuple[str, str], ...], str] = {}
        for position, sku in enumerate(product.sku):
            path: list[str | int] = ["product", number, "sku", position, "id"]
            once("SKU", sku.id, path)
            twin = known.setdefault(tuple(sorted(sku.attributes.items())), sku.id)
            if sku.attributes and twin != sku.id:
                raise ConfigError(
                    f"{toml_source.place(source, text, path)}: {sku.id!r} has the attributes of {twin!r}; each SKU of "
                    f"a product has values of its own"
                )
    if not seen:
        raise ConfigError(f"{source}: there is no [[product]] and no [[warehouse]] in it")
    return catalog
