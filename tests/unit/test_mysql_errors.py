"""Which of MySQL's errors call for another attempt, and which for the dead letters."""

import asyncio

import pymysql.err
import pytest

from adapters.mysql import insert_many, is_data_error, is_transient, resolve_dsn
from domain.errors import BackendError, ConfigError, OutcomeUnknownError
from domain.settings import MysqlSettings


@pytest.mark.parametrize(
    "error",
    [
        pymysql.err.OperationalError(2013, "Lost connection"),
        pymysql.err.OperationalError(2006, "gone away"),
        pymysql.err.OperationalError(2003, "cannot connect"),
        pymysql.err.OperationalError(1213, "deadlock"),
        pymysql.err.OperationalError(1205, "lock wait"),
        pymysql.err.OperationalError(1040, "too many connections"),
        pymysql.err.OperationalError(1053, "shutdown"),
        pymysql.err.OperationalError(1290, "read-only"),
        pymysql.err.InterfaceError("(0, 'Not connected')"),
        pymysql.err.InternalError("Packet sequence number wrong - got 2 expected 1"),
        ConnectionResetError(),
        TimeoutError(),
        asyncio.IncompleteReadError(b"", 4),
        BackendError("x"),
        OutcomeUnknownError("x"),
    ],
)
def test_transient(error: Exception) -> None:
    """The server, the network or a rival was at fault."""
    assert is_transient(error)
    assert not is_data_error(error)


@pytest.mark.parametrize(
    "error",
    [
        pymysql.err.IntegrityError(1452, "foreign key"),
        pymysql.err.DataError(1264, "out of range"),
        pymysql.err.DataError(1406, "too long"),
        pymysql.err.OperationalError(1366, "incorrect string"),
        pymysql.err.OperationalError(1644, "signal"),
        pymysql.err.OperationalError(4025, "check"),
        pymysql.err.OperationalError(1153, "packet too large"),
    ],
)
def test_data(error: Exception) -> None:
    """The data was at fault."""
    assert is_data_error(error)
    assert not is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        pymysql.err.ProgrammingError(1064, "syntax"),
        pymysql.err.ProgrammingError(1146, "no such table"),
        pymysql.err.OperationalError(1045, "access denied"),
        ValueError(),
    ],
)
def test_neither(error: Exception) -> None:
    """What is neither is not hidden: no attempt and no dead letter would help."""
    assert not is_transient(error)
    assert not is_data_error(error)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t (a) VALUES(%s)",
        "INSERT INTO t (a) SELECT %s",
        "UPDATE t SET a = %s",
        "INSERT INTO t (a) VALUES (%s) RETURNING a",
    ],
)
async def test_sql_that_would_run_row_by_row_is_refused(sql: str) -> None:
    """Without the blank before the bracket the library sends one statement a row; that is an error here."""
    with pytest.raises(ValueError, match="VALUES"):
        await insert_many(None, sql, [(1,), (2,)])


def test_password_is_not_shown() -> None:
    """Neither a DSN nor an error about one repeats the password."""
    dsn = resolve_dsn("mysql://u:s3cret@h/db", MysqlSettings(), name="x")
    assert dsn.password == "s3cret"
    assert "s3cret" not in repr(dsn)
    with pytest.raises(ConfigError) as caught:
        resolve_dsn("mysql://u:s3cret@h", MysqlSettings(), name="x")
    assert "s3cret" not in str(caught.value)
