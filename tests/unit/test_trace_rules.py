"""An order's way in words, without any server."""

from typing import Any, Final

import msgspec
import pytest

from cli.trace import story_lines
from consumers.trace_facts import (
    ChangeFacts,
    EventFacts,
    KafkaFacts,
    LedgerFacts,
    LetterFacts,
    OutboxFacts,
    ParcelFacts,
    PaymentFacts,
    RedisFacts,
    ReturnFacts,
    ReviewFacts,
    RowFacts,
    Story,
)
from consumers.trace_rules import as_json, summary, timeline

NOW: Final = 1_790_000_100_000
AT: Final = 1_790_000_000_000
ORDER: Final = "c-1~" + "a" * 32

EVENT: Final = EventFacts(
    user_id="ann", sku_id="box", quantity=2, hold_no=1, accepted_at_ms=AT, outbox_id=f"{AT}-3", outbox_index=4
)
REDIS: Final = RedisFacts(user_id="ann", sku_id="box", quantity=2, hold_no=1, state="held", gate_open=True)
OUTBOX: Final = OutboxFacts(
    outbox_id=f"{AT}-3", outbox_index=4, checkpoint=f"{AT}-3", waiting=False, relayed=True
)  # fmt: skip
KAFKA: Final = KafkaFacts(partition=2, offset=7, at_ms=AT, outbox_id=f"{AT}-3", outbox_index=4, consumed=True)
LETTER: Final = LetterFacts(
    id="orders.accepted.dead:2@0", at_ms=AT + 20, reason="unknown_sku", error="no", action="", action_at_ms=None
)
ROW: Final = RowFacts(
    status="confirmed",
    version=1,
    campaign_id="c-1",
    sku_id="box",
    user_id="ann",
    quantity=2,
    unit_price_cents=5_900,
    hold_no=1,
    outbox_id=f"{AT}-3",
    outbox_index=4,
    accepted_at_ms=AT,
    confirmed_at_ms=AT + 30,
    pay_by_ms=NOW + 1_000,
)
TAKE: Final = LedgerFacts(
    hold_no=1, kind="take", sku_id="box", quantity=2, outbox_id=f"{AT}-3", outbox_index=4, at_ms=AT + 30
)
EXPIRED: Final = ChangeFacts(version=2, status="expired", reason="not paid in time", at_ms=NOW - 10, published=False)
PAYMENT: Final = PaymentFacts(
    payment_id="p-1",
    attempt_no=1,
    amount_cents=11_800,
    status="pending",
    hold_no=0,
    created_at_ms=AT + 40,
    updated_at_ms=AT + 50,
    next_at_ms=NOW,
    attempts=0,
    error="",
)
OWED: Final = ReturnFacts(
    hold_no=1, origin="", quantity=2, created_at_ms=NOW - 10, attempts=0, error="", done_at_ms=None
)  # fmt: skip


def row(**changes: Any) -> RowFacts:
    """Return the row with changes."""
    return msgspec.structs.replace(ROW, **changes)


def told(**facts: Any) -> str:
    """Return the sentence about an order that is accepted and in Redis, with more facts."""
    return summary(Story(order_id=ORDER, now_ms=NOW, **{"event": EVENT, "redis": REDIS, **facts}))


def test_before_there_is_a_row() -> None:
    """Without a row, the sentence says at which hop the order waits."""
    waiting = msgspec.structs.replace(OUTBOX, waiting=True, relayed=False)
    unread = msgspec.structs.replace(KAFKA, consumed=False)
    assert told(outbox=waiting) == "accepted; waits in the outbox for the relay."
    assert told(outbox=OUTBOX, kafka=[unread]) == ("accepted; waits in Kafka, partition 2, offset 7, for the consumer.")
    assert "orders.accepted.dead:2@0 (unknown_sku)" in told(outbox=OUTBOX, kafka=[KAFKA], dead_letters=[LETTER])
    assert "neither on its way nor in MySQL" in told(outbox=OUTBOX, kafka=[KAFKA])
    assert "MySQL does not have it yet" in told(kafka=[msgspec.structs.replace(KAFKA, consumed=None)])
    released = msgspec.structs.replace(REDIS, state="released")
    assert told(redis=released, kafka=[KAFKA]).startswith("given back in Redis, and MySQL has nothing")


