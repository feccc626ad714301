"""`flashgate bench simulate`: a ten o'clock peak beyond this machine, by a model with measured costs."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
import typer
from rich.console import Console

from bench.capacity_costs import Costs, measured_costs
from bench.capacity_facts import Sweep
from bench.capacity_plan import need
from bench.errors import BenchError
from bench.simulate import simulate
from bench.simulate_fit import call_ms
from bench.simulate_plan import (
    EXAMPLE_COSTS,
    NETWORK_MAX_MS,
    NETWORK_SIGMA_MAX,
    RETRIES_MAX,
    RISE_MAX_S,
    SKUS_MAX,
    STOCK_MAX,
    USERS_MAX,
    ZIPF_MAX,
    Crowd,
    Fleet,
    Limits,
    Model,
    slot_for,
)
from bench.simulate_result import Outcome
from cli.bench_run import EXIT_FAILED, RUNS, WIDTH, Run, run_measurement
from cli.bench_simulate_view import as_json, show_outcome
from cli.bench_validate import EXIT_OUTSIDE, Holdout, validate
from cli.report import read_run

CORES_MAX = 10_000


def simulate_command(
    *,
    run: Annotated[
        str, typer.Option("--run", help="A sweep whose costs are taken; default: round figures, for trying out.")
    ] = "",
    users: Annotated[int, typer.Option(min=1, max=USERS_MAX, help="Who come; each wants one unit.")] = 5_000_000,
    rise_s: Annotated[float, typer.Option("--rise-s", min=0.1, max=RISE_MAX_S, help="Within so many seconds.")] = 10.0,
    even: Annotated[bool, typer.Option("--even", help="Equally many at any time; else most at once.")] = False,
    skus: Annotated[int, typer.Option(min=1, max=SKUS_MAX)] = 100,
    zipf: Annotated[float, typer.Option(min=0, max=ZIPF_MAX, help="Exponent of the SKUs' demand; 0: all alike.")] = 1.1,
    stock: Annotated[int, typer.Option(min=0, max=STOCK_MAX, help="Units of each SKU.")] = 1_000,
    retries: Annotated[int, typer.Option(min=0, max=RETRIES_MAX, help="How often a buyer comes back.")] = 3,
    retry_after: Annotated[
        bool, typer.Option("--retry-after/--no-retry-after", help="Buyers wait as they are told, or press again.")
    ] = True,
    network_ms: Annotated[float, typer.Option(min=0, max=NETWORK_MAX_MS, help="Median round trip; lognormal.")] = 40.0,
    network_sigma: Annotated[float, typer.Option(min=0, max=NETWORK_SIGMA_MAX, help="Of its logarithm.")] = 0.5,
    admit_per_s: Annotated[float, typer.Option(min=0, help="The campaign's limit; 0: none.")] = 0.0,
    gateways: Annotated[int, typer.Option(min=0, max=CORES_MAX, help="Workers; 0: as many as the peak needs.")] = 0,
    shards: Annotated[int, typer.Option(min=1, max=64, help="Redis shards, each with a relay.")] = 1,
    consumers: Annotated[int, typer.Option(min=1, max=64, help="Of orders.")] = 1,
    kafka_cores: Annotated[float, typer.Option(min=0.1, max=CORES_MAX)] = 2.0,
    mysql_cores: Annotated[float, typer.Option(min=0.1, max=CORES_MAX)] = 4.0,
    seed: Annotated[int, typer.Option(help="Of the crowd.")] = 0,
    check: Annotated[
        bool, typer.Option("--validate", help="Predict a measurement that the sweep did not make, then make it.")
    ] = False,
    rate: Annotated[float, typer.Option(min=0, help="With --validate: offered; 0: between two of the sweep's.")] = 0.0,
    repeat: Annotated[int, typer.Option(min=1, max=20, help="With --validate: rounds; the median counts.")] = 9,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="With --validate: of a measurement.")] = 5.0,
    sold_after: Annotated[
        float, typer.Option(min=0.05, max=1, help="With --validate: stock for this share of the requests.")
    ] = 0.6,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; the rest goes to stderr.")] = False,
    name: Annotated[str, typer.Option(help="With --validate: name of the run's folder.")] = "",
    runs: Annotated[
        Path, typer.Option("--runs", metavar="FOLDER", help="Where that folder is made.", show_default="runs")
    ] = RUNS,
) -> None:
    """Simulate a ten o'clock peak: queues over time, time to sold out, refusals, Kafka's backlog, machines needed.

    A model, not a load: it sends nothing. Costs are those of a sweep (--run), else round figures that say so. With
    --validate --run it is held against a measurement of another rate and another stock: exit code 1 if it is off by
    more than 15% in throughput or 25% in p99.
    """
    if check:
        if not run:
            raise typer.BadParameter("--validate needs a sweep: --run NAME", param_hint="--run")
        holdout = Holdout(run, rate, repeat, seconds, sold_after)
        found: dict[str, Any] = {}

        async def work(place: Run) -> dict[str, Any]:
            found.update(await validate(place, read_run(run), holdout))
            return found

        run_measurement("simulate", work, name, runs, json=json)
        raise typer.Exit(0 if found["kept"] else EXIT_OUTSIDE)
    console = Console(stderr=json, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=json, highlight=False, width=WIDTH)
    try:
        sweep = read_run(run) if run else None
        costs = EXAMPLE_COSTS if sweep is None else measured_costs(sweep)
        crowd = Crowd(
            users=users,
            rise_s=rise_s,
            shape="even" if even else "decline",
            skus=skus,
            zipf=zipf,
            stock=stock,
            retries_max=retries,
            obeys_retry_after=retry_after,
            network_ms=network_ms,
            network_sigma=network_sigma,
        )
        fleet = Fleet(
            gateways=gateways or gateways_for(crowd, costs),
            shards=shards,
            consumers=consumers,
            kafka_cores=kafka_cores,
            mysql_cores=mysql_cores,
        )
        limits = Limits(admit_per_s=admit_per_s)
        model = Model(
            crowd=crowd,
            fleet=fleet,
            limits=limits,
            costs=costs,
            call_ms=_call_ms(sweep, costs),
            slot_s=slot_for(crowd, limits),
            seed=seed,
        )
        outcome = simulate(model)
        needs = machines_for(crowd, outcome, costs)
    except BenchError as error:
        typer.echo(f"flashgate bench simulate: {error}", err=True)
        raise typer.Exit(EXIT_FAILED) from None
    show_outcome(console, model, outcome, needs)
    if json:
        typer.echo(orjson.dumps(as_json(model, outcome, needs)).decode())


def _call_ms(sweep: Sweep | None, costs: Costs) -> float:
    return call_ms(sweep.points, costs) if sweep is not None else 1.0


def peak_per_s(crowd: Crowd) -> float:
    """Return the requests of the busiest second that the crowd itself makes, without retries."""
    return crowd.users / crowd.rise_s * (2.0 if crowd.shape == "decline" else 1.0)


def gateways_for(crowd: Crowd, costs: Costs) -> int:
    """Return the workers that the peak needs, with head-room, if nobody has to come back."""
    return need(costs, 1.0, 1.0, refused_per_s=peak_per_s(crowd), bounded=False).gateways


def machines_for(crowd: Crowd, outcome: Outcome, costs: Costs) -> dict[str, Any]:
    """Return what would serve this peak without a queue: its busiest second, and orders as fast as they were sold."""
    last_s = outcome.sold_out_s or outcome.seconds
    orders_per_s = outcome.accepted / max(1.0, last_s)
    wanted = need(costs, orders_per_s or 1.0, 1.0, refused_per_s=peak_per_s(crowd), bounded=False)
    return {"peak_requests_per_s": round(peak_per_s(crowd)), **msgspec.to_builtins(wanted)}
