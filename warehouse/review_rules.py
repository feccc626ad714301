"""What may be decided about a paid order on its way out, and what to say if it may not. Decided without I/O."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from domain.order import split_order_id
from domain.order_state import OrderStatus, ReviewStatus

ORDERS_MAX: Final = 100
"""Orders that one decision may be about."""
LIST_MAX: Final = 1_000
"""Reviews in one answer."""
WHO_CHARS_MAX: Final = 64
WHY_CHARS_MAX: Final = 255
REASON_CHARS_MAX: Final = 64
"""Room in `order_change`."""
REFUSALS_TOLD_MAX: Final = 5

_PLACE: Final = re.compile(r"([0-9]{1,16})-(\S{1,80})")
_NOT_WRITTEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Categories of characters that steer a terminal or end a line instead of being seen."""


class Deed(StrEnum):
    """What can be decided."""

    APPROVE = "approve"
    """It may go out."""
    REJECT = "reject"
    """It does not go out, and if it was approved its parcel has not left yet: units and money go back."""
    RETURN = "return"
    """The parcel came back: units and money go back."""


WHY: Final = {Deed.APPROVE: "approved", Deed.REJECT: "rejected", Deed.RETURN: "came back"}
"""What is noted where nobody says why."""


class Standing(NamedTuple):
    """Where an order and its review stand."""

    order_id: str
    order: OrderStatus | None = None
    """None: there is no such order."""
    review: ReviewStatus | None = None
    """None: it was never paid."""
    who: str = ""
    """Who decided last."""
    kept: bool = False
    """Whether the warehouse keeps its parcel in the house, which has not left."""


class Place(NamedTuple):
    """A place in the list of reviews, which is in the order of these."""

    opened_at_ms: int
    order_id: str


def refusal(deed: Deed, standing: Standing) -> str:
    """Say why something may not be decided about an order; empty if it may be."""
    order_id, order, review, who, kept = standing
    if order is None:
        return f"there is no order {order_id}"
    if review is None:
        if order is OrderStatus.PAID:
            return f"order {order_id} is paid and has no review"
        return f"order {order_id} is {order}: only what is paid goes through outbound review"
    if (review, order) in _NEEDED[deed] and (kept or review is not ReviewStatus.APPROVED):
        return ""
    return f"order {order_id} {_stands(deed, review, who)}"


_NEEDED: Final = {
    Deed.APPROVE: {(ReviewStatus.WAITING, OrderStatus.PAID)},
    Deed.REJECT: {(ReviewStatus.WAITING, OrderStatus.PAID), (ReviewStatus.APPROVED, OrderStatus.APPROVED)},
    Deed.RETURN: {(ReviewStatus.SHIPPED, OrderStatus.SHIPPED)},
}


def _stands(deed: Deed, review: ReviewStatus, who: str) -> str:
    again = "already " if (deed, review) in _AGAIN else ""
    match review:
        case ReviewStatus.WAITING:
            said = "has not been shipped: it waits for approval"
        case ReviewStatus.APPROVED if deed is Deed.REJECT:
            said = f"was approved by {who}, and its parcel has left the house, or is leaving it now{_ONCE_BACK}"
        case ReviewStatus.APPROVED:
            said = f"was {again}approved by {who}, and waits for the warehouse to ship it{_HINTS.get(deed, '')}"
        case ReviewStatus.REJECTING:
            said = f"is {again}being rejected by {who}, and its parcel is to stay in the house"
        case ReviewStatus.SHIPPED:
            said = f"was {again}approved by {who} and shipped{_ONCE_BACK if deed is Deed.REJECT else ''}"
        case ReviewStatus.REJECTED:
            said = f"was {again}rejected by {who}"
        case ReviewStatus.RETURNING:
            said = f"is {again}being taken back into the warehouse, as {who} said"
        case ReviewStatus.RETURNED:
            said = f"has {again}come back, as {who} said"
    return said


_ONCE_BACK: Final = "; once its parcel has come back: ./flashgate outbound return"
_HINTS: Final = {Deed.RETURN: "; if it is not to go out: ./flashgate outbound reject"}
_AGAIN: Final = frozenset(
    {
        (Deed.APPROVE, ReviewStatus.APPROVED),
        (Deed.APPROVE, ReviewStatus.SHIPPED),
        (Deed.REJECT, ReviewStatus.REJECTING),
        (Deed.REJECT, ReviewStatus.REJECTED),
        (Deed.RETURN, ReviewStatus.RETURNING),
        (Deed.RETURN, ReviewStatus.RETURNED),
    }
)


def refusals(deed: Deed, standings: Iterable[Standing]) -> list[str]:
    """Return why something may not be decided about several orders; empty if it may be about all of them."""
    return [why for one in standings if (why := refusal(deed, one))]


def told(refused: Sequence[str]) -> str:
    """Put refusals into one text, the first few of them."""
    more = len(refused) - REFUSALS_TOLD_MAX
    return "; ".join(refused[:REFUSALS_TOLD_MAX]) + (f"; and {more} more" if more > 0 else "")


def wrong_words(who: str, why: str) -> str:
    """Say what is wrong with who decided and why; empty if nothing is."""
    if not who:
        return "who: somebody has to decide"
    for name, text, chars_max in (("who", who, WHO_CHARS_MAX), ("why", why, WHY_CHARS_MAX)):
        if len(text) > chars_max:
            return f"{name}: at most {chars_max} characters"
        if text != text.strip():
            return f"{name}: no blanks at its ends"
        if any(unicodedata.category(one) in _NOT_WRITTEN for one in text):
            return f"{name}: no control characters"
    return ""


def change_reason(what: str, who: str, why: str) -> str:
    """Return what an order's change says of a decision, at most 64 characters of ASCII; all is in the review."""
    said = f"{what} by {who}" if who.isascii() else what
    said = f"{said}: {why}" if why and why.isascii() else said
    return said if len(said) <= REASON_CHARS_MAX else f"{said[: REASON_CHARS_MAX - 3].rstrip()}..."


def place_text(place: Place) -> str:
    """Return a place as it is told and asked for."""
    return f"{place.opened_at_ms}-{place.order_id}"


def parse_place(text: str) -> Place | None:
    """Return the place that a text tells, None if it is none."""
    parts = _PLACE.fullmatch(text)
    if parts is None or split_order_id(parts[2]) is None:
        return None
    return Place(int(parts[1]), parts[2])
