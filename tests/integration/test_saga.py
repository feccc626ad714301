"""Sagas of redemptions on real servers: each ends whole or compensated, and points and stock are conserved to the unit.

Their drivers run here, on a clock that jumps; the same with processes that are killed: `test_saga_kill.py`.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import msgspec
import pytest
import pytest_asyncio

from adapters import saga_points
from adapters.mysql import Pool, orders_dsn, points_dsn, query
from adapters.points import move_once
from adapters.saga_points import deduct, refund_points
from consumers import saga_orders, saga_rows
from consumers.batch import Reason
from consumers.redemption_batch import split_poison
from consumers.saga_rows import SagaRow
from domain.points import BALANCE_MAX, LedgerKind, Moved, Movement
from domain.saga import BACK, FINISH, FORWARD, SagaStatus, SagaStep, StepOutcome, Turn
from stack.proxy import Proxy, Rule
from stack.servers import Endpoints
from tests.support.sagas import (
    COMPENSATED,
    KINDS,
    PRICE,
    SKU,
    WHOLE,
    CrashError,
    Redemptions,
    crash_at,
    hooked,
    new_redemptions,
    redemption,
)

pytestmark = pytest.mark.usefixtures("stack")

COMMIT = b"\x03COMMIT"
STEPS = (*FORWARD, *FINISH, *BACK)
POINTS = {
    "saga.after_claim",
    *(f"saga.{when}_{what}" for when in ("before", "after") for what in (*STEPS, "turn", "end")),
}
"""All fail points of a saga that is not parked."""
REASONS = {"payment refused": "order refused"}
"""Kind → what the order's rejection says, where it is not the same."""


@pytest_asyncio.fixture
async def redemptions(endpoints: Endpoints) -> AsyncIterator[Redemptions]:
    """Return redemptions of a test's own."""
    async with new_redemptions(endpoints) as made:
        yield made


async def rows_of(redemptions: Redemptions) -> list[SagaRow]:
    """Take all sagas up by hand."""
    settings = redemptions.settings.saga
    return await saga_rows.claim(redemptions.orders, now_ms=redemptions.now, lease_ms=settings.lease_ms, limit=1_000)


# -- crashes ---------------------------------------------------------------------------------------------------------


async def test_every_crash_point(redemptions: Redemptions) -> None:
    """A driver dies before or after any step or decision, on every way: another ends each saga whole, or compensated.

    Guards: a saga that was taken up is due again when its lease is over; guards commit with what they guard.
    """
    await redemptions.refuse()
    expected, reasons, reached = dict[str, str](), dict[str, str](), set[str]()
    number = 0
    for kind in KINDS:
        path = list[str]()
        first = await redemptions.one_of(kind, number)
        with hooked(path.append):
            await redemptions.driver().run_once()
        sagas = [first]
        for point in dict.fromkeys(path):
            number += 1
            sagas.append(await redemptions.one_of(kind, number))
            with crash_at(point), pytest.raises(CrashError):
                await redemptions.driver().run_once()
        number += 1
        reached |= set(path)
        expected |= dict.fromkeys(sagas, COMPENSATED if kind else WHOLE)
        reasons |= dict.fromkeys(sagas, REASONS.get(kind, kind)) if kind else {}
    assert reached == POINTS
    redemptions.pass_time()
    await redemptions.settle()
    await redemptions.assert_conserved(expected, reasons=reasons)


async def test_commit_answer_lost(redemptions: Redemptions) -> None:
    """Fault 22: the COMMIT of any step or note takes effect and its answer is lost; it is repeated, and all is once.

    Guards: the guard (saga, step) commits with the step's effect. Its observable: the happy ones end whole.
    """
    await redemptions.refuse()
    settings = redemptions.settings
    orders_at, points_at = orders_dsn(settings.mysql), points_dsn(settings.mysql)
    expected = dict[str, str]()
    forward = [f"saga.before_{what}" for what in (*FORWARD, *FINISH, "turn", "end")]
    back = [f"saga.before_{what}" for what in (*BACK, "turn")]
    async with Proxy(orders_at.host, orders_at.port) as orders, Proxy(points_at.host, points_at.port) as points:
        pools = [
            Pool(msgspec.structs.replace(dsn, port=proxy.port), size_max=2, connect_timeout_s=5)
            for dsn, proxy in ((orders_at, orders), (points_at, points))
        ]
        for number, (kind, point) in enumerate(
            [*(("", point) for point in forward), *(("payment refused", point) for point in back)]
        ):
            expected[await redemptions.one_of(kind, number)] = COMPENSATED if kind else WHOLE
            lost = list[Rule]()

            def lose(name: str, point: str = point, lost: list[Rule] = lost) -> None:
                if name == point and not lost:
                    lost.append((points if name.endswith("_points") else orders).cut_reply(COMMIT))

            with hooked(lose):
                await redemptions.settle(redemptions.driver(orders=pools[0], points=pools[1]))
            assert [one.fired for one in lost] == [1], point
        for pool in pools:
            await pool.close()
    await redemptions.assert_conserved(expected)


