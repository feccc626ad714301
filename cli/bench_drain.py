"""`flashgate bench drain` on servers of its own, and what it prints for people."""

import contextlib
import logging
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.drain import BARE, WRITER, Drained, Stint, drain_s, figures, overall_per_s, quarters
from bench.drain_loads import LOADS
from bench.drain_rig import DrainPlan, measure_drain
from cli.bench_run import Run
from cli.bench_view import figures_table
from cli.config import as_environment, local_defaults
from domain.settings import Settings, load_settings
from stack.servers import LocalStack
from stack.supervisor import Supervisor

MIB: Final = 1024 * 1024


async def drain_on_own_servers(run: Run, topic: str, records: int, batch: int) -> tuple[Drained, Settings]:
    """Start Kafka and MariaDB in a home of their own, measure, and stop them.

    Raises:
        FlashgateError: see `bench.drain_rig.measure_drain`.
    """
    # It complains of partitions that have no leader yet, and tries again by itself.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    home = run.place.folder / "drain"
    async with contextlib.AsyncExitStack() as opened:
        supervisor = Supervisor()
        stack = LocalStack(home, supervisor=supervisor, note=run.say)
        opened.push_async_callback(stack.stop)
        settings = load_settings(defaults=local_defaults(await stack.start(), home))
        plan = DrainPlan(
            records=records,
            batch=batch,
            settings=settings,
            environment_of=lambda one: as_environment(msgspec.to_builtins(one)),
            server_pid=supervisor.pid("mariadb"),
            log=home / "logs" / "drain.log",
            load=LOADS[topic],
        )
        return await measure_drain(plan, run.say), settings


def show_drain(console: Console, topic: str, found: Drained) -> None:
    """Print rates, costs, memory and the promised figures."""
    table = Table(
        "what",
        "records/s",
        "own CPU µs a record",
        "MySQL's CPU µs a record",
        title=f"{found.records:,} queued {LOADS[topic].what}, {found.batch:,} in a transaction",
        title_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name, stints in ((WRITER, found.writer), (BARE, found.bare)):
        table.add_row(
            name, f"{overall_per_s(stints):,.0f}", *(_cost(stints, what) for what in ("cpu_s", "server_cpu_s"))
        )
    console.print(table)
    console.print(f"Drained by the writer in {drain_s(found.writer):.1f} s.")
    memory = ", ".join(f"{rss / MIB:.1f}" for rss in quarters(found))
    console.print(f"The writer's memory at the start and after each quarter, MiB: {memory}")
    console.print(figures_table(figures(found)))


def _cost(stints: list[Stint], what: str) -> str:
    records = sum(one.records for one in stints)
    return f"{sum(getattr(one, what) for one in stints) / records * 1e6:.1f}"
