"""The script by which a lost order comes back into its buyer's record, on a real Redis."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from adapters.repairs import find_attempts, restore_record
from adapters.stock import Attempt
from domain import keys
from domain.errors import BackendError, FencedError, OperationRefusedError
from domain.order import user_hash
from domain.outcomes import Outcome, RestoreOutcome
from domain.settings import RedisSettings
from tests.support.scripts import ScriptSale, private_redis, script_sale


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisSettings]:
    """Run a Redis of this module's own."""
    async with private_redis(tmp_path_factory.mktemp("redis")) as where:
        yield where


@pytest_asyncio.fixture
async def sale(server: RedisSettings) -> AsyncIterator[ScriptSale]:
    """Return an open campaign with ten units, three of which are sold, and whose buyer b has lost his record."""
    async with script_sale(server, stock=10) as made:
        assert await made.outcomes(*[made.order(user) for user in "abc"]) == [Outcome.ACCEPTED] * 3
        await made.client.delete(keys.buyer(made.id, "b"))
        yield made


async def restored(sale: ScriptSale, *, user: str = "b", take: bool = False, **changes: Any) -> RestoreOutcome:
    """Put an order of one unit back, on the numbers as they are unless told otherwise."""
    order = sale.order(user)
    line = await sale.line()
    told = {"held": 1, "take": take, "taken": line.taken, "returned": line.returned, **changes}
    attempt = Attempt(order.digest, order.fingerprint, order.sku_id, order.quantity, told.pop("hold_no", 1), held=True)
    return await restore_record(sale.channel, sale.id, user, attempt, **told)


async def test_record_comes_back_without_stock(sale: ScriptSale) -> None:
    """The record is as it was, the numbers do not move, and workers are told of the holder again."""
    before = await sale.line()
    assert await restored(sale) is RestoreOutcome.RESTORED
    assert (await sale.line(), await sale.attempts("b")) == (before, [(*sale.order("b")[:4], 1, True)])
    assert (await sale.snapshot()).holders[-8:] == user_hash("b")
    assert await sale.client.ttl(keys.buyer(sale.id, "b")) == -1
    assert await sale.outcomes(sale.order("b")) == [Outcome.REPLAYED]


async def test_record_takes_its_stock_once(sale: ScriptSale) -> None:
    """With its stock it is taken once, however often it is asked for."""
    assert await restored(sale, take=True) is RestoreOutcome.RESTORED
    assert await restored(sale, take=True) is RestoreOutcome.ALREADY_THERE
    line = await sale.line()
    assert (line.remaining, line.taken, line.returned, line.allocated) == (6, 4, 0, 10)
    assert len((await sale.snapshot()).holders) == 4 * 8


async def test_later_hold_and_payment_are_kept(sale: ScriptSale) -> None:
    """An order that was taken anew and paid comes back as that, and does not count as unpaid."""
    assert await restored(sale, hold_no=2, held=2) is RestoreOutcome.RESTORED
    (attempt,) = await sale.attempts("b")
    assert (attempt.hold_no, attempt.held) == (2, True)


@pytest.mark.parametrize("changes", [{"taken": 2}, {"returned": 1}, {"taken": 4, "take": True}])
async def test_nothing_happens_once_stock_has_moved(sale: ScriptSale, changes: dict[str, Any]) -> None:
    """A decision on numbers that are not those any more is not carried out."""
    before = await sale.dump()
    assert await restored(sale, **changes) is RestoreOutcome.STOCK_MOVED
    assert await sale.dump() == before


async def test_no_stock_is_taken_that_is_not_there(server: RedisSettings) -> None:
    """Where nothing is left, nothing is taken, and the record stays away."""
    async with script_sale(server, stock=3) as sale:
        await sale.outcomes(*[sale.order(user) for user in "abc"])
        await sale.client.delete(keys.buyer(sale.id, "b"))
        before = await sale.dump()
        assert await restored(sale, take=True) is RestoreOutcome.STOCK_SHORT
        assert await sale.dump() == before


async def test_unreadable_record_and_wrong_type_change_nothing(sale: ScriptSale) -> None:
    """Everything is read before anything is written."""
    await sale.client.set(keys.buyer(sale.id, "b"), b"\xc1")
    assert await restored(sale, take=True) is RestoreOutcome.CORRUPT_RECORD
    await sale.client.delete(keys.buyer(sale.id, "b"))
    await sale.client.delete(keys.holders(sale.id))
    await sale.client.hset(keys.holders(sale.id), "not", "a string")
    before = await sale.dump()
    with pytest.raises(BackendError, match="WRONGTYPE"):
        await restored(sale, take=True)
    assert await sale.dump() == before


async def test_unknown_sku_and_campaign_and_closed_gate(sale: ScriptSale) -> None:
    """What does not exist is refused, and so is everything while recovery has not compared."""
    await sale.client.hdel(keys.stock(sale.id), sale.order("b").sku_id)
    attempt = Attempt("0" * 32, "f" * 16, "box", 1, 1, held=True)
    assert (
        await restore_record(sale.channel, sale.id, "b", attempt, held=1, take=False, taken=3, returned=0)
        is RestoreOutcome.UNKNOWN_SKU
    )
    with pytest.raises(OperationRefusedError):
        await restore_record(sale.channel, "nowhere", "b", attempt, held=1, take=False, taken=3, returned=0)
    await sale.set_fields(run_id="another")
    with pytest.raises(FencedError):
        await restore_record(sale.channel, sale.id, "b", attempt, held=1, take=False, taken=3, returned=0)


async def test_attempts_are_found_by_their_orders(sale: ScriptSale) -> None:
    """All records are read, those that cannot be are passed over, and the buyer comes from the key."""
    await sale.client.set(keys.buyer(sale.id, "x"), b"\xc1")
    wanted = {sale.order("a").digest, sale.order("b").digest}
    found = await find_attempts(sale.client, sale.id, wanted)
    assert {digest: user for digest, (user, _) in found.items()} == {sale.order("a").digest: "a"}
