"""What waits in each partition for a consumer group, and how fast it gets less, as Kafka tells from outside."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec

from adapters.kafka_reader import committed_offsets, open_reader
from consumers.backlog import drain_s
from domain.settings import KafkaSettings

MEASURE_S: Final = 2.0
"""How long the rate is measured."""


class PartitionBacklog(msgspec.Struct, frozen=True, kw_only=True):
    """One partition.

    Attributes:
        topic, partition: which.
        end: the offset of the next record that is written.
        committed: the offset of the next record that is taken; None before anything was committed.
        lag: records in between that are still there.
    """

    topic: str
    partition: int
    end: int
    committed: int | None
    lag: int


class TopicBacklog(msgspec.Struct, frozen=True, kw_only=True):
    """All partitions of one topic.

    Attributes:
        topic: which.
        lag: of all its partitions together.
        per_s: records done a second.
        drain_s: seconds until nothing waits at that rate; None if nothing is done although something waits.
    """

    topic: str
    lag: int
    per_s: float
    drain_s: float | None


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """All partitions of some topics.

    Attributes:
        partitions: sorted.
        topics: sorted, those that have partitions.
        lag: of all together.
        per_s: records done a second, of all together.
        drain_s: seconds until nothing waits in the topic that takes longest; None if one does not drain at all.
    """

    partitions: list[PartitionBacklog]
    topics: list[TopicBacklog]
    lag: int
    per_s: float
    drain_s: float | None


async def read_backlog(
    settings: KafkaSettings,
    groups: Mapping[str, str],
    *,
    monotonic: Callable[[], float],
    measure_s: float = MEASURE_S,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Backlog:
    """Look twice, and return the second look with the rate in between.

    Args:
        settings: where Kafka is.
        groups: topic → the consumer group that takes it. A topic that does not exist has no partitions.
        monotonic: seconds.
        measure_s: the time between the looks.
        sleep: waits so many seconds.

    Raises:
        BackendError: Kafka is not there.
    """
    first, first_s = await _look(settings, groups), monotonic()
    await sleep(measure_s)
    second, second_s = await _look(settings, groups), monotonic()
    return summary(first, second, second_s - first_s)


def summary(first: list[PartitionBacklog], second: list[PartitionBacklog], elapsed_s: float) -> Backlog:
    """Return the second look, with the rate since the first."""
    before = {(one.topic, one.partition): one.end - one.lag for one in first}
    topics = []
    for topic in sorted({one.topic for one in second}):
        parts = [one for one in second if one.topic == topic]
        done = sum(max(0, one.end - one.lag - before.get((topic, one.partition), one.end)) for one in parts)
        lag, per_s = sum(one.lag for one in parts), done / elapsed_s
        needed_s = drain_s(lag, per_s) if lag == 0 or done > 0 else None
        topics.append(TopicBacklog(topic=topic, lag=lag, per_s=per_s, drain_s=needed_s))
    known_s = [one.drain_s for one in topics if one.drain_s is not None]
    return Backlog(
        partitions=second,
        topics=topics,
        lag=sum(one.lag for one in topics),
        per_s=sum(one.per_s for one in topics),
        drain_s=max(known_s, default=0.0) if len(known_s) == len(topics) else None,
    )


async def _look(settings: KafkaSettings, groups: Mapping[str, str]) -> list[PartitionBacklog]:
    found = []
    async with open_reader(settings) as reader:
        for topic, group in sorted(groups.items()):
            committed = await committed_offsets(settings, topic, group)
            for number, span in sorted((await reader.spans(topic)).items()):
                done = committed.get(number)
                next_offset = max(span.start, min(span.end, span.start if done is None else done))
                found.append(
                    PartitionBacklog(
                        topic=topic, partition=number, end=span.end, committed=done, lag=span.end - next_offset
                    )
                )
    return found
