"""The one transaction that stores a batch of awards: the ledger's rows, and one statement for all their accounts.

Awards may come in any order and any number of times: the ledger decides what is new (`adapters.points`). However many
awards a batch has for one account, the account moves once. A batch that would lift an account past its bound is
refused by MySQL as a whole, and the writer finds the award at fault by bisection.

Nearly every batch is new as a whole. So accounts are moved first, by all that the batch has for them, which makes and
locks them as well; if the ledger then turns out to know any of it, or MySQL refuses a balance that may count something
twice, that is undone, and the batch is written the careful way: accounts locked, ledger, then what is new.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from adapters.mysql import IDLE_IN_TRANSACTION_S, DataRefusedError, Pool, transaction
from adapters.mysql_statements import Escapes, InsertStatements, execute_all, in_slices
from adapters.points import (
    ADD_TO_ACCOUNTS,
    INSERT_LEDGER,
    MOVES,
    NONCE_BYTES,
    OPEN_ACCOUNTS,
    count_own,
    find_known,
    ledger_values,
)
from consumers import award_batch
from consumers.award_batch import Award
from consumers.batch import Dead, Outcome, Record
from domain import failpoints
from domain.points import LedgerKind, Movement, sums

PREPARED_AGE_MAX_MS: Final = 1_000
"""Statements that are older are made anew: their time is that of the movement."""


@dataclass(slots=True)
class Prepared:
    """The statements that store a batch, made before its transaction begins, for one attempt.

    Attributes:
        awards: the batch.
        if_all_new: what becomes of them if nobody else has written any.
        nonce: of the transaction.
        now_ms: when the accounts are moved, Unix milliseconds.
        ledger: insert the ledger's rows.
        moves: make, lock and move the accounts, if all rows are new.
        rows: the number of the ledger's rows.
        used: whether the nonce has been in use: another attempt must have another.
    """

    awards: Sequence[Award]
    if_all_new: Outcome
    nonce: bytes
    now_ms: int
    ledger: Sequence[bytes]
    moves: Sequence[bytes]
    rows: int
    used: bool = False

    def fits(self, awards: Sequence[Award], now_ms: int) -> bool:
        """Tell whether it may be used for these awards now."""
        return not self.used and self.awards is awards and 0 <= now_ms - self.now_ms <= PREPARED_AGE_MAX_MS


class AwardStore:
    """Stores batches of awards; a `consumers.writer.Store`.

    Args:
        pool: the database fg_points.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._hopeful = True
        """Whether the last batch was new as a whole: then the next one most likely is."""

    def split(self, records: Sequence[Record]) -> tuple[Sequence[Award], Sequence[Dead]]:
        """Decode records; those that are no awards are dead."""
        return award_batch.split_poison(records)

    async def prepare(self, items: Sequence[Award], *, now_ms: int) -> Prepared | None:
        """Make the statements for a batch, leaving room for other tasks in between."""
        return await self._make(items, now_ms) if items else None

    async def store(self, items: Sequence[Award], *, now_ms: int, prepared: Prepared | None = None) -> Outcome:
        """Store a batch; returns what became of each record.

        Args:
            items: the batch.
            now_ms: Unix milliseconds.
            prepared: the statements for exactly these items, if there are any; used where they still fit.

        Raises:
            BackendError: transient; the batch may or may not have been stored, and must be stored again.
            DataRefusedError: an account would have more than it may; nothing was stored.
        """
        if not items:
            return Outcome()
        if prepared is None or not prepared.fits(items, now_ms):
            prepared = await self._make(items, now_ms)
        hopeful = self._hopeful
        try:
            return await self._attempt(prepared, hopeful=hopeful)
        except DataRefusedError:
            self._hopeful = False
            if not hopeful:
                raise
        return await self._attempt(await self._make(items, now_ms), hopeful=False)

    async def _attempt(self, prepared: Prepared, *, hopeful: bool) -> Outcome:
        prepared.used = True
        async with transaction(self._pool, idle_max_s=IDLE_IN_TRANSACTION_S) as cursor:
            outcome = await self._write_as_new(cursor, prepared) if hopeful else None
            if outcome is None:
                outcome = await self._write_carefully(cursor, prepared)
            failpoints.reach("consumer.before_mysql_commit")
        return outcome

    async def _write_as_new(self, cursor: Any, prepared: Prepared) -> Outcome | None:  # noqa: ANN401
        """Write a batch of which nothing is known; None, and nothing is written or locked, if something was."""
        await execute_all(cursor, prepared.moves)
        if await self._write_ledger(cursor, prepared):
            return prepared.if_all_new
        await cursor.execute("ROLLBACK")
        await cursor.execute("BEGIN")
        return None

    async def _write_ledger(self, cursor: Any, prepared: Prepared) -> bool:  # noqa: ANN401
        """Insert what is missing; tells whether everything was."""
        first_id = await execute_all(cursor, prepared.ledger)
        # Reading back one number is quicker than reading rows.
        own = first_id and await count_own(cursor, first_id, prepared.rows, prepared.nonce)
        self._hopeful = own == prepared.rows
        return self._hopeful

    async def _write_carefully(self, cursor: Any, prepared: Prepared) -> Outcome:  # noqa: ANN401
        await execute_all(cursor, self._accounts(prepared.awards))
        if await self._write_ledger(cursor, prepared):
            await execute_all(cursor, prepared.moves)
            return prepared.if_all_new
        ref_ids = sorted({award.event.ref_id for award in prepared.awards})
        known = await find_known(cursor, ref_ids, LedgerKind.AWARD, prepared.nonce)
        outcome, moves = award_batch.judge(prepared.awards, known)
        await execute_all(cursor, self._moves(moves, Escapes()))
        return outcome

    async def _make(self, awards: Sequence[Award], now_ms: int) -> Prepared:
        nonce, escapes = secrets.token_bytes(NONCE_BYTES), Escapes()
        bytes_max = self._pool.statement_bytes_max
        rows = award_batch.ledger_rows(awards)
        ledger = InsertStatements(INSERT_LEDGER, bytes_max, escapes)
        async for several in in_slices(rows):
            ledger.add([ledger_values(award.movement, nonce, now_ms) for award in several])
        outcome, moves = award_batch.judge(awards, {})
        return Prepared(
            awards=awards,
            if_all_new=outcome,
            nonce=nonce,
            now_ms=now_ms,
            ledger=ledger.statements(),
            moves=self._moves(moves, escapes),
            rows=len(rows),
        )

    def _accounts(self, awards: Sequence[Award]) -> Sequence[bytes]:
        """Return the statements that make and lock a batch's accounts; made when they are needed, which is rare."""
        statements = InsertStatements(OPEN_ACCOUNTS, self._pool.statement_bytes_max, Escapes())
        statements.add([(user_id,) for user_id in award_batch.accounts(awards)])
        return statements.statements()

    def _moves(self, moves: Sequence[Movement], escapes: Escapes) -> Sequence[bytes]:
        statements = InsertStatements(ADD_TO_ACCOUNTS, self._pool.statement_bytes_max, escapes)
        statements.add([(user_id, delta, MOVES) for user_id, delta in sums(moves).items()])
        return statements.statements()
