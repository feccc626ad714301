"""What a consumer counts, and how Prometheus sees it."""

import os
import re
from pathlib import Path
from typing import Final, Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

MULTIPROCESS_DIR: Final = "PROMETHEUS_MULTIPROC_DIR"
_GAUGE_FILE: Final = re.compile(r"gauge_live[a-z]+_([0-9]+)\.db")


def forget_dead_processes() -> None:
    """Take the gauges of processes that are gone out of the sums: a writer that was killed could not do so itself."""
    folder = os.environ.get(MULTIPROCESS_DIR)
    if not folder:
        return
    for path in Path(folder).glob("gauge_live*.db"):
        name = _GAUGE_FILE.fullmatch(path.name)
        if name and not Path(f"/proc/{name[1]}").exists():
            path.unlink(missing_ok=True)


class ConsumerMetrics(Protocol):
    """What a consumer reports as it works."""

    def batch(self, *, records: int, new: int, duplicates: int) -> None:
        """A batch of `records` was written; `new` deductions, `duplicates` that were known."""

    def second_deductions(self, count: int) -> None:
        """So many records told of stock that was deducted a second time; Redis gets it back."""

    def dead(self, reason: str) -> None:
        """A record went to the dead letters."""

    def retry(self, what: str) -> None:
        """`what` (write, dead_letters, connect) failed and will be tried again."""

    def commit_failed(self) -> None:
        """Offsets could not be committed; the records will come again."""

    def recreated(self) -> None:
        """The Kafka consumer made no progress and was replaced."""

    def lag(self, partition: int, records: int) -> None:
        """So many records of a partition are not done yet."""

    def backlog(self, records: int, drain_s: float) -> None:
        """So many records of all partitions of this process are not done yet; at the present rate it takes so long."""

    def paused(self, partitions: int) -> None:
        """So many partitions are paused, because what was taken cannot be written."""


class PrometheusConsumerMetrics:
    """Implements `ConsumerMetrics`; children are looked up once.

    Args:
        registry: where the metrics are registered.
        name: the consumer's name, a label of all of them.
    """

    def __init__(self, registry: CollectorRegistry, name: str) -> None:
        prefix = "flashgate_consumer"
        labels = ["consumer"]

        def counter(what: str, text: str, *more: str) -> Counter:
            return Counter(f"{prefix}_{what}", text, [*labels, *more], registry=registry)

        self._name = name
        self._records = counter("records", "Records handled").labels(name)
        self._new = counter("new_rows", "Deductions written").labels(name)
        self._duplicates = counter("duplicates", "Records that were known already").labels(name)
        self._commit_failed = counter("commit_failures", "Offset commits that failed").labels(name)
        self._recreated = counter("recreated", "Kafka consumers replaced for lack of progress").labels(name)
        self._second = counter("second_deductions", "Records of stock that was deducted a second time").labels(name)
        self._dead = counter("dead_letters", "Records sent to the dead letters", "reason")
        self._retry = counter("retries", "Attempts that failed and are repeated", "what")
        self._lag = Gauge(
            f"{prefix}_lag",
            "Records not done yet",
            [*labels, "partition"],
            registry=registry,
            multiprocess_mode="mostrecent",
        )

        def gauge(what: str, text: str, mode: Literal["livesum", "livemax"]) -> Gauge:
            made = Gauge(f"{prefix}_{what}", text, labels, registry=registry, multiprocess_mode=mode)
            return made.labels(name)

        self._backlog = gauge("backlog", "Records not done yet, all partitions", "livesum")
        self._drain = gauge("drain_seconds", "Time until nothing waits, at the present rate", "livemax")
        self._paused = gauge("paused_partitions", "Partitions paused until a write succeeds", "livesum")
        sizes = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
        self._size = Histogram(
            f"{prefix}_batch_records",
            "Records in a batch",
            labels,
            buckets=sizes,
            registry=registry,
        ).labels(name)

    def batch(self, *, records: int, new: int, duplicates: int) -> None:
        """See the protocol."""
        self._size.observe(records)
        self._records.inc(records)
        self._new.inc(new)
        self._duplicates.inc(duplicates)

    def second_deductions(self, count: int) -> None:
        """See the protocol."""
        self._second.inc(count)

    def dead(self, reason: str) -> None:
        """See the protocol."""
        self._dead.labels(self._name, reason).inc()

    def retry(self, what: str) -> None:
        """See the protocol."""
        self._retry.labels(self._name, what).inc()

    def commit_failed(self) -> None:
        """See the protocol."""
        self._commit_failed.inc()

    def recreated(self) -> None:
        """See the protocol."""
        self._recreated.inc()

    def lag(self, partition: int, records: int) -> None:
        """See the protocol."""
        self._lag.labels(self._name, str(partition)).set(records)

    def backlog(self, records: int, drain_s: float) -> None:
        """See the protocol."""
        self._backlog.set(records)
        self._drain.set(drain_s)

    def paused(self, partitions: int) -> None:
        """See the protocol."""
        self._paused.set(partitions)
