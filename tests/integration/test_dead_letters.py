"""Dead letters on real Kafka, Redis and MariaDB: replayed as often as one likes, given up once, stock consistent."""

import asyncio
import contextlib
import functools
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import pytest_asyncio

from adapters.holds import release, return_duplicate
from adapters.kafka import make_producer
from adapters.kafka_reader import open_reader
from adapters.kafka_sender import KafkaSender
from adapters.mysql import query
from adapters.stock import read_attempts, read_snapshot
from cli.deadletter import open_desk
from consumers import dead_letter_sql
from consumers.batch import Reason
from consumers.dead_letter_desk import DeadLetterDesk, Deed, open_dead_letters
from consumers.dead_letter_rules import LetterId, Summary, parse_letter_id
from consumers.dead_letter_sql import Settlement
from domain import keys
from domain.errors import BackendError, FencedError, OperationRefusedError
from domain.events import TOPIC_ORDERS_ACCEPTED, OrderAccepted, dead_topic, decode_order_accepted
from domain.order import digest_of, fingerprint
from domain.outcomes import ReleaseOutcome
from domain.settings import Settings
from stack.proxy import Proxy
from stack.servers import Endpoints
from tests.support.allocated import allocate_in_mysql
from tests.support.flow import STOCK, Flow, new_flow
from tests.support.metrics import Recorded
from tests.support.operator import command
from tests.support.shop import SKU, Shop, open_shop, until_true

pytestmark = pytest.mark.usefixtures("stack")


@pytest_asyncio.fixture
async def flow(endpoints: Endpoints) -> AsyncIterator[Flow]:
    """Return an open campaign that no other test uses."""
    async with new_flow(endpoints) as made:
        yield made


def desk_of(flow: Flow, **how: Any) -> AbstractAsyncContextManager[DeadLetterDesk]:
    """Open a desk for the dead letters of this flow."""
    return open_desk(flow.settings, topics=[dead_topic(flow.sale.topic)], **how)


async def letters(desk: DeadLetterDesk, **how: Any) -> list[Summary]:
    """Return what the desk lists."""
    return (await desk.list_letters(**how)).letters


def ids(found: list[Summary]) -> list[LetterId]:
    """Return the ids of listed letters."""
    parsed = [parse_letter_id(one.id) for one in found]
    return [one for one in parsed if one is not None]


async def done(deeds: AsyncIterator[Deed]) -> list[Deed]:
    """Return what came of each letter."""
    return [deed async for deed in deeds]


async def handle(flow: Flow, records: int) -> Recorded:
    """Let the consumer handle so many records."""
    metrics = Recorded()
    await flow.sale.drain(flow.sale.writer(metrics), metrics, records)
    assert metrics.records == records
    return metrics


async def forget_sku(flow: Flow, sku_id: str) -> None:
    """Let MySQL not know a SKU."""
    await flow.sql(("DELETE FROM campaign_sku WHERE campaign_id = %s AND sku_id = %s", (flow.id, sku_id)))


async def with_unknown_sku(flow: Flow, count: int = 1) -> list[str]:
    """Let orders of a SKU that MySQL does not know become dead letters, then let it be loaded."""
    await forget_sku(flow, "box-2")
    made = await flow.accept(count, "box-2")
    await flow.relay(count)
    assert (await handle(flow, count)).deads == {Reason.UNKNOWN_SKU: count}
    await allocate_in_mysql(flow.sale.catalog, flow.sale.orders, flow.campaign)
    return made


async def event_of(flow: Flow, order_id: str) -> OrderAccepted:
    """Return the event of an order in the dead letters."""
    for one in await flow.sale.dead_letters():
        event = decode_order_accepted(one.value)
        if event.order_id == order_id:
            return event
    raise LookupError(order_id)


async def row_of(flow: Flow, order_id: str) -> tuple[Any, ...]:
    """Return status and version of an order's row."""
    (row,) = await query(flow.orders, "SELECT status, version FROM orders WHERE order_id = %s", (order_id,))
    return row


