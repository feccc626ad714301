"""How the sandbox provider behaves: what it can be told, and what follows from it. Pure."""

from enum import Enum, StrEnum, auto
from typing import Annotated, Final, NamedTuple

import msgspec

from lifecycle.provider import AmountCents, PaymentId, ProviderState
from lifecycle.provider_wire import OrderId

DELAY_S: Final = 5.0
"""Of mode `delay`, unless another one is given."""
DELAY_MAX_S: Final = 3_600.0
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 5.0
ATTEMPTS_MAX: Final = 500
"""Attempts to deliver one callback: about 40 minutes."""

Delay = Annotated[float, msgspec.Meta(ge=0, le=DELAY_MAX_S)]


class Mode(StrEnum):
    """What becomes of a payment."""

    ASK = "ask"
    """It waits for the buyer, who pays or declines at its pay_url."""
    APPROVE = "approve"
    """It is charged when it is created."""
    DECLINE = "decline"
    """It is declined when it is created."""
    DELAY = "delay"
    """Charged when it is created; the callback comes late."""
    DUPLICATE = "duplicate"
    """Charged when it is created; the callback comes three times: twice at once, and again after that."""
    REORDER = "reorder"
    """Charged at the second try; the callback about the first, declined try comes after the one about the second."""
    CHARGE_THEN_TIMEOUT = "charge_then_timeout"
    """Charged when it is created, but the call that creates it is never answered; a callback only if asked for."""
    TIMEOUT = "timeout"
    """The call that creates it is never answered, and has no effect."""
    NONSENSE = "nonsense"
    """As `ask`, but the call that creates it is answered with something that is no answer."""
    SILENT = "silent"
    """Charged when it is created, and no callback ever says so."""


class Manner(Enum):
    """How the call that creates a payment is answered."""

    HONESTLY = auto()
    NONSENSE = auto()
    NEVER = auto()


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What was told.

    Attributes:
        mode: see there.
        delay_s: how late each callback comes; 0 in mode `delay` stands for 5.
        callback: for mode `charge_then_timeout`: whether there is a callback.
    """

    mode: Mode = Mode.ASK
    delay_s: Delay = 0.0
    callback: bool = False


class Told(Behaviour, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `PUT /behaviour`: for one payment, one order's payments, or all new ones."""

    payment_id: PaymentId | None = None
    order_id: OrderId | None = None

    def __post_init__(self) -> None:
        """Refuse what is about two things."""
        if self.payment_id is not None and self.order_id is not None:
            raise ValueError("payment_id or order_id, not both")

    @property
    def behaviour(self) -> Behaviour:
        """What was told, without whom it is about."""
        return Behaviour(mode=self.mode, delay_s=self.delay_s, callback=self.callback)


class Payment(msgspec.Struct, frozen=True):
    """A payment as the provider keeps it."""

    payment_id: PaymentId
    order_id: OrderId
    amount_cents: AmountCents
    state: ProviderState
    behaviour: Behaviour


class Planned(NamedTuple):
    """A callback to be delivered.

    Attributes:
        event: callbacks with the same number are the same event.
        state: what it says.
        delay_s: how late it comes at the earliest.
        after: the place in the plan of the one that must have been delivered before.
    """

    event: int
    state: ProviderState
    delay_s: float
    after: int | None = None


_PENDING: Final = frozenset({Mode.ASK, Mode.NONSENSE, Mode.TIMEOUT})


def state_when_created(behaviour: Behaviour) -> ProviderState:
    """Return what a payment is when it has just been created."""
    if behaviour.mode in _PENDING:
        return ProviderState.PENDING
    return ProviderState.DECLINED if behaviour.mode is Mode.DECLINE else ProviderState.APPROVED


def manner_of(behaviour: Behaviour) -> Manner:
    """Return how the call that creates a payment is answered, first and when it is repeated."""
    match behaviour.mode:
        case Mode.TIMEOUT | Mode.CHARGE_THEN_TIMEOUT:
            return Manner.NEVER
        case Mode.NONSENSE:
            return Manner.NONSENSE
        case _:
            return Manner.HONESTLY


def plan_callbacks(behaviour: Behaviour, state: ProviderState) -> tuple[Planned, ...]:
    """Return the callbacks that say that a payment has come to a state."""
    mode, delay_s = behaviour.mode, behaviour.delay_s
    if mode is Mode.SILENT or (mode is Mode.CHARGE_THEN_TIMEOUT and not behaviour.callback):
        return ()
    if mode is Mode.DELAY:
        delay_s = delay_s or DELAY_S
    once = Planned(0, state, delay_s)
    if state is not ProviderState.APPROVED:
        return (once,)
    if mode is Mode.DUPLICATE:
        return (once, once, once._replace(after=0))
    if mode is Mode.REORDER:
        return (once, Planned(1, ProviderState.DECLINED, delay_s, after=0))
    return (once,)


def retry_after_s(attempts: int) -> float:
    """Return how long to wait after so many attempts (1 or more) to deliver a callback."""
    return float(min(RETRY_FIRST_S * 2 ** min(attempts - 1, 16), RETRY_MAX_S))


def is_final(status: int) -> bool:
    """Whether an answer to a callback ends its delivery: taken in, or refused for good."""
    return 200 <= status < 300 or (400 <= status < 500 and status not in {404, 429})
