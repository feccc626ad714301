"""Rejections of approved orders on real servers: a parcel leaves or stays, never both; and missing reviews."""

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest

from adapters.mysql import query, transaction
from adapters.stores import open_stores
from domain.errors import BackendError, OperationRefusedError
from domain.order_state import OrderStatus, ReviewStatus
from domain.settings import Settings
from tests.support.children import start_killed_at
from tests.support.dock import Dock, changed, new_outbound, new_warehouse, one_round, open_dock
from tests.support.life import line, now_ms
from tests.support.operator import command
from tests.support.waiting import in_time
from warehouse import missing_reviews, parcel_rows, steps
from warehouse.outbound import Decided
from warehouse.rules import BookingKind
from warehouse.steps import Step

KILLED = -signal.SIGKILL
THE_MONEY = "the money goes back"


async def approve_only(dock: Dock, *which: int) -> list[Step]:
    """Approve orders while the catalog is away; returns the steps that are owed now."""
    ids = [dock.orders[one] for one in which]
    await dock.without_catalog().approve(ids, "eve", "fine")
    found = await steps.due_steps(dock.shop.clients.orders, BookingKind.SHIP, now_ms() + 3_600_000, 1_000)
    return [one for one in found if one.order_id in ids]


async def try_again(dock: Dock, owed: list[Step]) -> dict[str, steps.Refused]:
    """Carry out steps as a keeper does that has read them before."""
    clients = dock.shop.clients
    return await steps.attempt(clients.catalog, clients.orders, owed, dock.settings.warehouse, now_ms)


async def owes(dock: Dock, which: int = 0) -> dict[str, bool]:
    """Return kind of step → whether it is still owed for an order."""
    rows = await query(
        dock.shop.clients.orders,
        "SELECT kind, done_at_ms IS NULL FROM warehouse_due WHERE order_id = %s",
        (dock.orders[which],),
    )
    return {kind: bool(open_) for kind, open_ in rows}


async def take_from_parts(dock: Dock, units: int) -> None:
    """Have the campaign be short of so many units in the warehouses, as if a table had been changed by hand."""
    async with transaction(dock.shop.clients.catalog) as cursor:
        await cursor.execute(
            "UPDATE warehouse_allocation SET shipped = shipped + %s WHERE campaign_id = %s", (units, dock.shop.id)
        )


async def test_what_cannot_be_shipped_is_refunded(settings: Settings, tmp_path: Path) -> None:
    """An approved order that the warehouse has nothing for can be rejected: the unit and the money go back.

    Nothing is owed for it any more, the warehouse's ledger says that its parcel never leaves, and the trace tells it.
    """
    async with open_dock(settings, buyers=2, stock=2) as dock:
        await dock.pay()
        await take_from_parts(dock, 1)
        _, stuck = await dock.outbound.approve(dock.orders, "eve", "")
        assert "cannot be shipped" in stuck.note
        which = dock.orders.index(stuck.order_id)
        code, said = await command(dock.settings, tmp_path, "outbound", "reject", stuck.order_id, "--who", "ben")
        assert (code, said) == (0, [f"{stuck.order_id}: rejected; {THE_MONEY}"])
        assert await owes(dock, which) == {"ship": False, "cancel": False}
        assert await dock.bookings(which) == [("cancel", 0, 0)]
        await take_from_parts(dock, -1)
        await dock.assert_adds_up()
        assert await dock.status(which) == "refunded"
        assert {one.state for one in dock.provider.payments_of(stuck.order_id)} == {"refunded"}
        assert (await dock.reviews())[stuck.order_id] == ("rejected", "ben")
        assert (await line(dock.shop)).returned == 1
        code, said = await command(dock.settings, tmp_path, "trace", stuck.order_id)
        assert code == 0
        assert any("stays in the warehouse" in one for one in said)
        assert not any("has left the warehouse" in one for one in said)


@pytest.mark.parametrize(
    ("fail_point", "booked"), [("warehouse.before_cancel", []), ("warehouse.after_cancel", [("cancel", 0, 0)])]
)
async def test_rejection_that_was_killed(
    settings: Settings, fail_point: str, booked: list[tuple[str, int, int]]
) -> None:
    """A rejection that dies between its commits is finished by the keeper, and a parcel that stays never leaves.

    Guards: what is owed is written down with the decision; who ships asks under the stock's lock what was cancelled.
    """
    async with open_dock(settings) as dock:
        await dock.pay()
        owed, lay_there = await approve_only(dock, 0), await dock.lies_there()
        process = await start_killed_at(dock.settings, fail_point, "outbound", "reject", dock.orders[0], "--who", "ben")
        assert await process.wait() == KILLED
        assert (await dock.status(), await dock.reviews()) == ("approved", {dock.orders[0]: ("rejecting", "ben")})
        assert await dock.bookings() == booked
        with pytest.raises(OperationRefusedError, match="already being rejected by ben"):
            await dock.outbound.reject(dock.orders, "mallory", "")
        if booked:
            assert "never leaves the house" in str((await try_again(dock, owed))[dock.orders[0]])
            assert await dock.status() == "approved"
        await dock.warehouse.cancel()
        assert (await dock.status(), await dock.bookings()) == ("rejected", [("cancel", 0, 0)])
        assert await owes(dock) == {"ship": False, "cancel": False}
        assert set(await try_again(dock, owed)) == set(dock.orders)
        assert (await dock.bookings(), await dock.lies_there()) == ([("cancel", 0, 0)], lay_there)
        await dock.assert_adds_up()
        assert await dock.status() == "refunded"


