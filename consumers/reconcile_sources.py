"""Reading the three stores, in the order in which an order travels; see `reconcile_rules` for why that order.

Everything is read in pages and put into a `CampaignLook` as it comes: what is kept is one small entry per hold.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, Final, NamedTuple

import pymysql.err
import redis.asyncio as redis
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)
from aiomysql import SSCursor

from adapters.kafka_reader import TopicReader, committed_offsets
from adapters.mysql import Pool, query, transaction
from adapters.redis import ANSWERS_LOST
from adapters.stock import StockLine, list_campaigns, read_attempts, read_snapshot
from consumers.reconcile_rules import DEAD, DONE, PUBLISHED, WAITING, CampaignLook, Stock
from domain import keys
from domain.errors import BackendError, OperationRefusedError, PoisonRecordError
from domain.events import TOPIC_ORDERS_ACCEPTED, dead_topic, decode_order_accepted
from domain.outbox import START, decode_entry, next_outbox_id
from domain.settings import KafkaSettings

SCAN_COUNT: Final = 1_000
"""Keys that one SCAN step looks at, and so about as many records as one MGET asks for."""
ENTRIES_AT_ONCE: Final = 100
"""Outbox entries in one page; an entry is a batch."""
ROWS_AT_ONCE: Final = 10_000
MYSQL_TIMEOUT_S: Final = 600.0
COORDINATOR_PAUSE_S: Final = 0.2
COORDINATOR_ERRORS: Final = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)
NO_HOLDERS: Final = 1 << 40
"""An offset beyond the end of any log of holders: a snapshot without it."""

_SNAPSHOT: Final = (
    "COMMIT",  # of the transaction that `transaction` began: the level below holds for the next one
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)
_CAMPAIGNS: Final = "SELECT campaign_id FROM campaign_sku UNION SELECT DISTINCT campaign_id FROM orders"
_COUNTERS: Final = "SELECT sku_id, allocated, sold FROM campaign_sku WHERE campaign_id = %s"
_ORDERS: Final = "SELECT order_id, sku_id, quantity, hold_no, accepted_at_ms FROM orders WHERE campaign_id = %s"
_LEDGER: Final = "SELECT order_id, sku_id, quantity, hold_no, kind FROM stock_ledger WHERE campaign_id = %s"


class Look(NamedTuple):
    """All that was read."""

    campaigns: dict[str, CampaignLook]
    poison: int
    """Records in Kafka that are no events."""


class Sources:
    """The three stores.

    Args:
        client: Redis.
        kafka: where Kafka is.
        pool: the database fg_orders.
        group: the consumer group that writes orders to MySQL.
        topic: of accepted orders.
    """

    def __init__(
        self,
        client: "redis.Redis",
        kafka: KafkaSettings,
        pool: Pool,
        *,
        group: str,
        topic: str = TOPIC_ORDERS_ACCEPTED,
    ) -> None:
        self._redis = client
        self._kafka = kafka
        self._pool = pool
        self._group = group
        self._topic = topic

    async def look(self, campaign_ids: Collection[str] | None = None) -> Look:
        """Read everything of these campaigns, or of all that any store knows.

        Raises:
            BackendError: a store is not there.
            OperationRefusedError: no store knows one of these campaigns.
        """
        known = {*await list_campaigns(self._redis), *await self._mysql_campaigns()}
        wanted = known if campaign_ids is None else set(campaign_ids)
        began_ms = await self._redis_ms()
        looks = {campaign_id: CampaignLook(campaign_id, began_ms=began_ms) for campaign_id in sorted(wanted)}
        for look in looks.values():
            await self._read_redis(look)
        poison = await self._read_kafka(looks, began_ms, all_campaigns=campaign_ids is None)
        await self._read_mysql(looks)
        ended_ms = await self._redis_ms()
        for look in looks.values():
            look.ended_ms = ended_ms
            if not look.skus and look.campaign_id not in known:
                raise OperationRefusedError(f"there is no campaign {look.campaign_id!r}")
        return Look(looks, poison)

    # -- Redis -------------------------------------------------------------------------------------------------

    async def _redis_ms(self) -> int:
        try:
            seconds, micros = await self._redis.time()
        except ANSWERS_LOST as error:
            raise BackendError(f"Redis: {error}") from error
        return int(seconds) * 1_000 + int(micros) // 1_000

    async def _read_redis(self, look: CampaignLook) -> None:
        """Read counters, buyers' records, counters again, and last the outbox.

        An order whose record was read is in the outbox then, or has been relayed, so that Kafka has it.
        """
        before, _ = await self._stock(look)
        for sku_id, line in before.items():
            look.sku(sku_id).before = _stock_of(line)
        await self._read_records(look)
        after, checkpoint = await self._stock(look)
        for sku_id, line in after.items():
            look.sku(sku_id).after = _stock_of(line)
        await self._read_outbox(look, checkpoint)

    async def _stock(self, look: CampaignLook) -> tuple[Mapping[str, StockLine], str]:
        """Return SKU → numbers, and the relay's checkpoint."""
        try:
            snapshot = await read_snapshot(self._redis, look.campaign_id, NO_HOLDERS)
        except PoisonRecordError as error:
            _note(look, f"Redis: {error}")
            return {}, START
        if snapshot is None:
            _note(look, "Redis does not know this campaign")
            return {}, START
        return snapshot.stock, snapshot.checkpoint

    async def _read_records(self, look: CampaignLook) -> None:
        pattern = keys.buyer_pattern(look.campaign_id)
        names: list[bytes] = []
        cursor: int | None = None
        while cursor != 0 or names:
            try:
                async with self._redis.pipeline(transaction=False) as pipe:
                    if names:
                        pipe.mget(names)
                    if cursor != 0:
                        pipe.scan(cursor or 0, match=pattern, count=SCAN_COUNT)
                    answers = await pipe.execute()
            except ANSWERS_LOST as error:
                raise BackendError(f"Redis: buyers' records cannot be read: {error}") from error
            for name, packed in zip(names, answers.pop(0) if names else (), strict=True):
                _note_record(look, name, packed)
            cursor, names = answers.pop() if answers else (0, [])

    async def _read_outbox(self, look: CampaignLook, checkpoint: str) -> None:
        start = next_outbox_id(checkpoint)
        while True:
            try:
                page: Any = await self._redis.xrange(keys.outbox(look.campaign_id), min=start, count=ENTRIES_AT_ONCE)
            except ANSWERS_LOST as error:
                raise BackendError(f"Redis: the outbox cannot be read: {error}") from error
            if not page:
                return
            for outbox_id, fields in page:
                try:
                    for event in decode_entry(look.campaign_id, outbox_id.decode(), fields):
                        look.event(event, WAITING)
                except PoisonRecordError as error:
                    _note(look, str(error))
            start = next_outbox_id(page[-1][0].decode())

    # -- Kafka -------------------------------------------------------------------------------------------------

    async def _read_kafka(self, looks: dict[str, CampaignLook], began_ms: int, *, all_campaigns: bool) -> int:
        """Read committed offsets, accepted orders, dead letters; returns the number of records that are no events.

        What lies below an offset committed before the topic is read has been handled: it is in MySQL, which is read
        later, or in the dead letters. With `all_campaigns`, campaigns that only Kafka knows are added.
        """
        committed = await self._committed()
        poison = 0
        for topic in (self._topic, dead_topic(self._topic)):
            async for partition, offset, value in TopicReader(self._kafka, topic).read():
                try:
                    event = decode_order_accepted(value)
                except PoisonRecordError:
                    poison += topic == self._topic
                    continue
                look = looks.get(event.campaign_id)
                if look is None:
                    if not all_campaigns:
                        continue
                    look = looks[event.campaign_id] = CampaignLook(event.campaign_id, began_ms=began_ms)
                if topic != self._topic:
                    look.event(event, DEAD)
                elif offset < committed.get(partition, 0):
                    look.event(event, PUBLISHED | DONE)
                else:
                    look.event(event, PUBLISHED)
        return poison

    async def _committed(self) -> dict[int, int]:
        """Return partition → next offset of the consumers; a broker that was just started needs a moment for it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._kafka.client_start_timeout_s
        while True:
            try:
                return await committed_offsets(self._kafka, self._topic, self._group)
            except BackendError as error:
                if not isinstance(error.__cause__, COORDINATOR_ERRORS) or loop.time() > deadline:
                    raise
            await asyncio.sleep(COORDINATOR_PAUSE_S)

    # -- MySQL -------------------------------------------------------------------------------------------------

    async def _mysql_campaigns(self) -> list[str]:
        try:
            return [campaign_id for (campaign_id,) in await query(self._pool, _CAMPAIGNS)]
        except pymysql.err.MySQLError as error:
            raise _unusable(error) from error

    async def _read_mysql(self, looks: Mapping[str, CampaignLook]) -> None:
        """Read counters, orders and ledger as of one instant."""
        try:
            async with transaction(self._pool, timeout_s=MYSQL_TIMEOUT_S) as cursor:
                for statement in _SNAPSHOT:
                    await cursor.execute(statement)
                for look in looks.values():
                    async for sku_id, allocated, sold in _rows(cursor, _COUNTERS, look.campaign_id):
                        look.counter(sku_id, allocated=allocated, sold=sold)
                    async for row in _rows(cursor, _ORDERS, look.campaign_id):
                        look.order_row(*row)
                    async for row in _rows(cursor, _LEDGER, look.campaign_id):
                        look.ledger_row(*row)
        except pymysql.err.MySQLError as error:
            raise _unusable(error) from error


async def _rows(cursor: Any, sql: str, campaign_id: str) -> AsyncIterator[tuple[Any, ...]]:  # noqa: ANN401
    """Yield rows as the server sends them, on the connection of `cursor`."""
    async with cursor.connection.cursor(SSCursor) as stream:
        await stream.execute(sql, (campaign_id,))
        while rows := await stream.fetchmany(ROWS_AT_ONCE):
            for row in rows:
                yield row


def _stock_of(line: StockLine) -> Stock:
    return Stock(line.remaining, line.taken, line.returned, line.allocated)


def _note(look: CampaignLook, text: str) -> None:
    if text not in look.notes:
        look.notes.append(text)


def _note_record(look: CampaignLook, name: bytes, packed: bytes | None) -> None:
    """Take in a buyer's record; one that has expired since SCAN named it holds nothing."""
    try:
        attempts = read_attempts(packed)
        for one in attempts:
            order_id = f"{look.campaign_id}~{one.digest}"
            look.attempt(order_id, one.sku_id, one.quantity, one.hold_no, held=one.held)
    except PoisonRecordError as error:
        _note(look, f"Redis: {name.decode(errors='replace')}: {error}")


def _unusable(error: Exception) -> BackendError:
    return BackendError(f"MySQL: {error}; does the schema exist? `flashgate migrate` makes it")