def test_a_replayed_letter_is_not_waited_for() -> None:
    """What was replayed waits in Kafka again; what was dropped waits for nobody."""
    done = msgspec.structs.replace(LETTER, action="replayed", action_at_ms=NOW)
    again = msgspec.structs.replace(KAFKA, offset=9, consumed=False)
    assert "offset 9" in told(dead_letters=[done], kafka=[KAFKA, again])


def test_waiting_for_payment() -> None:
    """A confirmed order waits for payment until a time; past it, for the process that expires it."""
    assert told(mysql=ROW) == "confirmed; waits for payment until 2026-09-21T14:15:01.000Z, and expires then."
    assert "`./flashgate lifecycle` has to expire it" in told(mysql=row(pay_by_ms=NOW))
    assert "for ever" in told(mysql=row(pay_by_ms=None))
    assert told(mysql=row(pay_by_ms=None, unit_price_cents=0)) == "confirmed: a prize, for which nothing is to be paid."
    assert told(mysql=ROW, payments=[PAYMENT]).endswith("; payment p-1 is pending.")


@pytest.mark.parametrize(
    ("status", "words"),
    [("paid", "waits for approval"), ("approved", "waits for shipping"), ("shipped", "nothing more is to come")],
)
def test_sold(status: str, words: str) -> None:
    """An order that is paid says what is next."""
    assert words in told(mysql=row(status=status))


def test_outbound() -> None:
    """A review says who decided and why; what the warehouse refuses is told with the order that waits for it."""
    review = ReviewFacts(status="shipped", who="eve", why="fine", opened_at_ms=AT + 60, decided_at_ms=AT + 70)
    ship = ParcelFacts(
        kind="ship", who="eve", why="fine", created_at_ms=AT + 70, attempts=0, error="", done_at_ms=AT + 80
    )
    story = Story(order_id=ORDER, now_ms=NOW, mysql=row(status="shipped"), review=review, parcels=[ship])
    assert [(line.hop, line.text) for line in timeline(story) if line.hop in {"review", "parcel"}] == [
        ("review", "opened: a person has to approve it before it goes out"),
        ("review", "approved: eve, 'fine'"),
        ("parcel", "to be shipped: eve, 'fine'"),
        ("parcel", "has left the warehouse"),
    ]
    refused = msgspec.structs.replace(ship, attempts=2, error="nothing left", done_at_ms=None)
    assert "(the warehouse refused: nothing left)" in told(mysql=row(status="approved"), parcels=[refused])
    back = msgspec.structs.replace(refused, kind="return", error="")
    assert "the warehouse has to take it in" in told(mysql=row(status="shipped"), parcels=[ship, back])


def test_rejected_after_approval() -> None:
    """A parcel that stayed in the house is not told as one that left, and one that had left not as one that stayed."""
    ship = ParcelFacts(
        kind="ship", who="eve", why="fine", created_at_ms=AT + 70, attempts=1, error="none left", done_at_ms=AT + 90
    )
    stays = msgspec.structs.replace(ship, kind="cancel", who="ben", created_at_ms=AT + 80, attempts=0, error="")
    left = msgspec.structs.replace(stays, error="its parcel has left the house")
    for cancel, said in (
        (stays, ["is not shipped any more", "stays in the"]),
        (left, ["has left the", "had left the"]),
    ):
        story = Story(order_id=ORDER, now_ms=NOW, mysql=row(status="rejected", version=4), parcels=[ship, cancel])
        told_of = [line.text for line in timeline(story) if line.hop == "parcel"]
        assert told_of[1].startswith("not to be shipped any more: ben")
        assert all(any(one.startswith(words) for one in told_of[2:]) for words in said)
    owed = msgspec.structs.replace(stays, done_at_ms=None)
    assert "rejected since; the warehouse has to keep" in told(mysql=row(status="approved"), parcels=[ship, owed])


def test_given_up() -> None:
    """An order that was given up says why, and whether Redis has its units back."""
    gone = row(status="expired", version=2)
    text = told(mysql=gone, changes=[EXPIRED], returns=[OWED])
    assert text == ("expired (not paid in time); a release is owed to Redis since 2026-09-21T14:14:59.990Z.")
    tried = msgspec.structs.replace(OWED, attempts=3, error="Redis: away")
    assert "(tried 3 times: Redis: away)" in told(mysql=gone, returns=[tried])
    done = msgspec.structs.replace(OWED, done_at_ms=NOW - 5)
    released = msgspec.structs.replace(REDIS, state="released")
    assert told(mysql=gone, redis=released, changes=[EXPIRED], returns=[done]) == (
        "expired (not paid in time); its units went back to the campaign 2026-09-21T14:14:59.995Z."
    )


