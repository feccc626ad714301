"""Outbound review on real servers: what is paid goes out, comes back or never leaves, each once, and all adds up."""

import asyncio
import contextlib
import itertools
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import orjson
import pytest

from adapters.mysql import DataRefusedError, Pool, query, transaction
from adapters.stores import open_stores
from domain.errors import FencedError, OperationRefusedError
from domain.order_state import OrderStatus, ReviewStatus
from domain.settings import Dsn, Settings
from gateway.app import open_ops
from lifecycle.order_rows import find_order, give_up
from lifecycle.provider import ProviderState
from migrations.runner import upgrade
from stack.ports import free_port
from stack.servers import Endpoints
from tests.support.children import paused_at, start_killed_at
from tests.support.dock import Dock, changed, new_outbound, new_warehouse, one_round, open_dock
from tests.support.life import line, make_due, now_ms, statuses
from tests.support.operator import command
from tests.support.shop import SKU, until_true
from tests.support.streams import listen
from warehouse.campaigns import close_campaign
from warehouse.outbound import Decided, NoSuchOrderError
from warehouse.review_rules import ORDERS_MAX, Deed

KILLED = -signal.SIGKILL
NOBODYS = "t-nowhere~" + "0" * 32


async def refusal_of(decision: "Awaitable[object]") -> OperationRefusedError | None:
    """Return the clear refusal that a decision met, None if it was made; anything else fails the test."""
    raised: Exception | None = None
    try:
        await decision
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is judged below
        raised = error
    assert raised is None or isinstance(raised, OperationRefusedError), repr(raised)
    return raised


async def was_made(decision: "Awaitable[object]") -> bool:
    """Tell whether a decision was made; if not, its refusal says who was first."""
    refused = await refusal_of(decision)
    assert refused is None or " approved by ann" in str(refused) or " rejected by ben" in str(refused)
    return refused is None


async def reasons(dock: Dock, which: int = 0) -> list[tuple[str, str]]:
    """Return the states that an order has come to, and why."""
    rows = await query(
        dock.shop.clients.orders,
        "SELECT status, reason FROM order_change WHERE order_id = %s ORDER BY version",
        (dock.orders[which],),
    )
    return [(status, reason) for status, reason in rows]


async def test_what_is_paid_is_reviewed_and_goes_out(settings: Settings) -> None:
    """A payment opens a review, in the same transaction; approval ships, and the buyer is told of every step.

    on_hand and allocated fall by the quantity, Redis knows of nothing, and what the order was paid by is noted once.
    """
    async with open_dock(settings, buyers=2, stock=5, quantity=2) as dock:
        order = dock.orders[0]
        lay_there, redis = await dock.lies_there(), await line(dock.shop)
        assert await dock.reviews() == {}
        async with listen(dock.shop, dock.url, order, "a-0") as stream:
            assert [one.status for one in await stream.events(1)] == ["confirmed"]
            (payment,) = await dock.pay(0)
            (review,) = await dock.outbound.find(ReviewStatus.WAITING, campaign_id=dock.shop.id)
            assert (review.order_id, review.sku_id, review.quantity, review.who) == (order, SKU, 2, "")
            assert await dock.outbound.approve([order], "eve", "fine") == [Decided(order, OrderStatus.SHIPPED)]
            assert [one.status for one in await stream.events(3)] == ["paid", "approved", "shipped"]
            assert await stream.ended()
        assert await dock.lies_there() == (lay_there[0] - 2, lay_there[1] - 2, lay_there[2])
        assert await line(dock.shop) == redis
        said = await dock.shop.status(dock.url, order, "a-0")
        assert (said.body["status"], said.body["version"], "Retry-After" in said.headers) == ("shipped", 4, False)
        assert await dock.reviews() == {order: ("shipped", "eve")}
        assert await reasons(dock) == [
            ("paid", "payment 1"),
            ("approved", "approved by eve: fine"),
            ("shipped", "shipped"),
        ]
        noted = await query(
            dock.shop.clients.orders, "SELECT name, value FROM order_attribute WHERE order_id = %s", (order,)
        )
        assert noted == [("payment_id", payment)]
        await dock.assert_adds_up()


