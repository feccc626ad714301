"""Switches for what happens to orders after the sale."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from domain.order_state import OrderStatus, PaymentStatus
from tests.support.hooks import replace
from tests.switches_stock import alter_script


def duplicates_marked() -> None:
    """A second deduction is given back as often as it is asked for."""
    alter_script(
        "return_duplicate", "if redis.call('HEXISTS', KEYS[4], mark) == 1 then return ALREADY_RETURNED end", ""
    )


def duplicate_record_emptied() -> None:
    """The record that a second deduction made anew goes on saying that its expired order holds units."""
    alter_script("return_duplicate", "attempt[HELD] = 0", "")


def releases_owed_with_the_move() -> None:
    """An order gives its units up in MySQL, and nothing says that Redis is owed them."""
    from adapters.mysql import insert_many as insert
    from adapters.order_tables import INSERT_RETURNS
    from lifecycle import order_rows

    async def forget(cursor: Any, sql: str, rows: Any) -> None:
        if sql is not INSERT_RETURNS:
            await insert(cursor, sql, rows)

    replace(order_rows, "insert_many", forget)


def unknown_payments_asked_for() -> None:
    """A payment of unknown outcome counts as failed."""
    from lifecycle.payments import PaymentDesk

    note = PaymentDesk._not_made

    async def give_up(self: PaymentDesk, payment: Any, status: PaymentStatus, error: str) -> None:
        await note(self, payment, PaymentStatus.FAILED, error)

    replace(PaymentDesk, "_not_made", give_up)


def late_payments_look_for_a_unit() -> None:
    """A payment that comes after expiry pays its order, whether a unit is left or not."""
    from lifecycle import payment_rows, rules

    def paid(order: OrderStatus, payment: PaymentStatus, others: Iterable[PaymentStatus]) -> PaymentStatus:
        status = rules.after_charge(order, payment, others)
        return PaymentStatus.PAID if status is PaymentStatus.REACQUIRING else status

    replace(payment_rows, "after_charge", paid)


def refusals_final() -> None:
    """A late payment that found no unit may ask again under the same hold number."""
    alter_script("reacquire_stock", "attempt[HOLD_NO], attempt[HELD] = hold_no, 0", "")


def unpaid_orders_bounded() -> None:
    """A buyer may hold any number of orders without paying."""
    alter_script("admit_orders", "or unpaid >= unpaid_max ", "")


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "duplicates_marked": duplicates_marked,
    "duplicate_record_emptied": duplicate_record_emptied,
    "releases_owed_with_the_move": releases_owed_with_the_move,
    "unknown_payments_asked_for": unknown_payments_asked_for,
    "late_payments_look_for_a_unit": late_payments_look_for_a_unit,
    "refusals_final": refusals_final,
    "unpaid_orders_bounded": unpaid_orders_bounded,
}
