"""What the stores together mean, without any store."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.reconcile_look import (
    DEAD,
    FREED,
    HANDLED,
    HOLDING,
    OWED,
    QUEUED,
    REACQUIRING,
    REDIS,
    RELEASE,
    RETURNED,
    ROW,
    SECOND,
    SETTLED,
    STORED,
    TAKE,
    WAITING,
    CampaignLook,
    Stock,
    hold_key,
    origin_ms,
    pack_origin,
    split_key,
)
from consumers.reconcile_report import build_report
from consumers.reconcile_rules import FaultKind, confirm, fault_of, is_in_flight, is_used_up, judge
from tests.support.events import event
from tests.support.looks import (
    QUIET_MS,
    SALE_MS,
    STOCK,
    forget,
    in_mysql,
    in_redis,
    key_of,
    released,
    seen,
    sold,
    told,
)

NOBODYS = "0" * 32


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
    key = hold_key(NOBODYS, 1, 1)
    look.order_row(key, "box-1", "confirmed", 0)
    look.ledger_row(key, "box-1", "take")
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
        # on the way to MySQL
        (REDIS | WAITING, None, True),
        (REDIS | WAITING | QUEUED, None, True),
        (REDIS | QUEUED, None, True),
        (REDIS | QUEUED | HANDLED, None, True),
        (REDIS | QUEUED | HANDLED | DEAD, None, True),
        (REDIS | QUEUED | HANDLED | SETTLED, None, True),
        (QUEUED, FaultKind.LOST, True),
        (WAITING, FaultKind.LOST, True),
        (REDIS | RETURNED | QUEUED, FaultKind.RETURNED, True),
        # arrived
        (REDIS | QUEUED | STORED | HOLDING, None, False),
        (REDIS | HANDLED | STORED | HOLDING, None, False),
        (REDIS | STORED | HOLDING, None, False),
        (REDIS | HANDLED | DEAD | STORED | HOLDING, None, False),
        (REDIS | HANDLED | SETTLED | STORED | HOLDING, None, False),
        (HANDLED | STORED | HOLDING, FaultKind.LOST, False),
        # never arrived
        (REDIS, FaultKind.UNRELAYED, False),
        (REDIS | HANDLED, FaultKind.MISSING, False),
        (REDIS | WAITING | HANDLED, FaultKind.MISSING, False),
        (REDIS | HANDLED | SETTLED, FaultKind.MISSING, False),
        (REDIS | HANDLED | ROW | HOLDING, FaultKind.HALF, False),
        (REDIS | HANDLED | TAKE, FaultKind.HALF, False),
        (REDIS | HANDLED | RELEASE, FaultKind.HALF, False),
        (REDIS | HANDLED | DEAD, FaultKind.DEAD_LETTER, False),
        (DEAD, FaultKind.DEAD_LETTER, False),
        (STORED | HOLDING, FaultKind.EXTRA, False),
        (ROW | HOLDING, FaultKind.EXTRA, False),
        (TAKE, FaultKind.EXTRA, False),
        (STORED | RELEASE | FREED, FaultKind.EXTRA, False),
        (OWED, FaultKind.EXTRA, False),
        # given back
        (HANDLED | STORED | RELEASE | FREED, None, False),
        (REDIS | RETURNED | HANDLED | STORED | RELEASE | FREED, None, False),
        (REDIS | RETURNED | HANDLED | STORED | RELEASE | FREED | OWED, None, False),
        (REDIS | HANDLED | STORED | RELEASE | FREED | OWED, None, False),
        (REDIS | HANDLED | STORED | RELEASE | FREED, FaultKind.RELEASE, False),
        (REDIS | HANDLED | STORED | RELEASE | FREED | SECOND, FaultKind.RELEASE, False),
        (REDIS | HANDLED | QUEUED | STORED | RELEASE | FREED | SECOND, None, False),
        (REDIS | RETURNED | HANDLED | STORED | HOLDING, FaultKind.RETURNED, False),
        (REDIS | RETURNED | HANDLED | STORED | HOLDING | OWED, FaultKind.RETURNED, False),
        (REDIS | RETURNED, FaultKind.RETURNED, False),
        # status and ledger
        (REDIS | HANDLED | STORED | FREED, FaultKind.STATE, False),
        (REDIS | HANDLED | STORED | RELEASE | HOLDING, FaultKind.STATE, False),
        (REDIS | RETURNED | HANDLED | STORED | RELEASE | HOLDING, FaultKind.STATE, False),
        (REDIS | RETURNED | HANDLED | STORED | FREED, FaultKind.STATE, False),
    ],
)
def test_each_combination_has_its_meaning(facts: int, fault: FaultKind | None, in_flight: bool) -> None:
    """What the stores say of a hold decides what is wrong with it and whether it is on its way."""
    assert fault_of(facts, is_new=False) == fault
    assert is_in_flight(facts) == in_flight


@pytest.mark.parametrize(
    ("facts", "fault", "in_flight"),
    [
        (REACQUIRING, None, True),
        (REDIS | REACQUIRING, None, True),
        (REDIS, FaultKind.MISSING, False),
        (REDIS | RETURNED, None, False),
        (REDIS | RETURNED | REACQUIRING, None, True),
        (REDIS | RETURNED | TAKE, FaultKind.RETURNED, False),
        (REDIS | STORED | HOLDING, None, False),
        (REDIS | RETURNED | STORED | RELEASE | FREED, None, False),
        (STORED | RELEASE | FREED, None, False),
        (STORED | HOLDING, FaultKind.LOST, False),
    ],
)
def test_hold_taken_anew_comes_from_no_event(facts: int, fault: FaultKind | None, in_flight: bool) -> None:
    """A later hold of an order is on its way while its payment says so, and Kafka need not know of it."""
    assert fault_of(facts, is_new=False, is_first=False) == fault
    assert is_in_flight(facts) == in_flight


@given(st.integers(min_value=1, max_value=(1 << 16) - 1), st.booleans())
def test_every_hold_is_whole_on_its_way_or_at_fault(facts: int, is_first: bool) -> None:
    """No combination of facts goes unnoticed: without a fault a hold is in MySQL or on its way there."""
    if fault_of(facts, is_new=False, is_first=is_first) is None:
        assert facts & STORED == STORED or is_in_flight(facts) or (is_used_up(facts) and not is_first)


@given(st.integers(min_value=1, max_value=(1 << 16) - 1), st.booleans())
def test_what_is_new_is_judged_no_harder(facts: int, is_first: bool) -> None:
    """That a hold was accepted during the look takes suspicions away and adds none."""
    told_of_new = fault_of(facts, is_new=True, is_first=is_first)
    assert told_of_new is None or told_of_new == fault_of(facts, is_new=False, is_first=is_first)


def test_order_accepted_while_looking_is_not_judged_by_what_was_read_before() -> None:
    """An order that MySQL has and Redis did not have yet is new if its outbox id lies within the look."""
    look, _ = sold(3)
    late = event(50)
    in_mysql(look, late)
    seen(look, late, QUEUED)
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
    held=st.integers(min_value=-5, max_value=60),
)
def test_held_units_lie_between_two_readings_of_the_counters(first: int, more: int, given_back: int, held: int) -> None:
    """While a sale goes on the records may hold what the counters allow; when it is quiet, exactly one number."""
    look = CampaignLook("c-1", began_ms=QUIET_MS)
    sku = look.sku("box-1")
    sku.before = Stock(STOCK - first, first, 0, STOCK)
    sku.after = Stock(STOCK - first - more + given_back, first + more, given_back, STOCK)
    look.counter("box-1", allocated=STOCK, sold=0)
    for number in range(held):
        in_redis(look, event(number))
        seen(look, event(number), WAITING)
    held = max(0, held)
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
    again = msgspec.structs.replace(event(1), hold_no=2)
    in_redis(look, again)
    seen(look, event(1), HANDLED)
    in_mysql(look, again, status="paid")
    look.ledger_row(key_of(event(1)), "box-1", "take")
    look.ledger_row(key_of(event(1)), "box-1", "release")
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 1, 2, 1, STOCK)
    look.counter("box-1", allocated=STOCK, sold=1)
    campaign = told(look)
    assert (campaign.drift, campaign.in_flight, campaign.explanations) == (0, 0, ())
    assert (campaign.kafka_distinct, campaign.mysql_rows, campaign.confirmed) == (1, 1, 1)


def test_taken_anew_is_in_flight_until_mysql_has_it() -> None:
    """A unit taken anew for a late payment is on its way while the payment is noted, and missing without that."""
    look, events = sold(3)
    released(look, events[0])
    again = msgspec.structs.replace(events[0], hold_no=2)
    in_redis(look, again)
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 3, 4, 1, STOCK)
    assert [fault.kind for fault in told(look).faults] == ["missing"]
    look.reacquiring(key_of(again), "box-1")
    campaign = told(look)
    assert (campaign.drift, campaign.in_flight, campaign.confirmed, campaign.released) == (0, 1, 2, 1)


def test_release_in_one_store_only_is_drift() -> None:
    """Units given back in Redis without a release in the ledger are one order at fault; with it, none."""
    look, events = sold(3)
    in_redis(look, events[0], held=False)
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 2, 3, 1, STOCK)
    assert (told(look).drift, told(look).skus[0].releases, told(look).faults[0].kind) == (1, 1, "returned")
    released(look, events[0])
    campaign = told(look)
    assert (campaign.drift, campaign.confirmed, campaign.released) == (0, 2, 1)


def test_release_is_in_flight_while_it_is_owed() -> None:
    """A release in the ledger that Redis has not got is on its way while MySQL says that it is owed."""
    look, events = sold(3)
    released(look, events[0])
    assert [fault.kind for fault in told(look).faults] == ["release"]
    look.pending_return(key_of(events[0]), "box-1", second=False)
    campaign = told(look)
    assert (campaign.drift, campaign.pending_returns, campaign.in_flight) == (0, 1, 0)


def test_status_and_ledger_have_to_agree() -> None:
    """A row that says expired needs its release, and one that says paid must have none."""
    look, events = sold(3)
    released(look, events[0])
    in_redis(look, events[0], held=False)
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 2, 3, 1, STOCK)
    assert told(look).drift == 0
    forget(look, events[0], RELEASE)
    sku.ledger_units, sku.mysql_sold = 3, 3
    assert [(fault.kind, fault.order_id) for fault in told(look).faults] == [("state", events[0].order_id)]


def test_same_order_from_two_outbox_entries_is_told() -> None:
    """A second deduction is told; it is drift only where Redis's counters show that units were lost by it."""
    look, events = sold(3)
    seen(look, events[0], QUEUED)
    assert told(look).skus[0].second_deductions == 0
    seen(look, msgspec.structs.replace(events[0], outbox_id="1790000000009-0"), HANDLED)
    campaign = told(look)
    assert (campaign.skus[0].second_deductions, campaign.drift) == (1, 0)
    assert any("more than one outbox entry" in line for line in campaign.explanations)
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 4, 4, 0, STOCK)
    forget(look, events[0], QUEUED)
    assert told(look).drift == 1


