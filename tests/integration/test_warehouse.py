"""The warehouse on a real MariaDB: what is moved by hand, the catalog, the books, and the migration to them."""

import asyncio
import contextlib
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import pytest_asyncio
from alembic import command
from alembic.config import Config
from typer.testing import CliRunner, Result

import cli.catalog
import cli.warehouse
from adapters.mysql import Pool, insert_many, query, transaction
from cli.main import command_line
from domain.catalog_file import parse_catalog
from domain.errors import BackendError, OperationRefusedError, OutcomeUnknownError
from domain.settings import Dsn, Settings, load_settings
from migrations import runner
from stack.paths import PROJECT_ROOT
from stack.proxy import Proxy
from stack.servers import Endpoints
from tests.support import operator
from tests.support.events import sample_campaign
from warehouse.catalog_rows import load_catalog, read_catalog
from warehouse.movements import Moved, Movement, move
from warehouse.rules import UNITS_MAX, BookingKind
from warehouse.view import read_report

pytestmark = pytest.mark.usefixtures("stack")

Commands = Callable[..., Awaitable[Result]]

POOL_MAX = 8
NOW_MS = 1_000
RECEIVE, RESERVE, UNRESERVE, SHIP = (
    BookingKind.RECEIVE,
    BookingKind.RESERVE,
    BookingKind.UNRESERVE,
    BookingKind.SHIP,
)
TABLES = ("sku", "product", "sku_attribute", "warehouse", "warehouse_stock", "warehouse_ledger")
SAMPLE = parse_catalog((PROJECT_ROOT / "examples/catalog.toml").read_text(), source="catalog.toml")


def catalog_dsn(endpoints: Endpoints) -> Dsn:
    """Return the address of a database that does not exist yet."""
    return Dsn(
        host=endpoints.mysql_host,
        port=endpoints.mysql_port,
        user=endpoints.mysql_user,
        password=endpoints.mysql_password,
        database=f"fg_catalog_{secrets.token_hex(4)}",
    )


@contextlib.asynccontextmanager
async def dropped_afterwards(dsn: Dsn) -> AsyncIterator[Pool]:
    """Yield a pool of a database, and drop the database afterwards."""
    pool = Pool(dsn, size_max=POOL_MAX, connect_timeout_s=5)
    try:
        yield pool
    finally:
        await query(pool, f"DROP DATABASE {dsn.database}")
        await pool.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def catalog(endpoints: Endpoints) -> AsyncIterator[Pool]:
    """Return a catalog of this module's own, with the warehouses of the sample; each test has SKUs of its own."""
    dsn = catalog_dsn(endpoints)
    await asyncio.to_thread(runner.upgrade, "catalog", dsn, connect_timeout_s=5)
    async with dropped_afterwards(dsn) as pool:
        await load_catalog(pool, SAMPLE)
        yield pool


@pytest.fixture
def sku() -> str:
    """Return a SKU that no other test has."""
    return f"sku-{secrets.token_hex(4)}"


def movement(kind: BookingKind, sku_id: str, units: int, key: str = "", warehouse_id: str = "") -> Movement:
    """Return a movement; without a key it has one of its own."""
    return Movement(kind, sku_id, units, key or secrets.token_hex(8), warehouse_id, "tester", "a test")


async def tried(pool: Pool, wanted: Movement) -> Moved | None:
    """Make a movement; None if it was refused."""
    with contextlib.suppress(OperationRefusedError):
        return await move(pool, wanted, NOW_MS)
    return None


async def everything(pool: Pool) -> list[Any]:
    """Return all rows of the tables that a movement could change."""
    return [await query(pool, f"SELECT * FROM {table} ORDER BY 1, 2") for table in TABLES]  # noqa: S608


