"""Much waits, or cannot be written for a while: writers of accepted orders on real Kafka and MariaDB."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import msgspec
import orjson
import pytest
import pytest_asyncio

from adapters.mysql import Pool
from cli.config import as_environment
from consumers.app import groups, orders_group
from consumers.backlog_view import read_backlog
from consumers.orders import OrderWriter
from domain.settings import Settings
from stack.paths import PROJECT_ROOT
from stack.proxy import Proxy
from stack.servers import Endpoints
from tests.support.children import inherited_environment
from tests.support.events import event
from tests.support.metrics import Recorded
from tests.support.orders import Sale, new_sale, until

pytestmark = pytest.mark.usefixtures("stack")

POLL_INTERVAL_MAX_MS = 1_500


@pytest_asyncio.fixture
async def sale(endpoints: Endpoints) -> AsyncIterator[Sale]:
    """Return a sale of its own on the shared servers."""
    async with new_sale(endpoints) as made:
        yield made


async def test_partitions_are_paused_while_mysql_is_away(sale: Sale) -> None:
    """MySQL is away for longer than a member may be silent: nothing is dropped, and nothing is read twice.

    Guards: partitions are paused and polled on. Its observable: the member stays in its group all the time.
    """
    events = [event(number, sku_id=f"box-{1 + number % 2}") for number in range(400)]
    metrics = Recorded()
    async with Proxy(sale.orders_dsn.host, sale.orders_dsn.port) as proxy:
        pool = Pool(msgspec.structs.replace(sale.orders_dsn, port=proxy.port), size_max=2, connect_timeout_s=5)
        writer = sale.writer(metrics, pool=pool, batch_max=50, poll_interval_max_ms=POLL_INTERVAL_MAX_MS)
        running = asyncio.create_task(writer.run())
        await sale.publish(events[:100])
        await until(lambda: metrics.records == 100 or running.done())
        proxy.down()
        await sale.publish(events[100:])
        await until(lambda: metrics.retries["write"] >= 8 or running.done())  # about ten seconds
        members = await sale.members()
        proxy.up()
        await until(lambda: metrics.records >= 400 or running.done())
        await until(lambda: metrics.paused_now == 0 or running.done())
        writer.stop()
        await running
        await pool.close()
    assert members == 1
    assert (metrics.records, metrics.new, metrics.duplicates) == (400, 400, 0)
    assert (metrics.commit_failures, metrics.replaced) == (0, 0)
    assert (metrics.paused_most, metrics.paused_now) == (2, 0)
    assert 300 in {records for records, _ in metrics.backlogs}  # told while nothing could be written
    assert await sale.committed() == 400
    await sale.assert_whole(events)


def partitions_of(writer: OrderWriter) -> int:
    """Return how many partitions a writer has."""
    consumer = writer._intake._consumer
    return len(consumer.assignment()) if consumer is not None else 0


async def test_writers_share_the_partitions(sale: Sale) -> None:
    """Two writers of a group get one partition each and write every order once; when one stops, the other has both."""
    events = [event(number, sku_id=f"box-{1 + number % 2}") for number in range(600)]
    metrics = [Recorded(), Recorded()]
    writers = [sale.writer(one) for one in metrics]
    running = [asyncio.create_task(one.run()) for one in writers]
    await until(lambda: [partitions_of(one) for one in writers] == [1, 1] or any(one.done() for one in running))
    await sale.publish(events[:400])
    await until(lambda: metrics[0].records + metrics[1].records >= 400 or any(one.done() for one in running))
    assert all(one.records > 100 for one in metrics)
    assert set(metrics[0].lags) | set(metrics[1].lags) == {0, 1}
    writers[1].stop()
    await running[1]
    await until(lambda: partitions_of(writers[0]) == 2 or running[0].done())
    await sale.publish(events[400:])
    await until(lambda: metrics[0].records + metrics[1].records >= 600 or running[0].done())
    writers[0].stop()
    await running[0]
    assert metrics[0].new + metrics[1].new == 600
    assert metrics[0].duplicates + metrics[1].duplicates == 0
    assert await sale.committed() == 600
    await sale.assert_whole(events)


async def test_backlog_tells_what_waits_and_how_fast_it_goes(sale: Sale) -> None:
    """Between two looks 30 of 50 records are written: lag, rate and outlook say so."""
    group = orders_group(sale.settings)
    await sale.publish([event(number) for number in range(50)])
    clock = iter([100.0, 103.0, 200.0, 201.0])
    metrics = Recorded()

    async def write_some(_seconds: float) -> None:
        await sale.drain(sale.writer(metrics, batch_max=30, batch_min=30), metrics, 30)

    found = await read_backlog(
        sale.settings.kafka, {sale.topic: group}, monotonic=lambda: next(clock), sleep=write_some
    )
    done = metrics.records
    assert sum(one.end for one in found.partitions) == 50
    assert (found.lag, found.per_s) == (50 - done, done / 3.0)
    assert found.drain_s == pytest.approx((50 - done) / (done / 3.0))
    assert sum(one.committed or 0 for one in found.partitions) == done
    missing = await read_backlog(
        sale.settings.kafka, {"no.such.topic": group}, monotonic=lambda: next(clock), measure_s=0.0
    )
    assert (missing.partitions, missing.lag, missing.drain_s) == ([], 0, 0.0)


async def test_backlog_command(settings: Settings) -> None:
    """`backlog --json` ends with one line: every partition of every group, the totals, the rates and the outlook."""
    ran = await asyncio.to_thread(
        subprocess.run,
        (sys.executable, "-m", "cli", "backlog", "--json"),
        cwd=PROJECT_ROOT,
        env={**inherited_environment(), **as_environment(msgspec.to_builtins(settings))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    facts = orjson.loads(ran.stdout.splitlines()[-1])
    topics = sorted(groups(settings))
    assert {"orders.accepted", "points.awarded"} <= set(topics)
    assert [one["topic"] for one in facts["topics"]] == topics
    assert [sum(one["topic"] == name for one in facts["partitions"]) for name in topics] == [
        settings.kafka.partitions
    ] * len(topics)
    assert facts["lag"] == sum(one["lag"] for one in facts["partitions"]) == sum(one["lag"] for one in facts["topics"])
