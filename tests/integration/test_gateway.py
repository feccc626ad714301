"""The buyer plane as buyers meet it: a real worker, a real Redis."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest

from adapters.campaign_stock import move_campaign, top_up
from adapters.holds import release
from adapters.stock import read_snapshot
from domain.campaign import parse_campaign
from domain.settings import Settings
from tests.support.lanes import BOTH_LANES
from tests.support.shop import SKU, Shop, campaign_text, open_shop, until_true
from warehouse.campaigns import load_into

pytestmark = BOTH_LANES

GOOD = '{"campaign_id":"%s","sku_id":"box","quantity":1}'


async def stock_untouched(shop: Shop) -> bool:
    """Tell whether nothing was taken."""
    snapshot = await read_snapshot(shop.clients.client, shop.id)
    assert snapshot is not None
    return all(line.taken == 0 and line.remaining == line.allocated for line in snapshot.stock.values())


@pytest.mark.parametrize(
    "quantity", ["0", "-5", "1.5", "true", "9223372036854775808", '"1"', "null", "NaN", "1e400", "[1]", "1001"]
)
async def test_bad_quantities_change_nothing(settings: Settings, quantity: str) -> None:
    """Fault 42: quantities that are no small whole number are refused with 400, and nothing is taken."""
    async with open_shop(settings) as shop, shop.worker() as url:
        body = f'{{"campaign_id":"{shop.id}","sku_id":"box","quantity":{quantity}}}'
        said = await shop.post(url, body.encode(), {**shop.bearer("ann"), "Idempotency-Key": "k"})
        assert (said.status, said.code) == (400, "INVALID")
        assert said.headers["Content-Type"] == "application/problem+json"
        assert await stock_untouched(shop)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"campaign_id":"%s","sku_id":"box"}',
        b'{"campaign_id":"%s","sku_id":"box","quantity":1,"price":1}',
        b'{"campaign_id":"%s","sku_id":"box","quantity":1,"quantity":1}',
        b'{"campaign_id":"%s","sku_id":"box","quantity":1,"quantit\\u0079":2}',
        b'{"campaign_id":"%s","sku_id":"bo:x","quantity":1}',
        b'{"campaign_id":"../x","sku_id":"box","quantity":1}',
        b'{"campaign_id":"%s","sku_id":"box","quantity":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
)
async def test_bad_bodies_change_nothing(settings: Settings, body: bytes) -> None:
    """Bodies that are not exactly an order, duplicate names included, are refused with 400."""
    async with open_shop(settings) as shop, shop.worker() as url:
        filled = body.replace(b"%s", shop.id.encode())
        said = await shop.post(url, filled, {**shop.bearer("ann"), "Idempotency-Key": "k"})
        assert (said.status, said.code) == (400, "INVALID")
        assert await stock_untouched(shop)


async def test_bodies_of_a_megabyte_are_refused(settings: Settings) -> None:
    """A body of 1 MB gets 413, whether its length is announced or not, and a compressed one 400."""
    async with open_shop(settings) as shop, shop.worker() as url:
        headers = {**shop.bearer("ann"), "Idempotency-Key": "k"}
        assert (await shop.post(url, b"x" * 1_000_000, headers)).status == 413

        async def pieces() -> Any:
            for _ in range(16):
                yield b"x" * 65_536

        async with shop.session.post(f"{url}/v1/orders", data=pieces(), headers=headers) as answer:
            assert answer.status == 413
        packed = await shop.post(url, (GOOD % shop.id).encode(), {**headers, "Content-Encoding": "gzip"})
        assert (packed.status, packed.code) == (400, "INVALID")
        assert await stock_untouched(shop)


async def test_a_key_is_needed_and_bounded(settings: Settings) -> None:
    """Without an Idempotency-Key: 400 KEY_MISSING; with one of more than 255 bytes: 400 INVALID."""
    async with open_shop(settings) as shop, shop.worker() as url:
        body = (GOOD % shop.id).encode()
        assert (await shop.post(url, body, shop.bearer("ann"))).code == "KEY_MISSING"
        long = await shop.post(url, body, {**shop.bearer("ann"), "Idempotency-Key": "k" * 256})
        assert (long.status, long.code) == (400, "INVALID")
        assert await stock_untouched(shop)
        assert (await shop.buy(url, "ann", "k" * 255)).status == 202


def claims(settings: Settings, **changes: Any) -> dict[str, Any]:
    """Return a good token's claims with changes; None removes one."""
    good = {"sub": "ann", "aud": settings.auth.audience, "exp": int(time.time()) + 60}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


