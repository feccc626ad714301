"""The HTTP calls to a payment provider, as bytes: what the adapter sends and the sandbox answers.

| call | body | answer |
| --- | --- | --- |
| `POST /payments` | `CreateBody` | 201, or 200 if it was there: `PaymentSaid` |
| `GET /payments/{id}` | | 200 `PaymentSaid`, or 404 `RefusalSaid` with code NOT_FOUND |
| `POST /payments/{id}/refunds` | `RefundBody` | 200 `PaymentSaid` |

Whatever is refused is answered 4xx with `RefusalSaid`. Each call is signed as callbacks are (`lifecycle.callback`).
"""

from typing import Annotated, Final

import msgspec

from lifecycle.provider import PAY_URL_CHARS_MAX, AmountCents, PaymentId, ProviderState

BODY_BYTES_MAX: Final = 16_384

CODE_NOT_FOUND: Final = "NOT_FOUND"
CODE_CONFLICT: Final = "CONFLICT"

OrderId = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,128}$(?!\n)")]
PayUrl = Annotated[str, msgspec.Meta(max_length=PAY_URL_CHARS_MAX, pattern=r"^https?://[\x21-\x7e]+$(?!\n)")]


class CreateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /payments`."""

    payment_id: PaymentId
    order_id: OrderId
    amount_cents: AmountCents


class RefundBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /payments/{id}/refunds`; it names the payment too, for the path is not signed."""

    payment_id: PaymentId
    amount_cents: AmountCents


class PaymentSaid(msgspec.Struct, frozen=True):
    """A payment as the provider tells of it."""

    payment_id: PaymentId
    order_id: OrderId
    amount_cents: AmountCents
    state: ProviderState
    pay_url: PayUrl

    def __post_init__(self) -> None:
        """Refuse a payment that is said not to be there."""
        if self.state is ProviderState.ABSENT:
            raise ValueError("a payment that is there is not absent")


class RefusalSaid(msgspec.Struct, frozen=True):
    """Why a call is refused."""

    code: Annotated[str, msgspec.Meta(pattern=r"^[A-Z][A-Z_]{0,31}$(?!\n)")]
    message: Annotated[str, msgspec.Meta(max_length=500)]


def what_is_signed(method: str, target: str, body: bytes) -> bytes:
    """Return what a call's signature is over: its body, or its path and query if it has none."""
    return target.encode("ascii", "replace") if method in {"GET", "DELETE"} else body
