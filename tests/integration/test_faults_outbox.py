"""Faults in the outbox and of those who relay it, with real servers."""

import asyncio
import signal
from typing import Any

import msgspec

from adapters.kafka_reader import TopicReader
from adapters.lua import load_script
from consumers.reconcile import repair
from domain import keys
from domain.events import TOPIC_ORDERS_ACCEPTED, dead_topic
from domain.settings import RedisSettings, Settings
from gateway.app import make_relay
from gateway.order_records import DEAD_VALUE_BYTES_MAX, EVENT_BYTES_MAX
from stack.proxy import Proxy
from tests.support.children import is_stopped, paused_at
from tests.support.relays import (
    GAPS,
    POISON,
    HeldPublisher,
    buy_one_by_one,
    checkpoint,
    counted,
    entries,
    with_relay,
)
from tests.support.shop import open_shop, until_true
from tests.support.waiting import in_time


async def test_outbox_trimmed_too_far(settings: Settings) -> None:
    """Fault 12: entries are trimmed from the outbox before they were relayed; the gap is noticed, and told once.

    The others are relayed, and what was lost is in the buyers' records, from where a repair puts it into Kafka. The
    same where the whole outbox is gone and no later entry names what is missing. Nothing is told where nothing is
    missing.
    Guards that each entry names the one before it.
    """
    async with open_shop(settings) as shop, shop.worker() as url:
        client, gaps = shop.clients.client, counted(GAPS)
        await buy_one_by_one(shop, url, "a", 3)
        await shop.relayed()
        assert counted(GAPS) == gaps
        made = await buy_one_by_one(shop, url, "b", 5)
        await client.xtrim(keys.outbox(shop.id), minid=(await entries(shop))[2], approximate=False)
        await shop.relayed()
        assert counted(GAPS) == gaps + 1
        assert {event.order_id for event in await shop.published()} == set(shop.accepted) - set(made[:2])

        made_last = await buy_one_by_one(shop, url, "c", 2)
        await client.xtrim(keys.outbox(shop.id), maxlen=0, approximate=False)
        await shop.relayed()
        assert counted(GAPS) == gaps + 2
        assert not {event.order_id for event in await shop.published()} & set(made_last)

        report = await repair(settings, [shop.id])
        assert {one.order_id for one in report.repairs if one.done} == {*made[:2], *made_last}
        await buy_one_by_one(shop, url, "d", 1)
        await shop.assert_invariants()
        await shop.assert_replays(url)
        assert counted(GAPS) == gaps + 2


async def test_paused_relay_wakes_up_beside_its_successor(settings: Settings) -> None:
    """Fault 14: a relay stops after Kafka has acknowledged, another takes over and is not as far; the first wakes up.

    It finds that it is the owner no more, and changes nothing. Guards the nonce of the owner: without it a checkpoint
    is moved by somebody who does not own it.
    """
    async with (
        open_shop(settings) as shop,
        shop.worker() as url,
        Proxy(settings.redis.host, settings.redis.port) as proxy,
    ):
        redis = msgspec.structs.replace(settings.redis, host=proxy.host, port=proxy.port)
        patient = with_relay(msgspec.structs.replace(settings, redis=redis), owner_ttl_ms=120_000)
        await buy_one_by_one(shop, url, "a", 4)
        ids = await entries(shop)
        advances = proxy.count(load_script("advance_checkpoint").sha.encode())
        claims = proxy.count(load_script("claim_relay").sha.encode())
        async with paused_at(patient, "relay.after_produce", "relay") as first:
            await until_true(lambda: asyncio.sleep(0, is_stopped(first.pid)))
            assert {event.order_id for event in await shop.published()} == set(shop.accepted)
            second, close = make_relay(with_relay(settings, entries_max=1, owner_ttl_ms=100))
            held = HeldPublisher.of(second, 1)
            running = asyncio.create_task(second.run())

            async def second_has_moved() -> bool:
                return await checkpoint(shop) == ids[0]

            await until_true(second_has_moved)
            before = await shop.clients.client.hgetall(keys.relay(shop.id))
            claimed = claims.seen
            first.send_signal(signal.SIGCONT)
            await advances.wait_seen()
            # The next claim comes when the answer has been taken in.
            await claims.wait_seen(claimed + 1)
            assert await shop.clients.client.hgetall(keys.relay(shop.id)) == before
            held.go_on.set()
            await until_true(shop.outbox_is_relayed)
            first.send_signal(signal.SIGTERM)
            assert await first.wait() == 0
            second.stop()
            await running
            await close()
        await shop.assert_invariants()
        await shop.assert_replays(url)


