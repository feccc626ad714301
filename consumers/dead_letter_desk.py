"""Where an operator looks at dead letters, publishes them again, or gives them up.

A letter is never removed from its topic: the table `dead_letter_done` remembers what was done with it. A replay
publishes first and remembers afterwards, so a crash in between publishes twice, which the consumers' ledger makes
harmless. Giving up an order that holds stock writes its rejection and its release in one transaction with the mark
(`consumers.dead_letter_sql`); the lifecycle process then gives the units back to Redis.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Final

import msgspec
import redis.asyncio as redis

from adapters.kafka_reader import RecordReader, Span
from adapters.kafka_sender import KafkaSender, Outgoing
from adapters.mysql import Pool
from adapters.redis import ANSWERS_LOST
from adapters.stock import read_attempts
from consumers import dead_letter_sagas as sagas
from consumers import dead_letter_sql as sql
from consumers.dead_letter_rules import (
    Action,
    Hold,
    Letter,
    LetterId,
    Mark,
    Summary,
    award_of,
    event_of,
    hold_of,
    iso,
    printable,
    read_letter,
    redemption_of,
    summarize,
    why_not_replayed,
)
from consumers.dead_letter_sagas import Known
from consumers.dead_letter_sql import Settlement
from domain import keys
from domain.draw_events import TOPIC_DRAWS_WON
from domain.errors import BackendError, FencedError, FlashgateError, OperationRefusedError, PoisonRecordError
from domain.events import (
    TOPIC_ORDERS_ACCEPTED,
    TOPIC_ORDERS_EVENTS,
    TOPIC_POINTS_AWARDED,
    OrderAccepted,
    dead_topic,
)
from domain.failpoints import reach
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED, RedemptionAccepted

DEAD_TOPICS: Final = tuple(
    map(
        dead_topic,
        (
            TOPIC_ORDERS_ACCEPTED,
            TOPIC_ORDERS_EVENTS,
            TOPIC_REDEMPTIONS_ACCEPTED,
            TOPIC_DRAWS_WON,
            TOPIC_POINTS_AWARDED,
        ),
    )
)
"""Where dead letters are looked for; those that do not exist hold none."""
NEWEST_MAX: Final = 100
"""Letters of each partition that a list looks at unless told otherwise."""
LETTERS_AT_ONCE: Final = 100
"""Letters kept in memory at a time, and published before they are marked; one may have 2 MiB."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a list of dead letters says."""

    letters: list[Summary]
    """The newest first."""
    open: int
    """Letters with which nothing was done, whether listed or not."""
    not_looked_at: int
    """Older letters than those that were read."""


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of replaying or dropping one letter."""

    id: str
    action: str
    """`replayed` or `dropped`, now or before; empty if it was refused."""
    now: bool
    """Whether it was done now."""
    detail: str


class DeadLetterDesk:
    """Reads, replays and drops dead letters.

    Args:
        reader: Kafka, for reading.
        pool: the database fg_orders.
        client: Redis.
        sender: Kafka, for publishing again.
        topics: the dead-letter topics; letters of others can be named all the same.
        now_ms: wall clock, Unix milliseconds.
    """

    def __init__(
        self,
        *,
        reader: RecordReader,
        pool: Pool,
        client: "redis.Redis",
        sender: KafkaSender,
        topics: Sequence[str] = DEAD_TOPICS,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._reader = reader
        self._pool = pool
        self._client = client
        self._sender = sender
        self._topics = topics
        self._now_ms = now_ms

    # -- looking -----------------------------------------------------------------------------------------------

    async def list_letters(
        self, *, newest_max: int | None = NEWEST_MAX, reason: str = "", with_done: bool = False
    ) -> Listing:
        """Return what dead letters there are.

        Args:
            newest_max: how many of each partition are read, the newest; None: all.
            reason: only those set aside for this reason; empty: for any.
            with_done: those as well with which something was done.

        Raises:
            BackendError: Kafka or MySQL is not there.
        """
        spans = await self._spans()
        looked_at = {
            topic: {number: span if newest_max is None else span.newest(newest_max) for number, span in parts.items()}
            for topic, parts in spans.items()
        }
        found: list[Summary] = []
        async for letters in self._batches(looked_at, reason):
            marks = await self._marks(letters)
            found += [summarize(one, marks.get(one.id)) for one in letters if with_done or one.id not in marks]
        return Listing(
            letters=sorted(found, key=lambda one: one.at_ms, reverse=True),
            open=sum((await count_open(self._pool, spans)).values()),
            not_looked_at=_records(spans) - _records(looked_at),
        )

    async def find(self, letter_id: LetterId) -> tuple[Letter, Mark | None]:
        """Return one letter, and what was done with it.

        Raises:
            OperationRefusedError: there is no such letter.
            BackendError: Kafka or MySQL is not there.
        """
        record = await self._reader.read_one(*letter_id)
        if record is None:
            raise OperationRefusedError(f"there is no dead letter {letter_id}")
        return read_letter(record), (await sql.read_marks(self._pool, [letter_id])).get(letter_id)

    async def count_open(self) -> dict[str, int]:
        """Return dead-letter topic → letters with which nothing was done.

        Raises:
            BackendError: Kafka or MySQL is not there.
        """
        return await count_open(self._pool, await self._spans())

    # -- publishing again --------------------------------------------------------------------------------------

    async def replay(self, letter_ids: Sequence[LetterId], *, again: bool = False) -> AsyncIterator[Deed]:
        """Publish letters again, as they were, to the topics that they come from; yields what came of each.

        One that was replayed or dropped before is left alone, unless `again`.

        Raises:
            OperationRefusedError: there is no such letter; those before it are done.
            BackendError: a letter may have been published and not marked; replaying it again is harmless.
        """
        for letter_id in letter_ids:
            letter, mark = await self.find(letter_id)
            if mark is not None and not again:
                yield _done_before(letter_id, mark)
                continue
            async for deed in self._replay([letter]):
                yield deed

    async def replay_all(self, reason: str = "") -> AsyncIterator[Deed]:
        """Publish all letters again with which nothing was done, or those with this reason; yields as `replay`.

        Those that come in meanwhile, perhaps because of this, are left for the next time.

        Raises:
            BackendError: as `replay`.
        """
        async for letters in self._batches(await self._spans(), reason):
            marks = await self._marks(letters)
            async for deed in self._replay([one for one in letters if one.id not in marks]):
                yield deed

    async def _replay(self, letters: Sequence[Letter]) -> AsyncIterator[Deed]:
        publishable: list[Letter] = []
        for letter in letters:
            refusal = why_not_replayed(letter)
            if refusal:
                yield _refused(letter.id, refusal)
            else:
                publishable.append(letter)
        if not publishable:
            return
        await self._sender.send([_record_of(one) for one in publishable])
        reach("deadletter.after_publish")
        await sql.mark_letters(self._pool, [one.id for one in publishable], Action.REPLAYED, self._now_ms())
        for letter in publishable:
            where = letter.origin.topic if letter.origin else ""
            yield Deed(id=str(letter.id), action=Action.REPLAYED, now=True, detail=f"published to {where} again")

    # -- giving up ---------------------------------------------------------------------------------------------

    async def drop(self, letter_ids: Sequence[LetterId]) -> AsyncIterator[Deed]:
        """Give letters up, and what Redis holds for them; yields what came of each.

        One that was dropped or replayed before is left alone: what became of a replayed one is an order, or another
        dead letter.

        Raises:
            OperationRefusedError: there is no such letter; those before it are done.
            BackendError: a store is not there, or Redis is closed until recovery is done; drop again.
        """
        for letter_id in letter_ids:
            letter, mark = await self.find(letter_id)
            yield _done_before(letter_id, mark) if mark is not None else await self._drop(letter)

    async def drop_all(self, reason: str = "") -> AsyncIterator[Deed]:
        """Give up all letters with which nothing was done, or those with this reason; yields as `drop`.

        Raises:
            BackendError: as `drop`.
        """
        async for letters in self._batches(await self._spans(), reason):
            marks = await self._marks(letters)
            for letter in letters:
                if letter.id not in marks:
                    yield await self._drop(letter)

    async def _drop(self, letter: Letter) -> Deed:
        try:
            detail = await self._settle(letter)
        except BackendError:
            raise
        except FlashgateError as error:
            return _refused(letter.id, str(error))
        return Deed(id=str(letter.id), action=Action.DROPPED, now=True, detail=detail)

    async def _settle(self, letter: Letter) -> str:
        """Mark a letter as dropped, with what is owed for it; returns what that was.

        Raises:
            OperationRefusedError, DataRefusedError: it cannot be given up as things stand; nothing was changed.
            BackendError: as `drop`.
        """
        redemption = redemption_of(letter)
        if redemption is not None:
            return await self._settle_redemption(letter, redemption)
        event = event_of(letter)
        if event is None:
            await sql.mark_letters(self._pool, [letter.id], Action.DROPPED, self._now_ms())
            award = award_of(letter)
            if award is not None:
                return f"{award.points} points for {printable(award.user_id)} are given up, of draw {award.ref_id}"
            if letter.origin is None:
                return "an outbox entry; `./flashgate reconcile` tells whether orders of it are missing"
            return "nothing is owed: it is no accepted order"
        stored = await sql.has_row(self._pool, event.order_id)
        hold = None if stored else await self._held(event)
        match await sql.give_up(self._pool, event, letter.id, self._now_ms(), held=hold is not None):
            case Settlement.REJECTED:
                return f"order {event.order_id} is rejected, and Redis gets {event.quantity} of {event.sku_id} back"
            case Settlement.SECOND:
                return f"a second deduction, of which Redis gets {event.quantity} of {event.sku_id} back"
            case Settlement.STORED:
                return "nothing is owed: the order is in MySQL"
            case Settlement.NOTHING:
                return "nothing is owed: Redis holds nothing for it"
            case Settlement.UNKNOWN_SKU:
                raise sql.unknown_sku(event)

    async def _settle_redemption(self, letter: Letter, event: RedemptionAccepted) -> str:
        """Mark the letter of a redemption as dropped; what is owed for it is its saga's to do. Errors as `_settle`."""
        order = event.order()
        known = await sagas.saga_of(self._pool, event.order_id)
        hold = await self._held(order) if known is Known.NONE else None
        match await sagas.give_up(self._pool, event, letter.id, self._now_ms(), held=hold is not None):
            case Settlement.REJECTED:
                return f"redemption {event.order_id} is turned back, Redis gets {event.quantity} of {event.sku_id}"
            case Settlement.SECOND:
                return f"a second deduction, of which Redis gets {event.quantity} of {event.sku_id} back"
            case Settlement.STORED:
                return f"nothing is owed: it has its saga; `./flashgate saga show {event.order_id}`"
            case Settlement.NOTHING:
                return "nothing is owed: Redis holds nothing for it"
            case Settlement.UNKNOWN_SKU:
                raise sql.unknown_sku(order)

    async def _held(self, event: OrderAccepted) -> Hold | None:
        """Return what Redis holds for exactly this event, or None.

        Raises:
            FencedError: Redis was restarted, and may have lost what it holds until recovery has looked.
            OperationRefusedError: Redis cannot tell.
        """
        campaign_id = event.campaign_id
        try:
            # One transaction, so that the record is the one of the server whose run id is compared.
            async with self._client.pipeline(transaction=True) as pipe:
                pipe.hget(keys.campaign(campaign_id), "run_id")
                pipe.get(keys.buyer(campaign_id, event.user_id))
                pipe.info("server")
                compared, packed, server = await pipe.execute()
        except ANSWERS_LOST as error:
            raise BackendError(f"Redis: {error}") from error
        if compared is None:
            if await sql.knows_sku(self._pool, event):
                raise OperationRefusedError(
                    f"Redis does not know campaign {campaign_id!r}, which MySQL knows: load it, so that recovery can "
                    "look what it holds"
                )
            return None
        if not is_compared(compared.decode(), server["run_id"]):
            raise FencedError(
                f"campaign {campaign_id}: Redis was restarted; drop the letter when recovery has looked what it holds"
            )
        try:
            return hold_of(event, read_attempts(packed))
        except PoisonRecordError as error:
            raise OperationRefusedError(f"buyer {event.user_id!r}: {error}; nothing was changed") from None

    # -- reading -----------------------------------------------------------------------------------------------

    async def _spans(self) -> dict[str, dict[int, Span]]:
        return {topic: await self._reader.spans(topic) for topic in self._topics}

    async def _batches(self, spans: dict[str, dict[int, Span]], reason: str) -> AsyncIterator[list[Letter]]:
        """Yield letters a few at a time, those of one partition in order."""
        batch: list[Letter] = []
        for topic, parts in spans.items():
            async for record in self._reader.read(topic, parts):
                letter = read_letter(record)
                if reason in {"", letter.reason}:
                    batch.append(letter)
                if len(batch) == LETTERS_AT_ONCE:
                    yield batch
                    batch = []
        if batch:
            yield batch

    async def _marks(self, letters: Iterable[Letter]) -> dict[LetterId, Mark]:
        return await sql.read_marks(self._pool, [one.id for one in letters])


