"""Two flows insert the same fact where no unique index says that it may be there once: the guard leaves one row.

The flows are those of the product: the payment provider's callback (PaymentDesk.take_in) and the outbound approval
(OutboundDesk.approve), which is one long transaction. The fact is which payment an order was paid by.
"""

import asyncio
import contextlib
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from adapters.insert_once import GuardBusyError, insert_once
from adapters.mysql import Pool, connect_pool, orders_dsn, query, transaction
from adapters.redis import ScriptChannel
from cli.clients import Clients, open_clients
from domain import keys
from domain.errors import BackendError, OutcomeUnknownError
from domain.order_state import PaymentStatus
from domain.settings import GuardSettings, Settings
from lifecycle import payment_rows
from lifecycle.callback import Callback
from lifecycle.order_attributes import PAYMENT_ID, add_missing, fact
from lifecycle.payment_rows import Payment
from lifecycle.payments import PaymentDesk
from lifecycle.provider import ProviderState
from stack.proxy import Proxy
from tests.support.children import start_killed_at
from tests.support.life import now_ms
from tests.support.mysql_proxy import mysql_proxy, with_mysql
from tests.support.provider import adapter, callback_body
from tests.support.till import PRICE, Till, open_till
from tests.support.waiting import in_time
from warehouse.app import open_outbound
from warehouse.outbound import OutboundDesk

COMMIT: Final = b"\x03COMMIT"
HASTY: Final = GuardSettings(ttl_s=60.0, wait_s=0.2, poll_ms=20)
"""Who finds a guard busy is told so soon."""
PATIENT: Final = GuardSettings(ttl_s=60.0, wait_s=40.0, poll_ms=5)
NAME: Final = "colour"
FLOWS: Final = 12


def new_order() -> str:
    """Return an order id that no other test knows."""
    return f"t-guard~{secrets.token_hex(16)}"


def key_of(order_id: str, name: str = PAYMENT_ID) -> str:
    """Return where a fact's guard is."""
    return keys.guard(fact(order_id, name))


async def values(pool: Pool, order_id: str) -> list[str]:
    """Return the values that an order has, of whatever name."""
    rows = await query(pool, "SELECT value FROM order_attribute WHERE order_id = %s ORDER BY id", (order_id,))
    return [value for (value,) in rows]


@pytest.fixture
async def clients(settings: Settings) -> AsyncIterator[Clients]:
    """Return clients of the shared servers."""
    async with open_clients(settings) as opened:
        yield opened


class Writer(NamedTuple):
    """A flow of a test's own, which inserts attributes by the book."""

    pool: Pool
    channel: ScriptChannel
    guard: GuardSettings = HASTY

    async def write(
        self, order_ids: Sequence[str], value: str, before_commit: Callable[[], Awaitable[Any]] | None = None
    ) -> int:
        """Insert an attribute of orders; `before_commit` is awaited while the transaction is open."""
        facts = [fact(one, NAME) for one in order_ids]
        async with insert_once(self.channel, facts, self.guard) as guard, transaction(self.pool) as cursor:
            count = await add_missing(cursor, [(one, NAME, value) for one in order_ids], now_ms())
            if before_commit is not None:
                await before_commit()
            guard.assert_held()
        return count