async def ledger_of(flow: Flow, order_id: str) -> list[tuple[Any, ...]]:
    """Return the ledger of an order."""
    return await query(
        flow.orders, "SELECT kind, hold_no, quantity FROM stock_ledger WHERE order_id = %s ORDER BY id", (order_id,)
    )


async def sold(flow: Flow, sku_id: str = "box-2") -> int:
    """Return the counter of a SKU."""
    sql = "SELECT sold FROM campaign_sku WHERE campaign_id = %s AND sku_id = %s"
    return int((await query(flow.orders, sql, (flow.id, sku_id)))[0][0])


async def remaining(flow: Flow, sku_id: str = "box-2") -> int:
    """Return what Redis has left of a SKU."""
    snapshot = await read_snapshot(flow.client, flow.id)
    assert snapshot is not None
    return snapshot.stock[sku_id].remaining


async def give_back(flow: Flow) -> list[ReleaseOutcome]:
    """Give back to Redis what is owed to it, as the lifecycle process does; returns what came of each."""
    owed = await query(flow.orders, "SELECT order_id, user_id, hold_no FROM stock_return WHERE origin = ''")
    outcomes = [await release(flow.channel, flow.id, digest_of(order), user, hold) for order, user, hold in owed]
    await flow.sql(("UPDATE stock_return SET done_at_ms = 1", ()))
    return outcomes


async def test_unknown_sku_is_loaded_and_replayed(flow: Flow) -> None:
    """An order whose SKU was loaded too late is stored by a replay, and stored once however often it is replayed."""
    (order,) = await with_unknown_sku(flow)
    async with desk_of(flow) as desk:
        (letter,) = await letters(desk)
        assert (letter.order_id, letter.reason, letter.action) == (order, "unknown_sku", "")
        assert letter.origin.startswith(f"{flow.sale.topic}:")
        assert (await flow.report()).drift == 1

        assert [(deed.action, deed.now) for deed in await done(desk.replay(ids([letter])))] == [("replayed", True)]
        assert (await handle(flow, 1)).new == 1
        assert await row_of(flow, order) == ("confirmed", 1)
        assert (await desk.list_letters()).open == 0
        (listed,) = await letters(desk, with_done=True)
        assert listed.action == "replayed"

        (before,) = await done(desk.replay(ids([letter])))
        assert (before.action, before.now) == ("replayed", False)
        assert (await flow.report()).in_flight == 0
        (again,) = await done(desk.replay(ids([letter]), again=True))
        assert again.now
        metrics = await handle(flow, 1)
    assert (metrics.new, metrics.duplicates) == (0, 1)
    assert await ledger_of(flow, order) == [("take", 1, 1)]
    assert (await sold(flow), await remaining(flow)) == (1, STOCK - 1)
    assert (await flow.report()).drift == 0


async def test_replayed_as_it_was(flow: Flow) -> None:
    """A replay has key, value and headers of the record, and nothing that was added when it was set aside."""
    own = [("trace", b"abc"), ("reason", b"its own")]
    producer = make_producer(flow.settings.kafka)
    await producer.start()
    await producer.send_and_wait(flow.sale.topic, key=b"key", value=b"no event", headers=own)
    await producer.stop()
    await handle(flow, 1)
    async with desk_of(flow) as desk:
        assert [deed.now for deed in await done(desk.replay_all())] == [True]
        await handle(flow, 1)
        first, second = await flow.sale.dead_letters()
        assert (first.key, first.value) == (second.key, second.value) == (b"key", b"no event")
        assert list(second.headers[:2]) == own
        assert [name for name, _ in second.headers] == [name for name, _ in first.headers]
        assert [one.action for one in await letters(desk, with_done=True)].count("replayed") == 1


