"""One of the two that `bench drain` compares, as a process of its own that works when it is told to.

Usage: python -m bench.drain_process KIND LOAD TOPIC, with the settings in the environment; LOAD is the product's topic.
Each line on stdin is a number of records to write; the answer is a line of JSON, a `bench.drain.Stint`. The end of
stdin is the end.
"""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable

import msgspec
import orjson
import uvloop

from adapters.mysql import connect_pool, transaction
from bench.cpu import rss_bytes
from bench.drain import BARE, Stint
from bench.drain_load import DrainLoad
from bench.drain_loads import LOADS
from domain.settings import Settings, load_settings

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


async def run_writer(settings: Settings, load: DrainLoad, topic: str) -> None:
    """Run the product's own writer, batch by batch, until it has done as many records as it was told."""
    pool = connect_pool(load.dsn(settings), settings.mysql)
    done, told = Done(), 0
    writer = load.writer(settings, pool, topic=topic, metrics=done)

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


async def run_bare(settings: Settings, load: DrainLoad) -> None:
    """Insert rows that are in memory already, by `executemany`, in transactions of the same size, and nothing else."""
    pool = connect_pool(load.dsn(settings), settings.mysql)
    size = settings.consumer.batch_max
    at = 0

    async def work(records: int) -> Stint:
        nonlocal at
        starts = range(at, at + records, size)
        batches = [load.bare_batch(range(start, min(start + size, at + records))) for start in starts]
        at += records
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        for made in batches:
            async with transaction(pool) as cursor:
                await load.insert_bare(cursor, made)
        return _stint(records, began_s, began_cpu_s)

    try:
        await _serve(work)
    finally:
        await pool.close()


def main() -> None:
    """Run what the arguments name."""
    kind, name, topic = sys.argv[1:]
    settings, load = load_settings(env=os.environ), LOADS[name]
    uvloop.run(run_bare(settings, load) if kind == BARE else run_writer(settings, load, topic))


if __name__ == "__main__":
    main()
