"""Kinds of work that are done again and again, side by side."""

import asyncio
from collections import Counter

import pytest

from adapters.rounds import Rounds, Work
from domain.errors import BackendError

BATCH_MAX = 10


class Told:
    """Implements RoundsMetrics."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()

    def done(self, work: str, count: int) -> None:
        """Ignore."""

    def put_off(self, work: str) -> None:
        """Ignore."""

    def failed(self, work: str) -> None:
        """Count."""
        self.failures[work] += 1


def rounds(**works: Work) -> tuple[Rounds, Told]:
    """Return what runs these works, and what it tells."""
    told = Told()
    return Rounds(works, told, batch_max=BATCH_MAX, retry_initial_s=0.001), told


async def test_works_do_not_wait_for_one_another() -> None:
    """A kind of work whose server is away is tried again and again, and counted; the others go on meanwhile."""
    count = 0

    async def away() -> int:
        raise BackendError("away")

    async def works() -> int:
        nonlocal count
        count += 1
        if count >= 20 and told.failures["away"] >= 3:
            running.stop()
        return 0

    running, told = rounds(away=Work(away, 0.001), works=Work(works, 0.001))
    await running.run()
    assert set(told.failures) == {"away"}
    assert running.stopped


async def test_a_full_round_is_followed_at_once() -> None:
    """While as much is found as may be taken up, nothing is waited for; a stop ends the pause that comes then."""
    left = [BATCH_MAX] * 5 + [0]

    async def work() -> int:
        found = left.pop(0)
        if not left:
            asyncio.get_running_loop().call_soon(running.stop)
        return found

    running, _ = rounds(work=Work(work, 3_600.0))
    await running.run()
    assert left == []


async def test_what_nobody_foresaw_ends_all() -> None:
    """An error that no server's absence explains ends the process, once the other rounds have ended."""
    ended = False
    begun = asyncio.Event()

    async def broken() -> int:
        # The other round goes on once all that ends the process has been done about this one.
        asyncio.get_running_loop().call_later(0.01, begun.set)
        raise LookupError("unforeseen")

    async def slow() -> int:
        nonlocal ended
        await begun.wait()
        ended = running.stopped
        return 0

    running, _ = rounds(broken=Work(broken, 1.0), slow=Work(slow, 3_600.0))
    with pytest.raises(LookupError):
        await running.run()
    assert ended


async def test_one_round_of_each() -> None:
    """`run_once` does every kind of work once, and passes on that a server is away."""

    async def three() -> int:
        return 3

    async def away() -> int:
        raise BackendError("away")

    assert await rounds(a=Work(three, 1.0), b=Work(three, 1.0))[0].run_once() == 6
    with pytest.raises(BackendError):
        await rounds(a=Work(three, 1.0), b=Work(away, 1.0))[0].run_once()