async def test_goods_come_in_are_reserved_and_shipped(catalog: Pool, sku: str) -> None:
    """Each movement moves its numbers, over several warehouses if need be, and the ledger says who and why."""
    assert await move(catalog, movement(RECEIVE, sku, 5), NOW_MS) == Moved({"main": 5}, done=True, is_new_sku=True)
    assert await move(catalog, movement(RECEIVE, sku, 4, "", "north"), NOW_MS) == Moved({"north": 4}, done=True)
    assert await move(catalog, movement(RESERVE, sku, 7), NOW_MS) == Moved({"main": 5, "north": 2}, done=True)
    assert await move(catalog, movement(UNRESERVE, sku, 1, "", "north"), NOW_MS) == Moved({"north": 1}, done=True)
    assert await move(catalog, movement(SHIP, sku, 6), NOW_MS) == Moved({"main": 5, "north": 1}, done=True)
    found = await read_report(catalog, sku)
    assert found.differences == []
    (line,) = found.skus
    assert (line.product, line.on_hand, line.allocated, line.reserved, line.free) == (sku, 3, 0, 0, 3)
    assert (line.received, line.shipped, line.returned) == (9, 6, 0)
    assert [(one.warehouse_id, one.on_hand) for one in line.warehouses] == [("main", 0), ("north", 3)]
    rows = await query(
        catalog, "SELECT DISTINCT who, why, created_at_ms FROM warehouse_ledger WHERE sku_id = %s", (sku,)
    )
    assert rows == [("tester", "a test", NOW_MS)]


async def test_same_key_books_once(catalog: Pool, sku: str) -> None:
    """A movement asked again with its key changes nothing, also if many ask at once, and the SKU is new.

    Guards: the key is looked up under the lock before anything is booked.
    """
    wanted = movement(RECEIVE, sku, 5, "delivery-1")
    said = await asyncio.gather(*[move(catalog, wanted, NOW_MS) for _ in range(POOL_MAX)], return_exceptions=True)
    done = [one for one in said if isinstance(one, Moved)]
    assert [one.parts for one in done] == [{"main": 5}] * POOL_MAX, said
    assert [one.done for one in done].count(True) == 1
    for kind, units in ((RESERVE, 3), (UNRESERVE, 1), (SHIP, 2)):
        key = secrets.token_hex(4)
        done = [await move(catalog, movement(kind, sku, units, key), NOW_MS) for _ in range(2)]
        assert [one.done for one in done] == [True, False]
    found = await read_report(catalog, sku)
    (line,) = found.skus
    assert (line.received, line.on_hand, line.reserved, line.shipped) == (5, 3, 0, 2)
    assert found.differences == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"units": 4}, "was used before, to receive"),
        ({"warehouse_id": "north"}, "was used before, to receive"),
        ({"sku_id": "other"}, "was used before, to receive"),
    ],
)
async def test_same_key_with_other_facts_is_refused(catalog: Pool, sku: str, change: Any, words: str) -> None:
    """A key that was used for something else is refused, and nothing is changed, not even a new SKU added."""
    first = movement(RECEIVE, sku, 5)
    await move(catalog, first, NOW_MS)
    before = await everything(catalog)
    with pytest.raises(OperationRefusedError, match=words):
        await move(catalog, first._replace(**change), NOW_MS)
    assert await everything(catalog) == before


async def test_same_key_for_two_skus_at_once(catalog: Pool, sku: str) -> None:
    """Of two that use one key for two SKUs at the same moment at most one comes through."""
    skus = [f"{sku}-{number}" for number in range(4)]
    for one in skus:
        await move(catalog, movement(RECEIVE, one, 5), NOW_MS)
    done = await asyncio.gather(
        *[move(catalog, movement(RESERVE, one, 1, f"key-{sku}"), NOW_MS) for one in skus], return_exceptions=True
    )
    refused = [one for one in done if isinstance(one, OperationRefusedError | BackendError)]
    assert len(refused) >= len(skus) - 1
    assert sum(isinstance(one, Moved) for one in done) == len(skus) - len(refused)
    rows = await query(catalog, "SELECT sku_id FROM warehouse_ledger WHERE ref = %s", (f"shop key-{sku}",))
    assert len(rows) == len(skus) - len(refused)


async def test_last_units_go_to_as_many_as_there_are(catalog: Pool, sku: str) -> None:
    """Two shops' reservations race for the last units of a SKU in two warehouses: exactly those are given out.

    Guards: whoever moves a SKU's numbers has locked them.
    """
    units, asking = 60, 100
    await move(catalog, movement(RECEIVE, sku, units - 25), NOW_MS)
    await move(catalog, movement(RECEIVE, sku, 25, "", "north"), NOW_MS)
    other = Pool(catalog.dsn, size_max=POOL_MAX, connect_timeout_s=5)
    wanted = [movement(RESERVE, sku, 1) for _ in range(asking)]
    try:
        done = await asyncio.gather(
            *[tried((catalog, other)[number % 2], one) for number, one in enumerate(wanted)], return_exceptions=True
        )
    finally:
        await other.close()
    assert [one for one in done if isinstance(one, BaseException)] == []
    assert sum(one is not None for one in done) == units
    found = await read_report(catalog, sku)
    assert (found.skus[0].on_hand, found.skus[0].reserved, found.skus[0].free) == (units, units, 0)
    assert found.differences == []


