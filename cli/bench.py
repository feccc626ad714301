"""`flashgate bench …`: measurements. Each leaves a folder `runs/<name>/` with its figures and its environment."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from bench import drain, go_peer
from bench.compare import Comparison, Plan, compare
from bench.errors import BenchError
from bench.measure import Effort
from bench.scale import to_json
from bench.scale_rig import ScalePlan, measure_scale
from bench.servers import GO, NGINX, PEERS, gateway_settings
from bench.wrk import Wrk
from cli.bench_drain import drain_on_own_servers, show_drain
from cli.bench_draws import draws_command
from cli.bench_full import measure_full
from cli.bench_load import load_command
from cli.bench_locust import locust_command
from cli.bench_reconcile import reconcile_command
from cli.bench_run import RUNS, Run, run_measurement
from cli.bench_sagas import sagas_command
from cli.bench_simulate import simulate_command
from cli.bench_sweep import sweep_command
from cli.bench_view import show_comparison, show_scale
from domain.settings import RedisSettings


class DrainTopic(StrEnum):
    """What `bench drain` can queue: see `bench.drain_loads`."""

    ORDERS_ACCEPTED = "orders.accepted"
    POINTS_AWARDED = "points.awarded"


app = typer.Typer(no_args_is_help=True, help="Measure flashgate: beside its peers, under an offered load, as it grows.")

JsonOption = Annotated[bool, typer.Option("--json", help="End with one line of JSON; the rest goes to stderr.")]
NameOption = Annotated[str, typer.Option(help="Name of the run's folder; default: the command and the time.")]
RunsOption = Annotated[
    Path, typer.Option("--runs", metavar="FOLDER", help="Where the run's folder is made.", show_default="runs")
]
ConnectionsOption = Annotated[
    int, typer.Option(min=1, max=10_000, help="Connections of the driver, kept alive, one request at a time on each.")
]


@app.command(name="compare")
def compare_command(
    *,
    seconds: Annotated[int, typer.Option(min=1, max=60, help="How long each target is driven, each time.")] = 3,
    requests: Annotated[
        int, typer.Option(min=0, max=2_000_000, help="At most so many requests each time; 0: as many as fit.")
    ] = 0,
    connections: ConnectionsOption = 128,
    repeat: Annotated[int, typer.Option(min=1, max=100, help="Rounds; every second one goes backwards.")] = 3,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="PEER", help=f"Leave a peer out on purpose: {', '.join(PEERS)}. May be given again."),
    ] = None,
    offered_seconds: Annotated[
        int, typer.Option(min=0, max=600, help="How long each is driven at the same offered rate; 0: not at all.")
    ] = 5,
    memory: Annotated[bool, typer.Option("--memory/--no-memory", help="Measure memory, too.")] = True,
    full: Annotated[
        bool, typer.Option("--full/--no-full", help="One more row with relay, Kafka, consumer and MySQL running.")
    ] = True,
    json: JsonOption = False,
    name: NameOption = "",
    runs: RunsOption = RUNS,
) -> None:
    """Measure flashgate and its peers in turn, with one driver, the same tokens and the same Redis settings.

    Takes about four minutes. Every request is another buyer's, with a token never seen before; everything runs on
    loopback. Exit code 2 if a peer is missing, fails, or gives fewer than 99% of the expected answers.
    """
    options = {
        "seconds": seconds,
        "requests": requests,
        "connections": connections,
        "repeat": repeat,
        "without": without or [],
        "offered_seconds": offered_seconds,
    }
    if unknown := set(without or ()) - set(PEERS):
        raise typer.BadParameter(f"there is no peer {min(unknown)!r}; peers: {', '.join(PEERS)}")

    async def work(run: Run) -> dict[str, Any]:
        peers = tuple(peer for peer in PEERS if peer not in (without or ()))
        if GO in peers and not go_peer.program():
            raise BenchError(f"the peer go is missing: {go_peer.HOW_TO_INSTALL}")
        await run.install("redis-server", *([NGINX] if NGINX in peers else []))
        driver = await run.closed_loop()
        effort = Effort(seconds=seconds, requests=requests, connections=connections)
        plan = Plan(
            peers=peers,
            effort=effort,
            repeat=repeat,
            offered_seconds=offered_seconds,
            with_memory=memory,
            full=(lambda: measure_full(run.place, driver, effort)) if full else None,
        )
        comparison = Comparison("wrk" if isinstance(driver, Wrk) else "the load driver's closed mode")
        await compare(run.place, driver, run.minter, plan, comparison, run.say)
        facts = comparison.to_json()
        show_comparison(run.console, comparison)
        await run.write("compare", facts, gateway_settings(run.place, RedisSettings()), options)
        return facts

    run_measurement("compare", work, name, runs, json=json)


app.command(name="load")(load_command)
app.command(name="locust")(locust_command)


@app.command(name="scale")
def scale_command(
    *,
    buyers_max: Annotated[
        int, typer.Option(min=10, max=10_000_000, help="Buyers who hold an order already, at the largest level.")
    ] = 1_000_000,
    skus_max: Annotated[int, typer.Option(min=1, max=5_000, help="SKUs, at the largest level.")] = 1_000,
    orders: Annotated[
        int, typer.Option(min=100, max=1_000_000, help="Orders that are measured, each round of each level.")
    ] = 10_000,
    connections: ConnectionsOption = 128,
    repeat: Annotated[int, typer.Option(min=1, max=100, help="Rounds; every second one goes backwards.")] = 9,
    prefill_seconds: Annotated[
        float, typer.Option(min=1, max=3_600, help="Filling one level up takes no longer; it is a smaller one then.")
    ] = 90.0,
    json: JsonOption = False,
    name: NameOption = "",
    runs: RunsOption = RUNS,
) -> None:
    """Measure what an accepted order costs as a campaign grows: in buyers, and in SKUs.

    The CPU of gateway and Redis together, against a run of the smallest level right beside. Takes some minutes. Each
    level has a Redis and a worker of its own on loopback.
    """
    options = {"buyers_max": buyers_max, "skus_max": skus_max, "orders": orders, "repeat": repeat}
    if orders < connections:
        raise typer.BadParameter("--orders must be at least as many as --connections")

    async def work(run: Run) -> dict[str, Any]:
        plan = ScalePlan(
            buyers_max=buyers_max,
            skus_max=skus_max,
            orders=orders,
            connections=connections,
            repeat=repeat,
            prefill_seconds=prefill_seconds,
        )
        await run.install("redis-server")
        found = await measure_scale(run.place, await run.closed_loop(), plan, run.say)
        facts = to_json(found)
        show_scale(run.console, found)
        await run.write("scale", facts, gateway_settings(run.place, RedisSettings()), options)
        return facts

    run_measurement("scale", work, name, runs, json=json)


@app.command(name="drain")
def drain_command(
    *,
    records: Annotated[
        int, typer.Option(min=drain.RECORDS_MIN, max=100_000_000, help="Records that are queued.")
    ] = 1_000_000,
    topic: Annotated[DrainTopic, typer.Option(help="What is queued.")] = DrainTopic.ORDERS_ACCEPTED,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Records in a transaction, of both.")] = 1_000,
    json: JsonOption = False,
    name: NameOption = "",
    runs: RunsOption = RUNS,
) -> None:
    """Measure how fast queued records get into MySQL, beside a bare loop that inserts the same rows from memory.

    Queues them in Kafka, then the consumer's writer and the loop take turns, each with tables of its own, which grow
    alike. Has servers of its own on loopback. Also tells the writer's memory at each quarter. Half of the awards are
    for accounts of their own, half for a thousand accounts that get more and more.
    """
    options = {"topic": topic.value, "records": records, "batch": batch}

    async def work(run: Run) -> dict[str, Any]:
        found, settings = await drain_on_own_servers(run, topic, records, batch)
        facts = {"topic": topic.value, **drain.to_json(found)}
        show_drain(run.console, topic, found)
        await run.write("drain", facts, settings, options)
        return facts

    run_measurement("drain", work, name, runs, json=json)


app.command(name="reconcile")(reconcile_command)
app.command(name="draws")(draws_command)
app.command(name="sagas")(sagas_command)
app.command(name="sweep")(sweep_command)
app.command(name="simulate")(simulate_command)


@app.command(name="steps")
def steps_command(*, json: JsonOption = False) -> None:
    """Measure what the steps of an order cost inside a worker, without sockets and Redis: CPU microseconds."""
    from bench.steps import measure_steps  # noqa: PLC0415 -- loads a whole gateway

    steps = measure_steps()
    for name, cost_us in steps:
        typer.echo(f"{name:45}{cost_us:8.2f} µs", err=json)
    if json:
        typer.echo(orjson.dumps({name.strip(): round(cost_us, 2) for name, cost_us in steps}).decode())