async def test_approval_notes_what_the_callback_could_not(settings: Settings) -> None:
    """Where the payment's own process died before it noted what the order was paid by, the approval does."""
    async with open_dock(settings) as dock:
        (payment,) = await dock.pay()
        async with transaction(dock.shop.clients.orders) as cursor:
            await cursor.execute("DELETE FROM order_attribute WHERE order_id = %s", (dock.orders[0],))
        await dock.outbound.approve(dock.orders, "eve", "")
        noted = await query(
            dock.shop.clients.orders, "SELECT name, value FROM order_attribute WHERE order_id = %s", (dock.orders[0],)
        )
        assert noted == [("payment_id", payment)]


async def test_what_is_rejected_is_sold_again_and_refunded(settings: Settings) -> None:
    """Rejection gives the unit back to its campaign, which sells it again, and the money back to the buyer."""
    async with open_dock(settings) as dock:
        (payment,) = await dock.pay()
        order, lay_there = dock.orders[0], await dock.lies_there()
        (decided,) = await dock.outbound.reject([order], "eve", "no such street")
        assert decided.status is OrderStatus.REJECTED
        said = await dock.shop.status(dock.url, order, "a-0")
        assert (said.body["status"], said.body["payment"]["status"]) == ("rejected", "refund_due")
        await dock.settle()
        assert await dock.status() == "refunded"
        assert dock.provider.payments()[payment].state == "refunded"
        assert await dock.lies_there() == lay_there
        assert await dock.bookings() == []
        assert await dock.reviews() == {order: ("rejected", "eve")}
        assert (await reasons(dock))[1] == ("rejected", "rejected by eve: no such street")
        assert (await line(dock.shop)).returned == 1

        async def sold_again() -> bool:
            return (await dock.shop.buy(dock.url, "late")).status == 202

        await until_true(sold_again)
        async with dock.shop.consumer(), dock.shop.relay():
            await until_true(lambda: stored(dock, 2))
        await dock.assert_adds_up()


async def stored(dock: Dock, count: int) -> bool:
    """Tell whether so many orders have their rows."""
    return len(await dock.shop.stored()) == count


async def test_parcel_that_comes_back(settings: Settings) -> None:
    """A parcel that came back lies in the house again, its unit is its campaign's, and the buyer has his money.

    The stream of its order ended when it was shipped; who asks again is told the rest.
    """
    async with open_dock(settings, stock=3, quantity=2) as dock:
        (payment,) = await dock.pay()
        order, lay_there = dock.orders[0], await dock.lies_there()
        await dock.outbound.approve([order], "eve", "")
        assert await dock.status() == "shipped"
        (decided,) = await dock.outbound.take_back([order], "ben", "refused at the door")
        assert decided.status is OrderStatus.REJECTED
        assert await dock.lies_there() == lay_there
        assert await dock.bookings() == [("ship", -2, -2), ("return", 2, 2)]
        await dock.settle()
        assert await dock.status() == "refunded"
        assert dock.provider.payments()[payment].state == "refunded"
        assert await dock.reviews() == {order: ("returned", "ben")}
        snapshot = await line(dock.shop)
        assert (snapshot.remaining, snapshot.returned) == (3, 2)
        async with listen(dock.shop, dock.url, order, "a-0", last="4") as stream:
            assert [one.status for one in await stream.events(2)] == ["rejected", "refunded"]
            assert await stream.ended()
        await dock.assert_adds_up()


async def test_late_money_of_a_rejected_order_goes_back(settings: Settings) -> None:
    """An order that was rejected is refunded once all that was charged for it has gone back."""
    async with open_dock(settings) as dock:
        order = dock.orders[0]
        first = await dock.begun(key="one")
        await dock.confirm(first, ProviderState.DECLINED)  # and then it is charged all the same
        await dock.pay(key="two")
        await dock.outbound.reject([order], "eve", "")
        await dock.provider.pay(first.payment_id)
        await dock.confirm(first)
        assert await dock.status() == "rejected"
        await dock.assert_adds_up()
        assert await dock.status() == "refunded"
        assert [one.state for one in dock.provider.payments_of(order)] == ["refunded"] * 2


