"""`./flashgate migrate`: brings the MySQL schemas up to date."""

from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from adapters.mysql import catalog_dsn, orders_dsn, points_dsn
from cli.config import load
from domain.settings import Dsn, Settings

if TYPE_CHECKING:
    from migrations.runner import Schema


def dsns(settings: Settings) -> "dict[Schema, Dsn]":
    """Return where each schema lies."""
    mysql = settings.mysql
    return {
        "orders": orders_dsn(mysql),
        "catalog": catalog_dsn(mysql),
        "points": points_dsn(mysql),
    }


def upgrade_all(settings: Settings) -> dict[str, dict[str, str]]:
    """Bring every schema up to date; returns schema → database and revision.

    Raises:
        FlashgateError: see `migrations.runner.upgrade`.
    """
    # Alembic takes a quarter of a second to import, which every gateway worker would pay for nothing.
    from migrations.runner import upgrade  # noqa: PLC0415

    timeout_s = settings.mysql.connect_timeout_s
    return {
        schema: {"database": dsn.database, "revision": upgrade(schema, dsn, connect_timeout_s=timeout_s)}
        for schema, dsn in dsns(settings).items()
    }


def migrate(
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Bring the MySQL schemas up to date; a schema that is up to date is left as it is."""
    done = upgrade_all(load())
    if json:
        typer.echo(orjson.dumps(done).decode())
        return
    for schema, facts in done.items():
        typer.echo(f"{schema}: database {facts['database']} is at revision {facts['revision']}")
