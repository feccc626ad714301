"""Points that go back on real servers: once, by no provider, and whatever is lost in between."""

import msgspec
import pytest
from yarl import URL

from adapters.mysql import Pool, query, transaction
from domain import failpoints
from domain.errors import BackendError, OperationRefusedError
from domain.order_state import PaymentStatus
from domain.settings import Dsn, Settings
from lifecycle.callback import Callback
from lifecycle.payment_rows import due_payments
from lifecycle.point_refunds import NEVER_TAKEN, PointRefunds
from lifecycle.provider import ProviderState
from stack.proxy import Proxy
from tests.support.dock import new_outbound, new_warehouse, one_round
from tests.support.life import Kept, new_desk, new_keeper, now_ms, statuses, until_idle
from tests.support.provider import adapter, sandbox
from tests.support.redeemed import GRANTED, PRICE, Redeemed, open_redeemed


async def rejected(redeemed: Redeemed, which: int = 0, quantity: int = 1) -> str:
    """Have a redemption be paid, and an operator reject it; returns its order's id."""
    order = await redeemed.redeem(which, quantity)
    outbound = new_outbound(redeemed.settings, redeemed.clients)
    (decided,) = await outbound.reject([order], "ann", "broken")
    assert (decided.status, decided.note) == ("rejected", "the points go back")
    return order


def refunds(redeemed: Redeemed, *, orders: Pool | None = None, points: Pool | None = None) -> PointRefunds:
    """Return who gives points back, over these pools."""
    clients = redeemed.clients
    return PointRefunds(
        redeemed.settings.lifecycle,
        orders=orders or clients.orders,
        points=points or clients.points,
        metrics=Kept(),
        now_ms=now_ms,
    )


async def assert_given_back(redeemed: Redeemed, order: str, points: int = PRICE) -> None:
    """Assert that the points of an order went back, once, and that all says so."""
    assert await redeemed.moves(order) == [("spend", -points), ("refund", points)]
    assert (await redeemed.payment(order))[1] == "refunded"
    assert (await statuses(redeemed.shop))[order] == "refunded"
    assert await redeemed.balance() == GRANTED


async def test_rejected_redemption_gives_points_back(settings: Settings) -> None:
    """A redemption that an operator rejects gives its points and its units back, once, and no provider is needed."""
    async with open_redeemed(settings) as redeemed, new_keeper(settings, redeemed.shop) as (keeper, kept):
        order = await rejected(redeemed, quantity=2)
        assert await redeemed.balance() == GRANTED - 2 * PRICE
        assert (await redeemed.payment(order))[1] == "refund_due"
        await until_idle(keeper)
        await assert_given_back(redeemed, order, 2 * PRICE)
        assert kept.counts["refund_points"] == 1
        await until_idle(keeper)
        assert kept.counts["refund_points"] == 1


async def test_parcel_that_came_back(settings: Settings) -> None:
    """A shipped redemption whose parcel comes back gives its points back as well."""
    async with (
        open_redeemed(settings) as redeemed,
        new_keeper(settings, redeemed.shop) as (keeper, _),
        new_warehouse(settings) as (warehouse, _),
    ):
        order = await redeemed.redeem(0)
        outbound = new_outbound(settings, redeemed.clients)
        await outbound.approve([order], "ann", "all right")
        await one_round(warehouse)
        (decided,) = await outbound.take_back([order], "ben", "wrong colour")
        assert (decided.status, decided.note) == ("rejected", "the points go back")
        await until_idle(keeper)
        await assert_given_back(redeemed, order)


