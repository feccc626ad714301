"""Faults of Kafka and of the producer that writes to it, with real servers."""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from adapters.kafka import make_producer
from domain.errors import BackendError
from domain.events import TOPIC_ORDERS_ACCEPTED
from domain.settings import Settings
from gateway.relay import Relay
from stack.servers import LocalStack
from tests.support.metrics import Recorded
from tests.support.relays import RECREATED, buy_one_by_one, checkpoint, counted, entries
from tests.support.shop import Shop, open_shop, until_true
from tests.support.waiting import in_time

ENTRIES_MAX = 5


@contextlib.asynccontextmanager
async def hanging_kafka(stack: LocalStack) -> AsyncIterator[None]:
    """Stop Kafka (SIGSTOP): connections are kept, and nothing is answered."""
    await stack.supervisor.kill("kafka", signal.SIGSTOP)
    try:
        yield
    finally:
        await stack.supervisor.kill("kafka", signal.SIGCONT)


def hasty(settings: Settings) -> Settings:
    """Return settings of a relay that gives up on Kafka soon."""
    kafka = msgspec.structs.replace(settings.kafka, request_timeout_ms=1_000, client_start_timeout_s=2.0)
    return msgspec.structs.replace(settings, kafka=kafka)


def given_up(shop: Shop, relay: Relay) -> Callable[[], Any]:
    """Return a condition: a publication has failed, and the relay goes back to its checkpoint."""

    async def check() -> bool:
        return shop.id not in relay.owned

    return check


def senders() -> set[Any]:
    """Return the tasks inside producers that send."""
    return {task for task in asyncio.all_tasks() if "_sender_routine" in repr(task.get_coro())}


async def test_kafka_hangs(settings: Settings, stack: LocalStack) -> None:
    """Fault 16: Kafka answers nothing. Publishing is given up, the outbox fills to its bound, and then it is BUSY.

    Who was accepted is still told so, and when Kafka answers again everything is relayed and selling goes on.
    Guards the deadline of a publication (the producer has none), that the producer which is given up is ended rather
    than left to try for ever, and the bound of the outbox.
    """
    others = senders()
    async with open_shop(settings) as shop, shop.worker(shop.with_gateway(outbox_entries_max=ENTRIES_MAX)) as url:
        async with shop.relay(hasty(settings)) as relay:
            await buy_one_by_one(shop, url, "a", 1)
            await until_true(shop.outbox_is_relayed)
            async with hanging_kafka(stack):
                before = await checkpoint(shop)
                await buy_one_by_one(shop, url, "b", ENTRIES_MAX)
                said = await shop.buy(url, "c")
                assert (said.status, said.code) == (503, "BUSY")
                assert "Retry-After" in said.headers
                await in_time(given_up(shop, relay), "a publication waits for Kafka without end")
                assert senders() <= others
                assert (len(await entries(shop)), await checkpoint(shop)) == (ENTRIES_MAX, before)
                await shop.assert_replays(url)
            await until_true(shop.outbox_is_relayed)
            said = await shop.buy(url, "c")
            assert said.status == 202
        assert {event.order_id for event in await shop.published()} >= set(shop.accepted) - {said.body.get("order_id")}
        await shop.assert_invariants()
        await shop.assert_replays(url)