async def test_dropped_order_gives_its_units_back_once(flow: Flow) -> None:
    """A dropped order is rejected, its ledger and counters agree, and Redis gets its unit back exactly once.

    Replaying its record afterwards changes nothing.
    """
    (order,) = await with_unknown_sku(flow)
    assert await remaining(flow) == STOCK - 1
    async with desk_of(flow) as desk:
        found = ids(await letters(desk))
        (deed,) = await done(desk.drop(found))
        assert (deed.action, deed.now) == ("dropped", True)
        assert order in deed.detail
        assert await row_of(flow, order) == ("rejected", 2)
        assert await query(flow.orders, "SELECT pay_by_ms FROM orders") == [(None,)]
        assert await ledger_of(flow, order) == [("take", 1, 1), ("release", 1, 1)]
        assert await sold(flow) == 0
        change = await query(flow.orders, "SELECT order_id, version, status, reason, published FROM order_change")
        assert change == [(order, 2, "rejected", "dead letter dropped", 0)]
        assert await remaining(flow) == STOCK - 1  # until the lifecycle process has been there

        assert await give_back(flow) == [ReleaseOutcome.RELEASED]
        assert await give_back(flow) == [ReleaseOutcome.ALREADY_RELEASED]
        assert await remaining(flow) == STOCK
        assert (await flow.report()).drift == 0

        (before,) = await done(desk.drop(found))
        assert (before.action, before.now) == ("dropped", False)
        assert [deed.now for deed in await done(desk.replay(found))] == [False]
        assert [deed.now for deed in await done(desk.replay(found, again=True))] == [True]
        metrics = await handle(flow, 1)
        assert (metrics.new, metrics.duplicates, metrics.deads) == (0, 1, {})
    assert await row_of(flow, order) == ("rejected", 2)
    assert len(await ledger_of(flow, order)) == 2
    assert await give_back(flow) == [ReleaseOutcome.ALREADY_RELEASED]
    assert (await sold(flow), await remaining(flow)) == (0, STOCK)
    report = await flow.report()
    assert (report.drift, report.in_flight) == (0, 0)


async def test_order_stored_meanwhile_is_not_given_up(flow: Flow) -> None:
    """Fault 30: an order that the consumer has stored by then is not given up, however late it is asked.

    Guards: a nonce says who wrote the order's row. Its observable: what is owed to Redis is nothing.
    """
    (order,) = await with_unknown_sku(flow)
    async with desk_of(flow) as desk:
        (letter_id,) = ids(await letters(desk))
        await done(desk.replay([letter_id]))
        await handle(flow, 1)
        event = await event_of(flow, order)
        settlement = None
        with contextlib.suppress(OperationRefusedError):
            settlement = await dead_letter_sql.give_up(flow.orders, event, letter_id, 1, held=True)
        assert settlement is Settlement.STORED
    assert await flow.sale.count("stock_return") == await flow.sale.count("order_change") == 0
    assert await row_of(flow, order) == ("confirmed", 1)
    assert await ledger_of(flow, order) == [("take", 1, 1)]
    assert (await flow.report()).drift == 0


