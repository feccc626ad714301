"""`flashgate demo`: the main job on a fresh machine, from nothing to the proof that each unit was sold exactly once."""

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import msgspec
import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from setproctitle import setproctitle

from adapters.campaign_stock import move_campaign
from bench.crowd_link import CrowdLink
from cli import demo_outbound
from cli.clients import open_clients
from cli.config import local_defaults
from cli.demo_proof import contradictions
from cli.demo_sale import Sale, crowd_job, sample_campaign, sell
from cli.demo_view import View
from cli.services import ServicePlan, Services
from cli.stack import launch, one_at_a_time, terminate, wait_for_leftovers
from domain.campaign import STOCK_MAX, Campaign
from domain.errors import OperationRefusedError
from domain.settings import Settings, load_settings
from stack.errors import StackError
from stack.locks import lock_file
from stack.paths import state_dir
from stack.ports import free_port
from stack.runtime import Runtime, read_runtime
from stack.servers import Endpoints, LocalStack
from stack.supervisor import Event, Supervisor
from warehouse.campaigns import load_into

BUYERS_MAX: Final = 1_000_000
LEFTOVERS_TIMEOUT_S: Final = 60.0
EXIT_INTERRUPTED: Final = 130


class Kind(StrEnum):
    """Kinds of campaign."""

    SALE = "sale"
    LOTTERY = "lottery"
    REDEMPTION = "redemption"


def demo(
    *,
    buyers: Annotated[int, typer.Option(min=1, max=BUYERS_MAX, help="How many come, all at once.")] = 20_000,
    stock: Annotated[int, typer.Option(min=1, max=STOCK_MAX, help="Units that there are.")] = 1_000,
    kind: Annotated[Kind, typer.Option(help="Kind of campaign.")] = Kind.SALE,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Gateway workers on one port.")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers running; `stack stop` stops them.")] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; the rest goes to stderr.")] = False,
) -> None:
    """Sell a sample campaign to a crowd of real HTTP buyers and prove that each unit was sold exactly once.

    Most buyers pay, some cancel, some let their order expire, and others buy what comes back. Starts Redis, Kafka,
    MariaDB and flashgate's processes in a home of their own, and stops them at the end. Exit code 1 if anything
    disagrees, or if a buyer was told anything untrue.
    """
    if kind is not Kind.SALE:
        raise OperationRefusedError(f"--kind {kind} is not built yet, it comes later; there is --kind sale")
    setproctitle("flashgate: demo")
    _both_signals_interrupt()
    view = View(Console(stderr=True, highlight=False))
    with _only_demo() as home:
        campaign = sample_campaign(buyers, stock)
        act = Act(home, campaign, view, buyers, workers)
        sale = _sell_and_keep(act, view) if keep else _run(act, view)
    wrong = contradictions(
        sale.facts,
        told=sale.told,
        stored=sale.stored,
        untrue={**sale.result.untrue, **(sale.life.wrong if sale.life else {})},
        notes=[line for one in sale.report.campaigns for line in one.explanations],
        before=sale.before,
        after=sale.after,
    )
    _tell(Console(stderr=json, highlight=False), sale, wrong)
    if json:
        typer.echo(orjson.dumps(msgspec.to_builtins(sale.facts)).decode())
    if wrong:
        raise typer.Exit(1)


