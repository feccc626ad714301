"""The stream of an order's states, as a browser meets it: a real worker, real servers."""

import asyncio
import contextlib
import resource
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import jwt
import msgspec
import pytest
from yarl import URL

from adapters.mysql import transaction
from domain.order_state import OrderStatus
from domain.settings import Settings
from gateway.app import GatewayWorker
from gateway.event_connection import EventConnection
from lifecycle.order_rows import lock_order, move
from stack.proxy import Proxy
from tests.support.lanes import BOTH_LANES
from tests.support.life import assert_settled, confirmed, new_keeper, now_ms, until_idle
from tests.support.shop import Shop, open_shop, until_true
from tests.support.streams import listen, read_head
from tests.support.wire import connected, soon

NEVER_MS: Final = 86_400_000
LATER: Final = ("paid", "approved", "shipped")
CROWD: Final = 500
LARGE_CROWD: Final = 5_000
CONNECTS_AT_ONCE: Final = 100


async def move_to(shop: Shop, order: str, *statuses: str) -> None:
    """Move an order, each time in a transaction of its own."""
    for status in statuses:
        async with transaction(shop.clients.orders) as cursor:
            facts = await lock_order(cursor, order)
            assert facts is not None
            await move(cursor, [facts], OrderStatus(status), "by a test", now_ms())


async def settle(shop: Shop) -> None:
    """Do what is owed, then assert invariants A and B."""
    async with new_keeper(shop.settings, shop) as (keeper, _):
        await until_idle(keeper)
    await assert_settled(shop)


async def stored(shop: Shop, url: str, user: str = "ann") -> str:
    """Buy, and have the order stored; returns its id."""
    said = await shop.buy(url, user)
    assert said.status == 202
    await confirmed(shop)
    return str(said.body["order_id"])


def is_counted(worker: GatewayWorker, count: int) -> Any:
    """Return a condition: so many listen."""

    async def check() -> bool:
        return worker.streams.listeners == count and len(worker.door._connections) >= count

    return check


@contextlib.asynccontextmanager
async def opened(settings: Settings, **changes: Any) -> AsyncIterator[tuple[Shop, str, GatewayWorker]]:
    """Open a shop with one worker; `changes` are those to the table `[gateway]`."""
    changed = msgspec.structs.replace(settings, gateway=msgspec.structs.replace(settings.gateway, **changes))
    async with open_shop(changed) as shop, shop.serving() as (url, worker):
        yield shop, url, worker


@BOTH_LANES
async def test_every_state_is_told(settings: Settings) -> None:
    """A buyer who listens right after his order hears of accepted, confirmed, paid, … as the GET would tell it.

    After the last state the stream ends, and who comes back with its version gets 204, which stops a browser.
    """
    async with opened(settings, stream_poll_ms=20) as (shop, url, worker):
        order = (await shop.buy(url, "ann")).body["order_id"]
        async with listen(shop, url, order, "ann") as stream:
            assert stream.status == 200
            names = ("content-type", "cache-control", "x-accel-buffering", "connection")
            told = [stream.headers[name] for name in names]
            assert told == ["text/event-stream", "no-store", "no", "close"]
            assert not {"server", "content-length", "transfer-encoding"} & set(stream.headers)
            (first,) = await stream.events(1)
            assert (first.version, first.status, stream.retry_ms) == (0, "accepted", 2_000)
            assert first.data == (await shop.status(url, order, "ann")).body
            await confirmed(shop)
            (second,) = await stream.events(1)
            assert (second.version, second.status) == (1, "confirmed")
            assert second.data == (await shop.status(url, order, "ann")).body
            for version, status in enumerate(LATER, 2):
                await move_to(shop, order, status)
                (event,) = await stream.events(1)
                assert (event.version, event.status) == (version, status)
                assert event.data == (await shop.status(url, order, "ann")).body
            assert await stream.ended()
        await until_true(is_counted(worker, 0))
        async with listen(shop, url, order, "ann", last="4") as last:
            assert (last.status, last.headers.get("content-length")) == (204, None)
        await settle(shop)


