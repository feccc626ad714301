"""Asking every store what it knows of one order. A store that is away is noted, and the others are asked all the same.

MySQL comes first, because its row says whose order it is and which outbox entry it came from. Where there is no row,
the outbox and Kafka are searched for the event, which says the same. All searching is bounded.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec
import pymysql.err
import redis.asyncio as redis

from adapters.buyer_record import Record
from adapters.kafka_reader import FullRecord, RecordReader, Span, committed_offsets, open_reader
from adapters.mysql import Pool, transaction
from adapters.redis import ANSWERS_LOST
from consumers.dead_letter_rules import LetterId, event_of, read_letter
from consumers.dead_letter_sql import read_marks
from consumers.saga_facts import IN_ORDERS, SAGA_COLUMNS, SagaFacts, StepFacts
from consumers.saga_reads import read_points
from consumers.trace_facts import (
    HELD_WORDS,
    ChangeFacts,
    EventFacts,
    KafkaFacts,
    LedgerFacts,
    LetterFacts,
    OutboxFacts,
    ParcelFacts,
    PaymentFacts,
    RedisFacts,
    ReturnFacts,
    ReviewFacts,
    RowFacts,
    Story,
)
from consumers.trace_topics import Way, event_facts, event_of_saga, ways_of
from domain import keys
from domain.campaign import LOTTERY, REDEMPTION
from domain.errors import BackendError, FlashgateError, OperationRefusedError, PoisonRecordError
from domain.events import TOPIC_ORDERS_ACCEPTED, dead_topic
from domain.order import split_order_id
from domain.outbox import START, decode_entry, next_outbox_id, parse_outbox_id
from domain.settings import KafkaSettings

RECORDS_MAX: Final = 100_000
"""Records of a partition that are looked through for an order."""
ENTRIES_MAX: Final = 10_000
"""Outbox entries that are looked through for an order of which nothing else is known."""
ENTRIES_AT_ONCE: Final = 100
STORE_TIMEOUT_S: Final = 20.0
"""How long one store may take to answer everything."""
KINDS_WITH_POINTS: Final = (LOTTERY, REDEMPTION)
CLOCKS_APART_MS: Final = 60_000
"""By how much the clocks of those who write to Kafka may differ."""

_SNAPSHOT: Final = (
    "COMMIT",  # of the transaction that `transaction` began: the level below holds for the next one
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)
_ROW: Final = (
    "SELECT status, version, campaign_id, sku_id, user_id, quantity, unit_price_cents, hold_no, outbox_id, "
    "outbox_index, accepted_at_ms, confirmed_at_ms, pay_by_ms FROM orders WHERE order_id = %s"
)
_LEDGER: Final = (
    "SELECT hold_no, kind, sku_id, quantity, outbox_id, outbox_index, created_at_ms FROM stock_ledger "
    "WHERE order_id = %s ORDER BY id"
)
_CHANGES: Final = "SELECT version, status, reason, at_ms, published FROM order_change WHERE order_id = %s ORDER BY id"
_PAYMENTS: Final = (
    "SELECT payment_id, attempt_no, amount_cents, points, status, hold_no, created_at_ms, updated_at_ms, next_at_ms, "
    "attempts, error FROM payment WHERE order_id = %s ORDER BY attempt_no"
)
_RETURNS: Final = (
    "SELECT hold_no, origin, quantity, created_at_ms, attempts, error, done_at_ms FROM stock_return "
    "WHERE order_id = %s ORDER BY created_at_ms, hold_no, origin"
)
_REVIEW: Final = "SELECT status, who, why, opened_at_ms, decided_at_ms FROM outbound_review WHERE order_id = %s"
_PARCELS: Final = (
    "SELECT kind, who, why, created_at_ms, attempts, error, done_at_ms FROM warehouse_due "
    "WHERE order_id = %s ORDER BY created_at_ms, kind DESC"
)
_SAGA: Final = f"SELECT {SAGA_COLUMNS} FROM saga WHERE saga_id = %s"  # noqa: S608 -- columns alone
_STEPS: Final = "SELECT step, outcome, at_ms FROM saga_step WHERE saga_id = %s ORDER BY at_ms, step"
# As `adapters.stock.read_attempts`, with the state as it is; see scripts/lua/include/buyer_record.lua.
_decode_record: Final = msgspec.msgpack.Decoder(Record).decode


class Found(NamedTuple):
    """What a search of a partition came to."""

    records: list[FullRecord]
    searched: Span
    whole: Span
    """All that the partition holds."""


class Tracer:
    """Asks the stores.

    Args:
        client: Redis.
        pool: the database fg_orders.
        kafka: where Kafka is.
        group: what the names of all consumer groups begin with.
        points: the database fg_points; None: nobody asks it.
        topic: of accepted orders.
        records_max: see RECORDS_MAX.
        timeout_s: see STORE_TIMEOUT_S.
        now_ms: wall clock, Unix milliseconds.
    """

    def __init__(
        self,
        client: "redis.Redis",
        pool: Pool,
        kafka: KafkaSettings,
        *,
        group: str,
        points: Pool | None = None,
        topic: str = TOPIC_ORDERS_ACCEPTED,
        records_max: int = RECORDS_MAX,
        timeout_s: float = STORE_TIMEOUT_S,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._redis = client
        self._pool = pool
        self._kafka = kafka
        self._group = group
        self._points = points
        self._topic = topic
        self._records_max = records_max
        self._timeout_s = timeout_s
        self._now_ms = now_ms

    async def trace(self, order_id: str, user_id: str = "") -> Story:
        """Return all that the stores know of an order.

        Args:
            order_id: the order.
            user_id: whose it is, for the case that neither MySQL nor Kafka can tell.

        Raises:
            OperationRefusedError: it is no order id.
        """
        parts = split_order_id(order_id)
        if parts is None:
            raise OperationRefusedError(f"{order_id!r} is no order id: one looks like c-1010~<32 hex digits>")
        campaign_id, digest = parts
        story = Story(order_id=order_id, now_ms=self._now_ms())
        await self._ask(story, "mysql", self._read_mysql(story))
        await self._ask(story, "redis", self._read_kind(story, campaign_id))
        if story.event is None:
            await self._ask(story, "redis", self._search_outbox(story, campaign_id))
        await self._ask(story, "kafka", self._read_kafka(story))
        await self._read_points(story)
        if "redis" not in story.away:
            owner = story.event.user_id if story.event else user_id
            await self._ask(story, "redis", self._read_redis(story, campaign_id, digest, owner))
        return story

    async def _ask(self, story: Story, store: str, asking: Awaitable[None]) -> None:
        """Let a store be asked; if it is away, say so in the story."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await asking
        except pymysql.err.MySQLError as error:
            story.away[store] = f"{error}; does the schema exist? `./flashgate migrate` makes it"
        except FlashgateError as error:
            story.away[store] = str(error)
        except ANSWERS_LOST as error:
            story.away[store] = f"{type(error).__name__}: {error}"

    # -- MySQL -------------------------------------------------------------------------------------------------

    async def _read_mysql(self, story: Story) -> None:
        async with transaction(self._pool, timeout_s=self._timeout_s) as cursor:
            for statement in _SNAPSHOT:
                await cursor.execute(statement)
            rows = {}
            for statement in (_ROW, _LEDGER, _CHANGES, _PAYMENTS, _REVIEW, _PARCELS, _RETURNS, _SAGA, _STEPS):
                await cursor.execute(statement, (story.order_id,))
                names = [column[0] for column in cursor.description]
                rows[statement] = [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]
        for row in rows[_SAGA]:
            story.saga = SagaFacts(**row)
            story.event = event_of_saga(story.saga)
        story.steps = [StepFacts(schema=IN_ORDERS, **row) for row in rows[_STEPS]]
        for row in rows[_ROW]:
            story.mysql = RowFacts(**row)
            story.event = _event_of_row(story.mysql)
        story.ledger = [LedgerFacts(at_ms=row.pop("created_at_ms"), **row) for row in rows[_LEDGER]]
        story.changes = [ChangeFacts(**{**row, "published": bool(row["published"])}) for row in rows[_CHANGES]]
        story.payments = [PaymentFacts(**row) for row in rows[_PAYMENTS]]
        story.review = next((ReviewFacts(**row) for row in rows[_REVIEW]), None)
        story.parcels = [ParcelFacts(**row) for row in rows[_PARCELS]]
        story.returns = [ReturnFacts(**row) for row in rows[_RETURNS]]

    async def _read_points(self, story: Story) -> None:
        """Ask fg_points, if the order can have to do with points."""
        points = self._points
        if points is None or not (story.saga or story.draw or story.kind in KINDS_WITH_POINTS):
            return

        async def asking() -> None:
            guards, story.points = await read_points(points, story.order_id, timeout_s=self._timeout_s)
            story.steps = sorted([*story.steps, *guards], key=lambda one: one.at_ms)

        await self._ask(story, "points", asking())

    # -- Redis -------------------------------------------------------------------------------------------------

    async def _read_kind(self, story: Story, campaign_id: str) -> None:
        """Learn what kind of campaign it is, which says where its records lie."""
        kind = await self._redis.hget(keys.campaign(campaign_id), "kind")
        story.kind = kind.decode() if isinstance(kind, bytes) else (REDEMPTION if story.saga else "")

    async def _search_outbox(self, story: Story, campaign_id: str) -> None:
        """Look for an order of which nothing is known among the entries that are not relayed."""
        checkpoint = await self._redis.hget(keys.relay(campaign_id), "checkpoint")
        start = next_outbox_id(checkpoint.decode() if isinstance(checkpoint, bytes) else START)
        for _ in range(ENTRIES_MAX // ENTRIES_AT_ONCE):
            page: Any = await self._redis.xrange(keys.outbox(campaign_id), min=start, count=ENTRIES_AT_ONCE)
            if not page:
                return
            for outbox_id, fields in page:
                try:
                    events = decode_entry(campaign_id, outbox_id.decode(), fields)
                except PoisonRecordError:
                    continue  # the relay will set it aside, and it names no order
                for event in events:
                    if event.order_id == story.order_id:
                        story.event = event_facts(event)
                        return
            start = next_outbox_id(page[-1][0].decode())
        story.notes.append(f"outbox: not among its first {ENTRIES_MAX} entries")

    async def _read_redis(self, story: Story, campaign_id: str, digest: str, user_id: str) -> None:
        outbox_id = story.event.outbox_id if story.event else START
        # One transaction, so that all of it is the same server's.
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hget(keys.campaign(campaign_id), "run_id")
            pipe.hget(keys.relay(campaign_id), "checkpoint")
            pipe.info("server")
            pipe.get(keys.buyer(campaign_id, user_id))
            pipe.xrange(keys.outbox(campaign_id), min=outbox_id, max=outbox_id)
            compared, checkpoint, server, packed, entries = await pipe.execute()
        if compared is None:
            story.notes.append(f"redis: it does not know campaign {campaign_id}")
            return
        if story.event is not None and outbox_id != START:
            position = (checkpoint or START.encode()).decode()
            story.outbox = OutboxFacts(
                outbox_id=outbox_id,
                outbox_index=story.event.outbox_index,
                checkpoint=position,
                waiting=bool(entries),
                relayed=parse_outbox_id(position) >= parse_outbox_id(outbox_id),
            )
        if not user_id:
            story.notes.append("redis: nobody says whose order it is, so its record cannot be found; --user may help")
            return
        story.redis = _redis_facts(packed, digest, user_id, gate_open=compared.decode() == server["run_id"])

    # -- Kafka -------------------------------------------------------------------------------------------------

    async def _read_kafka(self, story: Story) -> None:
        async with open_reader(self._kafka) as reader:
            event = story.event
            since_ms = None
            if event is not None:
                made_anew = event.outbox_id == START
                since_ms = event.accepted_at_ms if made_anew else parse_outbox_id(event.outbox_id)[0]
            ways = ways_of(story.kind or (REDEMPTION if story.saga else ""), self._topic)
            for way in ways:
                await self._read_letters(story, reader, way, since_ms)
            looked = [await self._read_topic(story, reader, way, since_ms) for way in ways]
        story.kafka.sort(key=lambda one: one.at_ms)
        if not story.kafka:
            story.notes.append(looked[0])

    async def _read_topic(self, story: Story, reader: RecordReader, way: Way, since_ms: int | None) -> str:
        """Look for the order's records in one topic; returns what is to be said if there are none."""
        found = await self._find(reader, way.topic, story.order_id, since_ms)
        records = list(found.records)
        replayed_ms = [one.action_at_ms for one in story.dead_letters if one.action == "replayed"]
        if replayed_ms and found.searched.end < found.whole.end:
            since_ms = min(one for one in replayed_ms if one is not None) - CLOCKS_APART_MS
            records += (await self._find(reader, way.topic, story.order_id, since_ms)).records
        committed = await self._committed(story, way) if records else {}
        for record in sorted(set(records), key=lambda one: (one.partition, one.offset)):
            done = None if committed is None else record.offset < committed.get(record.partition, 0)
            story.kafka.append(_kafka_facts(story, way, record, consumed=done))
        return _not_found(way.topic, found)

    async def _read_letters(self, story: Story, reader: RecordReader, way: Way, since_ms: int | None) -> None:
        """Look for the order's dead letters, which were written after it was accepted, by another clock."""
        topic = dead_topic(way.topic)
        since_ms = None if since_ms is None else since_ms - CLOCKS_APART_MS
        found = await self._find(reader, topic, story.order_id, since_ms)
        letters = [read_letter(record) for record in found.records]
        marks = {}
        if letters and "mysql" not in story.away:
            marks = await read_marks(self._pool, [one.id for one in letters])
        for letter in letters:
            mark = marks.get(LetterId(*letter.id))
            event = event_of(letter)
            if event is not None and event.order_id == story.order_id and story.event is None:
                story.event = event_facts(event)
            story.dead_letters.append(
                LetterFacts(
                    id=str(letter.id),
                    at_ms=letter.at_ms,
                    reason=letter.reason,
                    error=letter.error,
                    action="" if mark is None else mark.action,
                    action_at_ms=None if mark is None else mark.at_ms,
                )
            )
        if found.searched != found.whole and not letters and since_ms is None:
            story.notes.append(_not_found(topic, found))

    async def _find(self, reader: RecordReader, topic: str, order_id: str, since_ms: int | None) -> Found:
        """Look for an order's records in the partition that its id belongs to, a bounded way.

        From `since_ms` (Unix ms) on forwards; if it is None, among the newest.
        """
        key = order_id.encode()
        number = await reader.partition_of(topic, key)
        if number is None:
            return Found([], Span(0, 0), Span(0, 0))
        whole = (await reader.spans(topic))[number]
        searched = whole.newest(self._records_max)
        if since_ms is not None:
            start = await reader.since(topic, number, since_ms)
            start = whole.end if start is None else min(start, whole.end)
            searched = Span(start, min(whole.end, start + self._records_max))
        records = [record async for record in reader.read(topic, {number: searched}) if record.key == key]
        return Found(records, searched, whole)

    async def _committed(self, story: Story, way: Way) -> dict[int, int] | None:
        try:
            return await committed_offsets(self._kafka, way.topic, f"{self._group}.{way.consumer}")
        except BackendError as error:
            story.notes.append(f"kafka: nobody can tell what is consumed: {error}")
            return None


def _not_found(topic: str, found: Found) -> str:
    if not found.whole.end:
        return f"kafka: {topic} does not exist, or its partition for this order is empty"
    searched = f"offsets {found.searched.start} to {found.searched.end} of {found.whole.start} to {found.whole.end}"
    return f"kafka: not found in {topic}, in the partition that its id belongs to, {searched} looked through"


def _event_of_row(row: RowFacts) -> EventFacts:
    return EventFacts(
        user_id=row.user_id,
        sku_id=row.sku_id,
        quantity=row.quantity,
        hold_no=1,
        accepted_at_ms=row.accepted_at_ms,
        outbox_id=row.outbox_id,
        outbox_index=row.outbox_index,
    )


def _kafka_facts(story: Story, way: Way, record: FullRecord, *, consumed: bool | None) -> KafkaFacts:
    """Return what is to be said of a record; if nothing was known of its order, it is now."""
    event = None
    with contextlib.suppress(PoisonRecordError):
        event, draw = way.read(record.value)
        story.event, story.draw = story.event or event, story.draw or draw
    return KafkaFacts(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        at_ms=record.timestamp_ms,
        outbox_id=event.outbox_id if event else "",
        outbox_index=event.outbox_index if event else 0,
        consumed=consumed,
    )


def _redis_facts(packed: bytes | None, digest: str, user_id: str, *, gate_open: bool) -> RedisFacts | None:
    """Return what a buyer's record says of an order, if it says something.

    Raises:
        PoisonRecordError: the record cannot be read.
    """
    if packed is None:
        return None
    try:
        attempts = _decode_record(packed).attempts
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PoisonRecordError(f"the record of user {user_id!r} cannot be read: {error}") from None
    for order, _, sku_id, quantity, hold_no, state in attempts:
        if order == digest:
            return RedisFacts(
                user_id=user_id,
                sku_id=sku_id,
                quantity=quantity,
                hold_no=hold_no,
                state=HELD_WORDS.get(state, str(state)),
                gate_open=gate_open,
            )
    return None
