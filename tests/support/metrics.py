"""What a consumer reported."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Recorded:
    """Implements ConsumerMetrics by remembering."""

    records: int = 0
    new: int = 0
    duplicates: int = 0
    deads: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    commit_failures: int = 0
    replaced: int = 0
    lags: dict[int, int] = field(default_factory=dict)

    def batch(self, *, records: int, new: int, duplicates: int) -> None:
        """Add up."""
        self.records += records
        self.new += new
        self.duplicates += duplicates

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