async def test_states_between_two_looks_are_told(settings: Settings) -> None:
    """An order that moves five times between two looks: every listener hears of each state once, in turn.

    Guards that what lies between is taken from `order_change`, each listener from where he stands.
    """
    async with opened(settings, stream_poll_ms=NEVER_MS) as (shop, url, worker):
        order = (await shop.buy(url, "ann")).body["order_id"]
        async with listen(shop, url, order, "ann") as early:
            assert [event.status for event in await early.events(1)] == ["accepted"]
            await confirmed(shop)
            async with listen(shop, url, order, "ann") as late, listen(shop, url, order, "ann", last="0") as back:
                assert [event.status for event in await late.events(1)] == ["confirmed"]
                assert [event.status for event in await back.events(1)] == ["confirmed"]
                await move_to(shop, order, *LATER)
                assert await worker.streams.look() == 4 + 3 + 3
                assert await worker.streams.look() == 0
                told = [(event.version, event.status) for event in await early.events(4)]
                assert told == [(1, "confirmed"), (2, "paid"), (3, "approved"), (4, "shipped")]
                for stream in (late, back):
                    assert [event.version for event in await stream.events(3)] == [2, 3, 4]
                for stream in (early, late, back):
                    assert await stream.ended()
        await settle(shop)


async def test_resuming(settings: Settings) -> None:
    """`Last-Event-ID` brings what came after it, nothing if that is the newest; what makes no sense is ignored."""
    async with opened(settings, stream_poll_ms=20) as (shop, url, _):
        order = await stored(shop, url)
        await move_to(shop, order, "paid", "approved")
        cases = [("0", [1, 2, 3]), ("1", [2, 3]), ("2", [3]), ("3", [])]
        cases += [(odd, [3]) for odd in ("4", "99999999999999999999", "-1", "", "x", "1.0", "\u0661")]
        for last, versions in cases:
            async with listen(shop, url, order, "ann", last=last) as stream:
                assert [event.version for event in await stream.events(len(versions))] == versions, last
                await move_to(shop, order, "rejected")  # what comes then is the next version in any case
                (event,) = await stream.events(1)
                assert (event.version, event.status) == (4, "rejected")
                async with transaction(shop.clients.orders) as cursor:
                    await cursor.execute("DELETE FROM order_change WHERE order_id = %s AND version = 4", (order,))
                    await cursor.execute(
                        "UPDATE orders SET status = 'approved', version = 3 WHERE order_id = %s", (order,)
                    )
        await settle(shop)


@BOTH_LANES
async def test_refused_before_it_begins(settings: Settings) -> None:
    """No token 401, another's or no order 404, too many of a buyer 429, too many at all 503; places are given back."""
    async with opened(settings, stream_listeners_max=3, stream_per_user_max=2) as (shop, url, worker):
        ann, ben = (await shop.buy(url, "ann")).body["order_id"], (await shop.buy(url, "ben")).body["order_id"]
        cases: list[tuple[str, str, dict[str, str] | None, int, str]] = [
            (ann, "ann", {}, 401, "UNAUTHENTICATED"),
            (ann, "ann", {"Authorization": "Bearer x.y.z"}, 401, "UNAUTHENTICATED"),
            (ann, "ben", None, 404, "NOT_FOUND"),
            (f"{shop.id}~{'0' * 32}", "ann", None, 404, "NOT_FOUND"),
            ("x", "ann", None, 404, "NOT_FOUND"),
        ]
        for order, user, headers, status, code in cases:
            async with listen(shop, url, order, user, headers=headers) as stream:
                assert (stream.status, (await stream.body()).get("code")) == (status, code)
        async with contextlib.AsyncExitStack() as streams:
            for _ in range(2):
                stream = await streams.enter_async_context(listen(shop, url, ann, "ann"))
                assert [event.status for event in await stream.events(1)] == ["accepted"]
            async with listen(shop, url, ann, "ann") as third:
                assert (third.status, (await third.body()).get("code")) == (429, "RATE_LIMITED")
                assert third.headers["retry-after"] == "5"
            await streams.enter_async_context(listen(shop, url, ben, "ben"))
            async with listen(shop, url, ben, "ben") as fourth:
                assert (fourth.status, (await fourth.body()).get("code")) == (503, "BUSY")
                assert fourth.headers["retry-after"] == "1"
            assert worker.streams.listeners == 3
        await until_true(is_counted(worker, 0))
        async with listen(shop, url, ben, "ben") as stream:
            assert stream.status == 200
        await shop.assert_invariants()


