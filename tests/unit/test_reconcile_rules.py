"""What the stores together mean, without any store."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.reconcile_report import build_report
from consumers.reconcile_rules import (
    DEAD,
    DONE,
    PUBLISHED,
    REDIS,
    RELEASE,
    RETURNED,
    ROW,
    STORED,
    TAKE,
    WAITING,
    CampaignLook,
    FaultKind,
    Stock,
    confirm,
    fault_of,
    is_in_flight,
    judge,
    origin_ms,
    pack_origin,
)
from tests.support.events import event
from tests.support.looks import QUIET_MS, SALE_MS, STOCK, forget, in_mysql, in_redis, sold, told


def test_finished_sale_is_whole() -> None:
    """Orders that all stores know are no drift, and the totals say the same everywhere."""
    look, _ = sold(30)
    campaign = told(look)
    assert (campaign.drift, campaign.in_flight, campaign.explanations) == (0, 0, ())
    assert campaign.redis_taken == campaign.kafka_distinct == campaign.mysql_rows == campaign.sold == 30
    assert (campaign.confirmed, campaign.released) == (30, 0)


def test_one_lost_and_one_doubled_do_not_cancel_out() -> None:
    """One order missing and another too many are a drift of 2, though every sum is right."""
    look, events = sold(30)
    forget(look, events[7], STORED)
    look.order_row("c-1~" + "0" * 32, "box-1", 1, 1, 0)
    look.ledger_row("c-1~" + "0" * 32, "box-1", 1, 1, "take")
    look.sku("box-1").ledger_units -= 1
    look.sku("box-1").order_rows -= 1
    campaign = told(look)
    assert (campaign.sold, campaign.mysql_rows) == (30, 30)
    assert campaign.drift == 2
    assert campaign.missing_ids == (events[7].order_id,)
    assert campaign.extra_ids == ("c-1~" + "0" * 32,)
    assert len(campaign.explanations) == 2


@pytest.mark.parametrize(
    ("facts", "fault", "in_flight"),
    [
        (REDIS | WAITING, None, True),
        (REDIS | WAITING | PUBLISHED, None, True),
        (REDIS | PUBLISHED, None, True),
        (REDIS | RETURNED | PUBLISHED, None, True),
        (REDIS | PUBLISHED | STORED, None, False),
        (REDIS | PUBLISHED | DONE | STORED, None, False),
        (REDIS | STORED, None, False),
        (PUBLISHED | DONE | STORED | RELEASE, None, False),
        (REDIS | RETURNED | PUBLISHED | DONE | STORED | RELEASE, None, False),
        (REDIS, FaultKind.MISSING, False),
        (REDIS | PUBLISHED | DONE, FaultKind.MISSING, False),
        (REDIS | WAITING | PUBLISHED | DONE, FaultKind.MISSING, False),
        (REDIS | PUBLISHED | DONE | ROW, FaultKind.HALF, False),
        (REDIS | PUBLISHED | DONE | TAKE, FaultKind.HALF, False),
        (REDIS | PUBLISHED | DONE | DEAD, FaultKind.DEAD_LETTER, False),
        (REDIS | PUBLISHED | DEAD, FaultKind.DEAD_LETTER, False),
        (DEAD, FaultKind.DEAD_LETTER, False),
        (REDIS | PUBLISHED | DONE | DEAD | STORED, None, False),
        (STORED, FaultKind.EXTRA, False),
        (ROW, FaultKind.EXTRA, False),
        (TAKE, FaultKind.EXTRA, False),
        (STORED | RELEASE, FaultKind.EXTRA, False),
        (PUBLISHED | DONE | STORED, FaultKind.LOST, False),
        (PUBLISHED, FaultKind.LOST, True),
        (WAITING, FaultKind.LOST, True),
        (REDIS | RETURNED | PUBLISHED | DONE | STORED, FaultKind.RELEASE, False),
        (REDIS | PUBLISHED | DONE | STORED | RELEASE, FaultKind.RELEASE, False),
    ],
)
def test_each_combination_has_its_meaning(facts: int, fault: FaultKind | None, in_flight: bool) -> None:
    """What the stores say of a hold decides what is wrong with it and whether it is on its way."""
    assert fault_of(facts, is_new=False) == fault
    assert is_in_flight(facts) == in_flight


@given(st.integers(min_value=1, max_value=511))
def test_every_hold_is_whole_on_its_way_or_at_fault(facts: int) -> None:
    """No combination of facts goes unnoticed: without a fault a hold is in MySQL or on its way there."""
    if fault_of(facts, is_new=False) is None:
        assert facts & STORED == STORED or is_in_flight(facts)


def test_order_accepted_while_looking_is_not_judged_by_what_was_read_before() -> None:
    """An order that MySQL has and Redis did not have yet is new if its outbox id lies within the look."""
    look, _ = sold(3)
    late = event(50)
    in_mysql(look, late)
    look.event(late, PUBLISHED)
    look.counter("box-1", allocated=STOCK, sold=4)
    sku = look.sku("box-1")
    sku.after = Stock(STOCK - 4, 4, 0, STOCK)
    assert told(look).drift == 1  # the look began after the order was accepted
    look.began_ms, look.ended_ms = SALE_MS - 1, SALE_MS + 60
    assert told(look).drift == 0
    look.began_ms, look.ended_ms = SALE_MS - 10, SALE_MS - 1
    assert told(look).drift == 1  # it claims to come from the future


@given(
    first=st.integers(min_value=0, max_value=20),
    more=st.integers(min_value=0, max_value=20),
    given_back=st.integers(min_value=0, max_value=20),
    seen=st.integers(min_value=-5, max_value=60),
)
def test_held_units_lie_between_two_readings_of_the_counters(first: int, more: int, given_back: int, seen: int) -> None:
    """While a sale goes on the records may hold what the counters allow; when it is quiet, exactly one number."""
    look = CampaignLook("c-1", began_ms=QUIET_MS)
    sku = look.sku("box-1")
    sku.before = Stock(STOCK - first, first, 0, STOCK)
    sku.after = Stock(STOCK - first - more + given_back, first + more, given_back, STOCK)
    look.counter("box-1", allocated=STOCK, sold=0)
    for number in range(seen):
        in_redis(look, event(number))
        look.event(event(number), WAITING)
    held = max(0, seen)
    expected = max(0, first - given_back - held, held - first - more)
    assert told(look).drift == expected


@pytest.mark.parametrize(
    ("stock", "allocated", "sold_by_counter", "drift"),
    [
        (Stock(STOCK - 10, 10, 0, STOCK), STOCK, 10, 0),
        (Stock(STOCK - 10 + 4, 10, 0, STOCK), STOCK, 10, 4),
        (Stock(STOCK - 13, 13, 0, STOCK), STOCK, 10, 3),
        (Stock(STOCK - 10, 10, 0, STOCK), STOCK - 2, 10, 2),
        (Stock(STOCK - 10, 10, 0, STOCK), STOCK, 15, 5),
        (Stock(-1, 10, 0, 9), 9, 10, 1),
        (Stock(), 0, 10, 10),
    ],
)
def test_counters_equal_what_they_count(stock: Stock, allocated: int, sold_by_counter: int, drift: int) -> None:
    """Each counter that differs from what it counts adds the difference to drift, and is explained."""
    look, _ = sold(10)
    sku = look.sku("box-1")
    sku.before = sku.after = stock
    look.counter("box-1", allocated=allocated, sold=sold_by_counter)
    campaign = told(look)
    assert campaign.drift == drift
    assert len(campaign.explanations) == bool(drift)


def test_stores_that_disagree_about_an_order_are_drift() -> None:
    """Another quantity or SKU in MySQL than in Redis is one hold missing and one too many."""
    look, events = sold(5)
    forget(look, events[0], STORED)
    in_mysql(look, msgspec.structs.replace(events[0], quantity=2))
    sku = look.sku("box-1")
    sku.ledger_units, sku.mysql_sold = 6, 6
    campaign = told(look)
    assert campaign.drift == 2
    assert campaign.missing_ids == campaign.extra_ids == (events[0].order_id,)
    assert any("disagree" in line for line in campaign.explanations)


def test_order_may_take_expire_and_take_again() -> None:
    """Holds are counted each by itself: two takings and one release of one order are whole."""
    look = CampaignLook("c-1", began_ms=QUIET_MS)
    again = msgspec.structs.replace(event(1), hold_no=2, outbox_id="1790000000001-0")
    in_redis(look, again)
    look.event(event(1), PUBLISHED | DONE)
    look.event(again, PUBLISHED | DONE)
    in_mysql(look, again)
    look.ledger_row(again.order_id, "box-1", 1, 1, "take")
    look.ledger_row(again.order_id, "box-1", 1, 1, "release")
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 1, 2, 1, STOCK)
    look.counter("box-1", allocated=STOCK, sold=1)
    campaign = told(look)
    assert (campaign.drift, campaign.in_flight, campaign.explanations) == (0, 0, ())
    assert (campaign.kafka_distinct, campaign.mysql_rows, campaign.confirmed) == (1, 1, 1)


def test_release_in_one_store_only_is_drift() -> None:
    """Units given back in Redis without a release in the ledger are one order at fault; with it, none."""
    look, events = sold(3)
    in_redis(look, events[0], held=False)
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 2, 3, 1, STOCK)
    assert (told(look).drift, told(look).skus[0].releases) == (1, 1)
    look.ledger_row(events[0].order_id, "box-1", 1, 1, "release")
    look.counter("box-1", allocated=STOCK, sold=2)
    campaign = told(look)
    assert (campaign.drift, campaign.confirmed, campaign.released) == (0, 2, 1)


def test_same_order_from_two_outbox_entries_is_told() -> None:
    """A second deduction is told; it is drift only where Redis's counters show that units were lost by it."""
    look, events = sold(3)
    look.event(events[0], PUBLISHED)
    assert told(look).skus[0].second_deductions == 0
    look.event(msgspec.structs.replace(events[0], outbox_id="1790000000009-0"), PUBLISHED | DONE)
    campaign = told(look)
    assert (campaign.drift, campaign.skus[0].second_deductions) == (0, 1)
    assert any("more than one outbox entry" in line for line in campaign.explanations)
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 4, 4, 0, STOCK)
    assert told(look).drift == 1


def test_only_what_two_looks_find_is_confirmed() -> None:
    """A fault that the second look does not find is dropped, and so is one that only the second finds."""
    first, events = sold(4)
    forget(first, events[0], STORED)
    forget(first, events[1], STORED)
    second, _ = sold(4)
    forget(second, events[1], STORED)
    forget(second, events[2], STORED)
    for look in (first, second):
        look.sku("box-1").ledger_units = 4
    verdict = confirm(judge(first), judge(second))
    (campaign,) = build_report([verdict], poison=0).campaigns
    assert (campaign.drift, campaign.missing_ids) == (1, (events[1].order_id,))


@given(st.integers(min_value=0, max_value=1 << 48), st.integers(min_value=0, max_value=(1 << 64) - 1))
def test_packed_origin_keeps_its_time(ms: int, seq: int) -> None:
    """A packed origin gives back the time of its outbox id and differs for another place in the entry."""
    assert origin_ms(pack_origin(f"{ms}-{seq}", 65_535)) == ms
    assert pack_origin(f"{ms}-{seq}", 0) != pack_origin(f"{ms}-{seq}", 1)
