"""Records that can never be processed, set aside for people to look at.

A dead letter has the key, value and headers of its record, untouched, and these headers besides: `reason` (a
`consumers.batch.Reason`), `error` (text), `topic`, `partition`, `offset`, and `failed_at` (Unix milliseconds).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiokafka.errors import KafkaError

from adapters.kafka import start_bounded, stop_bounded
from consumers.batch import Dead
from domain.errors import BackendError

ERROR_TEXT_MAX: Final = 500


class DeadLetters:
    """Writes to one dead-letter topic.

    Args:
        make_producer: returns a producer that is not started. It is called at the first dead letter, and again after
            a failure: a producer that failed may never recover.
        topic: the dead-letter topic.
        timeout_s: for a start, and for a send.
        now_ms: the clock.
    """

    def __init__(
        self,
        make_producer: Callable[[], Any],
        topic: str,
        *,
        timeout_s: float,
        now_ms: Callable[[], int],
    ) -> None:
        self._make_producer = make_producer
        self._topic = topic
        self._timeout_s = timeout_s
        self._now_ms = now_ms
        self._producer: Any = None

    async def send(self, dead: Sequence[Dead]) -> None:
        """Send dead letters and wait until all in-sync replicas have them.

        Raises:
            BackendError: not all are known to have arrived; sending them again doubles those that have, which is
                harmless.
        """
        if not dead:
            return
        if self._producer is None:
            producer = self._make_producer()
            await start_bounded(producer, timeout_s=self._timeout_s)
            self._producer = producer
        try:
            async with asyncio.timeout(self._timeout_s):
                sent = [await self._send(one) for one in dead]
                await asyncio.gather(*sent)
        except BaseException as error:
            await self.close()
            if isinstance(error, KafkaError | OSError):
                text = f"dead letters cannot be written to {self._topic}: {type(error).__name__}: {error}"
                raise BackendError(text) from error
            raise

    async def close(self) -> None:
        """Stop the producer, if there is one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_bounded(producer)

    async def _send(self, dead: Dead) -> asyncio.Future[Any]:
        """Hand a dead letter to the producer; the future is done when all in-sync replicas have it."""
        record = dead.record
        facts = {
            "reason": str(dead.reason),
            "error": dead.error[:ERROR_TEXT_MAX],
            "topic": record.topic,
            "partition": str(record.partition),
            "offset": str(record.offset),
            "failed_at": str(self._now_ms()),
        }
        headers = [*record.headers, *((name, text.encode()) for name, text in facts.items())]
        sent: asyncio.Future[Any] = await self._producer.send(
            self._topic,
            value=record.value,
            key=record.key,
            headers=headers,
        )
        return sent
