"""`flashgate campaign …` and `flashgate stock topup`: operate a sale."""

import secrets
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from adapters.catalog import list_campaigns, register_campaign, set_allocated
from adapters.lotteries import fields_of_kind, move
from adapters.mysql import query
from adapters.stock import load_campaign, read_snapshot, top_up
from cli.clients import Clients, open_clients, run
from cli.config import load
from domain.campaign import Campaign, parse_campaign
from domain.errors import ConfigError, OperationRefusedError
from domain.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Load, open, pause, resume, close and look at a campaign.")
stock_app = typer.Typer(no_args_is_help=True, help="Stock of a campaign.")


@stock_app.callback()
def stock_group() -> None:
    """Stock of a campaign."""


CampaignArgument = Annotated[str, typer.Argument(metavar="ID", help="The campaign's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


async def load_into(clients: Clients, campaign: Campaign) -> str:
    """Load a campaign into MySQL and Redis; returns `created`, `updated` or `unchanged`.

    Redis is asked first whether it can be, then MySQL learns of it (no order may arrive there before its campaign),
    then Redis takes it.
    """
    more = await fields_of_kind(clients.client, clients.catalog, campaign)
    foreseen = await load_campaign(clients.channel, campaign, check_only=True, more_fields=more)
    known = campaign.id in {campaign_id for campaign_id, _ in await list_campaigns(clients.catalog)}
    await register_campaign(clients.catalog, clients.orders, campaign)
    # Redis has forgotten a campaign that MySQL knows: recovery has to look before anything is sold again.
    gate_closed = known and foreseen == "created"
    done = await load_campaign(clients.channel, campaign, gate_closed=gate_closed, more_fields=more)
    await copy_allocations(clients, campaign.id)
    return done


async def copy_allocations(clients: Clients, campaign_id: str) -> None:
    """Bring MySQL's allocations to what Redis has, which is the one that decides."""
    snapshot = await read_snapshot(clients.client, campaign_id)
    rows = await query(
        clients.orders, "SELECT sku_id, allocated FROM campaign_sku WHERE campaign_id = %s", (campaign_id,)
    )
    known = dict(rows)
    for sku_id, line in (snapshot.stock if snapshot else {}).items():
        if known.get(sku_id) != line.allocated:
            await set_allocated(clients.catalog, clients.orders, campaign_id, sku_id, line.allocated, lower=True)


def read_campaign_file(path: Path) -> Campaign:
    """Read and check a campaign file.

    Raises:
        ConfigError: the message names file, line and field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return parse_campaign(text, source=path.name)


@app.command(name="load")
def load_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The campaign file (TOML).")], json: JsonOption = False
) -> None:
    """Load a campaign file; loading it again changes nothing, a changed file changes what it says."""
    campaign = read_campaign_file(file)

    async def work(settings: Settings) -> str:
        async with open_clients(settings) as clients:
            return await load_into(clients, campaign)

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
    """Close a campaign for good; accepted orders stay."""
    _move(campaign_id, "close", json=json)


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
    return {
        "campaign_id": campaign_id,
        "kind": snapshot.fields["kind"],
        "state": snapshot.fields["state"],
        "opens_ms": int(snapshot.fields["opens_ms"]),
        "closes_ms": int(snapshot.fields["closes_ms"]),
        "now_ms": snapshot.now_us // 1000,
        "skus": [{"sku_id": sku, **line._asdict()} for sku, line in sorted(snapshot.stock.items())],
    }


@stock_app.command(context_settings={"ignore_unknown_options": True})  # so that -5 is a number, and refused as one
def topup(
    campaign_id: CampaignArgument,
    sku_id: Annotated[str, typer.Argument(metavar="SKU")],
    units: Annotated[int, typer.Argument(metavar="N", help="Units to add, at least 1.")],
    key: Annotated[str, typer.Option(help="Repeat with the same key to be sure: it adds once.")] = "",
    json: JsonOption = False,
) -> None:
    """Add units to a SKU; it goes on sale again at once."""
    key = key or secrets.token_hex(8)

    async def work(settings: Settings) -> tuple[int, bool]:
        async with open_clients(settings) as clients:
            allocated, added = await top_up(clients.channel, campaign_id, sku_id, units, key)
            await set_allocated(clients.catalog, clients.orders, campaign_id, sku_id, allocated)
            return allocated, added

    allocated, added = run(work(load()))
    if json:
        facts = {"campaign_id": campaign_id, "sku_id": sku_id, "allocated": allocated, "added": added, "key": key}
        typer.echo(orjson.dumps(facts).decode())
    else:
        typer.echo(f"{sku_id}: {allocated} units allocated" + ("" if added else " (this key was used before)"))