async def test_no_provider_hears_of_points(settings: Settings) -> None:
    """A payment in points is none of the provider's works: it is asked nothing, and its callback is refused.

    Guards the exclusion in what is due for the provider.
    """
    async with (
        sandbox(settings) as (with_provider, handle),
        open_redeemed(with_provider) as redeemed,
        adapter(with_provider, handle) as provider,
        new_keeper(with_provider, redeemed.shop, provider=provider) as (keeper, _),
    ):
        order = await rejected(redeemed)
        await keeper.refund_payments()
        due = await due_payments(redeemed.clients.orders, {PaymentStatus.REFUND_DUE}, now_ms(), 1_000)
        assert order not in {one.order_id for one in due}
        await until_idle(keeper)
        assert handle.payments_of(order) == []
        await assert_given_back(redeemed, order)
        payment_id, _ = await redeemed.payment(order)
        desk = new_desk(with_provider, redeemed.shop, provider)
        refused = ""
        try:
            await desk.take_in(Callback("event", payment_id, ProviderState.APPROVED, 0))
        except OperationRefusedError as error:
            refused = str(error)
        assert "in points" in refused


@pytest.mark.parametrize("schema", ["points", "orders"])
async def test_commit_answer_lost(settings: Settings, schema: str) -> None:
    """The answer of a COMMIT is lost, in either schema: what is done again gives the points back once.

    Guards the guard of the refund.
    """
    text = getattr(settings.mysql, f"{schema}_dsn")
    url = URL(text)
    async with open_redeemed(settings) as redeemed, Proxy(url.host or "", url.port or 3306) as proxy:
        order = await rejected(redeemed)
        dsn = msgspec.structs.replace(_dsn_of(redeemed, schema), host=proxy.host, port=proxy.port)
        through = Pool(dsn, size_max=2, connect_timeout_s=5)
        try:
            lost = refunds(redeemed, **{schema: through})
            (payment,) = [one for one in await lost.due(100) if one.order_id == order]
            rule = proxy.cut_reply(b"\x03COMMIT")
            with pytest.raises(BackendError):
                await lost.refund(payment)
            await rule.wait_fired()
        finally:
            await through.close()
        await refunds(redeemed).refund(payment)
        await assert_given_back(redeemed, order)


async def test_death_between_the_two_commits(settings: Settings) -> None:
    """Whoever dies with the points given back and the payment still due leaves it to the next, who gives nothing more.

    Guards the guard of the refund.
    """

    class DeadError(Exception):
        """The process is gone."""

    def die(name: str) -> None:
        if name == "keeper.after_refund_points":
            raise DeadError

    async with open_redeemed(settings) as redeemed, new_keeper(settings, redeemed.shop) as (keeper, _):
        order = await rejected(redeemed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(failpoints, "hook", die)
            with pytest.raises(DeadError):
                await keeper.refund_points()
        assert (await redeemed.payment(order))[1] == "refund_due"
        assert await redeemed.balance() == GRANTED
        await until_idle(keeper)
        await assert_given_back(redeemed, order)


async def test_points_that_were_never_taken(settings: Settings) -> None:
    """A payment in points for which the ledger has taken nothing is put off with the reason, and gives nothing."""
    async with open_redeemed(settings) as redeemed:
        order = await rejected(redeemed)
        # As if somebody had restored an older fg_points.
        async with transaction(redeemed.clients.points) as cursor:
            await cursor.execute("DELETE FROM saga_step WHERE saga_id = %s", (order,))
        (payment,) = [one for one in await refunds(redeemed).due(100) if one.order_id == order]
        await refunds(redeemed).refund(payment)
        ((status, error),) = await query(
            redeemed.clients.orders, "SELECT status, error FROM payment WHERE order_id = %s", (order,)
        )
        assert (status, error) == ("refund_due", NEVER_TAKEN)
        assert await redeemed.balance() == GRANTED - PRICE
        async with transaction(redeemed.clients.orders) as cursor:  # no other test's keeper shall come upon it
            await cursor.execute("UPDATE payment SET status = 'refunded' WHERE order_id = %s", (order,))


def _dsn_of(redeemed: Redeemed, schema: str) -> Dsn:
    pool: Pool = getattr(redeemed.clients, schema)
    return pool.dsn
