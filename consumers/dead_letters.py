"""Records that can never be processed, set aside for people to look at.

A dead letter has the key, value and headers of its record, untouched, and these headers besides: `reason` (a
`consumers.batch.Reason`), `error` (text), `topic`, `partition`, `offset`, and `failed_at` (Unix milliseconds).
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from adapters.kafka_sender import KafkaSender, Outgoing
from consumers.batch import Dead

ERROR_TEXT_MAX: Final = 500


class DeadLetters:
    """Writes to one dead-letter topic.

    Args:
        make_producer: returns a producer that is not started, see `KafkaSender`.
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
        self._sender = KafkaSender(make_producer, timeout_s=timeout_s)
        self._topic = topic
        self._now_ms = now_ms

    async def send(self, dead: Sequence[Dead]) -> None:
        """Send dead letters and wait until all in-sync replicas have them.

        Raises:
            BackendError: not all are known to have arrived; sending them again doubles those that have, which is
                harmless.
        """
        await self._sender.send([self._letter(one) for one in dead])

    async def close(self) -> None:
        """Stop the producer, if there is one."""
        await self._sender.close()

    def _letter(self, dead: Dead) -> Outgoing:
        record = dead.record
        facts = {
            "reason": str(dead.reason),
            "error": dead.error[:ERROR_TEXT_MAX],
            "topic": record.topic,
            "partition": str(record.partition),
            "offset": str(record.offset),
            "failed_at": str(self._now_ms()),
        }
        headers = (*record.headers, *((name, text.encode()) for name, text in facts.items()))
        return Outgoing(self._topic, record.key, record.value, headers)