@BOTH_LANES
async def test_heartbeats_and_who_goes_away(settings: Settings) -> None:
    """Comments keep a silent stream alive; a buyer who closes is forgotten, one that is reset too."""
    async with opened(settings, stream_heartbeat_s=0.05) as (shop, url, worker):
        order = (await shop.buy(url, "ann")).body["order_id"]
        async with listen(shop, url, order, "ann") as one, listen(shop, url, order, "ann", last="0") as two:
            await one.events(1)
            waiting = asyncio.create_task(one.next())

            async def beaten() -> bool:
                return one.heartbeats >= 3

            await until_true(beaten)
            assert worker.streams.listeners == 2
            two.writer.transport.abort()
            await until_true(is_counted(worker, 1))
            waiting.cancel()
            one.go_away()
            await until_true(is_counted(worker, 0))
        await shop.assert_invariants()


@pytest.mark.parametrize("bound", ["time", "size"])
async def test_who_does_not_read_is_cut_off(settings: Settings, bound: str) -> None:
    """Fault 39: a buyer who does not read is cut off when something waits too long for him, or too much of it.

    Guards the bounds of streams: without them he keeps his place, and what is told to him gathers.
    """
    send_timeout_s = 0.2 if bound == "time" else 3_600.0
    async with (
        open_shop(settings) as shop,
        shop.serving(shop.with_gateway(send_timeout_s=send_timeout_s), send_bytes=4_096) as (url, worker),
    ):
        order = (await shop.buy(url, "ann")).body["order_id"]
        async with connected(URL(url).port or 0, receive_bytes=4_096) as wire:
            head = f"GET /v1/orders/{order}/events HTTP/1.1\r\nHost: shop\r\n"
            await wire.send(f"{head}Authorization: {shop.bearer('ann')['Authorization']}\r\n\r\n".encode())
            await until_true(is_counted(worker, 1))
            (stream,) = [one for one in worker.door._connections if isinstance(one, EventConnection)]
            transport = stream._transport
            assert transport is not None
            unread_bytes_max = 2_000 if bound == "time" else 128 * 1_024

            async def cut_off() -> None:
                while worker.streams.listeners:
                    # More events than an order can have, so that it does not take an hour.
                    if bound == "size" or not transport.get_write_buffer_size():
                        stream.tell(b"data: " + b"x" * 1_000 + b"\n\n")
                    assert transport.get_write_buffer_size() < unread_bytes_max
                    await asyncio.sleep(0)

            await soon(cut_off(), "who does not read keeps his place")
            await wire.assert_cut()
        await shop.assert_invariants()


@BOTH_LANES
async def test_a_stream_does_not_last_for_ever(settings: Settings) -> None:
    """After `stream_max_s`, or when the token expires, the stream ends as a whole answer does."""
    async with opened(settings, stream_max_s=0.3) as (shop, url, worker):
        order = (await shop.buy(url, "ann")).body["order_id"]
        async with listen(shop, url, order, "ann") as stream:
            await stream.events(1)
            assert await stream.ended()
        await until_true(is_counted(worker, 0))
        await shop.assert_invariants()
    async with opened(settings, stream_heartbeat_s=0.4) as (shop, url, worker):
        order = (await shop.buy(url, "ann")).body["order_id"]
        claims = {"sub": "ann", "aud": settings.auth.audience, "exp": int(time.time()) + 2}
        token = {"Authorization": f"Bearer {jwt.encode(claims, shop.key, algorithm='HS256')}"}
        async with listen(shop, url, order, "ann", headers=token) as stream:
            await stream.events(1)
            assert await stream.ended()
        await until_true(is_counted(worker, 0))
        await shop.assert_invariants()


