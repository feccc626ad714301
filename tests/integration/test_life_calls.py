"""Cancel, payment, callback and status as buyers and the payment provider meet them: a real worker, real servers."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec
import pytest
from yarl import URL

from adapters.mysql import query, transaction
from domain.order import order_id
from domain.settings import Settings
from lifecycle.http_provider import HttpProvider
from lifecycle.keeper import Keeper
from stack.proxy import Proxy
from stack.servers import LocalStack
from tests.support.lanes import BOTH_LANES
from tests.support.life import assert_settled, confirmed, make_due, new_keeper, now_ms, statuses, until_idle
from tests.support.life import ledger as ledger_of
from tests.support.mysql_proxy import mysql_proxy, with_mysql
from tests.support.provider import SandboxHandle, callback_body, sandbox
from tests.support.shop import Said, Shop, open_shop, until_true

PRICE_CENTS = 5_900
NO_ORDER = "t-none~" + "0" * 32


class Counter(NamedTuple):
    """A shop with a worker and a payment provider."""

    shop: Shop
    url: str
    provider: SandboxHandle

    async def bought(self, user: str = "ann") -> str:
        """Buy, and have the order stored; returns its id."""
        said = await self.shop.buy(self.url, user)
        assert said.status == 202
        await confirmed(self.shop)
        return str(said.body["order_id"])

    def becomes(self, order: str, status: str, user: str = "ann") -> Any:
        """Return a condition: the buyer is told this status."""

        async def check() -> bool:
            return bool((await self.shop.status(self.url, order, user)).body["status"] == status)

        return check

    @contextlib.asynccontextmanager
    async def keeper(self) -> AsyncIterator[Keeper]:
        """Return a keeper that asks the provider."""
        settings = self.shop.settings
        provider = HttpProvider(settings.payment, self.provider.key)
        async with new_keeper(settings, self.shop, provider=provider) as (keeper, _):
            yield keeper
        await provider.close()

    async def refund(self) -> None:
        """Have money sent back that is due."""
        async with self.keeper() as keeper:
            assert await keeper.refund_payments() == 1

    async def check(self) -> None:
        """Have the provider asked for what it has not answered."""
        async with transaction(self.shop.clients.orders) as cursor:
            await cursor.execute("UPDATE payment SET next_at_ms = 0 WHERE campaign_id = %s", (self.shop.id,))
        async with self.keeper() as keeper:
            await keeper.check_payments()

    async def settle(self) -> None:
        """Do what is owed, then assert invariants A and B."""
        async with new_keeper(self.shop.settings, self.shop) as (keeper, _):
            await until_idle(keeper)
        await assert_settled(self.shop)


@contextlib.asynccontextmanager
async def open_counter(settings: Settings, **campaign: Any) -> AsyncIterator[Counter]:
    """Open a shop whose provider calls back to its worker."""
    async with (
        sandbox(settings) as (told, provider),
        open_shop(told, **campaign) as shop,
        shop.worker() as url,
    ):
        provider.callback_to(url)
        yield Counter(shop, url, provider)


# -- cancel ------------------------------------------------------------------------------------------------------------


@BOTH_LANES
async def test_cancel(settings: Settings) -> None:
    """An order that is not stored yet gets NOT_READY; then it is cancelled, once, and its unit is sold again."""
    async with open_counter(settings, stock=1) as counter:
        shop, url = counter.shop, counter.url
        order = (await shop.buy(url, "ann")).body["order_id"]
        early = await shop.cancel(url, order, "ann")
        assert (early.status, early.code, early.headers["Retry-After"]) == (409, "NOT_READY", "1")
        await confirmed(shop)
        assert (await shop.cancel(url, order, "ben")).code == "NOT_FOUND"
        for key in ("one", "one", "two"):
            said = await shop.cancel(url, order, "ann", key)
            assert (said.status, said.body) == (200, {"order_id": order, "status": "cancelled"})
        assert (await shop.status(url, order, "ann")).body["status"] == "cancelled"
        unpaid = await shop.pay(url, order, "ann")
        assert (unpaid.code, unpaid.body["detail"]) == ("STATE", "the order is cancelled")
        await counter.settle()
        assert (await ledger_of(shop))[order] == [("take", 1, 1), ("release", 1, 1)]

        async def sold_again() -> bool:
            return (await shop.buy(url, "ben")).status == 202

        await until_true(sold_again)
        await shop.assert_replays(url)
        await confirmed(shop)
        await counter.settle()


async def test_many_cancels_release_once(settings: Settings) -> None:
    """Twenty cancels of one order at two workers are all told that it is cancelled; its unit is released once.

    Guards that an order moves by compare-and-set on its row, under its lock.
    """
    async with open_counter(settings) as counter, counter.shop.worker() as other:
        shop = counter.shop
        order = await counter.bought()
        said = await asyncio.gather(
            *(shop.cancel((counter.url, other)[n % 2], order, "ann", f"k-{n}") for n in range(20))
        )
        assert {(one.status, one.body["status"]) for one in said} == {(200, "cancelled")}
        await counter.settle()


async def test_cancel_of_what_cannot_be_cancelled(settings: Settings) -> None:
    """A paid or expired order is not cancelled: 409 STATE says why, and nothing changes."""
    async with open_counter(settings) as counter:
        shop, url = counter.shop, counter.url
        paid = await counter.bought("ann")
        payment = (await shop.pay(url, paid, "ann")).body["payment_id"]
        await counter.provider.pay(payment)
        await until_true(counter.becomes(paid, "paid"))
        late = await counter.bought("ben")
        await make_due(shop)
        unpaid = await shop.pay(url, late, "ben")
        assert (unpaid.code, unpaid.body["detail"]) == ("STATE", "the time to pay is over")
        async with new_keeper(shop.settings, shop) as (keeper, _):
            await until_idle(keeper)
        for order, user, why in ((paid, "ann", "the order is paid"), (late, "ben", "the order has expired")):
            said = await shop.cancel(url, order, user)
            assert (said.status, said.code) == (409, "STATE")
            assert said.body["detail"].startswith(why)
        assert (await shop.pay(url, paid, "ann", "another")).body["detail"] == "the order is paid"
        await counter.settle()
        assert await statuses(shop) == {paid: "paid", late: "expired"}


async def test_money_that_comes_after_a_cancel_goes_back(settings: Settings) -> None:
    """An order is cancelled while its payment is open; the late charge is refunded, and a cancel still answers 200."""
    async with open_counter(settings) as counter:
        shop, url = counter.shop, counter.url
        order = await counter.bought()
        payment = (await shop.pay(url, order, "ann")).body["payment_id"]
        assert (await shop.cancel(url, order, "ann")).status == 200
        await counter.provider.pay(payment)
        await counter.provider.told_all()
        told = await shop.status(url, order, "ann")
        assert (told.body["status"], told.body["payment"]["status"]) == ("cancelled", "refund_due")
        assert told.headers["Retry-After"] in {"1", "2", "3"}
        await counter.refund()
        last = await shop.status(url, order, "ann")
        assert (last.body["status"], last.body["payment"]["status"]) == ("refunded", "refunded")
        assert "Retry-After" not in last.headers
        assert counter.provider.charged_cents() == 0
        again = await shop.cancel(url, order, "ann")
        assert (again.status, again.body) == (200, {"order_id": order, "status": "cancelled"})
        await counter.settle()


async def test_cancel_whose_commit_was_not_heard_of(settings: Settings) -> None:
    """Fault 22: the answer to COMMIT is lost; the buyer is told UNKNOWN, asks again, and the unit is released once.

    Guards that the row decides whether there is anything left to cancel.
    """
    async with (
        mysql_proxy(settings) as proxy,
        open_shop(settings) as shop,
        shop.worker(with_mysql(settings, proxy)) as url,
    ):
        counter = Counter(shop, url, None)  # type: ignore[arg-type]
        order = await counter.bought()
        lost = proxy.cut_reply(b"\x03COMMIT")
        said = await shop.cancel(url, order, "ann")
        assert (said.status, said.code, said.headers.get("Retry-After")) == (503, "UNKNOWN", "1")
        assert lost.fired == 1
        again = await shop.cancel(url, order, "ann")
        assert (again.status, again.body["status"]) == (200, "cancelled")
        await counter.settle()


# -- payment -----------------------------------------------------------------------------------------------------------


@BOTH_LANES
async def test_payment(settings: Settings) -> None:
    """A payment is pending until the provider says that it is paid; every key leads to the same one meanwhile."""
    async with open_counter(settings) as counter:
        shop, url = counter.shop, counter.url
        order = (await shop.buy(url, "ann", quantity=1)).body["order_id"]
        early = await shop.pay(url, order, "ann")
        assert (early.status, early.code, early.headers["Retry-After"]) == (409, "NOT_READY", "1")
        await confirmed(shop)
        assert (await shop.pay(url, order, "ben")).code == "NOT_FOUND"
        begun = await shop.pay(url, order, "ann")
        assert (begun.status, begun.body["status"]) == (202, "pending")
        assert begun.body["pay_url"].startswith(counter.provider.url)
        for key in ("pay-1", "pay-2"):
            assert (await shop.pay(url, order, "ann", key)).body == begun.body
        waiting = await shop.status(url, order, "ann")
        payment = begun.body["payment_id"]
        assert waiting.body["payment"] == {"payment_id": payment, "status": "pending"}
        assert waiting.body["status"] == "confirmed"
        assert counter.provider.payments()[payment].amount_cents == PRICE_CENTS
        await counter.provider.pay(payment)
        await until_true(counter.becomes(order, "paid"))
        told = await shop.status(url, order, "ann")
        assert told.body["payment"] == {"payment_id": payment, "status": "paid"}
        assert (told.body["pay_by"], told.body["version"]) == (None, 2)
        replayed = await shop.pay(url, order, "ann")
        assert (replayed.status, replayed.body["payment_id"], replayed.body["status"]) == (202, payment, "paid")
        await shop.assert_replays(url)
        await counter.settle()


async def test_payments_at_once_are_one(settings: Settings) -> None:
    """Ten payments of one order with ten keys at two workers are one payment, charged once."""
    async with open_counter(settings) as counter, counter.shop.worker() as other:
        shop = counter.shop
        order = await counter.bought()
        said = await asyncio.gather(*(shop.pay((counter.url, other)[n % 2], order, "ann", f"k-{n}") for n in range(10)))
        assert {one.status for one in said} == {202}
        assert len({one.body["payment_id"] for one in said}) == 1
        assert len(counter.provider.payments_of(order)) == 1
        await counter.settle()


async def test_what_the_provider_may_say_at_once(settings: Settings) -> None:
    """A payment that is charged at once is `paid`, one that is declined `declined`; then another key begins another.

    At `attempts_max` payments it is LIMIT_REACHED.
    """
    few = msgspec.structs.replace(settings, payment=msgspec.structs.replace(settings.payment, attempts_max=2))
    async with open_counter(few) as counter:
        shop, url = counter.shop, counter.url
        ann, ben = await counter.bought("ann"), await counter.bought("ben")
        await counter.provider.tell("decline")
        for order, user in ((ann, "ann"), (ben, "ben")):
            for key in ("first", "first"):
                assert (await shop.pay(url, order, user, key)).body["status"] == "declined"
        assert (await shop.pay(url, ben, "ben", "second")).body["status"] == "declined"
        last = await shop.pay(url, ben, "ben", "third")
        assert (last.status, last.code) == (409, "LIMIT_REACHED")
        await counter.provider.tell("approve")
        paid = await shop.pay(url, ann, "ann", "second")
        assert (paid.status, paid.body["status"]) == (202, "paid")
        assert (await shop.status(url, ann, "ann")).body["payment"]["payment_id"] == paid.body["payment_id"]
        await counter.settle()
        assert await statuses(shop) == {ann: "paid", ben: "confirmed"}


async def test_payment_that_is_not_answered(settings: Settings) -> None:
    """Fault 29: the provider charges and does not answer: UNKNOWN with Retry-After, pending in the status, paid later.

    Guards that an answer that does not come leaves the payment unknown, not failed.
    """
    quick = msgspec.structs.replace(settings, payment=msgspec.structs.replace(settings.payment, timeout_s=0.3))
    async with open_counter(quick) as counter:
        shop, url = counter.shop, counter.url
        order = await counter.bought()
        await counter.provider.tell("charge_then_timeout", callback=False)
        said = await shop.pay(url, order, "ann")
        assert (said.status, said.code, said.headers.get("Retry-After")) == (503, "UNKNOWN", "1")
        told = await shop.status(url, order, "ann")
        assert (told.body["status"], told.body["payment"]["status"]) == ("confirmed", "pending")
        await counter.check()
        assert (await shop.pay(url, order, "ann")).body["status"] == "paid"
        await counter.settle()


async def test_provider_away(settings: Settings) -> None:
    """A provider that cannot be reached is BUSY: nobody was charged, and the same key works once it is back."""
    async with open_counter(settings) as counter:
        shop, url = counter.shop, counter.url
        order = await counter.bought()
        gone = str(URL(counter.provider.url).with_port(9))
        away = msgspec.structs.replace(
            shop.settings, payment=msgspec.structs.replace(shop.settings.payment, provider_url=gone)
        )
        async with shop.worker(away) as cut_off:
            said = await shop.pay(cut_off, order, "ann")
            assert (said.status, said.code, said.headers["Retry-After"]) == (503, "BUSY", "1")
            assert (await shop.status(cut_off, order, "ann")).body["payment"]["status"] == "pending"
        assert (await shop.pay(url, order, "ann")).body["status"] == "pending"
        assert len(counter.provider.payments_of(order)) == 1
        await counter.settle()


async def test_payments_under_way_are_bounded(settings: Settings) -> None:
    """Fault 38: while the provider does not answer, payments past `payment.inflight_max` get BUSY at once.

    Guards the bound of payments under way in a worker.
    """
    one = msgspec.structs.replace(settings.payment, inflight_max=1, timeout_s=60.0)
    gateway = msgspec.structs.replace(settings.gateway, drain_timeout_s=0.3)  # for the call that hangs until the end
    async with open_counter(msgspec.structs.replace(settings, payment=one, gateway=gateway)) as counter:
        shop, url = counter.shop, counter.url
        ann, ben = await counter.bought("ann"), await counter.bought("ben")
        await counter.provider.tell("timeout")
        hanging = asyncio.create_task(shop.pay(url, ann, "ann"))

        async def begun() -> bool:
            return (await shop.status(url, ann, "ann")).body["payment"] is not None

        await until_true(begun)
        said = await shop.pay(url, ben, "ben")
        assert (said.status, said.code, said.headers["Retry-After"]) == (503, "BUSY", "1")
        # The provider's adapter has a bound of its own; what is turned away here has not even been written.
        assert (await shop.status(url, ben, "ben")).body["payment"] is None
        assert not hanging.done()
        hanging.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await hanging
        await counter.settle()


async def test_without_a_provider(settings: Settings) -> None:
    """Where no provider is configured, payments and callbacks are told so; cancel and status work."""
    async with open_shop(settings) as shop, shop.worker() as url:
        counter = Counter(shop, url, None)  # type: ignore[arg-type]
        order = await counter.bought()
        for said in (await shop.pay(url, order, "ann"), await shop.call_back(url, b"{}", {})):
            assert (said.status, said.code, said.body["detail"]) == (503, "BUSY", "payments are not configured")
            assert said.headers["Retry-After"] == "60"
        assert (await shop.status(url, order, "ann")).body["payment"] is None
        assert (await shop.cancel(url, order, "ann")).status == 200
        await counter.settle()


# -- callbacks ---------------------------------------------------------------------------------------------------------


async def everything(shop: Shop) -> list[Any]:
    """Return all that MySQL knows of a shop's orders and payments, and Redis of its stock."""
    tables = ("orders", "payment", "stock_ledger", "stock_return", "campaign_sku")
    rows: list[Any] = [
        sorted(await query(shop.clients.orders, f"SELECT * FROM {name} WHERE campaign_id = %s", (shop.id,)), key=str)  # noqa: S608
        for name in tables
    ]
    changes = "SELECT c.* FROM order_change c JOIN orders o ON o.order_id = c.order_id WHERE o.campaign_id = %s"
    return [*rows, sorted(await query(shop.clients.orders, changes, (shop.id,)))]


