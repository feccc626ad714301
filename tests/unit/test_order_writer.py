"""The writer's loop with Kafka and MySQL played by the test: what it does when either fails."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    CommitFailedError,
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaConnectionError,
    UnsupportedVersionError,
)

from adapters.mysql import DataRefusedError, Pool
from consumers.batch import Dead, Item, Outcome, Reason
from consumers.dead_letters import DeadLetters
from consumers.orders import OrderWriter
from consumers.orders_sql import OrderStore, Prepared
from domain.errors import BackendError, OutcomeUnknownError
from domain.events import encode_order_accepted
from domain.settings import load_settings
from tests.support.events import event
from tests.support.metrics import Recorded
from tests.support.records import Plain

PLACE = TopicPartition("orders.accepted", 0)


@dataclass(eq=False)
class FakeConsumer:
    """Stands for a Kafka consumer."""

    polls: list[list[Plain] | Exception] = field(default_factory=list)
    end: int = 0
    at: int = 0
    on_poll: Callable[[], None] = lambda: None
    commit_error: Exception | None = None
    assigned: set[TopicPartition] = field(default_factory=lambda: {PLACE})
    commits: list[dict[TopicPartition, int]] = field(default_factory=list)
    stopped: bool = False
    clock: list[float] = field(default_factory=lambda: [0.0])
    pauses: set[TopicPartition] = field(default_factory=set)
    polls_while_paused: int = 0
    given_back: list[tuple[TopicPartition, int]] = field(default_factory=list)

    async def start(self) -> None:
        """Connect."""

    async def stop(self) -> None:
        """Disconnect."""
        self.stopped = True

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Plain]]:
        """Return the next poll."""
        await asyncio.sleep(0)
        assert timeout_ms > 0
        self.on_poll()
        if self.pauses >= self.assigned:
            self.polls_while_paused += 1
            await asyncio.sleep(0.001)
            return {}
        if not self.polls:
            self.clock[0] += timeout_ms / 1000
            return {}
        poll = self.polls.pop(0)
        if isinstance(poll, Exception):
            raise poll
        self.polls[:0] = [poll[max_records:]] if poll[max_records:] else []
        poll = poll[:max_records]
        if poll:
            self.at = poll[-1].offset + 1
        return {PLACE: poll} if poll else {}

    def pause(self, *places: TopicPartition) -> None:
        """Hold partitions."""
        self.pauses |= set(places)

    def resume(self, *places: TopicPartition) -> None:
        """Go on with partitions."""
        self.pauses -= set(places)

    def paused(self) -> set[TopicPartition]:
        """Return what is held."""
        return self.pauses

    def seek(self, place: TopicPartition, offset: int) -> None:
        """Note what was given back."""
        self.given_back.append((place, offset))

    def assignment(self) -> set[TopicPartition]:
        """Return what is ours."""
        return self.assigned

    def highwater(self, place: TopicPartition) -> int:
        """Return the end."""
        assert place in self.assigned
        return self.end

    async def end_offsets(self, places: set[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the ends."""
        return dict.fromkeys(places, self.end)

    async def position(self, _place: TopicPartition) -> int:
        """Return where we are."""
        return self.at

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Note or refuse."""
        if self.commit_error is not None:
            raise self.commit_error
        self.commits.append(offsets)


class FakeDeadLetters:
    """Stands for the dead letters."""

    def __init__(self) -> None:
        self.sent: list[Dead] = []

    async def send(self, dead: Sequence[Dead]) -> None:
        """Note."""
        self.sent += dead

    async def close(self) -> None:
        """Do nothing."""


@dataclass
class World:
    """A writer and what it works on."""

    writer: OrderWriter
    consumers: list[FakeConsumer]
    made: list[FakeConsumer]
    metrics: Recorded
    dead: FakeDeadLetters
    clock: list[float]


def make(*consumers: FakeConsumer, **consumer: int) -> World:
    """Return a writer that gets these consumers, one after the other; more: settings of `[consumer]`."""
    waiting, made = list(consumers), list[FakeConsumer]()
    metrics, dead, clock = Recorded(), FakeDeadLetters(), [0.0]

    def next_consumer() -> FakeConsumer:
        made.append(waiting.pop(0))
        made[-1].clock = clock
        return made[-1]

    writer = OrderWriter(
        load_settings(
            defaults={"consumer": {"retry_initial_s": 0.001, "retry_max_s": 0.002, "batch_linger_ms": 1, **consumer}}
        ),
        pool=cast("Pool", None),
        make_consumer=next_consumer,
        dead_letters=cast("DeadLetters", dead),
        metrics=metrics,
        stall_after_s=30.0,
        monotonic=lambda: clock[0],
        jitter=lambda: 0.5,
    )
    return World(writer, list(consumers), made, metrics, dead, clock)


Store = Callable[[Sequence[Item]], Outcome]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> list[Store]:
    """Return a list into which a test puts what MySQL does, attempt by attempt; afterwards all is new."""
    plan: list[Store] = []

    async def fake(_self: Any, items: Sequence[Item], *, now_ms: int, prepared: Prepared | None) -> Outcome:
        assert now_ms > 0
        assert prepared is None
        await asyncio.sleep(0)
        return plan.pop(0)(items) if plan else Outcome(new=len(items))

    monkeypatch.setattr(OrderStore, "store", fake)
    return plan


def records(count: int, first: int = 0) -> list[Plain]:
    """Return records of good events."""
    return [Plain(offset=first + number, value=encode_order_accepted(event(first + number))) for number in range(count)]


def failing(error: Exception) -> Store:
    """Return an attempt that fails."""

    def fail(_items: Sequence[Item]) -> Outcome:
        raise error

    return fail


async def test_a_transient_error_repeats_the_same_batch(store: list[Store]) -> None:
    """The same records are stored again until it works; only then are their offsets committed."""
    consumer = FakeConsumer([records(3)], end=3)
    world = make(consumer)
    store += [failing(BackendError("gone")), failing(OutcomeUnknownError("lost"))]
    assert await world.writer.run_once() == 3
    assert consumer.commits == [{PLACE: 3}]
    assert world.metrics.retries["write"] == 2
    assert world.metrics.lags == {0: 0}
    assert world.metrics.backlogs[-1] == (0, 0.0)


async def test_what_cannot_be_written_pauses_the_partitions(store: list[Store]) -> None:
    """While a batch is repeated, partitions are paused and polled, one batch waits, and then everything goes on."""
    consumer = FakeConsumer([records(3), records(3, 3), records(3, 6)], end=9)
    world = make(consumer, batch_min=3, batch_max=3)
    polled: list[int] = []

    def fail_until_polled(items: Sequence[Item]) -> Outcome:
        polled.append(consumer.polls_while_paused)
        if consumer.polls_while_paused < 3:
            store.insert(0, fail_until_polled)
            raise BackendError("gone")
        assert consumer.pauses == {PLACE}
        assert world.metrics.paused_now == 1
        return Outcome(new=len(items))

    store.append(fail_until_polled)
    assert await world.writer.run_once() == 3
    assert polled[0] == 0
    assert polled[-1] >= 3
    assert consumer.polls == [records(3, 6)]
    assert (consumer.pauses, world.metrics.paused_now, world.metrics.paused_most) == (set(), 0, 1)
    assert await world.writer.run_once() == 3
    assert await world.writer.run_once() == 3
    await world.writer.close()
    assert [list(one.values()) for one in consumer.commits] == [[3], [6], [9]]
    assert world.metrics.new == 9


async def test_a_partition_that_comes_while_others_are_paused_is_given_back(store: list[Store]) -> None:
    """A record that a rebalance brings while nothing can be written is not kept: its partition goes back to it."""
    consumer = FakeConsumer([records(1), records(1, 1), records(1, 2)])
    world = make(consumer, batch_min=1, batch_max=1)

    def rebalance() -> None:
        """Have the partition come anew, not paused, once."""
        if consumer.pauses and not consumer.given_back:
            consumer.pauses.clear()

    def fail_until_given_back(items: Sequence[Item]) -> Outcome:
        if not consumer.given_back:
            store.insert(0, fail_until_given_back)
            raise BackendError("gone")
        return Outcome(new=len(items))

    consumer.on_poll = rebalance
    store.append(fail_until_given_back)
    assert await world.writer.run_once() == 1
    assert consumer.given_back[0][0] == PLACE
    assert consumer.pauses == set()


async def test_an_error_of_polling_that_will_not_pass_is_not_hidden(store: list[Store]) -> None:
    """What is wrong with Kafka while MySQL is waited for ends the writer, too, and nothing is committed."""
    consumer = FakeConsumer([records(3)])
    world = make(consumer)

    def break_kafka() -> None:
        if consumer.pauses:
            raise GroupAuthorizationFailedError

    def fail_until_broken(items: Sequence[Item]) -> Outcome:
        if not world.metrics.paused_most:
            store.insert(0, fail_until_broken)
            raise BackendError("gone")
        return Outcome(new=len(items))

    consumer.on_poll = break_kafka
    store.append(fail_until_broken)
    with pytest.raises(GroupAuthorizationFailedError):
        await world.writer.run()
    assert consumer.commits == []
    assert consumer.stopped


async def test_batches_grow_with_the_lag(store: list[Store]) -> None:
    """A batch is a tenth of what waits, between the two bounds."""
    assert store == []
    consumer = FakeConsumer([records(2_000)], end=2_000)
    world = make(consumer, batch_min=10, batch_max=120)
    while world.metrics.records < 2_000:
        await world.writer.run_once()
    batches = world.metrics.batches
    assert batches[0] == 10
    assert max(batches) == 120
    assert batches[-1] <= 10
    assert sum(batches) == 2_000


async def test_the_lag_is_told_while_nothing_comes(store: list[Store]) -> None:
    """An idle writer asks for the ends every two seconds, and tells what waits and that nothing is being done."""
    assert store == []
    consumer = FakeConsumer(end=5, at=2)
    world = make(consumer)
    await world.writer.run_once()
    assert world.metrics.lags == {}
    world.clock[0] = 2.5
    await world.writer.run_once()
    assert world.metrics.lags == {0: 3}
    assert world.metrics.backlogs == [(3, math.inf)]


async def test_stopped_between_attempts_commits_nothing(store: list[Store]) -> None:
    """A writer told to stop while MySQL is away ends, and the records stay for its successor."""
    consumer = FakeConsumer([records(3)])
    world = make(consumer)

    def stop_and_fail(_items: Sequence[Item]) -> Outcome:
        world.writer.stop()
        raise BackendError("gone")

    store.append(stop_and_fail)
    await world.writer.run()
    assert consumer.commits == []
    assert consumer.stopped


async def test_stopped_during_a_batch_finishes_it(store: list[Store]) -> None:
    """A batch that can be written is written and committed before the writer ends."""
    consumer = FakeConsumer([records(3), records(3, 3)])
    world = make(consumer)

    def stop_and_store(items: Sequence[Item]) -> Outcome:
        world.writer.stop()
        return Outcome(new=len(items))

    store.append(stop_and_store)
    world.clock[0] = 1.0
    await world.writer.run()
    assert [sum(one.values()) for one in consumer.commits] in ([3], [6])
    assert consumer.stopped


@pytest.mark.parametrize("error", [CommitFailedError(), IllegalStateError("not assigned"), KafkaConnectionError()])
async def test_a_failed_offset_commit_is_survived(store: list[Store], error: Exception) -> None:
    """Offsets that cannot be committed only mean that records come again."""
    assert store == []
    consumer = FakeConsumer([records(3)], commit_error=error)
    world = make(consumer)
    assert await world.writer.run_once() == 3
    assert (world.metrics.commit_failures, world.metrics.new) == (1, 3)


async def test_a_forbidden_offset_commit_is_not_hidden(store: list[Store]) -> None:
    """An error of Kafka's that will not pass ends the writer."""
    assert store == []
    world = make(FakeConsumer([records(3)], commit_error=GroupAuthorizationFailedError()))
    with pytest.raises(GroupAuthorizationFailedError):
        await world.writer.run()