def test_second_deduction_may_be_on_its_way_back() -> None:
    """While the second event waits for a consumer, or its return for Redis, the counters may exceed the records."""
    look, events = sold(3)
    again = msgspec.structs.replace(events[0], outbox_id="1790000000009-0")
    seen(look, again, QUEUED)
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 4, 4, 0, STOCK)
    assert told(look).drift == 0
    forget(look, events[0], QUEUED)
    look.pending_return(key_of(events[0]), "box-1", second=True)
    campaign = told(look)
    assert (campaign.drift, campaign.pending_returns) == (0, 1)
    sku.before = sku.after = Stock(STOCK - 5, 5, 0, STOCK)
    assert told(look).drift == 1  # by more than what is owed


def test_event_made_anew_is_no_second_deduction() -> None:
    """An event without an origin says nothing against the one from the outbox, whichever comes first."""
    anew = msgspec.structs.replace(event(1), outbox_id="0-0", outbox_index=0)
    for order in ((event(1), anew), (anew, event(1)), (anew, anew)):
        look, _ = sold(3)
        for one in order:
            seen(look, one, HANDLED)
        assert (told(look).drift, told(look).skus[0].second_deductions) == (0, 0)
    seen(look, msgspec.structs.replace(event(1), outbox_id="1790000000009-0"), HANDLED)
    assert told(look).skus[0].second_deductions == 1