def is_compared(compared: str, run_id: str) -> bool:
    """Tell whether recovery has compared the server that answers with what Kafka and MySQL hold."""
    return compared == run_id


async def count_open(pool: Pool, spans: dict[str, dict[int, Span]]) -> dict[str, int]:
    """Return dead-letter topic → letters with which nothing was done: records minus marks.

    Nothing is read from the topics but their offsets; the writers of dead letters are not transactional, so that every
    offset is a record.

    Raises:
        BackendError: MySQL is not there.
    """
    return {
        topic: sum([
            span.end - span.start - await sql.count_marks(pool, topic, number, *span) for number, span in parts.items()
        ])
        for topic, parts in spans.items()
    }  # fmt: skip


async def open_dead_letters(reader: RecordReader, pool: Pool, topics: Sequence[str] = DEAD_TOPICS) -> dict[str, int]:
    """Return dead-letter topic → letters with which nothing was done, for a gauge.

    Raises:
        BackendError: Kafka or MySQL is not there.
    """
    return await count_open(pool, {topic: await reader.spans(topic) for topic in topics})


def _records(spans: dict[str, dict[int, Span]]) -> int:
    return sum(span.end - span.start for parts in spans.values() for span in parts.values())


def _record_of(letter: Letter) -> Outgoing:
    """Return the record as it was before it was set aside."""
    return Outgoing(letter.origin.topic if letter.origin else "", letter.key, letter.value, letter.headers)


def _done_before(letter_id: LetterId, mark: Mark) -> Deed:
    return Deed(id=str(letter_id), action=mark.action, now=False, detail=f"was {mark.action} before, {iso(mark.at_ms)}")


def _refused(letter_id: LetterId, why: str) -> Deed:
    return Deed(id=str(letter_id), action="", now=False, detail=why)
