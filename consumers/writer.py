"""The writers' common part: takes records of one topic from Kafka and has them stored in MySQL, in batches.

Offsets are committed after MySQL has committed and the dead letters are written, so whatever crashes, a batch comes
again; what stores it must make that harmless, by a ledger (`consumers.orders_sql`, `consumers.awards`). While MySQL is
at work on one batch, the next one is taken from Kafka and its statements are made, and the offsets of the one before
are committed: no more than three batches are in memory.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

from aiokafka.errors import KafkaError

from adapters.mysql import DataRefusedError
from adapters.tasks import end_tasks, pause
from consumers import batch
from consumers.batch import Dead, Outcome, Reason, Record
from consumers.dead_letters import DeadLetters
from consumers.intake import Intake, Taken
from consumers.metrics import ConsumerMetrics
from domain import failpoints
from domain.errors import BackendError
from domain.settings import Settings

STALL_AFTER_S: Final = 30.0
"""A consumer that gets nothing for so long, though there is something, is replaced."""
SLICE_RECORDS: Final = 100
"""Records decoded at a time, so that an answer of MySQL's for another batch does not wait long."""

T = TypeVar("T")


class Decoded(Protocol):
    """A record and what is in it."""

    @property
    def record(self) -> Record:
        """As it came."""


ItemT = TypeVar("ItemT", bound=Decoded)
PreparedT = TypeVar("PreparedT")


class Store(Protocol[ItemT, PreparedT]):
    """What a writer does with the records of its topic. Storing the same records again must be harmless."""

    def split(self, records: Sequence[Record]) -> tuple[Sequence[ItemT], Sequence[Dead]]:
        """Decode records; those that can never be stored are dead."""

    async def prepare(self, items: Sequence[ItemT], *, now_ms: int) -> PreparedT | None:
        """Do what can be done for a batch before its turn, leaving room for other tasks; None if nothing can."""

    async def store(self, items: Sequence[ItemT], *, now_ms: int, prepared: PreparedT | None = None) -> Outcome:
        """Store a batch in one transaction, and say what became of each record.

        Raises:
            BackendError: transient; the batch may or may not have been stored, and must be stored again.
            DataRefusedError: MySQL refused something in it; nothing was stored.
        """


_log = logging.getLogger(__name__)


class _StoppedError(Exception):
    """The writer was told to stop while it waited to try something again."""


@dataclass(frozen=True, slots=True)
class _Batch(Generic[ItemT, PreparedT]):
    """A batch as it is to be written.

    Attributes:
        taken: from Kafka.
        items: the events in it.
        dead: its other records.
        prepared: the statements for `items`, for the first attempt to store them.
    """

    taken: Taken
    items: Sequence[ItemT]
    dead: Sequence[Dead]
    prepared: PreparedT | None

    @property
    def size(self) -> int:
        """The number of its records."""
        return len(self.taken.records)


