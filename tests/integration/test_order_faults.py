"""Orders that come again under other circumstances, and writers beside others, on real Kafka and MariaDB."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from adapters.mysql import Pool, query, transaction
from consumers import orders_sql
from consumers.batch import Item, Outcome
from consumers.orders_sql import OrderStore
from domain.errors import BackendError
from domain.events import OrderAccepted
from domain.order_state import OrderStatus
from lifecycle.order_rows import due_orders, expire
from stack.proxy import Proxy
from stack.servers import Endpoints
from tests.support.children import is_stopped
from tests.support.events import event
from tests.support.metrics import Recorded
from tests.support.orders import Sale, new_sale
from tests.support.records import Plain

pytestmark = pytest.mark.usefixtures("stack")

NOW_MS = 1_790_000_000_000


@pytest_asyncio.fixture
async def sale(endpoints: Endpoints) -> AsyncIterator[Sale]:
    """Return a sale of its own on the shared servers."""
    async with new_sale(endpoints) as made:
        yield made


def items_of(events: list[OrderAccepted]) -> list[Item]:
    """Return events as they come from Kafka."""
    return [Item(Plain(offset=number), one) for number, one in enumerate(events)]


def from_elsewhere(one: OrderAccepted, place: int = 0) -> OrderAccepted:
    """Return the event of a second deduction for the same order."""
    return msgspec.structs.replace(one, outbox_id="1790000009999-0", outbox_index=place)


async def test_time_to_pay_counts_from_confirmation(sale: Sale) -> None:
    """An order's last moment to pay is its campaign's time after its row was written, as the campaign is then."""
    store = OrderStore(sale.orders)
    await store.store(items_of([event(1)]), now_ms=NOW_MS)
    async with transaction(sale.orders) as cursor:
        await cursor.execute("UPDATE campaign_sku SET pay_within_s = 7 WHERE sku_id = 'box-1'")
    later = items_of([event(2), event(3, sku_id="box-2")])
    prepared = await store.prepare(items_of([event(2)]), now_ms=NOW_MS)
    assert prepared is not None
    await store.store(later, now_ms=NOW_MS + 5, prepared=prepared)
    rows = await query(sale.orders, "SELECT user_id, confirmed_at_ms, pay_by_ms FROM orders ORDER BY user_id")
    assert rows == [
        ("buyer-1", NOW_MS, NOW_MS + 900_000),
        ("buyer-2", NOW_MS + 5, NOW_MS + 5 + 7_000),
        ("buyer-3", NOW_MS + 5, NOW_MS + 5 + 900_000),
    ]


async def test_prepared_statements_are_used_once_and_while_they_are_true(sale: Sale) -> None:
    """Statements made ahead store the same rows; a second attempt, another batch, a changed campaign make their own."""
    store = OrderStore(sale.orders)
    assert await store.prepare(items_of([event(1)]), now_ms=NOW_MS) is None  # nothing is known of its counter yet
    await store.store(items_of([event(0)]), now_ms=NOW_MS)
    items = items_of([event(1), event(2)])
    prepared = await store.prepare(items, now_ms=NOW_MS)
    assert prepared is not None
    assert prepared.fits(items, prepared.pay_within_s, NOW_MS)
    assert not prepared.fits(list(items), prepared.pay_within_s, NOW_MS)
    assert not prepared.fits(items, dict.fromkeys(prepared.pay_within_s, 7), NOW_MS)
    assert not prepared.fits(items, prepared.pay_within_s, NOW_MS + 1_001)
    assert not prepared.fits(items, prepared.pay_within_s, NOW_MS - 1)
    first = await store.store(items, now_ms=NOW_MS, prepared=prepared)
    assert not prepared.fits(items, prepared.pay_within_s, NOW_MS)
    again = await store.store(items, now_ms=NOW_MS, prepared=prepared)
    assert (first.new, first.duplicates, again.new, again.duplicates) == (2, 0, 0, 2)
    await sale.assert_whole([event(0), event(1), event(2)])


async def test_a_batch_that_is_all_new_is_not_read_back(sale: Sale) -> None:
    """What others have written is read only where the batch is not all new; both ways judge alike."""
    async with Proxy(sale.orders_dsn.host, sale.orders_dsn.port) as proxy:
        read_back = proxy.count(b"FROM stock_ledger FORCE INDEX (deduction)")
        pool = Pool(msgspec.structs.replace(sale.orders_dsn, port=proxy.port), size_max=2, connect_timeout_s=5)
        store = OrderStore(pool)
        events = [event(number, sku_id=f"box-{1 + number % 2}") for number in range(40)]
        outcomes = [await store.store(items_of(some), now_ms=NOW_MS) for some in (events[:20], events[20:39])]
        assert [(one.new, one.duplicates) for one in outcomes] == [(20, 0), (19, 0)]
        assert read_back.seen == 0
        for some, expected in ((events, (1, 39)), (events, (0, 40)), ([events[0]] * 3, (0, 3))):
            outcome = await store.store(items_of(some), now_ms=NOW_MS)
            assert (outcome.new, outcome.duplicates) == expected
        assert read_back.seen == 3
        outcome = await store.store(items_of([event(50), event(50), event(51)]), now_ms=NOW_MS)
        assert (outcome.new, outcome.duplicates, read_back.seen) == (2, 1, 3)
        await pool.close()
    await sale.assert_whole([*events, event(50), event(51)])


async def test_second_deduction_is_owed_to_redis_once(sale: Sale) -> None:
    """Fault 11: an order that comes from another origin moves nothing, and its units are owed to Redis, once an origin.

    Guards: the origin stands in the ledger. Its observable: one `stock_return` row for each other origin, and no dead
    letter, however often the records come.
    """
    known = [event(number, quantity=1 + number % 2) for number in range(4)]
    await sale.publish(known)
    metrics = Recorded()
    await sale.drain(sale.writer(metrics), metrics, 4)
    forged = [from_elsewhere(known[1]), from_elsewhere(known[2]), from_elsewhere(known[1], 5)]
    fresh = event(9)
    await sale.publish([*forged, forged[0], fresh, from_elsewhere(fresh, 8)])
    await sale.drain(sale.writer(metrics), metrics, 10)
    assert (metrics.new, metrics.second, metrics.deads) == (5, 5, {})
    owed = await query(
        sale.orders, "SELECT order_id, hold_no, origin, sku_id, user_id, quantity, done_at_ms FROM stock_return"
    )
    assert sorted(owed) == sorted(
        (one.order_id, 1, f"{one.outbox_id}/{one.outbox_index}", one.sku_id, one.user_id, one.quantity, None)
        for one in [*forged, from_elsewhere(fresh, 8)]
    )
    async with transaction(sale.orders) as cursor:  # Redis has got them back; the records come again all the same
        await cursor.execute("UPDATE stock_return SET done_at_ms = 1")
    await OrderStore(sale.orders).store(items_of(forged), now_ms=NOW_MS)
    assert await query(sale.orders, "SELECT COUNT(*) FROM stock_return WHERE done_at_ms IS NULL") == [(0,)]
    assert await sale.dead_letters() == []
    await sale.assert_whole([*known, fresh])


async def test_an_event_made_anew_is_a_duplicate(sale: Sale) -> None:
    """An order whose event was made anew (origin 0-0), and also came as it was, is stored once, and nothing is owed."""
    store = OrderStore(sale.orders)
    originals = [event(number) for number in range(4)]
    remade = [msgspec.structs.replace(one, outbox_id="0-0", outbox_index=0) for one in originals]
    batches = [remade[:2], originals[:2], originals[2:], remade[2:], [*remade, *originals]]
    outcomes = [await store.store(items_of(batch), now_ms=NOW_MS) for batch in batches]
    assert [(one.new, one.duplicates) for one in outcomes] == [(2, 0), (0, 2), (2, 0), (0, 2), (0, 8)]
    assert await sale.count("stock_return") == 0
    await sale.assert_whole(originals)


async def test_an_order_that_has_moved_on_stays_as_it_is(sale: Sale) -> None:
    """A record that comes again when its order has expired or been paid changes nothing about the order."""
    store = OrderStore(sale.orders)
    events = [event(number) for number in range(6)]
    await store.store(items_of(events), now_ms=NOW_MS)
    far = NOW_MS + 10**9
    due = await due_orders(sale.orders, far, 3)
    assert await expire(sale.orders, due, far) == 3
    async with transaction(sale.orders) as cursor:
        await cursor.execute(
            "UPDATE orders SET status = 'paid', version = 2 WHERE status = 'confirmed' ORDER BY order_id LIMIT 1"
        )
    whole = "SELECT * FROM orders ORDER BY order_id"
    before, sold = await query(sale.orders, whole), await sale.sold()
    outcome = await store.store(items_of([*events, event(7)]), now_ms=NOW_MS + 1)
    assert (outcome.new, outcome.duplicates, outcome.second) == (1, 6, [])
    after = await query(sale.orders, whole)
    assert [row for row in after if row[0] != event(7).order_id] == before
    assert (await sale.sold())["box-1"] == sold["box-1"] + 1


async def test_writer_and_lifecycle_do_not_deadlock(sale: Sale) -> None:
    """Fault 23: orders are stored, and come again, while orders of the same SKUs expire; nobody has to try again.

    Guards: everyone locks counters first. Its observable: no attempt of either had to be repeated.
    """
    rounds, size = 25, 20
    batches = [[event(r * size + n, sku_id=f"box-{1 + n % 2}") for n in range(size)] for r in range(rounds)]
    store = OrderStore(sale.orders)
    repeated: list[BackendError] = []
    far, writing = NOW_MS + 10**9, True

    async def write(first: int) -> None:
        for number in range(first, rounds, 2):
            # What was stored a moment ago comes again, together with new orders: its rows may be expiring now.
            again = batches[max(0, number - 2)]
            for batch in (batches[number], [*again[::2], *batches[number][::3]]):
                try:
                    await store.store(items_of(batch), now_ms=NOW_MS)
                except BackendError as error:
                    repeated.append(error)

    async def expire_all() -> int:
        count = 0
        while True:
            done = not writing
            due = await due_orders(sale.orders, far, 15)
            try:
                count += await expire(sale.orders, due, far)
            except BackendError as error:
                repeated.append(error)
            if done and not due:
                return count

    expiring = [asyncio.create_task(expire_all()) for _ in range(2)]
    await asyncio.gather(write(0), write(1))
    writing = False
    expired = sum(await asyncio.gather(*expiring))
    assert repeated == []
    assert expired == rounds * size == await sale.count("stock_return")
    assert await sale.sold() == {"box-1": 0, "box-2": 0}
    kinds = await query(sale.orders, "SELECT kind, COUNT(*) FROM stock_ledger GROUP BY kind ORDER BY kind")
    assert kinds == [("release", rounds * size), ("take", rounds * size)]
    statuses = await query(sale.orders, "SELECT DISTINCT status, version FROM orders")
    assert statuses == [(OrderStatus.EXPIRED, 2)]


async def test_a_transaction_that_falls_silent_loses_its_locks(sale: Sale, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that says nothing in the middle of its transaction does not keep others from the same counters for long.

    Guards: MySQL drops it. Its observable: the other's attempt succeeds, and the silent one's comes to nothing.
    """
    monkeypatch.setattr(orders_sql, "IDLE_IN_TRANSACTION_S", 1)
    silent, other = OrderStore(sale.orders), OrderStore(sale.orders)
    at_work, go_on = asyncio.Event(), asyncio.Event()

    async def fall_silent(_cursor: Any, _prepared: Any) -> Outcome:
        at_work.set()
        await go_on.wait()
        return Outcome()

    monkeypatch.setattr(silent, "_write", fall_silent)
    writing = asyncio.create_task(silent.store(items_of([event(1)]), now_ms=NOW_MS))
    await at_work.wait()
    try:
        stored = await other.store(items_of([event(2)]), now_ms=NOW_MS)
    except BackendError as error:
        raise AssertionError("the silent one keeps the locks") from error
    finally:
        go_on.set()
    assert stored.new == 1
    with pytest.raises(BackendError):
        await writing
    await sale.assert_whole([event(2)])
    ((seconds,),) = await query(sale.orders, "SELECT @@wait_timeout")
    assert seconds > 1


