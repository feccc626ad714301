"""A redemption from the buyer's request to Kafka: three checks at the same time, admission, replay, relay."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson
import pytest
from prometheus_client import REGISTRY

from adapters.campaign_stock import move_campaign
from adapters.kafka_reader import TopicReader
from cli.campaign import campaign_status
from domain import keys
from domain.errors import BackendError
from domain.events import dead_topic
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED
from domain.settings import Settings
from gateway.app import GatewayWorker
from stack.ports import free_port
from tests.support.lanes import BOTH_LANES
from tests.support.lotteries import open_lottery
from tests.support.redeeming import CHECKS, PRICE, Held, open_redemption, redemption_file, replace_look
from tests.support.relays import POISON, counted
from tests.support.shop import SKU, Said, open_shop
from tests.support.waiting import in_time
from warehouse.campaigns import load_into


def code_of(said: Said) -> tuple[int, str]:
    """Return an answer's status and code."""
    return said.status, said.code


@BOTH_LANES
async def test_accepted_relayed_and_told(settings: Settings) -> None:
    """Who has the points gets 202 and the same again; Kafka has it once, in points, and not among the orders."""
    async with open_redemption(settings, per_user=2) as shop, shop.worker() as url:
        await shop.grant("ann", 2 * PRICE)
        said = await shop.redeem(url, "ann", quantity=2)
        order_id = said.body["order_id"]
        assert (said.status, said.body) == (202, {"order_id": order_id, "status": "accepted"})
        assert said.headers["Location"] == f"/v1/orders/{order_id}"
        await shop.assert_redeemed_again(url)
        assert code_of(await shop.redeem(url, "ann", quantity=1)) == (422, "KEY_REUSED")
        told = await shop.status(url, order_id, shop.user("ann"))
        assert (told.body["status"], told.body["quantity"]) == ("accepted", 2)
        (sku,) = (await shop.get(url, f"/v1/campaigns/{shop.id}")).body["skus"]
        assert sku == {"sku_id": SKU, "state": "on_sale", "points_price": PRICE, "per_user": 2}
        (numbers,) = (await campaign_status(shop.clients, shop.id))["skus"]
        assert (numbers["points_price"], "price_cents" in numbers, numbers["taken"]) == (PRICE, False, 2)
        await shop.relayed()
        published = await shop.redemptions_published()
        assert len(published) == 1
        event = published[0]
        assert (event.order_id, event.user_id, event.points_in_all) == (order_id, shop.user("ann"), 2 * PRICE)
        assert await shop.published() == []


async def test_a_changed_price_counts_from_then_on(settings: Settings) -> None:
    """A file with another price in points changes what the next redemption costs; one with other cents changes none."""
    async with open_redemption(settings) as shop, shop.worker() as url:
        await shop.grant("ann", PRICE)
        await shop.grant("ben", PRICE)
        assert (await shop.redeem(url, "ann")).status == 202
        same = msgspec.structs.replace(
            shop.campaign, sku=tuple(msgspec.structs.replace(sku, price_cents=1) for sku in shop.campaign.sku)
        )
        assert await load_into(shop.clients, same) in {"updated", "unchanged"}
        assert (await shop.line()).price_cents == PRICE
        assert await load_into(shop.clients, redemption_file(shop.id, price=PRICE + 1)) == "updated"
        assert code_of(await shop.redeem(url, "ben")) == (409, "POINTS_SHORT")
        await shop.grant("ben", 1)
        assert (await shop.redeem(url, "ben")).status == 202
        await shop.relayed()
        assert sorted(event.points for event in await shop.redemptions_published()) == [PRICE, PRICE + 1]


@BOTH_LANES
async def test_each_kind_of_campaign_has_its_call(settings: Settings) -> None:
    """Neither call takes the other's campaign; the right call is named, and nothing is taken."""
    async with (
        open_redemption(settings) as shop,
        open_shop(settings) as sale,
        open_lottery(settings) as lottery,
        shop.worker() as url,
    ):
        await shop.grant("ann", PRICE)
        for said, call in (
            (await shop.buy(url, shop.user("ann")), "POST /v1/redemptions"),
            (await shop.redeem(url, "ann", campaign=sale.id), "POST /v1/orders"),
            (await shop.redeem(url, "ann", campaign=lottery.id), "POST /v1/draws"),
            (await lottery.draw(url, "ann", campaign=shop.id), "POST /v1/redemptions"),
        ):
            assert code_of(said) == (400, "INVALID")
            assert call in said.body["detail"]
        assert code_of(await shop.redeem(url, "ann", campaign="no-such")) == (404, "NOT_FOUND")
        assert (await shop.line()).taken == 0