# -- homes and servers ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _only_demo() -> Iterator[Path]:
    """Yield the demo's home, fresh; there is one demo at a time.

    Raises:
        OperationRefusedError: another demo, or the servers that one has left, are running.
    """
    state_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    home = state_dir() / "demo"
    with (state_dir() / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperationRefusedError("another `flashgate demo` is running") from None
        runtime = read_runtime()
        if runtime is not None and runtime.home == home:
            raise OperationRefusedError("the servers of a `demo --keep` still run; first: flashgate stack stop")
        if (home / "lock").exists():  # what a killed demo has left is on its way out
            os.close(asyncio.run(lock_file(home / "lock", timeout_s=LEFTOVERS_TIMEOUT_S)))
        if home.exists():
            shutil.rmtree(home)
        yield home


def _sell_and_keep(act: "Act", view: View) -> Sale:
    """Sell on servers in the background, as of `stack start`, and leave them running if the sale came to an end."""
    try:
        runtime = _start_to_keep(act.home, view)
        sale = _run(dataclasses.replace(act, endpoints=runtime.endpoints), view)
    except BaseException:
        _stop_kept(act.home)
        raise
    view.say("the servers are left running; see: flashgate stack status; flashgate stack stop stops them")
    return sale


def _start_to_keep(home: Path, view: View) -> Runtime:
    with one_at_a_time():
        present = read_runtime()
        if present is not None:
            first = "end `flashgate up`" if present.owner == "up" else "flashgate stack stop"
            raise OperationRefusedError(f"other servers are running, and only one set can be kept; first: {first}")
        view.say("starting Redis, Kafka and MariaDB, to be kept …")
        launch(home)
        runtime = read_runtime()
    if runtime is None or runtime.home != home:
        raise StackError(f"the servers have stopped again; see {home / 'logs'}")
    return runtime


def _stop_kept(home: Path) -> None:
    with one_at_a_time():
        runtime = read_runtime()
        if runtime is not None and runtime.home == home:
            terminate(runtime.pid)
            wait_for_leftovers(home)


def _settings(endpoints: Endpoints, home: Path) -> Settings:
    """Return the demo's own settings: no file or environment leads it to servers of another purpose."""
    settings = load_settings(defaults=local_defaults(endpoints, home))
    return msgspec.structs.replace(
        settings,
        gateway=msgspec.structs.replace(settings.gateway, port=0),
        sandbox=msgspec.structs.replace(settings.sandbox, port=free_port()),
    )


# -- the demo itself -----------------------------------------------------------------------------------------------


def _run(act: "Act", view: View) -> Sale:
    """Run an act until its end or until Ctrl-C or SIGTERM, which cancels it; then everything it opened is closed.

    Raises:
        typer.Exit: it was interrupted.
    """
    try:
        return asyncio.run(_on_stage(act, view))
    finally:
        _both_signals_interrupt()  # the loop has put SIGTERM back to what it was by default


async def _on_stage(act: "Act", view: View) -> Sale:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    # A signal cancels the act, which is a task of its own; what is opened is closed out here, undisturbed.
    async with contextlib.AsyncExitStack() as opened:
        running = asyncio.create_task(act(opened))
        told = asyncio.create_task(stopping.wait())
        await asyncio.wait([running, told], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not running.done():
            view.say("stopping …")
            running.cancel()
            await asyncio.wait([running])
            raise typer.Exit(EXIT_INTERRUPTED)
        sale = running.result()
        view.say("stopping …")
    if stopping.is_set():
        raise typer.Exit(EXIT_INTERRUPTED)
    return sale


def _both_signals_interrupt() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@dataclass(frozen=True, slots=True)
class Act:
    """Start what is not there yet, sell.

    Attributes:
        home: of the servers.
        endpoints: of servers that run already; None: start some.
    """

    home: Path
    campaign: Campaign
    view: View
    buyers: int
    workers: int
    endpoints: Endpoints | None = None

    async def __call__(self, opened: contextlib.AsyncExitStack) -> Sale:
        """Do it; what is to be stopped in the end is left with `opened`."""
        view, campaign = self.view, self.campaign
        supervisor = Supervisor(on_event=self._tell_event)
        endpoints = self.endpoints or await self._start_servers(supervisor, opened)
        settings = _settings(endpoints, self.home)
        view.say(f"starting {self.workers} gateway workers, relay, consumer, lifecycle and payment sandbox …")
        plan = ServicePlan(settings, self.home, self.workers, with_reconciler=False, with_ops=False)
        services = Services(supervisor, plan)
        opened.push_async_callback(services.stop)
        await services.start()
        clients = await opened.enter_async_context(open_clients(settings))
        view.say("goods come into the warehouse, and the campaign is allocated its share …")
        await demo_outbound.fill_warehouse(clients, campaign)
        await load_into(clients, campaign, who=demo_outbound.WHO)
        before = await demo_outbound.look_around(clients, campaign.sku[0].id)
        await move_campaign(clients.channel, campaign.id, "open")
        view.say(f"gathering {self.buyers:,} buyers …")
        job = crowd_job(settings, services.gateway_url, campaign, self.buyers)
        crowd = await opened.enter_async_context(CrowdLink(job, self.home / "logs" / "crowd.log"))
        lanes = await crowd.ready()
        view.say(f"{self.buyers:,} buyers on {lanes} connections want {campaign.sku[0].stock:,}: go")
        return await sell(
            settings,
            clients,
            campaign,
            crowd,
            view,
            buyers=self.buyers,
            gateway_url=services.gateway_url,
            before=before,
        )

    async def _start_servers(self, supervisor: Supervisor, opened: contextlib.AsyncExitStack) -> Endpoints:
        stack = LocalStack(self.home, supervisor=supervisor, note=self.view.say)
        opened.push_async_callback(stack.stop)
        self.view.say("starting Redis, Kafka and MariaDB …")
        return await stack.start()

    def _tell_event(self, event: Event) -> None:
        if event.kind == "died":
            self.view.say(f"{event.name} (pid {event.pid}) died with code {event.code}; it is started again")


def _tell(console: Console, sale: Sale, wrong: list[str]) -> None:
    """Say what came of it."""
    facts, result = sale.facts, sale.result
    console.print()
    console.print(_books(sale))
    console.print(_warehouse(sale))
    lines = Table.grid(padding=(0, 2))
    for name, text in (
        (
            "requests",
            f"{result.sent:,} in {result.seconds:.1f} s, {facts.offered_per_s:,.0f}/s; {result.retries:,} retries",
        ),
        ("acceptance", f"{facts.accepted:,} orders in {result.accepting_s:.2f} s, {facts.accepted_per_s:,.0f}/s"),
        ("replays", f"{result.replays:,}: asked again with the same key, told the same order"),
        (
            "latency",
            f"p50 {facts.p50_ms:,.0f} ms, p99 {facts.p99_ms:,.0f} ms: everybody is ready at once, and waits count",
        ),
        ("drain", f"MySQL had every order {facts.drain_s:.2f} s after the last answer"),
        ("batching", f"{facts.evalsha_calls:,} script calls in Redis, {facts.insert_statements:,} INSERTs in MariaDB"),
    ):
        lines.add_row(name, text)
    console.print(lines)
    console.print()
    for line in wrong:
        console.print(f"[bold red]not as promised:[/bold red] {escape(line)}")
    for line in result.examples:
        console.print(escape(line))
    if not wrong:
        console.print(
            f"[bold green]Proved:[/bold green] {facts.sold:,} of {facts.stock:,} units are sold, each to one buyer"
            f"{f', {facts.shipped:,} of them shipped' if facts.shipped else ''}; {facts.sold_again:,} came back and "
            "were sold again. Who was told 202 has one order in MySQL, nobody else has one, no answer contradicted "
            "another, and the warehouse's books balance."
        )


def _books(sale: Sale) -> Table:
    """Return the three stores side by side, and the buyers."""
    facts, (campaign,) = sale.facts, sale.report.campaigns
    (sku,) = campaign.skus
    books = Table(
        "", "told to buyers", "Redis", "Kafka", "MySQL", title="Held against each other", title_justify="left"
    )
    for column in books.columns[1:]:
        column.justify = "right"
    orders = (facts.accepted, facts.redis_taken, facts.kafka_distinct, facts.mysql_rows)
    books.add_row("orders accepted", *(f"{n:,}" for n in orders))
    books.add_row("  paid and shipped", "", "", "", f"{facts.shipped:,}")
    if facts.paid > facts.shipped:
        books.add_row("  paid, not shipped yet", "", "", "", f"{facts.paid - facts.shipped:,}")
    if facts.unpaid:
        books.add_row("  not paid yet", "", "", "", f"{facts.unpaid:,}")
    books.add_row("  cancelled, expired", "", "", "", f"{facts.cancelled + facts.expired:,}")
    books.add_row("  rejected in review, refunded", "", "", "", f"{facts.rejected:,}")
    books.add_row("  parcel came back, refunded", "", "", "", f"{facts.returned:,}")
    late = facts.refunded - facts.rejected - facts.returned
    if late:
        books.add_row("  paid too late, refunded", "", "", "", f"{late:,}")
    given_back = facts.cancelled + facts.expired + facts.refunded
    books.add_row("units given back", "", f"{facts.redis_returned:,}", "", f"{given_back:,}")
    books.add_row("  of them, sold again", f"{facts.sold_again:,}")
    books.add_row("units sold", "", f"{sku.taken - sku.returned:,}", "", f"{sku.mysql_sold:,}")
    books.add_row("units left", "", f"{sku.remaining:,}", "", f"{sku.allocated - sku.mysql_sold:,}")
    books.add_row("units in all", "", f"{sku.allocated:,}", "", f"{sku.allocated:,}", end_section=True)
    books.add_row("sold out", f"{facts.sold_out:,}")
    books.add_row("rate limited", f"{facts.rate_limited:,}")
    books.add_row("failed", f"{facts.failed:,}", end_section=True)
    books.add_row("in flight", "", "", "", f"{campaign.in_flight:,}")
    books.add_row("missing, extra, dead", "", "", "", f"{sku.missing:,}, {sku.extra:,}, {sku.dead_letters:,}")
    books.add_row("drift", "", "", "", f"[{'red' if facts.drift else 'green'}]{facts.drift:,}")
    return books


def _warehouse(sale: Sale) -> Table:
    """Return what the warehouse had before the sale, and what it has after it."""
    table = Table("", "before", "after", title="The warehouse: where every unit is", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    before, after = sale.before, sale.after

    def row(name: str, was: int, now: int, *, ends: bool = False) -> None:
        table.add_row(name, f"{was:,}", f"{now:,}", end_section=ends)

    row("received", before.received, after.received)
    row("shipped", before.shipped, after.shipped)
    row("came back", before.returned, after.returned, ends=True)
    row("on hand", before.on_hand, after.on_hand)
    row("  for the campaign", before.allocated, after.allocated)
    row("  sold by the shop", before.reserved, after.reserved)
    row("  free", before.free, after.free)
    return table