@pytest.mark.parametrize("replay_first", [False, True])
async def test_second_deduction_is_given_back_as_well(flow: Flow, *, replay_first: bool) -> None:
    """Fault 11: of an order that was deducted twice, because its record had gone, a drop of both gives both back.

    If one of them is stored instead, the other's unit alone is given back.
    """
    await forget_sku(flow, "box-2")
    (order,) = await flow.accept(1, "box-2")
    await flow.client.delete(keys.buyer(flow.id, "buyer-0"))
    flow.order_ids.clear()
    assert await flow.accept(1, "box-2") == [order]
    await flow.relay(2)
    assert (await handle(flow, 2)).deads == {Reason.UNKNOWN_SKU: 2}
    await allocate_in_mysql(flow.sale.catalog, flow.sale.orders, flow.campaign)
    assert await remaining(flow) == STOCK - 2
    async with desk_of(flow) as desk:
        first, second = ids(await letters(desk))
        if replay_first:
            await done(desk.replay([first]))
            await handle(flow, 1)
        await done(desk.drop([first, second]))
        assert [deed.now for deed in await done(desk.drop([second, first]))] == [False, False]
    origins = await query(flow.orders, "SELECT order_id, hold_no, origin, user_id FROM stock_return ORDER BY origin")
    assert len(origins) == (1 if replay_first else 2)
    for _ in range(2):
        await give_back(flow)
        for one, hold_no, origin, user in origins:
            if origin:
                await return_duplicate(
                    *(flow.channel, flow.id, digest_of(one), user),
                    origin=origin,
                    sku_id="box-2",
                    quantity=1,
                    released_hold_no=0 if replay_first else hold_no,
                )
    assert await remaining(flow) == (STOCK - 1 if replay_first else STOCK)
    assert await row_of(flow, order) == (("confirmed", 1) if replay_first else ("rejected", 2))
    assert await sold(flow) == int(replay_first)
    assert (await flow.report()).drift == 0


async def test_drops_race_with_their_replays(flow: Flow) -> None:
    """Two desks drop while the consumer stores the same records: each order is either stored or rejected, once."""
    count = 24
    made = await with_unknown_sku(flow, count)
    async with desk_of(flow) as one, desk_of(flow) as two:
        found = ids(await letters(one))
        await done(one.replay(found))
        # As if nobody had remembered it: the crash between publishing and marking.
        await flow.sql(("DELETE FROM dead_letter_done", ()))
        async with asyncio.TaskGroup() as group:
            handling = group.create_task(handle(flow, count))
            first = group.create_task(done(one.drop(found)))
            second = group.create_task(done(two.drop(found[::-1])))
    rows = dict(await query(flow.orders, "SELECT order_id, status FROM orders"))
    statuses = Counter(rows.values())
    assert set(rows) == set(made)
    assert handling.result().new == statuses["confirmed"]
    rejected = [deed for deed in (*first.result(), *second.result()) if "is rejected" in deed.detail]
    assert len(rejected) == statuses["rejected"]
    assert await sold(flow) == statuses["confirmed"]
    assert await give_back(flow) == [ReleaseOutcome.RELEASED] * statuses["rejected"]
    assert await remaining(flow) == STOCK - statuses["confirmed"]
    assert (await flow.report()).drift == 0


async def test_forged_record_gives_nothing_back(flow: Flow) -> None:
    """Fault 25: forged records under true order ids can be given up without harm to the true orders.

    One order is stored, and one is still on its way. Guards: only the event that Redis holds units for, payload and
    all, may be given up for them. Its observable: the order on its way is not rejected.
    """
    (stored,) = await flow.sell(1)
    (on_its_way,) = await flow.accept(1)
    event = OrderAccepted(
        order_id=on_its_way,
        campaign_id=flow.id,
        sku_id="box-3",
        user_id="buyer-1",
        quantity=2,
        unit_price_cents=1,
        fingerprint=fingerprint("box-3", 2),
        hold_no=1,
        accepted_at_ms=1,
        outbox_id="1-0",
        outbox_index=0,
    )
    other = msgspec.structs.replace(event, order_id=stored, sku_id="box-1", fingerprint=fingerprint("box-1", 2))
    await flow.sale.publish([event, other])
    assert (await handle(flow, 2)).deads == {Reason.UNKNOWN_SKU: 1, Reason.OTHER_PAYLOAD: 1}
    await flow.sql(("INSERT INTO campaign_sku (campaign_id, sku_id, allocated) VALUES (%s, 'box-3', 0)", (flow.id,)))
    async with desk_of(flow) as desk:
        assert {deed.detail for deed in await done(desk.drop_all())} == {
            "nothing is owed: Redis holds nothing for it",
            "nothing is owed: the order is in MySQL",
        }
        assert (await desk.list_letters()).open == 0
    await flow.relay(1)
    assert (await handle(flow, 1)).new == 1
    assert [await row_of(flow, one) for one in (stored, on_its_way)] == [("confirmed", 1)] * 2
    assert await flow.sale.count("stock_return") == 0
    assert (await sold(flow, "box-1"), await remaining(flow, "box-1")) == (2, STOCK - 2)
    assert (await flow.report()).drift == 0


