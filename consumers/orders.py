"""The writer: takes accepted orders from Kafka and stores them in MySQL, in batches.

Offsets are committed after MySQL has committed and the dead letters are written, so whatever crashes, a batch comes
again; the ledger makes that harmless (`consumers.orders_sql`).
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from adapters.kafka import start_bounded, stop_bounded
from adapters.mysql import DataRefusedError, Pool
from consumers import batch, orders_sql
from consumers.batch import Dead, Item, Outcome, Reason, Record
from consumers.dead_letters import DeadLetters
from consumers.metrics import ConsumerMetrics
from domain import failpoints
from domain.errors import BackendError
from domain.settings import Settings

POLL_TIMEOUT_MS: Final = 500
"""How long an idle `run_once` waits for a record."""
STALL_AFTER_S: Final = 30.0
"""A consumer that gets nothing for so long, though there is something, is replaced."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class _StoppedError(Exception):
    """The writer was told to stop while it waited to try something again."""


class OrderWriter:
    """Stores what comes from one topic.

    Args:
        settings: uses `[consumer]` and `[kafka]`.
        pool: the database fg_orders.
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
        pool: Pool,
        make_consumer: Callable[[], Any],
        dead_letters: DeadLetters,
        metrics: ConsumerMetrics,
        stall_after_s: float = STALL_AFTER_S,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings.consumer
        self._kafka_timeout_s = settings.kafka.request_timeout_ms / 1000
        self._start_timeout_s = settings.kafka.client_start_timeout_s
        self._pool = pool
        self._make_consumer = make_consumer
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._stall_after_s = stall_after_s
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._jitter = jitter
        self._consumer: Any = None
        self._quiet_since = 0.0
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
        """Leave the consumer group and stop the Kafka clients."""
        await self._drop_consumer()
        await self._dead_letters.close()

    async def run_once(self) -> int:
        """Take one batch, write it and commit its offsets; returns the number of records, 0 if there was none."""
        try:
            if self._consumer is None:
                await self._until_done("connect", self._connect)
            records = await self._take()
            if not records:
                return 0
            await self._handle(records)
            self._quiet_since = self._monotonic()
        except _StoppedError:
            await self._drop_consumer()
            return 0
        except BaseException:
            # The consumer's position is past records that are not done: go on from the committed offsets instead.
            await self._drop_consumer()
            raise
        return len(records)

    # -- a batch -----------------------------------------------------------------------------------------------

    async def _take(self) -> list[Record]:
        """Collect records of all partitions until the batch is full or its first record has waited long enough."""
        records: list[Record] = []
        wait_ms = POLL_TIMEOUT_MS
        deadline = 0.0
        while len(records) < self._settings.batch_max:
            try:
                found: Mapping[Any, Sequence[Record]] = await self._consumer.getmany(
                    timeout_ms=wait_ms,
                    max_records=self._settings.batch_max - len(records),
                )
            except KafkaError as error:
                if not error.retriable:
                    raise
                _log.warning("fetching failed, the Kafka consumer is replaced: %r", error)
                await self._replace_consumer()
                return []
            if not found and not records:
                await self._check_progress()
                return []
            if not records:
                deadline = self._monotonic() + self._settings.batch_linger_ms / 1000
            for of_partition in found.values():
                records += of_partition
            wait_ms = int((deadline - self._monotonic()) * 1000)
            if wait_ms <= 0 or self._stopped.is_set():
                break
        return records

    async def _handle(self, records: Sequence[Record]) -> None:
        """Write a batch, then its dead letters, then commit its offsets."""
        items, dead = batch.split_poison(records)
        outcome = await self._write(items)
        failpoints.reach("consumer.after_mysql_commit")
        outcome.dead += dead
        await self._until_done("dead_letters", lambda: self._dead_letters.send(outcome.dead))
        offsets = {TopicPartition(*place): offset for place, offset in batch.next_offsets(records).items()}
        await self._commit(offsets)
        self._report(len(records), outcome, offsets)

    async def _write(self, items: Sequence[Item]) -> Outcome:
        """Store items; a record that MySQL refuses is found by bisection and does not hold up the others."""
        try:
            return await self._until_done(
                "write",
                lambda: orders_sql.store(self._pool, items, now_ms=self._now_ms()),
            )
        except DataRefusedError as error:
            return await self._bisect(items, error)

    async def _bisect(self, items: Sequence[Item], error: DataRefusedError) -> Outcome:
        if len(items) == 1:
            return Outcome(dead=[Dead(items[0].record, Reason.REFUSED, str(error))])
        outcome = Outcome()
        for half in batch.halves(items):
            outcome.add(await self._write(half))
        return outcome

    async def _commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit offsets of the partitions that are still ours; a failure only means that records come again."""
        assigned = self._consumer.assignment()
        ours = {place: offset for place, offset in offsets.items() if place in assigned}
        try:
            if ours:
                async with asyncio.timeout(self._kafka_timeout_s):
                    await self._consumer.commit(ours)
        except (KafkaError, TimeoutError) as error:
            rebalanced = isinstance(error, CommitFailedError | IllegalStateError | TimeoutError)
            if not rebalanced and not cast("KafkaError", error).retriable:
                raise
            self._metrics.commit_failed()
            _log.warning("offsets were not committed, the records will come again: %r", error)

    def _report(self, records: int, outcome: Outcome, offsets: Mapping[TopicPartition, int]) -> None:
        self._metrics.batch(records=records, new=outcome.new, duplicates=outcome.duplicates)
        for dead in outcome.dead:
            self._metrics.dead(dead.reason)
            record = dead.record
            _log.error("dead letter: %s %d@%d: %s", record.topic, record.partition, record.offset, dead.reason)
        for place in self._consumer.assignment() & offsets.keys():
            end = self._consumer.highwater(place)
            if end is not None:
                self._metrics.lag(place.partition, max(0, end - offsets[place]))

    # -- the Kafka consumer ------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        consumer = self._make_consumer()
        await start_bounded(consumer, timeout_s=self._start_timeout_s)
        self._consumer = consumer
        self._quiet_since = self._monotonic()

    async def _drop_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_bounded(consumer)

    async def _replace_consumer(self) -> None:
        self._metrics.recreated()
        await self._drop_consumer()
        await self._until_done("connect", self._connect)

    async def _check_progress(self) -> None:
        """Replace a consumer that has been getting nothing although there is something to get."""
        if self._monotonic() - self._quiet_since < self._stall_after_s:
            return
        self._quiet_since = self._monotonic()
        assigned = self._consumer.assignment()
        if not assigned:
            return
        try:
            async with asyncio.timeout(self._kafka_timeout_s):
                ends = await self._consumer.end_offsets(assigned)
                lag = sum([ends[place] - await self._consumer.position(place) for place in assigned])
        except (KafkaError, TimeoutError) as error:
            _log.warning("the end offsets cannot be read: %r", error)
            lag = 1
        if lag > 0:
            _log.warning("nothing came for %.0f s although there is something to get", self._stall_after_s)
            await self._replace_consumer()

    # -- trying again ------------------------------------------------------------------------------------------

    async def _until_done(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Call again and again, with growing pauses, until it succeeds.

        Raises:
            _StoppedError: the writer was told to stop meanwhile.
        """
        pause_s = self._settings.retry_initial_s
        while True:
            try:
                return await call()
            except BackendError as error:
                self._metrics.retry(what)
                _log.warning("%s failed, next attempt in about %.1f s: %s", what, pause_s, error)
            await self._pause(pause_s * (0.5 + self._jitter() / 2))
            pause_s = min(2 * pause_s, self._settings.retry_max_s)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            return
        raise _StoppedError
