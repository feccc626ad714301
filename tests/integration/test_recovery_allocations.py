"""Redis goes back to a state from before a load, a top-up or a close: recovery brings it to the catalog."""

import logging
import secrets
from pathlib import Path

import pytest

from adapters.campaign_stock import load_campaign, top_up
from adapters.catalog import CatalogCampaign
from adapters.recovery_stock import Adjustment, Changes, adjust
from adapters.stock import read_snapshot
from domain import keys
from domain.errors import BackendError, FencedError, OperationRefusedError
from domain.events import OrderAccepted
from domain.order import fingerprint, order_id
from domain.outcomes import Outcome
from domain.settings import Settings
from tests.support.forgetful import forgetful_redis
from tests.support.house import House, KnowsCatalog, dying_at
from tests.support.life import line
from tests.support.shop import SKU, open_shop
from tests.support.waiting import in_time
from warehouse import loads
from warehouse.campaigns import ToppedUp, close_campaign, load_into, top_up_stock
from warehouse.movements import Movement, move
from warehouse.rules import BookingKind
from warehouse.stores import wall_ms

pytestmark = pytest.mark.usefixtures("stack")

ACCEPTED = Outcome.ACCEPTED


async def bought(house: House, campaign_id: str, sku_id: str, user: str, quantity: int) -> OrderAccepted:
    """Have a buyer order; returns the event, as Kafka has it."""
    assert await house.buy(campaign_id, sku_id, user, quantity) is ACCEPTED
    return OrderAccepted(
        order_id=order_id(campaign_id, user, "k"),
        campaign_id=campaign_id,
        sku_id=sku_id,
        user_id=user,
        quantity=quantity,
        unit_price_cents=5_900,
        fingerprint=fingerprint(sku_id, quantity),
        hold_no=1,
        accepted_at_ms=wall_ms(),
        outbox_id="9000000000000-1",
        outbox_index=0,
    )


async def assert_brought_back(house: House) -> None:
    """Assert that everybody has the same figures, and that the process has nothing to do about it."""
    assert await house.settle(everything=True) == 0
    await house.assert_balanced()


async def test_a_top_up_that_redis_has_lost(house: House) -> None:
    """It is there again, and its key, so that whoever still repeats it adds nothing."""
    box = await house.new_sku(100)
    campaign_id = await house.new_campaign((box, 10))
    saved = await house.save(campaign_id)
    await top_up_stock(house.clients, campaign_id, box, 5, "k")
    before = await house.line(campaign_id, box)
    await house.fail_over(campaign_id, saved)
    assert await house.open_gate(campaign_id) == 0
    assert await house.line(campaign_id, box) == before
    assert await top_up(house.clients.channel, campaign_id, box, 5, "k") == (15, False)
    assert await top_up_stock(house.clients, campaign_id, box, 5, "k") == ToppedUp(15, added=False)
    await assert_brought_back(house)


async def test_a_top_up_that_was_sold(house: House) -> None:
    """Orders for units that Redis has lost are restored: there is made room for them first."""
    box = await house.new_sku(100)
    campaign_id = await house.new_campaign((box, 10))
    saved = await house.save(campaign_id)
    await top_up_stock(house.clients, campaign_id, box, 5, "k")
    lost = await bought(house, campaign_id, box, "ann", 12)
    await house.fail_over(campaign_id, saved)
    refused = ""
    try:
        assert await house.open_gate(campaign_id, lost) == 1
    except OperationRefusedError as error:
        refused = str(error)
    assert refused == ""
    assert (await house.line(campaign_id, box)).remaining == 3
    await assert_brought_back(house)


async def test_a_lowered_stock_that_redis_has_lost(house: House) -> None:
    """What the catalog has given to others is not sold, and the file that said so is loaded as it was."""
    box = await house.new_sku(10)
    campaign_id = await house.new_campaign((box, 10))
    saved = await house.save(campaign_id)
    await load_into(house.clients, house.file(campaign_id, (box, 3)))
    lost = await bought(house, campaign_id, box, "ann", 1)
    await house.reserve(box, 7)
    await house.fail_over(campaign_id, saved)
    assert await house.open_gate(campaign_id, lost) == 1
    assert [await house.buy(campaign_id, box, user, 1) for user in ("ben", "cid", "dan")] == [
        ACCEPTED,
        ACCEPTED,
        Outcome.SOLD_OUT,
    ]
    assert await load_into(house.clients, house.file(campaign_id, (box, 3))) == "unchanged"
    await assert_brought_back(house)


