"""An order's way, told from real Redis, Kafka and MariaDB."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import pytest_asyncio

from adapters.holds import release
from adapters.kafka import make_producer
from adapters.mysql import connect_pool, orders_dsn, transaction
from adapters.redis import make_client
from cli.deadletter import open_desk
from cli.trace import story_lines
from consumers.dead_letter_rules import parse_letter_id
from consumers.trace import Tracer
from consumers.trace_facts import Story
from consumers.trace_rules import as_json, summary, timeline
from domain import keys
from domain.errors import OperationRefusedError
from domain.events import dead_topic
from domain.order import digest_of, order_id
from domain.settings import KafkaSettings, MysqlSettings, RedisSettings, Settings
from lifecycle.order_rows import due_orders, expire
from stack.ports import free_port
from stack.servers import Endpoints
from tests.support.allocated import allocate_in_mysql
from tests.support.flow import Flow, new_flow
from tests.support.life import make_due, new_keeper, now_ms, until_idle
from tests.support.metrics import Recorded
from tests.support.operator import command
from tests.support.shop import Shop, open_shop, until_true

pytestmark = pytest.mark.usefixtures("stack")


@pytest_asyncio.fixture
async def flow(endpoints: Endpoints) -> AsyncIterator[Flow]:
    """Return an open campaign that no other test uses."""
    async with new_flow(endpoints) as made:
        yield made


async def traced(flow: Flow, order: str, user: str = "", **how: Any) -> Story:
    """Trace an order of a flow."""
    tracer = Tracer(
        how.pop("client", flow.client),
        how.pop("pool", flow.orders),
        how.pop("kafka", flow.settings.kafka),
        group=flow.settings.consumer.group,
        topic=flow.sale.topic,
        **how,
    )
    return await tracer.trace(order, user)


async def trace_in(shop: Shop, order: str) -> Story:
    """Trace an order of a shop."""
    settings = shop.settings
    tracer = Tracer(shop.clients.client, shop.clients.orders, settings.kafka, group=settings.consumer.group)
    return await tracer.trace(order)


async def test_every_hop_of_an_order(flow: Flow) -> None:
    """An order is found at every hop of its way, and the sentence says what it waits for."""
    (order,) = await flow.accept(1)
    story = await traced(flow, order)
    assert story.outbox is not None
    assert (story.outbox.waiting, story.outbox.relayed, story.kafka, story.mysql) == (True, False, [], None)
    assert story.redis is not None
    assert (story.redis.user_id, story.redis.state, story.redis.gate_open) == ("buyer-0", "held", True)
    assert summary(story) == "accepted; waits in the outbox for the relay."
    assert story.notes[0].startswith("kafka: ")

    await flow.relay(1)
    story = await traced(flow, order)
    (record,) = story.kafka
    assert (record.consumed, story.event and story.event.user_id) == (False, "buyer-0")
    assert story.outbox is not None
    assert (story.outbox.waiting, story.outbox.relayed) == (False, True)
    assert (record.outbox_id, record.outbox_index) == (story.outbox.outbox_id, 0)
    waits = f"accepted; waits in Kafka, partition {record.partition}, offset {record.offset}, for the consumer."
    assert summary(story) == waits

    await flow.store(1)
    story = await traced(flow, order)
    assert [one.consumed for one in story.kafka] == [True]
    assert story.mysql is not None
    assert (story.mysql.status, story.mysql.version) == ("confirmed", 1)
    assert [(one.kind, one.hold_no) for one in story.ledger] == [("take", 1)]
    assert summary(story).startswith("confirmed; waits for payment until 20")
    hops = [line.hop for line in timeline(story) if line.at_ms is not None]
    assert hops == ["redis", "outbox", "kafka", "mysql", "ledger"]
    assert (story.away, story.notes) == ({}, [])


async def test_expired_order(settings: Settings) -> None:
    """An order that was not paid shows its expiry, what Redis is owed meanwhile, and that it got it back."""
    async with open_shop(settings) as shop, shop.worker() as url, new_keeper(settings, shop) as (keeper, _):
        order = (await shop.buy(url, "ann")).body["order_id"]
        await shop.relayed()
        async with shop.consumer():
            await until_true(shop.stored)
        await make_due(shop)
        assert "has to expire it" in summary(await trace_in(shop, order))

        mine = [one for one in await due_orders(shop.clients.orders, now_ms(), 1_000) if one.order_id == order]
        assert await expire(shop.clients.orders, mine, now_ms()) == 1
        story = await trace_in(shop, order)
        assert story.redis is not None
        assert (story.redis.state, [one.status for one in story.changes]) == ("held", ["expired"])
        assert [(one.kind, one.hold_no) for one in story.ledger] == [("take", 1), ("release", 1)]
        assert "; a release is owed to Redis since 20" in summary(story)

        await until_idle(keeper)
        story = await trace_in(shop, order)
        assert story.redis is not None
        assert (story.redis.state, story.changes[0].published) == ("released", True)
        assert "; its units went back to the campaign 20" in summary(story)
        assert "reconcile" not in summary(story)


async def test_paid_order(flow: Flow) -> None:
    """Payments and the states that follow are told, with what was tried in vain."""
    (order,) = await flow.sell(1)
    async with transaction(flow.orders) as cursor:
        await cursor.execute("UPDATE orders SET status = 'paid', version = 2 WHERE order_id = %s", (order,))
        await cursor.execute(
            "INSERT INTO order_change (order_id, version, status, reason, at_ms) VALUES (%s, 2, 'paid', 'paid', 5)",
            (order,),
        )
        for number, status in ((1, "declined"), (2, "paid")):
            await cursor.execute(
                "INSERT INTO payment (payment_id, order_id, campaign_id, attempt_no, amount_cents, status, "
                "created_at_ms, updated_at_ms, next_at_ms, attempts, error) VALUES (%s, %s, %s, %s, 1, %s, 1, 2, 3, "
                "4, 'away')",
                (f"p-{number}-{order[-20:]}", order, flow.id, number, status),
            )
    story = await traced(flow, order)
    assert [(one.attempt_no, one.status) for one in story.payments] == [(1, "declined"), (2, "paid")]
    assert summary(story) == "paid; its units are sold, and it waits for approval."
    assert any("tried 4 times in vain: away" in line for line in story_lines(story))


async def test_dead_letter_and_its_replay(flow: Flow) -> None:
    """An order that was set aside names its dead letter; after a replay both of its records in Kafka are found."""
    await flow.sql(("DELETE FROM campaign_sku WHERE campaign_id = %s AND sku_id = 'box-2'", (flow.id,)))
    (order,) = await flow.accept(1, "box-2")
    await flow.relay(1)
    await flow.store(1)
    story = await traced(flow, order)
    (letter,) = story.dead_letters
    assert (letter.reason, letter.action, story.mysql) == ("unknown_sku", "", None)
    assert story.redis is not None
    assert story.redis.user_id == "buyer-0"
    assert f"set aside as dead letter {letter.id}" in summary(story)

    await allocate_in_mysql(flow.sale.catalog, flow.sale.orders, flow.campaign)
    letter_id = parse_letter_id(letter.id)
    assert letter_id is not None
    async with open_desk(flow.settings, topics=[dead_topic(flow.sale.topic)]) as desk:
        assert [deed.now async for deed in desk.replay([letter_id])] == [True]
    story = await traced(flow, order)
    assert [one.consumed for one in story.kafka] == [True, False]
    assert "for the consumer" in summary(story)
    metrics = Recorded()
    await flow.sale.drain(flow.sale.writer(metrics), metrics, 1)
    story = await traced(flow, order)
    assert [one.action for one in story.dead_letters] == ["replayed"]
    assert story.mysql is not None
    assert story.mysql.status == "confirmed"


async def test_stores_that_are_away(flow: Flow) -> None:
    """A store that is away is named, and what the others know is told all the same."""
    (order,) = await flow.sell(1)
    nowhere = free_port()
    kafka = msgspec.structs.replace(flow.settings.kafka, bootstrap=f"127.0.0.1:{nowhere}")
    story = await traced(flow, order, kafka=kafka)
    assert (list(story.away), story.mysql is not None, story.redis is not None) == (["kafka"], True, True)
    assert summary(story).startswith("confirmed; ")

    client = make_client(RedisSettings(port=nowhere))
    story = await traced(flow, order, client=client)
    await client.aclose()
    assert (list(story.away), story.redis, len(story.kafka)) == (["redis"], None, 1)
    assert "reconcile" not in summary(story)

    away = MysqlSettings(orders_dsn=f"mysql://nobody:none@127.0.0.1:{nowhere}/none")
    pool = connect_pool(orders_dsn(away), away)
    story = await traced(flow, order, pool=pool)
    assert (list(story.away), story.mysql, len(story.kafka)) == (["mysql"], None, 1)
    assert story.redis is not None  # Kafka says whose order it is
    assert "nobody can tell" in summary(story)
    await flow.accept(1)
    story = await traced(flow, flow.order_ids[1], "buyer-1", pool=pool, kafka=kafka)
    assert (sorted(story.away), story.redis is not None) == (["kafka", "mysql"], True)
    await pool.close()


async def test_unknown_and_hardly_known_orders(flow: Flow) -> None:
    """An order that no store knows is said to be unknown; where searching was bounded, that is said as well."""
    await flow.sell(30)
    story = await traced(flow, order_id(flow.id, "nobody", "key"))
    assert not story.is_known
    with pytest.raises(OperationRefusedError, match="no order id"):
        await traced(flow, "c-1~1")
    # Of an order without a row, only the newest records are searched, and its user is not known.
    lost = flow.order_ids[0]
    await flow.sql(
        ("DELETE FROM orders WHERE order_id = %s", (lost,)), ("DELETE FROM stock_ledger WHERE order_id = %s", (lost,))
    )
    story = await traced(flow, lost)
    assert len(story.kafka) == 1
    assert "neither on its way nor in MySQL" in summary(story)
    story = await traced(flow, lost, records_max=1)
    assert (story.kafka, story.redis, story.is_known) == ([], None, False)
    assert any("looked through" in note for note in story.notes)
    story = await traced(flow, lost, "buyer-0", records_max=1)
    assert (story.is_known, story.redis is not None) == (True, True)


async def test_redis_that_says_otherwise(flow: Flow) -> None:
    """A hold that Redis has given up without the ledger, a corrupt record and a closed gate are all told."""
    (order,) = await flow.sell(1)
    await release(flow.channel, flow.id, digest_of(order), "buyer-0", 1)
    assert "Redis says that hold 1 is released" in summary(await traced(flow, order))
    run_id: Any = await flow.client.hget(keys.campaign(flow.id), "run_id")
    await flow.client.hset(keys.campaign(flow.id), "run_id", "another")
    story = await traced(flow, order)
    assert story.redis is not None
    assert not story.redis.gate_open
    await flow.client.hset(keys.campaign(flow.id), "run_id", run_id)
    await flow.client.set(keys.buyer(flow.id, "buyer-0"), b"\xc1")
    assert "cannot be read" in (await traced(flow, order)).away["redis"]
    await flow.client.delete(keys.campaign(flow.id))
    assert (await traced(flow, order)).notes == [f"redis: it does not know campaign {flow.id}"]


async def test_record_that_is_no_event(flow: Flow) -> None:
    """A record with an order's key that is no event is shown, and takes nobody in."""
    (order,) = await flow.accept(1)
    producer = make_producer(flow.settings.kafka)
    await producer.start()
    await producer.send_and_wait(flow.sale.topic, key=order.encode(), value=b"no event")
    await producer.stop()
    story = await traced(flow, order)
    assert [one.outbox_id for one in story.kafka] == [""]
    assert story.event is not None
    assert story.event.user_id == "buyer-0"
    assert as_json(story)["kafka"][0]["consumed"] is False


