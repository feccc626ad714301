"""A lottery and the warehouse: its prizes are allocated, and what nobody has won goes back at the close, by its log."""

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from adapters.campaign_stock import top_up
from adapters.draws import read_unrelayed_logs
from adapters.lotteries import move
from domain.errors import BackendError, OperationRefusedError, OutcomeUnknownError
from domain.settings import Settings
from tests.integration.test_lottery import assert_delivered, assert_replays, draw_all, recovered
from tests.support.forgetful import forgetful_redis
from tests.support.house import House, dying_at, new_house
from tests.support.lotteries import Kind, LotteryShop, lottery_file, open_lottery
from tests.support.operator import command
from tests.support.waiting import in_time
from warehouse.campaigns import close_campaign, load_into, top_up_stock
from warehouse.closing import find_closed
from warehouse.stores import wall_ms

KINDS = [Kind("box", 30, 10, 7), Kind("bag", 5, 1, 0)]


@asynccontextmanager
async def lottery_of(settings: Settings, *, opened: bool = True) -> AsyncIterator[tuple[House, LotteryShop]]:
    """Load a lottery from a warehouse of its own, and open it."""
    async with (
        new_house(settings) as house,
        open_lottery(house.settings, opened=opened, kinds=KINDS, no_prize_weight=10) as shop,
    ):
        house.campaigns.append(shop.id)
        yield house, shop


def won(shop: LotteryShop) -> Counter[str]:
    """Return prize → how often it was won."""
    return Counter(sku_id for sku_id, _ in shop.won().values())


async def lines_of_the_end(shop: LotteryShop) -> list[str]:
    """Return the first words of the log's lines, in Kafka and in the outbox, but for the opening, draws and top-ups."""
    logs = {log.seq: log for log in [*await shop.log(), *await read_unrelayed_logs(shop.clients.client, shop.id)]}
    words = [line.split(" ")[0] for _, log in sorted(logs.items()) for line in log.lines]
    return [word for word in words if word not in {"open", "draw", "topup"}]


async def assert_all_is_back(house: House, shop: LotteryShop, received: dict[str, int]) -> None:
    """Assert that the lottery is closed and has its won prizes alone, and that the warehouse has all the others."""
    for sku_id, units in received.items():
        line = await house.line(shop.id, sku_id)
        assert (line.remaining, line.allocated) == (0, won(shop)[sku_id])
        assert await house.numbers(sku_id) == (units, won(shop)[sku_id], 0)
    assert await house.state(shop.id) == "closed"
    assert await lines_of_the_end(shop) == ["close", "withdraw", "withdraw"]
    assert await house.settle(everything=True) == 0
    await house.assert_balanced()


@pytest.mark.parametrize("killed", [False, True])
async def test_unsold_prizes_go_back(settings: Settings, tmp_path: Path, killed: bool) -> None:
    """At the close the prizes that nobody has won are free again; the log says so, holds, and the seed is told.

    Whoever closes it may die before the catalog frees them: the process does it then, and the log says it once. Won
    prizes stay allocated: they are sold, and not shipped. Guards that a lottery is closed by a line of its log.
    """
    async with lottery_of(settings) as (house, shop), shop.worker() as url:
        await draw_all(shop, url, [f"u-{n}" for n in range(20)])
        await house.receive("box", 4)
        await top_up_stock(house.clients, shop.id, "box", 4, "more")
        left = {"box": 34 - won(shop)["box"], "bag": 5 - won(shop)["bag"]}
        if killed:
            with dying_at("warehouse.after_withdraw"):
                await close_campaign(house.clients, shop.id)
            assert (await house.numbers("box"))[1] == 34
            assert await house.finish() == 1
        else:
            assert (await close_campaign(house.clients, shop.id)).returned == left
        assert (await shop.draw(url, "late")).code == "ENDED"
        await assert_all_is_back(house, shop, {"box": 34, "bag": 5})
        await assert_replays(shop, url)
        await assert_delivered(shop)

        async def seed() -> Any:
            return (await shop.get(url, f"/v1/campaigns/{shop.id}")).body["lottery"]["seed"]

        async def is_told() -> bool:
            return await seed() is not None

        await in_time(is_told, "the seed is not told")
        code, lines = await command(house.settings, tmp_path, "lottery", "verify", shop.id, "--json")
        verified = orjson.loads(lines[-1])
        assert (code, verified["verified"], verified["closed"]) == (0, True, True)
        assert (verified["remaining"], verified["won"]) == ({"box": 0, "bag": 0}, dict(won(shop)))
        assert hashlib.sha256(bytes.fromhex(await seed())).hexdigest() == verified["commitment"]
        with pytest.raises(OperationRefusedError, match="closed already"):
            await close_campaign(house.clients, shop.id)
        await assert_all_is_back(house, shop, {"box": 34, "bag": 5})


