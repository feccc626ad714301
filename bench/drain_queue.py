"""Queues the records of `bench drain` in Kafka."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from adapters.kafka import start_bounded, stop_bounded
from domain.errors import BackendError
from domain.settings import KafkaSettings

BATCHES_UNDER_WAY: Final = 16
BATCH_BYTES_MAX: Final = 256 * 1024


RecordOf = Callable[[int], tuple[bytes, bytes]]
"""Number → key and value."""


async def queue(settings: KafkaSettings, topic: str, records: int, record_of: RecordOf) -> None:
    """Write so many records into a topic, evenly over its partitions.

    Raises:
        BackendError: Kafka did not take them.
    """
    # Each batch is on Kafka's disk before it is acknowledged, so they are larger here than a relay's.
    producer: Any = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap,
        acks="all",
        max_batch_size=BATCH_BYTES_MAX,
        max_request_size=2 * BATCH_BYTES_MAX,
        request_timeout_ms=settings.request_timeout_ms,
    )
    await start_bounded(producer, timeout_s=settings.client_start_timeout_s)
    try:
        partitions = sorted(await producer.partitions_for(topic))
        under_way: list[Any] = []
        for number, batch in enumerate(_batches(producer, records, record_of)):
            partition = partitions[number % len(partitions)]
            under_way.append(await producer.send_batch(batch, topic, partition=partition))
            if len(under_way) >= BATCHES_UNDER_WAY:
                await under_way.pop(0)
        for sent in under_way:
            await sent
    except (KafkaError, OSError) as error:
        raise BackendError(f"Kafka: the records cannot be queued: {type(error).__name__}: {error}") from error
    finally:
        await stop_bounded(producer)


def _batches(producer: Any, records: int, record_of: RecordOf) -> Iterator[Any]:  # noqa: ANN401
    """Yield Kafka's own batches, as full as they may be."""
    batch = producer.create_batch()
    for number in range(records):
        key, value = record_of(number)
        if batch.append(key=key, value=value, timestamp=None) is None:
            batch.close()
            yield batch
            batch = producer.create_batch()
            batch.append(key=key, value=value, timestamp=None)
    if batch.record_count():
        batch.close()
        yield batch