async def test_sku_that_mysql_does_not_know(flow: Flow) -> None:
    """While MySQL has no counter for it, an order that Redis holds units for is not given up, and stays open."""
    (order,) = await with_unknown_sku(flow)
    await forget_sku(flow, "box-2")
    async with desk_of(flow) as desk:
        (deed,) = await done(desk.drop(ids(await letters(desk))))
        assert (deed.action, deed.now) == ("", False)
        assert "campaign load" in deed.detail
        assert (await desk.list_letters()).open == 1
        assert await flow.sale.count("orders") == await flow.sale.count("stock_ledger") == 0
        # It has nothing to give back any more: a person took care of it.
        await flow.client.delete(keys.buyer(flow.id, "buyer-0"))
        (deed,) = await done(desk.drop(ids(await letters(desk))))
        assert deed.now
        assert await flow.sale.count("orders") == 0
    assert order


async def test_drop_waits_for_recovery(flow: Flow) -> None:
    """Fault 5: while Redis may have lost what it holds, nothing is given up.

    Guards: what Redis holds is believed only of the server that recovery has compared. Its observable: the letter of
    an order that Redis has lost stays open.
    """
    (order,) = await with_unknown_sku(flow)
    buyer = keys.buyer(flow.id, "buyer-0")
    record: Any = await flow.client.get(buyer)
    run_id: Any = await flow.client.hget(keys.campaign(flow.id), "run_id")
    await flow.client.hset(keys.campaign(flow.id), "run_id", "another")
    await flow.client.delete(buyer)
    async with desk_of(flow) as desk:
        found = ids(await letters(desk))
        with pytest.raises(FencedError, match="recovery"):
            await done(desk.drop(found))
        assert (await desk.list_letters()).open == 1
        await flow.client.set(buyer, record)
        await flow.client.hset(keys.campaign(flow.id), "run_id", run_id)
        await done(desk.drop(found))
    assert await row_of(flow, order) == ("rejected", 2)
    assert await give_back(flow) == [ReleaseOutcome.RELEASED]
    assert (await flow.report()).drift == 0


async def test_record_that_redis_cannot_tell_of(flow: Flow) -> None:
    """A corrupt buyer record, or a campaign that Redis has forgotten, is a matter for a person: the letter stays."""
    await with_unknown_sku(flow)
    await flow.client.set(keys.buyer(flow.id, "buyer-0"), b"\xc1")
    async with desk_of(flow) as desk:
        found = ids(await letters(desk))
        (deed,) = await done(desk.drop(found))
        assert (deed.action, "cannot be read" in deed.detail) == ("", True)
        await flow.client.delete(keys.campaign(flow.id))
        (deed,) = await done(desk.drop(found))
        assert (deed.action, "does not know campaign" in deed.detail) == ("", True)
        assert (await desk.list_letters()).open == 1


async def test_letter_of_the_relay(flow: Flow) -> None:
    """An outbox entry that the relay set aside cannot be replayed, which is said; it can be dropped."""
    topic = dead_topic(flow.sale.topic)
    producer = make_producer(flow.settings.kafka)
    await producer.start()
    headers = [("reason", b"outbox entry cannot be read"), ("error", b"no orders")]
    await producer.send_and_wait(topic, key=b"c-1 5-0", value=b"t=1\nx=\xff", headers=headers)
    # Written by somebody who would have us write to a topic of his choice.
    forged = [("reason", b"poison"), ("error", b""), ("topic", b"other"), ("partition", b"0"), ("offset", b"0")]
    await producer.send_and_wait(topic, key=b"k", value=b"v", headers=[*forged, ("failed_at", b"5")])
    await producer.stop()
    async with desk_of(flow) as desk:
        refused = await done(desk.replay_all())
        assert [deed.action for deed in refused] == ["", ""]
        assert {"not a record" in deed.detail for deed in refused} == {True, False}
        assert (await desk.list_letters()).open == 2
        assert [deed.now for deed in await done(desk.drop_all(reason="outbox entry cannot be read"))] == [True]
        assert [one.reason for one in await letters(desk)] == ["poison"]


