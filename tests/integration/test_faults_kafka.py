"""Faults between the outbox and Kafka, with real servers."""

import asyncio
import signal
from typing import Any

import msgspec
import pytest

from adapters.stock import read_snapshot, restore
from domain import keys
from domain.errors import BackendError
from domain.settings import Settings
from gateway import recovery
from stack.servers import LocalStack
from tests.support.children import start_killed_at
from tests.support.lanes import BOTH_LANES
from tests.support.shop import Shop, open_shop, until_true

pytestmark = BOTH_LANES

BUYERS = 30


async def buy_all(shop: Shop, url: str, prefix: str, count: int = BUYERS) -> None:
    """Have so many buyers accepted, at once."""
    said = await asyncio.gather(*(shop.buy(url, f"{prefix}-{number}") for number in range(count)))
    assert [one.status for one in said] == [202] * count


async def test_relay_killed_between_produce_and_checkpoint(settings: Settings) -> None:
    """Fault 13: the relay dies after Kafka has acknowledged and before its checkpoint has moved.

    Guards the order of the two: the checkpoint still stands before what was published, so a successor publishes it
    again, and the consumers store it once. A checkpoint that moved first would have lost what was not yet published.
    """
    async with open_shop(settings) as shop, shop.worker() as url:
        await buy_all(shop, url, "a")
        relay = await start_killed_at(settings, "relay.after_produce", "relay")
        assert await relay.wait() == -signal.SIGKILL
        snapshot = await read_snapshot(shop.clients.client, shop.id)
        assert snapshot is not None
        assert snapshot.checkpoint == "0-0"
        first = await shop.published()
        assert {event.order_id for event in first} == set(shop.accepted)
        await shop.relayed()
        again = await shop.published()
        assert len(again) == len(first) + len(shop.accepted)
        await shop.assert_invariants()
        await shop.assert_replays(url)


async def test_kafka_killed_during_a_sale(settings: Settings, stack: LocalStack) -> None:
    """Fault 17: Kafka dies in the middle of a sale; buyers notice nothing, and every order gets there afterwards.

    Guards acks=all and the relay's return to its checkpoint: a relay that goes on past a failed publication loses it.
    """
    hasty = msgspec.structs.replace(
        settings, kafka=msgspec.structs.replace(settings.kafka, request_timeout_ms=1_000, client_start_timeout_s=2.0)
    )
    async with open_shop(settings) as shop, shop.worker() as url:
        async with shop.relay(hasty) as relay:
            await buy_all(shop, url, "a")
            await until_true(shop.outbox_is_relayed)
            await stack.supervisor.kill("kafka", signal.SIGKILL)
            await stack.supervisor.stop_child("kafka")
            await buy_all(shop, url, "b")

            async def relay_has_noticed() -> bool:
                return shop.id not in relay.owned or await shop.outbox_is_relayed()

            await until_true(relay_has_noticed)
            snapshot = await read_snapshot(shop.clients.client, shop.id)
            await stack.supervisor.start_child("kafka")
            assert snapshot is not None
            assert snapshot.checkpoint != snapshot.fields["last_outbox_id"]
            await until_true(shop.outbox_is_relayed)
        assert {event.order_id for event in await shop.published()} == set(shop.accepted)
        await shop.assert_invariants()
        await shop.assert_replays(url)


async def test_durability_kafka_waits_for_the_relay(settings: Settings) -> None:
    """With durability = "kafka" nobody is told "accepted" before the order is in Kafka, and a replay neither."""
    async with open_shop(settings) as shop:
        patient = shop.with_gateway(durability="kafka", answer_timeout_s=60.0)
        hasty = shop.with_gateway(durability="kafka", answer_timeout_s=0.5)
        async with shop.worker(patient) as url, shop.worker(hasty) as hasty_url:
            assert (await shop.buy(hasty_url, "ann")).code == "UNKNOWN"
            assert (await shop.buy(hasty_url, "ann")).code == "UNKNOWN"
            answers = [asyncio.create_task(shop.buy(url, user)) for user in ("ann", "ben")]

            async def both_are_in_redis() -> bool:
                snapshot = await read_snapshot(shop.clients.client, shop.id)
                return snapshot is not None and sum(line.taken for line in snapshot.stock.values()) == 2

            await until_true(both_are_in_redis)
            assert not any(answer.done() for answer in answers)
            async with shop.relay():
                said = await asyncio.gather(*answers)
            assert [one.status for one in said] == [202, 202]
            published = {event.order_id for event in await shop.published()}
            assert published == {one.body["order_id"] for one in said}
            await shop.assert_replays(url)
        await shop.assert_invariants()


async def test_one_relay_at_a_time(settings: Settings) -> None:
    """Of two relays one owns a campaign and the other stands by; when the first stops, the second goes on."""
    async with open_shop(settings) as shop, shop.worker() as url:
        async with shop.relay():
            await buy_all(shop, url, "a")
            await until_true(shop.outbox_is_relayed)
            async with shop.relay() as second:
                await buy_all(shop, url, "b")
                await until_true(shop.outbox_is_relayed)
                assert not second.owned
        await buy_all(shop, url, "c")
        await shop.assert_invariants()
        assert len(await shop.published()) == len(shop.accepted)


async def test_gate_opens_only_after_lost_orders_are_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that has lost orders which Kafka and MySQL hold admits nothing until recovery has put them back.

    Recovery breaks off between two pieces on the way, and finds the rest when it begins again.
    Guards the run-id fence (the tail of what Redis knew is cut off by hand here): without it they are sold again.
    """
    breaks = iter([False, True])

    async def brittle(*args: Any, **more: Any) -> int:
        if next(breaks, False):
            raise BackendError("broken off")
        return await restore(*args, **more)

    monkeypatch.setattr(recovery, "RESTORED_AT_ONCE", 3)
    monkeypatch.setattr(recovery, "restore", brittle)
    async with open_shop(settings, stock=31) as shop, shop.worker() as url:
        client = shop.clients.client
        await buy_all(shop, url, "a", 10)
        await shop.relayed()
        stock = await client.dump(keys.stock(shop.id))
        snapshot = await read_snapshot(client, shop.id)
        assert stock is not None
        assert snapshot is not None
        await buy_all(shop, url, "b", 20)
        await shop.assert_invariants()
        # What a restart with a cut log looks like: the last 20 orders are gone, and the run id is another one.
        await client.restore(keys.stock(shop.id), 0, stock, replace=True)
        await client.delete(*[keys.buyer(shop.id, f"b-{number}") for number in range(20)])
        await client.hset(keys.campaign(shop.id), "last_outbox_id", snapshot.fields["last_outbox_id"])
        await client.hset(keys.campaign(shop.id), "run_id", "the one before")
        assert (await shop.buy(url, "new")).code == "UNKNOWN"
        await shop.relayed()

        assert next(breaks, None) is None
        assert (await shop.buy(url, "new")).status == 202
        assert (await shop.buy(url, "one more")).code == "SOLD_OUT"
        await shop.assert_replays(url)
        await shop.assert_invariants()
