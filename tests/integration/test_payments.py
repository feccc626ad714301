"""Payments against the sandbox provider, over HTTP: what was charged is paid, got back or sent back, and told truly."""

import asyncio
import contextlib
import signal

import pytest

from adapters.holds import reacquire
from adapters.mysql import query
from adapters.stock import read_attempts
from consumers.reconcile import reconcile
from domain import keys
from domain.errors import OperationRefusedError, OutcomeUnknownError
from domain.order_state import OrderStatus, PaymentStatus
from domain.outcomes import ReacquireOutcome
from domain.settings import Settings
from lifecycle import order_rows
from lifecycle.callback import Callback
from lifecycle.payment_rows import Refusal
from lifecycle.provider import ProviderState
from tests.support.children import start_killed_at
from tests.support.life import (
    assert_settled,
    confirmed,
    ledger,
    line,
    make_due,
    new_desk,
    new_keeper,
    now_ms,
    statuses,
    until_idle,
)
from tests.support.provider import adapter, sandbox
from tests.support.shop import open_shop, until_true
from tests.support.till import PRICE, Till, open_till


async def test_paid_by_what_the_provider_confirms(settings: Settings) -> None:
    """Begun is not paid; the provider's word makes the order paid, once, however often it comes."""
    async with open_till(settings) as till:
        payment = await till.begun()
        assert payment.status is PaymentStatus.PENDING
        assert payment.pay_url.startswith(till.provider.url)
        assert await till.begun() == payment
        assert (await till.begun(key="another")).payment_id == payment.payment_id
        assert await till.status() == "confirmed"
        await till.provider.pay(payment.payment_id)
        await till.tell(payment.payment_id, ProviderState.APPROVED, times=3)
        assert await till.status() == "paid"
        order = await order_rows.find_order(till.shop.clients.orders, till.orders[0])
        assert order is not None
        assert order.version == 2
        await till.settle()
        assert await till.payments() == {payment.payment_id: "paid"}
        assert await till.pay(key="third") is Refusal.STATE
        packed = await till.shop.clients.client.get(keys.buyer(till.shop.id, "a-0"))
        assert isinstance(packed, bytes)
        assert read_attempts(packed)[0].held
        await assert_settled(till.shop)


async def test_another_amount_is_refused(settings: Settings) -> None:
    """A callback about another amount changes nothing."""
    async with open_till(settings) as till:
        payment = await till.begun()
        with pytest.raises(OperationRefusedError):
            await till.desk.take_in(Callback("event", payment.payment_id, ProviderState.APPROVED, PRICE - 1))
        assert await till.desk.take_in(Callback("event", "p-none", ProviderState.APPROVED, PRICE)) is None
        assert await till.status() == "confirmed"
        assert await till.payments() == {payment.payment_id: "pending"}


async def test_timed_out_though_charged(settings: Settings) -> None:
    """Fault 29: the provider charges and never answers; asked again it says so, and the order is paid, charged once.

    Guards the check: nobody is told "declined", and a payment of unknown outcome is asked for until it is known.
    """
    async with open_till(settings) as till:
        await till.provider.tell("charge_then_timeout")
        with pytest.raises(OutcomeUnknownError):
            await till.pay()
        assert set((await till.payments()).values()) == {"unknown"}
        assert await till.status() == "confirmed"
        await till.settle()
        assert await till.status() == "paid"
        assert till.provider.charged_cents() == PRICE
        assert (await till.begun()).status is PaymentStatus.PAID
        await till.shop.assert_replays(till.url)
        await assert_settled(till.shop)


@pytest.mark.parametrize("mode", ["timeout", "nonsense", "silent"])
async def test_a_provider_that_makes_no_sense(settings: Settings, mode: str) -> None:
    """Whatever the provider answers or does not answer, what it says when asked is what counts."""
    async with open_till(settings) as till:
        await till.provider.tell(mode)
        with contextlib.suppress(OutcomeUnknownError):
            await till.pay()
        await till.provider.reset()
        await till.settle()
        ((payment_id, status),) = (await till.payments()).items()
        if status == "pending":
            await till.provider.pay(payment_id)

        async def paid() -> bool:
            await until_idle(till.keeper)
            return await till.status() == "paid"

        await until_true(paid)
        assert till.provider.charged_cents() == PRICE
        await assert_settled(till.shop)


async def test_payment_after_expiry_gets_the_unit_back(settings: Settings) -> None:
    """Fault 31: a payment comes after the order has expired, and a unit is left: the order is paid after all."""
    async with open_till(settings) as till:
        payment = await till.begun()
        await till.expire()
        assert (await line(till.shop)).remaining == 1
        await till.provider.pay(payment.payment_id)
        await till.tell(payment.payment_id, ProviderState.APPROVED)
        assert await till.payments() == {payment.payment_id: "reacquiring"}
        await till.settle()
        assert await till.status() == "paid"
        assert await ledger(till.shop) == {till.orders[0]: [("take", 1, 1), ("release", 1, 1), ("take", 2, 1)]}
        assert (await line(till.shop)).remaining == 0
        await till.tell(payment.payment_id, ProviderState.APPROVED)
        assert till.provider.charged_cents() == PRICE
        await till.shop.assert_replays(till.url)
        await assert_settled(till.shop)


