"""`flashgate bench reconcile`: one look of the reconciler at a sale of so many orders, on servers of its own."""

import asyncio
import contextlib
import secrets
import time
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from adapters.kafka import create_topics
from adapters.mysql import query
from bench.errors import BenchError
from bench.reconcile import Reconciled, time_look
from bench.reconcile_fill import Filler
from bench.sale import Sale
from cli.bench_run import RUNS, Run, run_measurement
from cli.clients import open_clients
from cli.config import local_defaults
from cli.migrate import upgrade_all
from domain.events import TOPIC_ORDERS_ACCEPTED, dead_topic
from domain.settings import Settings, load_settings
from stack.servers import LocalStack
from warehouse.stock_up import put_on_sale

SKUS: Final = 4
MB: Final = 1_000_000
GOAL_S: Final = 60.0
"""For a million orders."""


async def measure_reconcile(run: Run, orders: int) -> tuple[Reconciled, Settings]:
    """Start the servers, fill them, run one `flashgate reconcile`, stop the servers.

    Raises:
        FlashgateError: something did not start, or a store refused something.
    """
    home = run.place.folder / "stack"
    async with contextlib.AsyncExitStack() as opened:
        stack = LocalStack(home, note=run.say)
        opened.push_async_callback(stack.stop)
        settings = load_settings(defaults=local_defaults(await stack.start(), home))
        await asyncio.to_thread(upgrade_all, settings)
        await create_topics(settings.kafka, [TOPIC_ORDERS_ACCEPTED, dead_topic(TOPIC_ORDERS_ACCEPTED)])
        clients = await opened.enter_async_context(open_clients(settings))
        campaign = Sale(f"bench-{secrets.token_hex(4)}", orders // SKUS + 1_000, SKUS).campaign()
        await put_on_sale(clients, campaign, who="bench")
        run.say(f"filling Redis, Kafka and MySQL with {orders:,} orders …")
        began_s = time.monotonic()
        await Filler(settings, clients.channel, clients.client, clients.orders, campaign).fill(orders, run.say)
        fill_s = time.monotonic() - began_s
        ((ledger_rows,),) = await query(clients.orders, "SELECT COUNT(*) FROM stock_ledger")
        run.say(f"filled in {fill_s:.0f} s; reconciling …")
        told = await time_look(campaign.id, run.place.environment_of(settings))
    return Reconciled(orders=orders, ledger_rows=ledger_rows, fill_s=fill_s, **told), settings


def show_reconcile(console: Console, found: Reconciled) -> None:
    """Print what was measured."""
    table = Table.grid(padding=(0, 2))
    pace = f"{found.seconds / found.orders * 1e6:.1f} s for a million at this pace; the goal is {GOAL_S:.0f} s or less"
    for name, text in (
        ("orders", f"{found.orders:,} in Redis, Kafka and MySQL, with {found.ledger_rows:,} rows in the ledger"),
        ("seconds", f"{found.seconds:.1f}, of which CPU of the process {found.cpu_s:.1f}"),
        ("", pace),
        ("peak memory", f"{found.peak_rss_bytes / MB:,.0f} MB"),
        ("drift", f"{found.drift}, in flight {found.in_flight}"),
    ):
        table.add_row(name, text)
    console.print(table)


def reconcile_command(
    *,
    orders: Annotated[int, typer.Option(min=1, max=5_000_000, help="Orders in the stores.")] = 1_000_000,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; the rest goes to stderr.")] = False,
    name: Annotated[str, typer.Option(help="Name of the run's folder; default: the command and the time.")] = "",
    runs: Annotated[
        Path, typer.Option("--runs", metavar="FOLDER", help="Where the run's folder is made.", show_default="runs")
    ] = RUNS,
) -> None:
    """Measure one look of the reconciler at a sale that is over: seconds, peak memory, drift.

    Fills a Redis, a Kafka and a MariaDB of its own first, which takes minutes for a million orders. Exit code 2 if
    there is drift, for there is none.
    """

    async def work(run: Run) -> dict[str, Any]:
        found, settings = await measure_reconcile(run, orders)
        facts: dict[str, Any] = msgspec.to_builtins(found)
        show_reconcile(run.console, found)
        await run.write("reconcile", facts, settings, {"orders": orders})
        if found.drift or found.in_flight:
            raise BenchError(f"drift {found.drift}, in flight {found.in_flight}: both had to be 0")
        return facts

    run_measurement("reconcile", work, name, runs, json=json)