@BOTH_LANES
async def test_streams_do_not_hold_up_a_worker_that_stops(settings: Settings) -> None:
    """A worker that is told to stop ends its streams at once, orderly, and does not wait for those who listen.

    Guards that streams end when the worker drains: without it the worker waits for `drain_timeout_s` and cuts them.
    """
    async with opened(settings, drain_timeout_s=3_600.0) as (shop, url, worker):
        order = (await shop.buy(url, "ann")).body["order_id"]
        async with listen(shop, url, order, "ann") as one, listen(shop, url, order, "ann", last="0") as two:
            await one.events(1)
            stopping = asyncio.create_task(worker.stop())
            for stream in (one, two):
                assert await stream.ended()
                stream.go_away()
            await soon(stopping, "the worker waits for its listeners")
        await shop.assert_invariants()


async def test_mysql_away(settings: Settings) -> None:
    """While MySQL is away streams stay open, none begins, and what happened meanwhile is told afterwards, all of it.

    Guards that a look that failed is made again from where it was.
    """
    dsn = URL(settings.mysql.orders_dsn)
    async with Proxy(dsn.host or "", dsn.port or 3306) as proxy, open_shop(settings) as shop:
        behind = str(dsn.with_host(proxy.host).with_port(proxy.port))
        gateway = msgspec.structs.replace(settings.gateway, stream_poll_ms=20, stream_heartbeat_s=0.05)
        mysql = msgspec.structs.replace(settings.mysql, orders_dsn=behind)
        cut_off = msgspec.structs.replace(settings, gateway=gateway, mysql=mysql)
        async with shop.serving(cut_off) as (url, worker):
            order = (await shop.buy(url, "ann")).body["order_id"]
            async with listen(shop, url, order, "ann") as stream:
                await stream.events(1)
                proxy.down()

                async def noticed() -> bool:
                    return worker.streams._away

                await until_true(noticed)
                async with listen(shop, url, order, "ann") as second:
                    assert (second.status, (await second.body()).get("code")) == (503, "UNKNOWN")
                await confirmed(shop)
                await move_to(shop, order, "paid", "approved")
                assert worker.streams.listeners == 1
                proxy.up()
                assert [event.version for event in await stream.events(3)] == [1, 2, 3]
                assert stream.heartbeats > 0
            await settle(shop)