async def test_numbers_are_their_ledgers_sums_whatever_comes_at_once(catalog: Pool, sku: str) -> None:
    """After many movements of several SKUs at once each number is what was done, and whoever looked saw it balanced."""
    rng = random.Random(7)
    skus = [f"{sku}-{number}" for number in range(3)]
    for one in skus:
        await move(catalog, movement(RECEIVE, one, 20), NOW_MS)
    wanted = [
        movement(
            rng.choice([RECEIVE, RESERVE, RESERVE, UNRESERVE, SHIP]), rng.choice(skus), rng.randint(1, 9), "", where
        )
        for where in rng.choices(["", "main", "north"], k=240)
    ]
    looks: list[list[str]] = []

    async def look() -> None:
        while len(looks) < 20:
            looks.append([text for one in skus for text in (await read_report(catalog, one)).differences])

    done, _ = await asyncio.gather(asyncio.gather(*[tried(catalog, one) for one in wanted]), look())
    assert looks == [[]] * len(looks)
    units: Counter[tuple[str, BookingKind]] = Counter()
    for asked, moved in zip(wanted, done, strict=True):
        units[asked.sku_id, asked.kind] += asked.units if moved else 0
    for sku_id in skus:
        found = await read_report(catalog, sku_id)
        assert found.differences == []
        (line,) = found.skus
        assert line.received == 20 + units[sku_id, RECEIVE]
        assert line.shipped == units[sku_id, SHIP]
        assert line.on_hand == line.received - line.shipped
        assert line.reserved == units[sku_id, RESERVE] - units[sku_id, UNRESERVE] - units[sku_id, SHIP]
        assert line.free == line.on_hand - line.reserved


async def test_answer_to_commit_lost(catalog: Pool, sku: str) -> None:
    """Fault 22: COMMIT takes effect and its answer is lost; the movement repeated with its key is made once.

    Guards: the key is looked up under the lock before anything is booked.
    """
    async with Proxy(catalog.dsn.host, catalog.dsn.port) as proxy:
        pool = Pool(msgspec.structs.replace(catalog.dsn, port=proxy.port), size_max=1, connect_timeout_s=5)
        wanted = movement(RECEIVE, sku, 5)
        proxy.cut_reply(b"\x03COMMIT")
        with pytest.raises(OutcomeUnknownError):
            await move(pool, wanted, NOW_MS)
        (said,) = await asyncio.gather(*[move(pool, wanted, NOW_MS)], return_exceptions=True)
        assert said == Moved({"main": 5}, done=False)
        await pool.close()
    found = await read_report(catalog, sku)
    assert (found.skus[0].on_hand, found.differences) == (5, [])


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (movement(RESERVE, "{sku}", 6), r"5 units are free, 6 were asked for.*warehouse receive \S+ 1$"),
        (movement(RESERVE, "{sku}", 1, "", "north"), "0 units are free in warehouse north.*--warehouse north"),
        (movement(UNRESERVE, "{sku}", 1), "0 units are reserved for the shop"),
        (movement(SHIP, "{sku}", 1), "0 units are reserved for the shop"),
        (movement(RESERVE, "nobody-knows", 1), "does not know SKU 'nobody-knows'.*warehouse receive nobody-knows 1"),
        (movement(UNRESERVE, "nobody-knows", 1), "does not know SKU"),
        (movement(SHIP, "hoodie-red-m", 1), "no warehouse has had SKU 'hoodie-red-m' yet.*warehouse receive"),
        (movement(RECEIVE, "{sku}", 1, "", "south"), "no warehouse 'south'; there are: main, north"),
        (movement(RESERVE, "{sku}", 1, "", "south"), "no warehouse 'south'"),
        (movement(RECEIVE, "{sku}", 0), "0 units cannot be moved"),
        (movement(RECEIVE, "{sku}", -5), "-5 units cannot be moved"),
        (movement(RESERVE, "{sku}", -5), "-5 units cannot be moved"),
        (movement(RECEIVE, "{sku}", UNITS_MAX + 1), "cannot be moved"),
        (movement(RECEIVE, "no sku", 1), "is no SKU"),
        (movement(RECEIVE, "ä", 1), "is no SKU"),
        (movement(RECEIVE, "{sku}", 1, "", "NORTH!"), "is no warehouse"),
        (movement(RECEIVE, "{sku}", 1, "two words"), "a key has"),
        (movement(RECEIVE, "{sku}", 1)._replace(who="x" * 65), "who: at most 64 characters"),
        (movement(RECEIVE, "{sku}", 1)._replace(why="x" * 256), "why: at most 255 characters"),
        (movement(RECEIVE, "{sku}", 1)._replace(who=""), "somebody has to"),
        (movement(RECEIVE, "{sku}", 1)._replace(why="\x1b[2J"), "no control characters"),
    ],
)
async def test_what_is_not_possible_changes_nothing(catalog: Pool, sku: str, wanted: Movement, words: str) -> None:
    """More than there is, unknown SKUs and warehouses, quantities out of bounds: a clear refusal, nothing changed."""
    await move(catalog, movement(RECEIVE, sku, 5), NOW_MS)
    before = await everything(catalog)
    with pytest.raises(OperationRefusedError, match=words):
        await move(catalog, wanted._replace(sku_id=wanted.sku_id.format(sku=sku)), NOW_MS)
    assert await everything(catalog) == before


