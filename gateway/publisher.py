"""Kafka's side of the relay: whole batches a partition, acknowledged before anything is checkpointed."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from adapters.kafka import make_producer, start_bounded, stop_bounded
from adapters.kafka_producer import discard_producer
from domain.errors import BackendError
from domain.settings import KafkaSettings
from gateway.outgoing import Outgoing

REQUESTS_PER_PUBLICATION: Final = 2
"""Request time-outs after which a publication is given up."""


class KafkaPublisher:
    """Publishes with `send_batch`; a producer on which anything failed is replaced.

    Args:
        settings: where Kafka is, and how long a request may take.
        recreated: told of each producer that takes the place of one that failed.
    """

    def __init__(self, settings: KafkaSettings, recreated: Callable[[], None]) -> None:
        self._settings = settings
        self._recreated = recreated
        self._producer: Any = None
        self._has_failed = False
        self._partitioner = DefaultPartitioner()
        self.deadline_s = REQUESTS_PER_PUBLICATION * settings.request_timeout_ms / 1000
        """How long a publication may take, a start of the producer included."""

    async def publish(self, records: Sequence[Outgoing]) -> None:
        """Return once Kafka has acknowledged all records, of which there must be some.

        Raises:
            BackendError: some may have landed all the same; publish all of them again.
        """
        try:
            # The producer has no deadline of its own: it tries for ever, and if its sender has died it only waits.
            async with asyncio.timeout(self.deadline_s):
                producer = await self._started()
                acknowledgements = [
                    await producer.send_batch(batch, topic, partition=partition)
                    for topic, partition, batch in await self._batches(producer, records)
                ]
                # When time is up this leaves them alone; `gather` would cancel them under the producer's hands.
                await asyncio.wait(acknowledgements)
            await asyncio.gather(*acknowledgements)
        except BaseException as error:
            await self._discard()
            if isinstance(error, KafkaError | OSError | BackendError):  # TimeoutError is an OSError
                raise BackendError(f"Kafka: not acknowledged: {type(error).__name__}: {error}") from error
            raise

    async def close(self) -> None:
        """Stop the producer, within bounds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_bounded(producer)

    async def _discard(self) -> None:
        producer, self._producer = self._producer, None
        self._has_failed = True
        if producer is not None:
            await discard_producer(producer)

    async def _started(self) -> Any:  # noqa: ANN401 -- aiokafka has no types
        if self._producer is None:
            producer = make_producer(self._settings)
            await start_bounded(producer, timeout_s=self._settings.client_start_timeout_s)
            self._producer = producer
            if self._has_failed:
                self._has_failed = False
                self._recreated()
        return self._producer

    async def _batches(self, producer: Any, records: Sequence[Outgoing]) -> list[tuple[str, int, Any]]:  # noqa: ANN401
        """Return full batches in the records' order, partition by partition."""
        full: list[tuple[str, int, Any]] = []
        open_: dict[tuple[str, int], Any] = {}
        partitions: dict[str, list[int]] = {}
        for record in records:
            if record.topic not in partitions:
                partitions[record.topic] = sorted(await producer.partitions_for(record.topic))
            numbers = partitions[record.topic]
            place = (record.topic, self._partitioner(record.key, numbers, numbers))
            content = {
                "key": record.key,
                "value": record.value,
                "timestamp": record.timestamp_ms,
                "headers": list(record.headers),
            }
            if place not in open_:
                open_[place] = producer.create_batch()
            if open_[place].append(**content) is None:
                full.append((*place, open_[place]))
                open_[place] = producer.create_batch()
                if open_[place].append(**content) is None:
                    raise BackendError(f"a record of {len(record.value)} bytes is too large for Kafka")
        return full + [(*place, batch) for place, batch in open_.items()]
