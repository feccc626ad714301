"""Drives a target with an open loop, for `flashgate bench load`, and holds what it was told against the stores."""

import asyncio
import contextlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from hdrh.histogram import HdrHistogram

from bench import load_files
from bench.errors import BenchError
from bench.load_books import Books, as_facts
from bench.load_freeze import freeze
from bench.load_messages import LoadJob
from bench.load_run import LoadReport, run_load, split
from bench.load_shapes import Constant, Shape, duration_s, expected, peak_per_s
from bench.load_slo import Kept, Term, judge
from bench.memory import connections_possible
from cli.bench_run import Run
from cli.clients import Clients, open_clients
from cli.load_books import Bookkeeper
from cli.load_campaigns import (
    POINTS_PRICE,
    SPARE_UNITS,
    Scenario,
    Wanted,
    grant_points,
    own_campaigns,
    until_known,
)
from cli.load_target import Target, open_target
from cli.load_view import LoadView, show_outcome
from domain.campaign import REDEMPTION

PROGRESS_S: Final = 0.25
SETTLE_S: Final = 20.0
POINTS_USERS_MAX: Final = 200_000
"""Accounts that are given points before a run."""
FREEZE_AT: Final = 0.25
"""Of the schedule's duration."""
COUNTS: Final = ("offered", "sent", "answered", "late", "dropped", "unknown")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is told; see the command's help."""

    shape: Shape
    scenario: Scenario
    slo: list[Term]
    url: str = ""
    remote: str = ""
    connections: int = 256
    processes: int = 0
    workers: int = 0
    stock: int = 0
    campaign: str = ""
    sku: str = ""
    sold_out_share: float = 0.0
    freeze_redis_s: float = 0.0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run: the driver's report, the thresholds, the books (None: they could not be read)."""

    report: LoadReport
    slo: list[Kept]
    books: Books | None

    @property
    def is_well(self) -> bool:
        """Whether every threshold was kept and all counts agree."""
        return all(one.kept for one in self.slo) and not (self.books and self.books.disagreements())

    def facts(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            **msgspec.to_builtins(self.report, str_keys=True),
            "slo": msgspec.to_builtins(self.slo),
            "books": as_facts(self.books) if self.books else None,
        }


async def measure_load(run: Run, options: Options, told: dict[str, Any]) -> Outcome:
    """Drive a target, write everything to the run's folder, and return what came of it.

    Args:
        run: where its files go.
        options: what to do.
        told: the options as the user gave them, for the environment's file.

    Raises:
        FlashgateError: there is nothing to measure, or it must not be believed.
    """
    if bool(options.campaign) != bool(options.sku) and options.scenario is not Scenario.LOTTERY:
        raise BenchError("--campaign and --sku belong together")
    if options.scenario is Scenario.MIXED and options.campaign:
        raise BenchError("--scenario mixed has campaigns of its own: leave --campaign out")
    if options.sold_out_share and options.scenario is not Scenario.SALE:
        raise BenchError("--sold-out-share is for --scenario sale")
    if connections_possible(options.connections) < options.connections:
        raise BenchError(f"--connections {options.connections}: the limit of open files (ulimit -n) is too low")
    own = options.freeze_redis_s > 0
    async with open_target(run, options.url, options.remote, options.workers, own=own) as target:
        if target.settings.auth.algorithm != "HS256":
            raise BenchError("tokens can be made with HS256 only; auth.algorithm is another one")
        outcome, histogram, view = await _drive(run, target, options)
        if not outcome.report.answered:
            raise BenchError(f"{target.url} gave no answer: {outcome.report.errors:,} errors")
        show_outcome(run.console, outcome.report, outcome.slo, outcome.books)
        began_s = time.time() - outcome.report.seconds
        await run.write("load", outcome.facts(), target.settings, told)
    load_files.write_schedule(run.folder, options.shape)
    load_files.write_timeline(run.folder, view.heard)
    load_files.write_histogram(run.folder, histogram, began_s=began_s, seconds=outcome.report.seconds)
    report = outcome.report
    counts = {name: getattr(report, name) for name in COUNTS}
    load_files.write_counts(run.folder, {**counts, "classes": report.classes, "settled": report.settled})
    return outcome


