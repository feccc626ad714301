"""A lottery's way: HTTP, Redis, relay, Kafka, MySQL and the points ledger; and what the commands say of it."""

import asyncio
import hashlib
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from adapters.draws import move_lottery
from adapters.kafka import make_producer
from adapters.kafka_sender import KafkaSender
from adapters.kafka_sender import Outgoing as Sent
from adapters.lotteries import read_seed
from adapters.mysql import query
from adapters.stock import read_snapshot
from consumers.reconcile import reconcile
from domain.draw_events import TOPIC_DRAWS_LOG, TOPIC_DRAWS_WON, encode_draw_event
from domain.errors import OperationRefusedError
from domain.events import TOPIC_POINTS_AWARDED
from domain.outcomes import Outcome
from domain.settings import Settings
from gateway.app import make_relay
from tests.support.children import start_killed_at
from tests.support.forgetful import forgetful_redis
from tests.support.lanes import LANES
from tests.support.lotteries import FIVE_KINDS, Kind, LotteryShop, lottery_file, open_lottery, verdict_of
from tests.support.operator import command
from tests.support.relays import with_relay
from tests.support.shop import Said, open_shop, until_true
from tests.support.waiting import in_time
from warehouse.campaigns import load_into, top_up_stock
from warehouse.movements import Movement, move
from warehouse.rules import BookingKind
from warehouse.stores import wall_ms

BOTH = pytest.mark.parametrize("lane", LANES, indirect=True)
ALWAYS = [Kind("box", 1_000, 10, 7)]
"""Every draw wins."""
CROWD = 20_000


async def draw_all(shop: LotteryShop, url: str, users: Sequence[str], key: str = "key-1") -> list[Said]:
    """Have each of these users draw once, at the same time."""
    said = await asyncio.gather(*(shop.draw(url, user, key) for user in users))
    assert [one.status for one in said] == [200] * len(users)
    return said


async def add(shop: LotteryShop, units: int) -> None:
    """Add prizes, as `stock topup` does."""
    await move(
        shop.clients.catalog, Movement(BookingKind.RECEIVE, "box", units, f"{shop.id}-{units}", who="test"), wall_ms()
    )
    await top_up_stock(shop.clients, shop.id, "box", units, f"more-{units}")


async def recovered(shop: LotteryShop) -> None:
    """Run a relay until the gate is open and all is relayed."""
    async with shop.relay():
        await in_time(shop.outbox_is_relayed, "the gate stays closed")


async def assert_replays(shop: LotteryShop, url: str) -> None:
    """Assert that every draw, asked again, gets the same answer; `draw` compares it with the first one."""
    for user, key in list(shop.drawers.values()):
        said = await shop.draw(url, user, key)
        assert (said.status, said.headers.get("Idempotent-Replayed")) == (200, "true")


async def assert_delivered(shop: LotteryShop) -> None:
    """Relay and store what is left, then assert that all that was won has its order and its points, once each."""
    won = shop.won()
    await shop.relayed()
    awarded = {draw_id: points for draw_id, (_, points) in won.items() if points > 0}

    async def there() -> bool:
        return len(await shop.prizes_stored()) >= len(won) and len(await shop.awards()) >= len(awarded)

    async with shop.prize_consumers():
        await in_time(there, "not everything that was won is in MySQL")
        await in_time(shop.settled, "the consumers have not committed")
    assert await shop.prizes_stored() == {draw_id: sku for draw_id, (sku, _) in won.items()}
    assert await shop.awards() == {draw_id: (shop.drawers[draw_id][0], points) for draw_id, points in awarded.items()}
    assert await shop.balances() == {
        user: sum(points for draw_id, points in awarded.items() if shop.drawers[draw_id][0] == user)
        for user in {shop.drawers[draw_id][0] for draw_id in awarded}
    }
    snapshot = await read_snapshot(shop.clients.client, shop.id)
    assert snapshot is not None
    of_kind = Counter(sku for sku, _ in won.values())
    for sku, line in snapshot.stock.items():
        assert line.taken - line.returned == of_kind[sku]
        assert line.allocated == line.remaining + line.taken - line.returned
    (report,) = (await reconcile(shop.settings, [shop.id])).campaigns
    assert (report.drift, report.in_flight, list(report.explanations)) == (0, 0, [])
    seed = await read_seed(shop.clients.catalog, shop.id)
    assert seed is not None
    verdict = verdict_of(shop.id, seed, await shop.log())
    assert (verdict.faults, verdict.draws, verdict.won) == ([], len(shop.drawn), dict(of_kind))