class Paid(NamedTuple):
    """An order that is paid, and nothing says by which payment: whoever was to write that has died before."""

    till: Till
    payment: Payment
    settings: Settings

    @property
    def order_id(self) -> str:
        """The order's id."""
        return self.payment.order_id

    @property
    def pool(self) -> Pool:
        """The database, not behind any proxy."""
        return self.till.shop.clients.orders

    async def rows(self) -> list[str]:
        """Return which payments it says that it was paid by."""
        return await values(self.pool, self.order_id)

    async def has_guard(self) -> bool:
        """Tell whether somebody has the fact's guard."""
        return bool(await self.till.shop.clients.client.exists(key_of(self.order_id)))

    async def guard_is_free(self) -> bool:
        """Tell whether nobody has the fact's guard."""
        return not await self.has_guard()

    @contextlib.asynccontextmanager
    async def desk(self, proxy: Proxy | None = None) -> AsyncIterator[PaymentDesk]:
        """Yield who takes callbacks in, with clients of its own; its MySQL may be behind a proxy."""
        settings = self.settings if proxy is None else with_mysql(self.settings, proxy)
        async with open_clients(settings) as own, adapter(settings, self.till.provider) as provider:
            yield PaymentDesk(
                *(own.orders, own.channel, provider, settings.payment, settings.lifecycle, settings.guard),
                now_ms=now_ms,
            )

    @contextlib.asynccontextmanager
    async def approver(self, proxy: Proxy | None = None) -> AsyncIterator[OutboundDesk]:
        """Yield who approves, with clients of its own; its MySQL may be behind a proxy."""
        settings = self.settings if proxy is None else with_mysql(self.settings, proxy)
        async with open_outbound(settings) as desk:
            yield desk

    async def call_back(self, desk: PaymentDesk) -> PaymentStatus | None:
        """Have the provider say once more that it has charged."""
        return await desk.take_in(Callback("event", self.payment.payment_id, ProviderState.APPROVED, PRICE))


async def outcome(call: Awaitable[Any]) -> Any:
    """Return what a call returns or raises, to be looked at when the rows have been."""
    return (await asyncio.gather(call, return_exceptions=True))[0]


async def until_done(call: Callable[[], Awaitable[Any]]) -> None:
    """Call until the guard is not busy, as the provider and an operator do."""
    while True:
        with contextlib.suppress(GuardBusyError):
            await call()
            return


@contextlib.asynccontextmanager
async def paid_order(settings: Settings, guard: GuardSettings = HASTY) -> AsyncIterator[Paid]:
    """Sell, and have the order paid, by a callback that came no further than that."""
    hasty = msgspec.structs.replace(settings, guard=guard)
    async with open_till(hasty) as till:
        payment = await till.begun()
        await till.provider.pay(payment.payment_id)
        assert await payment_rows.charged(till.shop.clients.orders, payment, now_ms=now_ms()) is PaymentStatus.PAID
        yield Paid(till, payment, till.settings)


@pytest.mark.parametrize("open_s", [0.0, pytest.param(10.0, marks=pytest.mark.slow)])
async def test_approval_is_held_open_and_the_callback_arrives(settings: Settings, open_s: float) -> None:
    """The approval's transaction is open for ten seconds when the callback comes: one row says what paid the order.

    Guards the guard: neither flow can see what the other has not committed, and no index refuses the second row.
    """
    async with (
        paid_order(settings) as paid,
        mysql_proxy(settings) as proxy,
        paid.approver(proxy) as approver,
        paid.desk() as desk,
    ):
        commit, loop = proxy.hold(COMMIT), asyncio.get_running_loop()
        approving = asyncio.create_task(approver.approve([paid.order_id], "ann", "looks good"))
        await commit.wait_fired()
        open_until = loop.time() + open_s
        refused = await outcome(paid.call_back(desk))
        loop.call_at(open_until, commit.release)
        await until_done(lambda: paid.call_back(desk))
        await approving
        assert await paid.rows() == [paid.payment.payment_id]
        assert isinstance(refused, GuardBusyError)
        assert await paid.guard_is_free()


async def test_callback_is_held_open_and_the_approval_arrives(settings: Settings) -> None:
    """The other way round: the callback's transaction is open when the approval comes, which is busy until it ends."""
    async with (
        paid_order(settings) as paid,
        mysql_proxy(settings) as proxy,
        paid.desk(proxy) as desk,
        paid.approver() as approver,
    ):
        commit = proxy.hold(COMMIT)
        calling = asyncio.create_task(paid.call_back(desk))
        await commit.wait_fired()
        refused = await outcome(approver.approve([paid.order_id], "ann", "looks good"))
        commit.release()
        assert await calling is PaymentStatus.PAID
        if isinstance(refused, GuardBusyError):
            await until_done(lambda: approver.approve([paid.order_id], "ann", "looks good"))
        assert await paid.rows() == [paid.payment.payment_id]
        assert isinstance(refused, GuardBusyError)


