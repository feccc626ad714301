"""One of the two that `bench drain` compares, as a process of its own that works when it is told to.

Usage: python -m bench.drain_process KIND TOPIC, with the settings in the environment. Each line on stdin is
a number of records to write; the answer is a line of JSON, a `bench.drain.Stint`. The end of stdin is the end.
"""

import asyncio
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import orjson
import uvloop

from adapters.mysql import connect_pool, insert_many, orders_dsn, transaction
from adapters.order_tables import INSERT_LEDGER, INSERT_ORDERS, TAKE, ledger_row
from bench.cpu import rss_bytes
from bench.drain import BARE, Stint
from bench.drain_queue import CAMPAIGN_ID, PAY_WITHIN_S, make_event
from consumers.app import make_order_writer
from consumers.batch import Item
from consumers.orders_sql import order_row
from domain.settings import Settings, load_settings

MOVE: Final = "UPDATE campaign_sku SET sold = sold + %s, version = version + 1 WHERE campaign_id = %s AND sku_id = %s"

Work = Callable[[int], Awaitable[Stint]]


class Done:
    """Implements ConsumerMetrics by counting records."""

    def __init__(self) -> None:
        self.records = 0

    def batch(self, *, records: int, new: int, duplicates: int) -> None:
        """Count; whatever is not new was not measured as it should be."""
        if new != records or duplicates:
            raise ValueError(f"{new} of {records} records were new")
        self.records += records

    def second_deductions(self, count: int) -> None:
        """There are none."""

    def dead(self, reason: str) -> None:
        """There are none."""

    def retry(self, what: str) -> None:
        """The time that it takes is measured."""

    def commit_failed(self) -> None:
        """The time that it takes is measured."""

    def recreated(self) -> None:
        """The time that it takes is measured."""

    def lag(self, partition: int, records: int) -> None:
        """Nobody asks."""

    def backlog(self, records: int, drain_s: float) -> None:
        """Nobody asks."""

    def paused(self, partitions: int) -> None:
        """Nobody asks."""


def _stint(records: int, began_s: float, began_cpu_s: float) -> Stint:
    return Stint(
        records=records,
        seconds=time.perf_counter() - began_s,
        cpu_s=time.process_time() - began_cpu_s,
        rss_bytes=rss_bytes(os.getpid()),
    )


async def _serve(work: Work) -> None:
    """Do what each line on stdin says."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        stint = await work(int(line))
        sys.stdout.write(orjson.dumps(msgspec.to_builtins(stint)).decode() + "\n")
        sys.stdout.flush()


async def run_writer(settings: Settings, topic: str) -> None:
    """Run the product's own writer, batch by batch, until it has done as many records as it was told."""
    pool = connect_pool(orders_dsn(settings.mysql), settings.mysql)
    done, told = Done(), 0
    writer = make_order_writer(settings, pool, topic=topic, metrics=done)

    async def work(records: int) -> Stint:
        # The last batch may be finished after the stint; it then counts for the next, as one does for this.
        nonlocal told
        before, began_s, began_cpu_s = told, time.perf_counter(), time.process_time()
        while done.records - before < records:
            await writer.run_once()
        told = done.records
        return _stint(told - before, began_s, began_cpu_s)

    try:
        await _serve(work)
    finally:
        await writer.close()
        await pool.close()


async def run_bare(settings: Settings) -> None:
    """Insert rows that are in memory already, by `executemany`, in transactions of the same size, and nothing else."""
    pool = connect_pool(orders_dsn(settings.mysql), settings.mysql)
    size = settings.consumer.batch_max
    at = 0

    async def work(records: int) -> Stint:
        nonlocal at
        now_ms, nonce = time.time_ns() // 1_000_000, secrets.token_bytes(16)
        items = [Item(record=_NO_RECORD, event=make_event(number)) for number in range(at, at + records)]
        at += records
        rows = [
            (order_row(item, nonce, now_ms, PAY_WITHIN_S), ledger_row(item.event, TAKE, nonce, now_ms))
            for item in items
        ]
        moves = [
            Counter(item.event.sku_id for item in items[start : start + size]) for start in range(0, records, size)
        ]
        del items
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        for number, start in enumerate(range(0, records, size)):
            some = rows[start : start + size]
            async with transaction(pool) as cursor:
                await insert_many(cursor, INSERT_ORDERS, [row[0] for row in some])
                await insert_many(cursor, INSERT_LEDGER, [row[1] for row in some])
                for sku_id, units in sorted(moves[number].items()):
                    await cursor.execute(MOVE, (units, CAMPAIGN_ID, sku_id))
        return _stint(records, began_s, began_cpu_s)

    try:
        await _serve(work)
    finally:
        await pool.close()


class _NoRecord:
    """Stands for the Kafka record that the bare loop's rows do not come from."""

    topic, partition, offset = "", 0, 0
    key = value = None
    headers: tuple[tuple[str, bytes], ...] = ()


_NO_RECORD: Final = _NoRecord()


def main() -> None:
    """Run what the arguments name."""
    kind, topic = sys.argv[1:]
    settings = load_settings(env=os.environ)
    uvloop.run(run_bare(settings) if kind == BARE else run_writer(settings, topic))


if __name__ == "__main__":
    main()
