"""Where the gateway's parts are wired together; nothing else in `gateway/` constructs a client."""

import asyncio
import contextlib
import functools
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from aiohttp import web

from adapters.draws import DrawReply, DrawRequest, draw
from adapters.kafka import create_topics
from adapters.kafka_reader import TopicReader
from adapters.mysql import catalog_dsn, connect_pool, orders_dsn, points_dsn
from adapters.points import read_balances
from adapters.process import run_process, run_until_told
from adapters.redis import ANSWERS_LOST, ScriptChannel, make_client
from adapters.stock import (
    Attempt,
    BatchReply,
    OrderRequest,
    admit,
    attempts_or_error,
    list_campaigns,
    read_gates,
    read_kind,
    read_lines,
    read_sure_attempts,
)
from adapters.tasks import end_tasks
from domain import keys
from domain.draw_events import TOPIC_DRAWS_LOG, TOPIC_DRAWS_WON
from domain.errors import BackendError, ConfigError, PoisonRecordError
from domain.events import TOPIC_ORDERS_ACCEPTED, TOPIC_POINTS_AWARDED, dead_topic
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED
from domain.settings import Settings
from gateway.calls import BuyerCalls
from gateway.campaigns import Campaigns
from gateway.door import Door
from gateway.draw_recovery import LotteryRecovery
from gateway.draws import DrawDesk
from gateway.http import BuyerPlane
from gateway.identity import Verifier
from gateway.life_calls import LifeCalls, Payments
from gateway.metrics import GatewayMetrics, LifeMetrics, RelayMetrics
from gateway.ops import serve_ops
from gateway.ops_outbound import OutboundCalls
from gateway.order_status import StatusDesk
from gateway.order_stream import OrderStreams
from gateway.order_table import OrderTable
from gateway.orders import OrderDesk
from gateway.outbox_source import OutboxSource
from gateway.own_process import allow_connections, quieten_collector
from gateway.points import PointsDesk
from gateway.publisher import KafkaPublisher
from gateway.recovery import Recovery
from gateway.recovery_sources import RecoverySources
from gateway.redemptions import Looks, RedemptionDesk
from gateway.relay import Relay
from gateway.watermarks import Watermarks
from lifecycle.http_provider import HttpProvider
from lifecycle.payment_key import read_payment_key
from lifecycle.payments import PaymentDesk
from warehouse.app import open_outbound

log = logging.getLogger(__name__)

METRICS_EVERY_S: Final = 0.5
SHUTDOWN_S: Final = 1.0
"""For aiohttp's own handlers, once all connections have ended."""


