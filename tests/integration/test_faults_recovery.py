"""Fault 5: Redis goes back to an older state, its real log having lost its tail. What has happened since comes back."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.holds import reacquire
from adapters.mysql import transaction
from adapters.stock import Attempt, StockLine, read_attempts
from domain import keys
from domain.errors import BackendError
from domain.order_state import OrderStatus, PaymentStatus
from domain.outcomes import ReacquireOutcome
from domain.settings import Settings
from gateway.app import make_relay
from gateway.outgoing import Outgoing
from lifecycle import order_rows, payment_rows
from lifecycle.keeper import Keeper
from lifecycle.payment_rows import Payment
from tests.support.forgetful import forgetful_redis
from tests.support.life import assert_settled, confirmed, line, new_keeper, now_ms, until_idle
from tests.support.relays import GAPS, buy_one_by_one, counted, entries
from tests.support.shop import Shop, open_shop, until_true
from tests.support.waiting import in_time

STOCK = 4


def numbers(one: StockLine) -> tuple[int, int, int, int]:
    """Return what a SKU's line counts."""
    return one.remaining, one.taken, one.returned, one.allocated


async def attempt(shop: Shop, user: str) -> Attempt:
    """Return the one attempt in a buyer's record."""
    packed: Any = await shop.clients.client.get(keys.buyer(shop.id, user))
    (found,) = read_attempts(packed)
    return found


async def recovered(shop: Shop) -> None:
    """Run a relay until the gate is open and all is relayed."""
    async with shop.relay():
        await in_time(shop.outbox_is_relayed, "the gate stays closed")


async def given_back(shop: Shop, keeper: Keeper, order_id: str, status: OrderStatus) -> None:
    """Have an order expire or be cancelled, and its unit be given back to Redis."""
    pool = shop.clients.orders
    order = await order_rows.find_order(pool, order_id)
    assert order is not None
    assert await order_rows.give_up(pool, [order], status, "test", now_ms(), may=lambda _: True)
    await keeper.return_stock()


async def taken_anew(shop: Shop, order_id: str) -> Payment:
    """Have a late payment of an expired order come, and Redis take its unit anew; nobody has noted that yet."""
    user = shop.accepted[order_id][0]
    payment = Payment(f"pay-{order_id[-20:]}", order_id, 1, 5_900, PaymentStatus.REACQUIRING, "", 2, 0)
    async with transaction(shop.clients.orders) as cursor:
        await cursor.execute(
            "INSERT INTO payment (payment_id, order_id, campaign_id, attempt_no, amount_cents, status, hold_no, "
            "created_at_ms, updated_at_ms, next_at_ms) VALUES (%s, %s, %s, 1, %s, %s, 2, 1, 1, %s)",
            (payment.payment_id, order_id, shop.id, payment.amount_cents, payment.status, 1 << 60),
        )
    outcome = await reacquire(shop.clients.channel, shop.id, order_id[-32:], user, payment.hold_no)
    assert outcome is ReacquireOutcome.TAKEN
    return payment


async def test_orders_accepted_since(settings: Settings, tmp_path: Path) -> None:
    """Orders that were relayed come back, and are replayed; one that was not is lost, and its unit sold again.

    Where an acceptance has to wait for Kafka it is replayed, too: recovery has moved the outbox on, and the relay after
    it. Guards the run-id fence: before recovery has compared nothing is admitted. No gap is told: the outbox has none.
    """
    async with forgetful_redis(tmp_path) as redis:
        private = redis.settings(settings)
        async with open_shop(private, stock=32) as shop, shop.worker(private) as url:
            gaps = counted(GAPS)
            await buy_one_by_one(shop, url, "a", 10)
            await shop.relayed()
            mark = redis.mark()
            await buy_one_by_one(shop, url, "stored", 10)
            await confirmed(shop)
            await buy_one_by_one(shop, url, "relayed", 10)
            await shop.relayed()
            (lost,) = await buy_one_by_one(shop, url, "lost", 1)
            await redis.go_back(mark)
            said = await shop.buy(url, "new")
            assert (said.status, said.code) == (503, "UNKNOWN")
            await recovered(shop)
            shop.accepted.pop(lost)
            async with shop.worker(shop.with_gateway(durability="kafka")) as strict_url:
                await shop.assert_replays(strict_url)
            await buy_one_by_one(shop, url, "new", 2)
            assert (await shop.buy(url, "one more")).code == "SOLD_OUT"
            await shop.assert_replays(url)
            await shop.assert_invariants()
            assert counted(GAPS) == gaps


