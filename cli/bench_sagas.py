"""`flashgate bench sagas`: how long sagas that a killed process left half-way take to end, on servers of its own."""

import contextlib
import logging
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bench.saga_rig import SagaPlan, measure_sagas
from bench.sagas import GOAL_S, SagasFound
from cli.bench_run import RUNS, Run, run_measurement
from cli.config import as_environment, local_defaults
from domain.settings import load_settings
from stack.servers import LocalStack


def show_sagas(console: Console, found: SagasFound) -> None:
    """Print what was measured."""
    table = Table("killed at", "sagas end", "sagas", "open then", "all ended after, s")
    for column in table.columns[2:]:
        column.justify = "right"
    for one in found.points:
        table.add_row(one.point, one.way, str(one.sagas), str(one.open), f"{one.seconds:.1f}")
    console.print(table)
    console.print(
        f"{found.at_once} places at a time; a dead process's sagas are due after {found.lease_ms / 1_000:g} s."
    )
    met = "met" if found.slowest_s <= GOAL_S else "missed"
    console.print(f"slowest: {found.slowest_s:.1f} s; goal: at most {GOAL_S:g} s: {met}")


def sagas_command(
    *,
    sagas: Annotated[int, typer.Option(min=1, max=1_000, help="Redemptions for each place.")] = 20,
    at_once: Annotated[int, typer.Option(min=1, max=32, help="Places measured at a time.")] = 4,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; the rest goes to stderr.")] = False,
    name: Annotated[str, typer.Option(help="Name of the run's folder; default: the command and the time.")] = "",
    runs: Annotated[
        Path, typer.Option("--runs", metavar="FOLDER", help="Where the run's folder is made.", show_default="runs")
    ] = RUNS,
) -> None:
    """Kill `consume redemptions` at every place of a saga, start it again, and measure until every saga has ended.

    Each ends whole or compensated; points, stock, orders and payments are compared afterwards, and a difference is a
    failure.
    """
    options = {"sagas": sagas, "at_once": at_once}

    async def work(run: Run) -> dict[str, Any]:
        # It complains of partitions that have no leader yet, and tries again by itself.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        home = run.place.folder / "sagas"
        async with contextlib.AsyncExitStack() as opened:
            stack = LocalStack(home, note=run.say)
            opened.push_async_callback(stack.stop)
            settings = load_settings(defaults=local_defaults(await stack.start(), home))
            plan = SagaPlan(
                settings=settings,
                environment_of=lambda one: as_environment(msgspec.to_builtins(one)),
                log=home / "logs" / "sagas.log",
                sagas=sagas,
                at_once=at_once,
            )
            found = await measure_sagas(plan, run.say)
        facts = {**msgspec.to_builtins(found), "slowest_s": found.slowest_s, "goal_s": GOAL_S}
        show_sagas(run.console, found)
        await run.write("sagas", facts, settings, options)
        return facts

    run_measurement("sagas", work, name, runs, json=json)