async def test_a_file_that_redis_has_lost(house: House) -> None:
    """Units, prices and SKUs of a later file come back, and what was sold of them."""
    box, bag = await house.new_sku(100), await house.new_sku(100)
    campaign_id = await house.new_campaign((box, 10))
    saved = await house.save(campaign_id)
    file = house.file(campaign_id, (box, 15), (bag, 4), price_cents=100)
    assert await load_into(house.clients, file) == "updated"
    lost = await bought(house, campaign_id, box, "ann", 12), await bought(house, campaign_id, bag, "ben", 3)
    await house.fail_over(campaign_id, saved)
    assert await house.open_gate(campaign_id, *lost) == 2
    lines = await house.line(campaign_id, box), await house.line(campaign_id, bag)
    assert [(one.remaining, one.allocated, one.price_cents) for one in lines] == [(3, 15, 100), (1, 4, 100)]
    assert await load_into(house.clients, file) == "unchanged"
    assert await load_into(house.clients, house.file(campaign_id, (box, 20), (bag, 3))) == "updated"
    await assert_brought_back(house)


async def test_a_close_that_redis_has_lost(house: House) -> None:
    """What the catalog has freed is not sold: the campaign is closed before its gate is open, by whoever is first."""
    for process_first in (True, False):
        box = await house.new_sku(10)
        campaign_id = await house.new_campaign((box, 10))
        saved = await house.save(campaign_id)
        await close_campaign(house.clients, campaign_id)
        await house.reserve(box, 10)
        await house.fail_over(campaign_id, saved)
        assert await house.state(campaign_id) == "open"
        if process_first:
            with pytest.raises(FencedError):
                await house.settle(everything=True)
            assert await house.state(campaign_id) == "closed"
        await house.open_gate(campaign_id)
        assert await house.buy(campaign_id, box, "ann") is Outcome.ENDED
        assert (await house.state(campaign_id), (await house.line(campaign_id, box)).allocated) == ("closed", 0)
    await assert_brought_back(house)


async def test_what_a_closed_campaign_has_given_back(house: House) -> None:
    """The running total of what was withdrawn goes on where it was, so that what comes back later is freed, once."""
    box = await house.new_sku(15)
    campaign_id = await house.new_campaign((box, 10))
    for user, quantity in (("ann", 4), ("ben", 2)):
        await bought(house, campaign_id, box, user, quantity)
    saved = await house.save(campaign_id)
    await top_up_stock(house.clients, campaign_id, box, 5, "k")
    await close_campaign(house.clients, campaign_id)
    assert await house.numbers(box) == (15, 6, 0)
    await house.fail_over(campaign_id, saved)
    await house.open_gate(campaign_id)
    await assert_brought_back(house)
    for user, left in (("ann", 2), ("ben", 0)):
        await house.give_back(campaign_id, user)
        assert (await house.settle(), await house.settle()) == (1, 0)
        assert await house.numbers(box) == (15, left, 0)
    await assert_brought_back(house)


WHERE = ["in the catalog", "in Redis", "lost", "lost and sold"]


@pytest.mark.parametrize("where", WHERE)
async def test_a_top_up_under_way(house: House, where: str) -> None:
    """A top-up that nobody has noted as done is added once, wherever it was when Redis went back."""
    box = await house.new_sku(100)
    campaign_id = await house.new_campaign((box, 10))
    saved, lost = await house.save(campaign_id), []
    with dying_at("warehouse.after_allocate" if where == "in the catalog" else "warehouse.after_redis"):
        await top_up_stock(house.clients, campaign_id, box, 6, "k")
    if where == "in Redis":
        saved = await house.save(campaign_id)
    if where == "lost and sold":
        lost = [await bought(house, campaign_id, box, "ann", 14)]
    await house.fail_over(campaign_id, saved)
    assert await house.open_gate(campaign_id, *lost) == len(lost)
    assert (await house.line(campaign_id, box)).allocated == (16 if where in {"in Redis", "lost and sold"} else 10)
    assert await house.finish() == 1
    assert (await house.line(campaign_id, box)).allocated == 16
    await assert_brought_back(house)


@pytest.mark.parametrize("where", WHERE)
async def test_a_load_under_way(house: House, where: str) -> None:
    """A load that nobody has noted as done is taken once, wherever it was when Redis went back."""
    box, bag, cap = await house.new_sku(100), await house.new_sku(100), await house.new_sku(100)
    campaign_id = await house.new_campaign((box, 10), (bag, 10))
    file = house.file(campaign_id, (box, 15), (bag, 4), (cap, 3), price_cents=100)
    saved, lost = await house.save(campaign_id), []
    with dying_at("warehouse.after_allocate" if where == "in the catalog" else "warehouse.after_redis"):
        await load_into(house.clients, file)
    if where == "in Redis":
        saved = await house.save(campaign_id)
    if where == "lost and sold":
        lost = [await bought(house, campaign_id, box, "ann", 14), await bought(house, campaign_id, cap, "ben", 2)]
    await house.fail_over(campaign_id, saved)
    assert await house.open_gate(campaign_id, *lost) == len(lost)
    snapshot = await read_snapshot(house.clients.client, campaign_id)
    assert snapshot is not None
    taken = {box: 15, bag: 4, cap: 3} if where in {"in Redis", "lost and sold"} else {box: 10, bag: 10}
    assert {sku_id: one.allocated for sku_id, one in snapshot.stock.items()} == taken
    assert await house.finish() == 1
    assert await house.allocated(campaign_id) == {box: 15, bag: 4, cap: 3}
    assert (await house.line(campaign_id, bag)).price_cents == 100
    assert await load_into(house.clients, file) == "unchanged"
    await assert_brought_back(house)


