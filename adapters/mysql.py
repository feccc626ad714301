"""MySQL over asyncio: a bounded pool, transactions that never leave a broken connection behind, errors by cause.

Connections are in autocommit mode and READ COMMITTED; `transaction` opens a transaction explicitly. A connection on
which anything went wrong (an error, a time-out, a cancellation) is closed and never used again: the rest of a broken
answer would otherwise be read as the answer to the next query.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiomysql
import pymysql.err
from aiomysql.cursors import RE_INSERT_VALUES

from domain.errors import BackendError, ConfigError, FlashgateError, OutcomeUnknownError
from domain.settings import Dsn, MysqlSettings, parse_dsn

STATEMENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""No statement is made longer than this, even where the server would take it."""
PACKET_MARGIN_BYTES: Final = 1_024
TRANSACTION_TIMEOUT_S: Final = 60.0
"""Longer than the server's own lock wait (50 s), so that a wait for a lock ends by itself."""
IDLE_IN_TRANSACTION_S: Final = 10
"""MySQL drops a consumer that has said nothing for so long in the middle of its transaction: a process that was stopped
would otherwise hold its locks, and everyone else would wait for it."""

LIMIT_IDLE: Final = "SET SESSION wait_timeout = %s"
UNLIMIT_IDLE: Final = "SET SESSION wait_timeout = DEFAULT"

# Server and client error numbers after which the same call may succeed later.
_TRANSIENT_CODES: Final = frozenset(
    {
        1020,  # record has changed since last read
        1021,  # disk full
        1040,  # too many connections
        1053,  # shutdown in progress
        1114,  # table full
        1129,  # host blocked
        1152,  # aborted connection
        1158,  # error reading communication packets, and its kin
        1159,
        1160,
        1161,
        1180,  # error during COMMIT
        1203,  # too many connections of this user
        1205,  # lock wait timeout
        1213,  # deadlock
        1226,  # resource limit of this user
        1290,  # read-only: not the primary, or not yet
        1317,  # query interrupted
        1615,  # prepared statement needs to be prepared again
        1836,  # read-only mode
        1927,  # connection was killed
        1969,  # statement time exceeded
        2002,  # cannot connect, and its kin
        2003,
        2006,  # server has gone away
        2013,  # lost connection
        2014,  # commands out of sync
        2055,
        3024,  # statement time exceeded
        3100,  # group replication refused the commit
        4031,  # disconnected for inactivity
    },
)

# Error numbers that say that the data itself is at fault: a repeat changes nothing.
_DATA_CODES: Final = frozenset(
    {
        1048,  # column cannot be null
        1062,  # duplicate entry
        1153,  # a packet larger than max_allowed_packet
        1216,  # foreign keys
        1217,
        1264,  # out of range
        1265,  # truncated
        1292,  # wrong value
        1364,  # no default
        1366,  # wrong string or integer value
        1406,  # too long
        1451,
        1452,
        1644,  # SIGNAL in a trigger
        1690,  # arithmetic out of range
        3140,  # not JSON
        3819,  # CHECK, MySQL
        4025,  # CHECK, MariaDB
    },
)
_ERROR_DURING_COMMIT: Final = 1180


class DataRefusedError(FlashgateError):
    """MySQL refused the data itself; nothing was changed, and the same data would be refused again."""


def _code(error: BaseException) -> int | None:
    code = error.args[0] if error.args else None
    return code if isinstance(code, int) else None


def is_transient(error: BaseException) -> bool:
    """Tell whether the same call may succeed later: the server, the network or a rival was at fault, not the data."""
    if isinstance(error, pymysql.err.MySQLError):
        code = _code(error)
        if code is None or code == 0:  # "not connected", "packet sequence number wrong"
            return isinstance(error, pymysql.err.InterfaceError | pymysql.err.InternalError)
        return code in _TRANSIENT_CODES
    return isinstance(error, OSError | EOFError | TimeoutError | BackendError)


def is_data_error(error: BaseException) -> bool:
    """Tell whether the data itself was refused."""
    return isinstance(error, pymysql.err.DataError | pymysql.err.IntegrityError) or (
        isinstance(error, pymysql.err.MySQLError) and _code(error) in _DATA_CODES
    )


def _translated(error: BaseException, *, dsn: Dsn, committing: bool) -> BaseException:
    """Return the error of ours that a foreign one means; what is neither transient nor about data stays as it is."""
    text = f"MySQL at {dsn!r}: {type(error).__name__}: {error}"
    if is_transient(error):
        answered = isinstance(error, pymysql.err.MySQLError) and 1000 <= (_code(error) or 0) < 2000
        if committing and (not answered or _code(error) == _ERROR_DURING_COMMIT):
            return OutcomeUnknownError(text)
        return BackendError(text)
    return DataRefusedError(text) if is_data_error(error) else error


def resolve_dsn(text: str, settings: MysqlSettings, *, name: str) -> Dsn:
    """Parse a DSN, with the password from `password_file` if it has none of its own.

    Raises:
        ConfigError: not a DSN, or the file cannot be read.
    """
    password = ""
    if settings.password_file:
        try:
            password = Path(settings.password_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"mysql.password_file: {error.strerror}: {settings.password_file}") from None
    return parse_dsn(text, name=name, password=password)


def orders_dsn(settings: MysqlSettings) -> Dsn:
    """Return where fg_orders is; errors as in `resolve_dsn`."""
    return resolve_dsn(settings.orders_dsn, settings, name="mysql.orders_dsn")


def catalog_dsn(settings: MysqlSettings) -> Dsn:
    """Return where fg_catalog is; errors as in `resolve_dsn`."""
    return resolve_dsn(settings.catalog_dsn, settings, name="mysql.catalog_dsn")