async def test_payment_after_expiry_before_redis_knows(settings: Settings) -> None:
    """The unit is taken anew though its release has not come to Redis yet; when it comes, it changes nothing."""
    async with open_till(settings) as till:
        payment = await till.begun()
        await make_due(till.shop)
        await till.keeper.expire_orders()
        await till.provider.pay(payment.payment_id)
        await till.tell(payment.payment_id, ProviderState.APPROVED)
        await till.keeper.reacquire_units()
        assert await till.status() == "paid"
        await till.settle()
        stock = await line(till.shop)
        assert (stock.taken, stock.returned, stock.remaining) == (2, 1, 0)
        await assert_settled(till.shop)


async def test_payment_after_expiry_and_sold_out_goes_back(settings: Settings) -> None:
    """Fault 31: of five late payers of two units that were left three get their money back, whoever they are."""
    async with open_till(settings, buyers=5, stock=5) as till:
        payments = [await till.begun(which) for which in range(5)]
        await till.expire()
        others = await asyncio.gather(*(till.shop.buy(till.url, f"b-{number}") for number in range(3)))
        assert [one.status for one in others] == [202] * 3
        for payment in payments:
            await till.provider.pay(payment.payment_id)
        await asyncio.gather(*(till.tell(payment.payment_id, ProviderState.APPROVED) for payment in payments))
        await till.settle()
        await confirmed(till.shop)
        found = sorted([await till.status(which) for which in range(5)])
        assert found == ["paid"] * 2 + ["refunded"] * 3
        assert sorted((await till.payments()).values()) == ["paid"] * 2 + ["refunded"] * 3
        assert till.provider.charged_cents() == 2 * PRICE
        assert (await line(till.shop)).remaining == 0
        await till.shop.assert_replays(till.url)
        await assert_settled(till.shop)


async def test_late_payment_of_a_buyer_without_a_record_goes_back(settings: Settings) -> None:
    """With the buyer's record gone no unit can be taken anew: the money goes back, and nothing waits for ever."""
    async with open_till(settings) as till:
        payment = await till.begun()
        await till.expire()
        await till.shop.clients.client.delete(keys.buyer(till.shop.id, "a-0"))
        await till.provider.pay(payment.payment_id)
        await till.tell(payment.payment_id, ProviderState.APPROVED)
        await till.settle()
        assert await till.status() == "refunded"
        assert till.provider.charged_cents() == 0
        assert (await line(till.shop)).remaining == 1


async def test_what_was_refused_late_stays_refused(settings: Settings) -> None:
    """Two keepers ask for the same late payment, and a unit comes back between: both are told the same, and it is sold.

    Guards the hold number, which a refusal uses up: the second to ask is not given what the first was refused.
    """
    async with open_till(settings) as till:
        payment = await till.begun()
        await till.expire()
        other = await till.shop.buy(till.url, "b-0")
        await confirmed(till.shop)
        await till.provider.pay(payment.payment_id)
        await till.tell(payment.payment_id, ProviderState.APPROVED)
        shop, asked = till.shop, (till.shop.clients.channel, till.shop.id, till.orders[0][-32:], "a-0", 2)
        assert await reacquire(*asked) is ReacquireOutcome.SOLD_OUT
        await till.expire()
        assert (await line(shop)).remaining == 1
        assert await reacquire(*asked) is ReacquireOutcome.HOLD_PASSED
        await till.settle()
        assert await till.status() == "refunded"
        assert (await statuses(shop))[other.body["order_id"]] == "expired"
        assert (await reconcile(till.settings, [shop.id])).drift == 0
        await assert_settled(shop)


async def test_payment_after_cancel_goes_back(settings: Settings) -> None:
    """Who has cancelled gets his money back, though units are left."""
    async with open_till(settings) as till:
        payment = await till.begun()
        (order,) = [await order_rows.find_order(till.shop.clients.orders, till.orders[0])]
        assert order is not None
        await order_rows.give_up(
            till.shop.clients.orders, [order], OrderStatus.CANCELLED, "by the buyer", now_ms(), may=lambda _: True
        )
        await till.provider.pay(payment.payment_id)
        await till.tell(payment.payment_id, ProviderState.APPROVED)
        await till.settle()
        assert await till.status() == "refunded"
        assert till.provider.charged_cents() == 0
        assert (await line(till.shop)).remaining == 1
        await assert_settled(till.shop)


async def test_declined_and_paid_by_another(settings: Settings) -> None:
    """A declined payment leaves room for another; if the first was charged after all, one of the two goes back."""
    async with open_till(settings) as till:
        first = await till.begun(key="one")
        await till.tell(first.payment_id, ProviderState.DECLINED)
        assert await till.status() == "confirmed"
        second = await till.begun(key="two")
        assert second.attempt_no == 2
        for payment in (second, first):
            await till.provider.pay(payment.payment_id)
            await till.tell(payment.payment_id, ProviderState.APPROVED)
        await till.tell(second.payment_id, ProviderState.DECLINED)
        await till.settle()
        assert await till.payments() == {first.payment_id: "refunded", second.payment_id: "paid"}
        assert await till.status() == "paid"
        assert till.provider.charged_cents() == PRICE
        await assert_settled(till.shop)


