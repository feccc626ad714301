"""Kills `consume redemptions` at each place of a saga, starts it again, and waits until every saga has ended.

Each place has databases, a topic and a consumer group of its own, so that several are measured at a time.
"""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from yarl import URL

from adapters.kafka import create_topics, make_producer
from adapters.kafka_sender import KafkaSender, Outgoing
from adapters.mysql import Pool, connect_pool, insert_many, orders_dsn, points_dsn, query, transaction
from adapters.points import move_once
from bench.errors import BenchError
from bench.sagas import COMPENSATED, WHOLE, PointFound, SagasFound, crash_points
from bench.servers import EnvironmentOf
from domain.events import dead_topic
from domain.order import fingerprint, order_id
from domain.points import LedgerKind, Movement, grant_ref
from domain.redemption_events import RedemptionAccepted, encode_redemption_accepted
from domain.settings import Settings
from migrations.runner import upgrade
from stack.paths import PROJECT_ROOT

CAMPAIGN: Final = "bench-redeem"
SKU: Final = "sku-0"
PRICE: Final = 300
GRANTED: Final = 1_000
KILL_TIMEOUT_S: Final = 60.0
"""By then a process has come to its place and is dead."""
END_TIMEOUT_S: Final = 300.0
STOP_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.05

_COUNTER: Final = "INSERT INTO campaign_sku (campaign_id, sku_id, allocated) VALUES (%s, %s, %s)"
_REFUSE: Final = (
    "CREATE TRIGGER refuse BEFORE INSERT ON payment FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'"
)
_ENDED: Final = "SELECT COUNT(*) FROM saga WHERE ended_at_ms IS NOT NULL"
_ENDS: Final = """
SELECT s.status, o.status, COALESCE(p.status, 'none'), COUNT(*) FROM saga AS s
 JOIN orders AS o ON o.order_id = s.saga_id LEFT JOIN payment AS p ON p.order_id = s.saga_id
GROUP BY 1, 2, 3"""
_STOCK: Final = """
SELECT c.sold, CAST(COALESCE((SELECT SUM(IF(kind = 'take', quantity, -quantity)) FROM stock_ledger), 0) AS SIGNED),
 (SELECT COUNT(*) FROM stock_return) FROM campaign_sku AS c"""
_POINTS: Final = """
SELECT (SELECT CAST(SUM(balance) AS SIGNED) FROM account), (SELECT CAST(SUM(delta) AS SIGNED) FROM points_ledger),
 (SELECT COUNT(*) FROM points_ledger WHERE kind = 'spend'),
 (SELECT COUNT(*) FROM points_ledger WHERE kind = 'refund')"""


@dataclass(frozen=True, slots=True)
class SagaPlan:
    """What is to be measured.

    Attributes:
        settings: where Kafka and MySQL are.
        environment_of: settings as the environment of a process.
        log: where the processes write what they have to say.
        sagas: for each place.
        at_once: places at a time.
    """

    settings: Settings
    environment_of: EnvironmentOf
    log: Path
    sagas: int
    at_once: int


async def measure_sagas(plan: SagaPlan, say: Callable[[str], None]) -> SagasFound:
    """Kill the process at every place, and return how long it took until all was ended.

    Raises:
        FlashgateError: a server or a process failed, a saga did not end in time, or one ended as it should not.
    """
    turns, migrating = asyncio.Semaphore(plan.at_once), asyncio.Lock()

    async def one(point: str, way: str) -> PointFound:
        async with turns, _place(plan, way, migrating) as place:
            found = await place.measure(point)
            say(f"{point} ({way}): {found.open} of {found.sagas} open, ended after {found.seconds:.1f} s")
            return found

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(point, way)) for point, way in crash_points()]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    points = [task.result() for task in tasks]
    return SagasFound(lease_ms=plan.settings.saga.lease_ms, at_once=plan.at_once, points=points)


