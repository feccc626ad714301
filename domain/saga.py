"""The saga of a redemption: its directions and steps. Pure."""

from enum import StrEnum
from typing import Final


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
