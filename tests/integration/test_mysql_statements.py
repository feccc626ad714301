"""Statements that are made ahead say what the client library's own would say."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from adapters.mysql import Pool, insert_many, query, transaction
from adapters.mysql_statements import Escapes, InsertStatements
from stack.servers import Endpoints
from tests.support.orders import new_sale

pytestmark = pytest.mark.usefixtures("stack")

INSERT = """
INSERT INTO values_of (id, raw, words, number)
VALUES (%s, %s, %s, %s)
ON DUPLICATE KEY UPDATE id = id"""

VALUES: list[tuple[str | int | bytes, ...]] = [
    (1, b"\x00\x01'\"\\%\xff\xfe", 'it\'s "quoted" \\ 100% \x00 \x1a \n\r\t', -1),
    (2, b"", "", 0),
    (3, bytes(range(256)), "Ä 漢字 🎁 %s %(a)s {0}", 2**62),
    (4, b"%s", "'; DROP TABLE values_of; --", 7),
]


@pytest_asyncio.fixture
async def pool(endpoints: Endpoints) -> AsyncIterator[Pool]:
    """Return a database with a table for any values."""
    async with new_sale(endpoints) as sale:
        async with transaction(sale.orders) as cursor:
            await cursor.execute(
                "CREATE TABLE values_of (id BIGINT PRIMARY KEY, raw VARBINARY(300), "
                "words VARCHAR(300) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, number BIGINT)"
            )
        yield sale.orders


async def stored(pool: Pool) -> list[tuple[object, ...]]:
    """Return what the table holds, and empty it."""
    rows = await query(pool, "SELECT id, raw, words, number FROM values_of ORDER BY id")
    async with transaction(pool) as cursor:
        await cursor.execute("DELETE FROM values_of")
    return rows


async def test_values_arrive_as_they_are(pool: Pool) -> None:
    """Quotes, backslashes, zero bytes, percent signs and any script arrive unchanged, as by the library itself."""
    made = InsertStatements(INSERT, 1_000_000, Escapes())
    made.add(VALUES[:2])
    made.add(VALUES[2:])
    (statement,) = made.statements()
    async with transaction(pool) as cursor:
        await cursor.execute(statement)
    assert await stored(pool) == VALUES
    async with transaction(pool) as cursor:
        await insert_many(cursor, INSERT, VALUES)
        assert cursor._executed == statement
    assert await stored(pool) == VALUES


async def test_what_is_too_long_for_one_statement_is_several(pool: Pool) -> None:
    """No statement is longer than the bound, unless one row alone is; together they insert every row."""
    rows: list[tuple[str | int | bytes, ...]] = [(number, b"x" * 50, "y" * 50, number) for number in range(100)]
    made = InsertStatements(INSERT, 1_000, Escapes())
    made.add(rows)
    statements = made.statements()
    assert 10 < len(statements) < 100
    assert max(map(len, statements)) <= 1_000
    async with transaction(pool) as cursor:
        for statement in statements:
            await cursor.execute(statement)
    assert await stored(pool) == rows
    short = InsertStatements(INSERT, 1, Escapes())
    short.add(rows[:3])
    assert len(short.statements()) == 3
    assert InsertStatements(INSERT, 1_000, Escapes()).statements() == []


@pytest.mark.parametrize("value", [1.5, [1], {"a": 1}, Ellipsis])
async def test_what_is_no_text_number_or_bytes_is_refused(value: object) -> None:
    """A value of another type is an error, not a guess."""
    made = InsertStatements(INSERT, 1_000, Escapes())
    with pytest.raises((KeyError, TypeError)):
        made.add([(1, b"", value, 1)])  # type: ignore[list-item]


async def test_other_statements_are_refused() -> None:
    """Only an INSERT of the form that the library itself sends as one statement is taken."""
    with pytest.raises(ValueError, match="INSERT"):
        InsertStatements("UPDATE a SET b = %s", 1_000, Escapes())
