"""`flashgate up`: everything under one supervisor, until Ctrl-C."""

import asyncio
import contextlib
import signal
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from setproctitle import setproctitle

from cli.config import load
from cli.services import ServicePlan, Services
from domain.settings import Settings
from stack.paths import stack_home
from stack.ports import free_port, is_free
from stack.runtime import clear_runtime, read_runtime, write_runtime
from stack.servers import LocalStack
from stack.supervisor import Event, Supervisor

console = Console(stderr=True, highlight=False)


def up(
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Gateway workers on one port.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Buyer plane; default 8080, or a free one.")
    ] = None,
    ops_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Ops plane; default 9090, or a free one.")
    ] = None,
    sandbox: Annotated[
        bool, typer.Option(help="Run the payment sandbox; without it payments go to payment.provider_url.")
    ] = True,
) -> None:
    """Run servers, gateway, relay, consumers and reconciler until Ctrl-C; whatever dies is started again."""
    asyncio.run(_up(workers, port, ops_port, with_sandbox=sandbox))


async def _up(workers: int | None, port: int | None, ops_port: int | None, *, with_sandbox: bool) -> None:
    setproctitle("flashgate: up")
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    supervisor = Supervisor(on_event=_tell)
    running = asyncio.create_task(_run(supervisor, workers, port, ops_port, with_sandbox=with_sandbox))
    told = asyncio.create_task(stopping.wait())
    await asyncio.wait([running, told], return_when=asyncio.FIRST_COMPLETED)
    try:
        if not running.done():
            console.print("stopping …")
            running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    finally:
        told.cancel()


async def _run(
    supervisor: Supervisor, workers: int | None, port: int | None, ops_port: int | None, *, with_sandbox: bool
) -> None:
    """Start everything and stay until cancelled, which stops everything."""
    present = read_runtime()
    stack = None if present else LocalStack(stack_home(), supervisor=supervisor, note=console.print)
    services: Services | None = None
    try:
        if stack is not None:
            console.print("starting Redis, Kafka and MariaDB …")
            endpoints, home = await stack.start(), stack.home
            write_runtime(home, endpoints, owner="up")
        else:
            assert present is not None  # noqa: S101 -- one of the two
            endpoints, home = present.endpoints, present.home
            console.print("using the servers that run already; they are left running at the end")
        settings = choose_ports(load(), port, ops_port)
        plan = ServicePlan(settings, home, workers or settings.gateway.workers, with_sandbox=with_sandbox)
        services = Services(supervisor, plan)
        await services.start()
        if stack is not None:
            urls = {"gateway": services.gateway_url, "ops": services.ops_url}
            if with_sandbox:
                urls["sandbox"] = services.settings.payment.provider_url
            write_runtime(home, endpoints, owner="up", services=urls)
        _show(services, settings, plan)
        await asyncio.Event().wait()
    finally:
        try:
            if services is not None:
                await services.stop()
        finally:
            if stack is not None:
                clear_runtime()
                await stack.stop()


def choose_ports(settings: Settings, port: int | None, ops_port: int | None) -> Settings:
    """Return settings with the ports asked for, or the configured ones if free, or free ones."""
    gateway, ops = settings.gateway, settings.ops
    if port is None:
        port = gateway.port if is_free(gateway.port) else 0
    if ops_port is None:
        ops_port = ops.port if is_free(ops.port) else 0
    if ops_port == 0:
        ops_port = free_port(taken=(port,))
    sandbox_port = settings.sandbox.port
    if sandbox_port == 0 or not is_free(sandbox_port):
        sandbox_port = free_port(taken=(port, ops_port))
    return msgspec.structs.replace(
        settings,
        gateway=msgspec.structs.replace(gateway, port=port),
        ops=msgspec.structs.replace(ops, port=ops_port),
        sandbox=msgspec.structs.replace(settings.sandbox, port=sandbox_port),
    )


def _show(services: Services, settings: Settings, plan: ServicePlan) -> None:
    table = Table("what", "where", title="flashgate is up", title_justify="left")
    table.add_row("buyer plane", f"{services.gateway_url}   ({plan.workers} workers, docs at /docs)")
    table.add_row("ops plane", f"{services.ops_url}/metrics   (token in {settings.ops.token_file})")
    if plan.with_sandbox:
        table.add_row("payments", f"{services.settings.payment.provider_url}   (sandbox: no money moves)")
    table.add_row("Redis", f"{settings.redis.host}:{settings.redis.port}")
    table.add_row("Kafka", settings.kafka.bootstrap)
    table.add_row("logs", str(plan.home / "logs"))
    wide = Console(stderr=True, highlight=False, soft_wrap=True)
    wide.print(table)
    wide.print("Ctrl-C stops it.")


def _tell(event: Event) -> None:
    """Say what dies and comes back; the ordinary course of things is silent."""
    if event.kind == "died":
        console.print(f"{event.name} (pid {event.pid}) died with code {event.code}; it is started again")
