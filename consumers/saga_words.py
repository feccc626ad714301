"""A saga put into words: what was done, what is missing, and what a person may do. Decided without I/O."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from consumers.dead_letter_rules import iso
from consumers.saga_facts import IN_ORDERS, IN_POINTS, SagaFacts, SagaStory, StepFacts
from domain.saga import BACK, FINISH, FORWARD, Do, SagaStatus, SagaStep, StepOutcome, next_of

LATE_MS: Final = 60_000
"""A saga that has been due for so long is taken up by nobody."""

_SCHEMA: Final = {SagaStep.DEDUCT_POINTS: IN_POINTS, SagaStep.REFUND_POINTS: IN_POINTS}
"""Where the guard of a step is, if not in fg_orders."""
_OUTCOMES: Final[Mapping[str, str]] = {
    StepOutcome.DONE: "done",
    StepOutcome.NOTHING: "nothing to take back",
    StepOutcome.VOID: "taken back before it was done",
    StepOutcome.SHORT: "refused: the account has fewer points",
    StepOutcome.NO_ACCOUNT: "refused: the user has no account of points",
    StepOutcome.OTHER_ORDER: "refused: there is an order under this id that no saga has written",
}
NOT_YET: Final = "not yet"
NOT_DONE: Final = "not done"
GUARD_GONE: Final = "NOTED AS DONE, AND ITS GUARD IS GONE"
AWAY: Final = "fg_points cannot be asked"


def status_of(saga: SagaFacts) -> SagaStatus:
    """Return a saga's direction."""
    return SagaStatus(saga.status)


def next_step(saga: SagaFacts) -> SagaStep | None:
    """Return the step that comes next; None: the direction is decided next, or nothing is left."""
    following = next_of(status_of(saga), SagaStep(saga.step) if saga.step else None)
    return following.step if isinstance(following, Do) else None


def plan_of(saga: SagaFacts) -> tuple[SagaStep, ...]:
    """Return all steps that a saga has done or may still do, in their order."""
    match status_of(saga):
        case SagaStatus.COMPENSATING:
            return (*FORWARD, *BACK)
        case SagaStatus.CONFIRMED:
            return (*FORWARD, *FINISH)
        case SagaStatus.RUNNING:
            return FORWARD


def step_lines(story: SagaStory) -> Iterator[tuple[str, str, str, int | None]]:
    """Yield each step: its name, its schema, what came of it, and when (None: no guard says)."""
    saga = story.saga
    guards = {(one.schema, one.step): one for one in story.steps}
    plan = plan_of(saga)
    noted = plan.index(SagaStep(saga.step)) + 1 if saga.step in plan else 0
    for number, step in enumerate(plan):
        schema = _SCHEMA.get(step, IN_ORDERS)
        guard = guards.get((schema, step))
        text = _no_guard(story, step, schema, noted=number < noted) if guard is None else outcome_text(guard)
        yield step, schema, text, None if guard is None else guard.at_ms


def outcome_text(guard: StepFacts) -> str:
    """Return what came of a step."""
    return _OUTCOMES.get(guard.outcome, guard.outcome)


def _no_guard(story: SagaStory, step: SagaStep, schema: str, *, noted: bool) -> str:
    if schema == IN_POINTS and story.points_away:
        return AWAY
    turned = status_of(story.saga) is SagaStatus.COMPENSATING
    if step in FORWARD and turned:
        return NOT_DONE
    return GUARD_GONE if noted else NOT_YET


def why_not_retried(saga: SagaFacts) -> str:
    """Return why a saga is not taken up anew by a person; empty: it is."""
    if saga.ended_at_ms is not None:
        return f"it has ended {iso(saga.ended_at_ms)} ({_end(saga)}); nothing is left to be done"
    if saga.parked_at_ms is None:
        return f"it is not parked; {_by_itself(saga)}"
    return ""


def why_not_compensated(saga: SagaFacts) -> str:
    """Return why a saga cannot be turned back by a person; empty: it can."""
    status = status_of(saga)
    if status is SagaStatus.CONFIRMED:
        return (
            "it is confirmed, so it can only be finished; once its order is paid, "
            f"`./flashgate outbound reject {saga.saga_id}` gives the goods and the points back"
        )
    if saga.ended_at_ms is not None:
        return f"it has ended {iso(saga.ended_at_ms)} ({_end(saga)})"
    if status is SagaStatus.COMPENSATING:
        stuck = "" if saga.parked_at_ms is None else f"; it is parked: `./flashgate saga retry {saga.saga_id}`"
        return f"it is compensating already ({saga.reason}){stuck}"
    return ""


def standing(saga: SagaFacts) -> str:
    """Return where a saga stands, in a few words for a list."""
    if saga.ended_at_ms is not None:
        return _end(saga)
    if saga.parked_at_ms is not None:
        return f"parked before {_next_name(saga)}"
    return f"next: {_next_name(saga)}"


def next_text(story: SagaStory) -> str:
    """Return what comes next, and what a person may do, in one sentence or two."""
    saga = story.saga
    if any(text == GUARD_GONE for _, _, text, _ in step_lines(story)):
        return (
            "a step was noted as done and its guard is gone: was an older copy of a schema restored? "
            "`./flashgate reconcile` tells what differs"
        )
    if saga.ended_at_ms is not None:
        return f"nothing: {_end(saga)}" + _owed(story)
    if saga.parked_at_ms is None:
        text = _by_itself(saga)
        if saga.next_at_ms is not None and saga.next_at_ms + LATE_MS < story.now_ms:
            text += f"; it has been due since {iso(saga.next_at_ms)}: is `./flashgate consume redemptions` running?"
        return text
    text = f"parked {iso(saga.parked_at_ms)} before {_next_name(saga)}: {saga.error or 'no reason is known'}"
    text += f". Once that is mended: `./flashgate saga retry {saga.saga_id}`"
    if not why_not_compensated(saga):
        text += f"; or give it up: `./flashgate saga compensate {saga.saga_id} --why TEXT`"
    return text


def as_json(story: SagaStory) -> dict[str, Any]:
    """Return what `saga show --json` prints."""
    plan = [
        {"step": step, "schema": schema, "text": text, "at_ms": at_ms}
        for step, schema, text, at_ms in step_lines(story)
    ]
    return {**msgspec.to_builtins(story), "plan": plan, "next": next_text(story)}


def _next_name(saga: SagaFacts) -> str:
    step = next_step(saga)
    return "its confirmation" if step is None else str(step)


def _by_itself(saga: SagaFacts) -> str:
    tried = f", which has failed {saga.attempts} times: {saga.error}" if saga.attempts else ""
    return f"goes on by itself with {_next_name(saga)}{tried}"


def _end(saga: SagaFacts) -> str:
    if status_of(saga) is SagaStatus.COMPENSATING:
        return f"compensated: {saga.reason}" if saga.reason else "compensated"
    return "ended well"


def _owed(story: SagaStory) -> str:
    due = [one for one in story.payments if one.status == "refund_due"]
    text = f"; its order is {story.order_status}" if story.order_status else "; its order is gone"
    if due:
        tried = f" (tried {due[0].attempts} times: {due[0].error})" if due[0].attempts else ""
        text += f"; `./flashgate lifecycle` has to give {due[0].points} points back{tried}"
    return text + ("; `./flashgate lifecycle` has to give its units back to Redis" if story.stock_owed else "")
