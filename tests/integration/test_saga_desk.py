"""What a person sees of sagas and does with them, on real servers."""

import asyncio
import functools
import time
from pathlib import Path

import msgspec
import orjson
import pytest

from adapters.kafka import make_producer
from adapters.kafka_reader import open_reader
from adapters.mysql import Pool, query
from cli.deadletter import letter_lines, open_desk
from cli.saga import story_lines
from consumers.batch import Dead, Reason
from consumers.dead_letter_desk import Deed
from consumers.dead_letter_rules import LetterId, read_letter
from consumers.dead_letters import DeadLetters
from consumers.saga_desk import SagaDesk
from consumers.saga_driver import ParkedRecord
from domain.errors import OperationRefusedError
from domain.events import dead_topic
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED, encode_redemption_accepted
from domain.saga import SagaStatus, SagaStep
from domain.settings import Settings
from stack.ports import free_port
from tests.support.life import line, new_keeper, statuses, until_idle
from tests.support.operator import command
from tests.support.redeemed import GRANTED, PRICE, Redeemed, open_redeemed


async def begun(redeemed: Redeemed, which: int = 0) -> str:
    """Have a redemption be taken in whose points are taken, and no more; returns its saga's id."""
    await redeemed.grant(which)
    saga = await redeemed.admit(which)
    await redeemed.take_in(saga)
    await redeemed.step(saga, SagaStep.DEDUCT_POINTS)
    return saga


def desk_of(redeemed: Redeemed, points: Pool | None = None) -> SagaDesk:
    """Return a desk."""
    return SagaDesk(redeemed.clients.orders, points or redeemed.clients.points)


async def shown(redeemed: Redeemed, saga: str) -> str:
    """Return what `saga show` prints."""
    return "\n".join(story_lines(await desk_of(redeemed).find(saga)))


async def reasons(redeemed: Redeemed, order: str) -> list[tuple[str, str]]:
    """Return the states that an order has come to, and why."""
    rows = await query(
        redeemed.clients.orders,
        "SELECT status, reason FROM order_change WHERE order_id = %s ORDER BY version",
        (order,),
    )
    return [(status, reason) for status, reason in rows]


async def test_parked_saga_is_seen_and_goes_on(settings: Settings, tmp_path: Path) -> None:
    """A person sees what a parked saga has done, what is missing and what to do; a retry has it end whole."""
    async with open_redeemed(settings) as redeemed:
        saga = await begun(redeemed)
        await redeemed.park(saga)
        code, lines = await command(settings, tmp_path, "saga", "list", "--parked", "--campaign", redeemed.id, "--json")
        assert code == 0
        assert saga in lines[1]
        assert "parked before create_order" in lines[1]
        assert [one["saga_id"] for one in orjson.loads(lines[-1])["sagas"]] == [saga]
        for status, found in ((None, [saga]), (SagaStatus.RUNNING, [saga]), (SagaStatus.CONFIRMED, [])):
            listed = await desk_of(redeemed).list_sagas(status=status, campaign_id=redeemed.id)
            assert [one.saga_id for one in listed] == found
        code, lines = await command(settings, tmp_path, "saga", "show", saga, "--json")
        told = "\n".join(lines)
        assert code == 0
        assert "step        deduct_points   fg_points  done, 20" in told
        assert "step        create_order    fg_orders  not yet" in told
        assert f"points      spend -{PRICE} of {redeemed.user(0)}" in told
        assert "order       no row" in told
        assert f"no such table. Once that is mended: `./flashgate saga retry {saga}`; or give it up" in told
        assert orjson.loads(lines[-1])["plan"][1]["text"] == "not yet"
        code, lines = await command(settings, tmp_path, "saga", "retry", saga)
        assert (code, "create_order comes next" in lines[-1]) == (0, True)
        code, lines = await command(settings, tmp_path, "saga", "retry", saga)
        assert code == 1
        assert "it is not parked; goes on by itself with create_order; nothing was changed" in lines[-1]
        await redeemed.drive()
        assert (await statuses(redeemed.shop))[saga] == "paid"
        told = await shown(redeemed, saga)
        assert "next        nothing: ended well; its order is paid" in told
        assert "step        confirm_order   fg_orders  done, 20" in told
        with pytest.raises(OperationRefusedError, match="ended well"):
            await desk_of(redeemed).retry(saga)


