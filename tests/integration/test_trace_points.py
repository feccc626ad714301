"""The way of a redemption, and of a draw, told from real stores."""

from consumers.saga_desk import SagaDesk
from consumers.trace import Tracer
from consumers.trace_facts import Story
from consumers.trace_rules import summary, timeline
from domain.draw_events import TOPIC_DRAWS_WON
from domain.events import TOPIC_POINTS_AWARDED
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED
from domain.saga import SagaStep
from domain.settings import Settings
from tests.support.dock import new_outbound
from tests.support.life import new_keeper, until_idle
from tests.support.lotteries import Kind, LotteryShop, open_lottery
from tests.support.redeemed import PRICE, open_redeemed
from tests.support.shop import Shop, until_true


async def traced(shop: Shop, order: str) -> Story:
    """Trace an order of a shop."""
    clients, settings = shop.clients, shop.settings
    tracer = Tracer(
        clients.client, clients.orders, settings.kafka, group=settings.consumer.group, points=clients.points
    )
    story = await tracer.trace(order)
    assert (story.away, story.is_known) == ({}, True)
    return story


def lines(story: Story) -> list[str]:
    """Return what is told, hop by hop."""
    return [f"{line.hop}: {line.text}" for line in timeline(story)]


async def test_every_hop_of_a_redemption(settings: Settings) -> None:
    """A redemption is told from its admission over its saga's steps and its points to what gives them back."""
    async with open_redeemed(settings) as redeemed:
        await redeemed.grant(0)
        order = await redeemed.admit(0)
        assert summary(await traced(redeemed.shop, order)) == "accepted; waits in the outbox for the relay."
        await redeemed.publish(order)
        story = await traced(redeemed.shop, order)
        (record,) = story.kafka
        assert (record.topic, record.consumed) == (TOPIC_REDEMPTIONS_ACCEPTED, False)
        await redeemed.take_in(order)
        await redeemed.commit()
        await redeemed.step(order, SagaStep.DEDUCT_POINTS)
        story = await traced(redeemed.shop, order)
        assert summary(story) == "accepted; its saga goes on by itself with create_order."
        assert [one.consumed for one in story.kafka] == [True]
        assert f"points: spend -{PRICE} of user {redeemed.user(0)}" in lines(story)
        assert "saga: deduct_points, fg_points: done" in lines(story)
        await redeemed.park(order, "a table is full")
        told = summary(await traced(redeemed.shop, order))
        assert told.startswith("accepted; its saga is parked before create_order (a table is full); `./flashgate saga")
        await SagaDesk(redeemed.clients.orders, redeemed.clients.points).retry(order)
        await redeemed.drive()
        story = await traced(redeemed.shop, order)
        assert summary(story) == "paid; its units are sold, and it waits for approval."
        saga = [one for one in lines(story) if one.startswith("saga: ")]
        assert saga[-2:] == ["saga: ended", f"saga: confirmed, version {story.saga.version if story.saga else 0}"]


async def test_points_on_their_way_back(settings: Settings) -> None:
    """Of a redemption that was rejected it is told that its points have to go back, and that they did."""
    async with open_redeemed(settings) as redeemed, new_keeper(settings, redeemed.shop) as (keeper, _):
        order = await redeemed.redeem(0)
        story = await traced(redeemed.shop, order)
        assert summary(story) == "paid; its units are sold, and it waits for approval."
        assert any(one.startswith("payment: p-") and f"{PRICE} points" in one for one in lines(story))
        await new_outbound(settings, redeemed.clients).reject([order], "ann", "broken")
        assert f"its {PRICE} points have to go back since" in summary(await traced(redeemed.shop, order))
        await until_idle(keeper)
        story = await traced(redeemed.shop, order)
        assert summary(story).startswith("refunded")
        assert f"points: refund +{PRICE} of user {redeemed.user(0)}" in lines(story)


async def test_way_of_a_draw(settings: Settings) -> None:
    """A draw that won is told with its line in the log, its prize, its award and where the points are."""
    async with open_lottery(settings, kinds=[Kind("gold", 5, 1, 50)], no_prize_weight=0) as shop, shop.worker() as url:
        said = await shop.draw(url, "ann")
        draw = said.body["draw_id"]
        await shop.relayed()
        story = await traced(shop, draw)
        assert [one.topic for one in story.kafka] == [TOPIC_DRAWS_WON, TOPIC_POINTS_AWARDED]
        assert story.draw is not None
        assert (story.draw.points, story.draw.seq) == (50, said.body["seq"])
        assert any(f"won gold, worth 50 points; line {story.draw.seq} of draws.log" in one for one in lines(story))
        assert any("points.awarded" in one and "its award" in one for one in lines(story))
        await assert_awarded(shop)
        story = await traced(shop, draw)
        assert summary(story) == (
            "confirmed: a prize, for which nothing is to be paid; its 50 points are in the account."
        )
        assert "points: award +50 of user ann" in lines(story)


async def assert_awarded(shop: LotteryShop) -> None:
    """Have prizes and awards be stored."""
    async with shop.prize_consumers():

        async def there() -> bool:
            return bool(await shop.prizes_stored()) and bool(await shop.awards())

        await until_true(there)