async def test_unit_that_was_got_back_is_reviewed(settings: Settings) -> None:
    """An order that was paid after it had expired, and got a unit all the same, goes through review like any other."""
    async with open_dock(settings) as dock:
        payment = await dock.begun()
        await make_due(dock.shop)
        await dock.keeper.expire_orders()
        await dock.keeper.return_stock()
        await dock.provider.pay(payment.payment_id)
        await dock.confirm(payment)
        await dock.settle()
        assert await dock.waiting() == dock.orders
        await dock.outbound.approve(dock.orders, "eve", "")
        assert await dock.status() == "shipped"
        await dock.assert_adds_up()


async def test_what_may_not_be_decided_changes_nothing(settings: Settings) -> None:
    """A decision about what stands otherwise is refused by name, whole, and no row and no key is changed."""
    async with open_dock(settings, buyers=6, stock=6) as dock:
        waiting, unpaid, cancelled, shipped, rejected, returned = dock.orders
        clients = dock.shop.clients
        row = await find_order(clients.orders, cancelled)
        assert row is not None
        await give_up(clients.orders, [row], OrderStatus.CANCELLED, "by the buyer", now_ms(), may=lambda _: True)
        await dock.pay(0, 3, 4, 5)
        await dock.outbound.approve([shipped, returned], "eve", "")
        await dock.outbound.reject([rejected], "eve", "")
        await dock.outbound.take_back([returned], "ben", "")
        await dock.settle()
        before = await dock.everything()
        wrong: list[tuple[Deed, list[str], str]] = [
            (Deed.APPROVE, [shipped], "was already approved by eve and shipped"),
            (Deed.APPROVE, [rejected], "was rejected by eve"),
            (Deed.APPROVE, [returned], "has come back, as ben said"),
            (Deed.APPROVE, [unpaid], "is confirmed: only what is paid"),
            (Deed.APPROVE, [cancelled], "is cancelled: only what is paid"),
            (Deed.APPROVE, [NOBODYS], "there is no order"),
            (Deed.APPROVE, ["order"], "is no order id"),
            (Deed.APPROVE, [waiting, unpaid], "is confirmed"),
            (Deed.APPROVE, [waiting, NOBODYS], "there is no order"),
            (Deed.APPROVE, [], "0 orders"),
            (Deed.APPROVE, [f"c~{number:032x}" for number in range(ORDERS_MAX + 1)], "101 orders"),
            (Deed.REJECT, [shipped], "once its parcel has come back"),
            (Deed.REJECT, [rejected], "was already rejected by eve"),
            (Deed.REJECT, [unpaid], "is confirmed"),
            (Deed.REJECT, [waiting, returned], "has come back"),
            (Deed.RETURN, [waiting], "has not been shipped: it waits for approval"),
            (Deed.RETURN, [returned], "has already come back, as ben said"),
            (Deed.RETURN, [rejected], "was rejected by eve"),
            (Deed.RETURN, [unpaid], "is confirmed"),
        ]
        for deed, orders, words in wrong:
            refused = await refusal_of(dock.outbound.decide(deed, orders, "mallory", ""))
            assert words in str(refused)
            assert isinstance(refused, NoSuchOrderError) == ("no order" in words)
        for who, why, words in (("", "", "somebody"), ("x" * 65, "", "64"), ("eve", "\x07", "control")):
            assert words in str(await refusal_of(dock.outbound.approve([waiting], who, why)))
        assert changed(before, await dock.everything()) == set()
        await dock.assert_adds_up()


