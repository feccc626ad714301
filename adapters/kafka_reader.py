"""Reading topics outside any consumer group: as a whole for recovery and reconciliation, in pieces for operators."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaError,
    NotCoordinatorForGroupError,
)
from aiokafka.partitioner import DefaultPartitioner

from adapters.kafka import Admin, start_bounded, stop_bounded
from domain.errors import BackendError
from domain.settings import KafkaSettings

RECORDS_AT_ONCE: Final = 5_000
STALL_ROUNDS_MAX: Final = 30
"""Empty rounds of one second each after which a read counts as stalled."""

COORDINATOR_PAUSE_S: Final = 0.2
COORDINATOR_ERRORS: Final = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)
SEEK_IDLE_MS: Final = 20
"""Who jumps about in a topic must wait for the fetch under way before the next one: it may not lie idle for long."""


class TopicRecord(NamedTuple):
    """One record and where it stands."""

    partition: int
    offset: int
    value: bytes | None


class FullRecord(NamedTuple):
    """One record with all that it has."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """As its producer set it, Unix milliseconds."""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Span(NamedTuple):
    """A piece of a partition: offsets from `start` up to, and without, `end`."""

    start: int
    end: int

    def newest(self, records_max: int) -> "Span":
        """Return the last part of it."""
        return Span(max(self.start, self.end - records_max), self.end)


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
        consumer = await _started_consumer(self._settings)
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
        async for record in _records(consumer, starts, ends):
            yield TopicRecord(record.partition, record.offset, record.value)


class RecordReader:
    """Reads chosen pieces of topics on one connection; `open_reader` makes one. For one task at a time."""

    def __init__(self, settings: KafkaSettings, consumer: Any) -> None:  # noqa: ANN401 -- aiokafka has no types
        self._settings = settings
        self._consumer = consumer
        self._numbers: dict[str, list[int]] = {}

    async def partitions(self, topic: str) -> list[int]:
        """Return a topic's partitions, sorted; none if there is no such topic, which is not created by asking.

        Raises:
            BackendError: Kafka is not there.
        """
        if topic not in self._numbers:
            self._numbers.update(await _existing(self._settings, [topic]))
        return self._numbers.get(topic, [])

    async def partition_of(self, topic: str, key: bytes) -> int | None:
        """Return where a producer puts records with this key; None if there is no such topic.

        Raises:
            BackendError: Kafka is not there.
        """
        numbers = await self.partitions(topic)
        return int(DefaultPartitioner()(key, numbers, numbers)) if numbers else None

    async def spans(self, topic: str) -> dict[int, Span]:
        """Return partition → all that it holds now; empty if there is no such topic.

        Raises:
            BackendError: Kafka is not there.
        """
        places = [TopicPartition(topic, number) for number in await self.partitions(topic)]
        if not places:
            return {}
        with _translated(topic):
            self._consumer.assign(places)
            starts, ends = await _bounds(self._consumer, places, None)
        return {place.partition: Span(starts[place], ends[place]) for place in places}

    async def since(self, topic: str, partition: int, since_ms: int) -> int | None:
        """Return the offset of a partition's first record that is not older than this (Unix ms), if it has one.

        Raises:
            BackendError: Kafka is not there.
        """
        place = TopicPartition(topic, partition)
        with _translated(topic):
            self._consumer.assign([place])
            found = (await self._consumer.offsets_for_times({place: max(0, since_ms)}))[place]
        return None if found is None else int(found.offset)

    async def read(self, topic: str, spans: Mapping[int, Span]) -> AsyncIterator[FullRecord]:
        """Yield the records of these pieces, those of one partition in order.

        Raises:
            BackendError: Kafka is not there, or stopped giving records before the end.
        """
        places = {TopicPartition(topic, number): span for number, span in spans.items() if span.start < span.end}
        if not places:
            return
        with _translated(topic):
            self._consumer.assign(list(places))
            starts = {place: span.start for place, span in places.items()}
            ends = {place: span.end for place, span in places.items()}
            async for record in _records(self._consumer, starts, ends):
                yield FullRecord(
                    topic,
                    record.partition,
                    record.offset,
                    record.timestamp,
                    record.key,
                    record.value,
                    tuple(record.headers),
                )

    async def read_one(self, topic: str, partition: int, offset: int) -> FullRecord | None:
        """Return one record, or None if there is none at this place.

        Raises:
            BackendError: Kafka is not there.
        """
        span = (await self.spans(topic)).get(partition)
        if span is None or not span.start <= offset < span.end:
            return None
        async for record in self.read(topic, {partition: Span(offset, offset + 1)}):
            return record
        return None


@contextlib.asynccontextmanager
async def open_reader(settings: KafkaSettings) -> AsyncIterator[RecordReader]:
    """Connect, and disconnect afterwards.

    Raises:
        BackendError: Kafka is not there.
    """
    consumer = await _started_consumer(settings, idle_ms=SEEK_IDLE_MS)
    try:
        yield RecordReader(settings, consumer)
    finally:
        await stop_bounded(consumer)


@contextlib.contextmanager
def _translated(topic: str) -> Iterator[None]:
    try:
        yield
    except (KafkaError, OSError) as error:
        raise BackendError(f"Kafka: {topic} cannot be read: {type(error).__name__}: {error}") from error


async def _started_consumer(settings: KafkaSettings, *, idle_ms: int = 500) -> Any:  # noqa: ANN401 -- aiokafka has no types
    """Return a consumer; `idle_ms` is how long the broker may hold back an answer that has no records."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=settings.request_timeout_ms,
        fetch_max_wait_ms=idle_ms,
    )
    await start_bounded(consumer, timeout_s=settings.client_start_timeout_s)
    return consumer


