"""Accepted redemptions: each becomes a saga that is due at once; `consumers.saga_driver` does the rest.

The writer is the one that all topics have. Its store writes the sagas of a batch in one transaction: a row that bears
the transaction's random nonce after the insert is new. A second deduction is written down in `stock_return`, as with
orders; a record that comes again for a saga that was parked has it taken up anew.
"""

import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from adapters.mysql import IDLE_IN_TRANSACTION_S, Pool, insert_many, transaction
from adapters.order_tables import INSERT_RETURNS, KEEP_KNOWN, NONCE_BYTES, return_row
from consumers import batch, redemption_batch
from consumers.batch import Counted, Dead, Origin, Outcome, Payload, Record
from consumers.dead_letters import DeadLetters
from consumers.metrics import ConsumerMetrics
from consumers.redemption_batch import Known, Redemption
from consumers.writer import STALL_AFTER_S, Writer
from domain import failpoints
from domain.saga import SagaStatus
from domain.settings import Settings

_COUNTERS: Final = "SELECT sku_id FROM campaign_sku WHERE campaign_id = %s AND sku_id IN %s"
_INSERT: Final = """
INSERT INTO saga (saga_id, campaign_id, sku_id, user_id, quantity, points, fingerprint, hold_no, accepted_at_ms,
 outbox_id, outbox_index, nonce, status, next_at_ms, started_at_ms)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE saga_id = saga_id"""
_KNOWN: Final = """
SELECT saga_id, fingerprint, sku_id, quantity, outbox_id, outbox_index, parked_at_ms IS NOT NULL FROM saga
WHERE saga_id IN %s AND nonce <> %s"""
_RESUME: Final = """
UPDATE saga SET parked_at_ms = NULL, attempts = 0, error = '', next_at_ms = %s, version = version + 1
WHERE saga_id IN %s AND parked_at_ms IS NOT NULL"""
_INSERT_RETURNS: Final = INSERT_RETURNS + KEEP_KNOWN

_log = logging.getLogger(__name__)


class RedemptionStore:
    """Stores batches of redemptions; a `consumers.writer.Store`.

    Args:
        pool: the database fg_orders.
        stored: called when there are sagas that are due.
    """

    def __init__(self, pool: Pool, *, stored: Callable[[], None] = lambda: None) -> None:
        self._pool = pool
        self._stored = stored

    def split(self, records: Sequence[Record]) -> tuple[Sequence[Redemption], Sequence[Dead]]:
        """Decode records; those that are no redemptions are dead."""
        return redemption_batch.split_poison(records)

    async def prepare(self, items: Sequence[Redemption], *, now_ms: int) -> None:
        """Prepare nothing."""

    async def store(self, items: Sequence[Redemption], *, now_ms: int, prepared: None = None) -> Outcome:  # noqa: ARG002
        """Store a batch; returns what became of each record.

        Args:
            items: the batch.
            now_ms: Unix milliseconds.
            prepared: nothing.

        Raises:
            BackendError: transient; the batch may or may not have been stored, and must be stored again.
            DataRefusedError: MySQL refused something in it; nothing was stored.
        """
        outcome = Outcome()
        if not items:
            return outcome
        async with transaction(self._pool, idle_max_s=IDLE_IN_TRANSACTION_S) as cursor:
            kept, outcome.dead = redemption_batch.split_unknown(items, await self._counters(cursor, items))
            if kept:
                outcome.add(await self._write(cursor, kept, now_ms))
            failpoints.reach("consumer.before_mysql_commit")
        self._stored()
        return outcome

    async def _counters(self, cursor: Any, items: Sequence[Redemption]) -> set[Counted]:  # noqa: ANN401
        known: set[Counted] = set()
        for campaign_id, sku_ids in redemption_batch.counters(items).items():
            await cursor.execute(_COUNTERS, (campaign_id, sku_ids))
            known.update(Counted(campaign_id, sku_id) for (sku_id,) in await cursor.fetchall())
        return known

    async def _write(self, cursor: Any, items: Sequence[Redemption], now_ms: int) -> Outcome:  # noqa: ANN401
        nonce = secrets.token_bytes(NONCE_BYTES)
        rows = redemption_batch.saga_rows(items)
        await insert_many(cursor, _INSERT, [_row(one, nonce, now_ms) for one in rows])
        judged = redemption_batch.judge(items, await self._known(cursor, rows, nonce))
        if judged.resumed:
            await cursor.execute(_RESUME, (now_ms, sorted(judged.resumed)))
        second = batch.returns(judged.outcome.second)
        await insert_many(cursor, _INSERT_RETURNS, [return_row(one.event, str(one.origin), now_ms) for one in second])
        return judged.outcome

    async def _known(self, cursor: Any, rows: Sequence[Redemption], nonce: bytes) -> Mapping[str, Known]:  # noqa: ANN401
        await cursor.execute(_KNOWN, ([one.event.order_id for one in rows], nonce))
        return {
            row[0]: Known(Payload(*row[1:4]), Origin(*row[4:6]), parked=bool(row[6])) for row in await cursor.fetchall()
        }


class RedemptionWriter(Writer[Redemption, None]):
    """Takes accepted redemptions in.

    Args:
        pool: the database fg_orders.
        stored: called when there are sagas that are due.

    The other arguments are those of `Writer`.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        pool: Pool,
        make_consumer: Callable[[], Any],
        dead_letters: DeadLetters,
        metrics: ConsumerMetrics,
        stored: Callable[[], None] = lambda: None,
        stall_after_s: float = STALL_AFTER_S,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(
            settings,
            store=RedemptionStore(pool, stored=stored),
            make_consumer=make_consumer,
            dead_letters=dead_letters,
            metrics=metrics,
            stall_after_s=stall_after_s,
            now_ms=now_ms,
            monotonic=monotonic,
            jitter=jitter,
        )

    def _tell(self, outcome: Outcome) -> None:
        if outcome.second:
            self._metrics.second_deductions(len(outcome.second))
            text = "%d records told of a second deduction, the first of redemption %s; Redis gets the units back"
            _log.warning(text, len(outcome.second), outcome.second[0].event.order_id)


def _row(one: Redemption, nonce: bytes, now_ms: int) -> tuple[object, ...]:
    event = one.event
    return (
        event.order_id,
        event.campaign_id,
        event.sku_id,
        event.user_id,
        event.quantity,
        event.points_in_all,
        event.fingerprint,
        event.hold_no,
        event.accepted_at_ms,
        event.outbox_id,
        event.outbox_index,
        nonce,
        str(SagaStatus.RUNNING),
        now_ms,
        now_ms,
    )