async def test_forged_tokens_are_refused(settings: Settings) -> None:
    """Fault 45: no token, a forged or unsigned one, an expired one, one for somebody else: 401, and nothing is taken.

    Guards the pinned algorithm and the checked signature.
    """
    async with open_shop(settings) as shop, shop.worker() as url:
        good = claims(settings)
        tokens = [
            jwt.encode(good, b"another secret of more than 32 bytes", algorithm="HS256"),
            jwt.encode(good, "", algorithm="none"),
            jwt.encode(good, shop.key, algorithm="HS384"),
            jwt.encode(claims(settings, exp=int(time.time()) - 1), shop.key, algorithm="HS256"),
            jwt.encode(claims(settings, exp=None), shop.key, algorithm="HS256"),
            jwt.encode(claims(settings, aud="another"), shop.key, algorithm="HS256"),
            jwt.encode(claims(settings, aud=None), shop.key, algorithm="HS256"),
            jwt.encode(claims(settings, sub=None), shop.key, algorithm="HS256"),
            jwt.encode(claims(settings, sub=""), shop.key, algorithm="HS256"),
            jwt.encode(claims(settings, sub="a" * 129), shop.key, algorithm="HS256"),
            jwt.encode(good, shop.key, algorithm="HS256")[:-2],
            "not.a.token",
            "",
        ]
        body = (GOOD % shop.id).encode()
        for token in tokens:
            said = await shop.post(url, body, {"Authorization": f"Bearer {token}", "Idempotency-Key": "k"})
            assert (said.status, said.code) == (401, "UNAUTHENTICATED"), token
            assert shop.key.decode() not in str(said)
        assert (await shop.post(url, body, {"Idempotency-Key": "k"})).status == 401
        assert await stock_untouched(shop)
        assert (await shop.buy(url, "ann")).status == 202
        await shop.assert_replays(url)
        await shop.assert_invariants()


async def test_another_users_key_and_order(settings: Settings) -> None:
    """Fault 46: the same key of another user is another order, and another's order does not exist for me.

    Guards that the user is part of the order's identity.
    """
    async with open_shop(settings) as shop, shop.worker() as url:
        ann, ben = await shop.buy(url, "ann", "same"), await shop.buy(url, "ben", "same")
        assert (ann.status, ben.status) == (202, 202)
        assert "Idempotent-Replayed" not in ben.headers
        assert ann.body["order_id"] != ben.body["order_id"]
        path = f"/v1/orders/{ann.body['order_id']}"
        assert (await shop.get(url, path, "ann")).body["status"] == "accepted"
        assert (await shop.get(url, path, "ben")).code == "NOT_FOUND"
        assert (await shop.get(url, path)).status == 401
        await shop.assert_replays(url)
        await shop.assert_invariants()
        assert (await shop.get(url, path, "ann")).body["status"] == "confirmed"
        assert (await shop.get(url, path, "ben")).code == "NOT_FOUND"


async def test_a_key_means_one_payload(settings: Settings) -> None:
    """The same key with another payload is refused with 422 and changes nothing; the first order stays."""
    async with open_shop(settings, stock=[(SKU, 10), ("bag", 10)], per_user=5) as shop, shop.worker() as url:
        assert (await shop.buy(url, "ann", "k")).status == 202
        assert (await shop.buy(url, "ann", "k", quantity=2)).code == "KEY_REUSED"
        other = await shop.buy(url, "ann", "k", sku="bag")
        assert (other.status, other.code) == (422, "KEY_REUSED")
        await shop.assert_replays(url)
        await shop.assert_invariants()