async def test_ship_that_comes_after_the_rejection(settings: Settings) -> None:
    """A keeper that read its step before the order was rejected ships nothing, and says why; others still go out.

    Guards: the rejection is booked in the warehouse, and whoever has a parcel leave asks for it under the same lock.
    """
    async with open_dock(settings, buyers=3, stock=3) as dock:
        await dock.pay()
        owed = await approve_only(dock, 0, 1, 2)
        assert await dock.outbound.reject([dock.orders[1]], "ben", "") == [
            Decided(dock.orders[1], OrderStatus.REJECTED, THE_MONEY)
        ]
        refused = await try_again(dock, owed)
        assert {one: str(why) for one, why in refused.items()} == {
            dock.orders[1]: f"order {dock.orders[1]} was rejected by ben: its parcel never leaves the house"
        }
        assert [await dock.status(one) for one in range(3)] == ["shipped", "rejected", "shipped"]
        assert [await dock.bookings(one) for one in range(3)] == [
            [("ship", -1, -1)],
            [("cancel", 0, 0)],
            [("ship", -1, -1)],
        ]
        await dock.assert_adds_up()


async def test_rejection_of_what_has_left_the_house(settings: Settings) -> None:
    """A parcel whose keeper died between its two commits has left: its rejection is refused, and nothing is changed.

    With it those of others in the same command, some approved and some waiting. Guards: the warehouse is asked first,
    under the stock's lock.
    """
    async with open_dock(settings, buyers=3, stock=3) as dock:
        await dock.pay()
        process = await start_killed_at(
            dock.settings, "warehouse.after_ship", "outbound", "approve", dock.orders[0], "--who", "eve"
        )
        assert await process.wait() == KILLED
        await approve_only(dock, 1)
        before = await dock.everything()
        words = f"order {dock.orders[0]} was approved by eve, and its parcel has left the house, .* outbound return"
        for orders in (dock.orders[:1], dock.orders):
            with pytest.raises(OperationRefusedError, match=words):
                await dock.outbound.reject(orders, "ben", "")
        assert changed(before, await dock.everything()) == set()
        await one_round(dock.warehouse)
        assert [await dock.status(one) for one in range(3)] == ["shipped", "shipped", "paid"]
        await dock.outbound.take_back([dock.orders[0]], "ben", "")
        await dock.assert_adds_up()


async def test_several_are_rejected_together(settings: Settings) -> None:
    """Waiting and approved orders are rejected by one command, all or none: one that may not be keeps the others."""
    async with open_dock(settings, buyers=4, stock=4) as dock:
        await dock.pay()
        waiting, approved, shipped, _ = dock.orders
        await dock.outbound.approve([shipped], "eve", "")
        await approve_only(dock, 1)
        before = await dock.everything()
        with pytest.raises(OperationRefusedError, match=r"by eve and shipped; .* outbound return"):
            await dock.outbound.reject([waiting, approved, shipped], "ben", "")
        assert changed(before, await dock.everything()) == set()
        assert await dock.outbound.reject([waiting, approved], "ben", "") == [
            Decided(one, OrderStatus.REJECTED, THE_MONEY) for one in sorted([waiting, approved])
        ]
        assert await dock.waiting() == dock.orders[3:]
        await dock.assert_adds_up()


async def test_shipped_or_rejected(settings: Settings) -> None:
    """Of keepers that ship and operators who reject the same approved orders, for each order one of the two holds."""
    async with open_dock(settings, buyers=8, stock=8) as dock, open_stores(dock.settings) as stores:
        await dock.pay()
        owed, other = await approve_only(dock, *range(8)), new_outbound(dock.settings, stores)

        async def rejected(order: str) -> bool:
            try:
                (decided,) = await other.reject([order], "ben", "")
            except OperationRefusedError as refused:
                assert "outbound return" in str(refused)  # noqa: PT017 -- anything else fails the test, too
                return False
            return decided.status is OrderStatus.REJECTED

        async def shipped(step: Step, after: int) -> dict[str, steps.Refused]:
            for _ in range(after):  # so that some come first, some second, and some in between
                await query(dock.shop.clients.orders, "SELECT 1")
            return await try_again(dock, [step])

        shipping, rejecting = [], []
        for which, step in enumerate(owed):
            rejecting.append(asyncio.create_task(rejected(step.order_id)))
            shipping.append(asyncio.create_task(shipped(step, 4 * which)))
        won = dict(zip([one.order_id for one in owed], [await one for one in rejecting], strict=True))
        refused = set().union(*[set(await one) for one in shipping])
        await one_round(dock.warehouse)
        for which, order in enumerate(dock.orders):
            is_rejected = won[order]
            assert await dock.status(which) == ("rejected" if is_rejected else "shipped")
            kinds = [kind for kind, _, _ in await dock.bookings(which)]
            assert kinds == (["cancel"] if is_rejected else ["ship"])
        assert refused <= {order for order, is_rejected in won.items() if is_rejected}
        await dock.assert_adds_up()