class Unreachable:
    """A publisher whose Kafka is away."""

    async def publish(self, _records: Sequence[Outgoing]) -> None:
        """Fail."""
        raise BackendError("Kafka is away")

    async def close(self) -> None:
        """Nothing is kept open."""


async def test_what_nobody_knows_any_more_is_told(settings: Settings, tmp_path: Path) -> None:
    """Orders that were accepted while Kafka was away, and that Redis then loses, are lost for good; that is told.

    With durability = "kafka" nobody was told "accepted" of them.
    Guards that the relay remembers how far the outbox was.
    """
    async with forgetful_redis(tmp_path) as redis:
        private = redis.settings(settings)
        async with open_shop(private) as shop, shop.worker(private) as url:
            gaps = counted(GAPS)
            await buy_one_by_one(shop, url, "a", 2)
            await shop.relayed()
            mark = redis.mark()
            relay, close = make_relay(private)
            publisher, relay._publisher = relay._publisher, Unreachable()
            running = asyncio.create_task(relay.run())
            lost = await buy_one_by_one(shop, url, "b", 2)
            newest = (await entries(shop))[-1]
            await until_true(lambda: asyncio.sleep(0, relay._newest.get(shop.id) == newest))
            await redis.go_back(mark)
            relay._publisher = publisher
            await until_true(shop.outbox_is_relayed)
            await in_time(lambda: asyncio.sleep(0, counted(GAPS) == gaps + 1), "nobody tells that entries are lost")
            relay.stop()
            await running
            await close()
            for order_id in lost:
                shop.accepted.pop(order_id)
            await buy_one_by_one(shop, url, "b", 1)
            await shop.assert_replays(url)
            await shop.assert_invariants()
            assert counted(GAPS) == gaps + 1


async def test_nobody_is_told_accepted_of_what_redis_lost(settings: Settings, tmp_path: Path) -> None:
    """Fault 5, durability = "kafka": an entry is lost before the relay has read it, and later ones get to Kafka.

    Who waits for the lost one is told that its outcome is not known; retried with the same key it is accepted anew.
    Guards the run id of watermarks: the later id alone would have let the lost order go as accepted.
    """
    async with forgetful_redis(tmp_path) as redis:
        private = redis.settings(settings)
        async with open_shop(private) as shop:
            async with shop.worker() as url:
                await buy_one_by_one(shop, url, "a", 2)
            await shop.relayed()
            async with shop.worker(shop.with_gateway(durability="kafka", answer_timeout_s=30.0)) as url:
                mark = redis.mark()
                lost = asyncio.create_task(shop.buy(url, "lost"))

                async def is_taken() -> bool:
                    return (await line(shop)).taken == 3

                async def is_answered() -> bool:
                    return (await shop.buy(url, "new")).status == 202

                await until_true(is_taken)
                await redis.go_back(mark)
                async with shop.relay():
                    await until_true(shop.outbox_is_relayed)
                    await until_true(is_answered)
                    said = await lost
                    assert (said.status, said.code) == (503, "UNKNOWN")
                    assert (await shop.buy(url, "lost")).status == 202
                assert {event.user_id for event in await shop.published()} == {"a-0", "a-1", "new", "lost"}
            await shop.assert_invariants()


