"""`flashgate warehouse …`: what lies in the warehouses and whose it is; goods that come in, and what the shop sells."""

from typing import Annotated, Final

import msgspec
import orjson
import typer
from rich.table import Table

from cli.clients import open_clients, run
from cli.config import load
from cli.texts import table_console
from cli.who import JsonOption, KeyOption, WhoOption, key_or_new, who_does_it
from consumers.dead_letter_rules import iso, printable
from domain.errors import OutcomeUnknownError
from domain.settings import Settings
from warehouse.books import Report, SkuLine
from warehouse.movements import Moved, Movement, move
from warehouse.rules import BookingKind
from warehouse.stores import wall_ms
from warehouse.view import LEDGER_MAX, LedgerRow, read_ledger, read_report

app = typer.Typer(no_args_is_help=True, help="What lies in the warehouses: look, receive, and the shop's own sales.")

# So that -5 is a number, and refused as one.
NUMBERS: Final = {"ignore_unknown_options": True}

_DONE: Final = {
    BookingKind.RECEIVE: "received",
    BookingKind.RESERVE: "reserved for the shop",
    BookingKind.UNRESERVE: "no longer reserved",
    BookingKind.SHIP: "shipped for the shop",
}

SkuArgument = Annotated[str, typer.Argument(metavar="SKU", help="The SKU's id.")]
UnitsArgument = Annotated[int, typer.Argument(metavar="N", help="Units, at least 1.")]
WarehouseOption = Annotated[str, typer.Option(metavar="ID", help="Where; default: wherever there are some.")]
IntoOption = Annotated[str, typer.Option("--warehouse", metavar="ID", help="Which one they come into; default: main.")]
WhyOption = Annotated[str, typer.Option(help="Why, for the ledger.")]


@app.command()
def show(
    sku: Annotated[str, typer.Argument(metavar="[SKU]", help="Only this one.")] = "", json: JsonOption = False
) -> None:
    """Show how many units of each SKU there are, whose they are, and whether the books balance.

    Exit code 1: a number is not what its ledger comes to.
    """

    async def work(settings: Settings) -> Report:
        async with open_clients(settings) as clients:
            return await read_report(clients.catalog, sku)

    report = run(work(load()))
    if json:
        typer.echo(orjson.dumps(msgspec.to_builtins(report)).decode())
    else:
        _print(report)
    if not report.balanced:
        raise typer.Exit(1)


def _print(report: Report) -> None:
    console = table_console()
    if not report.skus:
        typer.echo(
            "the catalog is empty; fill it by `./flashgate catalog load FILE`, or `./flashgate warehouse receive SKU N`"
        )
        return
    console.print(_stock_table(report.skus))
    typer.echo("free = on hand - campaigns' - shop's;  on hand = received - shipped + returned")
    if any(sku.campaigns for sku in report.skus):
        typer.echo("")
        console.print(_campaign_table(report.skus))
        typer.echo(
            "given = in file + topped up - withdrawn;  of these, `out now` have left the house and not come back"
        )
    typer.echo("")
    if report.balanced:
        typer.echo("the books balance: every number is what its ledger comes to")
        return
    typer.echo(f"the books do not balance, {len(report.differences):,} times:")
    for difference in report.differences:
        typer.echo(f"  {difference}")


