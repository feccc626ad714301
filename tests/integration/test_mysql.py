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

from adapters.catalog import Allocated, bring_counters, mend_counter, read_allocated
from adapters.mysql import DataRefusedError, Pool, insert_many, query, transaction
from domain.errors import BackendError, OperationRefusedError, OutcomeUnknownError
from domain.settings import Dsn
from migrations.runner import Schema, upgrade
from stack.proxy import Proxy
from stack.servers import Endpoints
from tests.support.allocated import allocate_in_mysql
from tests.support.events import sample_campaign
from warehouse.view import read_report

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
        assert {one.result() for one in started} == {"orders_0004"}
    assert upgrade("orders", dsn, connect_timeout_s=5) == "orders_0004"


def test_migration_without_rights_says_so(endpoints: Endpoints) -> None:
    """A database that the user may not create is an error in one line, without the password."""
    dsn = dsn_of(endpoints, "elsewhere")
    with pytest.raises(OperationRefusedError) as caught:
        upgrade("orders", dsn, connect_timeout_s=5)
    assert "elsewhere" in str(caught.value)
    assert dsn.password not in str(caught.value)


async def test_campaigns_from_before_there_was_a_warehouse(catalog: Pool) -> None:
    """The migration puts what they were allocated into `main`: what their file says, and the rest as topped up."""
    campaign = sample_campaign("c-old", stock=10)
    async with transaction(catalog) as cursor:
        await cursor.execute(
            "INSERT INTO campaign (campaign_id, kind, opens_ms, closes_ms, definition) VALUES (%s, 'sale', 0, 1, %s)",
            (campaign.id, msgspec.json.encode(campaign).decode()),
        )
        for sku_id, quantity in (("box-1", 14), ("box-2", 10)):
            await cursor.execute("INSERT INTO sku (sku_id) VALUES (%s)", (sku_id,))
            await cursor.execute(
                "INSERT INTO allocation (campaign_id, sku_id, quantity) VALUES (%s, %s, %s)",
                (campaign.id, sku_id, quantity),
            )
        await cursor.execute("UPDATE alembic_version SET version_num = 'catalog_0001'")
    for _ in range(2):  # an interrupted run goes again
        await asyncio.to_thread(upgrade, "catalog", catalog.dsn, connect_timeout_s=5)
        rows = await query(catalog, "SELECT sku_id, quantity, in_file, topped_up FROM allocation ORDER BY sku_id")
        assert rows == [("box-1", 14, 10, 4), ("box-2", 10, 10, 0)]
        report = await read_report(catalog)
        assert report.balanced, report
        stock = await query(catalog, "SELECT sku_id, on_hand, allocated FROM warehouse_stock ORDER BY sku_id")
        assert stock == [("box-1", 14, 14), ("box-2", 10, 10)]
        async with transaction(catalog) as cursor:
            await cursor.execute("UPDATE alembic_version SET version_num = 'catalog_0001'")


async def test_allocating_a_file_twice_changes_nothing(orders: Pool, catalog: Pool) -> None:
    """The same file again moves no row of the catalog and of the orders' counters, also after sales."""
    campaign = sample_campaign("c-1", stock=10)
    await allocate_in_mysql(catalog, orders, campaign)
    async with transaction(orders) as cursor:
        await cursor.execute("UPDATE campaign_sku SET sold = 3")
    tables = ("campaign", "allocation", "allocation_due", "sku", "warehouse_stock", "warehouse_ledger")

    async def rows() -> list[object]:
        return [
            await query(orders, "SELECT * FROM campaign_sku"),
            *[await query(catalog, f"SELECT * FROM {table}") for table in tables],  # noqa: S608 -- names alone
        ]

    before = await rows()
    await allocate_in_mysql(catalog, orders, campaign)
    assert await rows() == before
    counters = "SELECT sku_id, allocated, sold, version, pay_within_s, allocation_version FROM campaign_sku"
    assert await query(orders, counters) == [("box-1", 10, 3, 0, 900, 1), ("box-2", 10, 3, 0, 900, 1)]


async def test_a_late_figure_does_no_harm(orders: Pool, catalog: Pool) -> None:
    """A counter takes over what bears a higher version than it has seen, and nothing that comes late."""
    await allocate_in_mysql(catalog, orders, sample_campaign("c-1", stock=10))
    counter = "SELECT allocated, version, allocation_version FROM campaign_sku WHERE sku_id = 'box-1'"
    for quantity, version, expected in (
        (20, 3, (20, 1, 3)),
        (12, 2, (20, 1, 3)),
        (9, 4, (9, 2, 4)),
        (20, 3, (9, 2, 4)),
    ):
        async with transaction(catalog) as cursor:
            await cursor.execute(
                "UPDATE allocation SET quantity = %s, version = %s WHERE sku_id = 'box-1'", (quantity, version)
            )
        await bring_counters(catalog, orders, "c-1")
        assert await query(orders, counter) == [expected]


async def test_mending_a_counter(orders: Pool, catalog: Pool) -> None:
    """A counter that says another figure than the catalog is set to that, but not while that is being moved."""
    await allocate_in_mysql(catalog, orders, sample_campaign("c-1", stock=10))
    counter = "SELECT allocated FROM campaign_sku WHERE sku_id = 'box-1'"
    async with transaction(orders) as cursor:
        await cursor.execute("UPDATE campaign_sku SET allocated = 77")
    async with transaction(catalog) as cursor:
        await cursor.execute("UPDATE allocation_due SET done_at_ms = NULL")
    with pytest.raises(OperationRefusedError, match="under way"):
        await mend_counter(catalog, orders, "c-1", "box-1")
    assert await query(orders, counter) == [(77,)]
    async with transaction(catalog) as cursor:
        await cursor.execute("UPDATE allocation_due SET done_at_ms = 1")
    assert await mend_counter(catalog, orders, "c-1", "box-1") == 10
    assert await query(orders, counter) == [(10,)]
    assert (await read_allocated(catalog, "c-1"))["box-1"] == Allocated(10, 1)
    with pytest.raises(OperationRefusedError, match="allocated nothing"):
        await mend_counter(catalog, orders, "c-1", "box-9")
