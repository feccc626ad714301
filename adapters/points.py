"""Accounts and their ledger (fg_points): the one place that knows these tables.

A balance is the sum of its ledger at all times, because both move in one transaction and nothing else moves either. A
row of the ledger is unique by (ref_id, kind), and what bears a transaction's random nonce after the insert is new: only
that moves a balance. The nonce differs with every attempt, so a COMMIT that took effect while its answer was lost
finds its rows with another nonce, and moves nothing.

Everyone takes locks in the same order: accounts by user, then the ledger by (ref_id, kind), then the rest.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from adapters.mysql import Pool, query, transaction
from domain.points import LedgerKind, Moved, Movement, Recorded, compare, refuse_movement

NONCE_BYTES: Final = 16
LEDGER_SHOWN_MAX: Final = 100
"""Rows of an account's ledger that are read at once, the newest."""

OPEN_ACCOUNTS: Final = """
INSERT INTO account (user_id)
VALUES (%s)
ON DUPLICATE KEY UPDATE user_id = user_id"""
"""Makes accounts that are missing, and locks all of them in the order of the rows."""
INSERT_LEDGER: Final = """
INSERT INTO points_ledger (user_id, ref_id, kind, delta, at_ms, nonce, note)
VALUES (%s, %s, %s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE ref_id = ref_id"""
ADD_TO_ACCOUNTS: Final = """
INSERT INTO account (user_id, balance, version)
VALUES (%s, %s, %s)
ON DUPLICATE KEY UPDATE balance = balance + VALUES(balance), version = version + 1"""
"""For many accounts at once, which are locked: user, points, never negative, and MOVES."""
MOVES: Final = 1
"""By how much a version rises, however many rows of the ledger a transaction writes for its account."""

_LOCK: Final = "SELECT balance FROM account WHERE user_id = %s FOR UPDATE"
_FIND: Final = "SELECT nonce, user_id, delta FROM points_ledger WHERE ref_id = %s AND kind = %s"
_MOVE: Final = "UPDATE account SET balance = balance + %s, version = version + 1 WHERE user_id = %s"
# The index is named, for statistics of a table that grew in a minute may make the server read all of it.
_KNOWN: Final = """
SELECT ref_id, user_id, delta FROM points_ledger FORCE INDEX (movement)
WHERE ref_id IN %s AND kind = %s AND nonce <> %s"""
# Ids are given out in sequence, so what a transaction has written stands close together at the ledger's end.
_COUNT_OWN: Final = """
SELECT COUNT(*) FROM
 (SELECT nonce FROM points_ledger FORCE INDEX (PRIMARY) WHERE id >= %s ORDER BY id LIMIT %s) AS l
WHERE l.nonce = %s"""
LEDGER_ROWS_LOOKED_AT: Final = 4
"""For each row of a batch, where others write at the same time."""

# One statement each, for it sees one moment.
_STATEMENT_OF: Final = """
SELECT a.balance, l.ref_id, l.kind, l.delta, l.at_ms, l.note FROM account AS a
 LEFT JOIN points_ledger AS l FORCE INDEX (by_user) ON l.user_id = a.user_id
WHERE a.user_id = %s ORDER BY l.id DESC LIMIT %s"""
_BALANCES: Final = "SELECT user_id, balance FROM account WHERE user_id IN %s"
_SUM_OF: Final = """
SELECT a.balance, a.version,
 (SELECT CAST(COALESCE(SUM(l.delta), 0) AS SIGNED) FROM points_ledger AS l WHERE l.user_id = a.user_id),
 (SELECT COUNT(*) FROM points_ledger AS l WHERE l.user_id = a.user_id)
FROM account AS a WHERE a.user_id = %s"""


class LedgerRow(NamedTuple):
    """One movement of an account, as the ledger has it."""

    ref_id: str
    kind: LedgerKind
    delta: int
    at_ms: int
    note: str


class Statement(NamedTuple):
    """An account as its user is told of it."""

    balance: int
    ledger: list[LedgerRow]
    """The newest first, not all of them."""


class AccountSum(NamedTuple):
    """An account beside the sum of its whole ledger, of one moment."""

    balance: int
    version: int
    ledger_sum: int
    ledger_rows: int


# -- one movement ----------------------------------------------------------------------------------------------------