async def test_replay_that_kafka_does_not_acknowledge(flow: Flow) -> None:
    """Fault 17: while Kafka takes nothing, a replay fails and the letter stays open.

    Guards: a letter is marked after the acknowledgement. Its observable: it is still open.
    """
    await with_unknown_sku(flow)
    host, _, port = flow.settings.kafka.bootstrap.partition(":")
    async with Proxy(host, int(port)) as proxy:
        proxy.down()
        away = msgspec.structs.replace(flow.settings.kafka, bootstrap=f"{proxy.host}:{proxy.port}")
        sender = KafkaSender(functools.partial(make_producer, away), timeout_s=10)
        async with desk_of(flow, sender=sender) as desk:
            found = ids(await letters(desk))
            with pytest.raises(BackendError):
                await done(desk.replay(found))
            assert (await desk.list_letters()).open == 1
    async with desk_of(flow) as desk:
        assert [deed.now for deed in await done(desk.replay(found))] == [True]
    assert (await handle(flow, 1)).new == 1
    assert (await flow.report()).drift == 0


async def test_killed_between_publishing_and_marking(flow: Flow, tmp_path: Path) -> None:
    """Fault 13: a replay killed after it has published is open, is replayed again, and the order is stored once."""
    (order,) = await with_unknown_sku(flow)
    async with desk_of(flow) as desk:
        found = ids(await letters(desk))
        arguments = ("deadletter.after_publish", "deadletter", "replay", str(found[0]))
        code, _ = await command(flow.settings, tmp_path, *arguments, module="tests.support.child")
        assert code == -signal.SIGKILL
        assert (await desk.list_letters()).open == 1
        assert [deed.now for deed in await done(desk.replay(found))] == [True]
    metrics = await handle(flow, 2)
    assert (metrics.new, metrics.duplicates) == (1, 1)
    assert await ledger_of(flow, order) == [("take", 1, 1)]
    assert (await flow.report()).drift == 0


async def test_long_lists_are_bounded(flow: Flow) -> None:
    """A list reads the newest letters of each partition, says how many older ones there are, and counts the open."""
    await flow.sale.publish([(f"key-{number}".encode(), b"no event %d" % number) for number in range(30)])
    await handle(flow, 30)
    async with desk_of(flow) as desk:
        listing = await desk.list_letters(newest_max=4)
        assert (len(listing.letters), listing.open, listing.not_looked_at) == (8, 30, 22)
        whole = await desk.list_letters(newest_max=None)
        assert (len(whole.letters), whole.open, whole.not_looked_at) == (30, 30, 0)
        assert await letters(desk, reason="unknown_sku") == []
        for number in (0, 1):
            newest = max(one.offset for one in ids(whole.letters) if one.partition == number)
            assert newest in {one.offset for one in ids(listing.letters) if one.partition == number}
        await done(desk.drop(ids(listing.letters)))
        assert await desk.count_open() == {dead_topic(flow.sale.topic): 22}
        # The list looks where it did before, and finds nothing open there.
        assert (await desk.list_letters(newest_max=4)).letters == []
        with pytest.raises(OperationRefusedError, match="there is no dead letter"):
            await desk.find(LetterId(dead_topic(flow.sale.topic), 0, 99))
        with pytest.raises(OperationRefusedError, match="there is no dead letter"):
            await desk.find(LetterId("nowhere.dead", 0, 0))


# -- as an operator has it -----------------------------------------------------------------------------------------


