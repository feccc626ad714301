"""What follows from what, in the life of an order and its payments."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.backoff import pause_s
from domain.order_state import ACTIVE, CHARGED, FOLLOWS, HOLDING, OrderStatus, PaymentStatus
from lifecycle.rules import after_charge, after_decline, after_refund, is_due, payment_id

statuses = st.sampled_from(PaymentStatus)


def test_every_status_has_its_followers() -> None:
    """Every status says what may follow it, and nothing follows what is final."""
    assert set(FOLLOWS) == set(OrderStatus)
    assert {status for status, after in FOLLOWS.items() if not after} == {OrderStatus.REFUNDED}


@pytest.mark.parametrize("status", OrderStatus)
def test_nothing_comes_back_to_confirmed(status: OrderStatus) -> None:
    """An order is confirmed once, and nothing that holds units follows a state without, but for a late payment."""
    assert (OrderStatus.CONFIRMED in FOLLOWS[status]) == (status is OrderStatus.ACCEPTED)
    regained = FOLLOWS[status] & HOLDING
    if status not in HOLDING and status is not OrderStatus.ACCEPTED:
        assert regained == ({OrderStatus.PAID} if status is OrderStatus.EXPIRED else set())


@given(st.sampled_from(OrderStatus), statuses, st.lists(statuses, max_size=4))
def test_a_charge_pays_looks_for_a_unit_or_goes_back(
    order: OrderStatus, payment: PaymentStatus, others: list[PaymentStatus]
) -> None:
    """A charge is never forgotten; told again it changes nothing; it pays only an order that waits for it."""
    after = after_charge(order, payment, others)
    assert after in CHARGED
    assert after_charge(order, after, others) is after
    if payment in CHARGED:
        assert after is payment
    elif {PaymentStatus.PAID, PaymentStatus.REACQUIRING} & set(others):
        assert after is PaymentStatus.REFUND_DUE
    else:
        assert (after is PaymentStatus.PAID) == (order is OrderStatus.CONFIRMED)
        assert (after is PaymentStatus.REACQUIRING) == (order is OrderStatus.EXPIRED)


@given(statuses)
def test_a_decline_never_undoes_a_charge(payment: PaymentStatus) -> None:
    """What may still be charged is declined; everything else stays as it is."""
    assert after_decline(payment) is (PaymentStatus.DECLINED if payment in ACTIVE else payment)


@given(st.sampled_from(OrderStatus), st.lists(statuses, max_size=4))
def test_a_refund_moves_only_an_order_that_nothing_else_pays(order: OrderStatus, others: list[PaymentStatus]) -> None:
    """An order that holds units, may get some by another payment, or waits for more money is not refunded by this."""
    after = after_refund(order, others)
    if after is not order:
        assert after is OrderStatus.REFUNDED
        assert order not in HOLDING
        assert not {PaymentStatus.REACQUIRING, PaymentStatus.REFUND_DUE} & set(others)
    elif order not in HOLDING:
        assert order is OrderStatus.REFUNDED or {PaymentStatus.REACQUIRING, PaymentStatus.REFUND_DUE} & set(others)


def test_payment_ids_differ_by_order_and_key() -> None:
    """The same key for the same order is the same payment; a border moved between the two is another."""
    pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("ab", "d")]
    for one, two in itertools.product(pairs, pairs):
        assert (payment_id(*one) == payment_id(*two)) == (one == two)


def test_pauses_double_up_to_their_bound() -> None:
    """The pause doubles with every attempt and never passes its bound, however many there were."""
    assert [pause_s(attempts, 0.5, 3.0) for attempts in (0, 1, 2, 3, 1_000_000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_due_from_the_moment_on() -> None:
    """An order is due from its time on; without a time it never is."""
    assert [is_due(at, 10) for at in (9, 10, 11, None)] == [True, True, False, False]
