"""What makes a demo fail."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from cli.demo_facts import Evidence, Facts, House
from cli.demo_proof import SaleFacts, contradictions
from cli.demo_redemption_proof import Ledger, Movement, RedemptionFacts
from cli.demo_redemption_proof import contradictions as redemption_contradictions

SOUND = SaleFacts(
    kind="sale",
    buyers=10,
    stock=3,
    accepted=3,
    sold_out=7,
    rate_limited=0,
    failed=0,
    confirmed=3,
    released=0,
    sold=3,
    mysql_rows=3,
    redis_taken=3,
    redis_returned=0,
    paid=3,
    unpaid=0,
    cancelled=0,
    expired=0,
    refunded=0,
    shipped=2,
    rejected=0,
    returned=0,
    withdrawn=0,
    sold_again=0,
    kafka_distinct=3,
    drift=0,
    offered_per_s=1.0,
    accepted_per_s=1.0,
    p50_ms=1.0,
    p99_ms=1.0,
    drain_s=0.0,
    evalsha_calls=1,
    insert_statements=1,
)
IDS = ["a", "b", "c"]


BEFORE = House(on_hand=20, allocated=3, reserved=1, free=16, received=20, shipped=0, returned=0)
AFTER = House(on_hand=18, allocated=1, reserved=1, free=16, received=20, shipped=2, returned=0)
"""Of three units that were sold, two have left the house."""


def said(
    facts: SaleFacts,
    after: House = AFTER,
    *,
    told: Sequence[str] = IDS,
    stored: Sequence[str] = IDS,
    untrue: Mapping[str, int] = {},
    notes: Sequence[str] = (),
) -> list[str]:
    """Return what contradicts the promise."""
    return contradictions(facts, Evidence(told, stored, untrue, notes, BEFORE, after))


def test_a_sound_sale_contradicts_nothing() -> None:
    """All sold, or everybody served: both are as promised."""
    assert said(SOUND) == []
    everybody = msgspec.structs.replace(SOUND, stock=9, sold_out=0, buyers=3)
    assert said(everybody, AFTER._replace(allocated=7)) == []
    assert said(msgspec.structs.replace(everybody, withdrawn=6), AFTER._replace(free=22)) == []
    limited = msgspec.structs.replace(SOUND, stock=9, sold_out=0, rate_limited=7)
    assert said(limited, AFTER._replace(allocated=7)) == []


def test_parcels_that_were_rejected_or_came_back_are_sound() -> None:
    """A parcel that came back is on hand again, and one that was rejected never left; both are refunded."""
    facts = msgspec.structs.replace(
        SOLD_AGAIN, cancelled=0, expired=0, refunded=2, rejected=1, returned=1, shipped=3, paid=3
    )
    after = House(on_hand=17, allocated=0, reserved=1, free=16, received=20, shipped=4, returned=1)
    ids = ["a", "b", "c", "d", "e"]
    assert said(facts, after, told=ids, stored=ids) == []
    unpaid_back = msgspec.structs.replace(facts, refunded=1, expired=1)
    assert said(unpaid_back, after, told=ids, stored=ids) == ["2 orders were rejected or came back, 1 are refunded"]


@pytest.mark.parametrize("field", ["on_hand", "allocated", "reserved", "free", "shipped", "returned"])
def test_one_unit_too_many_in_the_warehouse_is_enough(field: str) -> None:
    """Each of the warehouse's numbers follows from what was sold, shipped and given back."""
    assert len(said(SOUND, AFTER._replace(**{field: getattr(AFTER, field) + 1}))) == 1
    assert said(SOUND, AFTER._replace(differences=("a number is odd",))) == ["a number is odd"]


SOLD_AGAIN = msgspec.structs.replace(
    SOUND,
    accepted=5,
    sold_out=5,
    released=2,
    mysql_rows=5,
    kafka_distinct=5,
    redis_taken=5,
    redis_returned=2,
    cancelled=1,
    expired=1,
    sold_again=2,
)


def test_units_that_came_back_and_were_sold_again_are_sound() -> None:
    """More orders than units are as promised if the others gave theirs back."""
    ids = ["a", "b", "c", "d", "e"]
    assert said(SOLD_AGAIN, told=ids, stored=ids) == []


