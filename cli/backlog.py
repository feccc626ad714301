"""`./flashgate backlog`: what waits for the consumers, and how long it will."""

import asyncio
import time
from typing import Annotated

import msgspec
import orjson
import typer
from rich.console import Console
from rich.table import Table

from cli.config import load
from consumers.app import groups
from consumers.backlog_view import Backlog, TopicBacklog, read_backlog


def backlog(*, json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False) -> None:
    """Show what waits in Kafka for the consumers, partition by partition, and in what time it will be done.

    The rate is measured for two seconds.
    """
    settings = load()
    wanted = groups(settings)
    found = asyncio.run(read_backlog(settings.kafka, wanted, monotonic=time.monotonic))
    if json:
        typer.echo(orjson.dumps(msgspec.to_builtins(found)).decode())
        return
    if not found.partitions:
        typer.echo(f"Kafka has none of these topics yet: {', '.join(sorted(wanted))}")
        return
    Console(highlight=False).print(_table(found))
    for one in found.topics:
        typer.echo(f"{one.topic}: {one.lag:,} records wait; {one.per_s:,.0f} a second are done; {_outlook(one)}")


def _table(found: Backlog) -> Table:
    table = Table("topic", "partition", "end", "committed", "lag")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in found.partitions:
        committed = "nothing" if one.committed is None else f"{one.committed:,}"
        table.add_row(one.topic, str(one.partition), f"{one.end:,}", committed, f"{one.lag:,}")
    return table


def _outlook(found: TopicBacklog) -> str:
    if found.lag == 0:
        return "nothing to drain"
    return "not draining" if found.drain_s is None else f"drained in about {found.drain_s:,.0f} s"