async def letter_of(shop: Shop, order_id: str) -> str:
    """Wait until an order is a dead letter; returns its id."""
    found: list[str] = []

    async def there() -> bool:
        async with open_desk(shop.settings) as desk:
            found.extend(one.id for one in await letters(desk) if one.order_id == order_id)
        return bool(found)

    await until_true(there)
    return found[0]


async def test_operator_drops_an_order(settings: Settings, tmp_path: Path) -> None:
    """A dead letter is listed, shown and dropped by command; its buyer is told `rejected`, and a replay is the same."""
    async with open_shop(settings) as shop, shop.worker() as url:
        await query(shop.clients.orders, "DELETE FROM campaign_sku WHERE campaign_id = %s", (shop.id,))
        said = await shop.buy(url, "ann")
        order = said.body["order_id"]
        await shop.relayed()
        async with shop.consumer():
            letter = await letter_of(shop, order)
        assert (await shop.get(url, f"/v1/orders/{order}", "ann")).body["status"] == "accepted"

        code, lines = await command(settings, tmp_path, "deadletter", "list", "--json")
        assert code == 0
        listing = orjson.loads(lines[-1])
        (mine,) = [one for one in listing["letters"] if one["id"] == letter]
        assert (mine["order_id"], mine["reason"]) == (order, "unknown_sku")
        assert listing["open"] >= 1
        assert any(letter in line and order in line for line in lines[:-1])

        code, lines = await command(settings, tmp_path, "deadletter", "show", letter, "--json")
        assert (code, orjson.loads(lines[-1])["value"]["order_id"]) == (0, order)

        code, lines = await command(settings, tmp_path, "deadletter", "drop", letter)
        assert code == 1
        assert "REFUSED" in lines[0]
        await allocate_in_mysql(shop.clients.catalog, shop.clients.orders, shop.campaign)
        code, lines = await command(settings, tmp_path, "deadletter", "drop", letter, "--json")
        assert (code, orjson.loads(lines[-1])["done"]) == (0, 1)
        code, lines = await command(settings, tmp_path, "deadletter", "replay", letter)
        assert (code, re.search(r"was dropped before, 20\d\d-", lines[0]) is not None) == (0, True)
        code, lines = await command(settings, tmp_path, "deadletter", "drop", "--all")
        assert (code, "--yes" in lines[-1]) == (1, True)
        code, _ = await command(settings, tmp_path, "deadletter", "show", "orders.accepted:0@1")
        assert code == 2

        answer = await shop.get(url, f"/v1/orders/{order}", "ann")
        assert (answer.body["status"], answer.body["version"]) == ("rejected", 2)
        replayed = await shop.buy(url, "ann")
        assert (replayed.status, replayed.body["order_id"]) == (202, order)
        digest = order[-32:]
        assert await release(shop.clients.channel, shop.id, digest, "ann", 1) == ReleaseOutcome.RELEASED
        snapshot = await read_snapshot(shop.clients.client, shop.id)
        assert snapshot is not None
        assert snapshot.stock[SKU].remaining == snapshot.stock[SKU].allocated
        packed: Any = await shop.clients.client.get(keys.buyer(shop.id, "ann"))
        assert [one.held for one in read_attempts(packed)] == [False]


async def test_open_letters_are_counted(flow: Flow) -> None:
    """The number for the gauge is the letters with which nothing was done, by topic."""
    await with_unknown_sku(flow, 3)
    topic = dead_topic(flow.sale.topic)
    async with desk_of(flow) as desk, open_reader(flow.settings.kafka) as reader:
        assert await open_dead_letters(reader, flow.orders, [topic]) == {topic: 3}
        await done(desk.drop(ids(await letters(desk))[:1]))
        assert await open_dead_letters(reader, flow.orders, [topic, "nowhere.dead"]) == {topic: 2, "nowhere.dead": 0}
    assert dead_topic(TOPIC_ORDERS_ACCEPTED) == "orders.accepted.dead"