@BOTH
async def test_drawn_delivered_and_verified(settings: Settings) -> None:
    """What buyers are told they won is exactly what MySQL, the points ledger, Redis and the replayed log say."""
    async with open_lottery(settings, draws_per_user=2) as shop, shop.worker() as url:
        said = await draw_all(shop, url, [f"u-{n}" for n in range(60)])
        said += await draw_all(shop, url, [f"u-{n}" for n in range(60)], "key-2")
        assert {one.body["seq"] for one in said} == set(range(2, 122))
        assert Counter(one.body["draws_left"] for one in said) == {0: 60, 1: 60}
        assert shop.won()
        await assert_replays(shop, url)
        await assert_delivered(shop)


@pytest.mark.slow
async def test_a_crowd_draws_every_prize_once(settings: Settings) -> None:
    """20,000 users draw 1,000 prizes of 5 kinds by HTTP: none over-drawn, nobody twice, all delivered and verified."""
    async with open_lottery(settings, kinds=FIVE_KINDS, no_prize_weight=4_000) as shop, shop.worker() as url:
        users = [f"u-{n}" for n in range(CROWD)]
        await draw_all(shop, url, users)
        again = await asyncio.gather(*(shop.draw(url, user, "another") for user in users[:: CROWD // 1_000]))
        assert {one.code for one in again} == {"LIMIT_REACHED"}
        assert Counter(user for user, _ in shop.drawers.values()) == dict.fromkeys(users, 1)
        assert Counter(sku for sku, _ in shop.won().values()) == {kind.sku_id: kind.stock for kind in FIVE_KINDS}
        await assert_delivered(shop)


@BOTH
async def test_ten_keys_at_once_over_http(settings: Settings) -> None:
    """One user with ten keys at once draws as often as he may, and a repeat of a key is the same draw."""
    async with open_lottery(settings, kinds=ALWAYS, no_prize_weight=0, draws_per_user=3) as shop, shop.worker() as url:
        said = await asyncio.gather(*(shop.draw(url, "ann", f"k-{n}") for n in range(10) for _ in range(2)))
        assert Counter(one.code for one in said) == {"200": 6, "LIMIT_REACHED": 14}
        assert Counter(one.headers.get("Idempotent-Replayed") for one in said if one.status == 200) == {
            "true": 3,
            None: 3,
        }
        assert len(shop.drawn) == len(shop.won()) == 3
        await assert_delivered(shop)


@BOTH
async def test_each_kind_of_campaign_has_its_call(settings: Settings) -> None:
    """A draw in a sale and an order in a lottery are refused, the right call is named, and nothing changes."""
    async with open_lottery(settings) as lottery, open_shop(settings) as sale, sale.worker() as url:
        drawn = await lottery.draw(url, "ann", campaign=sale.id)
        bought = await sale.buy(url, "ann", sku="gold", campaign=lottery.id)
        assert (drawn.status, drawn.code, bought.status, bought.code) == (400, "INVALID", 400, "INVALID")
        assert "POST /v1/orders" in drawn.body["detail"]
        assert "POST /v1/draws" in bought.body["detail"]
        assert (await lottery.draw(url, "ann", campaign="no-such")).status == 404
        for shop in (lottery, sale):
            snapshot = await read_snapshot(shop.clients.client, shop.id)
            assert snapshot is not None
            assert {line.taken for line in snapshot.stock.values()} == {0}


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b'{"campaign_id":1}', b'{"campaign_id":"C"}', b'{"campaign_id":"c-1\\n"}',
        b'{"campaign_id":"c-1","campaign_id":"c-2"}', b'{"campaign_id":"c-1","sku_id":"box"}',
        b'{"campaign_id":"c-1","quantity":-5}', b"[" * 8_000,
    ],
)  # fmt: skip
async def test_bodies_that_are_no_draw(settings: Settings, body: bytes) -> None:
    """What is not exactly a campaign's id is refused as invalid, and so is a draw without a key or a token."""
    async with open_lottery(settings) as shop, shop.worker() as url:
        said = await shop.change(url, "/v1/draws", {**shop.bearer("ann"), "Idempotency-Key": "k"}, body)
        assert (said.status, said.code) == (400, "INVALID")
        good = orjson.dumps({"campaign_id": shop.id})
        assert (await shop.change(url, "/v1/draws", shop.bearer("ann"), good)).code == "KEY_MISSING"
        assert (await shop.change(url, "/v1/draws", {"Idempotency-Key": "k"}, good)).code == "UNAUTHENTICATED"


async def test_decided_from_memory(settings: Settings) -> None:
    """Before the opening, after the end and when nothing is left, who has not drawn is refused without Redis."""
    kinds = [Kind("box", 2, 10, 7)]
    async with (
        open_lottery(settings, opened=False, kinds=kinds, no_prize_weight=0) as shop,
        shop.serving() as (url, worker),
    ):
        counts = worker._metrics
        assert (await shop.draw(url, "ann")).code == "NOT_STARTED"
        await move_lottery(shop.clients.channel, shop.id, "open")
        await until_true(_view_says(worker, shop, "open"))
        await draw_all(shop, url, ["ann", "ben"])

        async def exhausted() -> bool:
            lottery = worker.campaigns.views[shop.id].lottery
            return lottery is not None and lottery.is_exhausted

        await in_time(exhausted, "the worker does not learn that nothing is left")
        asked, before = sum(counts.in_redis), counts.in_memory[Outcome.SOLD_OUT]
        assert [(await shop.draw(url, f"late-{n}")).code for n in range(3)] == ["SOLD_OUT"] * 3
        assert (sum(counts.in_redis) - asked, counts.in_memory[Outcome.SOLD_OUT] - before) == (0, 3)
        await assert_replays(shop, url)
        await add(shop, 1)

        async def reopened() -> bool:
            return not await exhausted()

        await in_time(reopened, "the worker does not learn of the top-up")
        await draw_all(shop, url, ["cat"])
        await move_lottery(shop.clients.channel, shop.id, "close")
        await until_true(_view_says(worker, shop, "closed"))
        assert (await shop.draw(url, "dan")).code == "ENDED"
        await assert_replays(shop, url)
        await assert_delivered(shop)


def _view_says(worker: Any, shop: LotteryShop, state: str) -> Any:
    async def says() -> bool:
        return bool(worker.campaigns.views[shop.id].state == state)

    return says


@BOTH
async def test_seed_is_committed_to_and_then_told(settings: Settings) -> None:
    """The SHA-256 of the seed is told before the opening, the seed when the closing is in Kafka; then all agrees."""
    async with open_lottery(settings, opened=False) as shop, shop.worker() as url:
        before = (await shop.get(url, f"/v1/campaigns/{shop.id}")).body["lottery"]
        assert (before["seed"], before["draws_per_user"], before["no_prize_weight"]) == (None, 1, 49)
        assert before["prizes"] == [
            {"sku_id": sku, "weight": weight, "points": points} for sku, _, weight, points in lottery_kinds(shop)
        ]

        async def page() -> dict[str, Any]:
            return (await shop.get(url, f"/v1/campaigns/{shop.id}")).body

        for verb, state in (("open", "open"), ("close", "closed")):
            await move_lottery(shop.clients.channel, shop.id, verb)

            async def has_moved(state: str = state) -> bool:
                return bool((await page())["state"] == state)

            await in_time(has_moved, "the worker does not learn of it")
            if verb == "open":
                await draw_all(shop, url, ["ann", "ben"])
        assert (await page())["lottery"]["seed"] is None

        async def is_told() -> bool:
            return (await page())["lottery"]["seed"] is not None

        await shop.relayed()
        await in_time(is_told, "the seed is not told")
        told = (await page())["lottery"]
        assert told["commitment"] == before["commitment"]
        assert hashlib.sha256(bytes.fromhex(told["seed"])).hexdigest() == told["commitment"]
        assert verdict_of(shop.id, bytes.fromhex(told["seed"]), await shop.log()).faults == []


def lottery_kinds(shop: LotteryShop) -> list[Kind]:
    """Return a lottery's prizes as its file has them."""
    return [Kind(sku.id, sku.stock, sku.weight, sku.points) for sku in shop.campaign.sku]


async def test_an_opened_lottery_draws_from_what_it_was_opened_with(settings: Settings) -> None:
    """Once opened, a file with other prizes, weights, points, draws or stock is refused; another window is not."""
    async with open_lottery(settings, draws_per_user=2) as shop, shop.worker() as url:
        await draw_all(shop, url, ["ann"])
        for change in (
            {"kinds": [Kind("gold", 1, 2, 500), *lottery_kinds(shop)[1:]]},
            {"kinds": [Kind("gold", 1, 1, 501), *lottery_kinds(shop)[1:]]},
            {"kinds": [Kind("gold", 2, 1, 500), *lottery_kinds(shop)[1:]]},
            {"kinds": lottery_kinds(shop)[::-1]},
            {"no_prize_weight": 50},
            {"draws_per_user": 3},
        ):
            with pytest.raises(OperationRefusedError, match="cannot be changed any more"):
                await load_into(shop.clients, lottery_file(shop.id, **{"draws_per_user": 2, **change}))
        assert await load_into(shop.clients, lottery_file(shop.id, draws_per_user=2)) == "unchanged"
        later = lottery_file(shop.id, draws_per_user=2, closes_at="2037-01-01T00:00:00Z")
        assert await load_into(shop.clients, later) == "updated"
        await draw_all(shop, url, ["ben"])
        await assert_replays(shop, url)
        await assert_delivered(shop)


async def test_a_prize_cannot_be_paid_nor_given_back(settings: Settings) -> None:
    """Its order never expires, and its winner can neither pay for it nor give it back and keep the points."""
    async with open_lottery(settings, kinds=ALWAYS, no_prize_weight=0) as shop, shop.worker() as url:
        (said,) = await draw_all(shop, url, ["ann"])
        draw_id = said.body["draw_id"]
        assert (await shop.status(url, draw_id, "ann")).body["status"] == "accepted"
        await assert_delivered(shop)
        row = await query(shop.clients.orders, "SELECT status, pay_by_ms FROM orders WHERE order_id = %s", (draw_id,))
        assert row == [("confirmed", None)]
        assert (await shop.status(url, draw_id, "ann")).body["status"] == "confirmed"
        cancelled = await shop.cancel(url, draw_id, "ann")
        assert (cancelled.status, cancelled.code) == (409, "STATE")
        assert "prize" in cancelled.body["detail"]
        await assert_delivered(shop)


async def test_answers_wait_for_kafka_where_they_must(settings: Settings) -> None:
    """With durability = "kafka" a draw is told once the relay has brought it to Kafka, and not before."""
    async with open_lottery(settings, kinds=ALWAYS, no_prize_weight=0) as shop:
        strict = shop.with_gateway(durability="kafka", answer_timeout_s=1.0)
        async with shop.worker(strict) as url:
            assert (await shop.draw(url, "ann")).code == "UNKNOWN"
            async with shop.relay():
                await in_time(shop.outbox_is_relayed, "the outbox is not relayed")
                said = await shop.draw(url, "ann")
                assert (said.status, said.headers.get("Idempotent-Replayed")) == (200, "true")
                await draw_all(shop, url, ["ben", "cat"])
        await assert_delivered(shop)


# -- crashes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fail_point", ["relay.after_log", "relay.after_produce"])
async def test_relay_killed_at_a_lottery(settings: Settings, fail_point: str) -> None:
    """Fault 13: the relay dies after the log, or before its checkpoint; a successor publishes all of it again.

    Guards that what comes again counts once: orders by their ledger, points by theirs, lines by their numbers.
    """
    async with open_lottery(settings, kinds=ALWAYS, no_prize_weight=0) as shop, shop.worker() as url:
        await draw_all(shop, url, [f"u-{n}" for n in range(20)])
        relay = await start_killed_at(settings, fail_point, "relay")
        assert await relay.wait() == -signal.SIGKILL
        published = await shop.published_wins()
        assert set(published) == (set() if fail_point == "relay.after_log" else set(shop.drawn))
        assert verdict_of(shop.id, bytes(32), await shop.log()).draws == 20
        await shop.relayed()
        again = 1 if fail_point == "relay.after_log" else 2
        assert await shop.published_wins() == dict.fromkeys(shop.drawn, again)
        await assert_delivered(shop)
        await assert_replays(shop, url)


async def test_prizes_told_of_again_count_once(settings: Settings) -> None:
    """Events of a lottery that come again, in any order and long after, give no second prize and no second point."""
    async with open_lottery(settings, kinds=ALWAYS, no_prize_weight=0) as shop, shop.worker() as url:
        await draw_all(shop, url, [f"u-{n}" for n in range(10)])
        await assert_delivered(shop)
        records = [
            Sent(record.topic, record.key, record.value)
            for log in await shop.log()
            for record in shop.records_of(log)[::-1]
        ]
        assert {record.topic for record in records} == {TOPIC_DRAWS_LOG, TOPIC_DRAWS_WON, TOPIC_POINTS_AWARDED}
        sender = KafkaSender(lambda: make_producer(settings.kafka), timeout_s=30.0)
        await sender.send(records)
        await sender.close()
        await assert_delivered(shop)


async def test_draws_that_redis_lost(settings: Settings, tmp_path: Path) -> None:
    """Fault 5: draws and losses that were relayed come back, and are answered as before; the chain goes on.

    One that was not relayed is lost, and nobody has a prize of it. A top-up and the closing come back as well.
    Guards recovery from the log.
    """
    async with forgetful_redis(tmp_path) as redis:
        private = redis.settings(settings)
        kinds = [Kind("box", 10, 10, 7), Kind("bag", 5, 10, 0)]
        async with (
            open_lottery(private, kinds=kinds, no_prize_weight=10, draws_per_user=2) as shop,
            shop.worker(private) as url,
        ):
            await draw_all(shop, url, [f"u-{n}" for n in range(10)])
            await shop.relayed()
            mark = redis.mark()
            await draw_all(shop, url, [f"u-{n}" for n in range(10)], "key-2")
            await add(shop, 20)
            await draw_all(shop, url, [f"new-{n}" for n in range(10)])
            await shop.relayed()
            told = dict(shop.drawn)
            await draw_all(shop, url, ["lost"])
            await redis.go_back(mark)
            said = await shop.draw(url, "late")
            assert (said.status, said.code) == (503, "UNKNOWN")
            await recovered(shop)
            shop.drawn = told
            shop.drawers = {draw_id: shop.drawers[draw_id] for draw_id in told}
            await assert_replays(shop, url)
            await draw_all(shop, url, [f"late-{n}" for n in range(10)])
            await assert_delivered(shop)
            mark = redis.mark()
            await move_lottery(shop.clients.channel, shop.id, "close")
            await shop.relayed()
            await redis.go_back(mark)
            await recovered(shop)
            snapshot = await read_snapshot(shop.clients.client, shop.id)
            assert snapshot is not None
            assert snapshot.fields["state"] == "closed"


async def test_relay_killed_after_the_log_and_redis_goes_back(settings: Settings, tmp_path: Path) -> None:
    """The relay has published the log alone, and then Redis loses the draws: they come back with all that they won.

    Guards that the log is acknowledged before anything that follows from it is published, and that recovery publishes
    what follows from the log.
    """
    async with forgetful_redis(tmp_path) as redis:
        private = redis.settings(with_relay(settings, owner_ttl_ms=500))
        async with (
            open_lottery(private, kinds=ALWAYS, no_prize_weight=0) as shop,
            shop.worker(private) as url,
        ):
            await draw_all(shop, url, ["ann"])
            await shop.relayed()
            mark = redis.mark()
            await draw_all(shop, url, [f"u-{n}" for n in range(10)])
            relay = await start_killed_at(private, "relay.after_log", "relay")
            assert await relay.wait() == -signal.SIGKILL
            assert set(await shop.published_wins()) <= {entry.won()[0].draw_id for entry in (await shop.log())[1:2]}
            await redis.go_back(mark)
            await recovered(shop)
            assert set(await shop.published_wins()) == set(shop.drawn)
            await assert_replays(shop, url)
            await assert_delivered(shop)


async def test_a_log_with_a_hole_keeps_the_gate_closed(settings: Settings, tmp_path: Path) -> None:
    """Where Kafka's log does not go on from what Redis has, nothing is drawn until a person has looked."""
    async with forgetful_redis(tmp_path) as redis:
        private = redis.settings(settings)
        async with open_lottery(private, kinds=ALWAYS, no_prize_weight=0) as shop, shop.worker(private) as url:
            await draw_all(shop, url, ["ann"])
            await shop.relayed()
            last = (await shop.log())[-1]
            forged = msgspec.structs.replace(
                last, seq=last.seq + 5, outbox_id=f"{int(last.outbox_id.partition('-')[0]) + 1}-0"
            )
            sender = KafkaSender(lambda: make_producer(settings.kafka), timeout_s=30.0)
            await sender.send([Sent(TOPIC_DRAWS_LOG, shop.id.encode(), encode_draw_event(forged))])
            await sender.close()
            await redis.go_back(redis.mark())
            relay, close = make_relay(private)
            try:
                with pytest.raises(OperationRefusedError, match="stays closed"):
                    await relay._gates.open_gate(shop.id)
            finally:
                await relay._publisher.close()
                await close()
            assert (await shop.draw(url, "ben")).code == "UNKNOWN"


# -- commands ------------------------------------------------------------------------------------------------------


async def test_commands_of_a_lottery(settings: Settings, tmp_path: Path) -> None:
    """load, open, show, close and verify say the same as buyers are told; a tampered draw is found, and exits 1."""

    async def ask(*args: str) -> tuple[int, dict[str, Any]]:
        code, lines = await command(settings, tmp_path, *args, "--json")
        return code, orjson.loads(lines[-1]) if code in {0, 1} and lines[-1].startswith("{") else {"said": lines}

    async with open_lottery(settings, opened=False, kinds=ALWAYS, no_prize_weight=10) as shop, shop.worker() as url:
        code, refused = await ask("lottery", "verify", shop.id)
        assert code == 1
        assert any("never opened" in line for line in refused["said"])
        assert await ask("campaign", "open", shop.id) == (
            0,
            {"campaign_id": shop.id, "state": "open", "changed": True},
        )
        said = await draw_all(shop, url, [f"u-{n}" for n in range(20)])
        await shop.relayed()
        await draw_all(shop, url, ["not relayed"])
        code, shown = await ask("lottery", "show", shop.id, "--line", str(said[0].body["seq"]))
        assert (code, shown["seed"], shown["lines"], shown["state"]) == (0, None, 22, "open")
        assert shown["line"]["hash"] == said[0].body["hash"]
        assert said[0].body["draw_id"][-32:] in shown["line"]["text"]
        code, verified = await ask("lottery", "verify", shop.id)
        assert (code, verified["verified"], verified["draws"], verified["faults"]) == (0, True, 21, [])
        assert sum(verified["won"].values()) == len(shop.won())
        assert (await ask("campaign", "close", shop.id))[0] == 0
        await shop.relayed()
        code, shown = await ask("lottery", "show", shop.id)
        assert hashlib.sha256(bytes.fromhex(shown["seed"])).hexdigest() == shown["commitment"]
        # Somebody puts an entry into Kafka in which one draw has won what it has not.
        entry = next(log for log in await shop.log() if any(" 0  " in line for line in log.lines))
        place = next(index for index, line in enumerate(entry.lines) if " 0  " in line)
        lines = list(entry.lines)
        lines[place] = lines[place].replace(" 0  ", " 7 box ")
        forged = msgspec.structs.replace(entry, lines=tuple(lines))
        sender = KafkaSender(lambda: make_producer(settings.kafka), timeout_s=30.0)
        await sender.send([Sent(TOPIC_DRAWS_LOG, shop.id.encode(), encode_draw_event(forged))])
        await sender.close()
        code, verified = await ask("lottery", "verify", shop.id)
        assert (code, verified["verified"]) == (1, False)
        assert any(
            fault["seq"] == entry.seq + place and "its number wins nothing" in fault["text"]
            for fault in verified["faults"]
        )
        assert (await ask("lottery", "verify", "no-such"))[0] == 1
