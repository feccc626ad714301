"""Faults of the consumers, in a whole sale: what buyers, Redis, Kafka and MySQL say of it at the end is one thing."""

import asyncio
import signal

from adapters.kafka import make_producer
from adapters.kafka_reader import committed_offsets
from adapters.kafka_sender import KafkaSender, Outgoing
from adapters.mysql import query
from domain.events import TOPIC_ORDERS_ACCEPTED, encode_order_accepted
from domain.settings import Settings
from stack.proxy import Proxy
from tests.support.children import is_stopped, paused_at
from tests.support.events import event
from tests.support.life import assert_settled, make_due, new_keeper, statuses, until_idle
from tests.support.metrics import Recorded
from tests.support.shop import Shop, open_shop, until_true
from tests.support.waiting import in_time

SKUS = [("box", 20), ("bag", 20), ("tin", 20)]


async def buy_each(shop: Shop, url: str, prefix: str, count: int) -> None:
    """Have so many buyers of each SKU accepted, at once."""
    said = await asyncio.gather(
        *(shop.buy(url, f"{prefix}-{sku}-{number}", sku=sku) for sku, _ in SKUS for number in range(count))
    )
    assert {one.status for one in said} == {202}


async def test_writers_and_expiry_beside_each_other(settings: Settings) -> None:
    """Fault 23: two writers store orders of the same SKUs while a keeper expires others of them: nobody deadlocks.

    Guards: everybody locks counters first, then orders, then the ledger, each sorted by key.
    """
    async with open_shop(settings, stock=SKUS) as shop, shop.worker() as url, shop.relay():
        metrics = [Recorded(), Recorded()]
        async with (
            shop.consumer(metrics[0]),
            shop.consumer(metrics[1]),
            new_keeper(settings, shop) as (keeper, _),
        ):
            for round_ in range(4):
                await buy_each(shop, url, f"r{round_}", 4)
                await make_due(shop)
                await keeper.expire_orders()

            async def all_stored() -> bool:
                await make_due(shop)
                await until_idle(keeper)
                return set(await shop.stored()) == set(shop.accepted)

            await until_true(all_stored)
            await make_due(shop)
            await until_idle(keeper)
        assert sum(one.retries["write"] for one in metrics) == 0
        tried_in_vain = "SELECT order_id, error FROM stock_return WHERE campaign_id = %s AND attempts > 0"
        assert await query(shop.clients.orders, tried_in_vain, (shop.id,)) == []
        assert set((await statuses(shop)).values()) == {"expired"}
        await assert_settled(shop)
        for order_id, (user, key, quantity) in shop.accepted.items():
            said = await shop.buy(url, user, key, quantity, sku=user.split("-")[1])
            assert (said.status, said.body["order_id"]) == (202, order_id)


async def test_zombie_in_a_whole_sale(settings: Settings) -> None:
    """Fault 26: a writer is stopped with a batch in its hands, another does its work, and it goes on: nothing doubles.

    Guards: the ledger decides what is new.
    """
    async with open_shop(settings) as shop, shop.worker() as url:
        said = await asyncio.gather(*(shop.buy(url, f"a-{number}") for number in range(20)))
        assert {one.status for one in said} == {202}
        await shop.relayed()

        async def all_stored() -> bool:
            return set(await shop.stored()) == set(shop.accepted)

        async with paused_at(settings, "consumer.before_mysql", "consume", "orders") as zombie:
            await in_time(lambda: asyncio.sleep(0, is_stopped(zombie.pid)), "the writer does not get to its batch")
            assert await shop.stored() == {}
            async with shop.consumer():
                await in_time(all_stored, "no other writer takes over")
            zombie.send_signal(signal.SIGCONT)
            await buy_each_of_one(shop, url)
            await shop.relayed()
            await in_time(all_stored, "the zombie does not come back")
            zombie.send_signal(signal.SIGTERM)
            assert await zombie.wait() == 0
        await shop.assert_invariants()
        await shop.assert_replays(url)


async def buy_each_of_one(shop: Shop, url: str) -> None:
    """Have some more buyers accepted."""
    said = await asyncio.gather(*(shop.buy(url, f"b-{number}") for number in range(5)))
    assert {one.status for one in said} == {202}


async def test_dead_letters_away_in_a_whole_sale(settings: Settings) -> None:
    """Fault 28: a record that belongs into the dead letters comes while these are away: nothing is committed meanwhile.

    Guards: offsets wait for the dead letters. Everything else of the sale is stored all the same.
    """
    host, _, port = settings.kafka.bootstrap.partition(":")
    group = f"{settings.consumer.group}.orders"
    sender = KafkaSender(lambda: make_producer(settings.kafka), timeout_s=20.0)
    async with open_shop(settings) as shop, shop.worker() as url, Proxy(host, int(port)) as proxy:
        forged = event(1, campaign_id=f"{shop.id}-forged")
        await sender.send([Outgoing(TOPIC_ORDERS_ACCEPTED, forged.order_id.encode(), encode_order_accepted(forged))])
        await sender.close()
        said = await asyncio.gather(*(shop.buy(url, f"a-{number}") for number in range(20)))
        assert {one.status for one in said} == {202}
        await shop.relayed()
        before = await committed_offsets(settings.kafka, TOPIC_ORDERS_ACCEPTED, group)
        proxy.down()
        metrics = Recorded()
        async with shop.consumer(metrics, dead_letters_bootstrap=f"{proxy.host}:{proxy.port}"):

            async def is_retried() -> bool:
                return metrics.retries["dead_letters"] >= 2

            async def is_done() -> bool:
                return metrics.deads["unknown_sku"] >= 1 and set(await shop.stored()) == set(shop.accepted)

            await in_time(is_retried, "the dead letter is not tried again")
            done = await committed_offsets(settings.kafka, TOPIC_ORDERS_ACCEPTED, group)
            assert sum(done.values()) - sum(before.values()) <= metrics.records
            assert metrics.deads["unknown_sku"] == 0
            proxy.up()
            await in_time(is_done, "the dead letter is not written")
        await shop.assert_invariants()
        await shop.assert_replays(url)
