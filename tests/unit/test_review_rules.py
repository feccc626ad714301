"""What may be decided about an order on its way out, and what is said if it may not."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.order_state import FOLLOWS, OrderStatus, ReviewStatus
from gateway.ops_outbound import ListQuery, read_query
from warehouse.review_rules import (
    LIST_MAX,
    REASON_CHARS_MAX,
    REFUSALS_TOLD_MAX,
    WHO_CHARS_MAX,
    WHY,
    WHY_CHARS_MAX,
    Deed,
    Place,
    Standing,
    change_reason,
    parse_place,
    place_text,
    refusal,
    refusals,
    told,
    wrong_words,
)

ORDER = "c-1~" + "a" * 32
MAY = {
    (Deed.APPROVE, OrderStatus.PAID, ReviewStatus.WAITING): OrderStatus.APPROVED,
    (Deed.REJECT, OrderStatus.PAID, ReviewStatus.WAITING): OrderStatus.REJECTED,
    (Deed.REJECT, OrderStatus.APPROVED, ReviewStatus.APPROVED): OrderStatus.REJECTED,
    (Deed.RETURN, OrderStatus.SHIPPED, ReviewStatus.SHIPPED): OrderStatus.REJECTED,
}
"""What may be decided → what becomes of the order."""


def test_what_may_be_decided() -> None:
    """A paid order that waits may be approved or rejected, a shipped one may come back; no other.

    One that was approved may be rejected as long as the warehouse keeps its parcel.
    """
    for deed, order, review, kept in itertools.product(Deed, OrderStatus, ReviewStatus, (False, True)):
        said = refusal(deed, Standing(ORDER, order, review, "eve", kept))
        may = (deed, order, review) in MAY and (kept or order is not OrderStatus.APPROVED)
        assert (said == "") == may, (deed, order, review, kept)
        assert said == "" or ORDER in said
    for (_, order, _), after in MAY.items():
        assert after in FOLLOWS[order]


@pytest.mark.parametrize(
    ("deed", "order", "review", "words"),
    [
        (Deed.APPROVE, None, None, "there is no order"),
        (Deed.APPROVE, "confirmed", None, "is confirmed: only what is paid"),
        (Deed.REJECT, "cancelled", None, "is cancelled: only what is paid"),
        (Deed.APPROVE, "paid", None, "is paid and has no review"),
        (Deed.APPROVE, "approved", "approved", "was already approved by eve, and waits for the warehouse"),
        (Deed.APPROVE, "shipped", "shipped", "was already approved by eve and shipped"),
        (Deed.APPROVE, "rejected", "rejected", "was rejected by eve"),
        (Deed.REJECT, "rejected", "rejected", "was already rejected by eve"),
        (Deed.REJECT, "approved", "approved", "was approved by eve, and its parcel has left the house"),
        (Deed.REJECT, "approved", "approved", "once its parcel has come back: ./flashgate outbound return"),
        (Deed.REJECT, "approved", "rejecting", "is already being rejected by eve, and its parcel is to stay"),
        (Deed.APPROVE, "approved", "rejecting", "is being rejected by eve"),
        (Deed.RETURN, "approved", "approved", "if it is not to go out: ./flashgate outbound reject"),
        (Deed.REJECT, "shipped", "shipped", "shipped; once its parcel has come back: ./flashgate outbound return"),
        (Deed.RETURN, "paid", "waiting", "has not been shipped: it waits for approval"),
        (Deed.RETURN, "approved", "approved", "was approved by eve, and waits for the warehouse to ship it"),
        (Deed.RETURN, "shipped", "returning", "is already being taken back into the warehouse, as eve said"),
        (Deed.RETURN, "refunded", "returned", "has already come back, as eve said"),
        (Deed.RETURN, "refunded", "rejected", "was rejected by eve"),
    ],
)
def test_what_is_said(deed: Deed, order: str | None, review: str | None, words: str) -> None:
    """A refusal says where the order stands and who brought it there."""
    standing = Standing(ORDER, OrderStatus(order) if order else None, ReviewStatus(review) if review else None, "eve")
    assert words in refusal(deed, standing)


def test_several_refusals_are_told_together() -> None:
    """Of many orders that are refused the first few are named, and the others counted; those that may are not."""
    good = Standing(ORDER, OrderStatus.PAID, ReviewStatus.WAITING)
    refused = refusals(Deed.APPROVE, [good] + [Standing(f"o-{number}") for number in range(REFUSALS_TOLD_MAX + 2)])
    assert len(refused) == REFUSALS_TOLD_MAX + 2
    assert told(refused).endswith("there is no order o-4; and 2 more")
    assert told(refused[:1]) == "there is no order o-0"


@pytest.mark.parametrize(
    ("who", "why", "wrong"),
    [
        ("eve", "", ""),
        ("伊娃", "看起来不错", ""),
        ("e" * WHO_CHARS_MAX, "y" * WHY_CHARS_MAX, ""),
        ("", "why", "who: somebody has to decide"),
        ("e" * (WHO_CHARS_MAX + 1), "", "who: at most 64 characters"),
        ("eve", "y" * (WHY_CHARS_MAX + 1), "why: at most 255 characters"),
        (" eve", "", "who: no blanks at its ends"),
        ("eve", "\x1b[2J", "why: no control characters"),
        ("eve", "a\nb", "why: no control characters"),
        ("e\udc80", "", "who: no control characters"),
        ("eve", "a\u2028b", "why: no control characters"),
        ("eve", "a\u202eb", "why: no control characters"),
    ],
)
def test_words_are_bounded(who: str, why: str, wrong: str) -> None:
    """Who and why have their bounds, and nothing in them steers a terminal or ends a line."""
    assert wrong_words(who, why) == wrong


@given(st.sampled_from(sorted(WHY.values())), st.text(max_size=80), st.text(max_size=300))
def test_reasons_fit_their_column(what: str, who: str, why: str) -> None:
    """Whatever is said, an order's change has room for it, in ASCII, and says what was decided."""
    reason = change_reason(what, who, why)
    assert len(reason) <= REASON_CHARS_MAX
    assert reason.isascii()
    assert reason.startswith(what)


