"""What the three checks of a redemption come to: campaign, stock, points. Pure.

They are made before admission, at the same time, and each may be out of date a moment later: `admit_orders.lua` decides
on the first two again, and the saga on the points. So they only spare those two what is certain to fail.
"""

from enum import Enum, StrEnum, auto
from typing import Final, NamedTuple

from adapters.stock import CampaignGate, StockLine
from domain import outcomes
from domain.campaign import CampaignState
from domain.errors import PoisonRecordError
from domain.outcomes import PROBLEM_OF_OUTCOME, Outcome
from gateway.answers import BUSY_NOW, Answer, Decision, of_decision, problem


class Silence(Enum):
    """Stands for what a store has not said."""

    SILENT = auto()


SILENT: Final = Silence.SILENT


class Told(NamedTuple):
    """What the stores have said; None: there is no such thing."""

    gate: CampaignGate | Silence | None
    line: StockLine | PoisonRecordError | Silence | None
    balance: int | Silence | None


class Verdict(StrEnum):
    """What one check says of a redemption."""

    PASSED = "passed"
    UNANSWERED = "unanswered"
    NOT_STARTED = "not_started"
    ENDED = "ended"
    PAUSED = "paused"
    UNKNOWN_SKU = "unknown_sku"
    SOLD_OUT = "sold_out"
    POINTS_SHORT = "points_short"
    NO_ACCOUNT = "no_account"


class Verdicts(NamedTuple):
    """What the three say."""

    campaign: Verdict
    stock: Verdict
    points: Verdict


def judge(told: Told, quantity: int) -> Verdicts:
    """Return what the three checks say."""
    return Verdicts(_campaign(told.gate), _stock(told.line, quantity), _points(told, quantity))


def _campaign(gate: CampaignGate | Silence | None) -> Verdict:
    # One that this worker has in view and Redis has not is one that Redis has lost: recovery brings it back.
    if gate is SILENT or gate is None:
        return Verdict.UNANSWERED
    if gate.state == CampaignState.CLOSED or gate.now_ms >= gate.closes_ms:
        return Verdict.ENDED
    if gate.state == CampaignState.LOADED or gate.now_ms < gate.opens_ms:
        return Verdict.NOT_STARTED
    return Verdict.PAUSED if gate.state == CampaignState.PAUSED else Verdict.PASSED


def _stock(line: StockLine | PoisonRecordError | Silence | None, quantity: int) -> Verdict:
    if line is None:
        return Verdict.UNKNOWN_SKU
    if not isinstance(line, StockLine):
        return Verdict.UNANSWERED
    return Verdict.SOLD_OUT if line.remaining < quantity else Verdict.PASSED


def _points(told: Told, quantity: int) -> Verdict:
    if told.balance is SILENT:
        return Verdict.UNANSWERED
    if told.balance is None:
        return Verdict.NO_ACCOUNT
    return Verdict.POINTS_SHORT if told.balance < points_needed(told, quantity) else Verdict.PASSED


def points_needed(told: Told, quantity: int) -> int:
    """Return what a redemption costs now; 0 as long as nobody has said what a unit costs."""
    return told.line.price_cents * quantity if isinstance(told.line, StockLine) else 0


class Refusal(NamedTuple):
    """Why a redemption is not passed on, unless it was accepted before."""

    code: str
    answer: Answer


_OUTCOMES: Final = {
    Verdict.NOT_STARTED: Outcome.NOT_STARTED,
    Verdict.ENDED: Outcome.ENDED,
    Verdict.PAUSED: Outcome.PAUSED,
    Verdict.UNKNOWN_SKU: Outcome.UNKNOWN_SKU,
    Verdict.SOLD_OUT: Outcome.SOLD_OUT,
}
_REFUSALS: Final = {
    verdict: Refusal(outcome.name, of_decision(Decision(PROBLEM_OF_OUTCOME[outcome]), ""))
    for verdict, outcome in _OUTCOMES.items()
}
NOT_CHECKED: Final = Refusal(outcomes.BUSY.code, BUSY_NOW)
"""A store was silent: nothing was taken, and nothing is known against it."""


def refuse(verdicts: Verdicts, told: Told, quantity: int) -> Refusal | None:
    """Return why a redemption is refused; None: it is passed on."""
    refused = _REFUSALS.get(verdicts.campaign) or _REFUSALS.get(verdicts.stock)
    if refused is not None:
        return refused
    if Verdict.UNANSWERED in verdicts:
        return NOT_CHECKED
    if verdicts.points is Verdict.PASSED:
        return None
    needed = points_needed(told, quantity)
    if verdicts.points is Verdict.NO_ACCOUNT:
        detail = f"this costs {needed} points, and you have no points account yet"
    else:
        detail = f"this costs {needed} points, and you have {told.balance}"
    return Refusal(outcomes.POINTS_SHORT.code, problem(outcomes.POINTS_SHORT, detail))