async def test_failed_send_that_had_landed(settings: Settings, stack: LocalStack) -> None:
    """Fault 19: Kafka is stopped when an order is sent to it, the relay gives up, and the order lands all the same.

    The next relay sends it again, for the checkpoint has not moved. The record is there twice, and the order once.
    Guards the ledger, which tells a record that comes again from a new one.
    """
    async with open_shop(settings) as shop, shop.worker() as url:
        async with contextlib.AsyncExitStack() as kafka:
            async with shop.relay(hasty(settings)) as relay:
                # So many that every partition of the new topic has a leader, and the relay knows it: the next order
                # must be on its way when Kafka stops.
                await buy_one_by_one(shop, url, "a", 5 * settings.kafka.partitions)
                await until_true(shop.outbox_is_relayed)
                await kafka.enter_async_context(hanging_kafka(stack))
                before = await checkpoint(shop)
                (sent,) = await buy_one_by_one(shop, url, "b", 1)
                await until_true(given_up(shop, relay))
            assert await checkpoint(shop) == before

        async def landed() -> bool:
            with contextlib.suppress(BackendError):  # Kafka needs a moment
                return sent in {event.order_id for event in await shop.published()}
            return False

        await until_true(landed)
        assert await checkpoint(shop) == before
        async with shop.consumer():
            await until_true(everything_stored(shop))
        await buy_one_by_one(shop, url, "c", 1)
        await shop.relayed()
        times = Counter(event.order_id for event in await shop.published())
        assert set(times) == set(shop.accepted)
        assert times[sent] > 1  # others, too, if this relay has given up before: it is hasty
        await shop.assert_invariants()
        await shop.assert_replays(url)


def cancel(producer: Any) -> None:
    """Have the producer's sender end as if somebody had cancelled it; nobody tells the producer."""
    producer._sender.sender_task.cancel()


def break_down(producer: Any) -> None:
    """Have the producer's sender die of an error at the next record."""
    producer._message_accumulator.drain_by_nodes = None


async def test_sender_of_the_producer_is_dead(settings: Settings) -> None:
    """Fault 20: the task inside the relay's producer that sends is dead. Relaying goes on by itself, with another.

    Guards that a producer on which a publication failed, or was not done in time, is replaced.
    """
    async with open_shop(settings) as shop, shop.worker() as url:
        recreated = counted(RECREATED)
        async with shop.relay(hasty(settings)) as relay:
            await buy_one_by_one(shop, url, "a", 1)
            await until_true(shop.outbox_is_relayed)
            for number, kill in enumerate((cancel, break_down), start=1):
                kill(relay._publisher._producer)  # type: ignore[attr-defined]
                await buy_one_by_one(shop, url, kill.__name__, 2)
                await in_time(shop.outbox_is_relayed, "the relay waits for a sender that is dead")
                assert counted(RECREATED) == recreated + number
        await shop.assert_invariants()
        await shop.assert_replays(url)


async def test_sender_of_the_dead_letters_is_dead(settings: Settings) -> None:
    """Fault 20: the task that sends is dead in the consumer's producer of dead letters; the consumer goes on by itself.

    Guards that a producer on which a send failed, or was not done in time, is replaced.
    """
    async with open_shop(settings) as shop, shop.worker() as url, shop.consumer() as writer:
        sender, metrics = writer._dead_letters._sender, writer._metrics
        assert isinstance(metrics, Recorded)
        sender._timeout_s = 2.0

        async def set_aside() -> bool:
            return metrics.deads["poison"] > before

        for number, kill in enumerate((None, cancel, break_down)):
            if kill is not None:
                kill(sender._producer)
            before = metrics.deads["poison"]
            await publish_poison(settings)
            await buy_one_by_one(shop, url, f"a{number}", 2)
            await in_time(set_aside, "the consumer waits for a sender that is dead")
            await shop.relayed()
            await in_time(everything_stored(shop), "the orders behind a dead letter are not stored")
        await shop.assert_invariants()
        await shop.assert_replays(url)


async def publish_poison(settings: Settings) -> None:
    """Put a record into Kafka that is no order."""
    producer = make_producer(settings.kafka)
    await producer.start()
    try:
        await producer.send_and_wait(TOPIC_ORDERS_ACCEPTED, value=b"no order", key=b"nobody")
    finally:
        await producer.stop()


def everything_stored(shop: Shop) -> Callable[[], Any]:
    """Return a condition: all that was accepted is in MySQL."""

    async def check() -> bool:
        return set(shop.accepted) <= set(await shop.stored())

    return check
