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
from consumers.app import orders_group
from consumers.backlog_view import Backlog, read_backlog
from domain.events import TOPIC_ORDERS_ACCEPTED


def backlog(*, json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False) -> None:
    """Show what waits in Kafka for the consumers, partition by partition, and in what time it will be done.

    The rate is measured for two seconds.
    """
    settings = load()
    groups = {TOPIC_ORDERS_ACCEPTED: orders_group(settings)}
    found = asyncio.run(read_backlog(settings.kafka, groups, monotonic=time.monotonic))
    if json:
        typer.echo(orjson.dumps(msgspec.to_builtins(found)).decode())
        return
    if not found.partitions:
        typer.echo(f"Kafka has no topic {TOPIC_ORDERS_ACCEPTED} yet")
        return
    Console(highlight=False).print(_table(found))
    typer.echo(f"{found.lag:,} records wait; {found.per_s:,.0f} a second are done; {_outlook(found)}")


def _table(found: Backlog) -> Table:
    table = Table("topic", "partition", "end", "committed", "lag")
    for column in table.columns[1:]:
        column.justify = "right"
    for one in found.partitions:
        committed = "nothing" if one.committed is None else f"{one.committed:,}"
        table.add_row(one.topic, str(one.partition), f"{one.end:,}", committed, f"{one.lag:,}")
    return table


def _outlook(found: Backlog) -> str:
    if found.lag == 0:
        return "nothing to drain"
    return "not draining" if found.drain_s is None else f"drained in about {found.drain_s:,.0f} s"