@BOTH_LANES
@pytest.mark.parametrize("body", [b"", b"{}", b'{"campaign_id":"c-1","sku_id":"box","quantity":0}', b"[" * 8_000])
async def test_bodies_that_are_none(settings: Settings, body: bytes) -> None:
    """What is no redemption is refused as invalid, and so is one without a key or a token."""
    async with open_redemption(settings) as shop, shop.worker() as url:
        path, buyer = "/v1/redemptions", shop.bearer("ann")
        assert code_of(await shop.change(url, path, {**buyer, "Idempotency-Key": "k"}, body)) == (400, "INVALID")
        good = orjson.dumps({"campaign_id": shop.id, "sku_id": SKU, "quantity": 1})
        assert (await shop.change(url, path, buyer, good)).code == "KEY_MISSING"
        assert (await shop.change(url, path, {"Idempotency-Key": "k"}, good)).code == "UNAUTHENTICATED"
        for field, value, code in (("quantity", 1_001, 400), ("sku_id", "none", 404), ("quantity", 2**63, 400)):
            bad = orjson.dumps({"campaign_id": shop.id, "sku_id": SKU, "quantity": 1, field: value})
            assert (await shop.change(url, path, {**buyer, "Idempotency-Key": "k"}, bad)).status == code


@BOTH_LANES
async def test_points_short(settings: Settings) -> None:
    """One point too few, or no account, is refused, and it is said which; nothing is taken, and the key is free."""
    async with open_redemption(settings, per_user=2) as shop, shop.worker() as url:
        await shop.grant("ann", 2 * PRICE - 1)
        short, nobody = await shop.redeem(url, "ann", quantity=2), await shop.redeem(url, "ben")
        assert [code_of(short), code_of(nobody)] == [(409, "POINTS_SHORT")] * 2
        assert (str(2 * PRICE) in short.body["detail"], str(2 * PRICE - 1) in short.body["detail"]) == (True, True)
        assert "no points account" in nobody.body["detail"]
        assert (await shop.line()).taken == 0
        await shop.grant("ann", 1)
        assert (await shop.redeem(url, "ann", quantity=2)).status == 202
        assert (await shop.line()).taken == 2


# -- at the same time ----------------------------------------------------------------------------------------------


@BOTH_LANES
async def test_no_check_waits_for_another(settings: Settings) -> None:
    """Each of the three comes back only after all three have begun; so they do run at the same time."""
    async with (
        open_redemption(settings) as shop,
        shop.serving(shop.with_gateway(check_timeout_s=5.0)) as (url, worker),
    ):
        await shop.grant("ann", PRICE)
        held = Held(worker)
        for name in CHECKS:
            held.hold(name, lambda: held.has("begun", *CHECKS))
        assert (await shop.redeem(url, "ann")).status == 202
        assert Counter(held.told) == Counter((what, name) for what in ("begun", "back") for name in CHECKS)
        assert {what for what, _ in held.told[:3]} == {"begun"}


@pytest.mark.parametrize("slow", CHECKS)
async def test_a_slow_check_holds_up_no_other(settings: Settings, slow: str) -> None:
    """While one of the three is away the two others come back, and the answer waits for all."""
    async with (
        open_redemption(settings) as shop,
        shop.serving(shop.with_gateway(check_timeout_s=5.0)) as (url, worker),
    ):
        await shop.grant("ann", PRICE)
        held, others = Held(worker), [name for name in CHECKS if name != slow]
        held.hold(slow, lambda: held.has("back", *others))
        for name in others:
            held.hold(name, lambda: True)
        assert (await shop.redeem(url, "ann")).status == 202
        assert held.told[-1] == ("back", slow)


