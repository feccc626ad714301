"""Loads, top-ups and closes that go wrong: late, repeated, on a Redis that lost something, beside a broken one."""

import pytest

from adapters.stock import LostOrder
from domain import keys
from domain.errors import OperationRefusedError
from domain.order import fingerprint, order_id, user_hash
from domain.outcomes import Outcome
from tests.support.house import House, dying_at
from tests.support.scripts import restore_now
from warehouse import allocation_due, loads, topups
from warehouse.campaigns import close_campaign, load_into, top_up_stock
from warehouse.stores import wall_ms


async def test_a_refused_load_stays_refused_after_a_later_one_is(house: House) -> None:
    """Whoever was slow over a load that was refused and undone gets it through neither then nor after the next refusal.

    Guards the number of the last refused load, which all before it are compared with.
    """
    box, bag = await house.new_sku(20), await house.new_sku(200)
    campaign = await house.new_campaign((box, 10), (bag, 10))
    assert await house.buy(campaign, box, "ann", 10) is Outcome.ACCEPTED
    second = await loads.begin(
        house.clients, house.file(campaign, (box, 5), (bag, 110)), "updated", who="", now_ms=wall_ms()
    )
    assert second is not None
    slow = await loads._read(house.clients, second.due)
    assert slow is not None
    with pytest.raises(OperationRefusedError):
        await loads.carry_out(house.clients, second.due, wall_ms())
    third = await loads.begin(
        house.clients, house.file(campaign, (box, 4), (bag, 20)), "updated", who="", now_ms=wall_ms()
    )
    assert third is not None
    with pytest.raises(OperationRefusedError):
        await loads.carry_out(house.clients, third.due, wall_ms())
    await house.give_back(campaign, "ann")
    with pytest.raises(OperationRefusedError):
        await loads._load_into_redis(house.clients, second.due, slow, is_new=False)
    assert (await house.line(campaign, bag)).allocated == (await house.allocated(campaign))[bag] == 10


async def test_a_broken_campaign_holds_up_no_other_close(house: House) -> None:
    """A closed campaign whose numbers cannot be read is told of, and the others give back what came back to them."""
    sku = await house.new_sku(100)
    first, second = sorted([await house.new_campaign((sku, 10)), await house.new_campaign((sku, 10))])
    for campaign in (first, second):
        assert await house.buy(campaign, sku, "ann") is Outcome.ACCEPTED
        await close_campaign(house.clients, campaign)
    await house.clients.client.hset(keys.stock(first), sku, "broken")
    await house.give_back(second, "ann")
    await house.settle()
    assert (await house.allocated(second))[sku] == 0
    assert (await house.allocated(first))[sku] == 1


async def test_a_broken_campaign_holds_up_no_other_load_or_top_up(house: House) -> None:
    """What cannot be carried out for one campaign is put off with its reason, and another's is carried out."""
    sku = await house.new_sku(100)
    first, second = await house.new_campaign((sku, 10)), await house.new_campaign((sku, 10))
    with dying_at("warehouse.after_allocate"):
        await load_into(house.clients, house.file(first, (sku, 11)))
    with dying_at("warehouse.after_allocate"):
        await top_up_stock(house.clients, second, sku, 3, "k")
    await house.clients.client.hset(keys.stock(first), sku, "broken")
    await house.finish()
    assert (await house.line(second, sku)).allocated == 13
    assert [ref for ref, *_ in await house.owed() if "topup" in ref] == []
    assert [ref for ref, *_ in await house.owed() if "load" in ref] == [f"load {first} 2"]


async def test_a_catalog_that_was_set_back_numbers_on_from_redis(house: House) -> None:
    """A load whose number Redis has seen already would pass for late: it gets the next one, and takes effect."""
    sku = await house.new_sku(10)
    campaign = await house.new_campaign((sku, 10))
    await house.clients.client.hset(keys.campaign(campaign), "load_no", 50)
    assert await load_into(house.clients, house.file(campaign, (sku, 2))) == "updated"
    assert (await house.line(campaign, sku)).allocated == (await house.allocated(campaign))[sku] == 2


async def test_a_load_that_redis_takes_for_late_frees_nothing(house: House) -> None:
    """A load that is due and that Redis passes over as late has not lowered anything, so nothing of it is freed.

    Guards what the script says of it, which is not taken for success.
    """
    sku = await house.new_sku(10)
    campaign = await house.new_campaign((sku, 10))
    begun = await loads.begin(house.clients, house.file(campaign, (sku, 2)), "updated", who="", now_ms=wall_ms())
    assert begun is not None
    await house.clients.client.hset(keys.campaign(campaign), "load_no", 50)
    with pytest.raises(loads.LoadBehindError):
        await loads.carry_out(house.clients, begun.due, wall_ms())
    await house.finish()
    assert (await house.line(campaign, sku)).allocated == (await house.allocated(campaign))[sku] == 10
    assert [ref for ref, *_ in await house.owed()] == [begun.due.ref]


async def test_a_load_that_lowers_what_redis_then_lost_frees_nothing(house: House) -> None:
    """Redis took a load, sold what it had raised, and lost it all: what is sold stays allocated, and comes back.

    Guards that such a load is neither undone nor lowers anything: its campaign is created with what is allocated.
    """
    box, bag = await house.new_sku(20), await house.new_sku(20)
    campaign = await house.new_campaign((box, 10), (bag, 10))
    with dying_at("warehouse.after_redis"):
        await load_into(house.clients, house.file(campaign, (box, 5), (bag, 20)))
    assert await house.buy(campaign, bag, "ann", 20) is Outcome.ACCEPTED
    await house.lose(campaign)
    await house.finish()
    assert await house.allocated(campaign) == {box: 10, bag: 20}
    lost = LostOrder(order_id(campaign, "ann", "k")[-32:], fingerprint(bag, 20), bag, 20, "ann", user_hash("ann"), 1, 1)
    assert await restore_now(house.clients.channel, campaign, [lost], "9000000000000-1") == 1
    assert (await house.line(campaign, bag)).remaining == 0
    assert await house.owed() == []


async def test_a_top_up_from_an_old_list_is_not_made_again(house: House) -> None:
    """Whoever has read of a top-up before it was done does not add it to a Redis that has lost its keys since."""
    sku = await house.new_sku(100)
    campaign = await house.new_campaign((sku, 10))
    with dying_at("warehouse.after_allocate"):
        await top_up_stock(house.clients, campaign, sku, 5, "k")
    (old,) = await allocation_due.find_due(house.clients.catalog, wall_ms() + 10_000_000, 10)
    await top_up_stock(house.clients, campaign, sku, 5, "k")
    await house.lose(campaign)
    await load_into(house.clients, house.file(campaign, (sku, 10)))
    await house.open_gate(campaign)
    assert await topups.carry_out(house.clients, old, wall_ms()) is None
    assert (await house.line(campaign, sku)).allocated == (await house.allocated(campaign))[sku] == 15