def listening_socket(host: str, port: int, backlog: int) -> socket.socket:
    """Return a listening socket of a group that shares one port (SO_REUSEPORT); port 0 picks a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.listen(backlog)
    listener.setblocking(False)
    return listener


def read_key(settings: Settings) -> bytes:
    """Return the key that tokens are verified with.

    Raises:
        ConfigError: none is configured, or the file cannot be read.
    """
    if not settings.auth.key_file:
        raise ConfigError("auth.key_file: name the file with the key that buyers' tokens are verified with")
    try:
        return Path(settings.auth.key_file).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"auth.key_file: {error.strerror}: {settings.auth.key_file}") from None


class GatewayWorker:
    """One gateway process: the buyer plane on one socket."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        gateway = settings.gateway
        self._client = make_client(settings.redis)
        self._listener = make_client(settings.redis, connections_max=2, block_ms=gateway.snapshot_poll_ms)
        self._channels: dict[str, ScriptChannel] = {}
        self._guards = ScriptChannel(settings.redis)
        self._orders = connect_pool(orders_dsn(settings.mysql), settings.mysql)
        # Who cancels may wait for a lock; who asks where an order stands must not wait behind that.
        self._changes = connect_pool(orders_dsn(settings.mysql), settings.mysql)
        self._points = connect_pool(points_dsn(settings.mysql), settings.mysql)
        # Who spends points must not wait behind those who look at theirs.
        self._balances = connect_pool(points_dsn(settings.mysql), settings.mysql)
        self._provider: HttpProvider | None = None
        self._metrics = GatewayMetrics()
        self._life_metrics = LifeMetrics()
        self._watermarks = Watermarks(gateway.answer_timeout_s)
        self.campaigns = Campaigns(
            self._client, self._listener, self._watermarks.advance, poll_s=gateway.snapshot_poll_ms / 1000
        )
        self.desk = OrderDesk(
            gateway,
            Verifier(settings.auth, read_key(settings)),
            self.campaigns,
            self._watermarks,
            self._admit,
            self._metrics,
        )
        table = OrderTable(self._orders, timeout_s=gateway.answer_timeout_s)
        status = StatusDesk(
            table.find_rows,
            self._find_attempts,
            batch_max=gateway.batch_max,
            inflight_max=gateway.inflight_max,
            answer_timeout_s=gateway.answer_timeout_s,
        )
        draws = DrawDesk(gateway, self.desk, self.campaigns, self._watermarks, self._draw, self._metrics)
        self.redemptions = RedemptionDesk(gateway, self.desk, self._looks(), self._metrics)
        calls = BuyerCalls(self.desk, draws, self.campaigns, status, self.redemptions)
        self.streams = OrderStreams(gateway, table, told=self._life_metrics.events)
        life = LifeCalls(
            settings,
            identify=self.desk.identify,
            pool=self._changes,
            find_attempts=self._find_attempts,
            status=status,
            streams=self.streams,
            payments=self._payments(),
            metrics=self._life_metrics,
        )
        points = PointsDesk(self.desk.identify, self._points, answer_timeout_s=gateway.answer_timeout_s)
        plane = BuyerPlane(gateway, calls, life, points, missing=self._missing)
        self._aiohttp = web.AppRunner(plane.application(), access_log=None, shutdown_timeout=SHUTDOWN_S)
        self.door = Door(gateway, calls, self._aiohttp)
        self._tasks: list[asyncio.Task[None]] = []

    def _looks(self) -> Looks:
        """Return how redemptions are checked."""
        return Looks(
            gates=functools.partial(read_gates, self._client),
            lines=functools.partial(read_lines, self._client),
            balances=functools.partial(read_balances, self._balances, timeout_s=self.settings.gateway.check_timeout_s),
            attempts=functools.partial(read_sure_attempts, self._client),
        )

    def _payments(self) -> Payments | None:
        """Return what takes payments, None if no provider is configured; it connects when it is first used."""
        settings = self.settings
        if not settings.payment.key_file:
            return None
        key = read_payment_key(settings)
        self._provider = HttpProvider(settings.payment, key)
        desk = PaymentDesk(
            self._changes,
            self._guards,
            self._provider,
            settings.payment,
            settings.lifecycle,
            settings.guard,
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        return Payments(desk, key)

    async def start(self, listener: socket.socket) -> None:
        """Begin to serve. Redis need not be there yet; `/readyz` tells."""
        with contextlib.suppress(BackendError, PoisonRecordError):
            await self.campaigns.refresh_all()
        self._tasks = [
            asyncio.create_task(self.campaigns.run_polling()),
            asyncio.create_task(self.campaigns.run_listening()),
            asyncio.create_task(self.campaigns.run_following()),
            asyncio.create_task(self._tell_metrics()),
            asyncio.create_task(self.door.run_sweeping()),
            asyncio.create_task(self.streams.run()),
        ]
        await self._aiohttp.setup()
        await self.door.open(listener)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until told to stop.

        Raises:
            Exception: a background task died of something unforeseen; the supervisor starts the worker afresh.
        """
        told = asyncio.create_task(stopping.wait())
        done, _ = await asyncio.wait([told, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        for task in done - {told}:
            task.result()

    async def stop(self) -> None:
        """Take nothing new in, answer what was taken in, close everything."""
        self.streams.close()
        await self.door.close()
        await self._aiohttp.cleanup()
        await end_tasks(self._tasks)
        self._metrics.tell()
        for channel in (self._guards, *self._channels.values()):
            await channel.close()
        await self._client.aclose()
        await self._listener.aclose()
        if self._provider is not None:
            await self._provider.close()
        await self._orders.close()
        await self._changes.close()
        await self._points.close()
        await self._balances.close()

    def _channel(self, campaign_id: str) -> ScriptChannel:
        channel = self._channels.get(campaign_id)
        if channel is None:
            channel = self._channels[campaign_id] = ScriptChannel(self.settings.redis)
        return channel

    async def _draw(self, campaign_id: str, draws: list[DrawRequest]) -> DrawReply:
        return await draw(
            self._channel(campaign_id), campaign_id, draws, outbox_max=self.settings.gateway.outbox_entries_max
        )

    async def _admit(self, campaign_id: str, orders: list[OrderRequest]) -> BatchReply:
        return await admit(
            self._channel(campaign_id),
            campaign_id,
            orders,
            attempts_max=self.settings.gateway.attempts_per_buyer_max,
            outbox_max=self.settings.gateway.outbox_entries_max,
        )

    async def _find_attempts(self, buyers: Sequence[tuple[str, str]]) -> list[list[Attempt] | PoisonRecordError]:
        try:
            packed: list[Any] = await self._client.mget([keys.buyer(*buyer) for buyer in buyers])
        except ANSWERS_LOST as error:
            raise BackendError(f"Redis: {error}") from error
        return [attempts_or_error(one) for one in packed]

    async def _missing(self) -> dict[str, str]:
        """Return what an order needs and is not there."""
        try:
            info: Any = await self._client.info("server")
        except ANSWERS_LOST as error:
            return {"redis": str(error) or type(error).__name__}
        closed = sorted(view.id for view in self.campaigns.views.values() if view.run_id != info["run_id"])
        return {"recovery": f"closed until recovery is done: {', '.join(closed)}"} if closed else {}

    async def _tell_metrics(self) -> None:
        while True:
            self._metrics.waiting(self.desk.waiting)
            self._metrics.tell()
            self._life_metrics.listeners(self.streams.listeners)
            self._metrics.connections(self.door.open_connections, self.door.take_turned_away())
            await asyncio.sleep(METRICS_EVERY_S)


def make_relay(settings: Settings) -> tuple[Relay, Callable[[], Awaitable[None]]]:
    """Return a relay with its parts, and what closes them."""
    channel = ScriptChannel(settings.redis)
    client = make_client(settings.redis)
    blocking = make_client(settings.redis, connections_max=2, block_ms=settings.relay.block_ms)
    orders = connect_pool(orders_dsn(settings.mysql), settings.mysql)
    catalog = connect_pool(catalog_dsn(settings.mysql), settings.mysql)
    sources = RecoverySources(
        functools.partial(TopicReader, settings.kafka),
        functools.partial(read_kind, client),
        orders,
        catalog,
    )
    metrics = RelayMetrics()
    publisher = KafkaPublisher(settings.kafka, metrics.recreated)

    async def close() -> None:
        await channel.close()
        await client.aclose()
        await blocking.aclose()
        await orders.close()
        await catalog.close()

    relay = Relay(
        settings.relay,
        lambda nonce: OutboxSource(channel, blocking, nonce),
        publisher,
        lambda: list_campaigns(client),
        Recovery(channel, client, sources, LotteryRecovery(channel, client, sources, publisher.publish)),
        metrics,
    )
    return relay, close


RELAY_TOPICS: Final = (
    TOPIC_ORDERS_ACCEPTED,
    dead_topic(TOPIC_ORDERS_ACCEPTED),
    TOPIC_DRAWS_WON,
    TOPIC_DRAWS_LOG,
    TOPIC_POINTS_AWARDED,
    TOPIC_REDEMPTIONS_ACCEPTED,
    dead_topic(TOPIC_REDEMPTIONS_ACCEPTED),
)


def run_gateway(
    settings: Settings,
    *,
    number: int = 1,
    fd: int | None = None,
    with_ops: bool = False,
    ready_file: Path | None = None,
) -> None:
    """Run one gateway worker.

    Args:
        settings: all settings.
        number: for its title.
        fd: an inherited listening socket; without one it listens by itself.
        with_ops: serve the ops plane, too.
        ready_file: made once the worker serves.
    """

    async def main(stopping: asyncio.Event) -> None:
        gateway = settings.gateway
        allow_connections(gateway.connections_max)
        listener = (
            socket.socket(fileno=fd)
            if fd is not None
            else listening_socket(gateway.host, gateway.port, gateway.backlog)
        )
        worker = GatewayWorker(settings)
        await worker.start(listener)
        address = listener.getsockname()
        log.info("%s", orjson.dumps({"listening": f"http://{address[0]}:{address[1]}"}).decode())
        quieten_collector()
        if ready_file is not None:
            ready_file.touch()  # noqa: ASYNC240 -- once, before anything is served
        async with open_ops(settings) if with_ops else contextlib.nullcontext():
            try:
                await worker.run(stopping)
            finally:
                await worker.stop()

    run_process(f"gateway {number}", main)


def run_relay(settings: Settings) -> None:
    """Run one relay."""

    async def main(stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await create_topics(settings.kafka, RELAY_TOPICS)
                break
            except BackendError as error:
                log.warning("relay: %s", error)
                await asyncio.sleep(settings.relay.retry_initial_s)
        relay, close = make_relay(settings)
        try:
            await run_until_told(relay.run(), relay.stop, stopping)
        finally:
            await close()

    run_process("relay", main)


@contextlib.asynccontextmanager
async def open_ops(settings: Settings) -> AsyncIterator[None]:
    """Serve the ops plane, with clients of its own, which connect when they are first used.

    Raises:
        ConfigError: no token, or a DSN that is none.
        OSError: the port is taken.
    """
    async with open_outbound(settings) as desk:
        runner = await serve_ops(settings.ops, OutboundCalls(desk).routes())
        try:
            yield
        finally:
            await runner.cleanup()


def run_ops(settings: Settings) -> None:
    """Run the ops plane as a process of its own, for all processes that share its folder of counts."""

    async def main(stopping: asyncio.Event) -> None:
        async with open_ops(settings):
            await stopping.wait()

    run_process("ops", main)
