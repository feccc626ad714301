"""The states of an order and of a payment, and which may follow which. The order's MySQL row owns its state."""

from enum import StrEnum
from typing import Final


class OrderStatus(StrEnum):
    """Where an order stands, as buyers are told."""

    ACCEPTED = "accepted"
    """Durable in Redis, not in MySQL yet: no row has this status."""
    CONFIRMED = "confirmed"
    """It has its row, and holds its units until `pay_by`."""
    PAID = "paid"
    """It waits for outbound review."""
    APPROVED = "approved"
    """It may go out; the warehouse has not been told yet."""
    SHIPPED = "shipped"
    CANCELLED = "cancelled"
    """By the buyer, before it was paid."""
    EXPIRED = "expired"
    """It was not paid in time."""
    REJECTED = "rejected"
    """By an operator, or its parcel has come back."""
    REFUNDED = "refunded"
    """Money that had come for an order without units went back."""


HOLDING: Final = frozenset({OrderStatus.CONFIRMED, OrderStatus.PAID, OrderStatus.APPROVED, OrderStatus.SHIPPED})
"""In these an order's row holds units; in the others the ledger has the release of its last hold."""

FOLLOWS: Final[dict[OrderStatus, frozenset[OrderStatus]]] = {
    OrderStatus.ACCEPTED: frozenset({OrderStatus.CONFIRMED, OrderStatus.REJECTED}),
    OrderStatus.CONFIRMED: frozenset(
        {OrderStatus.PAID, OrderStatus.CANCELLED, OrderStatus.EXPIRED, OrderStatus.REJECTED}
    ),
    OrderStatus.PAID: frozenset({OrderStatus.APPROVED, OrderStatus.REJECTED}),
    OrderStatus.APPROVED: frozenset({OrderStatus.SHIPPED, OrderStatus.REJECTED}),
    # A parcel may come back.
    OrderStatus.SHIPPED: frozenset({OrderStatus.REJECTED}),
    OrderStatus.CANCELLED: frozenset({OrderStatus.REFUNDED}),
    # A late payment gets the unit back, if one is left, or goes back itself.
    OrderStatus.EXPIRED: frozenset({OrderStatus.PAID, OrderStatus.REFUNDED}),
    OrderStatus.REJECTED: frozenset({OrderStatus.REFUNDED}),
    OrderStatus.REFUNDED: frozenset(),
}
"""State → states that may follow it."""

LAST: Final = frozenset({OrderStatus.SHIPPED, OrderStatus.REFUNDED})
"""Nothing more is to be expected of an order in these, so that nobody needs to wait for it."""


class PaymentStatus(StrEnum):
    """Where a payment stands. What is under way has a status of its own, so that it is found again after a crash."""

    CREATING = "creating"
    """Written before the provider was asked: the provider may or may not know of it."""
    UNKNOWN = "unknown"
    """The provider was asked, and its answer was lost or made no sense; it is asked again."""
    PENDING = "pending"
    """The provider waits for the buyer."""
    DECLINED = "declined"
    FAILED = "failed"
    """The provider refused to make it."""
    REACQUIRING = "reacquiring"
    """Charged after the order had expired: a unit is being looked for."""
    PAID = "paid"
    """Charged, and its order is paid by it."""
    REFUND_DUE = "refund_due"
    """Charged for nothing: the money has to go back."""
    REFUNDED = "refunded"
    HELD = "held"
    """Points were taken for it, and its redemption is not confirmed yet."""
    VOID = "void"
    """Its redemption was refused; the points go back by its saga."""


ACTIVE: Final = frozenset({PaymentStatus.CREATING, PaymentStatus.UNKNOWN, PaymentStatus.PENDING})
"""The buyer may still be charged by these; an order has one of them at most."""
CHARGED: Final = frozenset(
    {PaymentStatus.REACQUIRING, PaymentStatus.PAID, PaymentStatus.REFUND_DUE, PaymentStatus.REFUNDED}
)
"""The provider has confirmed the charge."""


class ReviewStatus(StrEnum):
    """Where the outbound review of a paid order stands."""

    WAITING = "waiting"
    APPROVED = "approved"
    """To be shipped: the warehouse's stock has not been taken yet."""
    REJECTING = "rejecting"
    """Approved, and then rejected: the warehouse has not been told yet that the parcel stays."""
    SHIPPED = "shipped"
    REJECTED = "rejected"
    RETURNING = "returning"
    """A parcel has come back, and the warehouse's stock has not been told yet."""
    RETURNED = "returned"