@BOTH_LANES
async def test_callbacks_that_are_not_believed(settings: Settings) -> None:
    """Fault 45: an unsigned, wrongly signed or stale callback gets 401 and says why; nothing is changed.

    Guards that the signature is verified before anything of the body is believed.
    """
    async with open_counter(settings) as counter:
        shop, url, provider = counter
        order = await counter.bought()
        payment = (await shop.pay(url, order, "ann")).body["payment_id"]
        good = callback_body(payment, "approved", PRICE_CENTS)
        right = provider.signed(good)["X-Signature"]
        before = await everything(shop)
        now_s = now_ms() / 1_000
        cases = [
            ({}, "missing"),
            ({"X-Signature": ""}, "missing"),
            ({"X-Signature": "nonsense"}, "malformed"),
            ({"X-Signature": right + "," + right}, "malformed"),
            ({"X-Signature": "\xff" + right}, "malformed"),
            ({"X-Signature": right[:-1] + ("0" if right[-1] != "0" else "1")}, "wrong"),
            (provider.signed(good + b" "), "wrong"),
            ({"X-Signature": right.replace("t=", "t=1")}, "stale"),
            (provider.signed(good, at_s=now_s - 302), "stale"),
            (provider.signed(good, at_s=now_s + 302), "stale"),
            (shop.bearer("ann"), "missing"),
        ]
        for headers, why in cases:
            said = await shop.call_back(url, good, headers)
            assert (said.status, said.code) == (401, "UNAUTHENTICATED"), headers
            assert why in said.body["detail"]
            assert said.headers["WWW-Authenticate"] == "X-Signature"
        assert await everything(shop) == before
        assert (await shop.call_back(url, good, {"X-Signature": right})).status == 204
        assert (await shop.status(url, order, "ann")).body["status"] == "paid"
        await counter.settle()


