"""Orders after the sale, on real servers: expiry, release, selling again, and what a crash in between leaves."""

import asyncio
import signal

import pytest

from adapters.holds import return_duplicate
from adapters.mysql import query
from adapters.stock import read_attempts
from domain import keys
from domain.order_state import OrderStatus
from domain.outcomes import DuplicateOutcome
from domain.settings import Settings
from lifecycle import order_rows
from tests.support.children import start_killed_at
from tests.support.life import (
    assert_settled,
    confirmed,
    events_of,
    ledger,
    line,
    make_due,
    new_keeper,
    now_ms,
    statuses,
    until_idle,
)
from tests.support.shop import Shop, open_shop, until_true

STOCK = 5


async def sell_out(shop: Shop, url: str, prefix: str = "a", count: int = STOCK) -> list[str]:
    """Have so many buyers accepted and confirmed; returns the order ids."""
    said = await asyncio.gather(*(shop.buy(url, f"{prefix}-{number}") for number in range(count)))
    assert [one.status for one in said] == [202] * count
    await confirmed(shop)
    return [one.body["order_id"] for one in said]


async def test_unpaid_orders_expire_and_their_units_are_sold_again(settings: Settings) -> None:
    """An order that is not paid in time expires, its unit is sold again, and the flag reopens in every worker.

    The events say so, the old buyer's replay still gets his 202, and everything adds up.
    """
    async with open_shop(settings, stock=STOCK) as shop, shop.worker() as url, shop.worker() as other:
        first = await sell_out(shop, url)

        async def sold_out() -> bool:
            return [(await shop.buy(one, "late")).code for one in (url, other)] == ["SOLD_OUT"] * 2

        async def on_sale_everywhere() -> bool:
            pages = [await shop.get(one, f"/v1/campaigns/{shop.id}") for one in (url, other)]
            return [page.body["skus"][0]["state"] for page in pages] == ["on_sale"] * 2

        await until_true(sold_out)
        async with new_keeper(settings, shop) as (keeper, kept):
            await until_idle(keeper)  # what other tests have left
            kept.counts.clear()
            assert set((await statuses(shop)).values()) == {"confirmed"}
            await make_due(shop)
            await until_idle(keeper)
            assert kept.counts["expire"] == kept.counts["return"] == STOCK
            assert await statuses(shop) == dict.fromkeys(first, "expired")
            await until_true(on_sale_everywhere)
            assert [(await shop.buy(one, "late")).status for one in (url, other)] == [202] * 2
            assert (await line(shop)).returned == STOCK
            await confirmed(shop)
            told = [(event.order_id, event.status, event.version) for event in await events_of(shop)]
            assert sorted(told) == [(order_id, "expired", 2) for order_id in sorted(first)]
        await shop.assert_replays(url)
        await assert_settled(shop)


async def test_orders_that_are_not_due_stay(settings: Settings) -> None:
    """Expiry takes what is due and nothing else, also while others expire in the same batch."""
    async with open_shop(settings, stock=STOCK) as shop, shop.worker() as url:
        made = await sell_out(shop, url)
        async with new_keeper(settings, shop) as (keeper, _):
            found = [await order_rows.find_order(shop.clients.orders, order_id) for order_id in made]
            mine = [one for one in found if one is not None]
            assert len(mine) == STOCK
            assert await order_rows.expire(shop.clients.orders, mine, now_ms()) == 0
            moved = await order_rows.give_up(
                shop.clients.orders,
                mine,
                OrderStatus.CANCELLED,
                "test",
                now_ms(),
                may=lambda order: order.order_id == made[0],
            )
            assert [one.order_id for one in moved] == [made[0]]
            await until_idle(keeper)
        assert await statuses(shop) == {**dict.fromkeys(made, "confirmed"), made[0]: "cancelled"}
        await assert_settled(shop)


async def test_expired_at_once_by_many_is_released_once(settings: Settings) -> None:
    """Many keepers that expire and return the same orders at once move each unit once."""
    async with open_shop(settings, stock=STOCK) as shop, shop.worker() as url:
        await sell_out(shop, url)
        await make_due(shop)
        async with (
            new_keeper(settings, shop) as (one, _),
            new_keeper(settings, shop) as (two, _),
            new_keeper(settings, shop) as (three, _),
        ):
            await asyncio.gather(*(keeper.expire_orders() for keeper in (one, two, three)))
            await asyncio.gather(*(keeper.return_stock() for keeper in (one, two, three)))
            await until_idle(one)
        assert (await line(shop)).returned == STOCK
        await assert_settled(shop)


