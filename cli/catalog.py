"""`flashgate catalog …`: products, their SKUs with attributes, and warehouses."""

from pathlib import Path
from typing import Annotated

import msgspec
import orjson
import typer
from rich.table import Table

from cli.clients import open_clients, run
from cli.config import load
from cli.texts import read_text, table_console
from cli.who import JsonOption
from domain.catalog_file import Catalog, parse_catalog
from domain.settings import Settings
from warehouse.catalog_rows import Known, Loaded, load_catalog, read_catalog

app = typer.Typer(no_args_is_help=True, help="Products, their SKUs with attributes, and warehouses.")


def read_catalog_file(path: Path) -> Catalog:
    """Read and check a catalog file.

    Raises:
        ConfigError: the message names file, line and field.
    """
    return parse_catalog(read_text(path), source=path.name)


@app.command(name="load")
def load_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The catalog file (TOML).")], json: JsonOption = False
) -> None:
    """Load a catalog file; what it names is added or changed, what it does not name stays."""
    catalog = read_catalog_file(file)

    async def work(settings: Settings) -> Loaded:
        async with open_clients(settings) as clients:
            return await load_catalog(clients.catalog, catalog)

    loaded = run(work(load()))
    counts = {
        "warehouses": len(catalog.warehouse),
        "products": len(catalog.product),
        "skus": sum(len(product.sku) for product in catalog.product),
    }
    if json:
        typer.echo(orjson.dumps({**counts, **loaded._asdict()}).decode())
        return
    named = ", ".join(f"{count:,} {name.replace('skus', 'SKUs')}" for name, count in counts.items())
    typer.echo(f"catalog: {named}: {loaded.added:,} added, {loaded.changed:,} changed, {loaded.unchanged:,} as before")


@app.command()
def show(json: JsonOption = False) -> None:
    """Show the catalog."""

    async def work(settings: Settings) -> Known:
        async with open_clients(settings) as clients:
            return await read_catalog(clients.catalog)

    known = run(work(load()))
    if json:
        typer.echo(orjson.dumps(msgspec.to_builtins(known._asdict())).decode())
        return
    table_console().print(_sku_table(known))
    for warehouse in known.warehouses:
        typer.echo(f"warehouse {warehouse.id}: {warehouse.name}")


def _sku_table(known: Known) -> Table:
    table = Table("product", "name", "SKU", "attributes")
    for product in known.products:
        for number, sku in enumerate(product.sku):
            first = (product.id, product.name) if number == 0 else ("", "")
            table.add_row(*first, sku.id, ", ".join(f"{name}={value}" for name, value in sku.attributes.items()))
    for sku_id in known.without_product:
        table.add_row("", "", sku_id, "(no catalog file names it yet)")
    return table
