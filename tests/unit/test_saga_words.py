"""What a saga's row and guards come to in words."""

import msgspec
import pytest

from consumers.reconcile_points import PointsLook
from consumers.saga_facts import IN_ORDERS, IN_POINTS, SagaFacts, SagaStory, StepFacts
from consumers.saga_words import (
    GUARD_GONE,
    LATE_MS,
    NOT_DONE,
    NOT_YET,
    next_text,
    standing,
    step_lines,
    why_not_compensated,
    why_not_retried,
)

AT = 1_790_000_000_000
ROW = SagaFacts(
    saga_id="c-1~" + "0" * 32,
    campaign_id="c-1",
    sku_id="box",
    user_id="ann",
    quantity=1,
    points=300,
    hold_no=1,
    accepted_at_ms=AT,
    outbox_id=f"{AT}-0",
    outbox_index=0,
    status="running",
    step="deduct_points",
    version=2,
    reason="",
    attempts=0,
    error="",
    next_at_ms=AT,
    parked_at_ms=None,
    started_at_ms=AT,
    ended_at_ms=None,
)
DEDUCTED = StepFacts(schema=IN_POINTS, step="deduct_points", outcome="done", at_ms=AT)


def texts(row: SagaFacts, *steps: StepFacts, now_ms: int = AT) -> list[str]:
    """Return what is said of each step."""
    return [text for _, _, text, _ in step_lines(SagaStory(saga=row, now_ms=now_ms, steps=list(steps)))]


def test_what_is_done_and_what_is_missing() -> None:
    """A step has its guard's outcome, or is not yet done; turned back, what is missing never will be."""
    assert texts(ROW, DEDUCTED) == ["done", NOT_YET, NOT_YET]
    back = msgspec.structs.replace(ROW, status="compensating")
    void = StepFacts(schema=IN_ORDERS, step="create_order", outcome="void", at_ms=AT)
    told = texts(back, DEDUCTED, void)
    assert told == ["done", "taken back before it was done", NOT_DONE, NOT_YET, NOT_YET, NOT_YET]


def test_guard_that_is_gone() -> None:
    """A step that was noted as done and has no guard is told, unless its schema could not be asked."""
    assert texts(ROW) == [GUARD_GONE, NOT_YET, NOT_YET]
    assert "reconcile" in next_text(SagaStory(saga=ROW, now_ms=AT))
    assert GUARD_GONE not in next_text(SagaStory(saga=ROW, now_ms=AT, points_away="gone"))


def test_nobody_takes_it_up() -> None:
    """A saga that has long been due says which process is missing."""
    early, late = (next_text(SagaStory(saga=ROW, now_ms=AT + n, steps=[DEDUCTED])) for n in (0, LATE_MS + 1))
    assert early == "goes on by itself with create_order"
    assert late.endswith("is `./flashgate consume redemptions` running?")


@pytest.mark.parametrize(
    ("changes", "retried", "compensated"),
    [
        ({}, "is not parked", ""),
        ({"parked_at_ms": AT, "next_at_ms": None}, "", ""),
        ({"status": "confirmed"}, "is not parked", "outbound reject"),
        ({"status": "confirmed", "parked_at_ms": AT}, "", "outbound reject"),
        ({"status": "compensating", "parked_at_ms": AT}, "", "compensating already"),
        ({"status": "compensating", "ended_at_ms": AT}, "has ended", "has ended"),
        ({"status": "confirmed", "step": "confirm_order", "ended_at_ms": AT}, "has ended", "outbound reject"),
    ],
)
def test_what_a_person_may_do(changes: dict[str, object], retried: str, compensated: str) -> None:
    """Only what is parked is retried, only what runs is turned back; each refusal says why."""
    row = msgspec.structs.replace(ROW, **changes)
    for said, wanted in ((why_not_retried(row), retried), (why_not_compensated(row), compensated)):
        assert (wanted in said) if wanted else said == ""
    assert standing(row)


def test_points_of_orders_and_prizes() -> None:
    """Points differ by order: what is spent without an order that holds, or held without being spent; not under way."""
    look = PointsLook()
    for digest in ("whole", "unspent", "back", "under-way"):
        look.payment(digest, 300, "refund_due" if digest == "under-way" else "paid", "paid")
    for digest in ("whole", "back", "nobodys"):
        look.move(digest, "spend", -300)
    look.move("back", "refund", 300)
    look.move("grant", "grant", 7)
    found = {one.digest: (one.moved, one.due) for one in look.differences()}
    assert found == {"unspent": (0, 300), "back": (0, 300), "nobodys": (300, 0)}
    assert (look.spent, look.awarded) == (600, 0)
    for _ in range(2):
        look.prize("drawn", 50)
    look.move("drawn", "award", 50)
    assert "drawn" not in {one.digest for one in look.differences()}