async def test_what_is_there_is_not_inserted_again(settings: Settings) -> None:
    """Callbacks come again and again, then the approval: the first one inserts, and the look inside finds its row.

    Guards the look under the guard, without which flows that come one after the other insert a row each.
    """
    async with paid_order(settings) as paid, paid.desk() as desk, paid.approver() as approver:
        for _ in range(3):
            assert await paid.call_back(desk) is PaymentStatus.PAID
        await approver.approve([paid.order_id], "ann", "looks good")
        assert await paid.call_back(desk) is PaymentStatus.PAID
        assert await paid.rows() == [paid.payment.payment_id]


async def test_approval_writes_what_no_callback_wrote(settings: Settings) -> None:
    """A callback that died between the payment and the attribute loses nothing: the approval inserts it."""
    async with paid_order(settings) as paid, paid.approver() as approver:
        assert await paid.rows() == []
        await approver.approve([paid.order_id], "ann", "looks good")
        assert await paid.rows() == [paid.payment.payment_id]


async def test_guard_is_released_after_commit(settings: Settings) -> None:
    """A COMMIT is on its way when another callback comes: that one is busy until the COMMIT is answered.

    Guards the release after COMMIT: whoever got in before it would not see the row.
    """
    async with (
        paid_order(settings) as paid,
        mysql_proxy(settings) as proxy,
        paid.desk(proxy) as slow,
        paid.desk() as desk,
    ):
        commit = proxy.hold(COMMIT)
        calling = asyncio.create_task(paid.call_back(slow))
        await commit.wait_fired()
        refused = await outcome(paid.call_back(desk))
        commit.release()
        assert await calling is PaymentStatus.PAID
        assert await paid.call_back(desk) is PaymentStatus.PAID
        assert await paid.rows() == [paid.payment.payment_id]
        assert isinstance(refused, GuardBusyError)


async def test_guard_is_left_while_nobody_knows_what_became_of_the_commit(settings: Settings) -> None:
    """A caller is cancelled in the middle of a COMMIT, which comes to MySQL later: the guard stays until its TTL.

    Guards that only what is known to be over is released: the gateway cancels what takes it too long to answer, and
    whoever came between that and the COMMIT would insert a second row.
    """
    async with (
        paid_order(settings, HASTY) as paid,
        mysql_proxy(settings) as proxy,
        paid.desk(proxy) as slow,
        paid.desk() as desk,
    ):
        commit = proxy.hold(COMMIT)
        calling = asyncio.create_task(paid.call_back(slow))
        await commit.wait_fired()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        refused = await outcome(paid.call_back(desk))
        commit.release()

        async def committed() -> bool:
            return bool(await paid.rows())

        await in_time(committed, "the COMMIT did not come to MySQL")
        await paid.till.shop.clients.client.pexpire(key_of(paid.order_id), 50)
        await in_time(paid.guard_is_free, "the guard did not run out")
        assert await paid.call_back(desk) is PaymentStatus.PAID
        assert await paid.rows() == [paid.payment.payment_id]
        assert isinstance(refused, GuardBusyError)


async def test_answer_to_commit_lost(settings: Settings) -> None:
    """COMMIT took effect and its answer was lost: the caller does not know, the guard stays, and one row is there."""
    async with (
        paid_order(settings) as paid,
        mysql_proxy(settings) as proxy,
        paid.desk(proxy) as slow,
        paid.desk() as desk,
    ):
        proxy.cut_reply(COMMIT)
        with pytest.raises(OutcomeUnknownError):
            await paid.call_back(slow)
        assert await paid.has_guard()
        with pytest.raises(GuardBusyError):
            await paid.call_back(desk)
        assert await paid.rows() == [paid.payment.payment_id]


async def test_owner_whose_guard_ran_out_rolls_back(settings: Settings, clients: Clients) -> None:
    """A transaction takes longer than its guard lasts, and another flow inserts meanwhile: the long one is rolled back.

    Guards the check before COMMIT.
    """
    order, other = new_order(), ScriptChannel(settings.redis)
    short = Writer(clients.orders, clients.channel, GuardSettings(ttl_s=0.4, wait_s=0.1, poll_ms=20))

    async def until_another_has_it() -> None:
        async def gone() -> bool:
            return not await clients.client.exists(key_of(order, NAME))

        await in_time(gone, "the guard did not run out")
        assert await Writer(clients.orders, other).write([order], "second") == 1

    result = await outcome(short.write([order], "first", until_another_has_it))
    await other.close()
    assert await values(clients.orders, order) == ["second"]
    assert isinstance(result, BackendError)
    assert "may run out" in str(result)