async def test_a_closed_lottery_is_not_asked_for_ever(settings: Settings) -> None:
    """Its prizes are never shipped, so after a month it is asked only when all are; a sale is while it has some."""
    async with lottery_of(settings) as (house, shop), shop.worker() as url:
        box = await house.new_sku(1)
        sale_id = await house.new_campaign((box, 1))
        await house.buy(sale_id, box, "ann")
        await draw_all(shop, url, [f"u-{n}" for n in range(20)])
        for campaign_id in (shop.id, sale_id):
            await close_campaign(house.clients, campaign_id)
        both, month_ms = sorted([shop.id, sale_id]), 31 * 24 * 3_600_000
        for later_ms, everything, found in ((0, False, both), (month_ms, False, [sale_id]), (month_ms, True, both)):
            assert await find_closed(house.clients, "", 10, wall_ms() + later_ms, everything=everything) == found


async def test_a_lottery_that_was_never_opened_is_closed(settings: Settings) -> None:
    """All of its prizes go back, and there is no log that could say so."""
    async with lottery_of(settings, opened=False) as (house, shop):
        assert (await close_campaign(house.clients, shop.id)).returned == {"box": 30, "bag": 5}
        assert await house.numbers("box") == (30, 0, 0)
        assert await shop.log() == await read_unrelayed_logs(shop.clients.client, shop.id) == []
        await house.assert_balanced()


async def test_closed_and_opened_at_once(settings: Settings) -> None:
    """Whoever opens, closes and settles a lottery at the same time leaves a log that holds, and books that balance."""
    async with lottery_of(settings, opened=False) as (house, shop):
        rivals: list[Awaitable[object]] = [
            move(shop.clients.channel, shop.clients.client, shop.id, "open"),
            close_campaign(house.clients, shop.id),
        ]
        rivals += [house.settle(everything=True) for _ in range(3)]
        for outcome in await asyncio.gather(*rivals, return_exceptions=True):
            assert not isinstance(outcome, BaseException) or isinstance(outcome, OperationRefusedError), outcome
        assert await house.state(shop.id) == "closed"
        assert await house.numbers("box") == (30, 0, 0)
        words = [
            line.split(" ")[0] for log in await read_unrelayed_logs(shop.clients.client, shop.id) for line in log.lines
        ]
        assert words in ([], ["open", "close", "withdraw", "withdraw"])
        await house.assert_balanced()


@pytest.mark.parametrize("relayed", [True, False])
async def test_a_close_that_redis_has_lost(settings: Settings, tmp_path: Path, relayed: bool) -> None:
    """Gone back to before its close it is closed again, by its log, or paused until it is settled; nothing freed twice.

    Guards that recovery puts back what was withdrawn.
    """
    async with (
        forgetful_redis(tmp_path) as redis,
        lottery_of(redis.settings(settings)) as (house, shop),
        shop.worker() as url,
    ):
        await draw_all(shop, url, [f"u-{n}" for n in range(20)])
        await shop.relayed()
        mark = redis.mark()
        await close_campaign(house.clients, shop.id)
        if relayed:
            await shop.relayed()
        await redis.go_back(mark)
        await recovered(shop)
        assert await house.state(shop.id) == ("closed" if relayed else "paused")
        assert await house.settle(everything=True) == 0
        await assert_all_is_back(house, shop, {"box": 30, "bag": 5})
        await assert_replays(shop, url)
        await assert_delivered(shop)


MARKS = ("load", "early top-up", "opening", "late top-up")


