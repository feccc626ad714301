"""Kinds of work done again and again, side by side: the loop of a process that does what nobody waits for.

Each round of a kind finds what is due, does it, and notes it as done; how much it took up decides how soon the next
round comes. A server that is away ends a round, and the next one waits a little longer each time.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Protocol

from adapters.tasks import pause
from domain.backoff import pause_s
from domain.errors import BackendError

log = logging.getLogger(__name__)

FAILURE_PAUSE_MAX_S: Final = 5.0
"""Between two rounds of a kind of work while a server is away."""


class RoundsMetrics(Protocol):
    """What is reported as the work goes on."""

    def done(self, work: str, count: int) -> None:
        """So many pieces of `work` were done."""

    def put_off(self, work: str) -> None:
        """A piece of `work` failed and is tried later."""

    def failed(self, work: str) -> None:
        """A server was away; the whole of `work` waits."""


class Work(NamedTuple):
    """A kind of work."""

    round: Callable[[], Awaitable[int]]
    """One round; returns how much it took up, and raises BackendError when a server is away."""
    poll_s: float
    """Pause after a round that took up less than it may."""


class Rounds:
    """Runs kinds of work until told to stop.

    Args:
        works: name → kind of work.
        metrics: told of rounds that failed.
        batch_max: a round that took up so much is followed by the next one at once.
        retry_initial_s: pause after a round that failed; it doubles with each.
    """

    def __init__(
        self, works: Mapping[str, Work], metrics: RoundsMetrics, *, batch_max: int, retry_initial_s: float
    ) -> None:
        self._works = works
        self._metrics = metrics
        self._batch_max = batch_max
        self._retry_initial_s = retry_initial_s
        self._stopped = asyncio.Event()

    @property
    def stopped(self) -> bool:
        """Whether a round should end early, for `stop` was called."""
        return self._stopped.is_set()

    async def run_once(self) -> int:
        """Do one round of every kind of work, one after the other; returns how much was taken up.

        Raises:
            BackendError: a server is away.
        """
        return sum([await work.round() for work in self._works.values()])

    async def run(self) -> None:
        """Work until `stop`. Kinds of work do not wait for one another: a server that one needs holds up no other.

        Raises:
            Exception: something unforeseen; whoever supervises starts the process again.
        """
        tasks = [asyncio.create_task(self._run(name, work)) for name, work in self._works.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            self._stopped.set()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Have `run` end after the present rounds."""
        self._stopped.set()

    async def _run(self, name: str, work: Work) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                count = await work.round()
            except BackendError as error:
                self._metrics.failed(name)
                log.warning("%s: %s", name, error)
                wait_s = pause_s(failures, self._retry_initial_s, FAILURE_PAUSE_MAX_S)
                wait_s *= random.uniform(0.5, 1.5)  # noqa: S311 -- jitter is no secret
                failures += 1
            else:
                failures = 0
                wait_s = 0.0 if count >= self._batch_max else work.poll_s
            await pause(wait_s, self._stopped)