@app.command()
def ledger(
    sku: Annotated[str, typer.Argument(metavar="[SKU]", help="Only this one.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=LEDGER_MAX, help="At most so many.")] = 50,
    json: JsonOption = False,
) -> None:
    """Show what was booked, the newest first: what moved which number by how much, by whom and why."""

    async def work(settings: Settings) -> list[LedgerRow]:
        async with open_clients(settings) as clients:
            return await read_ledger(clients.catalog, sku, limit)

    rows = run(work(load()))
    if json:
        typer.echo(orjson.dumps({"bookings": [row._asdict() for row in rows]}).decode())
        return
    table = Table("at", "kind", box=None)
    table.add_column("SKU", no_wrap=True)
    table.add_column("warehouse")
    for name in ("on hand", "campaigns'", "shop's"):
        table.add_column(name, justify="right")
    for name in ("who", "why", "reference"):
        table.add_column(name, overflow="fold")
    for row in rows:
        moves = [f"{units:+,}" if units else "" for units in (row.on_hand, row.allocated, row.reserved)]
        cells = (row.who, row.why, row.ref)
        table.add_row(
            iso(row.created_at_ms), row.kind, row.sku_id, row.warehouse_id, *moves, *[printable(cell) for cell in cells]
        )
    table_console().print(table)


def _stock_table(skus: list[SkuLine]) -> Table:
    names = ("on hand", "campaigns'", "shop's", "free", "received", "shipped", "returned")
    table = Table(title="units in the warehouses", title_justify="left")
    table.add_column("SKU", overflow="fold")
    table.add_column("product", overflow="fold")
    table.add_column("warehouse", overflow="fold")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for sku in skus:
        called = ", ".join([sku.product, *(f"{name}={value}" for name, value in sku.attributes.items())])
        for number, line in enumerate(sku.warehouses):
            units = (line.on_hand, line.allocated, line.reserved, line.free, line.received, line.shipped, line.returned)
            first = (sku.sku_id, called) if number == 0 else ("", "")
            table.add_row(*first, line.warehouse_id, *[f"{one:,}" for one in units])
        if not sku.warehouses:
            table.add_row(sku.sku_id, called, "none yet", *["0"] * len(names))
        elif len(sku.warehouses) > 1:
            units = (sku.on_hand, sku.allocated, sku.reserved, sku.free, sku.received, sku.shipped, sku.returned)
            table.add_row("", "", "together", *[f"{one:,}" for one in units])
    return table


def _campaign_table(skus: list[SkuLine]) -> Table:
    table = Table(title="units given to campaigns", title_justify="left")
    table.add_column("SKU", overflow="fold")
    table.add_column("campaign", overflow="fold")
    for name in ("given", "in file", "topped up", "withdrawn", "out now"):
        table.add_column(name, justify="right")
    for sku in skus:
        for number, line in enumerate(sku.campaigns):
            units = (line.allocated, line.in_file, line.topped_up, line.withdrawn, line.shipped)
            table.add_row(sku.sku_id if number == 0 else "", line.campaign_id, *[f"{one:,}" for one in units])
    return table


@app.command(context_settings=NUMBERS)
def receive(
    sku: SkuArgument,
    units: UnitsArgument,
    warehouse: IntoOption = "",
    key: KeyOption = None,
    who: WhoOption = None,
    why: WhyOption = "goods came in",
    json: JsonOption = False,
) -> None:
    """Goods came in: add units. A SKU that the catalog does not know is added to it, as a product of its own."""
    _move(_movement(BookingKind.RECEIVE, sku, units, key, warehouse, who, why), json=json)


@app.command(context_settings=NUMBERS)
def reserve(
    sku: SkuArgument,
    units: UnitsArgument,
    warehouse: WarehouseOption = "",
    key: KeyOption = None,
    who: WhoOption = None,
    why: WhyOption = "the shop has sold them",
    json: JsonOption = False,
) -> None:
    """The shop has sold units: no campaign can be given them any more."""
    _move(_movement(BookingKind.RESERVE, sku, units, key, warehouse, who, why), json=json)


@app.command(context_settings=NUMBERS)
def unreserve(
    sku: SkuArgument,
    units: UnitsArgument,
    warehouse: WarehouseOption = "",
    key: KeyOption = None,
    who: WhoOption = None,
    why: WhyOption = "the shop gives them up",
    json: JsonOption = False,
) -> None:
    """The shop gives up units that it has reserved: they are free again."""
    _move(_movement(BookingKind.UNRESERVE, sku, units, key, warehouse, who, why), json=json)


@app.command(context_settings=NUMBERS)
def ship(
    sku: SkuArgument,
    units: UnitsArgument,
    warehouse: WarehouseOption = "",
    key: KeyOption = None,
    who: WhoOption = None,
    why: WhyOption = "the shop has shipped them",
    json: JsonOption = False,
) -> None:
    """Units that the shop has reserved leave the house; for a campaign's parcels there is `outbound approve`."""
    _move(_movement(BookingKind.SHIP, sku, units, key, warehouse, who, why), json=json)


def _movement(
    kind: BookingKind, sku: str, units: int, key: str | None, warehouse: str, who: str | None, why: str
) -> Movement:
    return Movement(kind, sku, units, key_or_new(key), warehouse, who_does_it(who, why), why)


def _move(movement: Movement, *, json: bool) -> None:

    async def work(settings: Settings) -> tuple[Moved, SkuLine]:
        async with open_clients(settings) as clients:
            try:
                moved = await move(clients.catalog, movement, wall_ms())
            except OutcomeUnknownError as error:
                raise OutcomeUnknownError(f"{error}\nTo be sure, repeat it with --key {movement.key}") from error
            (line,) = (await read_report(clients.catalog, movement.sku_id)).skus
            return moved, line

    moved, line = run(work(load()))
    left = {name: getattr(line, name) for name in ("on_hand", "allocated", "reserved", "free")}
    if json:
        facts = {"sku_id": movement.sku_id, "units": movement.units, "key": movement.key, "done": moved.done}
        typer.echo(orjson.dumps({**facts, "is_new_sku": moved.is_new_sku, "parts": moved.parts, **left}).decode())
        return
    if moved.is_new_sku:
        typer.echo(f"the catalog did not know {movement.sku_id}; it does now, as a product of its own")
    where = ", ".join(f"{units:,} in {warehouse}" for warehouse, units in moved.parts.items())
    repeated = "" if moved.done else " (this key was used before: nothing was changed)"
    typer.echo(f"{movement.sku_id}: {movement.units:,} units {_DONE[movement.kind]}, {where}{repeated}")
    typer.echo(
        f"now on hand {line.on_hand:,}: {line.allocated:,} campaigns', {line.reserved:,} the shop's, {line.free:,} free"
    )
