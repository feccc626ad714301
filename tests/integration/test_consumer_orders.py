"""The writer of accepted orders on real Kafka and MariaDB: what crashes or is lost on the way changes nothing."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from adapters.mysql import Pool, query
from consumers.batch import Item, Reason
from consumers.orders_sql import OrderStore
from domain.errors import BackendError
from domain.events import OrderAccepted, encode_order_accepted
from stack.proxy import Proxy
from stack.servers import Endpoints
from tests.support.events import event
from tests.support.metrics import Recorded
from tests.support.orders import Sale, new_sale, until
from tests.support.records import Plain

pytestmark = pytest.mark.usefixtures("stack")


@pytest_asyncio.fixture
async def sale(endpoints: Endpoints) -> AsyncIterator[Sale]:
    """Return a sale of its own on the shared servers."""
    async with new_sale(endpoints) as made:
        yield made


async def test_accepted_orders_are_stored_once(sale: Sale) -> None:
    """Every event becomes one order, one ledger row and its share of the counter; what comes again adds nothing."""
    events = [event(number, sku_id=f"box-{1 + number % 2}", quantity=1 + number % 3) for number in range(60)]
    await sale.publish([*events, *events[:20]])
    metrics = Recorded()
    await sale.drain(sale.writer(metrics, batch_max=25), metrics, 80)
    await sale.assert_whole(events)
    assert (metrics.new, metrics.duplicates) == (60, 20)
    assert await sale.sold() == {
        sku_id: sum(one.quantity for one in events if one.sku_id == sku_id) for sku_id in ("box-1", "box-2")
    }
    assert set(metrics.lags.values()) == {0}


async def test_killed_between_mysql_and_offset_commit(sale: Sale) -> None:
    """Fault 21: a writer killed after MySQL's commit gets the same records again, and the stock moves once.

    Guards: the ledger decides what is new. Its observable: the records come again and none of them counts as new.
    """
    events = [event(number) for number in range(50)]
    await sale.publish(events)
    process = await sale.spawn("consumer.after_mysql_commit")
    assert await process.wait() == -signal.SIGKILL
    before = await sale.count("orders")
    assert before > 0
    assert (await sale.sold())["box-1"] == before
    metrics = Recorded()
    await sale.drain(sale.writer(metrics), metrics, 50)
    assert (await sale.sold())["box-1"] == 50
    assert (metrics.new, metrics.duplicates) == (50 - before, before)
    await sale.assert_whole(events)


async def test_answer_to_commit_lost(sale: Sale) -> None:
    """Fault 22: COMMIT takes effect and its answer is lost; the writer repeats the batch, and the stock moves once.

    Guards: the ledger decides what is new, with a nonce of its own in each attempt.
    """
    events = [event(number, sku_id=f"box-{1 + number % 2}") for number in range(50)]
    await sale.publish(events)
    async with Proxy(sale.orders_dsn.host, sale.orders_dsn.port) as proxy:
        commits = proxy.count(b"\x03COMMIT")
        lost = proxy.cut_reply(b"\x03COMMIT")
        dsn = msgspec.structs.replace(sale.orders_dsn, port=proxy.port)
        pool = Pool(dsn, size_max=2, connect_timeout_s=5)
        metrics = Recorded()
        await sale.drain(sale.writer(metrics, pool=pool), metrics, 50)
        await pool.close()
    assert await sale.sold() == {"box-1": 25, "box-2": 25}
    assert (lost.fired, metrics.retries["write"]) == (1, 1)
    assert commits.seen >= 2
    assert metrics.new + metrics.duplicates == 50
    assert metrics.duplicates > 0
    await sale.assert_whole(events)


async def test_poison_records_do_not_hold_up_the_others(sale: Sale) -> None:
    """Fault 27: records that can never be stored go to the dead letters, byte for byte, and all others are stored.

    Guards: a batch that MySQL refuses is bisected. Its observable: one record alone is dead for MySQL's refusal.
    """
    good = [event(number) for number in range(40)]
    refused = event(100)
    await query(
        sale.orders,
        "CREATE TRIGGER refuse BEFORE INSERT ON stock_ledger FOR EACH ROW "
        f"IF NEW.order_id = '{refused.order_id}' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF",
    )
    bad = poison(good[0], refused)
    records: list[OrderAccepted | tuple[bytes | None, bytes | None]] = [*good]
    for place, (key, value, _reason) in enumerate(bad):
        records.insert(1 + 3 * place, (key, value))
    await sale.publish(records)
    metrics = Recorded()
    await sale.drain(sale.writer(metrics), metrics, len(records))

    dead = [(one.key, one.value, dict(one.headers)["reason"].decode()) for one in await sale.dead_letters()]
    assert await sale.count("orders") == len(good)
    assert Counter(dead) == Counter(bad)
    assert metrics.deads == Counter(reason for _key, _value, reason in bad)
    await sale.assert_whole(good)
    headers = dict((await sale.dead_letters())[0].headers)
    assert set(headers) == {"reason", "error", "topic", "partition", "offset", "failed_at"}
    assert headers["topic"].decode() == sale.topic


def poison(known: OrderAccepted, refused: OrderAccepted) -> list[tuple[bytes | None, bytes | None, str]]:
    """Return (key, value, reason) of records that can never be stored."""
    fresh = event(200)
    body = encode_order_accepted(fresh)
    events = [
        (msgspec.structs.replace(fresh, campaign_id="c-2"), Reason.POISON),  # the id belongs to another campaign
        (event(201, campaign_id="c-2"), Reason.UNKNOWN_SKU),
        (event(202, sku_id="box-9"), Reason.UNKNOWN_SKU),
        (msgspec.structs.replace(event(0, quantity=2)), Reason.OTHER_PAYLOAD),
        (refused, Reason.REFUSED),
    ]
    values: list[bytes | None] = [
        None,
        b"",
        b"\xff\xfe\x00",
        b"{",
        b"[]",
        b'{"a":' + b"[" * 200_000,
        b"x" * 1_000_000,
        body.replace(b'"quantity":1', b'"quantity":-1'),
        body.replace(b'"quantity":1', b'"quantity":9223372036854775808'),
        body.replace(b'"quantity":1', b'"quantity":1.5'),
        body.replace(b'"version":1', b'"version":2'),
        body.replace(b"buyer-200", b"\xed\xa0\x80"),
    ]
    key = known.order_id.encode()
    return [
        *((key, value, str(Reason.POISON)) for value in values),
        *((key, encode_order_accepted(one), str(reason)) for one, reason in events),
    ]


async def test_writers_with_overlapping_batches_do_not_deadlock(sale: Sale) -> None:
    """Fault 23: writers at work on the same orders at once never deadlock, and each deduction counts for one of them.

    Guards: counters are locked first, everything in one order. Its observable: no attempt had to be repeated.
    """
    writers, rounds, size = 4, 12, 25
    events = [event(number, sku_id=f"box-{1 + number % 2}") for number in range(writers * rounds * size)]
    items = [Item(Plain(offset=number), one) for number, one in enumerate(events)]
    chance = random.Random(7)
    repeated: list[BackendError] = []
    new: list[int] = []
    store = OrderStore(sale.orders)

    async def write(writer: int) -> None:
        for number in range(rounds):
            first = (writer * rounds + number) * size
            # By turns orders that nobody else has, for the same SKUs, and orders that others are writing too.
            batch = items[first : first + size] if number % 2 == 0 else chance.sample(items, size)
            while True:
                try:
                    outcome = await store.store(batch, now_ms=1)
                except BackendError as error:
                    repeated.append(error)
                else:
                    new.append(outcome.new)
                    break

    async with asyncio.TaskGroup() as group:
        for number in range(writers):
            group.create_task(write(number))
    new.append((await store.store(items, now_ms=1)).new)
    assert repeated == []
    assert sum(new) == len(events)
    await sale.assert_whole(events)


async def test_two_groups_write_the_same_records(sale: Sale) -> None:
    """Two writers that both get every record, in batches that overlap, store each deduction once."""
    events = [event(number, sku_id=f"box-{1 + number % 2}") for number in range(300)]
    await sale.publish(events)
    first, second = Recorded(), Recorded()
    async with asyncio.TaskGroup() as group:
        group.create_task(sale.drain(sale.writer(first, group=f"{sale.topic}-a", batch_max=70), first, 300))
        group.create_task(sale.drain(sale.writer(second, group=f"{sale.topic}-b", batch_max=90), second, 300))
    assert first.new + second.new == 300
    assert first.duplicates + second.duplicates == 300
    await sale.assert_whole(events)


async def test_another_payload_under_a_known_order(sale: Sale) -> None:
    """Fault 25: a record with a known order id and another payload goes to the dead letters and moves nothing.

    Guards: payloads are compared. Its observable: it is dead for its payload, even with a hold number of its own.
    """
    known = event(1)
    forged = [
        event(1, quantity=2),
        event(1, sku_id="box-2"),
        msgspec.structs.replace(event(1, quantity=2), hold_no=2, outbox_id="1790000000009-0"),
    ]
    await sale.publish([known])
    metrics = Recorded()
    await sale.drain(sale.writer(metrics), metrics, 1)
    await sale.publish(forged)
    await sale.drain(sale.writer(metrics), metrics, 4)
    assert await sale.sold() == {"box-1": 1, "box-2": 0}
    assert metrics.deads == {Reason.OTHER_PAYLOAD: 3}
    assert Counter(one.value for one in await sale.dead_letters()) == Counter(map(encode_order_accepted, forged))
    await sale.assert_whole([known])


async def test_dead_letter_topic_down(sale: Sale) -> None:
    """Fault 28: while a dead letter cannot be written no offset is committed; when it can be, nothing is missing.

    Guards: offsets wait for the dead letters. Its observable: no offset is committed while the topic is away.
    """
    good = [event(number) for number in range(10)]
    await sale.publish([*good, (b"key", b"no event")])
    host, _, port = sale.settings.kafka.bootstrap.partition(":")
    metrics = Recorded()
    async with Proxy(host, int(port)) as proxy:
        proxy.down()
        writer = sale.writer(metrics, dead_letters_bootstrap=f"{proxy.host}:{proxy.port}", batch_max=11)
        draining = asyncio.create_task(sale.drain(writer, metrics, 11))
        await until(lambda: metrics.retries["dead_letters"] >= 2 or draining.done())
        assert metrics.records < 11
        assert await sale.committed() == metrics.records
        proxy.up()
        await draining
    assert [(one.key, one.value) for one in await sale.dead_letters()] == [(b"key", b"no event")]
    assert await sale.committed() == 11
    await sale.assert_whole(good)


async def test_told_to_stop_it_ends_and_loses_nothing(sale: Sale) -> None:
    """SIGTERM ends the process with code 0; what it had not finished is finished by its successor."""
    events = [event(number) for number in range(500)]
    await sale.publish(events)
    process = await sale.spawn("nowhere")
    while not await sale.count("orders"):  # noqa: ASYNC110 -- a database tells nobody of its changes
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    done = await sale.committed()
    assert done > 0
    metrics = Recorded()
    writer = sale.writer(metrics)
    await sale.drain(writer, metrics, 500 - done)
    assert metrics.records == 500 - done
    await sale.assert_whole(events)