async def test_callbacks_that_make_no_sense(settings: Settings) -> None:
    """A signed body that is no callback, or about another amount, gets 400, an unknown payment 404; nothing changes."""
    async with open_counter(settings) as counter:
        shop, url, provider = counter
        order = await counter.bought()
        payment = (await shop.pay(url, order, "ann")).body["payment_id"]
        before = await everything(shop)
        cases = [
            (b"", 400),
            (b"{", 400),
            (b"[" * 4_000, 400),
            (b"{}", 400),
            (b" " * 5_000, 400),
            (b"x" * 100_000, 413),
            (callback_body(payment, "approved", PRICE_CENTS).replace(b"approved", b"pending"), 400),
            (callback_body(payment, "approved", PRICE_CENTS + 1), 400),
            (callback_body(payment, "approved", 0), 400),
            (callback_body("p-" + "0" * 32, "approved", PRICE_CENTS), 404),
        ]
        for body, status in cases:
            said = await shop.call_back(url, body, provider.signed(body))
            assert (said.status, said.code) == (status, "NOT_FOUND" if status == 404 else "INVALID"), body
        assert await everything(shop) == before
        await counter.settle()


async def test_callbacks_that_come_again(settings: Settings) -> None:
    """The same callback again, or an earlier one after it, is taken in and changes nothing."""
    async with open_counter(settings) as counter:
        shop, url, provider = counter
        order = await counter.bought()
        payment = (await shop.pay(url, order, "ann")).body["payment_id"]
        paid = callback_body(payment, "approved", PRICE_CENTS)
        assert (await shop.call_back(url, paid, provider.signed(paid))).status == 204
        before = await everything(shop)
        for state in ("approved", "approved", "declined"):
            body = callback_body(payment, state, PRICE_CENTS)
            said = await shop.call_back(url, body, provider.signed(body))
            assert (said.status, said.body) == (204, {})
            assert "Content-Type" not in said.headers
        assert await everything(shop) == before
        await counter.settle()


