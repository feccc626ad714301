"""Which faults are repaired, by whom, and how: without any store."""

import asyncio
from collections.abc import Collection, Iterable

import msgspec
import pytest

from adapters.repairs import OrderRow
from consumers.reconcile import Reconciler
from consumers.reconcile_look import HANDLED, QUEUED, REDIS, STORED, CampaignLook, Stock
from consumers.reconcile_report import build_report
from consumers.reconcile_rules import Verdict, judge
from consumers.reconcile_sources import Look
from consumers.repair import why_not_released, why_not_restored
from consumers.repair_rules import REPAIRS_MAX, Action, ActionKind, Plan, Repaired, plan
from domain.events import OrderAccepted
from tests.support.events import event
from tests.support.looks import STOCK, forget, in_mysql, in_redis, key_of, released, seen, sold, told


def kinds(made: Plan) -> list[ActionKind]:
    """Return the kinds of what is planned."""
    return [action.kind for action in made.actions]


def unreturned(count: int = 1) -> tuple[Verdict, list[OrderAccepted]]:
    """Return a sale with releases that the ledger has and Redis has not."""
    look, events = sold(count + 2)
    for one in events[:count]:
        released(look, one)
    return judge(look), events


def unrelayed(*, caught_up: bool = True) -> tuple[Verdict, OrderAccepted]:
    """Return a sale with an order that only its buyer's record knows."""
    look, events = sold(3)
    extra = event(9)
    in_redis(look, extra)
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 4, 4, 0, STOCK)
    look.accepted_to, look.checkpoint = (5, 0), (5 if caught_up else 4, 0)
    assert len(events) == 3
    return judge(look), extra


def test_release_that_the_ledger_proves_is_repaired_by_itself() -> None:
    """The release is planned with the hold that the ledger names, and with nothing else."""
    verdict, events = unreturned()
    (action,) = plan(verdict, by_hand=False).actions
    assert action == Action(ActionKind.RELEASE, "c-1", "box-1", events[0].order_id, 1, 1)
    assert told_repairs(verdict) == {"automatic"}


def told_repairs(verdict: Verdict) -> set[str]:
    """Return what the report advises."""
    (campaign,) = build_report([verdict], poison=0).campaigns
    return {fault.repair for fault in campaign.faults}


def test_release_of_an_order_with_two_origins_is_left() -> None:
    """What was deducted twice is given back by its origin: a release as well would be once too often."""
    look, events = sold(3)
    released(look, events[0])
    seen(look, msgspec.structs.replace(events[0], outbox_id="1790000000009-0"), HANDLED)
    verdict = judge(look)
    assert plan(verdict, by_hand=False) == plan(verdict, by_hand=True) == Plan()
    assert told_repairs(verdict) == {f"none: look at trace {events[0].order_id}"}


def test_unrelayed_order_is_published_anew_once_the_relay_has_caught_up() -> None:
    """Before that its entry may be in the relay's hands: then it is a person's decision."""
    verdict, order = unrelayed()
    assert plan(verdict, by_hand=False).actions == [
        Action(ActionKind.REISSUE, "c-1", "box-1", order.order_id, 1, 1),
    ]
    waiting, _ = unrelayed(caught_up=False)
    made = plan(waiting, by_hand=False)
    assert (made.actions, [left.why for left in made.left]) == ([], ["the relay has not caught up yet"])
    assert kinds(plan(waiting, by_hand=True)) == [ActionKind.REISSUE]


def test_handled_and_missing_order_waits_for_a_person() -> None:
    """An order that the consumers passed over is published anew only by hand, and only if a record holds it."""
    look, events = sold(3)
    forget(look, events[0], STORED)
    look.sku("box-1").ledger_units = 3
    assert plan(judge(look), by_hand=False).actions == []
    assert kinds(plan(judge(look), by_hand=True)) == [ActionKind.REISSUE]
    forget(look, events[0], REDIS)
    assert plan(judge(look), by_hand=True).actions == []