async def test_two_who_decide_at_once(settings: Settings) -> None:
    """Of two approvals of an order one is refused; whatever meets a rejection, the order is shipped or rejected.

    A rejection that comes after the approval and before the parcel has left is made, too, and is what holds then.

    Guards: orders and reviews are locked and then decided on. Its observable: the loser is told who was first.
    """
    async with open_dock(settings, buyers=8, stock=8) as dock, open_stores(dock.settings) as stores:
        await dock.pay()
        other = new_outbound(dock.settings, stores)
        alone, together = dock.orders[:5], dock.orders[5:]
        won = await asyncio.gather(
            *itertools.chain.from_iterable(
                (
                    was_made(dock.outbound.approve([order], "ann", "")),
                    was_made(other.reject([order], "ben", "")),
                    was_made(dock.outbound.approve([order], "ann", "")),
                )
                for order in alone
            )
        )
        now = await statuses(dock.shop)
        for number, order in enumerate(alone):
            approved, rejected, again = won[3 * number : 3 * number + 3]
            assert approved + again in ({0, 1} if rejected else {1})
            assert now[order] == ("rejected" if rejected else "shipped")
        approved, *rejected_some = await asyncio.gather(
            was_made(dock.outbound.approve(together, "ann", "")),
            *(was_made(other.reject([order], "ben", "")) for order in together),
        )
        now = await statuses(dock.shop)
        assert approved or any(rejected_some)
        wanted = ["rejected" if lost else "shipped" if approved else "paid" for lost in rejected_some]
        assert [now[order] for order in together] == wanted
        await dock.assert_adds_up()


async def test_several_keepers_ship_each_parcel_once(settings: Settings) -> None:
    """What was approved while the catalog was away leaves by whichever keeper comes first, and by one of them only."""
    async with open_dock(settings, buyers=8, stock=8) as dock:
        await dock.pay()
        lay_there = await dock.lies_there()
        decided = await dock.without_catalog().approve(dock.orders, "eve", "")
        assert {one.status for one in decided} == {OrderStatus.APPROVED}
        assert all("later" in one.note for one in decided)
        assert await dock.lies_there() == lay_there
        async with contextlib.AsyncExitStack() as keepers:
            made = [await keepers.enter_async_context(new_warehouse(dock.settings)) for _ in range(3)]
            running = [asyncio.create_task(keeper.run()) for keeper, _ in made]

            async def all_shipped() -> bool:
                return set((await statuses(dock.shop)).values()) == {"shipped"}

            await until_true(all_shipped)
            for keeper, _ in made:
                keeper.stop()
            await asyncio.gather(*running)
            assert [kept.puts_off for _, kept in made] == [{}] * 3
        assert await dock.lies_there() == (lay_there[0] - 8, lay_there[1] - 8, lay_there[2])
        assert [await dock.bookings(which) for which in range(8)] == [[("ship", -1, -1)]] * 8
        await dock.assert_adds_up()


async def test_unit_of_a_closed_campaign_goes_back_to_the_warehouse(settings: Settings) -> None:
    """What is rejected or comes back after its campaign was closed is the campaign's no more, and is free in the house.

    The keeper finds it, for the campaign still has something that has not been shipped.
    """
    async with open_dock(settings, buyers=3, stock=5) as dock:
        await dock.pay()
        rejected, returned, kept = dock.orders
        await dock.outbound.approve([returned, kept], "eve", "")
        on_hand, allocated, reserved = await dock.lies_there()
        closed = await close_campaign(dock.shop.clients, dock.shop.id)
        assert closed.returned == {SKU: 2}
        assert await dock.lies_there() == (on_hand, allocated - 2, reserved)
        await dock.outbound.reject([rejected], "eve", "")
        await dock.outbound.take_back([returned], "eve", "")
        await dock.settle()

        async def all_back() -> bool:
            with contextlib.suppress(FencedError):  # campaigns of other tests may wait for recovery; all are asked
                await dock.warehouse.settle()
            return await dock.lies_there() == (on_hand + 1, allocated - 3, reserved)

        await until_true(all_back)  # nobody else takes it back
        assert sorted((await statuses(dock.shop)).values()) == ["refunded", "refunded", "shipped"]
        await dock.assert_adds_up()


