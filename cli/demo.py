"""`flashgate demo`: the main job on a fresh machine, from nothing to the proof that each unit was sold exactly once."""

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
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

from adapters.lotteries import move
from bench.crowd_link import CrowdLink
from cli.clients import open_clients
from cli.config import local_defaults
from cli.demo_lottery import LotteryPlay
from cli.demo_redemption import RedemptionPlay
from cli.demo_sale import SalePlay
from cli.demo_stage import Ending, Play, Stage, crowd_job
from cli.demo_view import View
from cli.services import ServicePlan, Services
from cli.stack import launch, one_at_a_time, terminate, wait_for_leftovers
from domain.campaign import STOCK_MAX
from domain.errors import OperationRefusedError
from domain.settings import Settings, load_settings
from stack.errors import StackError
from stack.locks import lock_file
from stack.paths import state_dir
from stack.ports import free_port
from stack.runtime import Runtime, read_runtime
from stack.servers import Endpoints, LocalStack
from stack.supervisor import Event, Supervisor

BUYERS_MAX: Final = 1_000_000
LEFTOVERS_TIMEOUT_S: Final = 60.0
EXIT_INTERRUPTED: Final = 130


class Kind(StrEnum):
    """Kinds of campaign."""

    SALE = "sale"
    LOTTERY = "lottery"
    REDEMPTION = "redemption"


PLAYS: Final[Mapping[Kind, Callable[[int, int], Play]]] = {
    Kind.SALE: SalePlay.of,
    Kind.LOTTERY: LotteryPlay.of,
    Kind.REDEMPTION: RedemptionPlay.of,
}
"""Kind → makes its demo, given the numbers of buyers and of units."""


def demo(
    *,
    buyers: Annotated[int, typer.Option(min=1, max=BUYERS_MAX, help="How many come, all at once.")] = 20_000,
    stock: Annotated[int, typer.Option(min=1, max=STOCK_MAX, help="Units, or prizes, that there are.")] = 1_000,
    kind: Annotated[Kind, typer.Option(help="Kind of campaign.")] = Kind.SALE,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Gateway workers on one port.")] = 2,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers running; `stack stop` stops them.")] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON; the rest goes to stderr.")] = False,
) -> None:
    """Let a crowd of real HTTP buyers loose on a sample campaign and prove that every unit and point is accounted for.

    \b
    sale        Most buyers pay, some cancel or let their order expire, and others buy what comes back.
    lottery     Buyers draw for prizes; the winners get points, and then every draw is verified by the revealed seed.
    redemption  Buyers spend points on goods; whoever has too few after all is turned back, and so is the unit.

    Starts Redis, Kafka, MariaDB and flashgate's processes in a home of their own, and stops them at the end. Exit code
    1 if anything disagrees, or if a buyer was told anything untrue.
    """  # noqa: D301 -- click's mark for lines as they are
    setproctitle("flashgate: demo")
    _both_signals_interrupt()
    view = View(Console(stderr=True, highlight=False))
    with _only_demo() as home:
        act = Act(home, PLAYS[kind](buyers, stock), view, buyers, workers)
        ending = _run_and_keep(act, view) if keep else _run(act, view)
    _tell(Console(stderr=json, highlight=False), ending)
    if json:
        typer.echo(orjson.dumps(msgspec.to_builtins(ending.facts)).decode())
    if ending.wrong:
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


def _run_and_keep(act: "Act", view: View) -> Ending:
    """Run on servers in the background, as of `stack start`, and leave them running if the act came to an end."""
    try:
        runtime = _start_to_keep(act.home, view)
        ending = _run(dataclasses.replace(act, endpoints=runtime.endpoints), view)
    except BaseException:
        _stop_kept(act.home)
        raise
    view.say("the servers are left running; see: flashgate stack status; flashgate stack stop stops them")
    return ending


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


def _run(act: "Act", view: View) -> Ending:
    """Run an act until its end or until Ctrl-C or SIGTERM, which cancels it; then everything it opened is closed.

    Raises:
        typer.Exit: it was interrupted.
    """
    try:
        return asyncio.run(_on_stage(act, view))
    finally:
        _both_signals_interrupt()  # the loop has put SIGTERM back to what it was by default


async def _on_stage(act: "Act", view: View) -> Ending:
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
        ending = running.result()
        view.say("stopping …")
    if stopping.is_set():
        raise typer.Exit(EXIT_INTERRUPTED)
    return ending


def _both_signals_interrupt() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


@dataclass(frozen=True, slots=True)
class Act:
    """Start what is not there yet, and have the play performed.

    Attributes:
        home: of the servers.
        play: what is performed.
        endpoints: of servers that run already; None: start some.
    """

    home: Path
    play: Play
    view: View
    buyers: int
    workers: int
    endpoints: Endpoints | None = None

    async def __call__(self, opened: contextlib.AsyncExitStack) -> Ending:
        """Do it; what is to be stopped in the end is left with `opened`."""
        view, play = self.view, self.play
        supervisor = Supervisor(on_event=self._tell_event)
        endpoints = self.endpoints or await self._start_servers(supervisor, opened)
        settings = _settings(endpoints, self.home)
        view.say(f"starting {self.workers} gateway workers, relay, consumers, lifecycle and payment sandbox …")
        plan = ServicePlan(settings, self.home, self.workers, with_reconciler=False, with_ops=False)
        services = Services(supervisor, plan)
        opened.push_async_callback(services.stop)
        await services.start()
        clients = await opened.enter_async_context(open_clients(settings))
        stage = Stage(settings, clients, view, services.gateway_url, self.buyers)
        await play.prepare(stage)
        await move(clients.channel, clients.client, play.campaign.id, "open")
        view.say(f"gathering {self.buyers:,} buyers …")
        crowd = await opened.enter_async_context(CrowdLink(crowd_job(stage, play), self.home / "logs" / "crowd.log"))
        lanes = await crowd.ready()
        view.say(f"{self.buyers:,} buyers on {lanes} connections {play.wish}: go")
        return await play.perform(stage, crowd)

    async def _start_servers(self, supervisor: Supervisor, opened: contextlib.AsyncExitStack) -> Endpoints:
        stack = LocalStack(self.home, supervisor=supervisor, note=self.view.say)
        opened.push_async_callback(stack.stop)
        self.view.say("starting Redis, Kafka and MariaDB …")
        return await stack.start()

    def _tell_event(self, event: Event) -> None:
        if event.kind == "died":
            self.view.say(f"{event.name} (pid {event.pid}) died with code {event.code}; it is started again")


def _tell(console: Console, ending: Ending) -> None:
    """Say what came of it."""
    for table in ending.tables:
        console.print()
        console.print(table)
    console.print()
    lines = Table.grid(padding=(0, 2))
    for name, text in ending.remarks:
        lines.add_row(name, text)
    console.print(lines)
    console.print()
    for line in ending.wrong:
        console.print(f"[bold red]not as promised:[/bold red] {escape(line)}")
    for line in ending.examples:
        console.print(escape(line))
    if not ending.wrong:
        console.print(f"[bold green]Proved:[/bold green] {escape(ending.proved)}")