def test_forged_dead_letter_is_forgotten_once_a_person_has_dealt_with_it() -> None:
    """A record with another payload under a known order is nothing that could be missing; an order without a row is."""
    look, events = sold(3)
    forged = msgspec.structs.replace(events[0], quantity=2)
    seen(look, forged, HANDLED)
    seen(look, forged, DEAD)
    assert [fault.kind for fault in told(look).faults] == ["dead_letter"]
    look, events = sold(3)
    seen(look, forged, HANDLED)
    seen(look, forged, SETTLED)
    assert (told(look).drift, told(look).kafka_distinct) == (0, 3)
    nowhere = event(7)
    in_redis(look, nowhere)
    seen(look, nowhere, HANDLED)
    seen(look, nowhere, SETTLED)
    sku = look.sku("box-1")
    sku.before = sku.after = Stock(STOCK - 4, 4, 0, STOCK)
    assert [(fault.kind, fault.order_id) for fault in told(look).faults] == [("missing", nowhere.order_id)]


def test_row_with_an_id_of_another_campaign_is_extra() -> None:
    """Such a row is told by its own id."""
    look, _ = sold(3)
    look.stray("c-2~" + NOBODYS, "box-1")
    assert (told(look).drift, told(look).extra_ids) == (1, ("c-2~" + NOBODYS,))


def test_all_is_relayed_when_the_checkpoint_has_passed_what_the_first_look_saw() -> None:
    """Of several looks the first says what was accepted, and the last how far the relay is."""
    looks = [sold(1)[0] for _ in range(3)]
    for look, accepted, checkpoint in zip(looks, (5, 7, 9), (4, 5, 6), strict=True):
        look.accepted_to, look.checkpoint = (accepted, 0), (checkpoint, 0)
    first, second, third = map(judge, looks)
    assert [one.all_relayed for one in (first, second, third)] == [False, False, False]
    assert confirm(first, second).all_relayed
    assert confirm(confirm(first, second), third).all_relayed
    assert not confirm(second, third).all_relayed


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


@given(st.text("0123456789abcdef", min_size=32, max_size=32), st.integers(1, 65_535), st.integers(1, 1_000))
def test_hold_key_gives_back_what_it_was_made_of(digest: str, hold_no: int, quantity: int) -> None:
    """A key is one to one with order, hold number and quantity."""
    assert split_key(hold_key(digest, hold_no, quantity)) == (digest, hold_no, quantity)