# -- MySQL or Redis away -----------------------------------------------------------------------------------------------


@BOTH_LANES
async def test_mysql_away(settings: Settings) -> None:
    """While MySQL is away nothing is promised: 503 with Retry-After for everybody; afterwards all of it works."""
    async with sandbox(settings) as (told, provider), mysql_proxy(told) as proxy:
        behind = with_mysql(told, proxy)
        async with open_shop(told) as shop, shop.worker(behind) as url:
            counter = Counter(shop, url, provider)
            provider.callback_to(url)
            order, other = await counter.bought("ann"), await counter.bought("ben")
            payment = (await shop.pay(url, order, "ann")).body["payment_id"]
            body = callback_body(payment, "approved", PRICE_CENTS)
            before = await everything(shop)
            proxy.down()
            said: list[Said] = [
                await shop.cancel(url, order, "ann"),
                await shop.status(url, order, "ann"),
                await shop.call_back(url, body, provider.signed(body)),
                await shop.pay(url, other, "ben"),
            ]
            assert [(one.status, one.code) for one in said] == [(503, "UNKNOWN")] * 3 + [(503, "BUSY")]
            assert {one.headers["Retry-After"] for one in said} == {"1"}
            assert await everything(shop) == before
            proxy.up()
            assert (await shop.call_back(url, body, provider.signed(body))).status == 204
            assert (await shop.cancel(url, other, "ben")).status == 200
            assert (await shop.status(url, order, "ann")).body["status"] == "paid"
            await counter.settle()


