"""`flashgate campaign …` and `flashgate stock topup`: operate a sale."""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from adapters.lotteries import move
from adapters.stock import StockLine, read_snapshot
from cli.clients import Clients, open_clients, run
from cli.config import load
from cli.texts import read_text
from cli.who import JsonOption, KeyOption, WhoOption, key_or_new, operator, who_does_it
from domain.campaign import REDEMPTION, Campaign, parse_campaign
from domain.errors import BackendError, OperationRefusedError
from domain.settings import Settings
from warehouse.campaigns import Closed, ToppedUp, close_campaign, load_into, top_up_stock

app = typer.Typer(no_args_is_help=True, help="Load, open, pause, resume, close and look at a campaign.")
stock_app = typer.Typer(no_args_is_help=True, help="Stock of a campaign.")


@stock_app.callback()
def stock_group() -> None:
    """Stock of a campaign."""


CampaignArgument = Annotated[str, typer.Argument(metavar="ID", help="The campaign's id.")]


def read_campaign_file(path: Path) -> Campaign:
    """Read and check a campaign file.

    Raises:
        ConfigError: the message names file, line and field.
    """
    return parse_campaign(read_text(path), source=path.name)


@app.command(name="load")
def load_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The campaign file (TOML).")], json: JsonOption = False
) -> None:
    """Load a campaign file; loading it again changes nothing, a changed file changes what it says.

    Its stock is allocated from the warehouse: all of it, or the file is refused whole.
    """
    campaign = read_campaign_file(file)

    async def work(settings: Settings) -> str:
        async with open_clients(settings) as clients:
            return await load_into(clients, campaign, who=operator())

    done = run(work(load()))
    if json:
        typer.echo(orjson.dumps({"campaign_id": campaign.id, "result": done}).decode())
    else:
        typer.echo(f"campaign {campaign.id}: {done}")


def _move(campaign_id: str, verb: str, *, json: bool) -> None:
    async def work(settings: Settings) -> tuple[str, bool]:
        async with open_clients(settings) as clients:
            return await move(clients.channel, clients.client, campaign_id, verb)

    state, changed = run(work(load()))
    if json:
        typer.echo(orjson.dumps({"campaign_id": campaign_id, "state": state, "changed": changed}).decode())
    else:
        typer.echo(f"campaign {campaign_id}: {state}" + ("" if changed else " (it was already)"))


@app.command(name="open")
def open_command(campaign_id: CampaignArgument, json: JsonOption = False) -> None:
    """Open a campaign: it sells within the window of its file."""
    _move(campaign_id, "open", json=json)


@app.command()
def pause(campaign_id: CampaignArgument, json: JsonOption = False) -> None:
    """Pause a campaign: nothing is sold until `resume`; accepted orders stay."""
    _move(campaign_id, "pause", json=json)


@app.command()
def resume(campaign_id: CampaignArgument, json: JsonOption = False) -> None:
    """Resume a paused campaign."""
    _move(campaign_id, "resume", json=json)


@app.command()
def close(campaign_id: CampaignArgument, json: JsonOption = False) -> None:
    """Close a campaign for good; accepted orders stay, and what is unsold goes back to the warehouse."""

    async def work(settings: Settings) -> Closed:
        async with open_clients(settings) as clients:
            return await close_campaign(clients, campaign_id)

    closed = run(work(load()))
    if json:
        facts = {"campaign_id": campaign_id, "state": closed.state, "changed": True, "returned": closed.returned}
        typer.echo(orjson.dumps(facts).decode())
        return
    typer.echo(f"campaign {campaign_id}: {closed.state}")
    for sku_id, units in closed.returned.items():
        typer.echo(f"{sku_id}: {units} units went back to the warehouse")


@app.command()
def status(campaign_id: CampaignArgument, json: JsonOption = False) -> None:
    """Show a campaign's state and stock, as Redis has them."""

    async def work(settings: Settings) -> dict[str, Any]:
        async with open_clients(settings) as clients:
            return await campaign_status(clients, campaign_id)

    found = run(work(load()))
    if json:
        typer.echo(orjson.dumps(found).decode())
        return
    typer.echo(f"campaign {campaign_id}: {found['kind']}, {found['state']}")
    table = Table("SKU", "allocated", "remaining", "taken", "returned", "epoch")
    for sku in found["skus"]:
        table.add_row(*[str(sku[name]) for name in ("sku_id", "allocated", "remaining", "taken", "returned", "epoch")])
    Console().print(table)


async def campaign_status(clients: Clients, campaign_id: str) -> dict[str, Any]:
    """Return a campaign's state and stock.

    Raises:
        OperationRefusedError: there is no such campaign.
    """
    snapshot = await read_snapshot(clients.client, campaign_id)
    if snapshot is None:
        raise OperationRefusedError(f"there is no campaign {campaign_id!r}; load its file first")
    kind = snapshot.fields["kind"]
    return {
        "campaign_id": campaign_id,
        "kind": kind,
        "state": snapshot.fields["state"],
        "opens_ms": int(snapshot.fields["opens_ms"]),
        "closes_ms": int(snapshot.fields["closes_ms"]),
        "now_ms": snapshot.now_us // 1000,
        "skus": [{"sku_id": sku, **_numbers(kind, line)} for sku, line in sorted(snapshot.stock.items())],
    }


def _numbers(kind: str, line: StockLine) -> dict[str, int]:
    """Return a SKU's numbers; the price of a redemption is in points, and called so."""
    numbers = line._asdict()
    return numbers | {"points_price": numbers.pop("price_cents")} if kind == REDEMPTION else numbers


@stock_app.command(context_settings={"ignore_unknown_options": True})  # so that -5 is a number, and refused as one
def topup(
    campaign_id: CampaignArgument,
    sku_id: Annotated[str, typer.Argument(metavar="SKU")],
    units: Annotated[int, typer.Argument(metavar="N", help="Units to add, at least 1.")],
    key: KeyOption = None,
    who: WhoOption = None,
    why: Annotated[str, typer.Option(help="Why, for the warehouse's ledger.")] = "top-up",
    json: JsonOption = False,
) -> None:
    """Add units to a SKU, from the warehouse; it goes on sale again at once."""
    used_key, does_it = key_or_new(key), who_does_it(who, why)

    async def work(settings: Settings) -> ToppedUp:
        async with open_clients(settings) as clients:
            try:
                return await top_up_stock(clients, campaign_id, sku_id, units, used_key, who=does_it, why=why)
            except BackendError as error:
                raise type(error)(
                    f"{error}\nIf the warehouse has allocated the units by now they will be added. To be sure, repeat "
                    f"it with --key {used_key}"
                ) from error

    allocated, added = run(work(load()))
    if json:
        facts = {"campaign_id": campaign_id, "sku_id": sku_id, "allocated": allocated, "added": added, "key": used_key}
        typer.echo(orjson.dumps(facts).decode())
    else:
        typer.echo(f"{sku_id}: {allocated} units allocated" + ("" if added else " (this key was used before)"))
