"""Brings a schema up to date. Running twice, or two at once, does no harm."""

from pathlib import Path
from typing import Final, Literal

import pymysql
import pymysql.err
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from domain.errors import BackendError, OperationRefusedError
from domain.settings import Dsn

Schema = Literal["orders", "catalog", "points"]
LOCK_WAIT_S: Final = 60
_UNKNOWN_DATABASE: Final = 1049
_ACCESS_DENIED: Final = frozenset({1044, 1045, 1142, 1227})


def upgrade(schema: Schema, dsn: Dsn, *, connect_timeout_s: float) -> str:
    """Create the database if it is missing, apply what is missing, and return the revision that the schema is at.

    Raises:
        BackendError: the server cannot be reached, or another migration holds the lock for too long.
        OperationRefusedError: the user may not do this.
    """
    try:
        _create_database(dsn, connect_timeout_s)
        with _engine(dsn, connect_timeout_s).connect() as connection:
            return _upgrade_locked(schema, dsn, connection)
    except (OperationalError, pymysql.err.MySQLError) as error:
        original = error.orig if isinstance(error, OperationalError) else error
        said = f"MySQL at {dsn!r}: {original}"
        code = original.args[0] if original is not None and original.args else None
        if code in _ACCESS_DENIED:
            raise OperationRefusedError(f"{said}; the user needs rights on the database {dsn.database}") from None
        raise BackendError(said) from error


def _upgrade_locked(schema: Schema, dsn: Dsn, connection: Connection) -> str:
    name = f"flashgate.{dsn.database}"[:64]
    locked = connection.scalar(text("SELECT GET_LOCK(:name, :wait)"), {"name": name, "wait": LOCK_WAIT_S})
    if locked != 1:
        raise BackendError(f"MySQL at {dsn!r}: another migration has been running for more than {LOCK_WAIT_S} s")
    connection.commit()
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / schema).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()
    revision = MigrationContext.configure(connection).get_current_revision()
    return revision or "none"  # the lock goes with the connection, which is closed and not pooled


def _engine(dsn: Dsn, connect_timeout_s: float) -> Engine:
    url = URL.create(
        "mysql+pymysql",
        username=dsn.user,
        password=dsn.password,
        host=dsn.host,
        port=dsn.port,
        database=dsn.database,
        query={"charset": "utf8mb4"},
    )
    return create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": max(1, round(connect_timeout_s))})


def _create_database(dsn: Dsn, connect_timeout_s: float) -> None:
    """Create the database if it is missing; where it exists no right to create one is needed."""
    try:
        _connect(dsn, connect_timeout_s, database=dsn.database).close()
    except pymysql.err.OperationalError as error:
        if error.args[0] != _UNKNOWN_DATABASE:
            raise
    else:
        return
    connection = _connect(dsn, connect_timeout_s, database=None)
    try:
        with connection.cursor() as cursor:
            name = dsn.database.replace("`", "``")
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4")
    finally:
        connection.close()


def _connect(dsn: Dsn, connect_timeout_s: float, *, database: str | None) -> "pymysql.Connection":
    return pymysql.connect(
        host=dsn.host,
        port=dsn.port,
        user=dsn.user,
        password=dsn.password,
        database=database,
        connect_timeout=max(1, round(connect_timeout_s)),
    )