async def test_operator_traces_orders(settings: Settings, tmp_path: Path) -> None:
    """The command tells the way and ends 0; it ends 1 for an unknown order or a store that is away, 2 for no id."""
    async with open_shop(settings) as shop, shop.worker() as url:
        order = (await shop.buy(url, "ann")).body["order_id"]
        code, lines = await command(settings, tmp_path, "trace", order, "--json")
        assert code == 0
        assert lines[0] == f"order {order}"
        assert orjson.loads(lines[-1])["summary"] == lines[-2] == "accepted; waits in the outbox for the relay."

        code, lines = await command(settings, tmp_path, "trace", order_id(shop.id, "bob", "k"))
        assert (code, "no store knows order" in lines[0]) == (1, True)
        code, lines = await command(settings, tmp_path, "trace", "c-1~xyz")
        assert (code, any("is no order id" in line for line in lines)) == (2, True)

        gone = msgspec.structs.replace(settings, kafka=KafkaSettings(bootstrap=f"127.0.0.1:{free_port()}"))
        code, lines = await command(gone, tmp_path, "trace", order)
        assert code == 1
        assert any(line.startswith("kafka cannot be asked: ") for line in lines)
        assert lines[-1] == "accepted; waits in the outbox for the relay."
        await shop.assert_invariants()