async def test_away_and_back(redemptions: Redemptions) -> None:
    """While fg_points is away sagas wait, however long, and none is parked; those that do not need it go on.

    Guards: only what fails while its server is there counts as a failure.
    """
    at = points_dsn(redemptions.settings.mysql)
    events = [redemption(number) for number in range(3)]
    await redemptions.ready(*events)
    async with Proxy(at.host, at.port) as proxy:
        pool = Pool(msgspec.structs.replace(at, port=proxy.port), size_max=2, connect_timeout_s=5)
        driver = redemptions.driver(points=pool, attempts_max=2)
        with crash_at(f"saga.before_{SagaStep.CREATE_ORDER}"), pytest.raises(CrashError):
            await redemptions.driver(batch_max=1).run_once()
        proxy.down()
        for _ in range(6):
            redemptions.pass_time()
            await driver.run_once()
        states = [await redemptions.row(event.order_id) for event in events]
        assert sorted((one["status"], one["attempts"], one["parked_at_ms"]) for one in states) == [
            ("confirmed", 0, None),
            ("running", 0, None),
            ("running", 0, None),
        ]
        proxy.up()
        await redemptions.settle(driver)
        await pool.close()
    assert redemptions.letters.sent == []
    await redemptions.assert_conserved(dict.fromkeys((one.order_id for one in events), WHOLE))


# -- late, twice, and at once ----------------------------------------------------------------------------------------


async def test_late_deduction(redemptions: Redemptions) -> None:
    """Fault 30: points are to be taken after they were given back, and given back again: nothing moves any more.

    Guards: a compensation that comes first leaves a tombstone, and the guard of points is looked at.
    """
    await redemptions.grant("ann", PRICE)
    args = (redemptions.points, "s~1", "ann", PRICE)
    assert await refund_points(*args, at_ms=1) is StepOutcome.NOTHING
    assert await deduct(*args, at_ms=2) is StepOutcome.VOID
    assert await refund_points(*args, at_ms=3) is StepOutcome.NOTHING
    assert await redemptions.balances() == {"ann": PRICE}
    other = (redemptions.points, "s~2", "ann", PRICE)
    assert [await deduct(*other, at_ms=at_ms) for at_ms in (4, 5)] == [StepOutcome.DONE] * 2
    assert await redemptions.balances() == {"ann": 0}
    third = (redemptions.points, "s~3", "ann", 1)
    assert await deduct(*third, at_ms=6) is StepOutcome.SHORT
    assert [await refund_points(*other, at_ms=at_ms) for at_ms in (7, 8)] == [StepOutcome.DONE] * 2
    assert [await deduct(*one, at_ms=9) for one in (other, third)] == [StepOutcome.DONE, StepOutcome.SHORT]
    assert await redemptions.balances() == {"ann": PRICE}


@pytest.mark.parametrize("done", range(4))
async def test_late_steps(redemptions: Redemptions, done: int) -> None:
    """Fault 30: a driver wakes up with a saga that was compensated meanwhile: its steps find that, and change nothing.

    Guards: tombstones in the place of steps that were not done, guards in the place of those that were; in either
    direction what is done twice has its effect once.
    """
    event = redemption(1)
    await redemptions.ready(event)
    (row,) = await rows_of(redemptions)
    steps: dict[SagaStep, Callable[[], Awaitable[Mapping[str, StepOutcome]]]] = {
        SagaStep.DEDUCT_POINTS: lambda: saga_points.deduct_all(redemptions.points, [row.cost], at_ms=1),
        SagaStep.CREATE_ORDER: lambda: saga_orders.create_order(redemptions.orders, [row], at_ms=1),
        SagaStep.CREATE_PAYMENT: lambda: saga_orders.create_payment(redemptions.orders, [row], at_ms=1),
    }
    for step in list(steps)[:done]:
        assert await steps[step]() == {row.saga_id: StepOutcome.DONE}
    turn = Turn(SagaStatus.COMPENSATING, "a person")
    (turned,) = await saga_rows.turn(redemptions.orders, [row], turn, lease_until_ms=0)
    await redemptions.settle()
    await redemptions.assert_conserved({row.saga_id: COMPENSATED}, reasons={row.saga_id: "a person"})
    before = await redemptions.state()
    late = [(await steps[step]())[row.saga_id] for step in steps]
    assert late == [StepOutcome.DONE] * done + [StepOutcome.VOID] * (3 - done)
    back = [
        await saga_orders.void_payment(redemptions.orders, [turned], at_ms=2),
        await saga_orders.reject_order(redemptions.orders, [turned], at_ms=2),
        await saga_points.refund_all(redemptions.points, [turned.cost], at_ms=2),
    ]
    assert {one[row.saga_id] for one in back} <= {StepOutcome.DONE, StepOutcome.NOTHING}
    assert await redemptions.state() == before


