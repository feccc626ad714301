"""Reading a topic as a whole, outside any consumer group: for recovery and reconciliation."""

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from adapters.kafka import Admin, start_bounded, stop_bounded
from domain.errors import BackendError
from domain.settings import KafkaSettings

RECORDS_AT_ONCE: Final = 5_000
STALL_ROUNDS_MAX: Final = 30
"""Empty rounds of one second each after which a read counts as stalled."""


class TopicRecord(NamedTuple):
    """One record and where it stands."""

    partition: int
    offset: int
    value: bytes | None


class TopicReader:
    """Reads what a topic holds from some point up to its end as of the start."""

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self._settings = settings
        self._topic = topic
        self.end_offsets: dict[int, int] = {}
        """Partition → the offset after the last record read, known once reading has begun."""

    async def read(self, since_ms: int | None = None) -> AsyncIterator[TopicRecord]:
        """Yield the records, those of one partition in order.

        Args:
            since_ms: skip what is older than this timestamp (Unix ms); None reads everything.

        Raises:
            BackendError: Kafka is not there, or stopped giving records before the end.
        """
        consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=self._settings.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=self._settings.request_timeout_ms,
        )
        await start_bounded(consumer, timeout_s=self._settings.client_start_timeout_s)
        try:
            async for record in self._read(consumer, since_ms):
                yield record
        except (KafkaError, OSError) as error:
            raise BackendError(f"Kafka: {self._topic} cannot be read: {type(error).__name__}: {error}") from error
        finally:
            await stop_bounded(consumer)

    async def _read(self, consumer: Any, since_ms: int | None) -> AsyncIterator[TopicRecord]:  # noqa: ANN401
        numbers = await partition_numbers(self._settings, self._topic)
        places = [TopicPartition(self._topic, number) for number in numbers]
        if not places:
            return
        consumer.assign(places)
        starts, ends = await _bounds(consumer, places, since_ms)
        self.end_offsets = {place.partition: ends[place] for place in places}
        for place in places:
            consumer.seek(place, starts[place])
        unread = {place for place in places if starts[place] < ends[place]}
        empty_rounds = 0
        while unread:
            answer = await consumer.getmany(*unread, timeout_ms=1_000, max_records=RECORDS_AT_ONCE)
            empty_rounds = 0 if answer else empty_rounds + 1
            if empty_rounds > STALL_ROUNDS_MAX:
                raise BackendError(f"Kafka: {self._topic} stopped giving records before its end")
            for place, records in answer.items():
                for record in records:
                    if record.offset < ends[place]:
                        yield TopicRecord(place.partition, record.offset, record.value)
            for place in list(unread):
                if await consumer.position(place) >= ends[place]:
                    unread.discard(place)


async def partition_numbers(settings: KafkaSettings, topic: str) -> list[int]:
    """Return a topic's partitions, sorted; none if there is no such topic.

    Raises:
        BackendError: Kafka is not there.
    """
    admin = Admin(settings)
    await start_bounded(admin, timeout_s=settings.client_start_timeout_s)
    try:
        described = await admin.client.describe_topics([topic])
    except (KafkaError, OSError) as error:
        raise BackendError(f"Kafka: topic {topic} cannot be described: {type(error).__name__}: {error}") from error
    finally:
        await stop_bounded(admin)
    return sorted(part["partition"] for one in described for part in one["partitions"])


async def _bounds(consumer: Any, places: list[Any], since_ms: int | None) -> tuple[dict[Any, int], dict[Any, int]]:  # noqa: ANN401
    """Return the offsets to read from and up to, by partition."""
    ends = await consumer.end_offsets(places)
    if since_ms is None:
        return await consumer.beginning_offsets(places), ends
    found = await consumer.offsets_for_times(dict.fromkeys(places, since_ms))
    return {place: ends[place] if found[place] is None else found[place].offset for place in places}, ends


async def committed_offsets(settings: KafkaSettings, topic: str, group: str) -> dict[int, int]:
    """Return partition → next offset that a consumer group will read; partitions never committed are absent.

    Raises:
        BackendError: Kafka is not there.
    """
    admin = Admin(settings)
    await start_bounded(admin, timeout_s=settings.client_start_timeout_s)
    try:
        found = await admin.client.list_consumer_group_offsets(group)
    except (KafkaError, OSError) as error:
        raise BackendError(f"Kafka: offsets of {group}: {type(error).__name__}: {error}") from error
    finally:
        await stop_bounded(admin)
    return {place.partition: meta.offset for place, meta in found.items() if place.topic == topic and meta.offset >= 0}