async def test_rejection_that_was_overtaken(settings: Settings) -> None:
    """A parcel that left after a rejection had been killed before the warehouse heard of it has left: it is shipped.

    The rejection is void: the review says again who approved it, and its parcel may come back like any other.
    """
    async with open_dock(settings) as dock:
        await dock.pay()
        owed = await approve_only(dock, 0)
        process = await start_killed_at(dock.settings, "warehouse.before_cancel", "outbound", "reject", dock.orders[0])
        assert await process.wait() == KILLED
        await parcel_rows.ship(dock.shop.clients.catalog, [one.parcel for one in owed], now_ms())
        await dock.warehouse.cancel()
        assert await owes(dock) == {"ship": True, "cancel": False}
        assert await dock.reviews() == {dock.orders[0]: ("approved", "eve")}
        await dock.settle()
        assert (await dock.status(), await dock.bookings()) == ("shipped", [("ship", -1, -1)])
        await dock.assert_adds_up()
        await dock.outbound.take_back(dock.orders, "ben", "")
        await dock.assert_adds_up()
        assert await dock.status() == "refunded"


async def test_rejection_without_the_catalog(settings: Settings) -> None:
    """While the catalog is away an approved order cannot be rejected, nor any with it; one that waits can."""
    async with open_dock(settings, buyers=2, stock=2) as dock:
        await dock.pay()
        await approve_only(dock, 0)
        before = await dock.everything()
        with pytest.raises(BackendError):
            await dock.without_catalog().reject(dock.orders, "ben", "")
        assert changed(before, await dock.everything()) == set()
        await dock.without_catalog().reject([dock.orders[1]], "ben", "")
        assert await dock.status(1) == "rejected"
        await dock.assert_adds_up()


# -- reviews that are missing ----------------------------------------------------------------------------------------


async def as_if_paid_by_an_old_process(dock: Dock) -> None:
    """Have paid orders have no review."""
    async with transaction(dock.shop.clients.orders) as cursor:
        await cursor.execute("DELETE FROM outbound_review WHERE campaign_id = %s", (dock.shop.id,))


async def test_missing_reviews_are_opened(settings: Settings) -> None:
    """Paid orders without a review get one when the process begins, once, however many processes there are.

    Guards: the process looks for them. Others, which are not paid, get none.
    """
    async with open_dock(settings, buyers=4, stock=4) as dock:
        await dock.pay(0, 1, 2)
        await as_if_paid_by_an_old_process(dock)
        with pytest.raises(OperationRefusedError, match="is paid and has no review"):
            await dock.outbound.approve(dock.orders[:1], "eve", "")
        async with contextlib.AsyncExitStack() as keepers:
            made = [await keepers.enter_async_context(new_warehouse(dock.settings)) for _ in range(2)]
            running = [asyncio.create_task(keeper.run()) for keeper, _ in made]

            async def all_open() -> bool:
                return len(await dock.reviews()) == 3 and all("review" in kept.counts for _, kept in made)

            try:
                await in_time(all_open, "nobody opens the reviews")
            finally:
                for keeper, _ in made:
                    keeper.stop()
                await asyncio.gather(*running)
        found = await dock.outbound.find(ReviewStatus.WAITING, campaign_id=dock.shop.id)
        rows = await query(
            dock.shop.clients.orders,
            "SELECT order_id, confirmed_at_ms, quantity FROM orders WHERE campaign_id = %s AND status = 'paid'",
            (dock.shop.id,),
        )
        assert {(one.order_id, one.opened_at_ms, one.quantity) for one in found} == set(rows)
        await dock.outbound.approve(dock.orders[:2], "eve", "")
        await dock.outbound.reject(dock.orders[2:3], "eve", "")
        await dock.assert_adds_up()


async def test_missing_reviews_are_opened_a_few_at_a_time(settings: Settings) -> None:
    """A round opens no more reviews than it may, and leaves those that are there as they are."""
    async with open_dock(settings, buyers=4, stock=4) as dock:
        await dock.pay()
        orders = dock.shop.clients.orders
        await missing_reviews.open_missing(orders, 1_000)  # of others, if any
        await as_if_paid_by_an_old_process(dock)
        assert [await missing_reviews.open_missing(orders, 3) for _ in range(3)] == [3, 1, 0]
        await dock.outbound.approve(dock.orders, "eve", "")
        before = await dock.everything()
        assert await missing_reviews.open_missing(orders, 3) == 0
        assert changed(before, await dock.everything()) == set()
