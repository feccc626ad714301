"""The catalog file: what is in it, and errors that say where."""

import pytest

from domain.campaign import parse_campaign
from domain.catalog_file import parse_catalog
from domain.errors import ConfigError
from stack.paths import PROJECT_ROOT

GOOD = """
[[warehouse]]
id = "north"
name = "North"

[[product]]
id = "hoodie"
name = "Hoodie"

[[product.sku]]
id = "hoodie-m"
attributes = { size = "M", "neck line" = "round" }

[[product.sku]]
id = "hoodie-l"
[product.sku.attributes]
size = "L"

[[product]]
id = "mug"
name = "Mug"

[[product.sku]]
id = "mug-1"
"""


def test_products_with_their_skus() -> None:
    """Each SKU belongs to the product above it, with its attributes; a SKU may have none."""
    catalog = parse_catalog(GOOD, source="catalog.toml")
    assert [(one.id, one.name) for one in catalog.warehouse] == [("north", "North")]
    assert [(product.id, [(sku.id, sku.attributes) for sku in product.sku]) for product in catalog.product] == [
        ("hoodie", [("hoodie-m", {"size": "M", "neck line": "round"}), ("hoodie-l", {"size": "L"})]),
        ("mug", [("mug-1", {})]),
    ]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            'size = "L"',
            'size = "M"\n"neck line" = "round"',
            "product[0].sku[1].id: 'hoodie-l' has the attributes of 'hoodie-m'",
        ),
        ('id = "mug-1"', 'id = "hoodie-m"', "line 24: product[1].sku[0].id: the SKU 'hoodie-m' stands twice"),
        ('id = "mug"', 'id = "hoodie"', "line 20: product[1].id: the product 'hoodie' stands twice"),
        ('id = "hoodie-l"', 'id = "hoodie l"', "line 15: product[0].sku[1].id"),
        ('size = "L"', "size = 5", "line 16: product[0].sku[1].attributes"),
        ('size = "M"', 'size = "M "', "line 12: product[0].sku[0].attributes"),
        ('size = "M"', 'size = ""', "line 12: product[0].sku[0].attributes"),
        (
            "attributes =",
            "attribute =",
            "line 12: product[0].sku[0].attribute: unknown name; did you mean 'attributes'",
        ),
        ('name = "Mug"', 'name = ""', "line 21: product[1].name"),
        ('name = "Mug"', r'name = "M\u001b[2J"', "line 21: product[1].name"),
        ('name = "Mug"', "", "line 19: product[1]: 'name' is missing"),
        ('id = "north"', 'id = "North"', "line 3: warehouse[0].id"),
        ('name = "North"', 'name = "North"\nstock = 5', "line 5: warehouse[0].stock: unknown name"),
        ('[[product.sku]]\nid = "mug-1"', "", "line 19: product[1]: 'sku' is missing"),
        ('id = "mug-1"', "id = ", "line 24"),
    ],
)
def test_errors_name_line_and_field(old: str, new: str, words: str) -> None:
    """What is wrong in a file is told with its line, also in tables within tables."""
    assert old in GOOD
    with pytest.raises(ConfigError) as refused:
        parse_catalog(GOOD.replace(old, new, 1), source="catalog.toml")
    assert words in str(refused.value)
    assert "catalog.toml" in str(refused.value)


def test_empty_file_is_refused() -> None:
    """A file in which nothing stands is most likely the wrong one."""
    with pytest.raises(ConfigError, match="there is no"):
        parse_catalog("", source="catalog.toml")


def test_the_sample_names_what_the_sample_sale_sells() -> None:
    """The catalog among the examples has the SKUs of the sale among the examples."""
    catalog = parse_catalog((PROJECT_ROOT / "examples/catalog.toml").read_text(), source="catalog.toml")
    sale = parse_campaign((PROJECT_ROOT / "examples/sale.toml").read_text(), source="sale.toml")
    known = {sku.id for product in catalog.product for sku in product.sku}
    assert {sku.id for sku in sale.sku} <= known
    assert len(catalog.product) >= 2
    assert len(catalog.warehouse) >= 2
