"""Repairs on real servers: what the running reconciler repairs by itself, and what a person has it do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
import pytest_asyncio

from adapters.holds import release
from adapters.mysql import query
from adapters.stock import StockLine, pack_stock_line, read_attempts, read_snapshot
from consumers import reconcile
from consumers.reconcile import repair, watch
from consumers.reconcile_report import Report
from consumers.repair import Repairer
from domain import keys
from domain.events import OrderAccepted
from domain.order import digest_of
from domain.outbox import decode_entry
from domain.outcomes import ReleaseOutcome
from stack.servers import Endpoints
from tests.support.flow import STOCK, Flow, Quiet, new_flow
from tests.support.looks import Told
from tests.support.operator import command

pytestmark = pytest.mark.usefixtures("stack")

DEADLINE_S = 120.0


@pytest_asyncio.fixture
async def flow(endpoints: Endpoints) -> AsyncIterator[Flow]:
    """Return an open campaign that no other test uses."""
    async with new_flow(endpoints) as made:
        yield made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a running reconciler look as often as it can: these sales are small."""
    monkeypatch.setattr(reconcile, "BUSY_SHARE", 1.0)


@contextlib.asynccontextmanager
async def watched(flow: Flow) -> AsyncIterator[Told]:
    """Run the reconciler as its process does."""
    stop, metrics = asyncio.Event(), Told()
    settings = msgspec.structs.replace(
        flow.settings, reconcile=msgspec.structs.replace(flow.settings.reconcile, interval_s=0.05)
    )
    running = asyncio.create_task(watch(settings, [flow.id], stop=stop, topic=flow.sale.topic, metrics=metrics))
    try:
        yield metrics
    finally:
        stop.set()
        await running


async def until_told(metrics: Told, condition: Callable[[Report], bool]) -> Report:
    """Wait for a report of which a condition holds."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            report = await metrics.reports.get()
            if condition(report):
                return report


async def line(flow: Flow) -> StockLine:
    """Return the first SKU's numbers in Redis."""
    snapshot = await read_snapshot(flow.client, flow.id)
    assert snapshot is not None
    return snapshot.stock["box-1"]


async def set_line(flow: Flow, changed: StockLine) -> None:
    """Tamper with the first SKU's numbers."""
    await flow.client.hset(keys.stock(flow.id), "box-1", pack_stock_line(changed))


async def repaired(flow: Flow) -> Report:
    """Repair by hand."""
    return await repair(flow.settings, [flow.id], topic=flow.sale.topic)


async def lose_release(flow: Flow, order_id: str) -> None:
    """Let an order expire, and let what is owed to Redis be forgotten, as after a crash without a note."""
    await flow.expire([order_id])
    await flow.sql(("DELETE FROM stock_return WHERE order_id = %s", (order_id,)))


async def test_release_that_the_ledger_proves_is_given_back(flow: Flow) -> None:
    """The running process gives back what the ledger has released and nobody owes any more; once, and it says so."""
    first, *_ = await flow.sell(4)
    await lose_release(flow, first)
    before = await line(flow)
    async with watched(flow) as metrics:
        assert (await until_told(metrics, lambda report: report.drift > 0)).drift == 1
        report = await until_told(metrics, lambda report: report.drift == 0)
        assert report.campaigns[0].released == 1
        await until_told(metrics, lambda report: report.drift == 0)
    assert metrics.repairs == {("release", True): 1}
    now = await line(flow)
    assert now == before._replace(remaining=STOCK - 3, returned=1, epoch=before.epoch + 1)


async def lose_entry(flow: Flow) -> tuple[str, list[OrderAccepted]]:
    """Accept an order whose outbox entry is gone before it is relayed; returns it, and what the entry said."""
    (made,) = await flow.accept(1)
    page: Any = await flow.client.xrange(keys.outbox(flow.id))
    ((outbox_id, fields),) = page
    await flow.client.xtrim(keys.outbox(flow.id), maxlen=0, approximate=False)
    return made, decode_entry(flow.id, outbox_id.decode(), fields)