async def test_a_load_under_way_that_is_refused(house: House) -> None:
    """What recovery leaves to a load under way is not on sale before, so that a refused load can be undone."""
    box, bag = await house.new_sku(100), await house.new_sku(100)
    campaign_id = await house.new_campaign((box, 10), (bag, 10))
    saved = await house.save(campaign_id)
    with dying_at("warehouse.after_allocate"):
        await load_into(house.clients, house.file(campaign_id, (box, 15), (bag, 4)))
    await house.fail_over(campaign_id, saved)
    await house.open_gate(campaign_id)
    await bought(house, campaign_id, bag, "ann", 6)
    assert await house.finish() == 1
    assert await house.allocated(campaign_id) == {box: 10, bag: 10}
    await assert_brought_back(house)


async def test_a_refused_load_that_comes_late(house: House) -> None:
    """A Redis that has forgotten that it refused a load does not take it from whoever was paused meanwhile."""
    box, bag = await house.new_sku(100), await house.new_sku(100)
    campaign_id = await house.new_campaign((box, 10), (bag, 10))
    file = house.file(campaign_id, (box, 15), (bag, 4))
    begun = await loads.begin(house.clients, file, "updated", who="test", now_ms=wall_ms())
    assert begun is not None
    await bought(house, campaign_id, bag, "ann", 6)
    saved = await house.save(campaign_id)
    with pytest.raises(OperationRefusedError, match="below the 6 units"):
        await loads.carry_out(house.clients, begun.due, wall_ms())
    await house.fail_over(campaign_id, saved)
    await house.open_gate(campaign_id)
    await house.give_back(campaign_id, "ann")
    with pytest.raises(OperationRefusedError, match="refused before"):
        await load_campaign(house.clients.channel, file, load_no=begun.due.load_no)
    await assert_brought_back(house)
    assert await load_into(house.clients, file) == "updated"
    await assert_brought_back(house)


class MeanwhileLoaded(KnowsCatalog):
    """A catalog of which a file is loaded right after recovery has read it."""

    house: House
    files: list[int]

    async def catalog(self, campaign_id: str) -> CatalogCampaign | None:
        """Read it, then load."""
        found = await super().catalog(campaign_id)
        assert found is not None
        if self.files:
            (sku_id,) = found.skus
            await load_into(self.house.clients, self.house.file(campaign_id, (sku_id, self.files.pop())))
        return found


@pytest.mark.parametrize("files", [[15], [20, 15, 12]], ids=["once", "again"])
async def test_a_load_while_recovery_looks(house: House, files: list[int]) -> None:
    """What was raised after recovery has looked is not taken back: it looks again before the gate opens."""
    box = await house.new_sku(100)
    campaign_id = await house.new_campaign((box, 10))
    saved = await house.save(campaign_id)
    await top_up_stock(house.clients, campaign_id, box, 5, "k")
    await house.fail_over(campaign_id, saved)
    sources = MeanwhileLoaded(house.clients.catalog)
    sources.house, sources.files = house, list(files)
    for _ in files:
        with pytest.raises(BackendError, match="while recovery looked"):
            await house.open_gate(campaign_id, sources=sources)
        with pytest.raises(FencedError):
            await house.buy(campaign_id, box, "ann")
    assert await house.open_gate(campaign_id, sources=sources) == 0
    assert (await house.line(campaign_id, box)).allocated == files[0] + 5
    await assert_brought_back(house)


class CatalogAway(KnowsCatalog):
    """A catalog that does not answer."""

    async def catalog(self, _campaign_id: str) -> CatalogCampaign | None:
        """Fail."""
        raise BackendError("MySQL is away")


