"""`flashgate bench sweep`: throughput, latency and the cost of each component over workers and offered rates."""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from bench.capacity_costs import Costs, measured_costs
from bench.capacity_facts import Sweep
from bench.errors import BenchError
from bench.memory import connections_possible
from bench.sweep import CONNECTIONS_MAX, plan_sweep
from cli.bench_run import RUNS, Run, run_measurement
from cli.bench_sweep_rig import measure_sweep

FILE = "capacity"
WORKERS_MAX = 64
RATE_MAX_PER_S = 1_000_000.0


def sweep_command(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="About two minutes instead of about a quarter of an hour: coarser.")
    ] = False,
    workers: Annotated[
        str, typer.Option(metavar="N,N…", help="Counts of gateway workers; default: 1, 2 and twice the cores.")
    ] = "",
    rates: Annotated[
        str,
        typer.Option(metavar="N,N…", help="Offered orders a second; default: shares of what a closed loop reaches."),
    ] = "",
    seconds: Annotated[
        float, typer.Option(min=0, max=600, help="How long each rate is offered; 0: 5, with --quick 1.5.")
    ] = 0.0,
    connections: Annotated[int, typer.Option(min=1, max=10_000, help="Of the driver, at an offered rate.")] = 256,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; the rest goes to stderr.")] = False,
    name: Annotated[str, typer.Option(help="Name of the run's folder; default: the command and the time.")] = "",
    runs: Annotated[
        Path, typer.Option("--runs", metavar="FOLDER", help="Where the run's folder is made.", show_default="runs")
    ] = RUNS,
) -> None:
    """Measure throughput and latency over gateway workers and offered rates, and what each component costs.

    Everything runs on servers of its own on loopback: gateway workers, relay, Kafka, consumers, MySQL. For each count
    of workers a ladder of closed loops finds the knee, then requests are offered by the clock, below and above it, with
    and without refusals among them. Leaves capacity.json, which `flashgate report` and `bench simulate` read.
    """
    worker_counts = [int(one) for one in numbers(workers, "--workers", 1, WORKERS_MAX, whole=True)]
    rates_per_s = numbers(rates, "--rates", 1, RATE_MAX_PER_S)

    async def work(run: Run) -> dict[str, Any]:
        plan = plan_sweep(
            quick=quick,
            cores=os.cpu_count() or 1,
            workers=worker_counts,
            rates_per_s=rates_per_s,
            seconds=seconds,
            connections=connections,
        )
        options: dict[str, object] = {"quick": quick, "plan": msgspec.to_builtins(plan)}
        most = max(CONNECTIONS_MAX, plan.connections)
        if connections_possible(most) < most:
            raise BenchError(f"{most} connections: the limit of open files (ulimit -n) is too low")
        sweep, settings = await measure_sweep(run.place, plan, options, run.say)
        facts: dict[str, Any] = msgspec.to_builtins(sweep, str_keys=True)
        show_sweep(run.console, sweep)
        await run.write(FILE, facts, settings, options)
        if not sweep.proof.holds:
            raise BenchError(f"the stores do not agree: {msgspec.to_builtins(sweep.proof)}; the run was kept")
        return facts

    run_measurement("sweep", work, name, runs, json=json)


def numbers(text: str, option: str, lowest: float, highest: float, *, whole: bool = False) -> list[float]:
    """Return the numbers of a list that is parted by commas, ascending, each once.

    Raises:
        typer.BadParameter: it is no such list; the message names the option.
    """
    found = set()
    for piece in filter(None, (one.strip() for one in text.split(","))):
        try:
            value = float(int(piece) if whole else float(piece))
        except ValueError:
            raise typer.BadParameter(f"{piece!r} is no {'whole ' * whole}number", param_hint=option) from None
        if not lowest <= value <= highest:
            raise typer.BadParameter(f"{piece} is not between {lowest:g} and {highest:g}", param_hint=option)
        found.add(value)
    return sorted(found)


def show_sweep(console: Console, sweep: Sweep) -> None:
    """Print the points and what an order costs."""
    console.print(_points(sweep))
    try:
        console.print(costs_table(measured_costs(sweep)))
    except BenchError as error:
        console.print(f"costs: {error}", markup=False)
    proof = sweep.proof
    console.print(
        f"{proof.answered_202:,} orders were answered 202; Redis {proof.redis_taken:,}, "
        f"Kafka {proof.kafka_distinct:,}, MySQL {proof.mysql_rows:,} rows; drift {proof.drift}, "
        f"in flight {proof.in_flight}"
    )


def _points(sweep: Sweep) -> Table:
    table = Table(
        "workers", "offered/s", "sold out", "achieved/s", "p50 ms", "p99 ms", "failed", "backlog", "drain s", "CPU s/s",
        title="Open loop, latency from the time each request was due", title_justify="left",
    )  # fmt: skip
    for column in table.columns:
        column.justify = "right"
    for one in sweep.points:
        cpu = sum(value for part, value in one.load_cpu_s.items() if part != "driver") / max(one.seconds, 1e-9)
        table.add_row(
            str(one.workers),
            f"{one.offered_per_s:,.0f}",
            f"{one.refused_share:.0%}",
            f"{one.achieved_per_s:,.0f}" + ("*" if one.bottlenecks else ""),
            f"{one.p50_ms:.1f}",
            f"{one.p99_ms:.1f}",
            f"{one.failed:,}",
            f"{one.backlog_max:,}",
            f"{one.drain_s:.1f}",
            f"{cpu:.2f}",
        )
    if any(one.bottlenecks for one in sweep.points):
        table.caption = "* the driver itself was the bottleneck there"
    return table


def costs_table(costs: Costs) -> Table:
    """Return what each component costs, CPU microseconds."""
    table = Table(
        "component", "an accepted order, µs", "a refusal, µs", "a batch, µs", "at rest, % of a core", "off by", "R²",
        title="CPU, by regression over points with different shares of refusals", title_justify="left",
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for one in costs.parts:
        table.add_row(
            one.component,
            f"{one.accepted_us:.1f}",
            f"{one.refused_us:.1f}",
            f"{one.batch_us:.0f}" if one.batch_us else "",
            f"{one.rest_share:.1%}",
            f"{one.error_share:.0%}",
            f"{one.r_squared:.2f}" + (" poor fit" if one.poor else ""),
        )
    return table