async def test_checks_are_made_for_all_who_wait(settings: Settings) -> None:
    """What comes in while a check is away is asked together, each thing once: a round trip serves many."""
    async with open_redemption(settings, stock=30) as shop, shop.serving() as (url, worker):
        names, asked, go_on = [f"u-{n}" for n in range(20)], list[list[Any]](), asyncio.Event()
        for name in names:
            await shop.grant(name, PRICE)
        look = worker.redemptions.points.look

        async def slowly(users: Sequence[str]) -> Any:
            asked.append(list(users))
            await go_on.wait()
            return await look(users)

        replace_look(worker, "points", slowly)
        first = asyncio.create_task(shop.redeem(url, names[0]))
        await in_time(lambda: asyncio.sleep(0, len(asked) == 1), "the points are not asked for")
        rest = [asyncio.create_task(shop.redeem(url, name)) for name in (*names[1:], names[1])]
        await in_time(lambda: asyncio.sleep(0, worker.redemptions.checking == 21), "not all are being checked")
        go_on.set()
        said = await asyncio.gather(first, *rest)
        assert [one.status for one in said] == [202] * 21
        assert [sorted(users) for users in asked] == [[shop.user(names[0])], sorted(map(shop.user, names[1:]))]
        assert (await shop.line()).taken == 20
        assert (worker.redemptions.checking, worker.desk.waiting) == (0, 0)


async def test_a_stale_balance_is_let_through(settings: Settings) -> None:
    """Points that are spent while the checks are under way do not stop the admission: the saga decides on them."""
    async with open_redemption(settings) as shop, shop.serving() as (url, worker):
        await shop.grant("ann", PRICE)
        look = worker.redemptions.points.look

        async def spent_meanwhile(users: Sequence[str]) -> Any:
            found = await look(users)
            await shop.spend("ann", PRICE, f"{shop.id}-other")
            return found

        replace_look(worker, "points", spent_meanwhile)
        assert (await shop.redeem(url, "ann")).status == 202
        replace_look(worker, "points", look)
        assert code_of(await shop.redeem(url, "ann", "key-2")) == (409, "POINTS_SHORT")
        await shop.assert_redeemed_again(url)
        await shop.relayed()
        assert len(await shop.redemptions_published()) == 1


# -- limits --------------------------------------------------------------------------------------------------------


@BOTH_LANES
@pytest.mark.parametrize(
    ("limits", "per_user", "code"),
    [
        ("user_per_s = 1000\nuser_burst = 1000", 4, "LIMIT_REACHED"),
        ("user_per_s = 1000\nuser_burst = 1000\nunpaid_per_user = 4", 10, "LIMIT_REACHED"),
        ("user_per_s = 1\nuser_burst = 4\nunpaid_per_user = 10", 10, "RATE_LIMITED"),
    ],
)
async def test_ten_keys_at_once(settings: Settings, limits: str, per_user: int, code: str) -> None:
    """One user with ten keys at once, each twice: the purchase limit, the unpaid limit and his rate hold exactly."""
    async with (
        open_redemption(settings, stock=50, per_user=per_user, limits=limits) as shop,
        shop.serving() as (url, worker),
    ):
        await shop.grant("ann", 100 * PRICE)
        look = worker.redemptions.points.look

        async def when_all_are_here(users: Sequence[str]) -> Any:
            await in_time(lambda: asyncio.sleep(0, worker.redemptions.checking == 20), "not all are being checked")
            return await look(users)

        replace_look(worker, "points", when_all_are_here)
        replace_timeout(worker, 60.0)
        said = await asyncio.gather(*(shop.redeem(url, "ann", f"k-{n}") for n in range(10) for _ in range(2)))
        assert Counter(one.code for one in said) == {"ACCEPTED": 8, code: 12}
        assert len(shop.accepted) == (await shop.line()).taken == 4


def replace_timeout(worker: GatewayWorker, seconds: float) -> None:
    """Have the checks of a worker wait for longer."""
    for name in CHECKS:
        getattr(worker.redemptions, name)._timeout_s = seconds


async def test_places_for_checks_are_bounded(settings: Settings) -> None:
    """When as many are being checked as may be, the next is turned away at once; an order of a sale is still taken."""
    async with (
        open_redemption(settings) as shop,
        open_shop(settings) as sale,
        shop.serving(shop.with_gateway(checks_inflight_max=2)) as (url, worker),
    ):
        for name in ("ann", "ben", "cat"):
            await shop.grant(name, PRICE)
        replace_timeout(worker, 10.0)
        held, free = Held(worker), list[bool]()
        held.hold("points", lambda: bool(free))
        waiting = [asyncio.create_task(shop.redeem(url, name)) for name in ("ann", "ben")]
        await in_time(lambda: asyncio.sleep(0, worker.redemptions.checking == 2), "they are not checked")
        turned_away = await shop.redeem(url, "cat")
        assert (code_of(turned_away), "Retry-After" in turned_away.headers) == ((503, "BUSY"), True)
        assert (await sale.buy(url, "ann")).status == 202
        await held.let_go(lambda: free.append(True))
        assert [(await one).status for one in waiting] == [202, 202]
        assert (await shop.redeem(url, "cat")).status == 202