async def test_direction_is_decided_once(redemptions: Redemptions) -> None:
    """Whoever would confirm a saga that another has turned back meanwhile finds it changed, and lets go of it.

    Guards: the direction moves by compare-and-set on the saga's row, before anything is done in it.
    """
    event = redemption(1)
    await redemptions.ready(event)
    with crash_at("saga.before_turn"), pytest.raises(CrashError):
        await redemptions.driver().run_once()
    redemptions.pass_time()
    (row,) = await rows_of(redemptions)
    assert (row.status, row.step) == (SagaStatus.RUNNING, SagaStep.CREATE_PAYMENT)
    back, on = Turn(SagaStatus.COMPENSATING, "a person"), Turn(SagaStatus.CONFIRMED, "")
    assert await saga_rows.turn(redemptions.orders, [row], back, lease_until_ms=0) != []
    decided = await saga_rows.turn(redemptions.orders, [row], on, lease_until_ms=0)
    assert [one.status for one in decided] == []
    assert (await redemptions.row(row.saga_id))["status"] == SagaStatus.COMPENSATING
    await redemptions.settle()
    await redemptions.assert_conserved({row.saga_id: COMPENSATED}, reasons={row.saga_id: "a person"})


async def test_drivers_with_the_same_sagas(redemptions: Redemptions) -> None:
    """Three drivers for whom no lease lasts go on with the same sagas at once: all is done once.

    Guards: every step by its guard, every note by compare-and-set. Its observable: steps were begun more than once.
    """
    await redemptions.refuse()
    kinds = ("", *KINDS)
    expected = {
        await redemptions.one_of(kind, number): COMPENSATED if kind else WHOLE for number, kind in enumerate(4 * kinds)
    }
    hasty = [redemptions.driver(lease_ms=1, batch_max=9) for _ in range(3)]
    for number, driver in enumerate(hasty):
        driver._now_ms = lambda number=number: redemptions.now + 1_000 * number  # type: ignore[misc]
    begun = Counter[str]()
    with hooked(lambda name: begun.update([name])):
        await redemptions.settle(*hasty)
    assert sum(begun[f"saga.before_{step}"] for step in STEPS) > len(expected)
    await redemptions.assert_conserved(expected)


async def test_last_points(redemptions: Redemptions) -> None:
    """Two redemptions of each user race for points that are enough for one, in two drivers: exactly one wins.

    The account's lock and MySQL's own check of the balance hold it, each by itself.
    """
    users = [f"user-{number}" for number in range(8)]
    events = [redemption(number, user=user) for number, user in enumerate(2 * users)]
    for user in users:
        await redemptions.grant(user, 2 * PRICE - 1)
    await redemptions.take_in(*events)
    await redemptions.settle(redemptions.driver(batch_max=5), redemptions.driver(batch_max=5))
    ends = dict(await query(redemptions.orders, "SELECT order_id, status FROM orders"))
    for user in users:
        assert sorted(ends[one.order_id] for one in events if one.user_id == user) == ["paid", "rejected"]
    await redemptions.assert_conserved(
        {saga_id: WHOLE if status == "paid" else COMPENSATED for saga_id, status in ends.items()}
    )
    assert set((await redemptions.balances()).values()) == {PRICE - 1}


# -- what goes wrong for good ----------------------------------------------------------------------------------------


async def stuck(redemptions: Redemptions, number: int) -> str:
    """Take in a redemption that is refused, and whose points the account cannot take back; returns its saga's id."""
    saga_id = await redemptions.one_of("payment refused", number)
    user = redemptions.events[saga_id].user_id
    with crash_at(f"saga.before_{SagaStep.REFUND_POINTS}"), pytest.raises(CrashError):
        await redemptions.driver().run_once()
    await redemptions.grant(user, BALANCE_MAX)
    return saga_id