async def test_a_warehouse_takes_no_more_than_its_bound(catalog: Pool, sku: str) -> None:
    """Goods past what one warehouse may hold of a SKU are refused."""
    for _ in range(10):
        await move(catalog, movement(RECEIVE, sku, UNITS_MAX), NOW_MS)
    with pytest.raises(OperationRefusedError, match="room for 0 more"):
        await move(catalog, movement(RECEIVE, sku, 1), NOW_MS)


async def test_loading_a_catalog_twice_changes_nothing(catalog: Pool) -> None:
    """A repeated load changes no row; names, products and attributes that changed are brought to what the file says."""
    await load_catalog(catalog, SAMPLE)
    before = await everything(catalog)
    again = await load_catalog(catalog, SAMPLE)
    assert (again.added, again.changed, again.unchanged) == (0, 0, 8)
    assert await everything(catalog) == before
    text = """
        [[warehouse]]
        id = "north"
        name = "Nörd"
        [[product]]
        id = "mug"
        name = "Mug"
        [[product.sku]]
        id = "hoodie-red-m"
        attributes = { colour = "crimson", lid = "none" }
    """
    assert await load_catalog(catalog, parse_catalog(text, source="catalog.toml")) == (1, 2, 0)
    known = await read_catalog(catalog)
    assert {one.id: one.name for one in known.warehouses} == {"main": "Main warehouse", "north": "Nörd"}
    products = {product.id: product for product in known.products}
    assert [sku.id for sku in products["hoodie"].sku] == ["hoodie-blue-m", "hoodie-red-l"]
    assert [(sku.id, sku.attributes) for sku in products["mug"].sku] == [
        ("hoodie-red-m", {"colour": "crimson", "lid": "none"})
    ]
    assert (await load_catalog(catalog, SAMPLE)).changed == 2
    tables = [name for name in TABLES if name != "product"]
    assert [before[TABLES.index(name)] for name in tables] == [
        (await everything(catalog))[TABLES.index(name)] for name in tables
    ]


async def test_two_catalogs_at_once_leave_one_of_them(catalog: Pool, sku: str) -> None:
    """Of two files loaded at once a SKU has the attributes of one, not some of each."""
    texts = [
        f'[[product]]\nid = "{sku}"\nname = "{name}"\n'
        + "".join(
            f'[[product.sku]]\nid = "{sku}-{number}"\nattributes = {{ {name} = "{number}" }}\n' for number in range(20)
        )
        for name in ("a", "b", "c")
    ]
    files = [parse_catalog(text, source="catalog.toml") for text in texts]
    await asyncio.gather(*[load_catalog(catalog, files[number % 3]) for number in range(12)])
    (product,) = [one for one in (await read_catalog(catalog)).products if one.id == sku]
    assert len({name for one in product.sku for name in one.attributes}) == 1
    assert all(len(one.attributes) == 1 for one in product.sku)