async def test_person_turns_a_saga_back(settings: Settings, tmp_path: Path) -> None:
    """A saga that a person turns back gives points and units back; who and why are kept, and it is done once."""
    async with open_redeemed(settings) as redeemed, new_keeper(settings, redeemed.shop) as (keeper, _):
        before = await line(redeemed.shop)
        saga = await begun(redeemed)
        await redeemed.step(saga, SagaStep.CREATE_ORDER)
        await redeemed.park(saga)
        args = ("saga", "compensate", saga, "--why", "sold out in Köln", "--who", "ann", "--json")
        code, lines = await command(settings, tmp_path, *args)
        assert (code, orjson.loads(lines[-1])["reason"]) == (0, "compensated by ann")
        code, lines = await command(settings, tmp_path, *args)
        assert (code, "compensating already (compensated by ann)" in lines[-1]) == (1, True)
        await redeemed.drive()
        await until_idle(keeper)
        assert await reasons(redeemed, saga) == [("rejected", "compensated by ann")]
        assert await redeemed.moves(saga) == [("spend", -PRICE), ("refund", PRICE)]
        assert await redeemed.balance() == GRANTED
        assert (await line(redeemed.shop)).remaining == before.remaining
        told = await shown(redeemed, saga)
        assert "decided by  ann: sold out in Köln" in told
        assert "step        create_payment  fg_orders  taken back before it was done" in told
        assert "next        nothing: compensated: compensated by ann; its order is rejected" in told
        code, lines = await command(settings, tmp_path, "saga", "compensate", saga)
        assert (code, "--why" in "\n".join(lines)) == (2, True)


async def test_confirmed_saga_is_not_turned_back(settings: Settings) -> None:
    """A confirmed saga is refused, naming what gives goods and points back; nothing is changed.

    Guards the compare-and-set of a person's decision.
    """
    async with open_redeemed(settings) as redeemed:
        saga = await begun(redeemed)
        for step in (SagaStep.CREATE_ORDER, SagaStep.CREATE_PAYMENT):
            await redeemed.step(saga, step)
        await redeemed.turn(saga, SagaStatus.CONFIRMED)
        refused = ""
        try:
            await desk_of(redeemed).compensate(saga, who="ann", why="x", reason="compensated by ann: x")
        except OperationRefusedError as error:
            refused = str(error)
        assert f"./flashgate outbound reject {saga}" in refused
        await redeemed.step(saga, SagaStep.CONFIRM_ORDER)
        assert (await statuses(redeemed.shop))[saga] == "paid"
        assert await redeemed.moves(saga) == [("spend", -PRICE)]


async def test_driver_and_people_race(settings: Settings) -> None:
    """Of a driver that confirms and two people who turn back, one decides; the saga goes one way, whole."""
    async with open_redeemed(settings) as redeemed, new_keeper(settings, redeemed.shop) as (keeper, _):
        for which in range(4):
            saga = await begun(redeemed, which)
            for step in (SagaStep.CREATE_ORDER, SagaStep.CREATE_PAYMENT):
                await redeemed.step(saga, step)
            desk = desk_of(redeemed)
            results = await asyncio.gather(
                desk.compensate(saga, who="ann", why="x", reason="ann"),
                redeemed.turn(saga, SagaStatus.CONFIRMED),
                desk.compensate(saga, who="ben", why="x", reason="ben"),
                return_exceptions=True,
            )
            assert [isinstance(one, BaseException) for one in results].count(False) == 1, results
            await redeemed.drive()
            confirmed = results[1] is None
            assert (await statuses(redeemed.shop))[saga] == ("paid" if confirmed else "rejected")
            assert await redeemed.balance(which) == GRANTED - (PRICE if confirmed else 0)
        await until_idle(keeper)