async def test_entry_that_was_never_relayed_is_published_anew(flow: Flow) -> None:
    """An order that only its buyer's record knows comes to MySQL after all, and the original does no harm later."""
    await flow.sell(3)
    made, original = await lose_entry(flow)
    await flow.make_relay(Quiet(flow.sale)).run_once()  # it notices the gap, and its checkpoint passes it
    async with watched(flow) as metrics:
        await until_told(metrics, lambda report: report.drift == 1)
        report = await until_told(metrics, lambda report: report.drift == 0)
        assert report.in_flight == 1
    assert metrics.repairs == {("reissue", True): 1}
    await flow.store(1)
    ((status, user_id, price),) = await query(
        flow.orders, "SELECT status, user_id, unit_price_cents FROM orders WHERE order_id = %s", (made,)
    )
    assert (status, user_id, price) == ("confirmed", "buyer-3", 5_900)
    await flow.sale.publish(original)
    await flow.store(1)
    campaign = await flow.report()
    assert (campaign.drift, campaign.pending_returns, campaign.mysql_rows, campaign.sold) == (0, 0, 4, 4)
    assert campaign.skus[0].second_deductions == 0


async def test_entry_is_not_published_anew_before_the_relay_is_beyond_it(flow: Flow) -> None:
    """While the relay may still have the entry in hand the process only tells; a person may decide otherwise."""
    await flow.sell(3)
    made, _ = await lose_entry(flow)
    async with watched(flow) as metrics:
        for _ in range(3):
            report = await metrics.reports.get()
            assert [fault.kind for fault in report.campaigns[0].faults] == ["unrelayed"]
    assert not metrics.repairs
    report = await repaired(flow)
    assert (report.drift, report.in_flight) == (0, 1)
    assert [(one.kind, one.order_id, one.done) for one in report.repairs] == [("reissue", made, True)]


async def test_lost_record_is_put_back_where_stock_counts_it(flow: Flow) -> None:
    """A buyer's record that vanished comes back by hand, and no stock moves: Redis's counters had kept it."""
    first, *_ = await flow.sell(4)
    await flow.client.delete(keys.buyer(flow.id, "buyer-0"))
    before = await line(flow)
    async with watched(flow) as metrics:
        await until_told(metrics, lambda report: report.drift > 0)
        await until_told(metrics, lambda report: report.drift > 0)
    assert not metrics.repairs
    report = await repaired(flow)
    assert (report.drift, report.in_flight, await line(flow)) == (0, 0, before)
    assert [(one.kind, one.order_id, one.done) for one in report.repairs] == [("restore", first, True)]
    packed: Any = await flow.client.get(keys.buyer(flow.id, "buyer-0"))
    (attempt,) = read_attempts(packed)
    assert (attempt.digest, attempt.quantity, attempt.hold_no, attempt.held) == (digest_of(first), 1, 1, True)


async def test_lost_record_takes_its_stock_where_redis_forgot_that_too(flow: Flow) -> None:
    """Where Redis forgot the deduction, too, it is taken again; where nothing is left the order is refused."""
    first, second, *_ = await flow.sell(4)
    for user in ("buyer-0", "buyer-1"):
        await flow.client.delete(keys.buyer(flow.id, user))
    older = await line(flow)
    await set_line(flow, older._replace(remaining=older.remaining + 2, taken=older.taken - 2))
    report = await repaired(flow)
    assert (report.drift, await line(flow)) == (0, older)
    assert {(one.order_id, one.done) for one in report.repairs} == {(first, True), (second, True)}
    await flow.client.delete(keys.buyer(flow.id, "buyer-0"))
    await set_line(flow, older._replace(remaining=0, taken=3, allocated=3))
    await flow.sql(("UPDATE campaign_sku SET allocated = 3 WHERE campaign_id = %s AND sku_id = 'box-1'", (flow.id,)))
    report = await repaired(flow)
    assert report.drift == 1
    assert [(one.order_id, one.done) for one in report.repairs] == [(first, False)]
    assert "more was sold than there is" in report.repairs[0].text