# -- what is refused, and who is answered all the same ---------------------------------------------------------------


async def test_checks_see_what_the_view_does_not(settings: Settings) -> None:
    """A worker whose view is old asks Redis: sold out, paused and ended are refused by the checks, and counted."""
    async with open_redemption(settings, stock=1) as shop, shop.serving() as (url, worker):
        for name in ("ann", "ben"):
            await shop.grant(name, PRICE)
        await in_time(lambda: asyncio.sleep(0, shop.id in worker.campaigns.views), "no view")
        freeze(worker)
        before = checks_counted(worker)
        assert (await shop.redeem(url, "ann")).status == 202
        refused = {}
        for verb, code in (("", "SOLD_OUT"), ("pause", "PAUSED"), ("close", "ENDED")):
            if verb:
                await move_campaign(shop.clients.channel, shop.id, verb)
            refused[code] = code_of(await shop.redeem(url, "ben"))
            await shop.assert_redeemed_again(url)
        assert refused == {"SOLD_OUT": (409, "SOLD_OUT"), "PAUSED": (403, "PAUSED"), "ENDED": (403, "ENDED")}
        assert checks_counted(worker) - before == {
            ("stock", "passed"): 1, ("stock", "sold_out"): 6, ("points", "passed"): 7,
            ("campaign", "passed"): 3, ("campaign", "paused"): 2, ("campaign", "ended"): 2,
        }  # fmt: skip


def freeze(worker: GatewayWorker) -> None:
    """Have a worker learn nothing more of its campaigns, and think its views fresh."""

    async def nothing(*_args: Any) -> None:
        await asyncio.sleep(0)

    worker.campaigns.refresh = nothing  # type: ignore[method-assign, assignment]
    for campaign_id, view in worker.campaigns.views.items():
        worker.campaigns.views[campaign_id] = dataclasses.replace(view, on_sale_until_s=float("inf"))


def checks_counted(worker: GatewayWorker) -> Counter[tuple[str, str]]:
    """Return (check, outcome) → how often, of this process."""
    worker._metrics.tell()
    (family,) = [one for one in REGISTRY.collect() if one.name == "flashgate_redemption_checks"]
    return Counter(
        {
            (sample.labels["check"], sample.labels["outcome"]): int(sample.value)
            for sample in family.samples
            if sample.name.endswith("_total")
        }
    )


@BOTH_LANES
async def test_replayed_before_refused(settings: Settings) -> None:
    """An accepted key gets its 202 although it is sold out, ended, or its points are spent; another payload gets 422.

    Guards that the buyer's record is asked before a redemption is refused for its points.
    """
    async with open_redemption(settings, stock=2, per_user=2) as shop, shop.worker() as url:
        for name in ("ann", "ben", "cat"):
            await shop.grant(name, PRICE)
        order_id = (await shop.redeem(url, "ann")).body["order_id"]
        await shop.spend("ann", PRICE, order_id)
        await shop.assert_redeemed_again(url)
        assert code_of(await shop.redeem(url, "ann", quantity=2)) == (422, "KEY_REUSED")
        assert code_of(await shop.redeem(url, "ann", "key-2")) == (409, "POINTS_SHORT")
        assert (await shop.redeem(url, "ben")).status == 202
        assert code_of(await shop.redeem(url, "cat")) == (409, "SOLD_OUT")
        await shop.assert_redeemed_again(url)
        await move_campaign(shop.clients.channel, shop.id, "close")

        async def closed() -> bool:
            return (await shop.redeem(url, "cat")).code == "ENDED"

        await in_time(closed, "the worker does not learn that it is over")
        await shop.assert_redeemed_again(url)
        async with shop.worker() as other_url:
            await shop.assert_redeemed_again(other_url)
        assert (await shop.line()).taken == 2


