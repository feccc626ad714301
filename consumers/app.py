"""Where the consumers' parts are put together; nothing else constructs a client."""

import asyncio
import functools
import time
from typing import Final

from prometheus_client import REGISTRY

from adapters.kafka import DEAD_RECORD_BYTES_MAX, create_topics, make_consumer, make_producer
from adapters.mysql import Pool, connect_pool, orders_dsn
from adapters.process import run_process, run_until_told
from consumers.dead_letters import DeadLetters
from consumers.metrics import ConsumerMetrics, PrometheusConsumerMetrics, forget_dead_processes
from consumers.orders import STALL_AFTER_S, OrderWriter
from domain.events import TOPIC_ORDERS_ACCEPTED, dead_topic
from domain.settings import Settings

ORDERS: Final = "orders"
"""The writer's name: its group is `<consumer.group>.orders`."""


def orders_group(settings: Settings) -> str:
    """Return the consumer group of the writers of accepted orders."""
    return f"{settings.consumer.group}.{ORDERS}"


def make_order_writer(
    settings: Settings,
    pool: Pool,
    *,
    topic: str,
    metrics: ConsumerMetrics,
    stall_after_s: float = STALL_AFTER_S,
) -> OrderWriter:
    """Return a writer of accepted orders that is not connected yet."""
    return OrderWriter(
        settings,
        pool=pool,
        make_consumer=functools.partial(
            make_consumer,
            settings.kafka,
            [topic],
            group=orders_group(settings),
            session_timeout_ms=settings.consumer.session_timeout_ms,
        ),
        dead_letters=DeadLetters(
            functools.partial(make_producer, settings.kafka, max_request_bytes=DEAD_RECORD_BYTES_MAX),
            dead_topic(topic),
            timeout_s=settings.kafka.client_start_timeout_s,
            now_ms=lambda: time.time_ns() // 1_000_000,
        ),
        metrics=metrics,
        stall_after_s=stall_after_s,
    )


async def run_orders(
    settings: Settings,
    *,
    stop: asyncio.Event,
    topic: str = TOPIC_ORDERS_ACCEPTED,
    metrics: ConsumerMetrics | None = None,
    stall_after_s: float = STALL_AFTER_S,
) -> None:
    """Run the writer of accepted orders until `stop` is set.

    Raises:
        ConfigError: the settings contradict themselves.
        BackendError: Kafka cannot be reached at the start.
    """
    dsn = orders_dsn(settings.mysql)
    await create_topics(settings.kafka, [topic, dead_topic(topic)])
    pool = connect_pool(dsn, settings.mysql)
    writer = make_order_writer(
        settings,
        pool,
        topic=topic,
        metrics=metrics if metrics is not None else PrometheusConsumerMetrics(REGISTRY, ORDERS),
        stall_after_s=stall_after_s,
    )
    try:
        await run_until_told(writer.run(), writer.stop, stop)
    finally:
        await pool.close()


def main_orders(settings: Settings, *, topic: str = TOPIC_ORDERS_ACCEPTED) -> None:
    """Run the writer as this process, until SIGTERM or SIGINT."""
    forget_dead_processes()
    run_process(f"consumer {ORDERS}", lambda stop: run_orders(settings, stop=stop, topic=topic))