async def test_the_gate_waits_for_the_catalog(house: House) -> None:
    """While the catalog does not answer nothing is admitted and nothing is moved."""
    box = await house.new_sku(10)
    campaign_id = await house.new_campaign((box, 10))
    await house.fail_over(campaign_id, await house.save(campaign_id))
    before = await house.dump()
    with pytest.raises(BackendError, match="away"):
        await house.open_gate(campaign_id, sources=CatalogAway(house.clients.catalog))
    with pytest.raises(FencedError):
        await house.buy(campaign_id, box, "ann")
    assert await house.dump() == before


async def test_oversold_is_told_and_can_be_covered(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """What is sold beyond what is allocated stays sold, is told, and is covered by a file that asks for it."""
    box = await house.new_sku(2)
    campaign_id = await house.new_campaign((box, 2))
    await load_into(house.clients, house.file(campaign_id, (box, 1)))
    await house.fail_over(campaign_id, await house.save(campaign_id))
    channel, client = house.clients.channel, house.clients.client
    run_id = await channel.connect()
    seen = await house.line(campaign_id, box)
    by_hand = Adjustment(box, seen, 4, 1, 0, seen.per_user, seen.price_cents)
    await adjust(channel, campaign_id, Changes(2, [by_hand]), run_id=run_id)
    await client.hset(keys.campaign(campaign_id), "run_id", run_id)
    await bought(house, campaign_id, box, "ann", 3)
    await client.hset(keys.campaign(campaign_id), "run_id", "the one before")
    with caplog.at_level(logging.ERROR, "gateway.recovery"):
        assert await house.open_gate(campaign_id) == 0
    assert f"campaign {campaign_id}, SKU {box}: oversold by 2 units" in caplog.text
    assert await house.buy(campaign_id, box, "ben") is Outcome.SOLD_OUT
    with pytest.raises(OperationRefusedError, match="below the 3 units that are sold"):
        await load_into(house.clients, house.file(campaign_id, (box, 2)))
    await house.receive(box, 1)
    assert await load_into(house.clients, house.file(campaign_id, (box, 3))) == "updated"
    assert (await house.line(campaign_id, box)).remaining == 0
    await assert_brought_back(house)


async def test_what_recovery_may_not_adjust(house: House) -> None:
    """Another server, an open gate, numbers that have moved or cannot be read, no campaign: nothing is changed."""
    box = await house.new_sku(10)
    campaign_id = await house.new_campaign((box, 10))
    channel, client = house.clients.channel, house.clients.client
    run_id = await channel.connect()
    seen = await house.line(campaign_id, box)
    fits = Adjustment(box, seen, 8, 8, 0, 1, 1)
    changes = Changes(1, [fits], {"state": "closed"}, {"k": f"{box} 1"})

    async def refused(changes: Changes, error: type[Exception], match: str, *, on: str = run_id) -> None:
        before = await house.dump()
        with pytest.raises(error, match=match):
            await adjust(channel, campaign_id, changes, run_id=on)
        assert await house.dump() == before

    await refused(changes, BackendError, "another recovery")
    await house.fail_over(campaign_id, await house.save(campaign_id))
    await refused(changes, FencedError, "closed until recovery", on="another")
    moved = seen._replace(taken=1), seen._replace(allocated=9), None
    for before in moved:
        await refused(changes._replace(skus=[fits._replace(before=before)]), BackendError, "while recovery looked")
    await refused(changes._replace(load_no=2), BackendError, "while recovery looked")
    await adjust(channel, campaign_id, Changes(7), run_id=run_id)  # nothing to be done: nobody is asked
    await client.hset(keys.stock(campaign_id), box, "broken")
    await refused(changes, OperationRefusedError, "cannot be read")
    with pytest.raises(OperationRefusedError, match="stays closed"):
        await house.open_gate(campaign_id)
    await house.lose(campaign_id)
    await refused(changes, OperationRefusedError, "there is no campaign")


async def test_a_relay_brings_redis_to_the_catalog(settings: Settings, tmp_path: Path) -> None:
    """A real relay, on a Redis that has lost its log's tail, with a top-up in it that is sold."""
    async with forgetful_redis(tmp_path) as redis:
        private = redis.settings(settings)
        async with open_shop(private, stock=2) as shop, shop.worker(private) as url:
            mark = redis.mark()
            movement = Movement(BookingKind.RECEIVE, SKU, 2, secrets.token_hex(8), "", who="test")
            await move(shop.clients.catalog, movement, wall_ms())
            await top_up_stock(shop.clients, shop.id, SKU, 2, "k")
            for number in range(3):
                assert (await shop.buy(url, f"a-{number}")).status == 202
            await shop.relayed()
            await redis.go_back(mark)
            async with shop.relay():
                await in_time(shop.outbox_is_relayed, "the gate stays closed")
            one = await line(shop)
            assert (one.remaining, one.taken, one.allocated) == (1, 3, 4)
            await shop.assert_replays(url)
            await shop.assert_invariants()
