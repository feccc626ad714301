"""Measures how fast a backlog gets into MySQL: queues it, then lets the writer and a bare loop take turns."""

import asyncio
import contextlib
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import orjson

from adapters.kafka import create_topics
from adapters.mysql import Pool, connect_pool, query
from bench.cpu import cpu_s
from bench.drain import BARE, WRITER, Drained, Stint, overall_per_s, rounds_of, shares
from bench.drain_load import DrainLoad
from bench.drain_queue import queue
from bench.errors import BenchError
from bench.figures import ratio
from bench.servers import EnvironmentOf
from domain.events import dead_topic
from domain.settings import Settings
from migrations.runner import upgrade
from stack.paths import PROJECT_ROOT

SPARE_BATCHES: Final = 4
"""Queued besides: for what is written before the first round, and because the writer stops at the end of a batch."""
STINT_TIMEOUT_S: Final = 1_800.0
STOP_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What is to be measured.

    Attributes:
        records: to be queued.
        batch: records in a transaction.
        settings: where Kafka and MySQL are; databases and a topic of one's own are made there.
        environment_of: settings as the environment of a process.
        server_pid: MySQL's, if it runs here.
        log: where the two write what they have to say.
        load: which records.
    """

    records: int
    batch: int
    settings: Settings
    environment_of: EnvironmentOf
    server_pid: int | None
    log: Path
    load: DrainLoad


async def measure_drain(plan: DrainPlan, say: Callable[[str], None]) -> Drained:
    """Queue the records, and have both write them into tables of their own, a round of each by turns.

    Raises:
        FlashgateError: a server or one of the two failed, or not every row is there at the end.
    """
    name = secrets.token_hex(4)
    topic = f"bench.drain.{name}"
    settings = msgspec.structs.replace(
        plan.settings,
        consumer=msgspec.structs.replace(
            plan.settings.consumer, group=f"bench-drain-{name}", batch_min=plan.batch, batch_max=plan.batch
        ),
    )
    await create_topics(settings.kafka, [topic, dead_topic(topic)])
    load, queued = plan.load, plan.records + SPARE_BATCHES * plan.batch
    say(f"queueing {plan.records:,} {load.what} …")
    began_s = time.perf_counter()
    await queue(settings.kafka, topic, queued, load.record)
    queue_s = time.perf_counter() - began_s
    async with contextlib.AsyncExitStack() as opened:
        hands = {}
        for kind in (WRITER, BARE):
            database = f"fg_drain_{kind.split()[0]}_{name}"
            theirs = load.with_database(settings, database)
            pool = await opened.enter_async_context(_tables(load, theirs, queued))
            hands[kind] = await opened.enter_async_context(_hand(kind, topic, theirs, plan, pool))
        # What happens once: joining the group, connecting, learning the counters.
        first = {kind: await hand.write(plan.batch) for kind, hand in hands.items()}
        stints: dict[str, list[Stint]] = {WRITER: [], BARE: []}
        wanted = 0
        for number, share in enumerate(shares(plan.records, rounds_of(plan.records))):
            wanted += share
            for kind in (WRITER, BARE) if number % 2 == 0 else (BARE, WRITER):
                have = sum(one.records for one in stints[kind])  # the writer stops at the end of a batch
                stints[kind].append(await hands[kind].write(max(1, wanted - have)))
            say(
                f"round {number + 1}: writer {stints[WRITER][-1].per_s:,.0f} records/s, "
                f"bare loop {stints[BARE][-1].per_s:,.0f}; {_left(plan.records, stints[WRITER])}"
            )
        for kind, hand in hands.items():
            written = first[kind].records + sum(one.records for one in stints[kind])
            await _check(load, kind, hand.pool, written, written + (2 * plan.batch if kind == WRITER else 0))
    return Drained(
        records=plan.records,
        batch=plan.batch,
        queue_s=queue_s,
        writer=stints[WRITER],
        bare=stints[BARE],
        rss_start_bytes=first[WRITER].rss_bytes,
    )


def _left(records: int, stints: Sequence[Stint]) -> str:
    """Tell the writer's lag, and how long it will take it to catch up at the pace so far."""
    left = max(0, records - sum(one.records for one in stints))
    return f"{left:,} left, {ratio(left, overall_per_s(stints)):.1f} s to go"


@dataclass(frozen=True, slots=True)
class Hand:
    """One of the two: a process, and its database."""

    kind: str
    process: asyncio.subprocess.Process
    pool: Pool
    server_pid: int | None

    async def write(self, records: int) -> Stint:
        """Have it write so many records, or a few more.

        Raises:
            BenchError: it has ended, or takes far too long.
        """
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None  # noqa: S101 -- both are pipes
        assert stdout is not None  # noqa: S101
        before_s = self._server_cpu_s()
        try:
            stdin.write(f"{records}\n".encode())
            await stdin.drain()
            async with asyncio.timeout(STINT_TIMEOUT_S):
                line = await stdout.readline()
        except (OSError, TimeoutError) as error:
            raise BenchError(f"the {self.kind} does not go on: {error or 'no answer in time'}") from None
        if not line:
            raise BenchError(f"the {self.kind} has ended with code {await self.process.wait()}")
        stint = msgspec.convert(orjson.loads(line), Stint)
        return msgspec.structs.replace(stint, server_cpu_s=self._server_cpu_s() - before_s)

    def _server_cpu_s(self) -> float:
        return cpu_s((self.server_pid,)) if self.server_pid is not None else 0.0


@contextlib.asynccontextmanager
async def _hand(kind: str, topic: str, settings: Settings, plan: DrainPlan, pool: Pool) -> AsyncIterator[Hand]:
    """Start one of the two, and end it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLASHGATE_")}
    with plan.log.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.drain_process",
            kind,
            plan.load.topic,
            topic,
            cwd=PROJECT_ROOT,
            env={**inherited, **plan.environment_of(settings)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    try:
        yield Hand(kind, process, pool, plan.server_pid)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@contextlib.asynccontextmanager
async def _tables(load: DrainLoad, settings: Settings, records: int) -> AsyncIterator[Pool]:
    """Make a database with what has to be there; it is dropped afterwards."""
    dsn = load.dsn(settings)
    await asyncio.to_thread(upgrade, load.schema, dsn, connect_timeout_s=settings.mysql.connect_timeout_s)
    pool = connect_pool(dsn, settings.mysql)
    try:
        await load.prepare(pool, records)
        yield pool
    finally:
        await query(pool, f"DROP DATABASE {dsn.database}")
        await pool.close()


async def _check(load: DrainLoad, kind: str, pool: Pool, at_least: int, at_most: int) -> None:
    """Compare what is there with what was said to be written; a last batch may have been written since.

    Raises:
        BenchError: they differ.
    """
    found = await load.tally(pool, STINT_TIMEOUT_S)
    if not found.agree or not at_least <= found.records <= at_most:
        raise BenchError(f"the {kind} has written {at_least:,} records, and there are {found.text}")
