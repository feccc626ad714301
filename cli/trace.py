"""`flashgate trace`: the way of one order through all stores."""

from typing import Annotated

import typer

from cli.clients import open_clients, run
from cli.config import load
from consumers.dead_letter_rules import one_line, printable
from consumers.trace import Tracer
from consumers.trace_facts import Story
from consumers.trace_rules import as_json, line_text, summary, timeline
from domain.errors import BackendError, OperationRefusedError
from domain.order import split_order_id
from domain.settings import Settings


def _order_id(text: str) -> str:
    if split_order_id(text) is None:
        raise typer.BadParameter(f"{text!r} is no order id; one looks like c-1010~<32 hex digits>")
    return text


def trace(
    order_id: Annotated[str, typer.Argument(metavar="ORDER", parser=_order_id, help="The order's id.")],
    *,
    user: Annotated[
        str, typer.Option(metavar="U", help="Whose order it is, if neither MySQL nor Kafka can tell.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Show an order's way: accepted, relayed, stored, paid or given up, and what comes next.

    Of a redemption its saga and its points are told as well, of a draw its line in the log and its award.

    Exit code 1: no store knows it, or a store could not be asked. Times are UTC.
    """

    async def work(settings: Settings) -> Story:
        async with open_clients(settings) as clients:
            tracer = Tracer(
                clients.client,
                clients.orders,
                settings.kafka,
                group=settings.consumer.group,
                points=clients.points,
            )
            return await tracer.trace(order_id, user)

    story = run(work(load()))
    if not story.is_known and not story.away:
        raise OperationRefusedError(f"no store knows order {order_id}" + "".join(f"\n  {one}" for one in story.notes))
    for line in story_lines(story):
        typer.echo(line)
    if json:
        typer.echo(one_line(as_json(story)))
    if not story.is_known:
        raise BackendError(f"order {order_id} is not known to the stores that could be asked")
    if story.away:
        raise typer.Exit(1)


def story_lines(story: Story) -> list[str]:
    """Return what `trace` prints; nothing of it is obeyed by a terminal."""
    lines = [f"order {story.order_id}"]
    lines += [line_text(line) for line in timeline(story)]
    lines += [f"{store} cannot be asked: {why}" for store, why in sorted(story.away.items())]
    lines += story.notes
    if story.is_known:
        lines.append(summary(story))
    return [printable(line) for line in lines]