async def test_status_with_redis_away(settings: Settings, stack: LocalStack) -> None:
    """An order that MySQL has is told of while Redis is away and after its restart; one that only Redis had is not.

    Guards that MySQL is asked first and Redis only for what it does not know.
    """
    async with Proxy(settings.redis.host, settings.redis.port) as proxy, open_shop(settings) as shop:
        redis = msgspec.structs.replace(settings.redis, host=proxy.host, port=proxy.port)
        async with shop.worker(msgspec.structs.replace(settings, redis=redis)) as url:
            counter = Counter(shop, url, None)  # type: ignore[arg-type]
            order = await counter.bought("ann")
            fresh = (await shop.buy(url, "ben")).body["order_id"]
            assert (await shop.status(url, fresh, "ben")).body["status"] == "accepted"
            proxy.down()
            told = await shop.status(url, order, "ann")
            assert (told.status, told.body["status"]) == (200, "confirmed")
            assert (await shop.status(url, order, "ben")).code == "NOT_FOUND"
            not_told = await shop.status(url, fresh, "ben")
            assert (not_told.code, not_told.headers["Retry-After"]) == ("UNKNOWN", "1")
            assert (await shop.cancel(url, fresh, "ben")).code == "UNKNOWN"
            assert (await shop.cancel(url, order, "ann")).status == 200
            await stack.supervisor.kill("redis", signal.SIGKILL)
            assert (await shop.status(url, order, "ann")).body["status"] == "cancelled"
            await stack.supervisor.wait_ready("redis")
            proxy.up()
            await shop.clients.channel.close()
            await confirmed(shop)
            assert (await shop.status(url, order, "ann")).body["status"] == "cancelled"
            assert (await shop.status(url, fresh, "ben")).body["status"] == "confirmed"
            await counter.settle()