async def test_unknown_campaigns_and_skus(settings: Settings) -> None:
    """An unknown campaign or SKU gets 404, on orders and on the campaign's page."""
    async with open_shop(settings) as shop, shop.worker() as url:
        assert (await shop.buy(url, "ann", campaign="no-such")).code == "NOT_FOUND"
        assert (await shop.buy(url, "ann", sku="no-such")).code == "NOT_FOUND"
        assert (await shop.get(url, "/v1/campaigns/no-such")).code == "NOT_FOUND"
        assert (await shop.get(url, "/v1/orders/no-such", "ann")).code == "NOT_FOUND"
        assert (await shop.get(url, "/v1/nothing")).code == "NOT_FOUND"
        assert await stock_untouched(shop)


async def test_window_and_states(settings: Settings) -> None:
    """Before the window, loaded but not open, paused, after the window, closed: 403 with its own code each."""
    now = datetime.now(UTC)
    soon, gone = now + timedelta(hours=1), now - timedelta(hours=1)
    async with open_shop(settings, opens_at=soon.isoformat()) as shop, shop.worker() as url:
        assert (await shop.buy(url, "ann")).code == "NOT_STARTED"
        assert (await shop.get(url, f"/v1/campaigns/{shop.id}")).body["skus"][0]["state"] == "upcoming"
    async with open_shop(settings, closes_at=gone.isoformat()) as shop, shop.worker() as url:
        assert (await shop.buy(url, "ann")).code == "ENDED"
        assert (await shop.get(url, f"/v1/campaigns/{shop.id}")).body["skus"][0]["state"] == "ended"
    async with open_shop(settings, opened=False) as shop, shop.worker() as url:
        assert (await shop.buy(url, "ann")).code == "NOT_STARTED"
        for verb, code in [("open", "ACCEPTED"), ("pause", "PAUSED"), ("resume", "ACCEPTED"), ("close", "ENDED")]:
            await move_campaign(shop.clients.channel, shop.id, verb)
            await until_true(answers(shop, url, f"ben-{verb}", code))
        # What was accepted stays accepted, whatever became of the campaign.
        await shop.assert_replays(url)
        await shop.assert_invariants()


def answers(shop: Shop, url: str, user: str, code: str) -> Any:
    """Return a condition: this user's order is answered so."""

    async def check() -> bool:
        return (await shop.buy(url, user)).code == code

    return check


async def test_sold_out_is_remembered_and_forgotten(settings: Settings) -> None:
    """Sold out is answered from memory without asking Redis; a top-up or a release reopens every worker."""
    async with open_shop(settings, stock=2) as shop, shop.worker() as url, shop.worker() as other:
        assert (await shop.buy(url, "ann")).status == 202
        assert (await shop.buy(other, "ben")).status == 202

        async def both_know() -> bool:
            states = [
                (await shop.get(one, f"/v1/campaigns/{shop.id}")).body["skus"][0]["state"] for one in (url, other)
            ]
            return states == ["sold_out", "sold_out"]

        await until_true(both_know)
        before = await evalsha_calls(shop)
        said = await asyncio.gather(*(shop.buy(one, f"late-{n}") for n in range(50) for one in (url, other)))
        assert {one.code for one in said} == {"SOLD_OUT"}
        assert await evalsha_calls(shop) == before
        # Those who hold something are never refused from memory.
        await shop.assert_replays(url)
        await shop.assert_replays(other)
        await top_up(shop.clients.channel, shop.id, SKU, 1, "more")
        await until_true(answers(shop, other, "cid", "ACCEPTED"))
        await until_true(both_know)
        digest = (await shop.buy(url, "ann")).body["order_id"][-32:]
        await release(shop.clients.channel, shop.id, digest, "ann", 1)
        await until_true(answers(shop, url, "dan", "ACCEPTED"))


