"""Group commit: one call is outstanding, and what arrives meanwhile goes out together with the next one.

There is no timer. An idle worker sends what came in within one turn of the event loop; a loaded one sends what has
gathered while the last call was away. So the batch grows with the load, and the cost of an item falls with it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class GroupCommit(Generic[T]):
    """A queue in front of something that is cheaper by the dozen.

    Args:
        send: takes one batch; whatever it raises ends the worker, so it answers for its own failures.
        overdue: takes what has waited for longer than `wait_max_s` and is not sent any more.
        batch_max: items in one batch.
        wait_max_s: how long an item may wait for its turn.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Awaitable[None]],
        overdue: Callable[[list[T]], None],
        *,
        batch_max: int,
        wait_max_s: float,
    ) -> None:
        self._send = send
        self._overdue = overdue
        self._batch_max = batch_max
        self._wait_max_s = wait_max_s
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, T]] = deque()
        self._sender: asyncio.Task[None] | None = None

    def submit(self, item: T) -> None:
        """Take an item in."""
        self._queue.append((self._loop.time() + self._wait_max_s, item))
        if self._sender is None:
            self._sender = self._loop.create_task(self._send_all())

    async def _send_all(self) -> None:
        try:
            while self._queue:
                await self._send_one_batch()
        finally:
            self._sender = None

    async def _send_one_batch(self) -> None:
        queue, now = self._queue, self._loop.time()
        overdue: list[T] = []
        while queue and queue[0][0] <= now:
            overdue.append(queue.popleft()[1])
        if overdue:
            self._overdue(overdue)
        batch = [queue.popleft()[1] for _ in range(min(len(queue), self._batch_max))]
        if batch:
            await self._send(batch)
