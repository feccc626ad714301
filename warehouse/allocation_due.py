"""What Redis and fg_orders are owed by the catalog (table `allocation_due`): the outbox between the two schemas.

A row is written in the transaction that moves an allocation, and is done when everyone has followed. Whoever wrote it
carries it out at once; if he died over it, the process `flashgate consume warehouse` does.
"""

from enum import StrEnum
from typing import Any, Final, NamedTuple

from adapters.catalog import bring_counters
from adapters.mysql import Pool, query, transaction

GRACE_MS: Final = 1_000
"""How long whoever wrote a row has it to himself; it is no harm if two carry it out."""
ERROR_CHARS_MAX: Final = 255
COUNTERS_REF: Final = "counters"

_COLUMNS: Final = "campaign_id, ref, kind, sku_id, units, load_no, previous, attempts, done_at_ms, error"
_INSERT: Final = (
    "INSERT INTO allocation_due (campaign_id, ref, kind, sku_id, units, load_no, previous, created_at_ms, next_at_ms) "
    "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"
)
# `units` counts how often it was written: what was written again meanwhile is not done yet.
_COUNTERS: Final = (
    "INSERT INTO allocation_due (campaign_id, ref, kind, units, created_at_ms, next_at_ms) "
    "VALUES (%s, %s, %s, 1, %s, %s) "
    "ON DUPLICATE KEY UPDATE units = units + 1, next_at_ms = VALUES(next_at_ms), attempts = 0, done_at_ms = NULL"
)
_AGAIN: Final = (
    "UPDATE allocation_due SET done_at_ms = NULL, next_at_ms = %s, attempts = 0 WHERE campaign_id = %s AND ref = %s"
)
_FIND: Final = f"SELECT {_COLUMNS} FROM allocation_due WHERE campaign_id = %s AND ref = %s"  # noqa: S608 -- columns alone
_OPEN: Final = (
    f"SELECT {_COLUMNS} FROM allocation_due WHERE campaign_id = %s AND kind = %s AND done_at_ms IS NULL "  # noqa: S608
    "ORDER BY created_at_ms, ref"
)
_DUE: Final = (
    f"SELECT {_COLUMNS} FROM allocation_due FORCE INDEX (by_due) "  # noqa: S608
    "WHERE done_at_ms IS NULL AND next_at_ms <= %s ORDER BY next_at_ms LIMIT %s"
)
_DONE: Final = (
    "UPDATE allocation_due SET done_at_ms = %s, error = %s, previous = NULL "
    "WHERE campaign_id = %s AND ref = %s AND units = %s AND done_at_ms IS NULL"
)
_LATER: Final = (
    "UPDATE allocation_due SET attempts = attempts + 1, next_at_ms = %s, error = %s "
    "WHERE campaign_id = %s AND ref = %s AND done_at_ms IS NULL"
)


class DueKind(StrEnum):
    """What is owed."""

    LOAD = "load"
    """Redis is to take a campaign's file, and what is allocated for it."""
    TOP_UP = "topup"
    """Redis is to take more units of a SKU."""
    CLOSE = "close"
    """Redis is to close a campaign and give back what is unsold."""
    COUNTERS = "counters"
    """fg_orders is to know what is allocated."""


class Due(NamedTuple):
    """A row of `allocation_due`."""

    campaign_id: str
    ref: str
    kind: DueKind
    sku_id: str = ""
    units: int = 0
    load_no: int = 0
    previous: str | None = None
    """A load's: the definition before it, as JSON; None if there was none, or the load is done."""
    attempts: int = 0
    done_at_ms: int | None = None
    error: str = ""
    """Why it was put off, or refused for good if it is done."""


async def write(cursor: Any, due: Due, now_ms: int) -> None:  # noqa: ANN401 -- aiomysql has no types
    """Owe something, in the transaction that moves the allocation."""
    values = (due.campaign_id, due.ref, due.kind, due.sku_id, due.units, due.load_no, due.previous)
    await cursor.execute(_INSERT, (*values, now_ms, now_ms + GRACE_MS))


async def write_again(cursor: Any, campaign_id: str, ref: str, now_ms: int) -> None:  # noqa: ANN401
    """Owe something once more that was done before."""
    await cursor.execute(_AGAIN, (now_ms + GRACE_MS, campaign_id, ref))


async def write_counters(cursor: Any, campaign_id: str, now_ms: int) -> Due:  # noqa: ANN401
    """Owe fg_orders the campaign's figures, in the transaction that moves them; returns what is owed."""
    values = (campaign_id, COUNTERS_REF, DueKind.COUNTERS)
    await cursor.execute(_COUNTERS, (*values, now_ms, now_ms + GRACE_MS))
    found = await find(cursor, campaign_id, COUNTERS_REF)
    assert found is not None, "it has just been written"  # noqa: S101 -- for the type's sake
    return found


async def find(cursor: Any, campaign_id: str, ref: str) -> Due | None:  # noqa: ANN401
    """Return what is owed under this reference, done or not."""
    await cursor.execute(_FIND, (campaign_id, ref))
    row = await cursor.fetchone()
    return None if row is None else _due(row)


async def find_open(cursor: Any, campaign_id: str, kind: DueKind) -> list[Due]:  # noqa: ANN401
    """Return what of a kind a campaign is owed, oldest first."""
    await cursor.execute(_OPEN, (campaign_id, kind))
    return [_due(row) for row in await cursor.fetchall()]


async def find_due(catalog: Pool, now_ms: int, limit: int) -> list[Due]:
    """Return what is due, those that have waited longest first.

    Raises:
        BackendError: MySQL is not there.
    """
    return [_due(row) for row in await query(catalog, _DUE, (now_ms, limit))]


async def note_done(catalog: Pool, due: Due, now_ms: int, error: str = "") -> None:
    """Note that something is done, or, with an error, that it was refused for good.

    Raises:
        BackendError: MySQL could not do it now; what is owed is done once more, which is harmless.
    """
    async with transaction(catalog) as cursor:
        await end(cursor, due, now_ms, error)


async def end(cursor: Any, due: Due, now_ms: int, error: str = "") -> None:  # noqa: ANN401
    """Note it within a transaction."""
    await cursor.execute(_DONE, (now_ms, error[:ERROR_CHARS_MAX], due.campaign_id, due.ref, due.units))


async def follow(catalog: Pool, orders: Pool, due: Due, now_ms: int) -> None:
    """Have fg_orders take over what the catalog has allocated, which is the last of every step, and note it done.

    Raises:
        BackendError: MySQL could not do it now; may be repeated.
    """
    await bring_counters(catalog, orders, due.campaign_id)
    await note_done(catalog, due, now_ms)


async def put_off(catalog: Pool, due: Due, next_at_ms: int, error: str) -> None:
    """Note why something could not be done, and when to try again.

    Raises:
        BackendError: MySQL could not do it now.
    """
    async with transaction(catalog) as cursor:
        await cursor.execute(_LATER, (next_at_ms, error[:ERROR_CHARS_MAX], due.campaign_id, due.ref))


def _due(row: tuple[Any, ...]) -> Due:
    return Due(row[0], row[1], DueKind(row[2]), *row[3:])
