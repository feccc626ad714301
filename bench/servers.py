"""What is measured: flashgate and its peers, each with a Redis of its own, in a folder of its own."""

import asyncio
import contextlib
import os
import secrets
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import redis.asyncio as redis

from adapters.campaign_stock import load_campaign, move_campaign
from adapters.redis import ScriptChannel, make_client
from adapters.stock import read_snapshot
from bench import go_peer, nginx_peer, prefill
from bench.cpu import with_children
from bench.errors import BenchError
from bench.sale import Sale
from domain.settings import AuthSettings, GatewaySettings, RedisSettings, Settings
from stack.errors import ChildFailed, StackError
from stack.paths import PROJECT_ROOT, write_private
from stack.ports import LOOPBACK, free_port
from stack.redis import prepare, spec
from stack.supervisor import ChildSpec, Event, Supervisor

FLASHGATE: Final = "flashgate"
AIOHTTP: Final = "aiohttp"
GO: Final = "go"
NGINX: Final = "nginx"
PEERS: Final = (GO, AIOHTTP, NGINX)

READY_TIMEOUT_S: Final = 30.0
OUTBOX_ENTRIES_MAX: Final = 10_000_000
"""Nothing relays here, so the outbox only grows: the limit is out of the way, the check is not."""

EnvironmentOf = Callable[[Settings], Mapping[str, str]]


class AnswerLine(msgspec.Struct, frozen=True, kw_only=True):
    """One answer as it came over the wire."""

    status: int
    content_type: str
    body: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where servers are run, and with which secret.

    Attributes:
        folder: of this benchmark alone.
        key_file, audience: what tokens are verified with.
        environment_of: settings as the environment of a gateway's process.
    """

    folder: Path
    key_file: Path
    audience: str
    environment_of: EnvironmentOf


@dataclass(frozen=True, slots=True)
class Target:
    """Something that answers orders now.

    Attributes:
        pids: of what answers, all its processes.
        redis_pid, client: of its Redis; None where there is none.
        units_taken: asks Redis how many units are sold.
    """

    name: str
    port: int
    pids: tuple[int, ...]
    redis_pid: int | None
    client: "redis.Redis | None"
    units_taken: Callable[[], Awaitable[int]]
    redis: RedisSettings | None = None


def new_place(folder: Path, environment_of: EnvironmentOf) -> Place:
    """Make the folder and a secret in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    key_file = folder / "jwt.key"
    write_private(key_file, secrets.token_urlsafe(48))
    return Place(folder, key_file, "flashgate", environment_of)


def gateway_settings(place: Place, at: RedisSettings) -> Settings:
    """Return the settings of a gateway worker on a private Redis; Kafka and MySQL are not there."""
    return Settings(
        redis=at,
        auth=AuthSettings(key_file=str(place.key_file), audience=place.audience),
        gateway=GatewaySettings(workers=1, outbox_entries_max=OUTBOX_ENTRIES_MAX),
    )


@contextlib.asynccontextmanager
async def private_redis(place: Place, supervisor: Supervisor) -> AsyncIterator[RedisSettings]:
    """Run an empty Redis with the stack's own configuration: every write is on disk before it is answered."""
    home, port = place.folder / "redis-home", free_port()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(mode=0o700)
    await prepare(home, port)
    await supervisor.start([spec(home, port)])
    try:
        yield RedisSettings(port=port)
    finally:
        await supervisor.remove(["redis"])
        shutil.rmtree(home, ignore_errors=True)


@contextlib.asynccontextmanager
async def running(name: str, place: Place, sale: Sale, *, like: AnswerLine | None = None) -> AsyncIterator[Target]:
    """Run a target on an empty Redis with a fresh sale; leaving it leaves no process behind.

    Args:
        name: flashgate or a peer.
        place: where.
        sale: what is on sale.
        like: nginx's constant answer is like this one.

    Raises:
        BenchError: it is not installed, does not start, or died meanwhile.
    """
    died: list[Event] = []
    supervisor = Supervisor(on_event=lambda event: died.append(event) if event.kind == "died" else None)
    try:
        async with contextlib.AsyncExitStack() as opened:
            opened.push_async_callback(supervisor.stop)
            if name == NGINX:
                target = await _start_nginx(place, supervisor, like)
            else:
                at = await opened.enter_async_context(private_redis(place, supervisor))
                client = make_client(at)
                opened.push_async_callback(client.aclose)
                begin = _start_flashgate if name == FLASHGATE else _start_peer
                target = await begin(name, place, supervisor, sale, (at, client))
            yield target
    except (ChildFailed, StackError, OSError) as error:
        raise BenchError(f"{name}: {error}") from error
    if died:
        raise BenchError(f"{name}: {died[0].name} died with code {died[0].code}; see {place.folder}")


