"""The Kafka side of a writer: one member of its group, which takes records, holds still, and commits offsets."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from adapters.kafka import start_bounded, stop_bounded
from adapters.tasks import end_tasks
from consumers.backlog import Rate, batch_size, drain_s
from consumers.batch import Record
from consumers.metrics import ConsumerMetrics
from domain.settings import Settings

POLL_TIMEOUT_MS: Final = 500
"""How long a poll waits for a first record."""
HELD_POLL_MS: Final = 1_000
"""How often Kafka is polled, for nothing, while the partitions are paused: whoever does not poll leaves the group."""
LOOK_S: Final = 2.0
"""How often the ends of the partitions are asked for while no records tell them."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Taken:
    """Records that were taken together.

    Attributes:
        records: all of them.
        offsets: partition → the offset to go on from when they are done.
        counts: partition → how many of them are its.
    """

    records: list[Record] = field(default_factory=list)
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    counts: Counter[TopicPartition] = field(default_factory=Counter)

    def add(self, place: TopicPartition, records: Sequence[Record]) -> None:
        """Take in records of a partition, which follow those before."""
        self.records += records
        self.offsets[place] = records[-1].offset + 1
        self.counts[place] += len(records)


class Intake:
    """Takes records of one topic as a member of a consumer group.

    Args:
        settings: uses `[consumer]` and `[kafka]`.
        make_consumer: returns a Kafka consumer that is not started; called again when one has to be replaced.
        metrics: told of lag, pauses and replacements.
        stall_after_s: a consumer that gets nothing for so long, though there is something, is stalled.
        monotonic: for intervals, seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        make_consumer: Callable[[], Any],
        metrics: ConsumerMetrics,
        stall_after_s: float,
        monotonic: Callable[[], float],
    ) -> None:
        self._settings = settings.consumer
        self._kafka_timeout_s = settings.kafka.request_timeout_ms / 1000
        self._start_timeout_s = settings.kafka.client_start_timeout_s
        self._make_consumer = make_consumer
        self._metrics = metrics
        self._stall_after_s = stall_after_s
        self._monotonic = monotonic
        self._consumer: Any = None
        self._polling = asyncio.Lock()
        self._holding: asyncio.Task[None] | None = None
        self._in_hand: Counter[TopicPartition] = Counter()
        self._rate = Rate(monotonic())
        self._lag = 0
        self._looked_at_s = self._quiet_since_s = monotonic()

    @property
    def connected(self) -> bool:
        """Whether there is a consumer."""
        return self._consumer is not None

    async def connect(self) -> None:
        """Join the group.

        Raises:
            BackendError: Kafka is not there.
        """
        consumer = self._make_consumer()
        await start_bounded(consumer, timeout_s=self._start_timeout_s)
        self._consumer = consumer
        self._looked_at_s = self._quiet_since_s = self._monotonic()

    async def drop(self) -> None:
        """Leave the group; records that were taken and not committed come again."""
        consumer, self._consumer = self._consumer, None
        self._in_hand.clear()
        if consumer is not None:
            await stop_bounded(consumer)

    # -- taking records ----------------------------------------------------------------------------------------

    async def take(self, stopped: asyncio.Event) -> Taken:
        """Collect records of all partitions until the batch is full or its first record has waited long enough.

        Must not be cancelled unless `drop` follows: what it has taken by then would be passed over.

        Raises:
            KafkaError: retriable: the consumer must be replaced.
        """
        async with self._polling:
            size = batch_size(self._lag, smallest=self._settings.batch_min, largest=self._settings.batch_max)
            taken = Taken()
            wait_ms, deadline_s = POLL_TIMEOUT_MS, 0.0
            while len(taken.records) < size:
                found: Mapping[TopicPartition, Sequence[Record]] = await self._consumer.getmany(
                    timeout_ms=wait_ms, max_records=size - len(taken.records)
                )
                if not found and not taken.records:
                    break
                if not taken.records:
                    deadline_s = self._monotonic() + self._settings.batch_linger_ms / 1000
                for place, records in found.items():
                    taken.add(place, records)
                    self._in_hand[place] += len(records)
                wait_ms = int((deadline_s - self._monotonic()) * 1000)
                if wait_ms <= 0 or stopped.is_set():
                    break
        return taken

    async def commit(self, taken: Taken) -> None:
        """Commit the offsets of records that are done, in partitions that are still ours.

        A commit that fails only means that the records come again.

        Raises:
            KafkaError: it will never succeed.
        """
        assigned = self._consumer.assignment()
        ours = {place: offset for place, offset in taken.offsets.items() if place in assigned}
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
        self._in_hand.subtract(taken.counts)
        self._quiet_since_s = self._monotonic()
        self._rate.add(len(taken.records), self._quiet_since_s)
        await self._report(ask=False)

    # -- holding still -----------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Pause all partitions until `release`, and go on polling, so that the group keeps this member."""
        if self._holding is None and self._consumer is not None:
            self._holding = asyncio.create_task(self._hold())

    async def release(self) -> None:
        """Go on where `hold` paused.

        Raises:
            KafkaError: polling has met with an error that will not pass.
        """
        holding, self._holding = self._holding, None
        if holding is None:
            return
        await end_tasks([holding])
        self._metrics.paused(0)
        self._consumer.resume(*self._consumer.paused())
        if not holding.cancelled():
            holding.result()

    async def _hold(self) -> None:
        while True:
            self._pause()
            async with self._polling:  # a batch that is being taken ends by itself
                self._pause()
                try:
                    found = await self._consumer.getmany(timeout_ms=HELD_POLL_MS, max_records=1)
                except KafkaError as error:
                    if not error.retriable:
                        raise
                    _log.warning("polling failed while the partitions are paused: %r", error)
                    found = {}
                    await asyncio.sleep(HELD_POLL_MS / 1000)
                for place, records in found.items():  # it was assigned anew in this moment: give them back
                    self._consumer.seek(place, records[0].offset)
            await self._look()

    def _pause(self) -> None:
        """Pause what is assigned now: a rebalance may have brought partitions that are not paused."""
        assigned = self._consumer.assignment()
        self._consumer.pause(*assigned)
        self._metrics.paused(len(assigned))

    # -- how much waits ----------------------------------------------------------------------------------------

    async def is_stalled(self) -> bool:
        """Tell, after a poll that brought nothing, whether there is something that does not come."""
        lag = await self._look()
        now_s = self._monotonic()
        if now_s - self._quiet_since_s < self._stall_after_s:
            return False
        self._quiet_since_s = now_s
        if lag is None:
            lag = await self._report(ask=True)
        if lag == 0:
            return False
        _log.warning("nothing came for %.0f s although there is something to get", self._stall_after_s)
        return True

    async def _look(self) -> int | None:
        """Ask for the ends now and then; returns the lag if it was asked for, -1 if it could not be told."""
        now_s = self._monotonic()
        if now_s - self._looked_at_s < LOOK_S:
            return None
        self._looked_at_s = now_s
        return await self._report(ask=True)

    async def _report(self, *, ask: bool) -> int:
        """Report the lag of each partition and of all; returns the latter, -1 if it cannot be told.

        Args:
            ask: ask Kafka for the ends, instead of taking them from the last records that came. Else nothing is waited
                for: in the middle of a rebalance there is nothing to report.
        """
        consumer = self._consumer
        assigned = consumer.assignment()
        lag = 0
        try:
            async with asyncio.timeout(self._kafka_timeout_s if ask else 0):
                ends = await consumer.end_offsets(assigned) if ask and assigned else {}
                for place in assigned:
                    end = ends[place] if ask else consumer.highwater(place)
                    if end is not None:
                        waiting = max(0, end - await consumer.position(place)) + self._in_hand[place]
                        self._metrics.lag(place.partition, waiting)
                        lag += waiting
        except (KafkaError, TimeoutError) as error:
            if ask:
                _log.warning("how much waits cannot be told: %r", error)
            return -1
        self._lag = lag
        self._metrics.backlog(lag, drain_s(lag, self._rate.per_s(self._monotonic())))
        return lag