async def test_points_are_away(settings: Settings) -> None:
    """A saga is shown though fg_points cannot be asked, and it says so."""
    async with open_redeemed(settings) as redeemed:
        saga = await begun(redeemed)
        dsn = msgspec.structs.replace(redeemed.clients.points.dsn, port=free_port())
        gone = Pool(dsn, size_max=1, connect_timeout_s=1)
        try:
            story = await desk_of(redeemed, gone).find(saga)
        finally:
            await gone.close()
        told = "\n".join(story_lines(story))
        assert "step        deduct_points   fg_points  fg_points cannot be asked" in told
        assert story.points_away
        with pytest.raises(OperationRefusedError, match="no redemption, or was not taken in yet"):
            await desk_of(redeemed).find(f"{redeemed.id}~{'0' * 32}")


async def set_aside(redeemed: Redeemed, saga: str, reason: Reason) -> LetterId:
    """Have a redemption's record be a dead letter; returns its id."""
    settings, topic = redeemed.settings, dead_topic(TOPIC_REDEMPTIONS_ACCEPTED)
    letters = DeadLetters(
        functools.partial(make_producer, settings.kafka), topic, timeout_s=20.0, now_ms=lambda: time.time_ns() // 10**6
    )
    record = ParkedRecord(saga.encode(), encode_redemption_accepted(redeemed.events[saga]))
    try:
        await letters.send([Dead(record, reason, "a test")])
    finally:
        await letters.close()
    async with open_reader(settings.kafka) as reader:
        found = [one async for one in reader.read(topic, await reader.spans(topic)) if one.key == saga.encode()]
    return read_letter(found[-1]).id


async def deed(redeemed: Redeemed, what: str, letter: LetterId) -> Deed:
    """Replay or drop one dead letter."""
    async with open_desk(redeemed.settings) as desk:
        (done,) = [one async for one in getattr(desk, what)([letter])]
    assert isinstance(done, Deed)
    return done


async def test_letter_of_a_parked_saga(settings: Settings) -> None:
    """The letter of a parked saga says what it is about, cannot be dropped, and has it go on when it is replayed.

    Guards that what a parked saga holds is not given up beside it.
    """
    async with open_redeemed(settings) as redeemed:
        saga = await begun(redeemed)
        await redeemed.park(saga)
        letter = await set_aside(redeemed, saga, Reason.PARKED)
        async with open_desk(settings) as desk:
            told = "\n".join(letter_lines(*await desk.find(letter)))
        assert f"about    an accepted redemption: 1 of box for user {redeemed.user(0)}, {PRICE} points" in told
        refused = await deed(redeemed, "drop", letter)
        assert (refused.action, f"saga compensate {saga}" in refused.detail) == ("", True)
        assert (await statuses(redeemed.shop), await redeemed.balance()) == ({}, GRANTED - PRICE)
        assert (await deed(redeemed, "replay", letter)).action == "replayed"
        await redeemed.take_in(saga)  # as the record comes again
        assert await desk_of(redeemed).list_sagas(campaign_id=redeemed.id, parked=True) == []
        await redeemed.drive()
        assert (await statuses(redeemed.shop))[saga] == "paid"


async def test_letter_without_a_saga_is_dropped(settings: Settings) -> None:
    """A redemption that never was taken in is given up by a saga that turns back: rejected, units back, no points."""
    async with open_redeemed(settings) as redeemed, new_keeper(settings, redeemed.shop) as (keeper, _):
        await redeemed.grant(0)
        before = await line(redeemed.shop)
        saga = await redeemed.admit(0)
        letter = await set_aside(redeemed, saga, Reason.REFUSED)
        dropped = await deed(redeemed, "drop", letter)
        assert (dropped.action, "is turned back" in dropped.detail) == ("dropped", True)
        await redeemed.drive()
        await until_idle(keeper)
        assert await reasons(redeemed, saga) == [("rejected", "dead letter dropped")]
        assert (await redeemed.balance(), await redeemed.moves(saga)) == (GRANTED, [])
        assert (await line(redeemed.shop)).remaining == before.remaining