async def test_release_by_another_does_nothing(settings: Settings, clients: Clients) -> None:
    """A guard ran out and is another's: when its first owner is done at last, a third one still finds it busy.

    Guards the owner's token in the release.
    """
    order, pool = new_order(), clients.orders
    channels = [ScriptChannel(settings.redis) for _ in range(3)]
    short = Writer(pool, channels[0], GuardSettings(ttl_s=0.4, wait_s=0.1, poll_ms=20))
    ran_out, second_open, second_may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def until_second_is_open() -> None:
        async def gone() -> bool:
            return not await clients.client.exists(key_of(order, NAME))

        await in_time(gone, "the guard did not run out")
        ran_out.set()
        await second_open.wait()

    async def hold_second_open() -> None:
        second_open.set()
        await second_may_end.wait()

    first = asyncio.create_task(short.write([order], "first", until_second_is_open))
    await ran_out.wait()
    second = asyncio.create_task(Writer(pool, channels[1]).write([order], "second", hold_second_open))
    with pytest.raises(BackendError):
        await first
    third = await outcome(Writer(pool, channels[2]).write([order], "third"))
    second_may_end.set()
    assert await second == 1
    for channel in channels:
        await channel.close()
    assert await values(pool, order) == ["second"]
    assert isinstance(third, GuardBusyError)