def test_lost_record_is_put_back_without_stock_where_redis_counts_it() -> None:
    """The counters still count two units that no record holds: two records come back, and no stock is taken."""
    look, events = sold(5)
    for one in events[:2]:
        forget(look, one, REDIS)
    made = plan(judge(look), by_hand=True)
    assert kinds(made) == [ActionKind.RESTORE, ActionKind.RESTORE]
    assert [action.take for action in made.actions] == [False, False]
    assert plan(judge(look), by_hand=False).actions == []


def test_lost_record_takes_stock_where_redis_does_not_count_it() -> None:
    """Each restore stands on the numbers that the one before leaves."""
    look, events = sold(5)
    for one in events[:2]:
        forget(look, one, REDIS)
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 3, 3, 0, STOCK)
    made = plan(judge(look), by_hand=True)
    assert [(action.take, action.stock.taken, action.stock.remaining) for action in made.actions] == [
        (True, 3, STOCK - 3),
        (True, 4, STOCK - 4),
    ]


def two_lost(stock: Stock) -> Plan:
    """Return what is planned for two orders of one unit each that no record holds, in a sale of five."""
    look, events = sold(5)
    for one in events[:2]:
        forget(look, one, REDIS)
    sku = look.sku("box-1")
    sku.before = sku.after = stock
    return plan(judge(look), by_hand=True)


def test_lost_record_takes_no_stock_that_is_not_there() -> None:
    """One unit is left for two orders: one is put back, and the other is left with the reason."""
    made = two_lost(Stock(1, 3, 0, 4))
    assert kinds(made) == [ActionKind.RESTORE]
    assert [left.why for left in made.left] == ["0 units are left, and it needs 1: more was sold than there is"]


def test_lost_record_is_left_where_the_counters_contradict_it() -> None:
    """Records that hold more than the counters say are for a person to look at."""
    made = two_lost(Stock(STOCK - 1, 1, 0, STOCK))
    assert made.actions == []
    assert ["differ by -2 units" in left.why for left in made.left] == [True, True]


def test_lost_record_is_left_while_stock_moves_or_it_is_not_stored() -> None:
    """What is counted while it moves decides nothing, and MySQL has to have the order first."""
    look, events = sold(5)
    forget(look, events[0], REDIS)
    look.sku("box-1").before = Stock(STOCK - 4, 4, 0, STOCK)
    assert ["moving" in left.why for left in plan(judge(look), by_hand=True).left] == [True]
    look, events = sold(5)
    forget(look, events[0], REDIS | STORED | HANDLED)
    seen(look, events[0], QUEUED)
    assert [left.why for left in plan(judge(look), by_hand=True).left] == ["it is not in MySQL yet"]


def test_counters_are_brought_into_line_by_hand_alone() -> None:
    """MySQL's figures follow Redis and the ledger when a person says so; what Redis does not know is left."""
    look, _ = sold(3)
    look.sku("box-1").in_redis = True
    look.counter("box-1", allocated=STOCK + 5, sold=7)
    assert plan(judge(look), by_hand=False).actions == []
    assert kinds(plan(judge(look), by_hand=True)) == [ActionKind.ALLOCATED, ActionKind.SOLD]
    look.sku("box-1").in_redis = False
    assert kinds(plan(judge(look), by_hand=True)) == [ActionKind.SOLD]


def test_what_is_never_touched() -> None:
    """Half an order, one too many, a status that contradicts its ledger, and a return without a release."""
    look, events = sold(6)
    forget(look, events[0], 1 << 8)  # its taking
    in_mysql(look, event(20))
    in_redis(look, events[2], held=False)
    look.order_row(key_of(events[3]), "box-1", "expired", 0)
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 5, 6, 1, STOCK)
    look.counter("box-1", allocated=STOCK, sold=sku.ledger_units)
    verdict = judge(look)
    assert {fault.kind for fault in verdict.faults} == {"half", "extra", "returned", "state"}
    assert plan(verdict, by_hand=True) == Plan()
    assert all(repair.startswith("none: look at trace c-1~") for repair in told_repairs(verdict))


def test_a_round_repairs_so_many_at_most() -> None:
    """The next round goes on where this one has stopped."""
    verdict, _ = unreturned(REPAIRS_MAX + 10)
    assert len(plan(verdict, by_hand=False).actions) == REPAIRS_MAX