async def test_life_of_orders_since(settings: Settings, tmp_path: Path) -> None:
    """What was given back, sold again and taken anew comes back: every number is what it was before.

    Redis went back to where the first four orders hold everything. One has expired since and its unit was sold again;
    one has expired and was paid late; one was cancelled, and its unit sold to an order that has no row yet; one has
    expired and its unit is being taken anew. Guards that recovery asks MySQL where orders stand, does what gives back
    first, and takes what somebody may have taken who has not noted it yet.
    """
    async with forgetful_redis(tmp_path) as redis:
        private = redis.settings(settings)
        async with (
            open_shop(private, stock=STOCK) as shop,
            shop.worker(private) as url,
            new_keeper(private, shop) as (keeper, _),
        ):
            sold_again, paid_late, cancelled, in_between = await buy_one_by_one(shop, url, "a", STOCK)
            await confirmed(shop)
            mark = redis.mark()

            await given_back(shop, keeper, sold_again, OrderStatus.EXPIRED)
            await until_sold(shop, url, "stored")
            await confirmed(shop)
            await given_back(shop, keeper, paid_late, OrderStatus.EXPIRED)
            await payment_rows.reacquired(shop.clients.orders, await taken_anew(shop, paid_late), now_ms=now_ms())
            await given_back(shop, keeper, cancelled, OrderStatus.CANCELLED)
            await until_sold(shop, url, "relayed")
            await shop.relayed()
            await given_back(shop, keeper, in_between, OrderStatus.EXPIRED)
            payment = await taken_anew(shop, in_between)
            before = numbers(await line(shop))

            await redis.go_back(mark)
            await recovered(shop)
            assert numbers(await line(shop)) == before == (0, STOCK + 4, 4, STOCK)
            assert (await shop.buy(url, "late")).code == "SOLD_OUT"
            holds = {
                user: (await attempt(shop, user))[4:] for user in ("a-0", "a-1", "a-2", "a-3", "stored", "relayed")
            }
            assert holds == {
                "a-0": (1, False),
                "a-1": (2, True),
                "a-2": (1, False),
                "a-3": (2, True),
                "stored": (1, True),
                "relayed": (1, True),
            }
            await payment_rows.reacquired(shop.clients.orders, payment, now_ms=now_ms())
            await confirmed(shop)
            await until_idle(keeper)
            await shop.assert_replays(url)
            await assert_settled(shop)


async def until_sold(shop: Shop, url: str, user: str) -> None:
    """Buy as soon as the worker knows that a unit is back."""

    async def sold() -> bool:
        return (await shop.buy(url, user)).status == 202

    await until_true(sold)


@pytest.mark.parametrize("lost", ["return", "deduction"])
async def test_second_deductions_since(settings: Settings, tmp_path: Path, lost: str) -> None:
    """A second deduction whose return was lost is given back once more; one that was lost itself is not.

    Guards that what was noted as given back is owed again, and that Redis is told of the deductions that it has lost.
    """
    async with forgetful_redis(tmp_path) as redis:
        private = redis.settings(settings)
        async with (
            open_shop(private, stock=STOCK) as shop,
            shop.worker(private) as url,
            new_keeper(private, shop) as (keeper, _),
        ):
            await buy_one_by_one(shop, url, "a", 1)
            await confirmed(shop)
            marks = [redis.mark()]
            await shop.clients.client.delete(keys.buyer(shop.id, "a-0"))
            assert (await shop.buy(url, "a-0")).status == 202
            await second_deduction_stored(shop)
            marks.append(redis.mark())
            assert numbers(await line(shop)) == (STOCK - 2, 2, 0, STOCK)
            await until_idle(keeper)
            assert numbers(await line(shop)) == (STOCK - 1, 2, 1, STOCK)

            await redis.go_back(marks[lost == "return"])
            await recovered(shop)
            await until_idle(keeper)
            assert (await line(shop)).remaining == STOCK - 1
            await shop.assert_replays(url)
            await assert_settled(shop)


async def second_deduction_stored(shop: Shop) -> None:
    """Have the consumer find an order's second deduction."""
    await shop.relayed()
    async with shop.consumer(), transaction(shop.clients.orders) as cursor:

        async def owed() -> bool:
            await cursor.execute(
                "SELECT COUNT(*) FROM stock_return WHERE campaign_id = %s AND origin <> ''", (shop.id,)
            )
            return bool((await cursor.fetchone())[0])

        await until_true(owed)
