"""What a consumer reported."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Recorded:
    """Implements ConsumerMetrics by remembering."""

    records: int = 0
    new: int = 0
    duplicates: int = 0
    second: int = 0
    deads: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    commit_failures: int = 0
    replaced: int = 0
    lags: dict[int, int] = field(default_factory=dict)
    backlogs: list[tuple[int, float]] = field(default_factory=list)
    """(records, seconds until they are done) as they were reported."""
    paused_now: int = 0
    paused_most: int = 0
    batches: list[int] = field(default_factory=list)

    def batch(self, *, records: int, new: int, duplicates: int) -> None:
        """Add up."""
        self.records += records
        self.batches.append(records)
        self.new += new
        self.duplicates += duplicates

    def second_deductions(self, count: int) -> None:
        """Add up."""
        self.second += count

    def dead(self, reason: str) -> None:
        """Add up."""
        self.deads[reason] += 1

    def retry(self, what: str) -> None:
        """Add up."""
        self.retries[what] += 1

    def commit_failed(self) -> None:
        """Add up."""
        self.commit_failures += 1

    def recreated(self) -> None:
        """Add up."""
        self.replaced += 1

    def lag(self, partition: int, records: int) -> None:
        """Keep the last."""
        self.lags[partition] = records

    def backlog(self, records: int, drain_s: float) -> None:
        """Keep all."""
        self.backlogs.append((records, drain_s))

    def paused(self, partitions: int) -> None:
        """Keep the last and the most."""
        self.paused_now = partitions
        self.paused_most = max(self.paused_most, partitions)
