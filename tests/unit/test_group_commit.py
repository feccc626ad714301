"""Group commit: what arrives while a call is away goes out together, in order, bounded, and never too late."""

import asyncio

import pytest

from gateway.group_commit import GroupCommit


class Sent:
    """Collects batches; a call stays away until it is let back."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.late: list[int] = []
        self.back = asyncio.Event()
        self.gone = asyncio.Event()

    async def send(self, batch: list[int]) -> None:
        """Take a batch and stay away."""
        self.batches.append(batch)
        self.gone.set()
        await self.back.wait()

    def queue(self, *, batch_max: int = 4, wait_max_s: float = 60.0) -> "GroupCommit[int]":
        """Return a queue that sends here."""
        return GroupCommit(self.send, self.late.extend, batch_max=batch_max, wait_max_s=wait_max_s)


async def test_what_arrives_meanwhile_goes_out_together() -> None:
    """The first item goes at once, alone; those that come while it is away go in one batch, in their order."""
    sent = Sent()
    queue = sent.queue()
    queue.submit(0)
    await sent.gone.wait()
    for number in (1, 2, 3):
        queue.submit(number)
    sent.back.set()
    while len(sent.batches) < 2:  # noqa: ASYNC110 -- the queue tells nobody
        await asyncio.sleep(0)
    assert sent.batches == [[0], [1, 2, 3]]


async def test_batches_are_bounded() -> None:
    """More than `batch_max` items make more than one batch, and none is lost."""
    sent = Sent()
    sent.back.set()
    queue = sent.queue()
    for number in range(10):
        queue.submit(number)
    while sum(map(len, sent.batches)) < 10:  # noqa: ASYNC110 -- as above
        await asyncio.sleep(0)
    assert [len(batch) for batch in sent.batches] == [4, 4, 2]
    assert [number for batch in sent.batches for number in batch] == list(range(10))


async def test_what_has_waited_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item whose time has passed while the call was away is given back, and those behind it that are in time go."""
    sent = Sent()
    queue = sent.queue(wait_max_s=10.0)
    loop = asyncio.get_running_loop()
    queue.submit(0)
    await sent.gone.wait()
    queue.submit(1)
    now = loop.time()
    monkeypatch.setattr(queue, "_loop", Clock(loop, now + 11.0))
    queue.submit(2)
    sent.back.set()
    while len(sent.batches) < 2:  # noqa: ASYNC110 -- as above
        await asyncio.sleep(0)
    assert (sent.late, sent.batches) == ([1], [[0], [2]])


class Clock:
    """A loop whose time is another."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now_s: float) -> None:
        self._now_s = now_s
        self.create_task = loop.create_task

    def time(self) -> float:
        """Return the time."""
        return self._now_s