def points_dsn(settings: MysqlSettings) -> Dsn:
    """Return where fg_points is; errors as in `resolve_dsn`."""
    return resolve_dsn(settings.points_dsn, settings, name="mysql.points_dsn")


class Pool:
    """At most `size_max` connections to one database; a caller past that waits for its turn.

    Belongs to one event loop. `query` and `transaction` below are the ways to use it.
    """

    def __init__(self, dsn: Dsn, *, size_max: int, connect_timeout_s: float) -> None:
        self.dsn = dsn
        self._connect_timeout_s = connect_timeout_s
        self._turns = asyncio.Semaphore(size_max)
        self._free: list[Any] = []
        self._statement_bytes_max = STATEMENT_BYTES_MAX
        self._closed = False

    def __repr__(self) -> str:
        return f"Pool({self.dsn!r})"

    async def close(self) -> None:
        """Close idle connections now, and those in use when they come back."""
        self._closed = True
        free, self._free = self._free, []
        for connection in free:
            with contextlib.suppress(Exception):
                await connection.ensure_closed()

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Lend a connection; one on which anything was raised is closed instead of taken back."""
        async with self._turns:
            connection = self._free.pop() if self._free else await self._connect()
            sound = False
            try:
                yield connection
                sound = True
            finally:
                if sound and not self._closed:
                    self._free.append(connection)
                else:
                    connection.close()

    def forget_idle(self) -> None:
        """Close idle connections: after one was lost the others are most likely lost too."""
        free, self._free = self._free, []
        for connection in free:
            connection.close()

    @property
    def statement_bytes_max(self) -> int:
        """No statement may be longer; known after the first connection."""
        return self._statement_bytes_max

    async def _connect(self) -> Any:  # noqa: ANN401 -- aiomysql has no types
        """Connect within the bound; the library's own covers the TCP part only.

        TRADITIONAL refuses what does not fit instead of cutting it, on any server, whatever its own default.
        """
        connection: Any = None
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await aiomysql.connect(
                    host=self.dsn.host,
                    port=self.dsn.port,
                    user=self.dsn.user,
                    password=self.dsn.password,
                    db=self.dsn.database,
                    charset="utf8mb4",
                    sql_mode="'TRADITIONAL'",
                    autocommit=True,
                    program_name="flashgate",
                )
                async with connection.cursor() as cursor:
                    await cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                    await cursor.execute("SELECT @@max_allowed_packet")
                    (packet,) = await cursor.fetchone()
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        self._statement_bytes_max = min(STATEMENT_BYTES_MAX, int(packet) - PACKET_MARGIN_BYTES)
        return connection


def connect_pool(dsn: Dsn, settings: MysqlSettings) -> Pool:
    """Return a pool; it connects when it is first used."""
    return Pool(dsn, size_max=settings.pool_max, connect_timeout_s=settings.connect_timeout_s)


@contextlib.asynccontextmanager
async def transaction(
    pool: Pool, *, timeout_s: float = TRANSACTION_TIMEOUT_S, idle_max_s: int | None = None
) -> AsyncIterator[Any]:
    """Run a block in one READ COMMITTED transaction; yields a cursor.

    Leaving the block commits. Anything raised in it, a cancellation too, closes the connection, so that the server
    rolls back.

    Args:
        pool: where.
        timeout_s: for all of it.
        idle_max_s: the server ends it when it hears nothing for so long; None: as long as its own setting allows.

    Raises:
        OutcomeUnknownError: COMMIT was sent and its answer was lost.
        BackendError: transient; nothing was changed.
        DataRefusedError: the data is at fault; nothing was changed.
    """
    committing = False
    try:
        async with asyncio.timeout(timeout_s), pool.connection() as connection:
            await connection.begin()
            async with connection.cursor() as cursor:
                cursor.max_stmt_length = pool.statement_bytes_max
                if idle_max_s is not None:
                    await cursor.execute(LIMIT_IDLE, (idle_max_s,))
                yield cursor
                if idle_max_s is not None:  # in its pool it may rest as long as the server's own setting allows
                    await cursor.execute(UNLIMIT_IDLE)
            committing = True
            await connection.commit()
    except Exception as error:
        translated = _translated(error, dsn=pool.dsn, committing=committing)
        if isinstance(translated, BackendError):
            pool.forget_idle()
        if translated is error:
            raise
        raise translated from error


async def query(
    pool: Pool,
    sql: str,
    args: Sequence[object] = (),
    *,
    timeout_s: float = TRANSACTION_TIMEOUT_S,
) -> list[tuple[Any, ...]]:
    """Run one reading statement outside any transaction and return its rows.

    Raises:
        BackendError: transient.
    """
    try:
        async with asyncio.timeout(timeout_s), pool.connection() as connection, connection.cursor() as cursor:
            await cursor.execute(sql, tuple(args) or None)
            return list(await cursor.fetchall())
    except Exception as error:
        translated = _translated(error, dsn=pool.dsn, committing=False)
        if isinstance(translated, BackendError):
            pool.forget_idle()
        if translated is error:
            raise
        raise translated from error


async def insert_many(cursor: Any, sql: str, rows: Sequence[tuple[object, ...]]) -> None:  # noqa: ANN401
    """Insert rows by one statement; only more bytes than the server takes at once are split over several.

    Raises:
        ValueError: the library would send this SQL row by row: it must end in `VALUES (%s, …)`, with that blank, and
            may be followed by `ON DUPLICATE KEY …` only.
    """
    if not RE_INSERT_VALUES.match(sql):
        raise ValueError("not of the form INSERT … VALUES (%s, …) [ON DUPLICATE KEY …]")
    if rows:
        await cursor.executemany(sql, rows)