# -- status and bad input ----------------------------------------------------------------------------------------------


async def test_status_says_what_is_durable(settings: Settings) -> None:
    """Accepted, confirmed with its time to pay, paid: each is told once it is stored, with when to ask again."""
    async with open_counter(settings) as counter:
        shop, url = counter.shop, counter.url
        order = (await shop.buy(url, "ann")).body["order_id"]
        said = await shop.status(url, order, "ann")
        assert (said.body["status"], said.body["version"], said.body["pay_by"]) == ("accepted", 0, None)
        assert (said.headers["Retry-After"], said.headers["Cache-Control"]) == ("1", "no-store")
        await confirmed(shop)
        async with transaction(shop.clients.orders) as cursor:
            await cursor.execute("UPDATE orders SET pay_by_ms = 4102444800123 WHERE order_id = %s", (order,))
        said = await shop.status(url, order, "ann")
        assert said.body == {
            "order_id": order,
            "status": "confirmed",
            "campaign_id": shop.id,
            "sku_id": "box",
            "quantity": 1,
            "version": 1,
            "pay_by": "2100-01-01T00:00:00.123Z",
            "payment": None,
        }
        assert said.headers["Retry-After"] in {"1", "2", "3"}
        await counter.provider.tell("approve")
        await shop.pay(url, order, "ann")
        said = await shop.status(url, order, "ann")
        assert (said.body["status"], said.body["version"], said.headers["Retry-After"]) == ("paid", 2, "30")
        await counter.settle()


