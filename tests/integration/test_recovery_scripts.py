"""`restore_orders.lua` on a real Redis: orders that have moved on since the state that Redis went back to."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from adapters.holds import reacquire, release, return_duplicate
from adapters.stock import LostOrder, StockLine, open_gate
from domain import keys
from domain.errors import OperationRefusedError
from domain.order import user_hash
from domain.outcomes import DuplicateOutcome, Outcome, ReacquireOutcome, ReleaseOutcome
from domain.settings import RedisSettings
from tests.support.scripts import ScriptSale, private_redis, restore_now, script_sale
from tests.support.shop import SKU

STOCK = 3
FAR = "9000000000000-1"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisSettings]:
    """Return a private Redis."""
    async with private_redis(tmp_path_factory.mktemp("redis")) as settings:
        yield settings


def moved(sale: ScriptSale, user: str, hold_no: int, held: int, *, origin: str = "") -> LostOrder:
    """Return an order of one unit as MySQL has it."""
    order = sale.order(user)
    return LostOrder(order.digest, order.fingerprint, SKU, 1, user, user_hash(user), hold_no, held, origin)


async def bring_to(sale: ScriptSale, user: str, hold_no: int, held: int) -> None:
    """Buy, give back and take anew, until the order's hold has this number and is held or not; 0: no order."""
    digest = sale.order(user).digest
    for number in range(1, hold_no + 1):
        if number == 1:
            assert await sale.outcomes(sale.order(user)) == [Outcome.ACCEPTED]
        else:
            assert await release(sale.channel, sale.id, digest, user, number - 1) is ReleaseOutcome.RELEASED
            assert await reacquire(sale.channel, sale.id, digest, user, number) is ReacquireOutcome.TAKEN
    if hold_no and not held:
        assert await release(sale.channel, sale.id, digest, user, hold_no) is ReleaseOutcome.RELEASED


def numbers(line: StockLine) -> tuple[int, int, int, int]:
    """Return remaining, taken, returned, allocated."""
    return line.remaining, line.taken, line.returned, line.allocated


STATES = [(0, 0), (1, 1), (1, 0), (2, 1), (2, 0), (3, 1)]


@pytest.mark.parametrize("stored", STATES[1:])
@pytest.mark.parametrize("known", STATES)
async def test_orders_are_brought_to_where_mysql_has_them(
    server: RedisSettings, known: tuple[int, int], stored: tuple[int, int]
) -> None:
    """Redis's numbers become what they would be had nothing been lost; what is further in Redis stays."""
    async with script_sale(server, stock=STOCK) as sale, script_sale(server, stock=STOCK) as whole:
        await bring_to(sale, "ann", *known)
        # In Redis a hold that is given back is further than one that is held, and a later hold is further still.
        ahead = (stored[0], not stored[1]) > (known[0], not known[1])
        await bring_to(whole, "ann", *(stored if ahead else known))
        before = await sale.dump()
        assert await restore_now(sale.channel, sale.id, [moved(sale, "ann", *stored)], "0-0") == ahead
        assert numbers(await sale.line()) == numbers(await whole.line())
        (attempt,) = await sale.attempts("ann")
        assert (attempt.hold_no, attempt.held) == (await whole.attempts("ann"))[0][4:]
        if not ahead:
            assert await sale.dump() == before
        assert await restore_now(sale.channel, sale.id, [moved(sale, "ann", *stored)], "0-0") == 0


async def test_what_is_given_back_is_there_for_those_who_took_it(server: RedisSettings) -> None:
    """A unit that was given back and sold again fits, if what gives it back comes first; its flag reopens."""
    async with script_sale(server, stock=1) as sale:
        await bring_to(sale, "ann", 1, 1)
        epoch = (await sale.line()).epoch
        with pytest.raises(OperationRefusedError, match="stock is short"):
            await restore_now(sale.channel, sale.id, [moved(sale, "ben", 1, 1), moved(sale, "ann", 1, 0)], FAR)
        assert await restore_now(sale.channel, sale.id, [moved(sale, "ann", 1, 0), moved(sale, "ben", 1, 2)], FAR) == 2
        line = await sale.line()
        assert numbers(line) == (0, 2, 1, 1)
        assert line.epoch > epoch
        assert await sale.outcomes(sale.order("cid"), sale.order("ann"), sale.order("ben")) == [
            Outcome.SOLD_OUT,
            Outcome.REPLAYED,
            Outcome.REPLAYED,
        ]


async def test_paid_orders_do_not_count_as_unpaid(server: RedisSettings) -> None:
    """An order that comes back as paid leaves its buyer free to order again; one that is known is marked, too."""
    limits = "unpaid_per_user = 1\nuser_per_s = 1000000\nuser_burst = 1000000"
    async with script_sale(server, stock=STOCK, per_user=5, limits=limits) as sale:
        await bring_to(sale, "ann", 1, 1)
        assert await sale.outcomes(sale.order("ann", "k2")) == [Outcome.LIMIT_REACHED]
        assert (
            await restore_now(sale.channel, sale.id, [moved(sale, "ann", 1, 2), moved(sale, "ben", 1, 2)], "0-0") == 2
        )
        assert await sale.outcomes(sale.order("ann", "k2"), sale.order("ben", "k2")) == [
            Outcome.ACCEPTED,
            Outcome.SOLD_OUT,
        ]


async def test_lost_second_deduction_is_not_given_back(server: RedisSettings) -> None:
    """A second deduction that Redis has lost took nothing any more: giving it back adds no unit.

    An order that Redis has lost altogether is put back by its origin, and that origin's return does give its unit back.
    """
    async with script_sale(server, stock=STOCK) as sale:
        await bring_to(sale, "ann", 1, 1)
        lost = [moved(sale, "ann", 1, 1, origin="7-1/0"), moved(sale, "ben", 1, 1, origin="7-1/1")]
        assert await restore_now(sale.channel, sale.id, lost, FAR) == 1
        assert numbers(await sale.line()) == (1, 2, 0, STOCK)

        async def give_back(user: str, origin: str) -> DuplicateOutcome:
            digest = sale.order(user).digest
            return await return_duplicate(
                sale.channel, sale.id, digest, user, origin=origin, sku_id=SKU, quantity=1, released_hold_no=0
            )

        await open_gate(sale.channel, sale.id, await sale.channel.connect())
        assert await give_back("ann", "7-1/0") is DuplicateOutcome.ALREADY_RETURNED
        assert numbers(await sale.line()) == (1, 2, 0, STOCK)
        assert await give_back("ben", "7-1/1") is DuplicateOutcome.RETURNED
        assert numbers(await sale.line()) == (2, 2, 1, STOCK)


async def test_ids_of_an_outbox_that_is_ahead_are_left_alone(server: RedisSettings) -> None:
    """An outbox whose stream is beyond the lost ids (an entry was put in by hand) hands out later ids all the same."""
    async with script_sale(server, stock=STOCK) as sale:
        await sale.client.xadd(keys.outbox(sale.id), {"by": "hand"}, id="9000000000000-5")
        assert await restore_now(sale.channel, sale.id, [moved(sale, "ann", 1, 1)], FAR) == 1
        assert await sale.client.xlen(keys.outbox(sale.id)) == 1
        assert (await sale.ask(sale.order("ben"))).last_outbox_id == "9000000000000-6"
