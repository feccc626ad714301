"""`flashgate bench draws`: what a draw of a lottery costs beside an order, on a Redis of its own."""

from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bench.draws import DrawCost, measure
from bench.figures import spread
from bench.servers import gateway_settings
from cli.bench_run import RUNS, Run, run_measurement
from domain.settings import RedisSettings

GOAL: Final = 1.3
"""A draw costs the gateway, and Redis, at most so many times an order."""
PARTS: Final = (("gateway", "gateway_us"), ("Redis", "redis_us"), ("both", "both_us"))


def show_draws(console: Console, found: DrawCost) -> None:
    """Print what was measured."""
    table = Table("CPU, µs each", "order", "draw", "draw / order", "lowest to highest")
    for name, part in PARTS:
        order, drawn = (spread([getattr(cost, part) for cost in costs]) for costs in (found.orders, found.draws))
        times = found.against(part)
        row = (name, f"{order.median:.1f}", f"{drawn.median:.1f}", f"{times.median:.2f}")
        table.add_row(*row, f"{times.lowest:.2f} to {times.highest:.2f}")
    console.print(table)
    met = "met" if all(found.against(part).median <= GOAL for _, part in PARTS) else "missed"
    console.print(f"goal: each of them at most {GOAL}: {met}")


def draws_command(
    *,
    rounds: Annotated[int, typer.Option(min=1, max=1_000, help="Rounds; in each, orders and draws take turns.")] = 10,
    requests: Annotated[int, typer.Option(min=1, max=1_000_000, help="Of each kind in a round.")] = 12_800,
    batch: Annotated[int, typer.Option(min=1, max=500, help="Requests that come at once.")] = 128,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; the rest goes to stderr.")] = False,
    name: Annotated[str, typer.Option(help="Name of the run's folder; default: the command and the time.")] = "",
    runs: Annotated[
        Path, typer.Option("--runs", metavar="FOLDER", help="Where the run's folder is made.", show_default="runs")
    ] = RUNS,
) -> None:
    """Measure what a draw costs beside an order: CPU of gateway and Redis, both whole but for buyers' sockets."""
    options = {"rounds": rounds, "requests": requests, "batch": batch}

    async def work(run: Run) -> dict[str, Any]:
        found = await measure(run.place, rounds=rounds, requests=requests, batch=batch)
        facts: dict[str, Any] = {
            **msgspec.to_builtins(found),
            "draw_against_order": {part: msgspec.to_builtins(found.against(part)) for _, part in PARTS},
        }
        show_draws(run.console, found)
        await run.write("draws", facts, gateway_settings(run.place, RedisSettings()), options)
        return facts

    run_measurement("draws", work, name, runs, json=json)