async def test_relay_that_slept_relays_nothing_old(settings: Settings) -> None:
    """Fault 14: a relay gets the answer to its read so late that another has long taken over; it publishes nothing.

    Guards that it looks at how long ago it claimed: what it holds may be relayed already, or even be lost to Redis.
    """
    async with (
        open_shop(settings) as shop,
        shop.worker() as url,
        Proxy(settings.redis.host, settings.redis.port) as proxy,
    ):
        redis = RedisSettings(host=proxy.host, port=proxy.port, command_timeout_s=120.0)
        sleepy = with_relay(msgspec.structs.replace(settings, redis=redis), owner_ttl_ms=500)
        await buy_one_by_one(shop, url, "a", 3)
        held = proxy.hold_reply(b"XREAD")
        claims = proxy.count(load_script("claim_relay").sha.encode())
        async with shop.relay(sleepy) as first:
            await held.wait_seen()
            await shop.relayed()
            claimed = claims.seen
            held.release()
            await claims.wait_seen(claimed + 1)
            await until_true(lambda: asyncio.sleep(0, shop.id in first.owned))
        assert len(await shop.published()) == len(shop.accepted)
        await shop.assert_invariants()
        await shop.assert_replays(url)


def order(user: str) -> bytes:
    """Return the orders of an outbox entry, as the script packs them: one of them."""
    return msgspec.msgpack.encode([["0" * 32, "0" * 16, "box", 1, user, 5_900, 1]])


POISON_ENTRIES: list[dict[Any, Any]] = [
    {"t": "soon", "orders": "not packed"},
    {"t": "1", "orders": "." * 3 * DEAD_VALUE_BYTES_MAX},
    {"t": "9" * 4_000, "orders": order("ann")},
    {"t": "1", "orders": order("\x01" * EVENT_BYTES_MAX)},
    {"p": "nothing", "t": "1"},
]


async def test_poison_outbox_entries(settings: Settings) -> None:
    """Fault 15: somebody puts entries into the outbox that are none; they go to the dead letters, all others to Kafka.

    They are no gaps, however large they are. Guards that an entry which cannot be read does not stop the relay.
    """
    async with open_shop(settings) as shop, shop.worker() as url:
        poison, gaps = counted(POISON), counted(GAPS)
        mark = f"{shop.id} by hand".encode()
        for number, fields in enumerate(POISON_ENTRIES):
            await buy_one_by_one(shop, url, f"a{number}", 1)
            await shop.clients.client.xadd(keys.outbox(shop.id), {"mark": mark, **fields})
        await buy_one_by_one(shop, url, "b", 1)
        async with shop.relay():
            await in_time(shop.outbox_is_relayed, "an entry that cannot be read holds up those after it")
        assert counted(POISON) == poison + len(POISON_ENTRIES)
        assert counted(GAPS) == gaps
        dead = [
            record.value
            async for record in TopicReader(settings.kafka, dead_topic(TOPIC_ORDERS_ACCEPTED)).read()
            if record.value is not None and mark in record.value
        ]
        assert len(dead) == len(POISON_ENTRIES)
        assert max(map(len, dead)) == DEAD_VALUE_BYTES_MAX
        assert b"mark=" + mark + b"\np=nothing\nt=1" in dead
        assert len(await shop.published()) == len(shop.accepted)
        await shop.assert_invariants()
        await shop.assert_replays(url)
