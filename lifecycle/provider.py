"""What flashgate asks of a payment provider, whoever it is. No I/O here: `lifecycle.http_provider` does it.

A payment has an id of ours, which we choose before the provider hears of it. So whatever gets lost on the way can be
asked again, and asked for.
"""

from enum import StrEnum
from typing import Annotated, Final, NamedTuple, Protocol

import msgspec

from domain.errors import FlashgateError

PAY_URL_CHARS_MAX: Final = 512
AMOUNT_CENTS_MAX: Final = 1_000_000_000_000_000

# In Python `$` also matches before a newline at the end.
PaymentId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,40}$(?!\n)")]
AmountCents = Annotated[int, msgspec.Meta(ge=0, le=AMOUNT_CENTS_MAX)]


class ProviderState(StrEnum):
    """What the provider says of a payment."""

    ABSENT = "absent"
    """It does not know it: it was never created there, and nobody was charged."""
    PENDING = "pending"
    """It waits for the buyer."""
    APPROVED = "approved"
    """The buyer was charged."""
    DECLINED = "declined"
    """The buyer was not charged and cannot be any more; another payment is needed."""
    REFUNDED = "refunded"
    """The buyer was charged and has the money back."""


class Created(NamedTuple):
    """A payment at the provider.

    Attributes:
        state: anything but ABSENT; the provider may have charged the buyer at once.
        pay_url: where the buyer pays; http or https, 1 to 512 characters.
    """

    state: ProviderState
    pay_url: str


class ProviderRefusedError(FlashgateError):
    """The provider refused the call for good and says why; it had no effect."""


class PaymentProvider(Protocol):
    """A payment provider. Every call may be repeated, and has the same effect as one.

    Every call raises:
        BackendError: it certainly had no effect and may work later: the connection was refused, too many calls are
            under way, or the provider does not accept calls of ours now (wrong key, too many requests).
        OutcomeUnknownError: it may or may not have had an effect: timed out, the connection was lost after the
            request was sent, a 5xx, or an answer that makes no sense (not JSON, another payment, another amount, an
            unknown state, too long). `find` tells, when it works again.
        ProviderRefusedError: see there.
    """

    async def create(self, payment_id: str, order_id: str, amount_cents: int) -> Created:
        """Create a payment; the same id again answers the state of the one that there is."""

    async def find(self, payment_id: str, order_id: str, amount_cents: int) -> ProviderState:
        """Return where a payment of this order and amount stands, ABSENT if the provider does not know it."""

    async def refund(self, payment_id: str, amount_cents: int) -> ProviderState:
        """Give the money of an approved payment back, all of it.

        Returns:
            REFUNDED when it is done, else APPROVED: the provider has taken it in; ask again.
        """

    async def close(self) -> None:
        """Give connections back. Calls that are under way fail."""
