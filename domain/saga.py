"""The saga of a redemption: its directions and steps, and what comes next. Pure."""

from enum import StrEnum
from typing import Final, NamedTuple

from domain.backoff import pause_s

REASON_CHARS_MAX: Final = 64
"""Of what a saga, and the change of its order, say of why it was refused."""
_MS_PER_S: Final = 1_000


class SagaStatus(StrEnum):
    """Which way a saga goes. Moved by compare-and-set on its row, before anything is done in the new direction."""

    RUNNING = "running"
    """Its steps are being done; any of them may still turn it back."""
    CONFIRMED = "confirmed"
    """All that could refuse has agreed: it can only be finished."""
    COMPENSATING = "compensating"
    """It is refused: what was done is taken back."""


class SagaStep(StrEnum):
    """A step or a compensation; with the saga's id the key of the guard that is committed with its effect."""

    DEDUCT_POINTS = "deduct_points"
    CREATE_ORDER = "create_order"
    CREATE_PAYMENT = "create_payment"
    CONFIRM_ORDER = "confirm_order"
    VOID_PAYMENT = "void_payment"
    REJECT_ORDER = "reject_order"
    REFUND_POINTS = "refund_points"


FORWARD: Final = (SagaStep.DEDUCT_POINTS, SagaStep.CREATE_ORDER, SagaStep.CREATE_PAYMENT)
"""While it runs; after the last of them it is confirmed."""
FINISH: Final = (SagaStep.CONFIRM_ORDER,)
"""Once it is confirmed."""
BACK: Final = (SagaStep.VOID_PAYMENT, SagaStep.REJECT_ORDER, SagaStep.REFUND_POINTS)
"""While it is compensating. Each first leaves a tombstone in the place of the step that it takes back."""

_STEPS: Final = {SagaStatus.RUNNING: FORWARD, SagaStatus.CONFIRMED: FINISH, SagaStatus.COMPENSATING: BACK}


class StepOutcome(StrEnum):
    """What a step's guard says came of it. The first that is written stays."""

    DONE = "done"
    """It has had its effect."""
    NOTHING = "nothing"
    """Of a compensation: the step had not been done, and from now on never will be."""
    VOID = "void"
    """A tombstone: the step was taken back before it was done."""
    SHORT = "short"
    """The account has fewer points than it costs."""
    NO_ACCOUNT = "no_account"
    """The user has no account of points."""
    OTHER_ORDER = "other_order"
    """There is an order under this id that no saga has written."""


REFUSED_BY_DATA: Final = "order refused"
"""Why a saga turns back that MySQL has refused a row of."""
TAKEN_BACK: Final = "taken back"
"""Why a saga turns back that finds a tombstone in the place of its next step."""
_REASONS: Final = {
    StepOutcome.SHORT: "points short",
    StepOutcome.NO_ACCOUNT: "no points account",
    StepOutcome.OTHER_ORDER: REFUSED_BY_DATA,
    StepOutcome.VOID: TAKEN_BACK,
}


class Do(NamedTuple):
    """A step is to be done."""

    step: SagaStep


class Turn(NamedTuple):
    """The direction is to be decided."""

    to: SagaStatus
    reason: str
    """Empty where it goes well."""


class End(NamedTuple):
    """Nothing is left to be done: it has ended whole, or compensated."""


Next = Do | Turn | End


def next_of(status: SagaStatus, last: SagaStep | None) -> Next:
    """Say what comes next in a saga.

    Args:
        status: its direction.
        last: the last step that was noted as done, in whatever direction; None: there is none.
    """
    steps = _STEPS[status]
    place = steps.index(last) + 1 if last in steps else 0
    if place < len(steps):
        return Do(steps[place])
    return Turn(SagaStatus.CONFIRMED, "") if status is SagaStatus.RUNNING else End()


def refusal_of(step: SagaStep, outcome: StepOutcome) -> Turn | None:
    """Return where a saga turns because of what came of its step; None: it goes on as it went."""
    if step not in FORWARD or outcome is StepOutcome.DONE:
        return None
    return Turn(SagaStatus.COMPENSATING, _REASONS[outcome])


def may_refuse(step: SagaStep) -> bool:
    """Tell whether a saga turns back where MySQL refuses the data of a step; else it is tried again, and parked."""
    return step in FORWARD


class Later(NamedTuple):
    """A step has failed and is tried again."""

    attempts: int
    """That have failed, this one included."""
    next_at_ms: int


class Park(NamedTuple):
    """A step has failed so often that a person has to look."""

    attempts: int


def after_failure(
    attempts: int, *, now_ms: int, attempts_max: int, retry_initial_s: float, retry_max_s: float
) -> Later | Park:
    """Say what becomes of a saga whose step has failed by itself, while its server was there.

    Args:
        attempts: of this step that have failed before.
        now_ms: Unix milliseconds.
        attempts_max: so many, and it is parked.
        retry_initial_s: pause after the first; it doubles with each.
        retry_max_s: no pause is longer.
    """
    failed = attempts + 1
    if failed >= attempts_max:
        return Park(failed)
    return Later(failed, now_ms + round(_MS_PER_S * pause_s(attempts, retry_initial_s, retry_max_s)))
