"""The MySQL adapter, the migrations and the catalog on a real MariaDB."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import msgspec
import pytest
import pytest_asyncio

from adapters.catalog import list_campaigns, register_campaign, set_allocated
from adapters.mysql import DataRefusedError, Pool, insert_many, query, transaction
from domain.errors import BackendError, OperationRefusedError, OutcomeUnknownError
from domain.settings import Dsn
from migrations.runner import Schema, upgrade
from stack.proxy import Proxy
from stack.servers import Endpoints
from tests.support.events import sample_campaign

pytestmark = pytest.mark.usefixtures("stack")


def dsn_of(endpoints: Endpoints, database: str) -> Dsn:
    """Return the address of a database on the shared server."""
    return Dsn(
        host=endpoints.mysql_host,
        port=endpoints.mysql_port,
        user=endpoints.mysql_user,
        password=endpoints.mysql_password,
        database=database,
    )


@contextlib.asynccontextmanager
async def database(endpoints: Endpoints, schema: Schema) -> AsyncIterator[Pool]:
    """Make a database with a schema, and drop it afterwards."""
    dsn = dsn_of(endpoints, f"fg_{schema}_{secrets.token_hex(4)}")
    upgrade(schema, dsn, connect_timeout_s=5)
    pool = Pool(dsn, size_max=2, connect_timeout_s=5)
    try:
        yield pool
    finally:
        await query(pool, f"DROP DATABASE {dsn.database}")
        await pool.close()


@pytest_asyncio.fixture
async def orders(endpoints: Endpoints) -> AsyncIterator[Pool]:
    """Return a fresh fg_orders."""
    async with database(endpoints, "orders") as pool:
        yield pool


@pytest_asyncio.fixture
async def catalog(endpoints: Endpoints) -> AsyncIterator[Pool]:
    """Return a fresh fg_catalog."""
    async with database(endpoints, "catalog") as pool:
        yield pool


INSERT = "INSERT INTO campaign_sku (campaign_id, sku_id, allocated) VALUES (%s, %s, %s)"


async def counted(pool: Pool) -> int:
    """Return the number of counters."""
    ((count,),) = await query(pool, "SELECT COUNT(*) FROM campaign_sku")
    return int(count)


async def test_a_block_that_raises_changes_nothing(orders: Pool) -> None:
    """Whatever is raised in a transaction rolls it back."""

    async def fail() -> None:
        async with transaction(orders) as cursor:
            await insert_many(cursor, INSERT, [("c", "a", 1)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await counted(orders) == 0


async def test_a_cancelled_query_does_not_answer_the_next_one(orders: Pool) -> None:
    """A task cancelled in mid-query takes its connection with it; the next query gets its own answer."""
    async with Proxy(orders.dsn.host, orders.dsn.port) as proxy:
        held = proxy.hold_reply(b"'late'")
        pool = Pool(msgspec.structs.replace(orders.dsn, port=proxy.port), size_max=1, connect_timeout_s=5)
        asking = asyncio.create_task(query(pool, "SELECT 'late'"))
        await held.wait_fired()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        held.release()
        assert await query(pool, "SELECT 'mine'") == [("mine",)]
        await pool.close()


async def test_a_query_past_its_time_is_transient(orders: Pool) -> None:
    """A server that does not answer in time is an error that may be tried again; the pool goes on."""
    async with Proxy(orders.dsn.host, orders.dsn.port) as proxy:
        proxy.hold_reply(b"'late'")
        pool = Pool(msgspec.structs.replace(orders.dsn, port=proxy.port), size_max=1, connect_timeout_s=5)
        with pytest.raises(BackendError):
            await query(pool, "SELECT 'late'", timeout_s=0.2)
        assert await query(pool, "SELECT 1") == [(1,)]
        await pool.close()


async def test_lost_answers_are_told_apart(orders: Pool) -> None:
    """Lost before COMMIT: nothing has changed. Lost after it: the outcome is unknown (and here it took effect)."""
    async with Proxy(orders.dsn.host, orders.dsn.port) as proxy:
        pool = Pool(msgspec.structs.replace(orders.dsn, port=proxy.port), size_max=1, connect_timeout_s=5)
        proxy.cut_reply(b"INSERT INTO campaign_sku")
        with pytest.raises(BackendError) as before:
            async with transaction(pool) as cursor:
                await insert_many(cursor, INSERT, [("c", "a", 1)])
        assert not isinstance(before.value, OutcomeUnknownError)
        assert await counted(orders) == 0
        proxy.cut_reply(b"\x03COMMIT")
        with pytest.raises(OutcomeUnknownError):
            async with transaction(pool) as cursor:
                await insert_many(cursor, INSERT, [("c", "a", 1)])
        assert await counted(orders) == 1
        await pool.close()


async def test_data_that_does_not_fit_is_refused(orders: Pool) -> None:
    """What does not fit is refused, never cut to size."""
    with pytest.raises(DataRefusedError):
        async with transaction(orders) as cursor:
            await insert_many(cursor, INSERT, [("c" * 41, "a", 1)])
    assert await counted(orders) == 0


async def test_many_rows_are_one_statement(orders: Pool) -> None:
    """A thousand rows go to the server as one INSERT, by its own count; on this session no other was sent."""
    async with transaction(orders) as cursor:
        await insert_many(cursor, INSERT, [("c", f"s{number}", 1) for number in range(1_000)])
        await cursor.execute("SHOW SESSION STATUS LIKE 'Com_insert'")
        assert await cursor.fetchone() == ("Com_insert", "1")
    assert await counted(orders) == 1_000


async def test_unreachable_server_is_a_backend_error(orders: Pool) -> None:
    """A refused connection is a backend error that does not show the password."""
    dsn = msgspec.structs.replace(orders.dsn, port=1)
    with pytest.raises(BackendError) as caught:
        await query(Pool(dsn, size_max=1, connect_timeout_s=1), "SELECT 1")
    assert dsn.password not in str(caught.value)


def test_two_migrations_at_once(endpoints: Endpoints) -> None:
    """Migrations started together, on a database that does not exist yet, all end at the newest revision."""
    dsn = dsn_of(endpoints, f"fg_orders_{secrets.token_hex(4)}")
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as processes:
        started = [processes.submit(upgrade, "orders", dsn, connect_timeout_s=5) for _ in range(3)]
        assert {one.result() for one in started} == {"orders_0002"}
    assert upgrade("orders", dsn, connect_timeout_s=5) == "orders_0002"


def test_migration_without_rights_says_so(endpoints: Endpoints) -> None:
    """A database that the user may not create is an error in one line, without the password."""
    dsn = dsn_of(endpoints, "elsewhere")
    with pytest.raises(OperationRefusedError) as caught:
        upgrade("orders", dsn, connect_timeout_s=5)
    assert "elsewhere" in str(caught.value)
    assert dsn.password not in str(caught.value)


async def test_loading_a_campaign_twice_changes_nothing(orders: Pool, catalog: Pool) -> None:
    """A second load of the same campaign changes no row, also after sales and top-ups."""
    campaign = sample_campaign("c-1", stock=10)
    await register_campaign(catalog, orders, campaign)
    await set_allocated(catalog, orders, "c-1", "box-1", 15)
    async with transaction(orders) as cursor:
        await cursor.execute("UPDATE campaign_sku SET sold = 3")
    before = [
        await query(orders, "SELECT * FROM campaign_sku"),
        await query(catalog, "SELECT * FROM campaign"),
        await query(catalog, "SELECT * FROM allocation"),
        await query(catalog, "SELECT * FROM sku"),
    ]
    await register_campaign(catalog, orders, campaign)
    assert before == [
        await query(orders, "SELECT * FROM campaign_sku"),
        await query(catalog, "SELECT * FROM campaign"),
        await query(catalog, "SELECT * FROM allocation"),
        await query(catalog, "SELECT * FROM sku"),
    ]
    assert before[0] == [("c-1", "box-1", 15, 3, 1, 900), ("c-1", "box-2", 10, 3, 0, 900)]
    assert await list_campaigns(catalog) == [("c-1", campaign)]


async def test_a_late_repeat_of_a_top_up_does_no_harm(orders: Pool, catalog: Pool) -> None:
    """Allocations only grow: an older figure that comes late changes nothing."""
    await register_campaign(catalog, orders, sample_campaign("c-1", stock=10))
    for allocated in (12, 20, 12, 20):
        await set_allocated(catalog, orders, "c-1", "box-1", allocated)
    assert await query(orders, "SELECT allocated, version FROM campaign_sku WHERE sku_id = 'box-1'") == [(20, 2)]
    assert await query(catalog, "SELECT quantity, version FROM allocation WHERE sku_id = 'box-1'") == [(20, 2)]
    with pytest.raises(OperationRefusedError):
        await set_allocated(catalog, orders, "c-1", "box-9", 1)