async def loosen(redemptions: Redemptions, saga_id: str) -> None:
    """Have the account be able to take its points back."""
    user = redemptions.events[saga_id].user_id
    redemptions.granted[user] -= BALANCE_MAX
    wanted = Movement(f"undo~{user}", LedgerKind.GRANT, user, -BALANCE_MAX)
    assert await move_once(redemptions.points, wanted, at_ms=redemptions.now) is Moved.NEW


async def test_parked_and_resumed(redemptions: Redemptions) -> None:
    """A step that keeps failing has its saga parked, with its record in the dead letters; published again it goes on.

    Guards: a saga is parked after `attempts_max` failures, its dead letter first, wherever the driver dies meanwhile.
    """
    await redemptions.refuse()
    happy = redemption(100)
    sagas = [await stuck(redemptions, number) for number in range(4)]
    for saga_id, point in zip(sagas, ("saga.before_park", "saga.after_dead_letter", "saga.after_park"), strict=False):
        redemptions.pass_time()
        with crash_at(point), pytest.raises(CrashError):
            await redemptions.driver(attempts_max=1, batch_max=1).run_once()
        assert (await redemptions.row(saga_id))["step"] == SagaStep.REJECT_ORDER
    await redemptions.ready(happy)
    await redemptions.settle(redemptions.driver(attempts_max=3))
    rows = [await redemptions.row(saga_id) for saga_id in sagas]
    assert [(one["next_at_ms"], one["ended_at_ms"]) for one in rows] == [(None, None)] * 4
    assert all(one["parked_at_ms"] for one in rows)
    assert all("too many points" in one["error"] for one in rows)
    assert await saga_rows.count_open(redemptions.orders) == (0, 4)
    letters = {one.record.key: one for one in redemptions.letters.sent}
    assert set(letters) == {saga_id.encode() for saga_id in sagas}
    assert {one.reason for one in letters.values()} == {Reason.PARKED}

    for saga_id in sagas:
        await loosen(redemptions, saga_id)
    again, dead = split_poison([one.record for one in letters.values()])
    assert (sorted(one.event.order_id for one in again), dead) == (sorted(sagas), [])
    assert [one.event for one in again] == [redemptions.events[one.event.order_id] for one in again]
    assert (await redemptions.take_in(*(one.event for one in again))).duplicates == 4
    await redemptions.settle()
    await redemptions.assert_conserved({**dict.fromkeys(sagas, COMPENSATED), happy.order_id: WHOLE})


async def test_second_deduction(redemptions: Redemptions) -> None:
    """What comes again is one saga; from another origin its units go back; another payload, an unknown SKU are dead."""
    event = redemption(1)
    await redemptions.ready(event)
    first = await redemptions.take_in(event, event)
    assert (first.new, first.duplicates, first.second, first.dead) == (0, 2, [], [])
    anew = redemption(1, origin=5)
    for _ in range(2):
        told = await redemptions.take_in(anew, event)
        assert (told.new, told.duplicates, len(told.second)) == (0, 1, 1)
    foreign = redemption(2, sku="box-9")
    told = await redemptions.take_in(msgspec.structs.replace(event, quantity=2), foreign)
    assert [one.reason for one in told.dead] == [Reason.UNKNOWN_SKU, Reason.OTHER_PAYLOAD]
    await redemptions.settle()
    await redemptions.assert_conserved({event.order_id: WHOLE})
    returns = await query(redemptions.orders, "SELECT order_id, hold_no, origin, sku_id, quantity FROM stock_return")
    assert returns == [(event.order_id, 1, f"{anew.outbox_id}/0", SKU, 1)]


async def test_an_order_of_another(redemptions: Redemptions) -> None:
    """Where an order under this id is another's, it is left as it is, and the points go back."""
    event = redemption(1)
    await redemptions.ready(event)
    (row,) = await rows_of(redemptions)
    await saga_orders.create_order(redemptions.orders, [row], at_ms=1)
    await query(redemptions.orders, "DELETE FROM saga_step")
    before = await query(redemptions.orders, "SELECT * FROM orders")
    redemptions.pass_time()
    await redemptions.settle()
    assert await query(redemptions.orders, "SELECT * FROM orders") == before
    assert await redemptions.balances() == {event.user_id: PRICE}
    assert (await redemptions.row(event.order_id))["status"] == SagaStatus.COMPENSATING
