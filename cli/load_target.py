"""What load is offered to: a running `up`, a gateway that the user names, or a stack of the command's own."""

import contextlib
import ipaddress
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from bench.errors import BenchError
from bench.servers import OUTBOX_ENTRIES_MAX
from cli.bench_run import Run
from cli.config import load, local_defaults
from cli.services import ServicePlan, Services
from domain.settings import Settings, load_settings
from stack.ports import free_port
from stack.runtime import read_runtime
from stack.servers import Endpoints, LocalStack
from stack.supervisor import Event, Supervisor

WORKERS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway, and what is known of the rest.

    Attributes:
        url: of the buyer plane, `http://HOST:PORT`.
        host, port: of the buyer plane.
        settings: of its servers, and of what tokens are signed with.
        ops_url: where its counts are; empty: nobody knows.
        redis_pid: of its Redis, if this command started it; else 0.
    """

    url: str
    host: str
    port: int
    settings: Settings
    ops_url: str = ""
    redis_pid: int = 0

    @property
    def is_own(self) -> bool:
        """Whether this command started it."""
        return self.redis_pid > 0


def gateway_url(told: str) -> str:
    """Return the URL told, or that of the running `up`.

    Raises:
        BenchError: none was told, and nothing is running.
    """
    if told:
        return told
    runtime = read_runtime()
    url = runtime.services.get("gateway") if runtime else None
    if not url:
        raise BenchError("no `flashgate up` is running here; start one, or say where a gateway is: --url")
    return str(url)


def address(url: str) -> tuple[str, int]:
    """Return host and port of a gateway's URL.

    Raises:
        BenchError: it is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError:
        raise BenchError(f"--url: {url!r} is no URL") from None
    if parts.scheme != "http" or not parts.hostname or parts.path not in {"", "/"}:
        raise BenchError(f"--url: {url!r}: give http://HOST:PORT (TLS ends upstream of the gateway)")
    return parts.hostname, port


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine for certain; names but `localhost` are not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_remote(host: str, remote: str) -> None:
    """Refuse to offer load to another machine than this one, unless its name was given twice.

    Raises:
        BenchError: it was not.
    """
    if remote and remote != host:
        raise BenchError(f"--remote names {remote}, and --url {host}: they must be the same host")
    if not remote and not is_loopback(host):
        raise BenchError(f"{host} is another machine; if it is yours to load, confirm that with --remote {host}")


@contextlib.asynccontextmanager
async def open_target(run: Run, url: str, remote: str, workers: int, *, own: bool) -> AsyncIterator[Target]:
    """Find what load is offered to; a stack of the command's own is stopped afterwards.

    Args:
        run: where an own stack lives.
        url: the gateway that the user names; empty: the running `up`, or else a stack of its own.
        remote: the host again, if it is another machine.
        workers: of an own stack; 0: half of the cores.
        own: take a stack of its own even if an `up` is running.

    Raises:
        FlashgateError: no such target, or the stack did not start.
    """
    if remote and not url:
        raise BenchError("--remote confirms the host of --url, which is missing")
    if own and url:
        raise BenchError("--url names a gateway, and this needs a stack of its own: leave --url out")
    runtime = read_runtime()
    running = str(runtime.services.get("gateway", "")) if runtime else ""
    if not own and (url or running):
        host, port = address(url or running)
        check_remote(host, remote)
        same = bool(running) and _same(address(running), (host, port))
        ops = str(runtime.services.get("ops", "")) if runtime and same else ""
        yield Target(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", host, port, load(), ops)
        return
    async with own_stack(run, workers) as target:
        yield target


def _same(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Tell whether two addresses are the same, whichever way loopback is written."""
    return one == other or (one[1] == other[1] and is_loopback(one[0]) and is_loopback(other[0]))


@contextlib.asynccontextmanager
async def own_stack(run: Run, workers: int) -> AsyncIterator[Target]:
    """Run everything in a home of the command's own; leaving it leaves no process behind.

    Raises:
        FlashgateError: something did not start, or died meanwhile.
    """
    home = run.place.folder / "full"
    died: list[Event] = []
    count = workers or max(1, (os.cpu_count() or 1) // 2)
    async with contextlib.AsyncExitStack() as opened:
        supervisor = Supervisor(on_event=lambda event: died.append(event) if event.kind == "died" else None)
        run.say(f"starting Redis, Kafka, MariaDB and flashgate for this run alone, {count} gateway worker(s) …")
        stack = LocalStack(home, supervisor=supervisor, note=run.say)
        opened.push_async_callback(stack.stop)
        settings = _own_settings(run, await stack.start())
        services = Services(
            supervisor, ServicePlan(settings, home, count, with_reconciler=False, with_ops=True, with_sandbox=False)
        )
        opened.push_async_callback(services.stop)
        await services.start()
        redis_pid = supervisor.pid("redis")
        if redis_pid is None:
            raise BenchError(f"Redis has ended; see {home / 'logs'}")
        host, port = address(services.gateway_url)
        yield Target(services.gateway_url, host, port, settings, services.ops_url, redis_pid)
        if died:
            raise BenchError(f"{died[0].name} died with code {died[0].code} in the middle of the run")


def _own_settings(run: Run, endpoints: Endpoints) -> Settings:
    """Return settings of their own: no file or environment leads them to servers of another purpose."""
    settings = load_settings(defaults=local_defaults(endpoints, run.place.folder / "full"))
    gateway = msgspec.structs.replace(settings.gateway, port=0, outbox_entries_max=OUTBOX_ENTRIES_MAX)
    auth = msgspec.structs.replace(settings.auth, key_file=str(run.place.key_file), audience=run.place.audience)
    ops = msgspec.structs.replace(settings.ops, port=free_port())
    return msgspec.structs.replace(settings, gateway=gateway, auth=auth, ops=ops)