def test_money_that_came_too_late() -> None:
    """A charge for an order without units is told of until it is settled."""
    gone = row(status="expired", version=2)
    for status, words in (("reacquiring", "units are being looked for"), ("refund_due", "its refund is due")):
        text = told(mysql=gone, payments=[msgspec.structs.replace(PAYMENT, status=status)])
        assert words in text
    assert told(mysql=row(status="refunded"), redis=None) == "refunded."


def test_stores_that_contradict_each_other() -> None:
    """If Redis says otherwise than the row, and nothing is owed, the sentence sends to the reconciler."""
    released = msgspec.structs.replace(REDIS, state="released")
    assert "hold 1 is released" in told(mysql=ROW, redis=released)
    assert "Redis does not know it" in told(mysql=ROW, redis=None)
    assert "hold 1 is held" in told(mysql=row(status="cancelled"))
    assert "hold 1 is held" in told(mysql=row(status="paid", hold_no=2))
    assert "reconcile" not in told(mysql=row(status="expired"), returns=[OWED])
    closed = msgspec.structs.replace(released, gate_open=False)
    assert "reconcile" not in told(mysql=ROW, redis=closed)
    assert "reconcile" not in told(mysql=ROW, redis=None, away={"redis": "gone"})


def test_a_store_is_away() -> None:
    """Without MySQL, or without a row and Kafka, nobody can tell, and that is said."""
    assert told(away={"mysql": "gone"}) == "MySQL cannot be asked, so nobody can tell where it stands."
    assert "Kafka cannot be asked" in told(outbox=OUTBOX, away={"kafka": "gone"})
    story = Story(order_id=ORDER, now_ms=NOW, away={"mysql": "\x1b[2J"})
    assert not story.is_known
    assert story_lines(story) == [f"order {ORDER}", "mysql cannot be asked: \\x1b[2J"]


def test_the_way_is_told_in_order() -> None:
    """Everything that happened is told once, the oldest first, hop by hop where the time is the same."""
    story = Story(
        order_id=ORDER,
        now_ms=NOW,
        event=EVENT,
        redis=REDIS,
        outbox=OUTBOX,
        kafka=[KAFKA],
        dead_letters=[msgspec.structs.replace(LETTER, action="replayed", action_at_ms=AT + 25)],
        mysql=row(status="expired", version=2),
        ledger=[TAKE],
        changes=[EXPIRED],
        payments=[PAYMENT],
        returns=[msgspec.structs.replace(OWED, done_at_ms=NOW - 5)],
        notes=["a note"],
    )
    assert [(line.at_ms, line.hop) for line in timeline(story)] == [
        (AT, "redis"),
        (AT, "outbox"),
        (AT, "kafka"),
        (AT + 20, "dead letter"),
        (AT + 25, "dead letter"),
        (AT + 30, "mysql"),
        (AT + 30, "ledger"),
        (AT + 40, "payment"),
        (AT + 50, "payment"),
        (NOW - 10, "change"),
        (NOW - 10, "return"),
        (NOW - 5, "return"),
        (None, "outbox"),
        (None, "redis"),
        (None, "mysql"),
    ]
    lines = story_lines(story)
    assert lines[1] == f"2026-09-21T14:13:20.000Z  {'redis':<11}  accepted: 2 of box for user ann, hold 1"
    assert "a note" in lines
    found = as_json(story)
    assert {"order_id", "redis", "outbox", "kafka", "dead_letters", "mysql", "ledger", "changes", "payments"} < set(
        found
    )
    assert (found["redis"]["state"], found["returns"][0]["quantity"], found["summary"]) == ("held", 2, lines[-1])


def test_an_event_made_anew() -> None:
    """An event whose outbox entry was lost says so, instead of naming an entry that there never was."""
    anew = msgspec.structs.replace(EVENT, outbox_id="0-0", outbox_index=0)
    record = msgspec.structs.replace(KAFKA, outbox_id="0-0", outbox_index=0)
    texts = [line.text for line in timeline(Story(order_id=ORDER, now_ms=NOW, event=anew, kafka=[record]))]
    assert any("made anew" in text for text in texts)
    assert not any("0-0" in text for text in texts)