@pytest.mark.parametrize(
    "changes", [{"redis_returned": 1}, {"expired": 0}, {"released": 1}, {"unpaid": 1}, {"stock": 4}]
)
def test_a_unit_that_came_back_and_is_not_accounted_for_is_told(changes: dict[str, int]) -> None:
    """Every unit that came back is accounted for: held by another order, or left with nobody who wants it."""
    ids = ["a", "b", "c", "d", "e"]
    facts = msgspec.structs.replace(SOLD_AGAIN, **changes)
    assert said(facts, told=ids, stored=ids)


@pytest.mark.parametrize(
    "changes",
    [
        {"drift": 1},
        {"mysql_rows": 4},
        {"redis_taken": 2},
        {"kafka_distinct": 2},
        {"accepted": 2, "sold_out": 8},
        {"confirmed": 2, "released": 1},
        {"stock": 4},
        {"stock": 2},
        {"sold_out": 6},
        {"sold_out": 6, "failed": 1},
    ],
)
def test_one_wrong_number_is_enough(changes: dict[str, int]) -> None:
    """Each number that does not fit makes the demo fail."""
    assert said(msgspec.structs.replace(SOUND, **changes))


def test_ids_are_compared_not_counted() -> None:
    """One order lost and one made up are two faults, though the sums agree."""
    assert len(said(SOUND, stored=["a", "b", "d"])) == 2
    assert len(said(SOUND, untrue={"202 after SOLD_OUT": 2})) == 1
    assert said(SOUND, notes=["1 order is odd"]) == ["1 order is odd"]


REDEEMED = RedemptionFacts(
    **{
        **{name: getattr(SOUND, name) for name in Facts.__struct_fields__},
        "kind": "redemption",
        "accepted": 4,
        "sold_out": 4,
        "released": 1,
        "mysql_rows": 4,
        "kafka_distinct": 4,
        "redis_taken": 4,
        "redis_returned": 1,
    },
    redeemers=4,
    points_short=2,
    points_price=300,
    points_granted=2_000,
    points_spent=900,
    points_returned=0,
    points_left=1_100,
    rejected=1,
    paid=3,
    shipped=2,
    redeemed_again=0,
    withdrawn=0,
)
SPENT = [Movement(order_id, f"user-{order_id}", 300) for order_id in IDS]
LEDGER = Ledger(SPENT, [], {order_id: f"user-{order_id}" for order_id in IDS}, 0, 0, 0)


def said_of_points(facts: RedemptionFacts = REDEEMED, ledger: Ledger = LEDGER) -> list[str]:
    """Return what contradicts the promise of a redemption."""
    ids = [*IDS, "d"]
    return redemption_contradictions(facts, Evidence(ids, ids, {}, [], BEFORE, AFTER), ledger)


def test_a_sound_redemption_contradicts_nothing() -> None:
    """Points spent are those of confirmed redemptions, also where some were taken and given back."""
    assert said_of_points() == []
    back = Movement("d", "user-d", 300)
    facts = msgspec.structs.replace(REDEEMED, points_spent=1_200, points_returned=300)
    assert said_of_points(facts, LEDGER._replace(spent=[*SPENT, back], returned=[back])) == []


@pytest.mark.parametrize(
    ("facts", "ledger"),
    [
        ({"points_left": 1_101}, {}),
        ({"points_spent": 600, "points_left": 1_400}, {}),
        ({"rejected": 0}, {}),
        ({"points_short": 1}, {}),
        ({"paid": 2}, {}),
        ({}, {"spent": SPENT[:2]}),
        ({}, {"spent": [*SPENT[:2], Movement("c", "user-a", 300)]}),
        ({}, {"spent": [*SPENT, Movement("d", "user-d", 300)]}),
        ({}, {"unequal": 1}),
        ({}, {"overdrawn": 1}),
        ({}, {"unfinished": 1}),
    ],
)
def test_one_point_astray_is_enough(facts: dict[str, int], ledger: dict[str, Any]) -> None:
    """Each number and each row that does not fit makes the demo of a redemption fail."""
    assert said_of_points(msgspec.structs.replace(REDEEMED, **facts), LEDGER._replace(**ledger))
