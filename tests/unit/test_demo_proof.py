"""What makes a demo fail."""

import msgspec
import pytest

from cli.demo_proof import Facts, contradictions

SOUND = Facts(
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


def said(facts: Facts, **changes: list[str] | dict[str, int]) -> list[str]:
    """Return what contradicts the promise."""
    told: dict[str, list[str] | dict[str, int]] = {"told": IDS, "stored": IDS, "untrue": {}, "notes": []}
    told.update(changes)
    return contradictions(facts, **told)  # type: ignore[arg-type]


def test_a_sound_sale_contradicts_nothing() -> None:
    """All sold, or everybody served: both are as promised."""
    assert said(SOUND) == []
    assert said(msgspec.structs.replace(SOUND, stock=9, sold_out=0, buyers=3)) == []
    assert said(msgspec.structs.replace(SOUND, stock=9, sold_out=0, rate_limited=7)) == []


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