def test_reasons_say_who_and_why() -> None:
    """What is ASCII and has room is told; the rest stands in the review."""
    assert change_reason("rejected", "eve", "no such street") == "rejected by eve: no such street"
    assert change_reason("rejected", "伊娃", "no such street") == "rejected: no such street"
    assert change_reason("rejected", "eve", "没有") == "rejected by eve"
    assert change_reason("rejected", "eve", "x" * 80).endswith("x...")


def test_places_are_read_back() -> None:
    """A place in the list is told and read; anything else is none."""
    place = Place(1_790_000_000_000, ORDER)
    assert parse_place(place_text(place)) == place
    for text in (
        "",
        "12",
        f"-{ORDER}",
        f"x-{ORDER}",
        "12-order",
        f"{'9' * 17}-{ORDER}",
        f"12-{ORDER} ",
        f"12 -{ORDER}",
    ):
        assert parse_place(text) is None


def test_query_of_a_list() -> None:
    """A query is read with its defaults and bounds; what is none of that is refused by name."""
    place = Place(12, ORDER)
    assert read_query([]) == ListQuery()
    given = [("status", "shipped"), ("campaign_id", "c-1"), ("limit", "7"), ("after", place_text(place))]
    assert read_query(given) == ListQuery(ReviewStatus.SHIPPED, "c-1", 7, place)
    for name, value in [
        ("status", "paid"),
        ("status", ""),
        ("campaign_id", ""),
        ("campaign_id", "C"),
        ("campaign_id", "x" * 41),
        ("limit", "0"),
        ("limit", str(LIST_MAX + 1)),
        ("limit", "-1"),
        ("limit", "1.5"),
        ("limit", "٣"),
        ("after", ""),
        ("after", "12"),
    ]:
        with pytest.raises(ValueError, match=f"^{name}"):
            read_query([(name, value)])
    with pytest.raises(ValueError, match="'stauts' is nothing"):
        read_query([("stauts", "x")])
    with pytest.raises(ValueError, match="given twice"):
        read_query([("limit", "1"), ("limit", "2")])