async def evalsha_calls(shop: Shop) -> int:
    """Return how many scripts Redis has run."""
    stats: Any = await shop.clients.client.info("commandstats")
    return int(stats["cmdstat_evalsha"]["calls"])


async def test_a_crowd_takes_exactly_the_stock(settings: Settings) -> None:
    """500 buyers at two workers, 100 units: exactly 100 are accepted, in few script calls."""
    async with open_shop(settings, stock=100) as shop, shop.worker() as url, shop.worker() as other:
        before = await evalsha_calls(shop)
        said = await asyncio.gather(*(shop.buy((url, other)[n % 2], f"b-{n}") for n in range(500)))
        codes = [one.code for one in said]
        assert codes.count("ACCEPTED") == 100
        assert codes.count("SOLD_OUT") == 400
        assert await evalsha_calls(shop) - before <= 100
        await shop.assert_replays(url)
        await shop.assert_invariants()


async def test_limit_per_user_holds_for_any_number_of_keys(settings: Settings) -> None:
    """Ten keys of one user at once: exactly `per_user` units are accepted, the others are told LIMIT_REACHED."""
    async with open_shop(settings, per_user=3) as shop, shop.worker() as url, shop.worker() as other:
        said = await asyncio.gather(*(shop.buy((url, other)[n % 2], "ann", f"k-{n}") for n in range(10)))
        codes = [one.code for one in said]
        assert (codes.count("ACCEPTED"), codes.count("LIMIT_REACHED")) == (3, 7)
        await shop.assert_invariants()


async def test_rate_limit_answers_say_when(settings: Settings) -> None:
    """A buyer over his rate gets 429 with Retry-After and the RateLimit headers; a replay is never limited."""
    async with (
        open_shop(settings, per_user=9, limits="user_per_s = 1\nuser_burst = 2") as shop,
        shop.worker() as url,
    ):
        said = [await shop.buy(url, "ann", f"k-{n}") for n in range(3)]
        assert [one.code for one in said] == ["ACCEPTED", "ACCEPTED", "RATE_LIMITED"]
        assert said[2].status == 429
        assert said[2].headers["Retry-After"] == "1"
        assert said[2].headers["RateLimit-Policy"] == '"user";q=2;w=2'
        assert said[2].headers["RateLimit"] == '"user";r=0;t=1'
        await shop.assert_replays(url)


async def test_loading_twice_changes_nothing_and_stock_cannot_be_lowered_below_sold(settings: Settings) -> None:
    """The same file loaded again is `unchanged`; fewer units than sold are refused and leave everything as it is."""
    async with open_shop(settings, stock=10) as shop, shop.worker() as url:
        for number in range(4):
            assert (await shop.buy(url, f"b-{number}")).status == 202
        before = await read_snapshot(shop.clients.client, shop.id)
        assert await load_into(shop.clients, shop.campaign) == "unchanged"
        lower = parse_campaign(
            campaign_text(shop.id, stock=3, limits="user_per_s = 1000\nuser_burst = 1000"), source="test"
        )
        with pytest.raises(Exception, match="below the 4 units that are sold"):
            await load_into(shop.clients, lower)
        after = await read_snapshot(shop.clients.client, shop.id)
        assert before is not None
        assert after is not None
        assert (after.stock, after.fields) == (before.stock, before.fields)


async def test_health(settings: Settings) -> None:
    """`/livez` answers by itself, `/readyz` says that nothing is missing; a wrong method names the right one."""
    async with open_shop(settings) as shop, shop.worker() as url:
        assert (await shop.get(url, "/livez")).status == 200
        ready = await shop.get(url, "/readyz")
        assert (ready.status, ready.body) == (200, {"status": "ok", "missing": {}})
        async with shop.session.put(f"{url}/v1/orders") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")