def test_every_fault_names_its_hop() -> None:
    """A report says of each order at which hop it went wrong and what may be done."""
    look, events = sold(4)
    forget(look, events[0], STORED | HANDLED)
    forget(look, events[1], REDIS)
    released(look, events[2])
    look.sku("box-1").ledger_units -= 1
    look.sku("box-1").mysql_sold -= 1
    faults = {fault.order_id: (fault.kind, fault.hop.partition(" (")[0], fault.repair) for fault in told(look).faults}
    assert faults[events[0].order_id] == ("unrelayed", "Redis -> Kafka", "automatic")
    assert faults[events[1].order_id] == ("lost", "buyer -> Redis", "by hand: reconcile --repair")
    assert faults[events[2].order_id] == ("release", "MySQL -> Redis", "automatic")
    explanations = told(look).explanations
    assert any(events[0].order_id in line and "Redis -> Kafka" in line for line in explanations)


ROW = OrderRow(
    order_id="c-1~" + "0" * 32,
    user_id="buyer",
    sku_id="box-1",
    quantity=1,
    fingerprint="f" * 16,
    status="expired",
    hold_no=1,
    taken=frozenset({("box-1", 1)}),
    released=frozenset({("box-1", 1)}),
    return_pending=False,
)
RELEASE = Action(ActionKind.RELEASE, "c-1", "box-1", ROW.order_id, 1, 1)
RESTORE = Action(ActionKind.RESTORE, "c-1", "box-1", ROW.order_id, 1, 1)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (ROW, ""),
        (ROW._replace(status="paid", hold_no=2), ""),
        (None, "no row"),
        (ROW._replace(released=frozenset()), "does not have its release"),
        (ROW._replace(taken=frozenset()), "does not have its release"),
        (ROW._replace(return_pending=True), "under way"),
        (ROW._replace(status="confirmed"), "the order is confirmed"),
    ],
)
def test_release_is_looked_at_once_more(row: OrderRow | None, why: str) -> None:
    """Units are given back only if MySQL still proves it at that moment."""
    found = why_not_released(RELEASE, row)
    assert why in found
    assert bool(found) == bool(why)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (ROW._replace(status="confirmed", released=frozenset()), ""),
        (ROW._replace(status="paid", released=frozenset()), ""),
        (None, "no row"),
        (ROW, "holds nothing"),
        (ROW._replace(status="confirmed"), "holds nothing"),
        (ROW._replace(status="confirmed", released=frozenset(), hold_no=2), "another"),
        (ROW._replace(status="confirmed", released=frozenset(), quantity=2), "another"),
        (ROW._replace(status="confirmed", released=frozenset(), taken=frozenset()), "holds nothing"),
    ],
)
def test_restore_is_looked_at_once_more(row: OrderRow | None, why: str) -> None:
    """An order is put back only if MySQL says at that moment that it holds these units."""
    found = why_not_restored(RESTORE, row)
    assert why in found
    assert bool(found) == bool(why)


class Hands:
    """Implements Repairs: remembers what it is told to do."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[list[Action]] = asyncio.Queue()

    async def run(self, actions: Iterable[Action]) -> list[Repaired]:
        """Do it all."""
        found = list(actions)
        self.told.put_nowait(found)
        return [Repaired(action, True, "") for action in found]


@pytest.mark.parametrize("looks_at_fault", [1, 2, 3])
async def test_only_what_all_looks_find_is_repaired(looks_at_fault: int) -> None:
    """A release that one look misses is not repaired after it; one that all three find is."""

    def unreturned_look() -> CampaignLook:
        look, events = sold(3)
        released(look, events[0])
        return look

    found = [unreturned_look() for _ in range(looks_at_fault)] + [sold(3)[0] for _ in range(10)]

    async def look(_campaign_ids: Collection[str] | None) -> Look:
        return Look({"c-1": found.pop(0)}, 0)

    hands = Hands()
    reconciler = Reconciler(look, interval_s=3_600, recheck_pause_s=0, repairs=hands)
    running = asyncio.create_task(reconciler.run())
    actions = await hands.told.get()
    reconciler.stop()
    await running
    assert len(actions) == (looks_at_fault == 3)
