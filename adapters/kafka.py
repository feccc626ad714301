"""Kafka clients with settings that are safe for orders, and with every start and stop bounded in time."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from domain.errors import BackendError
from domain.events import DEAD_SUFFIX
from domain.settings import KafkaSettings

STOP_TIMEOUT_S: Final = 5.0
DEAD_RECORD_BYTES_MAX: Final = 2 * 1024 * 1024
"""A dead letter is its record and some headers, so it may be larger than any record."""
FETCH_BYTES_MAX: Final = 16 * 1024 * 1024
"""What a consumer asks a broker for at once."""
PARTITION_FETCH_BYTES_MAX: Final = 1024 * 1024
"""What it keeps in memory of each partition, however much waits; a single record may be larger."""
POLL_INTERVAL_MAX_MS: Final = 300_000
"""A consumer that does not poll for so long leaves its group."""

_log = logging.getLogger(__name__)


class Client(Protocol):
    """What producers, consumers and (through `Admin`) admin clients have in common."""

    async def start(self) -> None:
        """Connect."""

    async def stop(self) -> None:
        """Flush and disconnect; may hang."""


class Admin:
    """An admin client with the same life as the others."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.client = AIOKafkaAdminClient(
            bootstrap_servers=settings.bootstrap,
            request_timeout_ms=settings.request_timeout_ms,
        )

    async def start(self) -> None:
        """Connect."""
        await self.client.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self.client.close()


def make_producer(settings: KafkaSettings, *, linger_ms: int = 0, max_request_bytes: int = 1_048_576) -> Any:  # noqa: ANN401
    """Return an idempotent producer that waits for all in-sync replicas, not yet started."""
    return AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=linger_ms,
        max_request_size=max_request_bytes,
        request_timeout_ms=settings.request_timeout_ms,
    )


def make_consumer(
    settings: KafkaSettings,
    topics: Iterable[str],
    *,
    group: str,
    session_timeout_ms: int,
    poll_interval_max_ms: int = POLL_INTERVAL_MAX_MS,
) -> Any:  # noqa: ANN401
    """Return a consumer that starts at the earliest record and commits only when told to, not yet started."""
    return AIOKafkaConsumer(
        *topics,
        bootstrap_servers=settings.bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_bytes=FETCH_BYTES_MAX,
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES_MAX,
        max_poll_interval_ms=poll_interval_max_ms,
        session_timeout_ms=session_timeout_ms,
        heartbeat_interval_ms=max(1, min(3_000, session_timeout_ms // 3)),
        # Joining takes as long as a dead member of the group is waited for. Giving up sooner would leave one more
        # dead member behind each time, and the group would never form.
        request_timeout_ms=session_timeout_ms + settings.request_timeout_ms,
    )


async def start_bounded(client: Client, *, timeout_s: float) -> None:
    """Start a client; one that does not start is stopped again.

    Raises:
        BackendError: Kafka did not answer as it should, or not in time.
    """
    try:
        async with asyncio.timeout(timeout_s):
            await client.start()
    except BaseException as error:
        await stop_bounded(client)
        if isinstance(error, KafkaError | OSError):  # TimeoutError is an OSError
            raise BackendError(f"Kafka: {type(error).__name__}: {error}") from error
        raise


async def stop_bounded(client: Client, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stop a client, giving up after `timeout_s` seconds; False: it did not stop cleanly and was abandoned."""
    stopping = asyncio.ensure_future(client.stop())
    try:
        done, _ = await asyncio.wait([stopping], timeout=timeout_s)
    finally:
        if not stopping.done():
            stopping.cancel()
    if not done:
        _log.warning("%s did not stop within %.1f s and is abandoned", type(client).__name__, timeout_s)
        return False
    error = stopping.exception()
    if error is not None:
        _log.warning("%s did not stop cleanly: %r", type(client).__name__, error)
    return error is None


async def ensure_topics(admin: Admin, names: Iterable[str], settings: KafkaSettings) -> list[str]:
    """Create the topics that are missing, which keep their records for ever; return those created.

    Raises:
        BackendError: a topic is missing and could not be created.
    """
    wanted = list(dict.fromkeys(names))  # Kafka refuses a name that is asked for twice
    try:
        async with asyncio.timeout(settings.client_start_timeout_s):
            present = set(await admin.client.list_topics())
            missing = [name for name in wanted if name not in present]
            if not missing:
                return []
            answer = await admin.client.create_topics([_new_topic(name, settings) for name in missing])
    except (KafkaError, OSError) as error:
        raise BackendError(f"Kafka: topics cannot be created: {type(error).__name__}: {error}") from error
    created = []
    for name, code, *rest in answer.topic_errors:
        kind = for_code(code)
        if code == 0:
            created.append(name)
        elif kind is not TopicAlreadyExistsError:  # another process was quicker
            raise BackendError(f"Kafka: topic {name} cannot be created: {kind.__name__}: {rest[0] if rest else ''}")
    return created


async def create_topics(settings: KafkaSettings, names: Iterable[str]) -> list[str]:
    """Create the topics that are missing, on a client of its own; return those created.

    Raises:
        BackendError: Kafka is not there, or a topic could not be created.
    """
    admin = Admin(settings)
    await start_bounded(admin, timeout_s=settings.client_start_timeout_s)
    try:
        return await ensure_topics(admin, names, settings)
    finally:
        await stop_bounded(admin)


def _new_topic(name: str, settings: KafkaSettings) -> NewTopic:
    configs = {"retention.ms": "-1", "retention.bytes": "-1"}
    if settings.replication_factor > 1:
        configs["min.insync.replicas"] = str(max(1, settings.replication_factor - 1))
    if name.endswith(DEAD_SUFFIX):
        configs["max.message.bytes"] = str(DEAD_RECORD_BYTES_MAX)
    return NewTopic(name, settings.partitions, settings.replication_factor, topic_configs=configs)
