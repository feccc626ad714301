"""Reading the three stores, in the order in which an order travels; see `reconcile_rules` for why that order.

Everything is read in pages and put into a `CampaignLook` as it comes: what is kept is one small entry per hold.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import redis.asyncio as redis
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)

from adapters.buyer_records import scan_records
from adapters.kafka_reader import TopicReader, committed_offsets
from adapters.mysql import Pool
from adapters.redis import ANSWERS_LOST
from adapters.stock import StockLine, list_campaigns, read_attempts, read_snapshot
from consumers.reconcile_look import (
    DEAD,
    HANDLED,
    QUEUED,
    SETTLED,
    WAITING,
    CampaignLook,
    Stock,
    hold_key,
    pack_origin,
)
from consumers.reconcile_mysql import mysql_campaigns, read_mysql
from consumers.reconcile_points_sources import DEAD_AWARDS, read_awards_under_way, read_points, under_way
from domain import keys
from domain.campaign import LOTTERY, REDEMPTION
from domain.draw_events import DrawWon
from domain.errors import BackendError, OperationRefusedError, PoisonRecordError
from domain.events import TOPIC_ORDERS_ACCEPTED, TOPIC_POINTS_AWARDED, OrderAccepted, dead_topic, decode_order_accepted
from domain.outbox import START, decode_entry, next_outbox_id, parse_outbox_id
from domain.redemption_events import RedemptionAccepted
from domain.settings import KafkaSettings

SCAN_COUNT: Final = 1_000
"""Keys that one SCAN step looks at, and so about as many records as one MGET asks for."""
ENTRIES_AT_ONCE: Final = 100
"""Outbox entries in one page; an entry is a batch."""
COORDINATOR_PAUSE_S: Final = 0.2
COORDINATOR_ERRORS: Final = (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError)
NO_HOLDERS: Final = 1 << 40
"""An offset beyond the end of any log of holders: a snapshot without it."""


class Look(NamedTuple):
    """All that was read."""

    campaigns: dict[str, CampaignLook]
    poison: int
    """Records in Kafka that are no events."""
    dead_letters: int = 0
    """Dead letters, of all campaigns, that nobody has dealt with."""


Told = OrderAccepted | RedemptionAccepted | DrawWon
"""What tells of an order."""


class Feed(NamedTuple):
    """A topic that tells of orders, and who writes them to MySQL."""

    topic: str
    group: str
    decode: Callable[[bytes | None], Told]
    """Raises PoisonRecordError."""


class DeadLetter(NamedTuple):
    """One record of the dead-letter topic."""

    place: tuple[str, int, int]
    """Topic, partition and offset."""
    event: Told | None
    """What is in it, if it can be read."""


class Sources:
    """The three stores.

    Args:
        client: Redis.
        kafka: where Kafka is.
        pool: the database fg_orders.
        group: the consumer group that writes orders to MySQL.
        topic: of accepted orders.
        more: other topics that tell of orders; those that do not exist hold none.
        points: the database fg_points; asked only if there are campaigns that know points. None: nobody is.
        awards_group: the consumer group that writes awards there.
    """

    def __init__(
        self,
        client: "redis.Redis",
        kafka: KafkaSettings,
        pool: Pool,
        *,
        group: str,
        topic: str = TOPIC_ORDERS_ACCEPTED,
        more: Sequence[Feed] = (),
        points: Pool | None = None,
        awards_group: str = "",
    ) -> None:
        self._redis = client
        self._kafka = kafka
        self._pool = pool
        self._feeds = (Feed(topic, group, decode_order_accepted), *more)
        self._points = points
        self._awards = Feed(TOPIC_POINTS_AWARDED, awards_group, decode_order_accepted)

    async def look(self, campaign_ids: Collection[str] | None = None) -> Look:
        """Read everything of these campaigns, or of all that any store knows.

        Raises:
            BackendError: a store is not there.
            OperationRefusedError: no store knows one of these campaigns.
        """
        known = {*await list_campaigns(self._redis), *await mysql_campaigns(self._pool)}
        wanted = known if campaign_ids is None else set(campaign_ids)
        began_ms = await self._redis_ms()
        looks = {campaign_id: CampaignLook(campaign_id, began_ms=began_ms) for campaign_id in sorted(wanted)}
        for look in looks.values():
            await self._read_redis(look)
        poison = 0
        dead: list[DeadLetter] = []
        for feed in self._feeds:
            poison += await self._read_kafka(feed, looks, began_ms, all_campaigns=campaign_ids is None)
            dead += await self._read_dead_letters(feed)
        settled = await self._read_mysql(looks)
        await self._read_points(looks, settled)
        for letter in dead:
            if letter.event is not None and letter.event.campaign_id in looks:
                facts = SETTLED if letter.place in settled else DEAD
                _note_told(looks[letter.event.campaign_id], letter.event, facts)
        ended_ms = await self._redis_ms()
        for look in looks.values():
            look.ended_ms = ended_ms
            if not look.skus and look.campaign_id not in known:
                raise OperationRefusedError(f"there is no campaign {look.campaign_id!r}")
        return Look(looks, poison, len({letter.place for letter in dead} - settled))

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
            sku = look.sku(sku_id)
            sku.in_redis, sku.after = True, _stock_of(line)
        await self._read_outbox(look, checkpoint)

    async def _stock(self, look: CampaignLook) -> tuple[Mapping[str, StockLine], str]:
        """Return SKU → numbers, and the relay's checkpoint."""
        try:
            snapshot = await read_snapshot(self._redis, look.campaign_id, NO_HOLDERS)
        except PoisonRecordError as error:
            look.note(f"Redis: {error}")
            return {}, START
        if snapshot is None:
            look.note("Redis does not know this campaign")
            return {}, START
        look.kind = snapshot.fields.get("kind", look.kind)
        look.accepted_to = parse_outbox_id(snapshot.fields.get("last_outbox_id", START))
        look.checkpoint = parse_outbox_id(snapshot.checkpoint)
        return snapshot.stock, snapshot.checkpoint

    async def _read_records(self, look: CampaignLook) -> None:
        async for page in scan_records(self._redis, look.campaign_id):
            for name, packed in page:
                _note_record(look, name, packed)

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
                        _note_event(look, event, WAITING)
                except PoisonRecordError as error:
                    look.note(str(error))
            start = next_outbox_id(page[-1][0].decode())

    # -- Kafka -------------------------------------------------------------------------------------------------

    async def _read_kafka(
        self, feed: Feed, looks: dict[str, CampaignLook], began_ms: int, *, all_campaigns: bool
    ) -> int:
        """Read committed offsets and accepted orders; returns the number of records that are no events.

        What lies below an offset committed before the topic is read has been handled: it is in MySQL, which is read
        later, or in the dead letters. With `all_campaigns`, campaigns that only Kafka knows are added.
        """
        committed = await self._committed(feed)
        poison = 0
        async for partition, offset, value in TopicReader(self._kafka, feed.topic).read():
            try:
                event = feed.decode(value)
            except PoisonRecordError:
                poison += 1
                continue
            look = looks.get(event.campaign_id)
            if look is None:
                if not all_campaigns:
                    continue
                look = looks[event.campaign_id] = CampaignLook(event.campaign_id, began_ms=began_ms)
            _note_told(look, event, HANDLED if offset < committed.get(partition, 0) else QUEUED)
        return poison

    async def _read_dead_letters(self, feed: Feed) -> list[DeadLetter]:
        """Read the dead letters, after the topic that they come from."""
        found, topic = [], dead_topic(feed.topic)
        async for partition, offset, value in TopicReader(self._kafka, topic).read():
            event = None
            with contextlib.suppress(PoisonRecordError):
                event = feed.decode(value)
            found.append(DeadLetter((topic, partition, offset), event))
        return found

    async def _committed(self, feed: Feed) -> dict[int, int]:
        """Return partition → next offset of the consumers; a broker that was just started needs a moment for it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._kafka.client_start_timeout_s
        while True:
            try:
                return await committed_offsets(self._kafka, feed.topic, feed.group)
            except BackendError as error:
                if not isinstance(error.__cause__, COORDINATOR_ERRORS) or loop.time() > deadline:
                    raise
            await asyncio.sleep(COORDINATOR_PAUSE_S)

    # -- MySQL -------------------------------------------------------------------------------------------------

    async def _read_mysql(self, looks: Mapping[str, CampaignLook]) -> set[tuple[str, int, int]]:
        """Read MySQL; returns the places of dead letters that a person has dealt with."""
        topics = [*(dead_topic(feed.topic) for feed in self._feeds), DEAD_AWARDS]
        return await read_mysql(self._pool, looks.values(), topics)

    async def _read_points(self, looks: Mapping[str, CampaignLook], settled: Collection[tuple[str, int, int]]) -> None:
        """Read fg_points, after the sagas and orders that move it; awards in Kafka are read before."""
        if self._points is None:
            return
        committed = await self._committed(self._awards) if any(one.kind == LOTTERY for one in looks.values()) else {}
        for place, award in await read_awards_under_way(self._kafka, committed, looks):
            if place in settled:
                under_way(looks, award)  # given up by a person
        await read_points(self._points, looks.values())


def _stock_of(line: StockLine) -> Stock:
    return Stock(line.remaining, line.taken, line.returned, line.allocated)


def _note_told(look: CampaignLook, told: Told, facts: int) -> None:
    """Take in a record of whatever topic tells of orders."""
    if isinstance(told, OrderAccepted):
        _note_event(look, told, facts)
        return
    if isinstance(told, DrawWon):
        look.kind = look.kind or LOTTERY
        look.points.prize(told.draw_id[-32:], told.points)
    else:
        look.kind = look.kind or REDEMPTION
    _note_event(look, told.order(), facts)


def _note_event(look: CampaignLook, event: OrderAccepted, facts: int) -> None:
    key = hold_key(event.order_id[-32:], event.hold_no, event.quantity)
    look.event(key, event.sku_id, pack_origin(event.outbox_id, event.outbox_index), facts)


def _note_record(look: CampaignLook, name: bytes, packed: bytes | None) -> None:
    """Take in a buyer's record; one that has expired since SCAN named it holds nothing."""
    try:
        for one in read_attempts(packed):
            look.attempt(one.digest, one.sku_id, one.quantity, one.hold_no, held=one.held)
    except PoisonRecordError as error:
        look.note(f"Redis: {name.decode(errors='replace')}: {error}")