@pytest.mark.parametrize("fail_point", ["keeper.after_expire", "keeper.after_return", "keeper.after_publish"])
async def test_keeper_killed_in_the_middle(settings: Settings, fail_point: str) -> None:
    """A keeper that is killed after a step and before it is noted leaves nothing undone, and nothing done twice."""
    async with open_shop(settings, stock=STOCK) as shop, shop.worker() as url:
        await sell_out(shop, url)
        await make_due(shop)
        child = await start_killed_at(settings, fail_point, "lifecycle")
        assert await child.wait() == -signal.SIGKILL
        if fail_point == "keeper.after_return":
            returned = (await line(shop)).returned
            noted = await query(
                shop.clients.orders,
                "SELECT COUNT(*) FROM stock_return WHERE campaign_id = %s AND done_at_ms IS NOT NULL",
                (shop.id,),
            )
            assert returned > 0
            assert noted == [(0,)]
        async with new_keeper(settings, shop) as (keeper, _):
            await until_idle(keeper)
        assert set((await statuses(shop)).values()) == {"expired"}
        assert (await line(shop)).returned == STOCK
        assert {event.order_id for event in await events_of(shop)} == set(shop.accepted)
        await assert_settled(shop)


async def test_second_deduction_is_given_back_once(settings: Settings) -> None:
    """Fault 11: a buyer's record goes, his replay deducts a second time, and that is given back, once.

    Guards the mark of each origin in Redis: the return may be repeated. The order itself stays as it was.
    """
    async with open_shop(settings, stock=STOCK) as shop, shop.worker() as url:
        (order_id,) = await sell_out(shop, url, count=1)
        await shop.clients.client.delete(keys.buyer(shop.id, "a-0"))
        again = await shop.buy(url, "a-0")
        assert (again.status, again.body["order_id"]) == (202, order_id)
        assert "Idempotent-Replayed" not in again.headers
        assert (await line(shop)).taken == 2
        await _written_down(shop)
        async with new_keeper(settings, shop) as (keeper, _):
            await until_idle(keeper)
            ((origin,),) = await query(
                shop.clients.orders, "SELECT origin FROM stock_return WHERE order_id = %s", (order_id,)
            )
            repeated = await return_duplicate(
                shop.clients.channel,
                shop.id,
                order_id[-32:],
                "a-0",
                origin=origin,
                sku_id="box",
                quantity=1,
                released_hold_no=0,
            )
        assert repeated is DuplicateOutcome.ALREADY_RETURNED
        assert (await line(shop)).returned == 1
        await shop.assert_replays(url)
        await assert_settled(shop)


async def test_second_deduction_after_expiry_leaves_nothing_held(settings: Settings) -> None:
    """A record that was made anew by a second deduction of an expired order is emptied when that is given back."""
    async with open_shop(settings, stock=STOCK) as shop, shop.worker() as url:
        (order_id,) = await sell_out(shop, url, count=1)
        await make_due(shop)
        async with new_keeper(settings, shop) as (keeper, _):
            await until_idle(keeper)
            await shop.clients.client.delete(keys.buyer(shop.id, "a-0"))
            assert (await shop.buy(url, "a-0")).status == 202
            await _written_down(shop)
            await until_idle(keeper)
        assert await ledger(shop) == {order_id: [("take", 1, 1), ("release", 1, 1)]}
        stock = await line(shop)
        assert (stock.taken, stock.returned, stock.remaining) == (2, 2, STOCK)
        packed = await shop.clients.client.get(keys.buyer(shop.id, "a-0"))
        assert isinstance(packed, bytes)
        assert [attempt.held for attempt in read_attempts(packed)] == [False]
        await shop.assert_replays(url)
        await assert_settled(shop)


async def test_a_return_that_redis_refuses_stays_owed(settings: Settings) -> None:
    """A unit that cannot be given back, for the buyer's record is gone, stays owed with its reason; others go on."""
    async with open_shop(settings, stock=STOCK) as shop, shop.worker() as url:
        made = await sell_out(shop, url, count=2)
        await shop.clients.client.delete(keys.buyer(shop.id, "a-0"))
        await make_due(shop)
        async with new_keeper(settings, shop) as (keeper, kept):
            await keeper.expire_orders()
            await keeper.return_stock()
            assert kept.puts_off["return"] >= 1  # what other tests have left is put off as well
        owed = await query(
            shop.clients.orders,
            "SELECT order_id, attempts, error FROM stock_return WHERE campaign_id = %s AND done_at_ms IS NULL",
            (shop.id,),
        )
        assert owed == [(made[0], 1, "NO_SUCH_HOLD")]
        assert (await line(shop)).returned == 1


async def _written_down(shop: Shop) -> None:
    """Have the consumer find the second deduction."""
    await shop.relayed()
    async with shop.consumer():

        async def found() -> bool:
            return bool(
                await query(
                    shop.clients.orders,
                    "SELECT 1 FROM stock_return WHERE campaign_id = %s AND origin <> ''",
                    (shop.id,),
                )
            )

        await until_true(found)
