"""Sending a few records to Kafka and waiting until it has them; a producer on which anything failed is replaced."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError

from adapters.kafka import start_bounded, stop_bounded
from adapters.kafka_producer import discard_producer
from domain.errors import BackendError


class Outgoing(NamedTuple):
    """A record for Kafka."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class KafkaSender:
    """Sends records in their order.

    Args:
        make_producer: returns a producer that is not started. It is called at the first record, and again after a
            failure: a producer that failed may never recover.
        timeout_s: for a start, and for all records of one `send`.
        prepare: called before each start, to create topics, say.
    """

    def __init__(
        self,
        make_producer: Callable[[], Any],
        *,
        timeout_s: float,
        prepare: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._make_producer = make_producer
        self._prepare = prepare
        self._timeout_s = timeout_s
        self._producer: Any = None

    async def send(self, records: Sequence[Outgoing]) -> None:
        """Return once all in-sync replicas have all records.

        Raises:
            BackendError: not all are known to have arrived; sending them again doubles those that have.
        """
        if not records:
            return
        if self._producer is None:
            if self._prepare is not None:
                await self._prepare()
            producer = self._make_producer()
            await start_bounded(producer, timeout_s=self._timeout_s)
            self._producer = producer
        try:
            async with asyncio.timeout(self._timeout_s):
                sent = [
                    await self._producer.send(one.topic, value=one.value, key=one.key, headers=list(one.headers))
                    for one in records
                ]
                await asyncio.gather(*sent)
        except BaseException as error:
            await self._discard()
            if isinstance(error, KafkaError | OSError):
                names = ", ".join(sorted({one.topic for one in records}))
                raise BackendError(f"Kafka: {names}: {type(error).__name__}: {error}") from error
            raise

    async def _discard(self) -> None:
        """End the producer, with what it has not sent: it would deliver that long after its successor has."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await discard_producer(producer)

    async def close(self) -> None:
        """Stop the producer, if there is one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_bounded(producer)