async def test_polls_are_spread(settings: Settings) -> None:
    """Buyers whose orders are confirmed are not all sent back at the same second, but each always after the same."""
    async with open_shop(settings) as shop, shop.worker() as url:
        for number in range(30):
            assert (await shop.buy(url, f"b-{number}")).status == 202
        await confirmed(shop)
        rounds = []
        for _ in range(2):
            said = [await shop.status(url, order, user) for order, (user, _, _) in shop.accepted.items()]
            rounds.append([one.headers["Retry-After"] for one in said])
        assert set(rounds[0]) == {"1", "2", "3"}
        assert rounds[0] == rounds[1]
        await shop.assert_invariants()


@BOTH_LANES
@pytest.mark.parametrize("call", ["cancel", "payment"])
async def test_bad_calls_change_nothing(settings: Settings, call: str) -> None:
    """Fault 46: no token, no key, bad bodies, bad ids, another's order: a clear error each, and nothing is changed."""
    async with open_counter(settings) as counter:
        shop, url = counter.shop, counter.url
        order = await counter.bought()
        before = await everything(shop)
        path = f"/v1/orders/{order}/{call}"
        ann, key = shop.bearer("ann"), {"Idempotency-Key": "k"}
        cases: list[tuple[str, dict[str, str], bytes, int, str]] = [
            (path, key, b"", 401, "UNAUTHENTICATED"),
            (path, {**key, "Authorization": "Bearer x.y.z"}, b"", 401, "UNAUTHENTICATED"),
            (path, ann, b"", 400, "KEY_MISSING"),
            (path, {**ann, "Idempotency-Key": "k" * 256}, b"", 400, "INVALID"),
            (path, {**ann, **key}, b"[]", 400, "INVALID"),
            (path, {**ann, **key}, b"nonsense", 400, "INVALID"),
            (path, {**ann, **key}, b"[" * 10_000, 400, "INVALID"),
            (path, {**ann, **key}, b"{" + b" " * 20_000 + b"}", 413, "INVALID"),
            (path, {**ann, **key, "Content-Encoding": "gzip"}, b"{}", 400, "INVALID"),
            (path, {**shop.bearer("ben"), **key}, b"", 404, "NOT_FOUND"),
        ]
        ids = ("x", NO_ORDER, order.upper(), order + "0", order[:-1], f"{order}%00", "%2e%2e", f"{shop.id}~{'0' * 32}")
        cases += [(f"/v1/orders/{one}/{call}", {**ann, **key}, b"", 404, "NOT_FOUND") for one in ids]
        for target, headers, body, status, code in cases:
            said = await shop.change(url, target, headers, body)
            assert (said.status, said.code) == (status, code), (target, headers, body[:20])
        for method in ("GET", "PUT", "DELETE"):
            async with shop.session.request(method, url + path, headers={**ann, **key}) as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "POST")
        assert await everything(shop) == before
        assert (await shop.change(url, path, {**ann, **key}, b' {"because": [1, {}]} ')).status in {200, 202}
        await counter.settle()


async def test_order_that_redis_alone_knows_of_another(settings: Settings) -> None:
    """Before an order is stored, another buyer who asks for it is told that there is none."""
    async with open_counter(settings) as counter:
        shop, url = counter.shop, counter.url
        order = (await shop.buy(url, "ann")).body["order_id"]
        assert order == order_id(shop.id, "ann", "key-1")
        assert (await shop.buy(url, "ben")).status == 202
        for said in (await shop.cancel(url, order, "ben"), await shop.pay(url, order, "ben")):
            assert (said.status, said.code) == (404, "NOT_FOUND")
        await confirmed(shop)
        await counter.settle()
