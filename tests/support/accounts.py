"""Accounts of a test's own on the shared servers: a database, topics and a group that no other test uses."""

import asyncio
import contextlib
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from adapters import kafka
from adapters.kafka_reader import FullRecord, open_reader
from adapters.mysql import Pool, points_dsn, query
from cli.config import as_environment
from consumers.app import AwardWriter, make_award_writer
from domain.events import PointsAwarded, dead_topic, encode_points_awarded
from domain.order import order_id
from domain.settings import Settings, load_settings
from migrations.runner import upgrade
from stack.paths import PROJECT_ROOT
from stack.servers import Endpoints
from tests.support.children import inherited_environment
from tests.support.metrics import Recorded

CAMPAIGN: Final = "spin-1"
AT_MS: Final = 1_790_000_000_000


def award(number: int, *, user: str = "", points: int = 50) -> PointsAwarded:
    """Return the award of draw `number`; the same number is the same draw."""
    return PointsAwarded(
        ref_id=order_id(CAMPAIGN, f"drawer-{number}", "key"),
        user_id=user or f"drawer-{number}",
        campaign_id=CAMPAIGN,
        points=points,
        at_ms=AT_MS + number,
    )


@dataclass
class Accounts:
    """A database fg_points with a topic of awards for it."""

    settings: Settings
    pool: Pool
    topic: str

    async def publish(self, records: Sequence[PointsAwarded | tuple[bytes | None, bytes | None]]) -> None:
        """Write awards, or (key, value) as they are, in this order."""
        producer = kafka.make_producer(self.settings.kafka)
        await producer.start()
        try:
            for record in records:
                if isinstance(record, PointsAwarded):
                    key: bytes | None = record.ref_id.encode()
                    value: bytes | None = encode_points_awarded(record)
                else:
                    key, value = record
                await producer.send(self.topic, value=value, key=key)
            await producer.flush()
        finally:
            await producer.stop()

    def writer(
        self, metrics: Recorded, *, pool: Pool | None = None, group: str = "", batch_max: int = 1_000
    ) -> AwardWriter:
        """Return a writer of these awards."""
        changes = {"batch_max": batch_max, "group": group or self.settings.consumer.group}
        settings = msgspec.structs.replace(
            self.settings, consumer=msgspec.structs.replace(self.settings.consumer, **changes)
        )
        return make_award_writer(settings, pool or self.pool, topic=self.topic, metrics=metrics)

    async def drain(self, writer: AwardWriter, metrics: Recorded, records: int) -> None:
        """Let a writer work until it has handled so many records, then close it."""
        try:
            while metrics.records < records:
                await writer.run_once()
        finally:
            await writer.close()

    async def spawn(self, fail_point: str) -> asyncio.subprocess.Process:
        """Start a writer in a process of its own that kills itself at a fail point."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.consumer_child", self.topic, fail_point, "kill", "points"),
            cwd=PROJECT_ROOT,
            env={**inherited_environment(), **as_environment(msgspec.to_builtins(self.settings))},
            stdin=subprocess.DEVNULL,
        )

    async def dead_letters(self) -> list[FullRecord]:
        """Return all records of the dead-letter topic."""
        topic = dead_topic(self.topic)
        async with open_reader(self.settings.kafka) as reader:
            return [one async for one in reader.read(topic, await reader.spans(topic))]

    async def balances(self) -> dict[str, int]:
        """Return user → balance."""
        return dict(await query(self.pool, "SELECT user_id, balance FROM account"))

    async def ledger(self) -> list[tuple[str, str, str, int]]:
        """Return (ref_id, kind, user, points) of every row."""
        rows = await query(self.pool, "SELECT ref_id, kind, user_id, delta FROM points_ledger ORDER BY ref_id, kind")
        return [(one[0], one[1], one[2], one[3]) for one in rows]

    async def assert_sums(self) -> None:
        """Assert that every balance is the sum of its ledger and never below zero, and no row is without account."""
        rows = await query(self.pool, "SELECT user_id, CAST(SUM(delta) AS SIGNED) FROM points_ledger GROUP BY user_id")
        balances = await self.balances()
        assert {user: balance for user, balance in balances.items() if balance} == {
            user: total for user, total in rows if total
        }
        assert min(balances.values(), default=0) >= 0

    async def assert_awarded(self, awards: Sequence[PointsAwarded]) -> None:
        """Assert that exactly these awards stand in the ledger, once each, and make up the balances."""
        assert await self.ledger() == sorted({(one.ref_id, "award", one.user_id, one.points) for one in awards})
        await self.assert_sums()


@contextlib.asynccontextmanager
async def new_accounts(endpoints: Endpoints, *, partitions: int = 2) -> AsyncIterator[Accounts]:
    """Make a database, topics and a group of one's own; the database is dropped afterwards."""
    name = secrets.token_hex(4)
    login = f"{endpoints.mysql_user}:{endpoints.mysql_password}@{endpoints.mysql_host}:{endpoints.mysql_port}"
    settings = load_settings(
        defaults={
            "kafka": {"bootstrap": endpoints.kafka_bootstrap, "partitions": partitions},
            "mysql": {"points_dsn": f"mysql://{login}/fg_points_{name}"},
            "consumer": {"group": f"group-{name}", "session_timeout_ms": 6_000, "batch_linger_ms": 20},
        }
    )
    dsn = points_dsn(settings.mysql)
    await asyncio.to_thread(upgrade, "points", dsn, connect_timeout_s=5)
    pool = Pool(dsn, size_max=8, connect_timeout_s=5)
    topic = f"points.awarded.{name}"
    try:
        await kafka.create_topics(settings.kafka, [topic, dead_topic(topic)])
        yield Accounts(settings, pool, topic)
    finally:
        await query(pool, f"DROP DATABASE {dsn.database}")
        await pool.close()
