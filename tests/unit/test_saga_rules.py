"""What comes next in a saga, when it is tried again, and what a batch of redemptions means."""

import msgspec
import pytest

from consumers.batch import Reason
from consumers.redemption_batch import Known, Redemption, judge, saga_rows, split_poison, split_unknown
from consumers.saga_driver import groups
from consumers.saga_rows import SagaRow
from domain.order import fingerprint, order_id
from domain.redemption_events import RedemptionAccepted, encode_redemption_accepted
from domain.saga import (
    BACK,
    FINISH,
    FORWARD,
    REASON_CHARS_MAX,
    Do,
    End,
    Later,
    Park,
    SagaStatus,
    SagaStep,
    StepOutcome,
    Turn,
    after_failure,
    may_refuse,
    next_of,
    refusal_of,
)
from tests.support.records import Plain


def event(number: int, *, origin: int = 0, quantity: int = 1) -> RedemptionAccepted:
    """Return redemption `number`."""
    return RedemptionAccepted(
        order_id=order_id("c-1", f"user-{number}", "key"),
        campaign_id="c-1",
        sku_id="box",
        user_id=f"user-{number}",
        quantity=quantity,
        points=300,
        fingerprint=fingerprint("box", quantity),
        hold_no=1,
        accepted_at_ms=1,
        outbox_id=f"{origin + 1}-0",
        outbox_index=0,
    )


def path(status: SagaStatus, last: SagaStep | None) -> list[SagaStep | Turn]:
    """Return what is done from a place on, until it ends, if all goes well."""
    found: list[SagaStep | Turn] = []
    while True:
        match next_of(status, last):
            case Do(step):
                found.append(step)
                last = step
            case Turn() as turn:
                found.append(turn)
                status = turn.to
            case End():
                return found


def test_a_saga_goes_its_way() -> None:
    """It deducts, creates and confirms; turned back at any place it takes back everything, whatever was done."""
    on = [*FORWARD, Turn(SagaStatus.CONFIRMED, ""), *FINISH]
    assert path(SagaStatus.RUNNING, None) == on
    for place, step in enumerate(FORWARD):
        assert path(SagaStatus.RUNNING, step) == on[place + 1 :]
    for last in (None, *FORWARD):
        assert path(SagaStatus.COMPENSATING, last) == list(BACK)
    for place, step in enumerate(BACK):
        assert path(SagaStatus.COMPENSATING, step) == list(BACK[place + 1 :])
    assert path(SagaStatus.CONFIRMED, SagaStep.CREATE_PAYMENT) == list(FINISH)


@pytest.mark.parametrize("step", list(SagaStep))
@pytest.mark.parametrize("outcome", list(StepOutcome))
def test_what_turns_a_saga_back(step: SagaStep, outcome: StepOutcome) -> None:
    """On its way there anything but `done` turns it back, with a reason that fits; afterwards nothing does."""
    turn = refusal_of(step, outcome) if step not in FORWARD or outcome is not StepOutcome.NOTHING else None
    assert (turn is not None) == (step in FORWARD and outcome not in {StepOutcome.DONE, StepOutcome.NOTHING})
    if turn is not None:
        assert turn.to is SagaStatus.COMPENSATING
        assert 1 <= len(turn.reason) <= REASON_CHARS_MAX
    assert may_refuse(step) == (step in FORWARD)


def test_pauses_grow_until_it_is_parked() -> None:
    """A step that fails is tried again after pauses that double up to a bound; the last failure parks its saga."""
    settings = {"attempts_max": 6, "retry_initial_s": 0.1, "retry_max_s": 0.5}
    after = [after_failure(attempts, now_ms=1_000, **settings) for attempts in range(6)]  # type: ignore[arg-type]
    assert after == [Later(1, 1_100), Later(2, 1_200), Later(3, 1_400), Later(4, 1_500), Later(5, 1_500), Park(6)]
    assert after_failure(9, now_ms=0, **settings) == Park(10)  # type: ignore[arg-type]


def test_sagas_at_one_place_go_together() -> None:
    """Sagas at the same place share their transactions; one that has failed goes alone, so that it fails no other."""
    of = SagaRow("", "c-1", "box", "u", 1, 300, "f", 1, 1, "1-0", 0, SagaStatus.RUNNING, None, 1, "", 0)
    deducted = of._replace(step=SagaStep.DEDUCT_POINTS)
    sagas = [of._replace(saga_id="d", attempts=1), of._replace(saga_id="c", attempts=1), of._replace(saga_id="b")]
    sagas += [deducted._replace(saga_id="e", status=SagaStatus.COMPENSATING), deducted._replace(saga_id="f")]
    sagas += [of._replace(saga_id="a")]
    assert [[one.saga_id for one in group] for group in groups(sagas)] == [["a", "b"], ["c"], ["d"], ["e"], ["f"]]


def test_what_a_batch_of_redemptions_means() -> None:
    """New, known, second, resumed and dead records are told apart, and each is counted once."""
    records = [
        Redemption(Plain(offset=place), one)
        for place, one in enumerate(
            [event(1), event(1), event(1, origin=1), event(2), event(3), event(3, origin=1), event(2, quantity=2)]
        )
    ]
    known = {
        records[3].event.order_id: Known(records[3].payload, records[3].origin, parked=True),
        records[4].event.order_id: Known(records[4].payload, records[4].origin, parked=True),
    }
    judged = judge(records, known)
    outcome = judged.outcome
    assert (outcome.new, outcome.duplicates) == (1, 3)
    assert [one.record.offset for one in outcome.second] == [2, 5]
    assert [(one.record.offset, one.reason) for one in outcome.dead] == [(6, Reason.OTHER_PAYLOAD)]
    assert judged.resumed == {records[3].event.order_id, records[4].event.order_id}
    assert [one.record.offset for one in saga_rows(records)] == [
        one.record.offset for one in sorted([*records[0::3][:2], records[4]], key=lambda one: one.event.order_id)
    ]


def test_redemptions_that_can_never_be_stored() -> None:
    """What is no redemption, and one of a SKU that MySQL does not know, is dead; all others are kept."""
    good = event(1)
    values = [None, b"{", b"[1]", encode_redemption_accepted(msgspec.structs.replace(good, campaign_id="c-2"))]
    records = [Plain(offset=place, value=value) for place, value in enumerate(values)]
    kept, dead = split_poison([*records, Plain(offset=9, value=encode_redemption_accepted(good))])
    assert ([one.event for one in kept], [one.reason for one in dead]) == ([good], [Reason.POISON] * 4)
    assert split_unknown(kept, {kept[0].counted}) == (kept, [])
    assert [one.reason for one in split_unknown(kept, ())[1]] == [Reason.UNKNOWN_SKU]