@BOTH_LANES
async def test_what_stands_around_it(settings: Settings) -> None:
    """Requests before a stream are answered before it, and what stands behind it is not executed.

    Who has ended his side hears how the order stands, and that is all.
    """
    async with opened(settings) as (shop, url, worker):
        order = (await shop.buy(url, "ann")).body["order_id"]
        livez = b"GET /livez HTTP/1.1\r\nHost: shop\r\n\r\n"
        body = b'{"campaign_id":"%b","sku_id":"box","quantity":1}' % shop.id.encode()
        buy = (
            f"POST /v1/orders HTTP/1.1\r\nHost: shop\r\nAuthorization: {shop.bearer('eve')['Authorization']}\r\n"
            f"Idempotency-Key: k\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        async with listen(shop, url, order, "ann", before=livez, behind=buy) as stream:
            assert (stream.status, (await stream.body())["status"]) == (200, "ok")
            second = await read_head(stream.reader, stream.writer)
            assert second.headers["content-type"] == "text/event-stream"
            assert [event.status for event in await second.events(1)] == ["accepted"]
            stream.writer.write(buy)
        async with listen(shop, url, order, "ann", behind=b"") as stream:
            stream.writer.write_eof()
            assert [event.status for event in await stream.events(1)] == ["accepted"]
            assert await stream.ended()
        await until_true(is_counted(worker, 0))
        await shop.assert_invariants()


@BOTH_LANES
@pytest.mark.parametrize("how", ["reset", "closed", "ended"])
async def test_who_leaves_before_it_begins(settings: Settings, how: str) -> None:
    """A buyer who goes away while MySQL is asked leaves no listener behind."""
    dsn = URL(settings.mysql.orders_dsn)
    async with Proxy(dsn.host or "", dsn.port or 3306) as proxy, open_shop(settings) as shop:
        behind = str(dsn.with_host(proxy.host).with_port(proxy.port))
        mysql = msgspec.structs.replace(settings.mysql, orders_dsn=behind)
        async with shop.serving(msgspec.structs.replace(settings, mysql=mysql)) as (url, worker):
            order = (await shop.buy(url, "ann")).body["order_id"]
            assert (await shop.status(url, order, "ann")).status == 200
            held = proxy.hold_reply(b"LEFT JOIN payment")
            where = URL(url)
            reader, writer = await asyncio.open_connection(where.host, where.port)
            token = shop.bearer("ann")["Authorization"]
            writer.write(
                f"GET /v1/orders/{order}/events HTTP/1.1\r\nHost: s\r\nAuthorization: {token}\r\n\r\n".encode()
            )
            await soon(held.wait_seen(), "MySQL was not asked")
            if how == "reset":
                writer.transport.abort()
            elif how == "closed":
                writer.close()
            else:
                writer.write_eof()
            held.release()
            if how == "ended":
                stream = await read_head(reader, writer)
                assert [event.status for event in await stream.events(1)] == ["accepted"]
                assert await stream.ended()
                writer.close()

            async def forgotten() -> bool:
                # One connection is the client's that asked for the status.
                return worker.streams.listeners == 0 and worker.door.open_connections <= 1

            await until_true(forgotten)
            async with listen(shop, url, order, "ann") as again:
                assert again.status == 200
        await shop.assert_invariants()


class Ear(asyncio.Protocol):
    """Listens for one order, with as little as possible."""

    def __init__(self) -> None:
        self.heard = b""
        self.done = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Keep what comes until the order is confirmed."""
        self.heard += data
        if not self.done.done() and b"id: 1\n" in self.heard and self.heard.endswith(b"\n\n"):
            self.done.set_result(None)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Note it."""
        if not self.done.done():
            self.done.set_exception(ConnectionError(self.heard.decode()))


async def crowd_listens(settings: Settings, count: int) -> None:
    """Have so many buyers listen to one worker, and assert that each hears, once, that his order is confirmed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * count + 1_000
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(wanted, hard)), hard))
    changed = msgspec.structs.replace(settings, gateway=msgspec.structs.replace(settings.gateway, stream_poll_ms=100))
    try:
        async with open_shop(changed, stock=count) as shop, shop.serving() as (url, worker):
            users = [f"b-{number}" for number in range(count)]
            for start in range(0, count, CONNECTS_AT_ONCE):
                said = await asyncio.gather(*(shop.buy(url, one) for one in users[start : start + CONNECTS_AT_ONCE]))
                assert {one.status for one in said} == {202}
            ears: list[tuple[asyncio.Transport, Ear]] = []
            orders = list(shop.accepted.items())
            for start in range(0, count, CONNECTS_AT_ONCE):
                some = orders[start : start + CONNECTS_AT_ONCE]
                ears += await asyncio.gather(*(begin(shop, url, order, user) for order, (user, _, _) in some))
            await until_true(is_counted(worker, count))
            await confirmed(shop)
            await asyncio.gather(*(ear.done for _, ear in ears))
            for (order, _), (transport, ear) in zip(orders, ears, strict=True):
                assert [ear.heard.count(part) for part in (b"HTTP/1.1", b"event:", b"id: 0\n", b"id: 1\n")] == [
                    1,
                    2,
                    1,
                    1,
                ]
                assert ear.heard.count(order.encode()) == 2
                transport.close()
            assert worker.streams.listeners <= count
            await until_true(is_counted(worker, 0))
            await shop.assert_invariants()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def begin(shop: Shop, url: str, order: str, user: str) -> tuple[asyncio.Transport, Ear]:
    """Connect and ask for a stream."""
    where = URL(url)
    transport, ear = await asyncio.get_running_loop().create_connection(Ear, where.host or "", where.port or 0)
    token = shop.bearer(user)["Authorization"]
    head = f"GET /v1/orders/{order}/events HTTP/1.1\r\nHost: shop\r\nAuthorization: {token}\r\n\r\n"
    transport.write(head.encode())
    return transport, ear


async def test_a_crowd_listens(settings: Settings) -> None:
    """500 buyers listen to one worker; each hears once that his order is accepted, and once that it is confirmed."""
    await crowd_listens(settings, CROWD)


@pytest.mark.slow
async def test_five_thousand_listen(settings: Settings) -> None:
    """5,000 buyers listen to one worker, as many as it takes by default, and each hears of his order."""
    await crowd_listens(settings, LARGE_CROWD)
