"""The reconciler beside a sale, and as a command and a process, on real Redis, Kafka and MariaDB."""

import asyncio
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import orjson
import pytest
import pytest_asyncio

from adapters.campaign_stock import load_campaign, top_up
from adapters.mysql import query
from adapters.stock import LostOrder
from consumers import reconcile_mysql
from consumers.reconcile import Reconciler, open_sources, reconcile
from consumers.reconcile_look import CampaignLook
from consumers.reconcile_report import Report
from consumers.reconcile_sources import Sources
from domain import keys
from domain.errors import BackendError, OperationRefusedError
from domain.order import digest_of, user_hash
from domain.settings import RedisSettings, Settings
from stack.paths import PROJECT_ROOT
from stack.servers import Endpoints
from tests.support.allocated import allocate_in_mysql
from tests.support.children import inherited_environment
from tests.support.events import sample_campaign
from tests.support.flow import STOCK, Counted, Flow, Quiet, new_flow
from tests.support.metrics import Recorded
from tests.support.scripts import restore_now

pytestmark = pytest.mark.usefixtures("stack")

PLENTY = 1_000_000
DEADLINE_S = 30.0


@pytest_asyncio.fixture
async def flow(endpoints: Endpoints) -> AsyncIterator[Flow]:
    """Return an open campaign that no other test uses."""
    async with new_flow(endpoints) as made:
        yield made


async def test_campaign_that_redis_does_not_know(flow: Flow) -> None:
    """A campaign that MySQL alone knows is told, with what is allocated as drift."""
    campaign = sample_campaign(f"only-mysql-{secrets.token_hex(4)}", ["box-9"], stock=7)
    await allocate_in_mysql(flow.sale.catalog, flow.orders, campaign)
    (found,) = (await reconcile(flow.settings, [campaign.id], topic=flow.sale.topic)).campaigns
    assert (found.drift, found.skus[0].allocated) == (7, 0)
    assert "Redis does not know" in found.explanations[0]


async def test_unknown_campaign_is_refused(flow: Flow) -> None:
    """A campaign that no store knows is a mistake, not a campaign without drift."""
    with pytest.raises(OperationRefusedError, match="there is no campaign 'nowhere'"):
        await reconcile(flow.settings, ["nowhere"], topic=flow.sale.topic)


async def test_top_up_between_the_stores_is_no_drift(flow: Flow) -> None:
    """What is allocated is written to Redis and then to MySQL; a look in between is looked at again."""
    await top_up(flow.channel, flow.id, "box-1", 5, "key")
    await top_up(flow.channel, flow.id, "box-2", 5, "key-2")
    assert (await flow.report()).drift == 10
    async with open_sources(flow.settings, topic=flow.sale.topic) as sources:

        async def finish() -> None:
            await flow.sql(("UPDATE campaign_sku SET allocated = %s WHERE campaign_id = %s", (STOCK + 5, flow.id)))

        looks = Counted(sources, finish)
        report = await Reconciler(looks.look, campaign_ids=[flow.id], recheck_pause_s=0).run_once()
    assert (report.drift, looks.count) == (0, 2)


async def test_sale_in_progress_shows_no_drift(flow: Flow) -> None:
    """While orders are accepted, relayed and stored as fast as it goes, no look suspects anything at all."""
    await load_campaign(flow.channel, sample_campaign(flow.id, stock=PLENTY))
    await flow.sql(("UPDATE campaign_sku SET allocated = %s WHERE campaign_id = %s", (PLENTY, flow.id)))
    publisher, metrics = Quiet(flow.sale), Recorded()
    relay, writer = flow.make_relay(publisher), flow.sale.writer(metrics, batch_max=40)
    over = asyncio.Event()

    async def buy() -> None:
        while not over.is_set():
            await flow.accept(14)

    async def relay_all() -> None:
        while not over.is_set() or publisher.published < len(flow.order_ids):
            await relay.run_once()

    async def store_all() -> None:
        while not over.is_set() or metrics.records < len(flow.order_ids):
            await writer.run_once()
        await writer.close()

    tasks = [asyncio.create_task(work()) for work in (buy, relay_all, store_all)]
    busy = 0
    async with open_sources(flow.settings, topic=flow.sale.topic) as sources:
        looks = Counted(sources)
        reconciler = Reconciler(looks.look, campaign_ids=[flow.id], recheck_pause_s=0)
        for number in range(1, 9):
            report = await reconciler.run_once()
            assert (report.drift, looks.count) == (0, number)
            busy += report.in_flight > 0
        over.set()
        await asyncio.gather(*tasks)
        report = await reconciler.run_once()
    assert busy > 0
    assert (report.drift, report.in_flight, looks.count) == (0, 0, 9)
    assert report.campaigns[0].redis_taken == report.campaigns[0].mysql_rows == len(flow.order_ids)


