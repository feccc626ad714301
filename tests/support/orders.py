"""A sale of its own on the shared servers: databases, topics and a group that no other test uses."""

import asyncio
import contextlib
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from adapters import kafka
from adapters.mysql import Pool, query
from consumers.app import orders_group
from consumers.dead_letters import DeadLetters
from consumers.orders import OrderWriter
from domain.campaign import Campaign
from domain.events import OrderAccepted, dead_topic, encode_order_accepted
from domain.settings import Dsn, Settings, load_settings
from migrations.runner import upgrade
from stack.servers import Endpoints
from tests.support.allocated import allocate_in_mysql
from tests.support.children import inherited_environment
from tests.support.events import sample_campaign
from tests.support.metrics import Recorded

ROOT: Final = Path(__file__).parents[2]
SESSION_TIMEOUT_MS: Final = 6_000


async def members_of(settings: Settings, group: str) -> int:
    """Return how many members a consumer group has."""
    admin = kafka.Admin(settings.kafka)
    await admin.start()
    try:
        (answer,) = await admin.client.describe_consumer_groups([group])
    finally:
        await admin.stop()
    (found,) = answer.to_object()["groups"]
    return len(found["members"])


@dataclass
class Sale:
    """One campaign with its databases and topics."""

    settings: Settings
    orders_dsn: Dsn
    orders: Pool
    catalog: Pool
    topic: str
    campaign: Campaign

    async def publish(self, records: Sequence[OrderAccepted | tuple[bytes | None, bytes | None]]) -> None:
        """Write events, or (key, value) as they are, in this order."""
        producer = kafka.make_producer(self.settings.kafka)
        await producer.start()
        try:
            for record in records:
                if isinstance(record, OrderAccepted):
                    key: bytes | None = record.order_id.encode()
                    value: bytes | None = encode_order_accepted(record)
                else:
                    key, value = record
                await producer.send(self.topic, value=value, key=key)
            await producer.flush()
        finally:
            await producer.stop()

    def writer(
        self,
        metrics: Recorded,
        *,
        pool: Pool | None = None,
        group: str | None = None,
        batch_max: int = 1_000,
        batch_min: int = 100,
        dead_letters_bootstrap: str | None = None,
        poll_interval_max_ms: int = kafka.POLL_INTERVAL_MAX_MS,
    ) -> OrderWriter:
        """Return a writer for this sale."""
        consumer = msgspec.structs.replace(self.settings.consumer, batch_max=batch_max, batch_min=batch_min)
        settings = msgspec.structs.replace(self.settings, consumer=consumer)

        for_dead = msgspec.structs.replace(
            settings.kafka,
            bootstrap=dead_letters_bootstrap or settings.kafka.bootstrap,
        )

        def make_consumer() -> Any:
            return kafka.make_consumer(
                settings.kafka,
                [self.topic],
                group=group or f"{settings.consumer.group}.orders",
                session_timeout_ms=settings.consumer.session_timeout_ms,
                poll_interval_max_ms=poll_interval_max_ms,
            )

        return OrderWriter(
            settings,
            pool=pool or self.orders,
            make_consumer=make_consumer,
            dead_letters=DeadLetters(
                lambda: kafka.make_producer(for_dead, max_request_bytes=kafka.DEAD_RECORD_BYTES_MAX),
                dead_topic(self.topic),
                timeout_s=10.0,
                now_ms=lambda: 1_790_000_000_000,
            ),
            metrics=metrics,
        )

    async def drain(self, writer: OrderWriter, metrics: Recorded, records: int) -> None:
        """Let a writer work until it has handled so many records, then close it."""
        try:
            while metrics.records < records:
                await writer.run_once()
        finally:
            await writer.close()

    async def committed(self) -> int:
        """Return how many records the group has committed, over all partitions."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka.bootstrap,
            group_id=f"{self.settings.consumer.group}.orders",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            places = [TopicPartition(self.topic, number) for number in range(self.settings.kafka.partitions)]
            return sum([await consumer.committed(place) or 0 for place in places])
        finally:
            await consumer.stop()

    async def members(self) -> int:
        """Return how many members the group has."""
        return await members_of(self.settings, orders_group(self.settings))

    async def dead_letters(self) -> list[Any]:
        """Return all records of the dead-letter topic."""
        topic = dead_topic(self.topic)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka.bootstrap,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            places = [TopicPartition(topic, number) for number in range(self.settings.kafka.partitions)]
            consumer.assign(places)
            wanted = sum((await consumer.end_offsets(places)).values())
            found: list[Any] = []
            while len(found) < wanted:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += records
            return found
        finally:
            await consumer.stop()

    async def spawn(self, fail_point: str, *, what: str = "kill") -> asyncio.subprocess.Process:
        """Start a writer in a process of its own that kills itself at a fail point, or stops itself ("stop")."""
        settings = self.settings
        env = {
            "FLASHGATE_KAFKA_BOOTSTRAP": settings.kafka.bootstrap,
            "FLASHGATE_KAFKA_PARTITIONS": str(settings.kafka.partitions),
            "FLASHGATE_MYSQL_ORDERS_DSN": settings.mysql.orders_dsn,
            "FLASHGATE_CONSUMER_GROUP": settings.consumer.group,
            "FLASHGATE_CONSUMER_SESSION_TIMEOUT_MS": str(settings.consumer.session_timeout_ms),
        }
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.support.consumer_child",
            self.topic,
            fail_point,
            what,
            cwd=ROOT,
            env={**inherited_environment(), **env},
            stdin=subprocess.DEVNULL,
        )

    async def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        ((count,),) = await query(self.orders, f"SELECT COUNT(*) FROM {table}")  # noqa: S608
        return int(count)

    async def sold(self) -> dict[str, int]:
        """Return SKU → units sold, by the counters."""
        rows = await query(self.orders, "SELECT sku_id, sold FROM campaign_sku WHERE campaign_id = 'c-1'")
        return dict(rows)

    async def assert_whole(self, events: Sequence[OrderAccepted]) -> None:
        """Assert that exactly these orders are stored, one ledger row per hold, and the counters equal the ledger."""
        stored = await query(self.orders, "SELECT order_id, quantity FROM orders")
        assert sorted(stored) == sorted({(one.order_id, one.quantity) for one in events})
        taken = await query(self.orders, "SELECT order_id, hold_no, kind FROM stock_ledger")
        assert sorted(taken) == sorted({(one.order_id, one.hold_no, "take") for one in events})
        ledger = await query(
            self.orders,
            "SELECT sku_id, CAST(SUM(quantity) AS SIGNED) FROM stock_ledger GROUP BY sku_id",
        )
        assert {sku_id: sold for sku_id, sold in (await self.sold()).items() if sold} == dict(ledger)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; unbounded, the test's own time-out bounds it."""
    while not condition():  # noqa: ASYNC110 -- what is waited for tells nobody
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def new_sale(endpoints: Endpoints, *, partitions: int = 2) -> AsyncIterator[Sale]:
    """Make databases, topics and a group of one's own; the databases are dropped afterwards."""
    name = secrets.token_hex(4)
    login = f"{endpoints.mysql_user}:{endpoints.mysql_password}@{endpoints.mysql_host}:{endpoints.mysql_port}"
    settings = load_settings(
        defaults={
            "kafka": {"bootstrap": endpoints.kafka_bootstrap, "partitions": partitions},
            "mysql": {
                "orders_dsn": f"mysql://{login}/fg_orders_{name}",
                "catalog_dsn": f"mysql://{login}/fg_catalog_{name}",
            },
            "consumer": {"group": f"group-{name}", "session_timeout_ms": SESSION_TIMEOUT_MS},
        },
    )
    dsns = {
        schema: Dsn(
            host=endpoints.mysql_host,
            port=endpoints.mysql_port,
            user=endpoints.mysql_user,
            password=endpoints.mysql_password,
            database=f"fg_{schema}_{name}",
        )
        for schema in ("orders", "catalog")
    }
    upgrade("orders", dsns["orders"], connect_timeout_s=5)
    upgrade("catalog", dsns["catalog"], connect_timeout_s=5)
    pools = {schema: Pool(dsn, size_max=8, connect_timeout_s=5) for schema, dsn in dsns.items()}
    topic = f"orders.accepted.{name}"
    sale = Sale(settings, dsns["orders"], pools["orders"], pools["catalog"], topic, sample_campaign("c-1"))
    try:
        await kafka.create_topics(settings.kafka, [topic, dead_topic(topic)])
        await allocate_in_mysql(sale.catalog, sale.orders, sale.campaign)
        yield sale
    finally:
        for pool in pools.values():
            await query(pool, f"DROP DATABASE {pool.dsn.database}")
            await pool.close()