async def test_redis_that_is_away_holds_up_no_parcel(settings: Settings) -> None:
    """A keeper without Redis ships what was approved; what it needs Redis for waits, and is counted."""
    async with open_dock(settings) as dock:
        await dock.pay()
        await dock.without_catalog().approve(dock.orders, "eve", "")
        away = msgspec.structs.replace(dock.settings.redis, port=free_port())
        async with new_warehouse(msgspec.structs.replace(dock.settings, redis=away)) as (keeper, kept):
            running = asyncio.create_task(keeper.run())

            async def shipped() -> bool:
                return await dock.status() == "shipped" and kept.failures["settle"] > 0

            await until_true(shipped)
            keeper.stop()
            await running
        await dock.assert_adds_up()


async def test_what_the_warehouse_refuses_is_put_off(settings: Settings) -> None:
    """A parcel that the warehouse has nothing for waits with the reason in its row, and holds up no other."""
    async with open_dock(settings, buyers=2, stock=2) as dock:
        await dock.pay()
        catalog = dock.shop.clients.catalog
        taken = "UPDATE warehouse_allocation SET shipped = shipped + %s WHERE campaign_id = %s"
        async with transaction(catalog) as cursor:
            await cursor.execute(taken, (1, dock.shop.id))
        first, second = await dock.outbound.approve(dock.orders, "eve", "")
        assert (first.status, second.status) == (OrderStatus.SHIPPED, OrderStatus.APPROVED)
        assert "1 of SKU 'box' cannot be shipped" in second.note
        (stuck,) = await dock.outbound.find(ReviewStatus.APPROVED, campaign_id=dock.shop.id)
        assert (stuck.order_id, stuck.attempts) == (second.order_id, 1)
        assert "cannot be shipped" in stuck.error

        async def refused_again() -> bool:
            await dock.warehouse.ship()
            return dock.kept.puts_off["ship"] > 0

        await until_true(refused_again)
        async with transaction(catalog) as cursor:
            await cursor.execute(taken, (-1, dock.shop.id))
        await dock.assert_adds_up()
        assert set((await statuses(dock.shop)).values()) == {"shipped"}


@pytest.mark.parametrize(
    ("deed", "fail_point", "between", "after"),
    [
        (Deed.APPROVE, "warehouse.after_ship", "approved", ("shipped", [("ship", -1, -1)])),
        (Deed.RETURN, "warehouse.after_return", "shipped", ("rejected", [("ship", -1, -1), ("return", 1, 1)])),
    ],
)
async def test_killed_between_the_two_schemas(
    settings: Settings, deed: Deed, fail_point: str, between: str, after: tuple[str, list[tuple[str, int, int]]]
) -> None:
    """A command that dies after the catalog's COMMIT and before that of the orders is finished by the keeper, once.

    Guards: the step is written down with the decision, and the warehouse's ledger knows which parcels it has booked.
    """
    async with open_dock(settings) as dock:
        await dock.pay()
        lay_there = await dock.lies_there()
        if deed is Deed.RETURN:
            await dock.outbound.approve(dock.orders, "eve", "")
        process = await start_killed_at(dock.settings, fail_point, "outbound", deed, dock.orders[0], "--who", "eve")
        assert await process.wait() == KILLED
        assert await dock.status() == between
        bookings = await dock.bookings()
        assert bookings == after[1]
        await one_round(dock.warehouse)
        assert (await dock.status(), await dock.bookings()) == after
        moved = sum(units for _, units, _ in bookings)
        assert await dock.lies_there() == (lay_there[0] + moved, lay_there[1] + moved, lay_there[2])
        await dock.assert_adds_up()