async def _records(consumer: Any, starts: Mapping[Any, int], ends: Mapping[Any, int]) -> AsyncIterator[Any]:  # noqa: ANN401
    """Yield the records between these offsets, of partitions that are assigned."""
    for place, offset in starts.items():
        consumer.seek(place, offset)
    unread = {place for place, offset in starts.items() if offset < ends[place]}
    empty_rounds = 0
    while unread:
        answer = await consumer.getmany(*unread, timeout_ms=1_000, max_records=RECORDS_AT_ONCE)
        empty_rounds = 0 if answer else empty_rounds + 1
        if empty_rounds > STALL_ROUNDS_MAX:
            raise BackendError(f"Kafka: {next(iter(unread)).topic} stopped giving records before its end")
        for place, records in answer.items():
            for record in records:
                if record.offset < ends[place]:
                    yield record
        for place in list(unread):
            if await consumer.position(place) >= ends[place]:
                unread.discard(place)


async def _existing(settings: KafkaSettings, topics: Iterable[str]) -> dict[str, list[int]]:
    """Return topic → its partitions, sorted, of those that there are.

    A broker may create a topic that is asked for by name; so the list of all is asked for first.
    """
    admin = Admin(settings)
    await start_bounded(admin, timeout_s=settings.client_start_timeout_s)
    try:
        present = set(await admin.client.list_topics())
        wanted = [topic for topic in topics if topic in present]
        described = await admin.client.describe_topics(wanted) if wanted else []
    except (KafkaError, OSError) as error:
        raise BackendError(f"Kafka: topics cannot be described: {type(error).__name__}: {error}") from error
    finally:
        await stop_bounded(admin)
    return {one["topic"]: sorted(part["partition"] for part in one["partitions"]) for one in described}


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

    A broker that was just started needs a moment to know who answers this; it is waited for as for any request.

    Raises:
        BackendError: Kafka is not there.
    """
    admin = Admin(settings)
    await start_bounded(admin, timeout_s=settings.client_start_timeout_s)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.request_timeout_ms / 1000
    try:
        while True:
            try:
                found = await admin.client.list_consumer_group_offsets(group)
                break
            except COORDINATOR_ERRORS:
                if loop.time() > deadline:
                    raise
            await asyncio.sleep(COORDINATOR_PAUSE_S)
    except (KafkaError, OSError) as error:
        raise BackendError(f"Kafka: offsets of {group}: {type(error).__name__}: {error}") from error
    finally:
        await stop_bounded(admin)
    return {place.partition: meta.offset for place, meta in found.items() if place.topic == topic and meta.offset >= 0}
