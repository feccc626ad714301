"""Where the consumers' parts are put together; nothing else constructs a client."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypedDict

from prometheus_client import REGISTRY

from adapters.kafka import DEAD_RECORD_BYTES_MAX, create_topics, make_consumer, make_producer
from adapters.mysql import Pool, connect_pool, orders_dsn, points_dsn
from adapters.process import run_process, run_until_told
from consumers.award_batch import Award
from consumers.awards import AwardStore, Prepared
from consumers.dead_letters import DeadLetters
from consumers.metrics import ConsumerMetrics, PrometheusConsumerMetrics, forget_dead_processes
from consumers.orders import OrderWriter
from consumers.redemptions import RedemptionWriter
from consumers.saga_driver import SagaDriver
from consumers.saga_metrics import PrometheusSagaMetrics, SagaMetrics
from consumers.writer import STALL_AFTER_S, Writer
from domain.draw_events import TOPIC_DRAWS_WON
from domain.events import TOPIC_ORDERS_ACCEPTED, TOPIC_POINTS_AWARDED, dead_topic
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED
from domain.settings import Dsn, Settings

ORDERS: Final = "orders"
"""The name of the writer of accepted orders: its group is `<consumer.group>.orders`."""
POINTS: Final = "points"
"""The name of the writer of awards."""
DRAWS: Final = "draws"
"""The name of the writer of prizes that were won."""
REDEMPTIONS: Final = "redemptions"
"""The name of those who carry redemptions through."""
DRAWS_TOPICS: Final = (TOPIC_DRAWS_WON, dead_topic(TOPIC_DRAWS_WON))
POINTS_TOPICS: Final = (TOPIC_POINTS_AWARDED, dead_topic(TOPIC_POINTS_AWARDED))
REDEMPTIONS_TOPICS: Final = (TOPIC_REDEMPTIONS_ACCEPTED, dead_topic(TOPIC_REDEMPTIONS_ACCEPTED))

AwardWriter = Writer[Award, Prepared]


def group_of(settings: Settings, name: str) -> str:
    """Return the consumer group of the writers of a name."""
    return f"{settings.consumer.group}.{name}"


def orders_group(settings: Settings) -> str:
    """Return the consumer group of the writers of accepted orders."""
    return group_of(settings, ORDERS)


def groups(settings: Settings) -> dict[str, str]:
    """Return topic → the consumer group that takes it."""
    return {
        TOPIC_ORDERS_ACCEPTED: group_of(settings, ORDERS),
        TOPIC_DRAWS_WON: group_of(settings, DRAWS),
        TOPIC_POINTS_AWARDED: group_of(settings, POINTS),
        TOPIC_REDEMPTIONS_ACCEPTED: group_of(settings, REDEMPTIONS),
    }


class _Parts(TypedDict):
    make_consumer: Callable[[], Any]
    dead_letters: DeadLetters
    metrics: ConsumerMetrics
    stall_after_s: float


def _parts(settings: Settings, name: str, topic: str, metrics: ConsumerMetrics, stall_after_s: float) -> _Parts:
    """Return what every writer needs besides its store."""
    return {
        "make_consumer": functools.partial(
            make_consumer,
            settings.kafka,
            [topic],
            group=group_of(settings, name),
            session_timeout_ms=settings.consumer.session_timeout_ms,
        ),
        "dead_letters": _dead_letters(settings, topic),
        "metrics": metrics,
        "stall_after_s": stall_after_s,
    }


def _dead_letters(settings: Settings, topic: str) -> DeadLetters:
    return DeadLetters(
        functools.partial(make_producer, settings.kafka, max_request_bytes=DEAD_RECORD_BYTES_MAX),
        dead_topic(topic),
        timeout_s=settings.kafka.client_start_timeout_s,
        now_ms=lambda: time.time_ns() // 1_000_000,
    )


def make_order_writer(
    settings: Settings,
    pool: Pool,
    *,
    topic: str,
    metrics: ConsumerMetrics,
    stall_after_s: float = STALL_AFTER_S,
) -> OrderWriter:
    """Return a writer of accepted orders that is not connected yet."""
    return OrderWriter(settings, pool=pool, **_parts(settings, ORDERS, topic, metrics, stall_after_s))


def make_prize_writer(
    settings: Settings,
    pool: Pool,
    *,
    topic: str,
    metrics: ConsumerMetrics,
    stall_after_s: float = STALL_AFTER_S,
) -> OrderWriter:
    """Return a writer of the orders that deliver prizes that is not connected yet."""
    return OrderWriter(settings, pool=pool, prizes=True, **_parts(settings, DRAWS, topic, metrics, stall_after_s))


def make_award_writer(
    settings: Settings,
    pool: Pool,
    *,
    topic: str,
    metrics: ConsumerMetrics,
    stall_after_s: float = STALL_AFTER_S,
) -> AwardWriter:
    """Return a writer of awards that is not connected yet; `pool` is the database fg_points."""
    return Writer(settings, store=AwardStore(pool), **_parts(settings, POINTS, topic, metrics, stall_after_s))


def make_redemption_writer(
    settings: Settings,
    pool: Pool,
    *,
    topic: str,
    metrics: ConsumerMetrics,
    stored: Callable[[], None],
    stall_after_s: float = STALL_AFTER_S,
) -> RedemptionWriter:
    """Return a writer of accepted redemptions that is not connected yet; `stored` is called when sagas are due."""
    parts = _parts(settings, REDEMPTIONS, topic, metrics, stall_after_s)
    return RedemptionWriter(settings, pool=pool, stored=stored, **parts)


def make_saga_driver(settings: Settings, orders: Pool, points: Pool, *, topic: str, metrics: SagaMetrics) -> SagaDriver:
    """Return a driver of sagas that is not connected yet."""
    letters = _dead_letters(settings, topic)
    return SagaDriver(settings.saga, orders=orders, points=points, dead_letters=letters, metrics=metrics, topic=topic)


async def _run(
    settings: Settings, dsn: Dsn, topic: str, make: Callable[[Pool], Writer[Any, Any]], stop: asyncio.Event
) -> None:
    await create_topics(settings.kafka, [topic, dead_topic(topic)])
    pool = connect_pool(dsn, settings.mysql)
    writer = make(pool)
    try:
        await run_until_told(writer.run(), writer.stop, stop)
    finally:
        await pool.close()


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
    told = metrics if metrics is not None else PrometheusConsumerMetrics(REGISTRY, ORDERS)
    make = functools.partial(make_order_writer, settings, topic=topic, metrics=told, stall_after_s=stall_after_s)
    await _run(settings, orders_dsn(settings.mysql), topic, make, stop)


async def run_draws(
    settings: Settings,
    *,
    stop: asyncio.Event,
    topic: str = TOPIC_DRAWS_WON,
    metrics: ConsumerMetrics | None = None,
) -> None:
    """Run the writer of prizes until `stop` is set; errors as of `run_orders`."""
    told = metrics if metrics is not None else PrometheusConsumerMetrics(REGISTRY, DRAWS)
    make = functools.partial(make_prize_writer, settings, topic=topic, metrics=told)
    await _run(settings, orders_dsn(settings.mysql), topic, make, stop)


async def run_points(
    settings: Settings,
    *,
    stop: asyncio.Event,
    topic: str = TOPIC_POINTS_AWARDED,
    metrics: ConsumerMetrics | None = None,
) -> None:
    """Run the writer of awards until `stop` is set; errors as of `run_orders`."""
    told = metrics if metrics is not None else PrometheusConsumerMetrics(REGISTRY, POINTS)
    make = functools.partial(make_award_writer, settings, topic=topic, metrics=told)
    await _run(settings, points_dsn(settings.mysql), topic, make, stop)


async def run_redemptions(
    settings: Settings,
    *,
    stop: asyncio.Event,
    topic: str = TOPIC_REDEMPTIONS_ACCEPTED,
    metrics: ConsumerMetrics | None = None,
    saga_metrics: SagaMetrics | None = None,
) -> None:
    """Take accepted redemptions in, and carry their sagas through, until `stop` is set; errors as of `run_orders`."""
    told = metrics if metrics is not None else PrometheusConsumerMetrics(REGISTRY, REDEMPTIONS)
    saga_told = saga_metrics if saga_metrics is not None else PrometheusSagaMetrics(REGISTRY)
    await create_topics(settings.kafka, [topic, dead_topic(topic)])
    orders = connect_pool(orders_dsn(settings.mysql), settings.mysql)
    points = connect_pool(points_dsn(settings.mysql), settings.mysql)
    driver = make_saga_driver(settings, orders, points, topic=topic, metrics=saga_told)
    writer = make_redemption_writer(settings, orders, topic=topic, metrics=told, stored=driver.nudge)
    over = asyncio.Event()

    async def work(one: "SagaDriver | RedemptionWriter") -> None:
        try:
            await run_until_told(one.run(), one.stop, over)
        finally:
            over.set()  # neither goes on without the other

    try:
        await run_until_told(_both(work(driver), work(writer)), over.set, stop)
    finally:
        await driver.close()
        await points.close()
        await orders.close()


async def _both(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Wait for both; raises what the first of them died of."""
    for result in await asyncio.gather(one, other, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def main_orders(settings: Settings, *, topic: str = TOPIC_ORDERS_ACCEPTED) -> None:
    """Run the writer of accepted orders as this process, until SIGTERM or SIGINT."""
    forget_dead_processes()
    run_process(f"consumer {ORDERS}", lambda stop: run_orders(settings, stop=stop, topic=topic))


def main_draws(settings: Settings, *, topic: str = TOPIC_DRAWS_WON) -> None:
    """Run the writer of prizes as this process, until SIGTERM or SIGINT."""
    forget_dead_processes()
    run_process(f"consumer {DRAWS}", lambda stop: run_draws(settings, stop=stop, topic=topic))


def main_points(settings: Settings, *, topic: str = TOPIC_POINTS_AWARDED) -> None:
    """Run the writer of awards as this process, until SIGTERM or SIGINT."""
    forget_dead_processes()
    run_process(f"consumer {POINTS}", lambda stop: run_points(settings, stop=stop, topic=topic))


def main_redemptions(settings: Settings, *, topic: str = TOPIC_REDEMPTIONS_ACCEPTED) -> None:
    """Carry redemptions through as this process, until SIGTERM or SIGINT."""
    forget_dead_processes()
    run_process(f"consumer {REDEMPTIONS}", lambda stop: run_redemptions(settings, stop=stop, topic=topic))
