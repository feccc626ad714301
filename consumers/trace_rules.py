"""What the stores know of one order, put into words: hop by hop, and in one sentence. Decided without I/O.

Times are Unix milliseconds.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from consumers.dead_letter_rules import iso
from consumers.saga_facts import SagaFacts
from consumers.saga_words import next_step, outcome_text
from consumers.trace_facts import LetterFacts, ParcelFacts, PaymentFacts, ReturnFacts, ReviewFacts, RowFacts, Story
from domain.events import TOPIC_POINTS_AWARDED
from domain.order_state import ACTIVE, HOLDING, OrderStatus, PaymentStatus
from domain.outbox import START, parse_outbox_id
from domain.points import LedgerKind
from lifecycle.rules import is_prize

HOPS: Final = (
    "redis",
    "outbox",
    "kafka",
    "dead letter",
    "saga",
    "points",
    "mysql",
    "ledger",
    "change",
    "payment",
    "review",
    "parcel",
    "return",
)
"""In the order in which an order comes by."""


class Line(NamedTuple):
    """One thing that happened, or that is so now."""

    at_ms: int | None
    """None: it is not known when."""
    hop: str
    text: str


def timeline(story: Story) -> list[Line]:
    """Return what happened, the oldest first; what happened at the same time, in the order of the hops."""
    lines = [
        *_accepted(story),
        *_to_kafka(story),
        *_letters(story.dead_letters),
        *_saga(story),
        *_points(story),
        *_in_mysql(story),
        *_payments(story.payments),
        *_outbound(story.review, story.parcels),
        *_returns(story.returns),
    ]
    undated = [line for line in lines if line.at_ms is None]
    dated = [line for line in lines if line.at_ms is not None]
    return sorted(dated, key=lambda line: (line.at_ms, HOPS.index(line.hop))) + undated


def line_text(line: Line) -> str:
    """Return a line as it is printed."""
    return f"{iso(line.at_ms) if line.at_ms is not None else 'now':<24}  {line.hop:<11}  {line.text}"


def as_json(story: Story) -> dict[str, Any]:
    """Return what `trace --json` prints."""
    found = msgspec.to_builtins(story)
    lines = [{"at_ms": line.at_ms, "hop": line.hop, "text": line.text} for line in timeline(story)]
    return {**found, "timeline": lines, "summary": summary(story)}


# -- hop by hop ----------------------------------------------------------------------------------------------------


def _accepted(story: Story) -> Iterator[Line]:
    event, redis, outbox = story.event, story.redis, story.outbox
    if event is not None:
        yield Line(
            event.accepted_at_ms,
            "redis",
            f"accepted: {event.quantity} of {event.sku_id} for user {event.user_id}, hold {event.hold_no}",
        )
        if event.outbox_id == START:
            yield Line(None, "outbox", "its entry was lost before it was relayed, and its event made anew")
        else:
            yield Line(
                parse_outbox_id(event.outbox_id)[0],
                "outbox",
                f"entry {event.outbox_id}, place {event.outbox_index}",
            )
    if outbox is not None:
        where = "is past it: it is in Kafka" if outbox.relayed else "has not come to it"
        left = "still in the outbox" if outbox.waiting else "no longer in the outbox"
        yield Line(None, "outbox", f"{left}; the relay's checkpoint {outbox.checkpoint} {where}")
    if redis is not None:
        closed = "" if redis.gate_open else "; Redis was restarted, and recovery has not compared it yet"
        yield Line(
            None,
            "redis",
            f"hold {redis.hold_no} is {redis.state} in the record of user {redis.user_id} "
            f"({redis.quantity} of {redis.sku_id}){closed}",
        )


def _to_kafka(story: Story) -> Iterator[Line]:
    said = {True: "consumed", False: "not consumed yet", None: "nobody can tell whether it is consumed"}
    for one in story.kafka:
        origin = "made anew" if one.outbox_id == START else f"from outbox entry {one.outbox_id}/{one.outbox_index}"
        if one.topic == TOPIC_POINTS_AWARDED:
            origin = "its award"
        topic = f"{one.topic}, " if story.saga or story.draw else ""
        place = f"{topic}partition {one.partition}, offset {one.offset}"
        yield Line(one.at_ms, "kafka", f"{place}, {origin}: {said[one.consumed]}")
    draw = story.draw
    if draw is not None:
        worth = f"worth {draw.points:,} points" if draw.points else "worth no points"
        yield Line(None, "kafka", f"won {draw.sku_id}, {worth}; line {draw.seq} of draws.log, its entry {draw.hash}")


def _letters(letters: Sequence[LetterFacts]) -> Iterator[Line]:
    for one in letters:
        yield Line(one.at_ms, "dead letter", f"{one.id}: {one.reason}: {one.error}")
        if one.action_at_ms is not None:
            yield Line(one.action_at_ms, "dead letter", f"{one.id}: {one.action}")


def _saga(story: Story) -> Iterator[Line]:
    saga = story.saga
    if saga is None:
        return
    yield Line(saga.started_at_ms, "saga", f"taken in: {saga.points:,} points for {saga.quantity} of {saga.sku_id}")
    for one in story.steps:
        yield Line(one.at_ms, "saga", f"{one.step}, {one.schema}: {outcome_text(one)}")
    if saga.parked_at_ms is not None:
        yield Line(saga.parked_at_ms, "saga", f"parked after {saga.attempts} attempts: {saga.error}")
    if saga.ended_at_ms is not None:
        yield Line(saga.ended_at_ms, "saga", "ended")
    why = f" ({saga.reason})" if saga.reason else ""
    yield Line(None, "saga", f"{saga.status}{why}, version {saga.version}")


def _points(story: Story) -> Iterator[Line]:
    for one in story.points:
        yield Line(one.at_ms, "points", f"{one.kind} {one.delta:+,} of user {one.user_id}")


def _in_mysql(story: Story) -> Iterator[Line]:
    row = story.mysql
    if row is not None:
        pay_by = "" if row.pay_by_ms is None else f", to be paid until {iso(row.pay_by_ms)}"
        yield Line(row.confirmed_at_ms, "mysql", f"row written{pay_by}")
        price = f"{row.quantity} of {row.sku_id} at {row.unit_price_cents / 100:.2f}"
        yield Line(None, "mysql", f"{row.status}, version {row.version}, hold {row.hold_no}, {price}")
    for one in story.ledger:
        origin = "" if one.outbox_id == START else f", from outbox entry {one.outbox_id}/{one.outbox_index}"
        yield Line(one.at_ms, "ledger", f"{one.kind} of {one.quantity} {one.sku_id}, hold {one.hold_no}{origin}")
    for change in story.changes:
        told = "published" if change.published else "not published yet"
        yield Line(change.at_ms, "change", f"version {change.version}: {change.status} ({change.reason}), {told}")


def _payments(payments: Sequence[PaymentFacts]) -> Iterator[Line]:
    for one in payments:
        name = f"{one.payment_id}, number {one.attempt_no}"
        asked = f"{one.points:,} points" if one.points else f"{one.amount_cents / 100:.2f} asked for"
        yield Line(one.created_at_ms, "payment", f"{name}: {asked}")
        tried = f", tried {one.attempts} times in vain: {one.error}" if one.attempts else ""
        yield Line(one.updated_at_ms, "payment", f"{name}: {one.status}{tried}")


def _outbound(review: ReviewFacts | None, parcels: Sequence[ParcelFacts]) -> Iterator[Line]:
    if review is not None:
        yield Line(review.opened_at_ms, "review", "opened: a person has to approve it before it goes out")
        if review.decided_at_ms is not None:
            decided = _DECIDED.get(review.status, review.status)
            yield Line(review.decided_at_ms, "review", f"{decided}: {_said(review.who, review.why)}")
    stays = any(one.kind == "cancel" and one.done_at_ms is not None and not one.error for one in parcels)
    words = {
        "ship": ("to be shipped", "is not shipped any more" if stays else "has left the warehouse"),
        "cancel": ("not to be shipped any more", "stays in the warehouse" if stays else "had left the warehouse"),
        "return": ("came back", "back in the warehouse"),
    }
    for one in parcels:
        owed, done = words.get(one.kind, (one.kind, f"{one.kind} done"))
        tried = f", refused {one.attempts} times by the warehouse: {one.error}" if one.error else ""
        yield Line(one.created_at_ms, "parcel", f"{owed}: {_said(one.who, one.why)}{tried}")
        if one.done_at_ms is not None:
            yield Line(one.done_at_ms, "parcel", done)


_DECIDED: Final = {"shipped": "approved", "rejecting": "rejected", "returning": "taken back", "returned": "taken back"}
"""Status of a review → what was decided last, where the two are called differently."""


def _said(who: str, why: str) -> str:
    return f"{who}, {why!r}" if why else who


def _returns(returns: Sequence[ReturnFacts]) -> Iterator[Line]:
    for one in returns:
        what = f"of hold {one.hold_no}" if not one.origin else f"of a second deduction, outbox entry {one.origin}"
        tried = f", tried {one.attempts} times in vain: {one.error}" if one.attempts else ""
        yield Line(one.created_at_ms, "return", f"{one.quantity} owed to Redis, {what}{tried}")
        if one.done_at_ms is not None:
            yield Line(one.done_at_ms, "return", f"{one.quantity} given back to Redis, {what}")


# -- in one sentence -----------------------------------------------------------------------------------------------


def summary(story: Story) -> str:
    """Return where an order stands and what comes next, as far as the stores that answered tell."""
    row = story.mysql
    if "mysql" in story.away:
        text = "MySQL cannot be asked, so nobody can tell where it stands"
    elif row is None:
        text = _before_row(story)
    else:
        text = _of_row(story, row)
    return f"{text}{_contradiction(story)}."


def _before_row(story: Story) -> str:
    """Say where an order stands that has no row in MySQL."""
    if story.saga is not None:
        return f"accepted; {_saga_stands(story.saga)}"
    open_letters = [one for one in story.dead_letters if not one.action]
    if open_letters:
        last = open_letters[-1]
        return (
            f"set aside as dead letter {last.id} ({last.reason}); waits for a person: `./flashgate deadletter replay` "
            "processes it again, `drop` gives it up"
        )
    unread = [one for one in story.kafka if one.consumed is False]
    if unread:
        return f"accepted; waits in Kafka, partition {unread[0].partition}, offset {unread[0].offset}, for the consumer"
    if story.outbox is not None and story.outbox.waiting and not story.outbox.relayed:
        return "accepted; waits in the outbox for the relay"
    if "kafka" in story.away:
        return "accepted, and not in MySQL; Kafka cannot be asked whether it is on its way"
    if any(one.consumed is None for one in story.kafka):
        return "accepted, and in Kafka; MySQL does not have it yet"
    if story.redis is not None and story.redis.state == "released":
        return "given back in Redis, and MySQL has nothing of it; `./flashgate reconcile` tells more"
    return "accepted, and neither on its way nor in MySQL; `./flashgate reconcile` tells what can be done"


def _of_row(story: Story, row: RowFacts) -> str:
    """Say where an order stands by its row, and what it waits for."""
    status = row.status
    payment = story.payments[-1] if story.payments else None
    if status == OrderStatus.CONFIRMED:
        return _of_confirmed(story, row, payment)
    if status == OrderStatus.PAID:
        return "paid; its units are sold, and it waits for approval"
    if status == OrderStatus.APPROVED:
        if any(one.kind == "cancel" and one.done_at_ms is None for one in story.parcels):
            return f"approved, and rejected since; the warehouse has to keep its parcel{_in_the_way(story)}"
        return f"approved; it waits for shipping{_in_the_way(story)}"
    if status == OrderStatus.SHIPPED:
        if any(one.kind == "return" and one.done_at_ms is None for one in story.parcels):
            return f"shipped, and it came back; the warehouse has to take it in{_in_the_way(story)}"
        return "shipped; nothing more is to come"
    return _of_given_up(story, row)


def _of_given_up(story: Story, row: RowFacts) -> str:
    """Say what an order that holds nothing still waits for."""
    text = f"{row.status}{_because(story, row)}"
    owed = [one for one in story.returns if one.done_at_ms is None]
    if owed:
        text += f"; a release is owed to Redis since {iso(owed[0].created_at_ms)}"
        text += f" (tried {owed[0].attempts} times: {owed[0].error})" if owed[0].attempts else ""
    elif story.returns:
        text += f"; its units went back to the campaign {iso(max(one.done_at_ms or 0 for one in story.returns))}"
    due = [one for one in story.payments if one.status in {PaymentStatus.REACQUIRING, PaymentStatus.REFUND_DUE}]
    if due:
        one, since = due[0], iso(due[0].updated_at_ms)
        wants = "units are being looked for" if one.status == PaymentStatus.REACQUIRING else "its refund is due"
        charged = f"; payment {one.payment_id} was charged, and {wants} since {since}"
        tried = f" (tried {one.attempts} times: {one.error})" if one.attempts else ""
        text += f"; its {one.points:,} points have to go back since {since}{tried}" if one.points else charged
    if story.saga is not None and story.saga.ended_at_ms is None:
        text += f"; {_saga_stands(story.saga)}"
    return text


def _saga_stands(saga: SagaFacts) -> str:
    """Say where a saga stands."""
    if saga.ended_at_ms is not None:
        return "its saga has ended"
    step = next_step(saga) or "its confirmation"
    if saga.parked_at_ms is not None:
        return (
            f"its saga is parked before {step} ({saga.error}); `./flashgate saga show {saga.saga_id}` tells what to do"
        )
    return f"its saga goes on by itself with {step}"


def _award(story: Story) -> str:
    """Say where the points are that a prize is worth, if it is worth any and they could be asked for."""
    if story.draw is None or not story.draw.points or "points" in story.away:
        return ""
    there = any(one.kind == LedgerKind.AWARD for one in story.points)
    points = f"{story.draw.points:,} points"
    return f"; its {points} are in the account" if there else f"; its {points} are not in the account yet"


def _in_the_way(story: Story) -> str:
    """Return why the warehouse has not done its part, if it has tried."""
    errors = [one.error for one in story.parcels if one.done_at_ms is None and one.error]
    return f" (the warehouse refused: {errors[-1]})" if errors else ""


def _of_confirmed(story: Story, row: RowFacts, payment: PaymentFacts | None) -> str:
    if story.saga is not None:
        return f"confirmed: a redemption; {_saga_stands(story.saga)}"
    if is_prize(row.unit_price_cents, row.pay_by_ms):
        return f"confirmed: a prize, for which nothing is to be paid{_award(story)}"
    if row.pay_by_ms is None:
        text = "confirmed; waits for payment, for ever"
    elif story.now_ms < row.pay_by_ms:
        text = f"confirmed; waits for payment until {iso(row.pay_by_ms)}, and expires then"
    else:
        text = f"confirmed; its time to pay ended {iso(row.pay_by_ms)}, and `./flashgate lifecycle` has to expire it"
    if payment is not None and payment.status in ACTIVE:
        text += f"; payment {payment.payment_id} is {payment.status}"
    return text


def _because(story: Story, row: RowFacts) -> str:
    """Return the reason of the last change, if it is known."""
    reasons = [one.reason for one in story.changes if one.version == row.version and one.reason]
    return f" ({reasons[0]})" if reasons else ""


def _contradiction(story: Story) -> str:
    """Return what Redis and MySQL say against each other about the hold, if both were asked and nothing is owed."""
    row, redis = story.mysql, story.redis
    moving = any(one.done_at_ms is None for one in story.returns) or any(
        one.status == PaymentStatus.REACQUIRING for one in story.payments
    )
    if row is None or "redis" in story.away or moving or (redis is not None and not redis.gate_open):
        return ""
    holds = row.status in HOLDING
    if redis is None:
        return "; Redis does not know it, `./flashgate reconcile` tells more" if holds else ""
    if holds != (redis.state != "released") or (holds and redis.hold_no != row.hold_no):
        return f"; Redis says that hold {redis.hold_no} is {redis.state}, `./flashgate reconcile` tells more"
    return ""