async def test_keeper_killed_between_the_two_schemas(settings: Settings) -> None:
    """The process itself dies at the same place; the next one finishes what it has begun, and stops when told to."""
    async with open_dock(settings, buyers=3, stock=3) as dock:
        await dock.pay()
        await dock.without_catalog().approve(dock.orders, "eve", "")
        for _ in range(2):
            process = await start_killed_at(dock.settings, "warehouse.after_ship", "consume", "warehouse")
            assert await process.wait() == KILLED
        async with paused_at(dock.settings, "nowhere", "consume", "warehouse") as process:

            async def all_shipped() -> bool:
                return set((await statuses(dock.shop)).values()) == {"shipped"}

            await until_true(all_shipped)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
        assert [await dock.bookings(which) for which in range(3)] == [[("ship", -1, -1)]] * 3
        await dock.assert_adds_up()


async def test_review_is_written_with_the_payment(settings: Settings) -> None:
    """Whoever makes an order paid and dies at once leaves a review, for both are one transaction.

    Guards: the review is written by the transaction that moves the order. Its observable: were it refused, the order
    would not be paid.
    """
    async with open_dock(settings) as dock:
        payment = await dock.begun()
        row = (dock.orders[0], dock.shop.id, SKU, 1, "waiting", 1, 0)
        async with transaction(dock.shop.clients.orders) as cursor:
            await cursor.execute(
                "INSERT INTO outbound_review (order_id, campaign_id, sku_id, quantity, status, version, opened_at_ms) "
                "VALUES (%s, %s, %s, %s, %s, %s, %s)",
                row,
            )
        await dock.provider.pay(payment.payment_id)
        with contextlib.suppress(DataRefusedError):
            await dock.confirm(payment)
        assert await dock.status() == "confirmed"
        async with transaction(dock.shop.clients.orders) as cursor:
            await cursor.execute("DELETE FROM outbound_review WHERE order_id = %s", (dock.orders[0],))
        await dock.confirm(payment)
        assert (await dock.status(), await dock.waiting()) == ("paid", dock.orders)


async def test_orders_that_were_paid_before_there_were_reviews(endpoints: Endpoints) -> None:
    """The migration opens a review for every order that is paid and has none, and for no other."""
    dsn = Dsn(
        host=endpoints.mysql_host,
        port=endpoints.mysql_port,
        user=endpoints.mysql_user,
        password=endpoints.mysql_password,
        database=f"fg_orders_{secrets.token_hex(4)}",
    )
    newest = await asyncio.to_thread(upgrade, "orders", dsn, connect_timeout_s=5)
    pool = Pool(dsn, size_max=1, connect_timeout_s=5)
    ids = {status: f"c-1~{number:032x}" for number, status in enumerate(OrderStatus)}
    async with transaction(pool) as cursor:
        await cursor.execute("INSERT INTO campaign_sku (campaign_id, sku_id, allocated) VALUES ('c-1', 'box', 9)")
        for status, order in ids.items():
            await cursor.execute(
                "INSERT INTO orders (order_id, campaign_id, sku_id, user_id, quantity, unit_price_cents, fingerprint, "
                "status, version, hold_no, outbox_id, outbox_index, nonce, accepted_at_ms, confirmed_at_ms) "
                "VALUES (%s, 'c-1', 'box', 'ann', 2, 1, '0123456789abcdef', %s, 2, 1, '1-1', 0, %s, 5, 6)",
                (order, status, b"0" * 16),
            )
        await cursor.execute("UPDATE alembic_version SET version_num = 'orders_0002'")
    for _ in range(2):
        assert await asyncio.to_thread(upgrade, "orders", dsn, connect_timeout_s=5) == newest
        found = await query(pool, "SELECT order_id, sku_id, quantity, status, opened_at_ms FROM outbound_review")
        assert found == [(ids[OrderStatus.PAID], "box", 2, "waiting", 6)]
    await pool.close()


# -- the ops plane ---------------------------------------------------------------------------------------------------


