"""Fault 5 for redemptions: Redis has lost its tail, and Kafka has the redemptions in a topic of their own."""

import secrets
from pathlib import Path

from adapters.mysql import transaction
from adapters.order_tables import INSERT_ORDERS, NONCE_BYTES, order_values
from domain.order_state import OrderStatus
from domain.redemption_events import RedemptionAccepted
from domain.settings import Settings
from tests.support.forgetful import forgetful_redis
from tests.support.life import now_ms
from tests.support.redeeming import PRICE, RedemptionShop, open_redemption
from tests.support.relays import GAPS, counted
from tests.support.waiting import in_time


async def written(shop: RedemptionShop, event: RedemptionAccepted, status: OrderStatus) -> None:
    """Write the order's row, as its saga leaves it."""
    values = order_values(event.order(), status, 2, secrets.token_bytes(NONCE_BYTES), now_ms())
    async with transaction(shop.clients.orders) as cursor:
        await cursor.execute(INSERT_ORDERS, (*values, None))


async def test_redemptions_accepted_since(settings: Settings, tmp_path: Path) -> None:
    """What is in Kafka comes back and is replayed: held where the saga runs or is done, given back where it rejected.

    Before that nobody is told that his points are short, for his acceptance may be among what is lost.

    Guards that recovery asks the topic of the campaign's kind, and that refusals wait for it.
    """
    async with forgetful_redis(tmp_path) as redis:
        private = redis.settings(settings)
        async with open_redemption(private, stock=5) as shop, shop.worker(private) as url:
            gaps = counted(GAPS)
            for name in ("before", "running", "paid", "rejected", "new", "last", "late"):
                await shop.grant(name, PRICE)
            assert (await shop.redeem(url, "before")).status == 202
            await shop.relayed()
            mark = redis.mark()
            for name in ("running", "paid", "rejected"):
                assert (await shop.redeem(url, name)).status == 202
            await shop.relayed()
            by_user = {event.user_id: event for event in await shop.redemptions_published()}
            await written(shop, by_user[shop.user("paid")], OrderStatus.PAID)
            await written(shop, by_user[shop.user("rejected")], OrderStatus.REJECTED)
            await shop.spend("paid", PRICE, by_user[shop.user("paid")].order_id)
            await redis.go_back(mark)
            for name in ("new", "paid"):
                assert (await shop.redeem(url, name)).status == 503
            async with shop.relay():
                await in_time(shop.outbox_is_relayed, "the gate stays closed")
            line = await shop.line()
            assert (line.remaining, line.taken - line.returned, line.price_cents) == (2, 3, PRICE)
            await shop.assert_redeemed_again(url)
            for name in ("new", "last"):
                assert (await shop.redeem(url, name)).status == 202
            assert (await shop.redeem(url, "late")).code == "SOLD_OUT"
            await shop.assert_redeemed_again(url)
            await shop.relayed()
            events = {event.order_id for event in await shop.redemptions_published()}
            assert (events, counted(GAPS)) == (set(shop.accepted), gaps)
