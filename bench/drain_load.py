"""What `bench drain` needs to know of a topic: its records, its tables, its writer, and a bare loop for the same rows.

Records are made by number, so that any process can make the same ones.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from adapters.mysql import Pool
from consumers.metrics import ConsumerMetrics
from consumers.writer import Writer
from domain.settings import Dsn, Settings
from migrations.runner import Schema


class Tally(NamedTuple):
    """What the tables say.

    Attributes:
        records: that are there.
        agree: whether everything that was counted says the same.
        text: what was counted.
    """

    records: int
    agree: bool
    text: str


class DrainLoad(Protocol):
    """One topic. `Any` below is whatever a bare loop inserts in one transaction."""

    topic: str
    """The product's; the bench fills one of its own."""
    schema: Schema
    what: str
    """The records, in the plural."""

    def record(self, number: int) -> tuple[bytes, bytes]:
        """Return key and value of a record."""

    def dsn(self, settings: Settings) -> Dsn:
        """Return where the schema is."""

    def with_database(self, settings: Settings, database: str) -> Settings:
        """Return settings with another database for the schema, on the same server."""

    async def prepare(self, pool: Pool, records: int) -> None:
        """Write what has to be there before so many records come."""

    def writer(self, settings: Settings, pool: Pool, *, topic: str, metrics: ConsumerMetrics) -> Writer[Any, Any]:
        """Return the product's own writer."""

    def bare_batch(self, numbers: range) -> Any:  # noqa: ANN401
        """Return what a bare loop inserts in one transaction for these records, made ready in memory."""

    async def insert_bare(self, cursor: Any, made: Any) -> None:  # noqa: ANN401
        """Insert it."""

    async def tally(self, pool: Pool, timeout_s: float) -> Tally:
        """Count what is there."""


class NoRecord:
    """Stands for the Kafka record that a bare loop's rows do not come from."""

    topic, partition, offset = "", 0, 0
    key = value = None
    headers: Sequence[tuple[str, bytes]] = ()


NO_RECORD: Final = NoRecord()


def replace_database(dsn: str, database: str) -> str:
    """Return a DSN with another database."""
    return f"{dsn.rpartition('/')[0]}/{database}"