class Ops:
    """A client of the ops plane."""

    def __init__(self, session: aiohttp.ClientSession, url: str, token: str) -> None:
        self._session = session
        self._url = url
        self.headers = {"Authorization": f"Bearer {token}"}

    async def get(self, path: str) -> tuple[int, Any]:
        """Send a GET."""
        async with self._session.get(self._url + path, headers=self.headers) as answer:
            raw = await answer.read()
            return answer.status, orjson.loads(raw) if "json" in answer.content_type else raw

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        """Send a POST."""
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        async with self._session.post(self._url + path, data=raw, headers=self.headers) as answer:
            said = orjson.loads(await answer.read())
            assert (answer.content_type == "application/json") == (answer.status == 200)
            return answer.status, said


@contextlib.asynccontextmanager
async def open_plane(settings: Settings) -> AsyncIterator[Ops]:
    """Serve the ops plane in this process."""
    port = free_port()
    own = msgspec.structs.replace(settings, ops=msgspec.structs.replace(settings.ops, port=port))
    token = Path(settings.ops.token_file).read_text(encoding="utf-8").strip()  # noqa: ASYNC240 -- a test
    async with open_ops(own), aiohttp.ClientSession() as session:
        yield Ops(session, f"http://127.0.0.1:{port}", token)


async def test_ops_plane(settings: Settings) -> None:
    """Reviews are listed page by page and decided by who has the token; what is wrong is a problem with its code."""
    async with open_dock(settings, buyers=5, stock=5) as dock, open_plane(dock.settings) as ops:
        await dock.pay()
        orders, where = dock.orders, f"/ops/outbound?campaign_id={dock.shop.id}"
        seen: list[str] = []
        after = ""
        while True:
            status, said = await ops.get(f"{where}&limit=2{after}")
            assert status == 200
            seen += [one["order_id"] for one in said["reviews"]]
            if said["next"] is None:
                break
            after = f"&after={said['next']}"
        assert sorted(seen) == sorted(orders)
        assert len(seen) == 5

        who = {"who": "eve", "why": "fine"}
        said = await ops.post(f"/ops/outbound/{orders[0]}/approve", who)
        assert said == (200, {"order_id": orders[0], "status": "shipped", "note": ""})
        said = await ops.post(f"/ops/outbound/{orders[1]}/reject", {"who": "eve"})
        assert said == (200, {"order_id": orders[1], "status": "rejected", "note": "the money goes back"})
        said = await ops.post(f"/ops/outbound/{orders[0]}/return", who)
        assert said == (200, {"order_id": orders[0], "status": "rejected", "note": "the money goes back"})
        _, said = await ops.get(f"{where}&status=rejected")
        assert [(one["who"], one["why"]) for one in said["reviews"]] == [("eve", "rejected")]

        await dock.settle()
        before = await dock.everything()
        here = f"/ops/outbound/{orders[2]}"
        wrong: list[tuple[str, object, int, str]] = [
            (f"/ops/outbound/{orders[1]}/approve", who, 409, "STATE"),
            (f"/ops/outbound/{NOBODYS}/approve", who, 404, "NOT_FOUND"),
            ("/ops/outbound/order/reject", who, 404, "NOT_FOUND"),
            (f"{here}/ship", who, 404, "NOT_FOUND"),
            (f"{here}/approve", {}, 400, "INVALID"),
            (f"{here}/approve", {"who": ""}, 400, "INVALID"),
            (f"{here}/approve", {"who": "e" * 65}, 400, "INVALID"),
            (f"{here}/approve", {"who": "eve", "why": "a\nb"}, 400, "INVALID"),
            (f"{here}/approve", {"who": "eve", "when": "now"}, 400, "INVALID"),
            (f"{here}/approve", {"who": 5}, 400, "INVALID"),
            (f"{here}/approve", b"", 400, "INVALID"),
            (f"{here}/approve", b"[" * 20_000, 400, "INVALID"),
            (f"{here}/approve", b'{"who":"' + b"x" * 70_000 + b'"}', 413, "INVALID"),
        ]
        for path, body, status, code in wrong:
            got, problem = await ops.post(path, body)
            assert (got, problem["code"]) == (status, code), path
        for asked in ("status=paid", "limit=0", "limit=1001", "limit=x", "after=x", "campaign_id=C", "x=1", "limit="):
            got, problem = await ops.get(f"/ops/outbound?{asked}")
            assert (got, problem["code"]) == (400, "INVALID"), asked
        assert (await ops.get(f"{here}/approve"))[0] == 405
        ops.headers = {"Authorization": "Bearer wrong"}
        assert (await ops.get(where))[0] == 401
        assert (await ops.post(f"{here}/approve", who))[0] == 401
        assert changed(before, await dock.everything()) == set()
        await dock.assert_adds_up()