def listening_socket() -> socket.socket:
    """Return a listening socket of loopback, as the supervisor of gateway workers makes one."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((LOOPBACK, free_port()))
    listener.listen(4_096)
    listener.setblocking(False)
    return listener


async def start_gateway(place: Place, supervisor: Supervisor, at: RedisSettings, listener: socket.socket) -> int:
    """Start a gateway worker on a socket, wait until it serves; returns its process id."""
    settings = gateway_settings(place, at)
    ready_file = place.folder / "gateway.ready"
    ready_file.unlink(missing_ok=True)
    fd = listener.fileno()
    argv = ("-m", "cli", "gateway", "--number", "1", "--fd", str(fd), "--ready-file", str(ready_file))

    async def ready() -> bool:
        return ready_file.exists()

    child = ChildSpec(
        name="gateway 1",
        argv=(sys.executable, *argv),
        log=place.folder / "gateway.log",
        env={**place.environment_of(settings), "PYTHONPATH": str(PROJECT_ROOT)},
        pass_fds=(fd,),
        ready=ready,
        ready_timeout_s=READY_TIMEOUT_S,
    )
    await supervisor.start([child])
    return _pid(supervisor, child.name)


async def _start_flashgate(
    name: str, place: Place, supervisor: Supervisor, sale: Sale, at: "tuple[RedisSettings, redis.Redis]"
) -> Target:
    where, client = at
    campaign = sale.campaign()
    channel = ScriptChannel(where)
    try:
        await load_campaign(channel, campaign)
        await move_campaign(channel, campaign.id, "open")
        if sale.sold_out:
            await prefill.sell_all(channel, campaign)
    finally:
        await channel.close()

    async def units_taken() -> int:
        snapshot = await read_snapshot(client, campaign.id)
        return sum(line.taken - line.returned for line in snapshot.stock.values()) if snapshot else 0

    with listening_socket() as listener:  # the worker has inherited it
        pid = await start_gateway(place, supervisor, where, listener)
        port = listener.getsockname()[1]
    return Target(name, port, (pid,), _pid(supervisor, "redis"), client, units_taken, where)


async def _start_peer(
    name: str, place: Place, supervisor: Supervisor, sale: Sale, at: "tuple[RedisSettings, redis.Redis]"
) -> Target:
    where, client = at
    stock = f"peer:{{{sale.campaign_id}}}:stock:{sale.sku_id}"
    units = 0 if sale.sold_out else sale.units
    await client.set(stock, units)
    port = free_port()
    if name == GO:
        argv: Sequence[str] = (str(await go_peer.build(place.folder / "go-build.log")), "-script", str(go_peer.SCRIPT))
    else:
        argv = (sys.executable, "-m", "bench.peers.aiohttp_naive")
    told = ("--port", port, "--redis-port", where.port, "--key-file", place.key_file, "--audience", place.audience)
    await supervisor.start([_peer_spec(name, place, (*argv, *map(str, told)), port)])

    async def units_taken() -> int:
        left: Any = await client.get(stock)
        return units - int(left)

    return Target(name, port, (_pid(supervisor, name),), _pid(supervisor, "redis"), client, units_taken, where)


async def _start_nginx(place: Place, supervisor: Supervisor, like: AnswerLine | None) -> Target:
    if like is None:
        raise BenchError("nginx: there is no answer yet that it could imitate")
    port = free_port()
    argv = nginx_peer.prepare(place.folder / "nginx", port, like.content_type, like.body)
    await supervisor.start([_peer_spec(NGINX, place, argv, port)])

    async def none_taken() -> int:
        return 0

    return Target(NGINX, port, with_children(_pid(supervisor, NGINX)), None, None, none_taken)


def _peer_spec(name: str, place: Place, argv: Sequence[str], port: int) -> ChildSpec:
    async def ready() -> bool:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.close()
        return True

    return ChildSpec(
        name=name,
        argv=tuple(argv),
        log=place.folder / f"{name}.log",
        env={"PYTHONPATH": str(PROJECT_ROOT)},
        ready=ready,
        ready_timeout_s=READY_TIMEOUT_S,
    )


def _pid(supervisor: Supervisor, name: str) -> int:
    pid = supervisor.pid(name)
    if pid is None:
        raise BenchError(f"{name} has ended as soon as it was started")
    os.kill(pid, 0)
    return pid