@pytest.mark.parametrize("before", MARKS)
async def test_redis_from_before(settings: Settings, tmp_path: Path, before: str) -> None:
    """Gone back to before a load, a top-up, or its opening, a lottery is what its log says, and has all its units.

    A top-up whose line is lost is made once more, and one from before the opening is not. What is drawn from is what
    the log opened with. Guards that recovery makes lost top-ups again.
    """
    async with (
        forgetful_redis(tmp_path) as redis,
        lottery_of(redis.settings(settings), opened=False) as (house, shop),
        contextlib.AsyncExitStack() as stack,
    ):
        marks = {"load": redis.mark()}
        await house.receive("box", 10)
        shop.campaign = lottery_file(shop.id, kinds=[Kind("box", 32, 12, 8), KINDS[1]], no_prize_weight=8)
        assert await load_into(house.clients, shop.campaign) == "updated"
        marks["early top-up"] = redis.mark()
        await top_up_stock(house.clients, shop.id, "box", 4, "early")
        marks["opening"] = redis.mark()
        await move(shop.clients.channel, shop.clients.client, shop.id, "open")
        url = await stack.enter_async_context(shop.worker())
        await draw_all(shop, url, [f"u-{n}" for n in range(10)])
        await shop.relayed()
        marks["late top-up"] = redis.mark()
        await top_up_stock(house.clients, shop.id, "box", 4, "late")
        await redis.go_back(marks[before])
        await recovered(shop)
        for key in ("early", "late"):
            await top_up_stock(house.clients, shop.id, "box", 4, key)
        assert (await house.line(shop.id, "box")).allocated == 40
        assert await house.finish() == 0
        await house.assert_balanced()
        await assert_replays(shop, url)
        await draw_all(shop, url, [f"late-{n}" for n in range(20)])
        await assert_delivered(shop)
        await close_campaign(house.clients, shop.id)
        assert await house.settle(everything=True) == 0
        await house.assert_balanced()


async def test_a_recovery_that_breaks_off_at_a_top_up(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost top-ups are made again before the gate opens, so that a crash has it begin anew; once all in all."""
    asked: list[str] = []

    async def breaking(*args: Any, **more: Any) -> Any:
        asked.append(args[-1])
        if len(asked) == 1:
            raise BackendError("not now")
        made = await top_up(*args, **more)
        if len(asked) == 2:
            raise OutcomeUnknownError("no answer")
        return made

    monkeypatch.setattr("gateway.recovery.top_up", breaking)
    async with forgetful_redis(tmp_path) as redis, lottery_of(redis.settings(settings)) as (house, shop):
        mark = redis.mark()
        await house.receive("box", 7)
        await top_up_stock(house.clients, shop.id, "box", 3, "one")
        await top_up_stock(house.clients, shop.id, "box", 4, "two")
        await redis.go_back(mark)
        await recovered(shop)
        assert asked == ["two", "two", "one"]
        assert (await house.line(shop.id, "box")).allocated == 37
        await house.assert_balanced()


@pytest.mark.parametrize("closed", [None, "relayed", "lost"])
async def test_a_lottery_that_redis_has_lost(settings: Settings, closed: str | None) -> None:
    """Loaded again, it is what its log says, and closed if it was; a file that was changed meanwhile is refused.

    Guards that whoever settles closed campaigns closes it once more where its log does not say so.
    """
    async with lottery_of(settings) as (house, shop), shop.worker() as url:
        await draw_all(shop, url, [f"u-{n}" for n in range(20)])
        await house.receive("box", 4)
        await top_up_stock(house.clients, shop.id, "box", 4, "more")
        await shop.relayed()
        if closed:
            await close_campaign(house.clients, shop.id)
        if closed == "relayed":
            await shop.relayed()
        await house.lose(shop.id)
        changed = lottery_file(shop.id, kinds=KINDS, no_prize_weight=11)
        with pytest.raises(OperationRefusedError, match=r"has lost lottery|file is final"):
            await load_into(house.clients, changed)
        assert await load_into(house.clients, shop.campaign) == "created"
        assert await house.state(shop.id) == ("paused" if closed else "loaded")
        await recovered(shop)
        assert await house.state(shop.id) == {None: "open", "relayed": "closed", "lost": "paused"}[closed]
        await assert_replays(shop, url)
        if closed:
            assert await house.finish() == 1
            await assert_all_is_back(house, shop, {"box": 34, "bag": 5})
        else:
            await draw_all(shop, url, [f"late-{n}" for n in range(5)])
            assert await house.finish() == 0
        await assert_delivered(shop)
        await house.assert_balanced()


async def test_a_load_that_is_overtaken_by_the_opening(settings: Settings) -> None:
    """A file that changes the prizes is refused by Redis once the lottery is open, and its units go back."""
    async with lottery_of(settings, opened=False) as (house, shop), shop.worker() as url:
        await house.receive("box", 10)
        more = lottery_file(shop.id, kinds=[Kind("box", 40, 10, 7), KINDS[1]], no_prize_weight=10)
        with dying_at("warehouse.after_allocate"):
            await load_into(house.clients, more)
        assert await house.numbers("box") == (40, 40, 0)
        await move(shop.clients.channel, shop.clients.client, shop.id, "open")
        assert await house.finish() == 1
        assert await house.numbers("box") == (40, 30, 0)
        await draw_all(shop, url, ["ann"])
        await house.finish()
        await assert_delivered(shop)
        assert await load_into(house.clients, shop.campaign) == "unchanged"
        await house.assert_balanced()