class Writer(Generic[ItemT, PreparedT]):
    """Stores what comes from one topic.

    Args:
        settings: uses `[consumer]` and `[kafka]`.
        store: decodes the records and stores them.
        make_consumer: returns a Kafka consumer that is not started; called again when one has to be replaced.
        dead_letters: where records go that can never be stored.
        metrics: told of all that happens.
        stall_after_s: see STALL_AFTER_S.
        now_ms: wall clock, Unix milliseconds.
        monotonic: for intervals, seconds.
        jitter: a number in [0, 1), so that writers that failed together do not return together.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: Store[ItemT, PreparedT],
        make_consumer: Callable[[], Any],
        dead_letters: DeadLetters,
        metrics: ConsumerMetrics,
        stall_after_s: float = STALL_AFTER_S,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings.consumer
        self._store = store
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._now_ms = now_ms
        self._jitter = jitter
        self._intake = Intake(
            settings,
            make_consumer=make_consumer,
            metrics=metrics,
            stall_after_s=stall_after_s,
            monotonic=monotonic,
        )
        self._ahead: asyncio.Task[_Batch[ItemT, PreparedT]] | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Work until `stop`. What was taken from Kafka and not finished then comes again at the next start."""
        try:
            while not self._stopped.is_set():
                await self.run_once()
        finally:
            await self.close()

    def stop(self) -> None:
        """Ask `run` to end: a batch being written is finished, one that waits for its next attempt is not."""
        self._stopped.set()

    async def close(self) -> None:
        """Commit what is done, leave the consumer group and stop the Kafka clients."""
        try:
            await self._settle()
        finally:
            await self._drop()
            await self._dead_letters.close()

    async def run_once(self) -> int:
        """Take one batch and write it; returns the number of its records, 0 if there was none.

        Its offsets are committed when this returns, unless the next batch is there already: then at the latest when
        that one is written, or by `close`.
        """
        try:
            if not self._intake.connected:
                await self._until_done("connect", self._intake.connect)
            found = await self._next()
            if found is None or not found.size:
                await self._settle()
                if found is None or await self._intake.is_stalled():
                    await self._replace()
                return 0
            self._ahead = asyncio.create_task(self._take())
            await self._handle(found)
        except _StoppedError:
            await self._drop()
            return 0
        except BaseException:
            # The consumer's position is past records that are not done: go on from the committed offsets instead.
            await self._drop()
            raise
        return found.size

    # -- a batch -----------------------------------------------------------------------------------------------

    async def _next(self) -> _Batch[ItemT, PreparedT] | None:
        """Return the next batch, which may be empty; None if it could not be taken and the consumer has to go."""
        taking, self._ahead = self._ahead or asyncio.create_task(self._take()), None
        try:
            return await taking
        except KafkaError as error:
            if not error.retriable:
                raise
            _log.warning("fetching failed, the Kafka consumer is replaced: %r", error)
            return None

    async def _take(self) -> _Batch[ItemT, PreparedT]:
        """Take a batch from Kafka, decode it and make its statements, leaving room for other tasks in between."""
        taken = await self._intake.take(self._stopped)
        items: list[ItemT] = []
        dead: list[Dead] = []
        for start in range(0, len(taken.records), SLICE_RECORDS):
            some, others = self._store.split(taken.records[start : start + SLICE_RECORDS])
            items += some
            dead += others
            await asyncio.sleep(0)
        return _Batch(taken, items, dead, await self._store.prepare(items, now_ms=self._now_ms()))

    async def _handle(self, found: _Batch[ItemT, PreparedT]) -> None:
        """Write a batch, then its dead letters, then commit its offsets, which the next batch need not wait for."""
        failpoints.reach("consumer.before_mysql")
        outcome = await self._write(found.items, found.prepared)
        failpoints.reach("consumer.after_mysql_commit")
        outcome.dead += found.dead
        await self._until_done("dead_letters", lambda: self._dead_letters.send(outcome.dead))
        await self._settle()
        self._finishing = asyncio.create_task(self._finish(found.taken, outcome))
        if not self._is_next_there():
            await self._settle()

    def _is_next_there(self) -> bool:
        ahead = self._ahead
        return ahead is not None and ahead.done() and ahead.exception() is None and ahead.result().size > 0

    async def _write(self, items: Sequence[ItemT], prepared: PreparedT | None = None) -> Outcome:
        """Store items; a record that MySQL refuses is found by bisection and does not hold up the others."""
        try:
            return await self._until_done(
                "write",
                lambda: self._store.store(items, now_ms=self._now_ms(), prepared=prepared),
            )
        except DataRefusedError as error:
            return await self._bisect(items, error)

    async def _bisect(self, items: Sequence[ItemT], error: DataRefusedError) -> Outcome:
        if len(items) == 1:
            return Outcome(dead=[Dead(items[0].record, Reason.REFUSED, str(error))])
        outcome = Outcome()
        for half in batch.halves(items):
            outcome.add(await self._write(half))
        return outcome

    async def _finish(self, taken: Taken, outcome: Outcome) -> None:
        """Commit the offsets of a batch and report it."""
        await self._intake.commit(taken)
        self._metrics.batch(records=len(taken.records), new=outcome.new, duplicates=outcome.duplicates)
        self._tell(outcome)
        for dead in outcome.dead:
            self._metrics.dead(dead.reason)
            record = dead.record
            _log.error("dead letter: %s %d@%d: %s", record.topic, record.partition, record.offset, dead.reason)

    def _tell(self, outcome: Outcome) -> None:
        """Report what is particular to the topic."""

    async def _settle(self) -> None:
        """Wait until the batch before this one is finished."""
        finishing, self._finishing = self._finishing, None
        if finishing is not None:
            await finishing

    # -- the Kafka consumer ------------------------------------------------------------------------------------

    async def _drop(self) -> None:
        """Give up what was taken and not written, and leave the group."""
        ahead, self._ahead = self._ahead, None
        finishing, self._finishing = self._finishing, None
        if ahead is not None:
            await end_tasks([ahead])
            if not ahead.cancelled() and ahead.exception() is not None:
                _log.warning("what failed besides: %r", ahead.exception())
        if finishing is not None:
            await asyncio.wait([finishing])
            if not finishing.cancelled() and finishing.exception() is not None:
                _log.warning("what failed besides: %r", finishing.exception())
        await self._intake.drop()

    async def _replace(self) -> None:
        self._metrics.recreated()
        await self._drop()
        await self._until_done("connect", self._intake.connect)

    # -- trying again ------------------------------------------------------------------------------------------

    async def _until_done(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call again and again, with growing pauses, until it succeeds; meanwhile nothing more is taken from Kafka.

        Raises:
            _StoppedError: the writer was told to stop meanwhile.
        """
        pause_s = self._settings.retry_initial_s
        try:
            while True:
                try:
                    return await call()
                except BackendError as error:
                    self._metrics.retry(what)
                    _log.warning("%s failed, next attempt in about %.1f s: %s", what, pause_s, error)
                self._intake.hold()
                await self._pause(pause_s * (0.5 + self._jitter() / 2))
                pause_s = min(2 * pause_s, self._settings.retry_max_s)
        finally:
            await self._intake.release()

    async def _pause(self, seconds: float) -> None:
        if await pause(seconds, self._stopped):
            raise _StoppedError
