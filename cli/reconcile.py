"""`flashgate reconcile`: holds Redis, Kafka and MySQL against each other, once or as a process."""

import asyncio
from typing import Annotated

import msgspec
import orjson
import typer
from rich.console import Console

from cli.config import load
from consumers.reconcile import main_watch
from consumers.reconcile import reconcile as compare
from consumers.reconcile_report import table


def reconcile(
    *,
    campaign: Annotated[
        list[str] | None, typer.Option("--campaign", metavar="ID", help="Only this one; may be given several times.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Compare again and again until SIGTERM or Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Hold Redis, Kafka and MySQL against each other; exit code 1 if there is drift.

    In flight are accepted orders on their way to MySQL. Drift is orders that are missing or too many anywhere, and
    counters that differ from what they count.
    """
    settings = load()
    if watch:
        main_watch(settings, campaign)
        return
    report = asyncio.run(compare(settings, campaign))
    made = table(report)
    console = Console(highlight=False)
    if not console.is_terminal:  # nothing is cut off in a file
        console = Console(highlight=False, width=max(console.width, console.measure(made).maximum))
    console.print(made)
    for one in report.campaigns:
        for line in one.explanations:
            typer.echo(f"{one.campaign_id}: {line}")
    typer.echo(f"drift {report.drift}, in flight {report.in_flight}")
    if json:
        typer.echo(orjson.dumps(msgspec.to_builtins(report)).decode())
    if report.drift:
        raise typer.Exit(1)