@BOTH_LANES
@pytest.mark.parametrize("away", CHECKS)
@pytest.mark.parametrize("how", ["gone", "silent"])
async def test_a_store_that_does_not_answer(settings: Settings, away: str, how: str) -> None:
    """While one of the three cannot be asked nothing is taken, and nobody is refused for good; replays go on."""
    async with (
        open_redemption(settings) as shop,
        shop.serving(shop.with_gateway(check_timeout_s=0.3)) as (url, worker),
    ):
        for name in ("ann", "ben"):
            await shop.grant(name, PRICE)
        look = getattr(worker.redemptions, away).look
        replace_timeout(worker, 30.0)
        assert (await shop.redeem(url, "ann")).status == 202

        async def gone(_wanted: Sequence[Any]) -> Any:
            if how == "gone":
                raise BackendError("away")
            await asyncio.Event().wait()

        replace_look(worker, away, gone)
        getattr(worker.redemptions, away)._timeout_s = 0.05
        for name in ("ben", "no-account") if away == "points" else ("ben",):
            said = await shop.redeem(url, name)
            assert (code_of(said), "Retry-After" in said.headers) == ((503, "BUSY"), True)
        await shop.assert_redeemed_again(url)
        assert ((await shop.line()).taken, worker.redemptions.checking) == (1, 0)
        replace_look(worker, away, look)
        getattr(worker.redemptions, away)._timeout_s = 30.0
        assert (await shop.redeem(url, "ben")).status == 202


async def test_without_the_points_store(settings: Settings) -> None:
    """A worker that cannot reach fg_points takes no redemption, and its sales do not mind."""
    nowhere = f"mysql://nobody:none@127.0.0.1:{free_port()}/fg_points"
    away = msgspec.structs.replace(settings, mysql=msgspec.structs.replace(settings.mysql, points_dsn=nowhere))
    async with open_redemption(settings) as shop, open_shop(settings) as sale, shop.worker(away) as url:
        await shop.grant("ann", PRICE)
        assert code_of(await shop.redeem(url, "ann")) == (503, "BUSY")
        assert (await sale.buy(url, "ann")).status == 202
        assert (await shop.line()).taken == 0


# -- the relay -----------------------------------------------------------------------------------------------------


async def test_entries_that_are_no_redemption(settings: Settings) -> None:
    """An entry whose price is none in points goes to the dead letters of redemptions, and holds up no other."""
    async with open_redemption(settings) as shop, shop.worker() as url:
        for name in ("ann", "ben"):
            await shop.grant(name, PRICE)
        poison, mark = counted(POISON), f"{shop.id} by hand".encode()
        assert (await shop.redeem(url, "ann")).status == 202
        free = msgspec.msgpack.encode([["0" * 32, "0" * 16, SKU, 1, "ann", 0, 1]])
        for orders in (free, b"not packed"):
            await shop.clients.client.xadd(keys.outbox(shop.id), {"mark": mark, "t": "1", "orders": orders})
        assert (await shop.redeem(url, "ben")).status == 202
        async with shop.relay():
            await in_time(shop.outbox_is_relayed, "an entry that is no redemption holds up those after it")
        assert counted(POISON) == poison + 2
        dead = [
            record.value
            async for record in TopicReader(settings.kafka, dead_topic(TOPIC_REDEMPTIONS_ACCEPTED)).read()
            if record.value is not None and mark in record.value
        ]
        assert len(dead) == 2
        assert {event.order_id for event in await shop.redemptions_published()} == set(shop.accepted)
        assert await shop.published() == []


async def test_a_campaign_of_no_kind_is_not_relayed(settings: Settings) -> None:
    """Where Redis does not say of which kind a campaign is nothing goes to a topic by guess, and all goes later."""
    async with open_redemption(settings) as shop, open_shop(settings) as sale:
        await shop.grant("ann", PRICE)
        async with shop.worker() as url:
            assert (await shop.redeem(url, "ann")).status == 202
            assert (await sale.buy(url, "ann")).status == 202
        await shop.clients.client.hdel(keys.campaign(shop.id), "kind")
        async with shop.relay() as relay:
            await in_time(sale.outbox_is_relayed, "others are not relayed")
            assert (shop.id in relay.owned, sale.id in relay.owned) == (False, True)
            await shop.clients.client.hset(keys.campaign(shop.id), "kind", "redemption")
            await in_time(shop.outbox_is_relayed, "it is not relayed")
        assert (len(await shop.redemptions_published()), await shop.published()) == (1, [])