async def test_mysql_is_read_as_of_one_instant(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """An order that is stored between the reading of two tables is in both or in neither."""
    await flow.sell(3)
    await flow.accept(1)
    await flow.relay(1)
    read = reconcile_mysql._read_ledger
    tables = 0

    async def after_a_store(cursor: Any, look: CampaignLook, sku_id: str) -> None:
        nonlocal tables
        tables += 1
        if tables == 1:
            await flow.store(1)
        await read(cursor, look, sku_id)

    monkeypatch.setattr(reconcile_mysql, "_read_ledger", after_a_store)
    campaign = await flow.report()
    assert tables == 2
    assert (campaign.drift, campaign.in_flight, campaign.mysql_rows) == (0, 1, 3)


async def test_pages_hold_every_row(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many pages it takes, each row of orders and ledger is read once."""
    await flow.sell(12)
    for size in (1, 5, 12, 13):
        monkeypatch.setattr(reconcile_mysql, "ROWS_AT_ONCE", size)
        campaign = await flow.report()
        assert (campaign.drift, campaign.mysql_rows, campaign.confirmed, campaign.explanations) == (0, 12, 12, ())


async def test_page_that_is_cut_off_is_an_error(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that shortens a page is told of, and no order counts as missing for it."""
    await flow.sell(12)
    monkeypatch.setattr(reconcile_mysql, "_SNAPSHOT", ("SET SESSION group_concat_max_len = 100",))
    with pytest.raises(BackendError, match=r"was cut by GROUP_CONCAT|of 12 rows of orders came"):
        await flow.report()


async def test_store_that_is_away_is_an_error(flow: Flow) -> None:
    """A store that does not answer is an error, not a campaign without drift."""
    for name, away in (
        ("Redis", {"redis": RedisSettings(port=1)}),
        ("Kafka", {"kafka": msgspec.structs.replace(flow.settings.kafka, bootstrap="127.0.0.1:1")}),
        ("MySQL", {"mysql": msgspec.structs.replace(flow.settings.mysql, orders_dsn="mysql://a:b@127.0.0.1:1/c")}),
    ):
        with pytest.raises(BackendError, match=name):
            await reconcile(msgspec.structs.replace(flow.settings, **away), [flow.id], topic=flow.sale.topic)


def environment(settings: Settings) -> dict[str, str]:
    """Return the environment of a command on these servers."""
    return {
        **inherited_environment(),
        "FLASHGATE_REDIS_HOST": settings.redis.host,
        "FLASHGATE_REDIS_PORT": str(settings.redis.port),
        "FLASHGATE_KAFKA_BOOTSTRAP": settings.kafka.bootstrap,
        "FLASHGATE_MYSQL_ORDERS_DSN": settings.mysql.orders_dsn,
        "FLASHGATE_MYSQL_CATALOG_DSN": settings.mysql.catalog_dsn,
        "FLASHGATE_MYSQL_POINTS_DSN": settings.mysql.points_dsn,
        "FLASHGATE_CONSUMER_GROUP": settings.consumer.group,
        "FLASHGATE_RECONCILE_INTERVAL_S": "0.1",
        "COLUMNS": "200",
    }


async def test_command_tells_and_exits(flow: Flow) -> None:
    """`reconcile` exits 0 without drift and 1 with it; the last line of its output is the report as JSON."""
    await flow.accept(2)
    command = (sys.executable, "-m", "cli", "reconcile", "--json", "--campaign", flow.id)

    async def run() -> tuple[int, Report]:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=PROJECT_ROOT, env=environment(flow.settings), stdout=subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, msgspec.convert(orjson.loads(out.splitlines()[-1]), Report)

    code, report = await run()
    assert (code, report.drift, report.in_flight) == (0, 0, 2)
    await flow.client.delete(keys.outbox(flow.id))
    code, report = await run()
    assert (code, report.drift, report.in_flight) == (1, 2, 0)
    assert report.campaigns[0].missing_ids == tuple(sorted(flow.order_ids))


async def test_process_watches_until_sigterm(flow: Flow) -> None:
    """`reconcile --watch` tells drift when it comes and when it goes, and ends cleanly at SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", "reconcile", "--watch", "--campaign", flow.id),
        cwd=PROJECT_ROOT,
        env=environment(flow.settings),
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            await flow.sql(("UPDATE campaign_sku SET sold = 3 WHERE campaign_id = %s", (flow.id,)))
            while b"drift 6" not in await process.stderr.readline():
                assert process.returncode is None
            await flow.sql(("UPDATE campaign_sku SET sold = 0 WHERE campaign_id = %s", (flow.id,)))
            while b"drift is gone" not in await process.stderr.readline():
                assert process.returncode is None
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_restored_orders_are_no_drift(flow: Flow) -> None:
    """Orders that recovery has put back into an emptied Redis are held there again, and nothing is left to say."""
    await flow.sell(5)
    rows = await query(
        flow.orders, "SELECT order_id, fingerprint, user_id, outbox_id FROM orders WHERE campaign_id = %s", (flow.id,)
    )
    for one in await flow.client.keys(f"fg:{{{flow.id}:*"):
        await flow.client.delete(one)
    assert (await flow.report()).skus[0].redis_lost == 5
    await load_campaign(flow.channel, flow.campaign)
    lost = [
        LostOrder(digest_of(one), print_, "box-1", 1, user_id, user_hash(user_id), 1, held=True)
        for one, print_, user_id, _ in rows
    ]
    assert await restore_now(flow.channel, flow.id, lost, max(row[3] for row in rows)) == 5
    campaign = await flow.report()
    assert (campaign.drift, campaign.in_flight, campaign.explanations) == (0, 0, ())


async def test_all_campaigns(flow: Flow, settings: Settings) -> None:
    """Without a choice, every campaign is looked at that Redis or MySQL knows; each is told by its id."""
    await flow.sell(2)
    # Kafka may have campaigns of other tests, whose points are in the shared database.
    mysql = msgspec.structs.replace(flow.settings.mysql, points_dsn=settings.mysql.points_dsn)
    with_points = msgspec.structs.replace(flow.settings, mysql=mysql)
    async with open_sources(with_points, topic=flow.sale.topic) as sources:
        assert isinstance(sources, Sources)
        found = await sources.look()
    assert {flow.id, "c-1"} <= set(found.campaigns)