async def _drive(run: Run, target: Target, options: Options) -> tuple[Outcome, HdrHistogram, LoadView]:
    async with contextlib.AsyncExitStack() as opened:
        wanted = [Wanted(options.campaign, options.sku, "", options.scenario.kinds[0])]
        processes = options.processes or max(1, (os.cpu_count() or 1) // 2)
        keeper = clients = None
        if not options.campaign or target.ops_url:
            clients = await opened.enter_async_context(open_clients(target.settings))
        if clients is not None and not options.campaign:
            units = options.stock or expected(options.shape) + SPARE_UNITS
            wanted = await opened.enter_async_context(own_campaigns(clients, options.scenario.kinds, units))
        job = make_job(target, wanted, options)
        if clients is not None:
            await _give_points(run, clients, points_users(job, processes, wanted))
            keeper = Bookkeeper(target, clients, wanted)
        await until_known(target, [one.campaign_id for one in wanted])
        if keeper is not None:
            await keeper.begin()
        view = LoadView(run.console, expected(options.shape))
        run.say(
            f"offering {expected(options.shape):,} requests in {duration_s(options.shape):g} s, at most "
            f"{peak_per_s(options.shape):,.0f}/s, to {target.url} …"
        )
        with view.running():
            report, histogram = await _run(run, target, options, job, processes, view)
        books = await _books(keeper, report, wanted) if keeper else None
    return Outcome(report=report, slo=_judge(options.slo, report, histogram), books=books), histogram, view


async def _run(
    run: Run, target: Target, options: Options, job: LoadJob, processes: int, view: LoadView
) -> tuple[LoadReport, HdrHistogram]:
    """Run the driver, and stop Redis meanwhile if that is asked for."""
    freezing: list[asyncio.Task[None]] = []

    def on_start() -> None:
        if options.freeze_redis_s > 0:
            after_s = duration_s(options.shape) * FREEZE_AT
            freezing.append(asyncio.create_task(freeze(target.redis_pid, after_s, options.freeze_redis_s)))

    try:
        log = run.place.folder / "load.log"
        return await run_load(job, processes, log, view.progress, on_start=on_start)
    finally:
        for task in freezing:
            task.cancel()
        await asyncio.gather(*freezing, return_exceptions=True)


async def _give_points(run: Run, clients: Clients, users: list[str]) -> None:
    if users:
        run.say(f"giving {len(users):,} buyers points …")
        await grant_points(clients.points, users, POINTS_PRICE)


def make_job(target: Target, wanted: list[Wanted], options: Options) -> LoadJob:
    """Return what the driver's processes are to do."""
    auth = target.settings.auth
    return LoadJob(
        mode="open",
        host=target.host,
        port=target.port,
        campaign_id=wanted[0].campaign_id,
        sku_ids=(wanted[0].sku_id,),
        other_sku_id=wanted[0].sold_out_sku_id,
        other_share=options.sold_out_share,
        key_file=str(Path(auth.key_file).absolute()),
        audience=auth.audience,
        prefix=f"l{secrets.token_hex(4)}",
        connections=options.connections,
        seconds=duration_s(options.shape),
        rate_per_s=options.shape.rate_per_s if isinstance(options.shape, Constant) else 0.0,
        shape=options.shape,
        aims=tuple(one.aim() for one in wanted),
        settle_s=SETTLE_S,
        progress_s=PROGRESS_S,
    )


def points_users(job: LoadJob, processes: int, wanted: list[Wanted]) -> list[str]:
    """Return the buyers of a job who need points.

    Raises:
        BenchError: they are too many.
    """
    shape = job.shape
    aims = [number for number, one in enumerate(wanted) if one.kind == REDEMPTION]
    if not aims or shape is None:
        return []
    # A Poisson process may have more arrivals than its mean: six standard deviations more, and then some.
    count = expected(shape) + round(6 * expected(shape) ** 0.5) + 10
    if count > POINTS_USERS_MAX:
        raise BenchError(f"a run with redemptions may have about {POINTS_USERS_MAX:,} requests, for buyers need points")
    return [
        f"{one.prefix}-{number}"
        for one in split(job, processes)
        for number in range(one.part, count, one.parts)
        if number % len(wanted) in aims
    ]


async def _books(keeper: Bookkeeper, report: LoadReport, wanted: list[Wanted]) -> Books:
    accepted = {one.campaign_id: count for one, count in zip(wanted, report.accepted, strict=True)}
    return await keeper.close(accepted, report.won, unknown=report.unknown, unsettled=report.unsettled)


def _judge(terms: list[Term], report: LoadReport, histogram: HdrHistogram) -> list[Kept]:
    counts = {name: getattr(report, name) for name in COUNTS}

    def percentile_ms(at: float) -> float | None:
        return float(histogram.get_value_at_percentile(at)) / 1000 if histogram.get_total_count() else None

    return judge(
        terms,
        {**counts, **report.classes},
        percentile_ms=percentile_ms,
        offered_s=report.offered / report.offered_per_s if report.offered_per_s else 0.0,
        answered_s=report.seconds,
    )