@pytest.mark.parametrize(
    "fail_point",
    ["consumer.before_mysql", pytest.param("consumer.before_mysql_commit", marks=pytest.mark.slow)],
)
async def test_zombie_comes_back_after_its_partitions_went_to_another(sale: Sale, fail_point: str) -> None:
    """Fault 26: a writer is stopped with a batch in its hands, and goes on after another has done its work.

    Stopped in the middle of its transaction it holds the counters' locks, until MySQL drops it.
    Guards: the ledger decides what is new. Its observable: the counters do not move for what the zombie writes, and
    the offsets stay where the other has brought them.
    """
    events = [event(number, sku_id=f"box-{1 + number % 2}") for number in range(250)]
    await sale.publish(events[:200])
    zombie = await sale.spawn(fail_point, what="stop")
    try:
        while not is_stopped(zombie.pid):  # noqa: ASYNC110 -- a process tells nobody that it has stopped
            await asyncio.sleep(0.02)
        metrics = Recorded()
        writer = sale.writer(metrics)
        running = asyncio.create_task(writer.run())
        while metrics.records < 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert metrics.new == 200
        await sale.assert_whole(events[:200])
        assert await sale.committed() == 200

        os.kill(zombie.pid, signal.SIGCONT)
        await sale.publish(events[200:])
        while await sale.committed() < 250 or await sale.count("orders") < 250:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        zombie.send_signal(signal.SIGTERM)
        assert await zombie.wait() == 0
        writer.stop()
        await running
    finally:
        if zombie.returncode is None:
            zombie.kill()
            await zombie.wait()
    assert await sale.committed() == 250
    await sale.assert_whole(events)
