"""Getting rid of a producer that failed."""

from itertools import chain
from typing import Any

from adapters.kafka import stop_bounded
from adapters.tasks import end_tasks


async def discard_producer(producer: Any) -> None:  # noqa: ANN401 -- aiokafka has no types
    """End a producer at once, together with what it has not sent; nobody may wait for that any more.

    Its own `stop` waits until everything is sent. When that is given up on, the producer lives on: an idempotent one
    tries for ever, and delivers what has long been sent by its successor when Kafka comes back. So its sender is ended
    first. What is in a socket already may still arrive.
    """
    sender, unsent = producer._sender.sender_task, producer._message_accumulator  # noqa: SLF001 -- no other way
    if sender is not None:
        await end_tasks([sender])
    batches = {*unsent._pending_batches, *chain(*unsent._batches.values())}  # noqa: SLF001
    unsent._pending_batches.update(batches)  # noqa: SLF001 -- from where each is removed when it is done
    for batch in batches:
        batch.future.cancel()
    await stop_bounded(producer)
