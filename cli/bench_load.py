"""`flashgate bench load`: an open loop of requests, due by a schedule whatever becomes of those before."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from bench.errors import BenchError
from bench.load_shapes import RATE_MAX_PER_S, Constant, Poisson, Shape, Spike, Step, check, read_rates, read_replay
from bench.load_slo import parse_slo
from cli.bench_run import RUNS, Run, run_measurement
from cli.load_campaigns import SOLD_OUT_SKU, SPARE_UNITS, Scenario, Wanted, own_campaign
from cli.load_drive import Options, Outcome, measure_load
from cli.load_target import WORKERS_MAX, address, gateway_url
from domain.campaign import STOCK_MAX

__all__ = ["SOLD_OUT_SKU", "SPARE_UNITS", "Wanted", "address", "gateway_url", "load_command", "own_campaign"]

EXIT_MISSED: Final = 1
FREEZE_MAX_S: Final = 60.0
FILE_BYTES_MAX: Final = 10_000_000


class ShapeName(StrEnum):
    """Shapes of a schedule."""

    CONSTANT = "constant"
    STEP = "step"
    SPIKE = "spike"
    POISSON = "poisson"
    REPLAY = "replay"


def load_command(
    *,
    rate: Annotated[
        float | None, typer.Option(min=0.1, max=RATE_MAX_PER_S, help="constant, poisson: requests a second.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=86_400, help="constant, poisson: how long; step: of each step.")
    ] = 10.0,
    shape: Annotated[ShapeName, typer.Option(help="When requests are due.")] = ShapeName.CONSTANT,
    rates: Annotated[str, typer.Option(help="step: requests a second, one step after the other: 100,200,400.")] = "",
    base: Annotated[float, typer.Option(min=0, max=RATE_MAX_PER_S, help="spike: a second, before and after.")] = 50.0,
    peak: Annotated[
        float | None, typer.Option(min=0.1, max=RATE_MAX_PER_S, help="spike: a second, at the peak.")
    ] = None,
    lead: Annotated[float, typer.Option(min=0, max=86_400, help="spike: seconds at the base, first.")] = 2.0,
    rise: Annotated[float, typer.Option(min=0, max=86_400, help="spike: seconds from the base to the peak.")] = 1.0,
    hold: Annotated[float, typer.Option(min=0, max=86_400, help="spike: seconds at the peak.")] = 3.0,
    decay: Annotated[float, typer.Option(min=0, max=86_400, help="spike: seconds back to the base.")] = 4.0,
    seed: Annotated[int, typer.Option(min=0, help="poisson: the same seed, the same arrivals.")] = 1010,
    file: Annotated[Path | None, typer.Option(help="replay: a CSV of `second,count`, a line a second.")] = None,
    scenario: Annotated[Scenario, typer.Option(help="What buyers come for.")] = Scenario.SALE,
    slo: Annotated[str, typer.Option(help="What must be kept: 'p99<50ms,failed<0.1%'. Exit code 1 if it is not.")] = "",
    url: Annotated[
        str, typer.Option(help="The gateway; default: that of the running `flashgate up`, else a stack of its own.")
    ] = "",
    remote: Annotated[
        str, typer.Option(metavar="HOST", help="Confirms that --url may name this host, which is another machine.")
    ] = "",
    connections: Annotated[
        int,
        typer.Option(min=1, max=10_000, help="Connections, kept alive, one request at a time on each."),
    ] = 256,
    processes: Annotated[
        int, typer.Option(min=0, max=64, help="Of the driver; 0: half of the cores, at least one.")
    ] = 0,
    workers: Annotated[
        int, typer.Option(min=0, max=WORKERS_MAX, help="Gateway workers of its own stack; 0: half of the cores.")
    ] = 0,
    stock: Annotated[
        int, typer.Option(min=0, max=STOCK_MAX, help="Units of its own campaign; 0: enough for every request.")
    ] = 0,
    campaign: Annotated[
        str, typer.Option(help="An open campaign of this scenario; default: one of its own, closed afterwards.")
    ] = "",
    sku: Annotated[str, typer.Option(help="A SKU of that campaign.")] = "",
    sold_out_share: Annotated[
        float, typer.Option(min=0, max=1, help="sale: this share of the orders wants a SKU that is sold out.")
    ] = 0.0,
    freeze_redis_s: Annotated[
        float, typer.Option(min=0, max=FREEZE_MAX_S, help="Stop Redis of its own stack for so long in the middle.")
    ] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; the rest goes to stderr.")] = False,
    name: Annotated[str, typer.Option(help="Name of the run's folder; default: the command and the time.")] = "",
    runs: Annotated[
        Path, typer.Option("--runs", metavar="FOLDER", help="Where the run's folder is made.", show_default="runs")
    ] = RUNS,
) -> None:
    """Offer requests to a gateway by a schedule, and tell how long each waited since it was due.

    Open loop: requests are due by the clock, whatever becomes of those before, so that a stall is seen as every buyer
    would have seen it. Each request is another buyer's. Without --url it drives the `flashgate up` that runs here, or,
    if none does, a stack that it starts and stops. Says so if the driver itself was the bottleneck. Exit code 1 if a
    threshold is missed, or if the driver, the gateway, Redis and MySQL do not agree to the unit.
    """
    told = {key: value for key, value in locals().items() if key not in {"json", "name", "runs"}}
    if campaign and sold_out_share:
        raise typer.BadParameter("--sold-out-share needs a campaign of its own: leave --campaign out")
    outcomes: list[Outcome] = []

    async def work(run: Run) -> dict[str, Any]:
        options = Options(
            shape=read_shape(
                shape,
                rate=rate,
                seconds=seconds,
                rates=rates,
                spike=(base, peak, lead, rise, hold, decay),
                seed=seed,
                file=file,
            ),
            scenario=scenario,
            slo=parse_slo(slo) if slo else [],
            url=url,
            remote=remote,
            connections=connections,
            processes=processes,
            workers=workers,
            stock=stock,
            campaign=campaign,
            sku=sku,
            sold_out_share=sold_out_share,
            freeze_redis_s=freeze_redis_s,
        )
        outcome = await measure_load(run, options, {**told, "file": str(file or "")})
        outcomes.append(outcome)
        return outcome.facts()

    run_measurement("load", work, name, runs, json=json)
    if not all(one.is_well for one in outcomes):
        raise typer.Exit(EXIT_MISSED)


_OPTION_OF: Final = {
    "--rate": (ShapeName.CONSTANT, ShapeName.POISSON),
    "--rates": (ShapeName.STEP,),
    "--peak": (ShapeName.SPIKE,),
    "--file": (ShapeName.REPLAY,),
}
"""Option → the shapes that need it; no other knows it."""
_SUCH_AS: Final = {"--rates": ", such as 100,200,400", "--file": ", a CSV of `second,count`"}


def read_shape(
    name: ShapeName,
    *,
    rate: float | None,
    seconds: float,
    rates: str,
    spike: tuple[float, float | None, float, float, float, float],
    seed: int,
    file: Path | None,
) -> Shape:
    """Return the shape that the options describe.

    Raises:
        BenchError: an option is missing, or makes no sense.
    """
    base, peak, lead, rise, hold, decay = spike
    given = {"--rate": rate is not None, "--rates": bool(rates), "--peak": peak is not None, "--file": file is not None}
    for option, shapes in _OPTION_OF.items():
        if given[option] and name not in shapes:
            raise BenchError(f"{option} is for --shape {' and '.join(shapes)}, not for {name}")
        if name in shapes and not given[option]:
            raise BenchError(f"--shape {name} needs {option}{_SUCH_AS.get(option, '')}")
    found: Shape
    match name:
        case ShapeName.CONSTANT:
            found = Constant(rate_per_s=rate or 0.0, seconds=seconds)
        case ShapeName.POISSON:
            found = Poisson(rate_per_s=rate or 0.0, seconds=seconds, seed=seed)
        case ShapeName.STEP:
            found = Step(rates_per_s=read_rates(rates), seconds_each=seconds)
        case ShapeName.SPIKE:
            edges = {"lead_s": lead, "rise_s": rise, "hold_s": hold, "decay_s": decay}
            found = Spike(base_per_s=base, peak_per_s=peak or 0.0, **edges)
        case ShapeName.REPLAY:
            source = file or Path()
            found = read_replay(_read(source), source.name)
    check(found)
    return found


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise BenchError(f"--file: {file} is larger than {FILE_BYTES_MAX:,} bytes")
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise BenchError(f"--file: {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BenchError(f"--file: {file} is no text") from None
