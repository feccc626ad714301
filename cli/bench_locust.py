"""`flashgate bench locust`: the 10 o'clock peak as a closed loop of people, which Locust drives."""

import contextlib
import math
import secrets
import shutil
import time
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console

from bench.errors import BenchError
from bench.load_books import Books, as_facts
from bench.load_files import write_counts
from bench.load_outcomes import ResultClass
from bench.locust_buyer import LocustCounts, LocustJob, buyer_name
from bench.locust_link import Locust
from cli.bench_run import RUNS, Run, run_measurement
from cli.clients import open_clients
from cli.load_books import Bookkeeper
from cli.load_campaigns import POINTS_PRICE, Scenario, Wanted, grant_points, own_campaigns, until_known
from cli.load_target import WORKERS_MAX, Target, open_target
from cli.load_view import show_books
from domain.campaign import REDEMPTION, STOCK_MAX
from stack.ports import free_port, is_free

EXIT_DISAGREES: Final = 1
LINE_EVERY_S: Final = 2.0
WEB_PORT: Final = 8089
BUYERS_A_USER_PER_S: Final = 1.5
"""A person turns into the next buyer after half a second to one and a half."""
POINTS_USERS_MAX: Final = 200_000


def locust_command(
    *,
    headless: Annotated[
        bool,
        typer.Option("--headless", help="Begin at once, end with the peak; without it: Locust's web page."),
    ] = False,
    users: Annotated[int, typer.Option(min=1, max=100_000, help="People at the peak.")] = 100,
    spawn_rate: Annotated[
        float, typer.Option(min=0, max=100_000, help="How many come a second when it opens; 0: all at once.")
    ] = 0.0,
    duration: Annotated[int, typer.Option(min=5, max=86_400, help="Seconds until the last one leaves.")] = 30,
    scenario: Annotated[Scenario, typer.Option(help="What buyers come for.")] = Scenario.SALE,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Of Locust.")] = 1,
    stock: Annotated[int, typer.Option(min=1, max=STOCK_MAX, help="Units of its own campaign.")] = 1_000,
    url: Annotated[
        str, typer.Option(help="The gateway; default: that of the running `flashgate up`, else a stack of its own.")
    ] = "",
    remote: Annotated[
        str, typer.Option(metavar="HOST", help="Confirms that --url may name this host, which is another machine.")
    ] = "",
    workers: Annotated[
        int, typer.Option(min=0, max=WORKERS_MAX, help="Gateway workers of its own stack; 0: half of the cores.")
    ] = 0,
    web_port: Annotated[
        int, typer.Option(min=1, max=65_535, help="Of Locust's web page, on loopback; another one if it is taken.")
    ] = WEB_PORT,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; the rest goes to stderr.")] = False,
    name: Annotated[str, typer.Option(help="Name of the run's folder; default: the command and the time.")] = "",
    runs: Annotated[
        Path, typer.Option("--runs", metavar="FOLDER", help="Where the run's folder is made.", show_default="runs")
    ] = RUNS,
) -> None:
    """Let Locust's people wait for 10 o'clock, buy, come back after a refusal for now, and leave.

    Closed loop: who waits for an answer asks nothing meanwhile, so a stall looks shorter than it is; `bench load` shows
    it whole. A campaign of its own is opened and closed. Without --url it drives the `flashgate up` that runs here, or,
    if none does, a stack that it starts and stops. Exit code 1 if what Locust's buyers were told, what the gateway
    counted, and what Redis and MySQL have is not the same to the unit.
    """
    told = {
        "users": users,
        "spawn_rate": spawn_rate,
        "duration": duration,
        "scenario": str(scenario),
        "processes": processes,
        "stock": stock,
    }
    outcomes: list[Books] = []

    async def work(run: Run) -> dict[str, Any]:
        async with open_target(run, url, remote, workers, own=False) as target:
            if target.settings.auth.algorithm != "HS256":
                raise BenchError("tokens can be made with HS256 only; auth.algorithm is another one")
            if not target.ops_url:
                raise BenchError("the gateway's counts cannot be read there: drive the `flashgate up` that runs here")
            plan = (users, spawn_rate, float(duration))
            peak = _Peak(run, target, scenario, plan, processes, 0 if headless else _web_port(web_port))
            counts, books = await peak.measure(stock)
            if not any(counts.classes.values()):
                raise BenchError("nobody has come: press Start on Locust's page before you end it")
            if not any(count for name, count in counts.classes.items() if name != ResultClass.FAILED):
                raise BenchError(f"{target.url} gave no usable answer: {counts.classes[ResultClass.FAILED]:,} failures")
            facts = {**_facts(counts), "books": as_facts(books)}
            _show(run.console, counts, books)
            await run.write("locust", facts, target.settings, told)
        peak.keep_files()
        write_counts(run.folder, {"classes": counts.classes, "by_aim": counts.aims, "told": counts.told})
        outcomes.append(books)
        return facts

    run_measurement("locust", work, name, runs, json=json)
    if any(one.disagreements() for one in outcomes):
        raise typer.Exit(EXIT_DISAGREES)