async def test_ops_plane_without_mysql(settings: Settings) -> None:
    """While MySQL is away the ops plane says so of what needs it, and tells metrics all the same."""
    away = f"mysql://nobody:none@127.0.0.1:{free_port()}/none"
    mysql = msgspec.structs.replace(settings.mysql, orders_dsn=away, catalog_dsn=away)
    async with open_plane(msgspec.structs.replace(settings, mysql=mysql)) as ops:
        status, problem = await ops.get("/ops/outbound")
        assert (status, problem["code"]) == (503, "BUSY")
        status, problem = await ops.post(f"/ops/outbound/{NOBODYS}/approve", {"who": "eve"})
        assert (status, problem["code"]) == (503, "BUSY")
        status, text = await ops.get("/metrics")
        assert (status, b"flashgate_" in text) == (200, True)


# -- the command line ------------------------------------------------------------------------------------------------


async def test_commands(settings: Settings, tmp_path: Path) -> None:
    """`outbound list|approve|reject|return`, as an operator types them: their output, their exit codes, the trace."""
    async with open_dock(settings, buyers=4, stock=4) as dock:
        await dock.pay()
        first, second, *others = dock.orders

        async def run(*args: str) -> tuple[int, list[str]]:
            return await command(dock.settings, tmp_path, *args)

        code, said = await run("outbound", "list", "--campaign", dock.shop.id, "--json")
        assert code == 0
        assert {one["order_id"] for one in orjson.loads(said[-1])["reviews"]} == set(dock.orders)
        assert said[-2] == "4 waiting"
        code, said = await run("outbound", "approve", first, "--who", "eve", "--why", "fine", "--json")
        assert (code, said[0]) == (0, f"{first}: shipped")
        assert orjson.loads(said[-1])["orders"] == [{"order_id": first, "status": "shipped", "note": ""}]
        code, said = await run("outbound", "approve", second, first)
        assert (code, await dock.status(1)) == (1, "paid")
        assert "was already approved by eve and shipped" in " ".join(said)
        code, said = await run("outbound", "reject", second, "--who", "ben", "--why", "no such street")
        assert (code, said) == (0, [f"{second}: rejected; the money goes back"])
        code, said = await run("outbound", "return", first, "--who", "ben")
        assert (code, said) == (0, [f"{first}: rejected; the money goes back"])
        code, said = await run("outbound", "approve", "--all", "--campaign", dock.shop.id)
        assert (code, sorted(said)) == (0, sorted(f"{order}: shipped" for order in others))
        code, said = await run("outbound", "approve", "--all", "--campaign", dock.shop.id)
        assert (code, said) == (0, ["nothing waits"])
        await dock.settle()
        code, said = await run("trace", first)
        assert code == 0
        assert any("approved: eve" in one or "taken back: ben" in one for one in said)
        assert any("has left the warehouse" in one for one in said)
        assert said[-1].startswith("refunded (payment 1 went back)")
        before = await dock.everything()
        for args in (
            ("approve",),
            ("approve", first, "--all", "--campaign", dock.shop.id),
            ("approve", "--all"),
            ("approve", "order"),
            ("reject", first, "--who", "x" * 65),
            ("reject", first, "--why", "a\nb"),
            ("list", "--limit", "0"),
            ("list", "--status", "paid"),
        ):
            assert (await run("outbound", *args))[0] == 2, args
        code, said = await run("outbound", "reject", NOBODYS)
        assert code == 1
        assert "there is no order" in " ".join(said)
        assert changed(before, await dock.everything()) == set()
        await dock.assert_adds_up()