@dataclass(frozen=True, slots=True)
class _Place:
    """Databases, a topic and a group of one place."""

    plan: SagaPlan
    settings: Settings
    topic: str
    way: str
    orders: Pool
    points: Pool

    async def measure(self, point: str) -> PointFound:
        count = self.plan.sagas
        await self._publish(count)
        async with self._process(point) as process:
            try:
                async with asyncio.timeout(KILL_TIMEOUT_S):
                    code = await process.wait()
            except TimeoutError:
                raise BenchError(f"{point} was not reached within {KILL_TIMEOUT_S:.0f} s") from None
        if code != -signal.SIGKILL:
            raise BenchError(f"the process should have been killed at {point}, and ended with {code}: {self.plan.log}")
        still_open = count - await self._ended()
        began_s = time.perf_counter()
        async with self._process() as process:
            try:
                async with asyncio.timeout(END_TIMEOUT_S):
                    while await self._ended() < count:
                        if process.returncode is not None:
                            raise BenchError(f"the process ended with {process.returncode}: {self.plan.log}")
                        await asyncio.sleep(POLL_S)
            except TimeoutError:
                raise BenchError(f"{point}: not all sagas have ended after {END_TIMEOUT_S:.0f} s") from None
            seconds = time.perf_counter() - began_s
        await self._check(point)
        return PointFound(point=point, way=self.way, sagas=count, open=still_open, seconds=seconds)

    async def _ended(self) -> int:
        return int((await query(self.orders, _ENDED))[0][0])

    async def _publish(self, count: int) -> None:
        """Grant points to so many users, and have each redeem some of them."""
        events = []
        for number in range(count):
            user = f"user-{number}"
            wanted = Movement(grant_ref(user, "bench"), LedgerKind.GRANT, user, GRANTED)
            await move_once(self.points, wanted, at_ms=_now_ms())
            events.append(_event(number, user))
        sender = KafkaSender(lambda: make_producer(self.settings.kafka), timeout_s=KILL_TIMEOUT_S)
        try:
            await sender.send(
                [Outgoing(self.topic, one.order_id.encode(), encode_redemption_accepted(one)) for one in events]
            )
        finally:
            await sender.close()

    async def _check(self, point: str) -> None:
        """Hold sagas, orders, payments, stock and points against each other.

        Raises:
            BenchError: something ended half.
        """
        count = self.plan.sagas
        whole = count if self.way == WHOLE else 0
        back = count - whole
        ends = ("confirmed", "paid", "paid", count) if whole else ("compensating", "rejected", "none", count)
        left = count * GRANTED - whole * PRICE
        expected = ([ends], [(whole, whole, back)], [(left, left, count, back)])
        found = (
            await query(self.orders, _ENDS),
            await query(self.orders, _STOCK),
            await query(self.points, _POINTS),
        )
        if found != expected:
            raise BenchError(f"{point}: ends, stock and points are {found}, and should be {expected}")

    @contextlib.asynccontextmanager
    async def _process(self, *points: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run the process, and end it."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLASHGATE_")}
        with self.plan.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bench.saga_process", self.topic, *points),
                cwd=PROJECT_ROOT,
                env={**inherited, **self.plan.environment_of(self.settings)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                try:
                    async with asyncio.timeout(STOP_TIMEOUT_S):
                        await process.wait()
                finally:
                    if process.returncode is None:
                        process.kill()
                        await process.wait()


@contextlib.asynccontextmanager
async def _place(plan: SagaPlan, way: str, migrating: asyncio.Lock) -> AsyncIterator[_Place]:
    """Make databases, a topic and a group; the databases are dropped afterwards. Alembic migrates one at a time."""
    name = secrets.token_hex(4)
    mysql, consumer = plan.settings.mysql, plan.settings.consumer

    def renamed(dsn: str) -> str:
        url = URL(dsn)
        return str(url.with_path(f"{url.path}_{name}"))

    mysql = msgspec.structs.replace(mysql, orders_dsn=renamed(mysql.orders_dsn), points_dsn=renamed(mysql.points_dsn))
    settings = msgspec.structs.replace(
        plan.settings, mysql=mysql, consumer=msgspec.structs.replace(consumer, group=f"bench-sagas-{name}")
    )
    topic = f"bench.sagas.{name}"
    await create_topics(settings.kafka, [topic, dead_topic(topic)])
    orders_at, points_at = orders_dsn(mysql), points_dsn(mysql)
    async with migrating:
        await asyncio.to_thread(upgrade, "orders", orders_at, connect_timeout_s=mysql.connect_timeout_s)
        await asyncio.to_thread(upgrade, "points", points_at, connect_timeout_s=mysql.connect_timeout_s)
    orders, points = connect_pool(orders_at, mysql), connect_pool(points_at, mysql)
    try:
        async with transaction(orders) as cursor:
            await insert_many(cursor, _COUNTER, [(CAMPAIGN, SKU, plan.sagas)])
        if way == COMPENSATED:
            await query(orders, _REFUSE)
        yield _Place(plan, settings, topic, way, orders, points)
    finally:
        for pool in (orders, points):
            await query(pool, f"DROP DATABASE {pool.dsn.database}")
            await pool.close()


def _event(number: int, user: str) -> RedemptionAccepted:
    return RedemptionAccepted(
        order_id=order_id(CAMPAIGN, user, "key"),
        campaign_id=CAMPAIGN,
        sku_id=SKU,
        user_id=user,
        quantity=1,
        points=PRICE,
        fingerprint=fingerprint(SKU, 1),
        hold_no=1,
        accepted_at_ms=_now_ms(),
        outbox_id=f"{_now_ms()}-{number}",
        outbox_index=0,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