async def test_counters_are_brought_into_line_by_hand(flow: Flow) -> None:
    """What is allocated follows Redis, and what is sold is counted from the ledger."""
    await flow.sell(4)
    await flow.sql(
        (
            "UPDATE campaign_sku SET allocated = allocated + 9, sold = sold - 2 WHERE campaign_id = %s AND sku_id = %s",
            (flow.id, "box-1"),
        )
    )
    assert (await flow.report()).drift == 11
    report = await repaired(flow)
    assert report.drift == 0
    assert [(one.kind, one.sku_id, one.done) for one in report.repairs] == [
        ("allocated", "box-1", True),
        ("sold", "box-1", True),
    ]
    rows = await query(
        flow.orders, "SELECT allocated, sold FROM campaign_sku WHERE campaign_id = %s AND sku_id = 'box-1'", (flow.id,)
    )
    assert rows == [(STOCK, 4)]


async def test_nothing_raises_stock_by_itself(flow: Flow) -> None:
    """A return without a release, a row without its ledger and a status without its release are left, by hand too."""
    one, two, three, four = await flow.sell(4)
    assert await release(flow.channel, flow.id, digest_of(one), "buyer-0", 1) is ReleaseOutcome.RELEASED
    await flow.sql(
        ("DELETE FROM orders WHERE order_id = %s", (two,)),
        ("UPDATE orders SET status = 'cancelled' WHERE order_id = %s", (three,)),
    )
    before = await flow.client.dump(keys.stock(flow.id)), await query(flow.orders, "SELECT * FROM stock_ledger")
    async with watched(flow) as metrics:
        for _ in range(2):
            report = await until_told(metrics, lambda report: report.drift == 3)
    kinds = {fault.order_id: fault.kind for fault in report.campaigns[0].faults}
    assert kinds == {one: "returned", two: "half", three: "state"}
    report = await repaired(flow)
    assert (report.drift, report.repairs, metrics.repairs) == (3, (), {})
    assert before == (
        await flow.client.dump(keys.stock(flow.id)),
        await query(flow.orders, "SELECT * FROM stock_ledger"),
    )
    assert four not in kinds


async def test_nothing_is_repaired_before_recovery_has_compared(flow: Flow) -> None:
    """While a campaign's gate is closed the reconciler tells and does nothing."""
    first, *_ = await flow.sell(3)
    await lose_release(flow, first)
    run_id = await flow.client.hget(keys.campaign(flow.id), "run_id")
    await flow.client.hset(keys.campaign(flow.id), "run_id", "another")
    report = await repaired(flow)
    assert [(one.done, "recovery" in one.text) for one in report.repairs] == [(False, True)]
    assert isinstance(run_id, bytes)
    await flow.client.hset(keys.campaign(flow.id), "run_id", run_id)
    report = await repaired(flow)
    assert ([one.done for one in report.repairs], report.drift) == ([True], 0)


async def test_release_is_proved_again_before_it_is_done(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """What MySQL does not say any more when it comes to it is not given back."""
    first, *_ = await flow.sell(3)
    await lose_release(flow, first)
    run = Repairer.run

    async def late(self: Repairer, actions: object) -> object:
        planned = list(actions)  # type: ignore[call-overload]
        await flow.sql(("DELETE FROM stock_ledger WHERE kind = 'release' AND order_id = %s", (first,)))
        return await run(self, planned)

    monkeypatch.setattr(Repairer, "run", late)
    report = await repaired(flow)
    assert [(one.kind, one.done) for one in report.repairs] == [("release", False)]
    assert "does not have its release" in report.repairs[0].text
    assert (await line(flow)).returned == 0


async def test_command_repairs_and_exits(flow: Flow, tmp_path: Path) -> None:
    """`reconcile --repair` prints what it did, and exits 0 only if nothing is wrong afterwards."""
    first, second, *_ = await flow.sell(4)
    await lose_release(flow, first)
    args = ("reconcile", "--repair", "--json", "--campaign", flow.id)
    code, lines = await command(flow.settings, tmp_path, *args)
    report = msgspec.convert(orjson.loads(lines[-1]), Report)
    assert (code, report.drift, [one.done for one in report.repairs]) == (0, 0, [True])
    assert any(text.startswith(f"repaired: release, {first}") for text in lines)
    await flow.sql(("UPDATE orders SET status = 'cancelled' WHERE order_id = %s", (second,)))
    code, lines = await command(flow.settings, tmp_path, *args)
    assert code == 1
    assert "nothing was found that could be repaired" in lines
    assert any(second in text and "repair none" in text for text in lines)
    code, lines = await command(flow.settings, tmp_path, "reconcile", "--repair", "--watch")
    assert code == 2