async def test_a_pause_longer_than_the_ttl_is_what_it_cannot_do(
    settings: Settings, clients: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    """The limit: a COMMIT that comes after the guard has run out, though it was checked before, is a second row.

    The owner finds out afterwards, and the log names the fact.
    """
    order = new_order()
    async with mysql_proxy(settings) as proxy, open_clients(with_mysql(settings, proxy)) as slow:
        commit = proxy.hold(COMMIT)
        first = asyncio.create_task(Writer(slow.orders, slow.channel).write([order], "first"))
        await commit.wait_fired()
        await clients.client.delete(key_of(order, NAME))  # as if all of its TTL had passed
        assert await Writer(clients.orders, clients.channel).write([order], "second") == 1
        commit.release()
        assert await first == 1
    assert sorted(await values(clients.orders, order)) == ["first", "second"]
    assert any("there may be two rows" in line and order in line for line in caplog.messages)


async def test_owner_killed(settings: Settings) -> None:
    """A process is killed with its row inserted and not committed: the guard outlives it, and then another inserts."""
    async with paid_order(settings) as paid, paid.desk() as desk:
        async with transaction(paid.pool) as cursor:  # as if nobody had heard of the charge yet: the process asks
            of_order = (paid.order_id,)
            await cursor.execute("UPDATE payment SET status = 'pending', next_at_ms = 0 WHERE order_id = %s", of_order)
            await cursor.execute("UPDATE orders SET status = 'confirmed' WHERE order_id = %s", of_order)
            await cursor.execute("DELETE FROM outbound_review WHERE order_id = %s", of_order)
        child = await start_killed_at(paid.settings, "payments.attribute_written", "lifecycle")
        assert await child.wait() == -signal.SIGKILL
        assert await paid.till.status() == "paid"
        with pytest.raises(GuardBusyError):
            await paid.call_back(desk)
        assert await paid.rows() == []
        client, key = paid.till.shop.clients.client, key_of(paid.order_id)
        assert 0 < await client.pttl(key) <= 1_000 * HASTY.ttl_s
        await client.pexpire(key, 50)  # nobody wants to wait for a minute
        await until_done(lambda: paid.call_back(desk))
        assert await paid.rows() == [paid.payment.payment_id]


async def test_provider_is_told_to_call_again_while_the_guard_is_busy(settings: Settings) -> None:
    """Over HTTP: 503 while another has the guard, 204 for the same callback afterwards, and the attribute is there."""
    async with open_till(msgspec.structs.replace(settings, guard=HASTY)) as till:
        payment = await till.begun()
        await till.provider.pay(payment.payment_id)
        order, clients = payment.order_id, till.shop.clients
        body = callback_body(payment.payment_id, "approved", PRICE)
        async with insert_once(clients.channel, [fact(order, PAYMENT_ID)], HASTY):
            for _ in range(2):
                busy = await till.shop.call_back(till.url, body, till.provider.signed(body))
                assert (busy.status, busy.code, busy.headers["Retry-After"]) == (503, "UNKNOWN", "1")
            assert await till.status() == "paid"
            assert await values(clients.orders, order) == []
        assert (await till.shop.call_back(till.url, body, till.provider.signed(body))).status == 204
        assert await values(clients.orders, order) == [payment.payment_id]


async def test_check_does_not_wait_for_a_busy_guard(settings: Settings) -> None:
    """The keeper hears of a charge while another has the guard: it is paid, and the attribute is left to others."""
    async with open_till(msgspec.structs.replace(settings, guard=HASTY)) as till:
        payment = await till.begun()
        await till.provider.pay(payment.payment_id)
        order, clients = payment.order_id, till.shop.clients
        async with insert_once(clients.channel, [fact(order, PAYMENT_ID)], HASTY):
            await till.desk.check(payment)
        assert await till.status() == "paid"
        assert await values(clients.orders, order) == []
        await till.tell(payment.payment_id, ProviderState.APPROVED)
        assert await values(clients.orders, order) == [payment.payment_id]


async def test_many_flows_insert_the_same_fact(settings: Settings, clients: Clients) -> None:
    """Of twelve flows with connections of their own that insert the same fact at once exactly one does."""
    order = new_order()
    pool = connect_pool(orders_dsn(settings.mysql), msgspec.structs.replace(settings.mysql, pool_max=FLOWS))
    channels = [ScriptChannel(settings.redis) for _ in range(FLOWS)]
    counts = await asyncio.gather(
        *(Writer(pool, one, PATIENT).write([order], f"flow {number}") for number, one in enumerate(channels))
    )
    assert len(await values(clients.orders, order)) == 1
    assert sorted(counts) == [0] * (FLOWS - 1) + [1]
    for channel in channels:
        await channel.close()
    await pool.close()


async def test_overlapping_facts_in_different_order(settings: Settings, clients: Clients) -> None:
    """Flows that want several guards, each in another order, all get them in the end, and each fact is there once."""
    orders, pool = [new_order() for _ in range(4)], clients.orders
    channels = [ScriptChannel(settings.redis) for _ in range(4)]
    wanted = [orders, orders[::-1], orders[1:3], [orders[2], orders[0]]]

    async def flow(number: int) -> int:
        return sum([await Writer(pool, channels[number], PATIENT).write(wanted[number], "x") for _ in range(5)])

    async with asyncio.timeout(PATIENT.wait_s):
        counts = await asyncio.gather(*(flow(number) for number in range(4)))
    assert sum(counts) == 4
    assert [await values(pool, order) for order in orders] == [["x"]] * 4
    assert await clients.client.exists(*(key_of(order, NAME) for order in orders)) == 0
    for channel in channels:
        await channel.close()


async def test_redis_away(settings: Settings, clients: Clients) -> None:
    """Without Redis nothing is inserted, and the caller may try again; the order is paid all the same."""
    order = new_order()
    async with Proxy(settings.redis.host, settings.redis.port) as proxy:
        channel = ScriptChannel(msgspec.structs.replace(settings.redis, host=proxy.host, port=proxy.port))
        writer = Writer(clients.orders, channel)
        proxy.down()
        with pytest.raises(BackendError):
            await writer.write([order], "x")
        assert await values(clients.orders, order) == []
        proxy.up()
        assert await writer.write([order], "x") == 1
        await channel.close()


@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_taking_got_no_answer(settings: Settings, clients: Clients, lost: str) -> None:
    """Whether the guard was taken is not known: nothing is inserted, and it is released if it was, so that it is free.

    It is no error of unknown outcome: what the caller wants to know is whether anything was inserted.
    """
    order = new_order()
    async with Proxy(settings.redis.host, settings.redis.port) as proxy:
        channel = ScriptChannel(msgspec.structs.replace(settings.redis, host=proxy.host, port=proxy.port))
        pattern = key_of(order, NAME).encode()
        rule = proxy.cut(pattern) if lost == "request" else proxy.cut_reply(pattern)
        with pytest.raises(BackendError) as unanswered:
            await Writer(clients.orders, channel).write([order], "x")
        assert rule.fired == 1
        assert not isinstance(unanswered.value, OutcomeUnknownError)
        assert await values(clients.orders, order) == []
        assert await Writer(clients.orders, clients.channel).write([order], "y") == 1
        await channel.close()


async def test_release_got_no_answer(settings: Settings, clients: Clients) -> None:
    """The row is committed and the release fails: the caller is told that it is done; the guard runs out."""
    order = new_order()
    async with Proxy(settings.redis.host, settings.redis.port) as proxy:
        channel = ScriptChannel(msgspec.structs.replace(settings.redis, host=proxy.host, port=proxy.port))

        async def go_away() -> None:
            proxy.down()

        assert await Writer(clients.orders, channel).write([order], "x", go_away) == 1
        left_ms = await clients.client.pttl(key_of(order, NAME))
        assert 0 < left_ms <= 1_000 * HASTY.ttl_s
        await channel.close()
    with pytest.raises(GuardBusyError):
        await Writer(clients.orders, clients.channel).write([order], "y")
    assert await values(clients.orders, order) == ["x"]


async def test_cancelled_while_waiting(settings: Settings, clients: Clients) -> None:
    """Who is cancelled while he waits for his second guard releases the first, and leaves the second to its owner."""
    first, second = sorted([new_order(), new_order()], key=lambda order: key_of(order, NAME))
    other = ScriptChannel(settings.redis)
    async with insert_once(clients.channel, [fact(second, NAME)], PATIENT):
        waiting = asyncio.create_task(Writer(clients.orders, other, PATIENT).write([second, first], "x"))

        async def has_first() -> bool:
            return bool(await clients.client.exists(key_of(first, NAME)))

        await in_time(has_first, "the first guard was not taken")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not await has_first()
        assert await clients.client.exists(key_of(second, NAME))
    assert not await clients.client.exists(key_of(second, NAME))
    assert await values(clients.orders, first) == await values(clients.orders, second) == []
    await other.close()


async def test_busy_releases_what_was_taken(settings: Settings, clients: Clients) -> None:
    """Who finds one of his guards busy has none of them afterwards, and inserted nothing."""
    first, second = sorted([new_order(), new_order()], key=lambda order: key_of(order, NAME))
    other = ScriptChannel(settings.redis)
    async with insert_once(clients.channel, [fact(second, NAME)], HASTY):
        with pytest.raises(GuardBusyError):
            await Writer(clients.orders, other).write([first, second], "x")
        assert not await clients.client.exists(key_of(first, NAME))
    assert await Writer(clients.orders, other).write([first, second], "y") == 2
    await other.close()


async def test_rolled_back_releases(settings: Settings, clients: Clients) -> None:
    """A transaction that fails before its COMMIT leaves no row and no guard: the next one need not wait."""
    order, other = new_order(), ScriptChannel(settings.redis)

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Writer(clients.orders, clients.channel).write([order], "x", fail)
    assert not await clients.client.exists(key_of(order, NAME))
    assert await Writer(clients.orders, other).write([order], "y") == 1
    assert await values(clients.orders, order) == ["y"]
    await other.close()


async def test_attributes_that_are_there_stay(clients: Clients) -> None:
    """Of several attributes, some of them there and one given twice, those that are missing are inserted, once."""
    ann, ben = new_order(), new_order()
    wanted = [(ann, "a", "1"), (ann, "b", "2"), (ben, "a", "3"), (ben, "a", "4"), (ben, "c", "5")]
    async with transaction(clients.orders) as cursor:
        assert await add_missing(cursor, [], 0) == 0
        assert await add_missing(cursor, [(ann, "b", "before"), (ben, "b", "before")], 0) == 2
        assert await add_missing(cursor, wanted, 0) == 3
        assert await add_missing(cursor, wanted, 0) == 0
    assert sorted(await values(clients.orders, ann)) == ["1", "before"]
    assert sorted(await values(clients.orders, ben)) == ["4", "5", "before"]
