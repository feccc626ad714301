"""The reconciler on real servers, of campaigns that know points: redemptions and sagas, prizes and awards."""

from pathlib import Path

import orjson

from adapters.kafka_reader import TopicReader
from adapters.mysql import transaction
from consumers.reconcile import reconcile, repair
from consumers.reconcile_report import CampaignReport
from domain import keys
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED, decode_redemption_accepted
from domain.saga import SagaStatus, SagaStep
from domain.settings import Settings
from lifecycle.order_rows import NO_ORIGIN
from tests.support.life import new_keeper, until_idle
from tests.support.lotteries import Kind, open_lottery
from tests.support.operator import command
from tests.support.redeemed import GRANTED, PRICE, Redeemed, open_redeemed
from tests.support.shop import until_true


async def report(redeemed: Redeemed) -> CampaignReport:
    """Hold the stores against each other."""
    (campaign,) = (await reconcile(redeemed.settings, [redeemed.id])).campaigns
    return campaign


async def test_every_hop_of_a_redemption(settings: Settings, tmp_path: Path) -> None:
    """A redemption is in flight from its admission to its order's row, then it is whole; its points are counted."""
    async with open_redeemed(settings) as redeemed:
        await redeemed.grant(0)
        order = await redeemed.admit(0, 2)
        told = await report(redeemed)
        assert (told.drift, told.in_flight, told.skus[0].outbox) == (0, 1, 1)
        await redeemed.publish(order)
        told = await report(redeemed)
        assert (told.drift, told.in_flight, told.kafka_distinct) == (0, 1, 1)
        await redeemed.take_in(order)
        await redeemed.commit()
        for step in (SagaStep.DEDUCT_POINTS, SagaStep.CREATE_ORDER, SagaStep.CREATE_PAYMENT):
            told = await report(redeemed)
            assert (told.drift, told.in_flight) == (0, 1 if told.mysql_rows == 0 else 0), step
            await redeemed.step(order, step)
        await redeemed.turn(order, SagaStatus.CONFIRMED)
        assert (await report(redeemed)).drift == 0
        await redeemed.step(order, SagaStep.CONFIRM_ORDER)
        told = await report(redeemed)
        assert (told.drift, told.in_flight, told.confirmed, told.explanations) == (0, 0, 1, ())
        assert (told.points_spent, told.points_awarded, told.points_drift) == (2 * PRICE, 0, 0)
        code, lines = await command(settings, tmp_path, "reconcile", "--campaign", redeemed.id, "--json")
        assert code == 0
        assert f"{redeemed.id}: points spent 600, awarded 0, orders that differ 0" in lines
        assert orjson.loads(lines[-1])["points_spent"] == 2 * PRICE


async def test_open_saga_is_in_flight(settings: Settings) -> None:
    """A saga that has not ended is in flight though its record was handled, parked or not; without it it is missing.

    Guards what the reconciler knows of sagas: without it every redemption under way would be drift.
    """
    async with open_redeemed(settings) as redeemed:
        order = await redeemed.admit(0)
        await redeemed.publish(order)
        await redeemed.take_in(order)
        await redeemed.commit()
        told = await report(redeemed)
        assert (told.drift, told.in_flight) == (0, 1)
        async with transaction(redeemed.clients.orders) as cursor:
            await cursor.execute("UPDATE saga SET parked_at_ms = 1, next_at_ms = NULL WHERE saga_id = %s", (order,))
        told = await report(redeemed)
        assert (told.drift, told.in_flight) == (0, 1)
        assert told.explanations == ("1 order whose saga waits for a person: flashgate saga list --parked",)
        async with transaction(redeemed.clients.orders) as cursor:
            await cursor.execute("DELETE FROM saga WHERE saga_id = %s", (order,))
        told = await report(redeemed)
        assert (told.drift, told.in_flight, told.missing_ids) == (1, 0, (order,))


async def test_compensated_saga_is_whole(settings: Settings) -> None:
    """A redemption that was turned back, after its points were taken or before, is no drift at any moment."""
    async with open_redeemed(settings) as redeemed, new_keeper(settings, redeemed.shop) as (keeper, _):
        orders = []
        for which in range(2):
            await redeemed.grant(which)
            orders.append(await redeemed.admit(which))
        await redeemed.publish(*orders)
        await redeemed.take_in(*orders)
        await redeemed.commit()
        await redeemed.step(orders[0], SagaStep.DEDUCT_POINTS)
        for order in orders:
            await redeemed.turn_back(order)
        told = await report(redeemed)
        assert (told.drift, told.in_flight, told.pending_returns) == (0, 0, 2)
        await until_idle(keeper)
        told = await report(redeemed)
        assert (told.drift, told.released, told.points_spent, told.pending_returns) == (0, 2, 0, 0)


