"""`flashgate saga …`: look at the sagas of redemptions, have parked ones taken up anew, or turn one back."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Final, TypeVar

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from cli.clients import open_clients, run
from cli.config import load
from cli.texts import table_console
from cli.who import JsonOption, WhoOption, who_does_it
from consumers.dead_letter_rules import iso, one_line, printable
from consumers.saga_desk import LIST_MAX, SagaDesk
from consumers.saga_facts import SagaFacts, SagaStory
from consumers.saga_words import as_json, next_text, standing, step_lines
from domain.order import split_order_id
from domain.saga import SagaStatus
from domain.settings import Settings
from warehouse.review_rules import change_reason

app = typer.Typer(no_args_is_help=True, help="Sagas of redemptions: look, retry, compensate.")

T = TypeVar("T")

LIST_DEFAULT: Final = 50


def _saga_id(text: str) -> str:
    if split_order_id(text) is None:
        raise typer.BadParameter(f"{text!r} is no saga; its id is its order's, like c-1010~<32 hex digits>")
    return text


IdArgument = Annotated[str, typer.Argument(metavar="ID", parser=_saga_id, help="The saga's id, which is its order's.")]


def _at_desk(work: Callable[[SagaDesk], Awaitable[T]]) -> T:
    async def at_desk(settings: Settings) -> T:
        async with open_clients(settings) as clients:
            return await work(SagaDesk(clients.orders, clients.points))

    return run(at_desk(load()))


@app.command(name="list")
def list_command(
    *,
    status: Annotated[
        SagaStatus | None, typer.Option(help="Only those of this direction, ended ones as well, the newest first.")
    ] = None,
    campaign: Annotated[str, typer.Option("--campaign", metavar="ID", help="Only those of this campaign.")] = "",
    parked: Annotated[bool, typer.Option("--parked", help="Only those that wait for a person.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=LIST_MAX, help="At most so many.")] = LIST_DEFAULT,
    json: JsonOption = False,
) -> None:
    """List sagas that have not ended, the oldest first."""
    found = _at_desk(lambda desk: desk.list_sagas(status=status, campaign_id=campaign, parked=parked, limit=limit))
    if found:
        table_console().print(_table(found))
    more = f"; there may be more (--limit, at most {LIST_MAX})" if len(found) == limit else ""
    typer.echo(f"{len(found)} listed{more}")
    if json:
        typer.echo(one_line({"sagas": msgspec.to_builtins(found)}))


def _table(found: Sequence[SagaFacts]) -> Table:
    table = Table(box=None)
    table.add_column("saga", no_wrap=True, overflow="ignore")  # it is to be copied
    for name in ("direction", "stands", "points", "quantity", "SKU", "user", "since", "failed", "error"):
        table.add_column(name, overflow="fold")
    for one in found:
        cells = (
            *(one.saga_id, one.status, standing(one), f"{one.points:,}", str(one.quantity), one.sku_id, one.user_id),
            *(iso(one.started_at_ms), str(one.attempts), one.error),
        )
        table.add_row(*[Text(printable(cell)) for cell in cells])
    return table


@app.command()
def show(saga_id: IdArgument, json: JsonOption = False) -> None:
    """Show what a saga has done, what is missing, and what to do next; exit code 1 if fg_points cannot be asked."""
    story = _at_desk(lambda desk: desk.find(saga_id))
    for line in story_lines(story):
        typer.echo(line)
    if json:
        typer.echo(one_line(as_json(story)))
    if story.points_away:
        raise typer.Exit(1)


def story_lines(story: SagaStory) -> list[str]:
    """Return what `show` prints; nothing of it is obeyed by a terminal."""
    saga = story.saga
    origin = f"outbox entry {saga.outbox_id}/{saga.outbox_index}"
    lines = [
        f"saga {saga.saga_id}",
        f"redemption  {saga.quantity} of {saga.sku_id} for {saga.points:,} points, user {saga.user_id}, {origin}",
        f"accepted    {iso(saga.accepted_at_ms)}, taken in {iso(saga.started_at_ms)}",
        f"direction   {saga.status}" + (f": {saga.reason}" if saga.reason else "") + f", version {saga.version}",
    ]
    if story.compensated_by:
        lines.append(f"decided by  {story.compensated_by}: {story.compensated_why}")
    lines += [
        f"step        {step:<15} {schema:<10} {text}" + ("" if at_ms is None else f", {iso(at_ms)}")
        for step, schema, text, at_ms in step_lines(story)
    ]
    order = f"{story.order_status}, version {story.order_version}" if story.order_status else "no row"
    lines.append(f"order       {order}")
    for paid in story.payments:
        tried = f", tried {paid.attempts} times in vain: {paid.error}" if paid.attempts else ""
        lines.append(f"payment     {paid.payment_id}: {paid.points:,} points, {paid.status}, {iso(paid.at_ms)}{tried}")
    lines += [f"points      {one.kind} {one.delta:+,} of {one.user_id}, {iso(one.at_ms)}" for one in story.moves] or [
        f"points      {'fg_points cannot be asked' if story.points_away else 'no movement'}"
    ]
    lines += [f"stock       {one.kind} {one.quantity}, hold {one.hold_no}, {iso(one.at_ms)}" for one in story.stock]
    if saga.attempts or saga.error:
        lines.append(f"failed      {saga.attempts} times: {saga.error}")
    if story.points_away:
        lines.append(f"away        {story.points_away}")
    lines.append(f"next        {next_text(story)}")
    return [printable(line) for line in lines]


@app.command()
def retry(saga_id: IdArgument, json: JsonOption = False) -> None:
    """Have a parked saga taken up anew, from the step at which it failed, with all its attempts.

    Its dead letter may be dropped afterwards: `deadletter list --reason parked`.
    """
    saga = _at_desk(lambda desk: desk.retry(saga_id))
    text = f"{saga_id}: taken up anew, {standing(saga).removeprefix('parked before ')} comes next"
    typer.echo(printable(f"{text}; its dead letter, if it has one, may be dropped"))
    if json:
        typer.echo(one_line({"saga_id": saga_id, "status": saga.status, "retried": True}))


@app.command()
def compensate(
    saga_id: IdArgument,
    *,
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="What for; it is kept with the order.")],
    who: WhoOption = None,
    json: JsonOption = False,
) -> None:
    """Turn a running saga back: points and stock go back, and its order is rejected, with the reason."""
    who = who_does_it(who, why)
    if not why:
        raise typer.BadParameter("--why: say what for")
    reason = change_reason("compensated", who, why)
    saga = _at_desk(lambda desk: desk.compensate(saga_id, who=who, why=why, reason=reason))
    typer.echo(printable(f"{saga_id}: turned back; points that were taken go back, {saga.quantity} of {saga.sku_id}"))
    if json:
        facts = {"saga_id": saga_id, "status": SagaStatus.COMPENSATING, "reason": reason, "who": who, "why": why}
        typer.echo(one_line(facts))