async def move(cursor: Any, wanted: Movement, *, at_ms: int, note: str = "") -> Moved:  # noqa: ANN401
    """Move one account in the caller's transaction, and say what came of it; a refusal changes nothing.

    The account stays locked until the transaction ends. What shall be true together with the movement (a saga's guard,
    say) is written in the same transaction. One that moves several accounts does so sorted by user.

    Args:
        cursor: of a transaction on fg_points.
        wanted: the movement.
        at_ms: Unix milliseconds.
        note: for people, at most `NOTE_MAX_CHARS`.
    """
    nonce = secrets.token_bytes(NONCE_BYTES)
    if wanted.delta > 0:
        await cursor.execute(OPEN_ACCOUNTS, (wanted.user_id,))
    await cursor.execute(_LOCK, (wanted.user_id,))
    row = await cursor.fetchone()
    known = await _find_of_others(cursor, wanted, nonce)
    if known is not None:
        return compare(known, wanted)
    refusal = refuse_movement(None if row is None else row[0], wanted.delta)
    if refusal is not None:
        return refusal
    await cursor.execute(INSERT_LEDGER, ledger_values(wanted, nonce, at_ms, note))
    known = await _find_of_others(cursor, wanted, nonce)
    if known is not None:  # another account's, written in this moment
        return compare(known, wanted)
    await cursor.execute(_MOVE, (wanted.delta, wanted.user_id))
    return Moved.NEW


async def move_once(pool: Pool, wanted: Movement, *, at_ms: int, note: str = "") -> Moved:
    """Move one account in a transaction of its own; see `move`.

    Raises:
        OutcomeUnknownError: COMMIT was sent and its answer was lost; the same call again tells.
        BackendError: nothing was changed; call again.
    """
    async with transaction(pool) as cursor:
        return await move(cursor, wanted, at_ms=at_ms, note=note)


def is_ours(row_nonce: bytes, nonce: bytes) -> bool:
    """Tell whether a row that was read back was written by the transaction that bears `nonce`."""
    return row_nonce == nonce


def ledger_values(one: Movement, nonce: bytes, at_ms: int, note: str = "") -> tuple[str | int | bytes, ...]:
    """Return the values that INSERT_LEDGER takes."""
    return (one.user_id, one.ref_id, str(one.kind), one.delta, at_ms, nonce, note)


async def _find_of_others(cursor: Any, wanted: Movement, nonce: bytes) -> Recorded | None:  # noqa: ANN401
    """Return what another transaction has written in the place of a movement."""
    await cursor.execute(_FIND, (wanted.ref_id, str(wanted.kind)))
    row = await cursor.fetchone()
    return None if row is None or is_ours(row[0], nonce) else Recorded(*row[1:])


# -- many of one kind ------------------------------------------------------------------------------------------------


async def count_own(cursor: Any, first_id: int, rows: int, nonce: bytes) -> int:  # noqa: ANN401
    """Return how many of the ledger's rows from an id on bear a nonce, looking no further than they can be."""
    await cursor.execute(_COUNT_OWN, (first_id, LEDGER_ROWS_LOOKED_AT * rows, nonce))
    (count,) = await cursor.fetchone()
    return int(count)


async def find_known(
    cursor: Any,  # noqa: ANN401
    ref_ids: Sequence[str],
    kind: LedgerKind,
    nonce: bytes,
) -> Mapping[str, Recorded]:
    """Return what the ledger has under these ref_ids that does not bear the nonce, by ref_id."""
    await cursor.execute(_KNOWN, (sorted(ref_ids), str(kind), nonce))
    return {ref_id: Recorded(user_id, delta) for ref_id, user_id, delta in await cursor.fetchall()}


# -- reading ---------------------------------------------------------------------------------------------------------


async def read_statement(
    pool: Pool, user_id: str, *, rows_max: int = LEDGER_SHOWN_MAX, timeout_s: float | None = None
) -> Statement | None:
    """Return an account's balance and its newest movements, of one moment; None if there is no such account.

    Raises:
        BackendError: MySQL is not there.
    """
    bound = {} if timeout_s is None else {"timeout_s": timeout_s}
    rows = await query(pool, _STATEMENT_OF, (user_id, rows_max), **bound)
    if not rows:
        return None
    ledger = [LedgerRow(one[1], LedgerKind(one[2]), *one[3:]) for one in rows if one[1] is not None]
    return Statement(rows[0][0], ledger)


async def read_balances(pool: Pool, user_ids: Sequence[str], *, timeout_s: float) -> dict[str, int]:
    """Return user → points, of those of these users (at least one) that have an account; read by one statement.

    Raises:
        BackendError: MySQL is not there, or did not answer in time.
    """
    return dict(await query(pool, _BALANCES, (sorted(set(user_ids)),), timeout_s=timeout_s))


async def read_sum(pool: Pool, user_id: str) -> AccountSum | None:
    """Return an account beside the sum of its ledger; None if there is no such account.

    Raises:
        BackendError: MySQL is not there.
    """
    rows = await query(pool, _SUM_OF, (user_id,))
    return AccountSum(*rows[0]) if rows else None
