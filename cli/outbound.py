"""`flashgate outbound …`: review what is paid before it goes out, and take back what came back."""

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final, TypeVar

import orjson
import typer
from rich.table import Table
from rich.text import Text

from cli.clients import run
from cli.config import load
from cli.texts import table_console
from cli.who import JsonOption, WhoOption, who_does_it
from consumers.dead_letter_rules import iso, printable
from domain.errors import OperationRefusedError
from domain.order import split_order_id
from domain.order_state import ReviewStatus
from domain.settings import Settings
from warehouse.app import open_outbound
from warehouse.outbound import Decided, OutboundDesk, Review
from warehouse.review_rules import LIST_MAX, ORDERS_MAX, WHY, Deed, Place, parse_place, place_text

app = typer.Typer(no_args_is_help=True, help="Outbound review: what is paid, and goes out or back.")

T = TypeVar("T")

LIST_DEFAULT: Final = 50


def _order_id(text: str) -> str:
    if split_order_id(text) is None:
        raise typer.BadParameter(f"{text!r} is no order id; one looks like c-1010~<32 hex digits>")
    return text


OrdersArgument = Annotated[list[str], typer.Argument(metavar="ORDER", parser=_order_id, help="The orders' ids.")]
SomeOrdersArgument = Annotated[
    list[str] | None, typer.Argument(metavar="ORDER", parser=_order_id, help="The orders' ids.")
]
CampaignOption = Annotated[str, typer.Option("--campaign", metavar="ID", help="Only those of this campaign.")]
WhyOption = Annotated[str, typer.Option("--why", metavar="TEXT", help="What for; it is kept with the order.")]


def _at_desk(work: Callable[[OutboundDesk], Awaitable[T]]) -> T:
    async def at_desk(settings: Settings) -> T:
        async with open_outbound(settings) as desk:
            return await work(desk)

    return run(at_desk(load()))


@app.command(name="list")
def list_command(
    *,
    campaign: CampaignOption = "",
    status: Annotated[ReviewStatus, typer.Option(help="Only those that stand so.")] = ReviewStatus.WAITING,
    limit: Annotated[int, typer.Option(min=1, max=LIST_MAX, help="At most so many.")] = LIST_DEFAULT,
    after: Annotated[str, typer.Option(metavar="NEXT", help="From where the page before ended, as it told.")] = "",
    json: JsonOption = False,
) -> None:
    """List reviews, those that have waited longest first."""
    place = _place(after)
    found = _at_desk(lambda desk: desk.find(status, campaign_id=campaign, after=place, limit=limit))
    if found:
        _print_list(found)
    following = place_text(found[-1].place) if len(found) == limit else None
    typer.echo(f"{len(found)} {status.value}" + (f"; there may be more: --after {following}" if following else ""))
    if json:
        facts = {"status": status, "reviews": [one.facts() for one in found], "next": following}
        typer.echo(orjson.dumps(facts).decode())


def _place(text: str) -> Place | None:
    if not text:
        return None
    place = parse_place(text)
    if place is None:
        raise typer.BadParameter(f"{text!r} is no place in the list; give what the page before told")
    return place


@app.command()
def approve(
    orders: SomeOrdersArgument = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All that wait of one campaign.")] = False,
    campaign: CampaignOption = "",
    who: WhoOption = None,
    why: WhyOption = WHY[Deed.APPROVE],
    json: JsonOption = False,
) -> None:
    """Approve paid orders: their parcels leave the warehouse. Of the orders given, all are approved or none."""
    ids = orders or []
    if everything == bool(ids) or everything != bool(campaign):
        raise typer.BadParameter("give orders, or --all with --campaign ID")
    who = who_does_it(who, why)
    if everything:
        done, left = _at_desk(functools.partial(approve_all, campaign_id=campaign, who=who, why=why))
    else:
        done, left = _at_desk(lambda desk: desk.approve(_few(ids), who, why)), []
    _tell(Deed.APPROVE, done, left, json=json)


@app.command()
def reject(
    orders: OrdersArgument, *, who: WhoOption = None, why: WhyOption = WHY[Deed.REJECT], json: JsonOption = False
) -> None:
    """Reject paid orders, all or none: their units go back to the campaign, and the money to the buyers.

    An approved order may still be rejected as long as its parcel has not left the warehouse; after that: return.

    Units that come back to a closed campaign go on to the warehouse.
    """
    who = who_does_it(who, why)
    _tell(Deed.REJECT, _at_desk(lambda desk: desk.reject(_few(orders), who, why)), [], json=json)


@app.command(name="return")
def return_command(
    orders: OrdersArgument, *, who: WhoOption = None, why: WhyOption = WHY[Deed.RETURN], json: JsonOption = False
) -> None:
    """Take in parcels that came back, all or none: for their campaign again, and the money to the buyers."""
    who = who_does_it(who, why)
    _tell(Deed.RETURN, _at_desk(lambda desk: desk.take_back(_few(orders), who, why)), [], json=json)


async def approve_all(desk: OutboundDesk, *, campaign_id: str, who: str, why: str) -> tuple[list[Decided], list[str]]:
    """Approve what waits of a campaign, ORDERS_MAX in a transaction; returns also what was refused meanwhile, and why.

    Each order is taken up once, also while others are being paid.
    """
    done: list[Decided] = []
    refused: list[str] = []
    after = None
    while True:
        page = await desk.find(ReviewStatus.WAITING, campaign_id=campaign_id, after=after, limit=ORDERS_MAX)
        if not page:
            return done, refused
        after = page[-1].place
        ids = [one.order_id for one in page]
        try:
            done += await desk.approve(ids, who, why)
        except OperationRefusedError:  # somebody else decides, too
            for one in ids:
                try:
                    done += await desk.approve([one], who, why)
                except OperationRefusedError as error:
                    refused.append(str(error))


def _few(ids: Sequence[str]) -> list[str]:
    if len(set(ids)) > ORDERS_MAX:
        raise typer.BadParameter(f"at most {ORDERS_MAX} orders at once")
    return list(ids)


def _tell(deed: Deed, done: Sequence[Decided], refused: Sequence[str], *, json: bool) -> None:
    """Say what has become of orders; exit code 1 if some were refused."""
    for one in done:
        typer.echo(printable(f"{one.order_id}: {one.status}" + (f"; {one.note}" if one.note else "")))
    for text in refused:
        typer.echo(printable(text))
    if not done and not refused:
        typer.echo("nothing waits")
    if json:
        facts = {"deed": deed, "orders": [one._asdict() for one in done], "refused": list(refused)}
        typer.echo(orjson.dumps(facts).decode())
    if refused:
        raise typer.Exit(1)


def _print_list(found: Sequence[Review]) -> None:
    table = Table(box=None)
    table.add_column("order", no_wrap=True, overflow="ignore")  # it is to be copied
    for name in ("SKU", "quantity", "since", "decided by", "why", "in the way"):
        table.add_column(name, overflow="fold")
    for one in found:
        cells = (one.order_id, one.sku_id, str(one.quantity), iso(one.opened_at_ms), one.who, one.why, one.error)
        table.add_row(*[Text(printable(cell)) for cell in cells])
    table_console().print(table)