async def test_offsets_of_a_lost_partition_are_not_committed(store: list[Store]) -> None:
    """A partition that went to another consumer while its records were written is left to it."""
    consumer = FakeConsumer([records(3)])
    world = make(consumer)

    def rebalance(items: Sequence[Item]) -> Outcome:
        consumer.assigned = set()
        return Outcome(new=len(items))

    store.append(rebalance)
    assert await world.writer.run_once() == 3
    assert consumer.commits == []


async def test_an_unknown_error_is_not_hidden(store: list[Store]) -> None:
    """What nobody has thought of ends the writer, with nothing committed, and the consumer is given up."""
    consumer = FakeConsumer([records(3)])
    world = make(consumer)
    store.append(failing(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        await world.writer.run()
    assert consumer.commits == []
    assert consumer.stopped


async def test_a_refused_record_is_found_by_bisection(store: list[Store]) -> None:
    """MySQL refuses a batch because of one record: that one is dead, every other is stored."""
    bad = event(11).order_id
    stored: list[str] = []

    def refuse(items: Sequence[Item]) -> Outcome:
        ids = [item.event.order_id for item in items]
        if bad in ids:
            raise DataRefusedError("no")
        stored.extend(ids)
        return Outcome(new=len(items))

    store += [refuse] * 100
    world = make(FakeConsumer([records(16)]))
    assert await world.writer.run_once() == 16
    assert [(dead.record.offset, dead.reason) for dead in world.dead.sent] == [(11, Reason.REFUSED)]
    assert sorted(stored) == sorted(event(number).order_id for number in range(16) if number != 11)


async def test_a_silent_consumer_with_lag_is_replaced(store: list[Store]) -> None:
    """A consumer that gets nothing for the named time although there is something is replaced by a new one."""
    assert store == []
    silent, fresh = FakeConsumer(end=5, at=2), FakeConsumer([records(2)])
    world = make(silent, fresh)
    await world.writer.run_once()
    assert world.made == [silent]
    world.clock[0] = 31.0
    await world.writer.run_once()
    assert world.made == [silent, fresh]
    assert silent.stopped
    assert world.metrics.replaced == 1
    assert await world.writer.run_once() == 2


async def test_a_quiet_consumer_without_lag_is_kept(store: list[Store]) -> None:
    """Nothing to get is no reason to replace anything."""
    assert store == []
    world = make(FakeConsumer(end=5, at=5))
    for now in (0.0, 31.0, 62.0):
        world.clock[0] = now
        assert await world.writer.run_once() == 0
    assert world.metrics.replaced == 0


async def test_a_failed_fetch_replaces_the_consumer_or_ends_the_writer(store: list[Store]) -> None:
    """Errors that may pass get a new consumer, which starts from the committed offsets; others are not hidden."""
    assert store == []
    broken, fresh = FakeConsumer([KafkaConnectionError()]), FakeConsumer([UnsupportedVersionError()])
    world = make(broken, fresh)
    assert await world.writer.run_once() == 0
    assert world.made == [broken, fresh]
    with pytest.raises(UnsupportedVersionError):
        await world.writer.run_once()
    assert fresh.stopped
