"""Statements made ahead of their execution, with values escaped as the client library escapes them.

`adapters.mysql.insert_many` makes its statement and sends it in one go, which takes as much time here as the insert
takes in the server. A caller that has something to wait for can make the next statement meanwhile.

A statement is valid for connections of `adapters.mysql.Pool` only: it sets an SQL mode in which a backslash escapes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, TypeVar

from aiomysql.cursors import RE_INSERT_VALUES
from pymysql.converters import escape_bytes_prefixed, escape_int, escape_str

T = TypeVar("T")

SLICE_ROWS: Final = 100
"""Rows put into a statement at a time, so that an answer of MySQL's for another batch does not wait long."""

_ESCAPED: Final[dict[type, Callable[[Any], str]]] = {
    type(None): lambda _: "NULL",
    str: escape_str,
    int: escape_int,
    bytes: escape_bytes_prefixed,
}
"""By exact type: what is none of these is an error here, not a guess."""


class Escapes(dict[str | int | bytes | None, str]):
    """Value → how it stands in a statement. Most values of a batch come again and again, and are escaped once.

    Raises:
        KeyError: a value that is asked for is of another type.
    """

    def __missing__(self, value: str | int | bytes | None) -> str:
        self[value] = escaped = _ESCAPED[type(value)](value)
        return escaped


def _encoded(text: str) -> bytes:
    """Encode as the library does: its escape of bytes brings what is not ASCII as surrogates."""
    return text.encode("utf-8", "surrogateescape")


class InsertStatements:
    """The statements of one INSERT: one, unless it would be longer than the server takes.

    Args:
        sql: `INSERT … VALUES (%s, …) [ON DUPLICATE KEY …]`.
        bytes_max: no statement is longer, unless a single row is.
        escapes: of the batch that the rows belong to; it grows.
    """

    def __init__(self, sql: str, bytes_max: int, escapes: Escapes) -> None:
        parts = RE_INSERT_VALUES.match(sql)
        if not parts:
            raise ValueError("not of the form INSERT … VALUES (%s, …) [ON DUPLICATE KEY …]")
        self._head = parts[1].encode()
        self._row = parts[2].rstrip()
        self._tail = (parts[3] or "").encode()
        self._bytes_max = bytes_max - len(self._head) - len(self._tail)
        self._escapes = escapes
        self._rows: list[bytes] = []
        self._bytes = 0
        self._done: list[bytes] = []

    def add(self, rows: Sequence[tuple[str | int | bytes | None, ...]]) -> None:
        """Add rows.

        Raises:
            KeyError: a value is of a type other than str, int, bytes and None.
        """
        row, escapes = self._row, self._escapes
        for values in rows:
            made = _encoded(row % tuple([escapes[value] for value in values]))
            if self._rows and self._bytes + len(made) + 1 > self._bytes_max:
                self._end()
            self._rows.append(made)
            self._bytes += len(made) + 1

    def statements(self) -> list[bytes]:
        """Return them, in order; none if there are no rows."""
        if self._rows:
            self._end()
        return self._done

    def _end(self) -> None:
        self._done.append(b"".join((self._head, b",".join(self._rows), self._tail)))
        self._rows, self._bytes = [], 0


async def in_slices(rows: Sequence[T]) -> AsyncIterator[Sequence[T]]:
    """Yield rows a few at a time, and let other tasks run in between."""
    for start in range(0, len(rows), SLICE_ROWS):
        yield rows[start : start + SLICE_ROWS]
        await asyncio.sleep(0)


async def execute_all(cursor: Any, statements: Sequence[bytes]) -> int:  # noqa: ANN401 -- aiomysql has no types
    """Execute statements; returns the first id that the first of them has given out, 0 if it has given out none."""
    first_id = 0
    for number, statement in enumerate(statements):
        await cursor.execute(statement)
        if number == 0:
            first_id = int(cursor.lastrowid or 0)
    return first_id