async def test_points_that_differ(settings: Settings) -> None:
    """Points that were spent for nothing, or not spent, are drift by the order; a refund under way is not.

    Guards the comparison of fg_points with the orders.
    """
    async with open_redeemed(settings) as redeemed, new_keeper(settings, redeemed.shop) as (keeper, _):
        orders = [await redeemed.redeem(which) for which in range(3)]
        await redeemed.publish(*orders)
        await redeemed.commit()
        assert (await report(redeemed)).points_spent == 3 * PRICE
        async with transaction(redeemed.clients.points) as cursor:  # one was never taken, one another number
            await cursor.execute("DELETE FROM points_ledger WHERE ref_id = %s", (orders[0],))
            await cursor.execute("UPDATE points_ledger SET delta = -1 WHERE ref_id = %s", (orders[1],))
        told = await report(redeemed)
        assert (told.drift, told.points_drift, told.points_spent) == (2, 2, PRICE + 1)
        assert {(one.order_id, one.kind) for one in told.faults} == {(one, "points") for one in orders[:2]}
        text = told.explanations[0]
        assert f"{orders[0]} (0 in the ledger, {PRICE} due)" in text
        assert "fg_orders -> fg_points" in text
        async with transaction(redeemed.clients.orders) as cursor:  # as if these went back
            await cursor.execute(
                "UPDATE payment SET status = 'refund_due', next_at_ms = %s WHERE order_id IN %s", (1 << 50, orders[:2])
            )
        assert (await report(redeemed)).drift == 0
        await until_idle(keeper)


async def test_lost_redemption_is_made_anew(settings: Settings) -> None:
    """A redemption that no store has but Redis is published anew, as a redemption with its price in points.

    One that has a saga is left alone.
    """
    async with open_redeemed(settings) as redeemed:
        await redeemed.grant(0)
        order = await redeemed.admit(0, 2)
        # Trimmed by hand before a relay came to it.
        last = await redeemed.clients.client.hget(keys.campaign(redeemed.id), "last_outbox_id")
        await redeemed.clients.client.xtrim(keys.outbox(redeemed.id), maxlen=0, approximate=False)
        await redeemed.clients.client.hset(keys.relay(redeemed.id), "checkpoint", last)
        assert [one.kind for one in (await report(redeemed)).faults] == ["unrelayed"]
        found = await repair(settings, [redeemed.id])
        assert [(one.kind, one.done) for one in found.repairs] == [("reissue", True)]
        assert (found.drift, found.in_flight) == (0, 1)
        events = []
        async for record in TopicReader(settings.kafka, TOPIC_REDEMPTIONS_ACCEPTED).read():
            event = decode_redemption_accepted(record.value)
            events += [event] if event.campaign_id == redeemed.id else []
        assert len(events) == 1
        event = events[0]
        assert (event.order_id, event.points, event.quantity, event.outbox_id) == (order, PRICE, 2, NO_ORIGIN)
        redeemed.events[order] = event
        await redeemed.take_in(order)
        await redeemed.commit()
        await redeemed.carry_through(order)
        assert (await report(redeemed)).drift == 0
        assert await redeemed.balance() == GRANTED - 2 * PRICE


async def test_redemption_with_a_saga_is_not_made_anew(settings: Settings) -> None:
    """A redemption whose saga has ended and whose order is gone is not published anew: its saga would do nothing."""
    async with open_redeemed(settings) as redeemed:
        order = await redeemed.redeem(0)
        await redeemed.publish(order)
        await redeemed.commit()
        async with transaction(redeemed.clients.orders) as cursor:
            for table in ("orders", "stock_ledger", "payment"):
                await cursor.execute(f"DELETE FROM {table} WHERE order_id = %s", (order,))  # noqa: S608
        found = await repair(settings, [redeemed.id])
        reissues = [one for one in found.repairs if one.kind == "reissue"]
        assert [(one.done, one.text) for one in reissues] == [
            (False, f"not published anew: it has a saga; see `saga show {order}`")
        ]
        assert found.drift > 0


async def test_prizes_and_awards(settings: Settings) -> None:
    """Awards in the ledger equal prizes won: one on its way is no drift, one that is gone or too high is.

    Guards the comparison of fg_points with the draws.
    """
    async with open_lottery(settings, kinds=[Kind("gold", 5, 1, 50)], no_prize_weight=0) as shop, shop.worker() as url:
        draws = [(await shop.draw(url, user)).body["draw_id"] for user in ("ann", "ben", "cat")]

        async def look() -> CampaignReport:
            (campaign,) = (await reconcile(settings, [shop.id])).campaigns
            return campaign

        assert (await look()).drift == 0
        await shop.relayed()
        told = await look()
        assert (told.drift, told.points_awarded) == (0, 0)
        async with shop.prize_consumers():

            async def there() -> bool:
                return len(await shop.prizes_stored()) == len(await shop.awards()) == len(draws)

            await until_true(there)
            await until_true(shop.settled)
        told = await look()
        assert (told.drift, told.points_awarded, told.points_drift) == (0, 150, 0)
        async with transaction(shop.clients.points) as cursor:
            await cursor.execute("DELETE FROM points_ledger WHERE ref_id = %s", (draws[0],))
            await cursor.execute("UPDATE points_ledger SET delta = 51 WHERE ref_id = %s", (draws[1],))
        told = await look()
        assert (told.drift, told.points_awarded, told.points_drift) == (2, 101, 2)
        assert {one.order_id for one in told.faults} == set(draws[:2])