def _web_port(wanted: int) -> int:
    return wanted if is_free(wanted) else free_port()


class _Peak:
    """One run of Locust against a target."""

    def __init__(
        self,
        run: Run,
        target: Target,
        scenario: Scenario,
        plan: tuple[int, float, float],
        processes: int,
        web_port: int,
    ) -> None:
        self._run = run
        self._target = target
        self._scenario = scenario
        self._plan = plan
        self._processes = processes
        self._web_port = web_port
        self._folder = run.place.folder / "locust"
        self._line_at_s = 0.0

    async def measure(self, stock: int) -> tuple[LocustCounts, Books]:
        """Open campaigns, run Locust, and hold what its buyers were told against the stores."""
        run, target = self._run, self._target
        async with contextlib.AsyncExitStack() as opened:
            clients = await opened.enter_async_context(open_clients(target.settings))
            wanted = await opened.enter_async_context(own_campaigns(clients, self._scenario.kinds, stock))
            job = self._job(wanted)
            if points := self._points_users(job, wanted):
                run.say(f"giving {len(points):,} buyers points …")
                await grant_points(clients.points, points, POINTS_PRICE)
            await until_known(target, [one.campaign_id for one in wanted])
            keeper = Bookkeeper(target, clients, wanted)
            await keeper.begin()
            locust = Locust(job, self._folder, target.url, processes=self._processes, web_port=self._web_port)
            if self._web_port:
                page = f"http://127.0.0.1:{self._web_port}"
                run.say(f"Locust's page is {page}: start and stop there; Ctrl-C here ends it and compares")
            else:
                run.say(f"{job.users:,} people come to {target.url} within {job.duration_s:g} s …")
            counts = await locust.run(self._progress)
            accepted = {one.campaign_id: count for one, count in zip(wanted, counts.told, strict=True)}
            return counts, await keeper.close(accepted, counts.won, unknown=counts.unknown, unsettled=counts.unsettled)

    def keep_files(self) -> None:
        """Put Locust's log and its own statistics into the run's folder."""
        for path in (self._folder / "locust.log", *self._folder.glob("locust-stats*")):
            if path.exists():
                shutil.copyfile(path, self._run.folder / path.name)

    def _job(self, wanted: list[Wanted]) -> LocustJob:
        counts = self._folder / "counts"
        counts.mkdir(parents=True)
        users, spawn_per_s, duration_s = self._plan
        auth = self._target.settings.auth
        return LocustJob(
            aims=tuple(one.aim() for one in wanted),
            pages=tuple(f"/v1/campaigns/{one.campaign_id}" for one in wanted),
            key_file=str(Path(auth.key_file).absolute()),
            audience=auth.audience,
            prefix=f"p{secrets.token_hex(4)}",
            counts_folder=str(counts),
            users=users,
            spawn_per_s=spawn_per_s,
            duration_s=duration_s,
        )

    def _points_users(self, job: LocustJob, wanted: list[Wanted]) -> list[str]:
        """Return the buyers who are given points: all who may come within the duration."""
        aims = [number for number, one in enumerate(wanted) if one.kind == REDEMPTION]
        a_process = math.ceil(job.users * job.duration_s * BUYERS_A_USER_PER_S / len(wanted) / self._processes)
        if aims and a_process * self._processes > POINTS_USERS_MAX:
            raise BenchError(f"a run with redemptions may have about {POINTS_USERS_MAX:,} buyers, for they need points")
        return [
            buyer_name(job.prefix, process, aim, number)
            for aim in aims
            for process in range(self._processes)
            for number in range(a_process)
        ]

    def _progress(self, now: LocustCounts) -> None:
        if time.monotonic() >= self._line_at_s and (now.looks or any(now.classes.values())):
            self._line_at_s = time.monotonic() + LINE_EVERY_S
            self._run.say(f"looks {now.looks:,}  {_line(now.classes)}")


def _line(classes: dict[str, int]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in classes.items())


def _facts(counts: LocustCounts) -> dict[str, Any]:
    return {**msgspec.to_builtins(counts), "classes": counts.classes}


def _show(console: Console, counts: LocustCounts, books: Books) -> None:
    console.print(f"results   {_line(counts.classes)}")
    console.print(f"looks     {counts.looks:,} before it opened")
    if counts.unknown:
        console.print(f"unknown   {counts.unknown:,} buyers at some time; {counts.unsettled:,} never learned it")
    show_books(console, books)