@pytest.fixture
def commands(catalog: Pool, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Return what runs a command line on this module's catalog."""
    dsn = catalog.dsn
    address = f"mysql://{dsn.user}:{dsn.password}@{dsn.host}:{dsn.port}/{dsn.database}"
    settings: Settings = load_settings(defaults={"mysql": {"catalog_dsn": address, "orders_dsn": address}})
    for module in (cli.warehouse, cli.catalog):
        monkeypatch.setattr(module, "load", lambda: settings)
    runner_ = CliRunner()
    app = command_line(["warehouse", "catalog"])

    async def run(*args: str) -> Result:
        return await asyncio.to_thread(lambda: runner_.invoke(app, list(args)))

    return run


def last_line(result: Result) -> Any:
    """Return the JSON object that a command ends with."""
    return orjson.loads(result.stdout.splitlines()[-1])


async def test_commands_move_and_show(commands: Commands, sku: str) -> None:
    """The commands say what they did, and `show` shows it, as a table and as one JSON object."""
    said = await commands("warehouse", "receive", sku, "5")
    assert said.exit_code == 0
    assert "as a product of its own" in said.stdout
    assert f"{sku}: 5 units received, 5 in main" in said.stdout
    said = await commands("warehouse", "reserve", sku, "3", "--key", f"k-{sku}", "--json")
    told = last_line(said)
    assert (told["done"], told["parts"], told["reserved"], told["free"]) == (True, {"main": 3}, 3, 2)
    said = await commands("warehouse", "reserve", sku, "3", "--key", f"k-{sku}")
    assert "this key was used before" in said.stdout
    assert (await commands("warehouse", "ship", sku, "2")).exit_code == 0
    assert (await commands("warehouse", "unreserve", sku, "1")).exit_code == 0
    said = await commands("warehouse", "show", sku, "--json")
    told = last_line(said)
    assert (said.exit_code, told["balanced"], told["differences"]) == (0, True, [])
    (line,) = told["skus"]
    assert {name: line[name] for name in ("sku_id", "on_hand", "allocated", "reserved", "free", "received")} == {
        "sku_id": sku,
        "on_hand": 3,
        "allocated": 0,
        "reserved": 0,
        "free": 3,
        "received": 5,
    }
    assert (line["shipped"], line["returned"], line["product"], line["attributes"]) == (2, 0, sku, {})
    said = await commands("warehouse", "show")
    assert said.exit_code == 0
    assert sku in said.stdout
    assert "the books balance" in said.stdout


@pytest.mark.parametrize("verb", ["receive", "reserve", "unreserve", "ship"])
async def test_negative_units_are_refused_as_such(commands: Commands, sku: str, verb: str) -> None:
    """A number below zero reaches the command as a number, and is refused with a reason."""
    said = await commands("warehouse", verb, sku, "-5")
    assert isinstance(said.exception, OperationRefusedError)
    assert "-5 units cannot be moved" in str(said.exception)


async def test_show_tells_a_tampered_number(commands: Commands, catalog: Pool, sku: str) -> None:
    """A number that somebody has changed behind the ledger's back is named, and the command fails."""
    await move(catalog, movement(RECEIVE, sku, 5), NOW_MS)
    async with transaction(catalog) as cursor:
        await cursor.execute("UPDATE warehouse_stock SET on_hand = 6, reserved = 1 WHERE sku_id = %s", (sku,))
    said = await commands("warehouse", "show", sku, "--json")
    told = last_line(said)
    assert (said.exit_code, told["balanced"]) == (1, False)
    place = f"SKU {sku} in warehouse main"
    assert told["differences"] == [
        f"{place}: on_hand is 6, its ledger comes to 5",
        f"{place}: reserved is 1, its ledger comes to 0",
        f"{place}: on_hand is 6, but 5 received - 0 shipped + 0 returned = 5",
    ]
    said = await commands("warehouse", "show", sku)
    assert said.exit_code == 1
    assert "the books do not balance, 3 times" in said.stdout
    async with transaction(catalog) as cursor:
        await cursor.execute("UPDATE warehouse_stock SET on_hand = 5, reserved = 0 WHERE sku_id = %s", (sku,))


async def test_show_of_an_unknown_sku_is_refused(commands: Commands) -> None:
    """What the catalog does not know cannot be shown."""
    for unknown in ("nobody-knows", "ä"):
        said = await commands("warehouse", "show", unknown)
        assert isinstance(said.exception, OperationRefusedError)
        assert "does not know SKU" in str(said.exception)


async def test_catalog_commands(commands: Commands, tmp_path: Path) -> None:
    """A catalog file is loaded and shown; an error in it names file and line, and changes nothing."""
    said = await commands("catalog", "load", str(PROJECT_ROOT / "examples/catalog.toml"), "--json")
    told = last_line(said)
    assert (told["warehouses"], told["products"], told["skus"], told["unchanged"]) == (2, 2, 4, 8)
    said = await commands("catalog", "show")
    assert "colour=red, size=L" in said.stdout
    assert "warehouse north: North, second hall" in said.stdout
    shown = last_line(await commands("catalog", "show", "--json"))
    assert "blindbox" in {product["id"] for product in shown["products"]}
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('[[product]]\nid = "x"\nname = ""\n')
    said = await commands("catalog", "load", str(wrong))
    assert "wrong.toml, line" in str(said.exception)


def migrate_to(dsn: Dsn, revision: str) -> None:
    """Bring a catalog to a revision that is not the newest."""
    runner._create_database(dsn, 5)
    config = Config()
    config.set_main_option("script_location", str(PROJECT_ROOT / "migrations/catalog"))
    config.set_main_option("path_separator", "os")
    with runner._engine(dsn, 5).connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()


async def test_campaigns_from_before_the_warehouse_have_their_units_in_it(endpoints: Endpoints) -> None:
    """What campaigns were allocated before there was a warehouse lies in `main` afterwards, and the books balance.

    Also if the migration was interrupted and is run again, and for a SKU that several campaigns share, of which one
    was topped up.
    """
    dsn = catalog_dsn(endpoints)
    await asyncio.to_thread(migrate_to, dsn, "catalog_0001")
    async with dropped_afterwards(dsn) as pool:
        async with transaction(pool) as cursor:
            for loaded in (sample_campaign("c-1", ("box",), 80), sample_campaign("c-2", ("box", "mug", "cap"), 50)):
                definition = msgspec.json.encode(loaded).decode()
                await cursor.execute("INSERT INTO campaign VALUES (%s, 'sale', 0, 1, %s)", (loaded.id, definition))
            await insert_many(cursor, "INSERT INTO sku (sku_id) VALUES (%s)", [("box",), ("mug",), ("cap",), ("old",)])
            await insert_many(
                cursor,
                "INSERT INTO allocation (campaign_id, sku_id, quantity) VALUES (%s, %s, %s)",
                [("c-1", "box", 100), ("c-2", "box", 50), ("c-2", "mug", 7), ("c-2", "cap", 0)],
            )
        for _ in range(2):
            assert await asyncio.to_thread(runner.upgrade, "catalog", dsn, connect_timeout_s=5) == "catalog_0003"
            found = await read_report(pool)
            assert found.differences == []
            assert {sku.sku_id: (sku.on_hand, sku.allocated, sku.received) for sku in found.skus} == {
                "box": (150, 150, 150),
                "mug": (7, 7, 7),
                "cap": (0, 0, 0),
                "old": (0, 0, 0),
            }
            given = {
                (sku.sku_id, one.campaign_id): (one.in_file, one.topped_up)
                for sku in found.skus
                for one in sku.campaigns
            }
            assert given == {
                ("box", "c-1"): (80, 20),
                ("box", "c-2"): (50, 0),
                ("mug", "c-2"): (7, 0),
                ("cap", "c-2"): (0, 0),
            }
            async with transaction(pool) as cursor:
                await cursor.execute("UPDATE alembic_version SET version_num = 'catalog_0001'")


async def test_ledger_tells_who_moved_what(settings: Settings, tmp_path: Path) -> None:
    """Every booking can be read again, the newest first, with who and why; an empty key is refused, for it is none."""
    sku = f"sku-{secrets.token_hex(4)}"
    code, said = await operator.command(settings, tmp_path, "warehouse", "receive", sku, "5", "--key", "")
    assert (code, "a key has 1 to" in said[-1]) == (1, True)
    code, _ = await operator.command(
        settings, tmp_path, "warehouse", "receive", sku, "5", "--key", "k", "--who", "李雷", "--why", "货到了"
    )
    assert code == 0
    assert (await operator.command(settings, tmp_path, "warehouse", "reserve", sku, "2"))[0] == 0
    code, said = await operator.command(settings, tmp_path, "warehouse", "ledger", sku, "--json")
    bookings = orjson.loads(said[-1])["bookings"]
    assert code == 0
    assert [(one["kind"], one["on_hand"], one["allocated"], one["reserved"]) for one in bookings] == [
        ("reserve", 0, 0, 2),
        ("receive", 5, 0, 0),
    ]
    assert (bookings[1]["who"], bookings[1]["why"]) == ("李雷", "货到了")
    code, said = await operator.command(settings, tmp_path, "warehouse", "ledger", "nosuch")
    assert (code, "does not know" in said[-1]) == (1, True)
