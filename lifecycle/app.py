"""Where the lifecycle process's parts are put together; nothing else in `lifecycle/` constructs a client."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator
from typing import Final

from prometheus_client import REGISTRY

from adapters.kafka import create_topics, make_producer
from adapters.kafka_sender import KafkaSender
from adapters.mysql import connect_pool, orders_dsn, points_dsn
from adapters.process import run_process, run_until_told
from adapters.redis import ScriptChannel
from adapters.rounds import RoundsMetrics
from domain.events import TOPIC_ORDERS_EVENTS, dead_topic
from domain.settings import Settings
from lifecycle.http_provider import HttpProvider
from lifecycle.keeper import Keeper
from lifecycle.metrics import PrometheusKeeperMetrics
from lifecycle.payment_key import read_payment_key
from lifecycle.payments import PaymentDesk
from lifecycle.point_refunds import PointRefunds

LIFECYCLE_TOPICS: Final = (TOPIC_ORDERS_EVENTS, dead_topic(TOPIC_ORDERS_EVENTS))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextlib.asynccontextmanager
async def open_keeper(settings: Settings, metrics: RoundsMetrics) -> AsyncIterator[Keeper]:
    """Yield a keeper with its clients, and close them.

    Without `payment.key_file` no provider is asked: orders expire and are given back all the same, and so are points.

    Raises:
        ConfigError: the settings contradict themselves.
    """
    pool = connect_pool(orders_dsn(settings.mysql), settings.mysql)
    points = connect_pool(points_dsn(settings.mysql), settings.mysql)
    channel = ScriptChannel(settings.redis)
    sender = KafkaSender(
        functools.partial(make_producer, settings.kafka),
        timeout_s=settings.kafka.client_start_timeout_s,
        prepare=lambda: create_topics(settings.kafka, LIFECYCLE_TOPICS),
    )
    provider = HttpProvider(settings.payment, read_payment_key(settings)) if settings.payment.key_file else None
    desk = (
        PaymentDesk(pool, channel, provider, settings.payment, settings.lifecycle, settings.guard, now_ms=_now_ms)
        if provider is not None
        else None
    )
    try:
        yield Keeper(
            settings.lifecycle,
            pool=pool,
            channel=channel,
            sender=sender,
            desk=desk,
            point_refunds=PointRefunds(settings.lifecycle, orders=pool, points=points, metrics=metrics, now_ms=_now_ms),
            metrics=metrics,
            now_ms=_now_ms,
        )
    finally:
        await sender.close()
        await channel.close()
        if provider is not None:
            await provider.close()
        await points.close()
        await pool.close()


async def run_lifecycle(settings: Settings, *, stop: asyncio.Event) -> None:
    """Run the keeper until `stop` is set.

    Raises:
        ConfigError: the settings contradict themselves.
    """
    async with open_keeper(settings, PrometheusKeeperMetrics(REGISTRY)) as keeper:
        await run_until_told(keeper.run(), keeper.stop, stop)


def main_lifecycle(settings: Settings) -> None:
    """Run the keeper as this process, until SIGTERM or SIGINT."""
    run_process("lifecycle", lambda stop: run_lifecycle(settings, stop=stop))