async def test_two_payments_after_expiry(settings: Settings) -> None:
    """Of two charges that both come after expiry one gets the unit back and the other goes back, in whatever order."""
    async with open_till(settings) as till:
        first = await till.begun(key="one")
        await till.tell(first.payment_id, ProviderState.DECLINED)
        second = await till.begun(key="two")
        await till.expire()
        for payment in (first, second):
            await till.provider.pay(payment.payment_id)
            await till.tell(payment.payment_id, ProviderState.APPROVED)
        assert await till.payments() == {first.payment_id: "reacquiring", second.payment_id: "refund_due"}
        await till.keeper.refund_payments()
        assert await till.status() == "expired"
        await till.settle()
        assert await till.payments() == {first.payment_id: "paid", second.payment_id: "refunded"}
        assert await till.status() == "paid"
        assert till.provider.charged_cents() == PRICE
        await assert_settled(till.shop)


async def test_keeper_killed_after_redis_took_the_unit_anew(settings: Settings) -> None:
    """The keeper dies between Redis and MySQL: the intent is in the payment's row, and is carried out once."""
    async with open_till(settings) as till:
        payment = await till.begun()
        await till.expire()
        await till.provider.pay(payment.payment_id)
        await till.tell(payment.payment_id, ProviderState.APPROVED)
        child = await start_killed_at(till.settings, "keeper.after_reacquire", "lifecycle")
        assert await child.wait() == -signal.SIGKILL
        assert (await line(till.shop)).remaining == 0
        assert await till.status() == "expired"
        await till.settle()
        assert await till.status() == "paid"
        assert (await line(till.shop)).taken == 2
        await assert_settled(till.shop)


async def test_what_cannot_be_paid(settings: Settings) -> None:
    """Another's order and one that is not there are not found, and nothing is written for them."""
    async with open_till(settings) as till:
        assert await till.desk.pay(till.orders[0], "somebody", "k") is Refusal.NO_ORDER
        assert await till.desk.pay(f"{till.shop.id}~{'0' * 32}", "a-0", "k") is Refusal.NO_ORDER
        await till.expire()
        assert await till.pay() is Refusal.STATE
        assert await till.payments() == {}


async def test_a_buyer_holds_a_bounded_number_of_unpaid_orders(settings: Settings) -> None:
    """A third order that would be unpaid is refused; once one of the two is paid, or given up, it is taken.

    Guards the count of unpaid orders in the script, which keeps one buyer from holding stock that others would pay for.
    """
    with_limit = "user_per_s = 1000\nuser_burst = 1000\nunpaid_per_user = 2"
    async with (
        sandbox(settings) as (told, handle),
        open_shop(told, stock=10, per_user=10, limits=with_limit) as shop,
        shop.worker() as url,
        adapter(told, handle) as provider,
        new_keeper(told, shop, provider=provider) as (keeper, _),
    ):
        desk = new_desk(told, shop, provider)
        first, second = [await shop.buy(url, "ann", key) for key in ("one", "two")]
        assert (await shop.buy(url, "ann", "three")).code == "LIMIT_REACHED"
        await confirmed(shop)
        await handle.tell("approve")
        await desk.pay(first.body["order_id"], "ann", "pay")
        await until_idle(keeper)
        assert (await shop.buy(url, "ann", "three")).status == 202
        assert (await shop.buy(url, "ann", "four")).code == "LIMIT_REACHED"
        await make_due(shop)
        await until_idle(keeper)
        assert (await statuses(shop))[second.body["order_id"]] == "expired"
        assert (await shop.buy(url, "ann", "four")).status == 202
        await confirmed(shop)
        await assert_settled(shop)


async def test_a_campaign_that_waits_for_recovery_holds_up_no_other(settings: Settings) -> None:
    """Redis is not told that an order of a closed campaign is paid, until it may be; another campaign's is marked."""
    async with open_till(settings) as waiting, open_till(settings) as other:
        for till in (waiting, other):
            payment = await till.begun()
            await till.tell(payment.payment_id, ProviderState.APPROVED)
        client = waiting.shop.clients.client
        run_id = await client.hget(keys.campaign(waiting.shop.id), "run_id")
        assert isinstance(run_id, bytes)
        await client.hset(keys.campaign(waiting.shop.id), "run_id", "of another Redis")
        await until_idle(other.keeper)
        assert [await _unmarked(till) for till in (waiting, other)] == [1, 0]
        await client.hset(keys.campaign(waiting.shop.id), "run_id", run_id)
        await until_idle(other.keeper)
        assert await _unmarked(waiting) == 0


async def _unmarked(till: Till) -> int:
    """Return how many of its orders Redis does not know to be paid."""
    sql = "SELECT COUNT(*) FROM order_change JOIN orders USING (order_id) WHERE campaign_id = %s AND published <> 1"
    ((count,),) = await query(till.shop.clients.orders, sql, (till.shop.id,))
    return int(count)
