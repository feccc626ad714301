"""Where an order stands, with MySQL and Redis played by the test."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from adapters.stock import Attempt
from domain.errors import BackendError, PoisonRecordError
from domain.order_state import OrderStatus, PaymentStatus
from gateway.answers import Answer
from gateway.order_status import (
    LATER_S,
    MUCH_LATER_S,
    SOON_S,
    OrderPayment,
    OrderRow,
    StatusDesk,
    ask_again_s,
    choose_payment,
    iso_utc,
)

ORDER = "c-1~" + "0" * 32
OTHER = "c-1~" + "1" * 32
LATER = LATER_S[0]


@dataclass
class Played:
    """Both stores: what they say, and how often they are asked."""

    rows: dict[str, OrderRow] = field(default_factory=dict)
    held: set[tuple[str, str]] = field(default_factory=set)
    mysql_away: bool = False
    redis_away: bool = False
    asked: list[tuple[str, int]] = field(default_factory=list)

    async def find_rows(self, order_ids: Sequence[str]) -> dict[str, OrderRow]:
        """Return rows."""
        self.asked.append(("mysql", len(order_ids)))
        if self.mysql_away:
            raise BackendError("away")
        return {one: self.rows[one] for one in order_ids if one in self.rows}

    async def find_attempts(self, buyers: Sequence[tuple[str, str]]) -> list[list[Attempt] | PoisonRecordError]:
        """Return attempts."""
        self.asked.append(("redis", len(buyers)))
        if self.redis_away:
            raise BackendError("away")
        return [
            [Attempt(digest, "f", "box", 1, 1, held=True) for user, digest in sorted(self.held) if user == buyer]
            for _, buyer in buyers
        ]

    def desk(self, inflight_max: int = 100) -> StatusDesk:
        """Return a desk."""
        return StatusDesk(
            self.find_rows, self.find_attempts, batch_max=100, inflight_max=inflight_max, answer_timeout_s=5.0
        )


def code(found: OrderRow | Answer) -> str | int:
    """Return the status of an order, or that of the answer."""
    return found.status.value if isinstance(found, OrderRow) else found.status


async def test_redis_is_asked_for_what_mysql_does_not_know() -> None:
    """Of those who ask at once, all are looked up by one query, and by one MGET those that it did not find."""
    played = Played({ORDER: OrderRow("ann", "box", 1, OrderStatus.PAID, 2)}, {("ben", "1" * 32)})
    desk = played.desk()
    asked = [(ORDER, "ann"), (ORDER, "ben"), (OTHER, "ben"), (OTHER, "ann"), ("x", "ann")]
    found = await asyncio.gather(*(desk.look(*one) for one in asked))
    assert [code(one) for one in found] == ["paid", 404, "accepted", 404, 404]
    assert played.asked == [("mysql", 4), ("redis", 2)]
    assert code(await desk.look(ORDER, "ann")) == "paid"
    assert played.asked[2:] == [("mysql", 1)]


async def test_who_is_away_decides_who_is_told() -> None:
    """Without Redis the rows are told all the same; without MySQL nothing is, for the order may be further."""
    played = Played({ORDER: OrderRow("ann", "box", 1, OrderStatus.PAID, 2)}, {("ann", "1" * 32)}, redis_away=True)
    desk = played.desk()
    found = await asyncio.gather(desk.look(ORDER, "ann"), desk.look(OTHER, "ann"))
    assert [code(one) for one in found] == ["paid", 503]
    played.mysql_away, played.redis_away = True, False
    found = await asyncio.gather(desk.look(ORDER, "ann"), desk.look(OTHER, "ann"))
    assert [code(one) for one in found] == [503, 503]
    played.mysql_away = False
    assert code(await desk.look(OTHER, "ann")) == "accepted"


async def test_those_who_wait_are_bounded() -> None:
    """Past the bound a question is BUSY at once, and the places come back."""
    desk = Played().desk(inflight_max=1)
    found = await asyncio.gather(desk.look(ORDER, "ann"), desk.look(ORDER, "ann"))
    assert [code(one) for one in found] == [404, 503]
    assert code(await desk.look(ORDER, "ann")) == 404


def payment(status: PaymentStatus, attempt_no: int = 1) -> OrderPayment:
    """Return a payment."""
    return OrderPayment(f"p-{attempt_no}", status, attempt_no)


@pytest.mark.parametrize(
    ("status", "paying", "again_s"),
    [
        ("accepted", None, SOON_S),
        ("confirmed", None, LATER),
        ("confirmed", "pending", LATER),
        ("paid", "paid", MUCH_LATER_S),
        ("approved", "paid", MUCH_LATER_S),
        ("shipped", "paid", None),
        ("expired", None, None),
        ("expired", "declined", None),
        ("expired", "pending", MUCH_LATER_S),
        ("expired", "reacquiring", LATER),
        ("expired", "refund_due", LATER),
        ("cancelled", "refund_due", LATER),
        ("rejected", "paid", None),
        ("refunded", "refunded", None),
        ("refunded", "refund_due", None),
    ],
)
def test_when_to_ask_again(status: str, paying: str | None, again_s: int | None) -> None:
    """A poll is told when to come again only while something may still change, and sooner while it soon does."""
    paid = None if paying is None else payment(PaymentStatus(paying))
    assert ask_again_s(ORDER, OrderRow("ann", "box", 1, OrderStatus(status), 1, payment=paid)) == again_s


def test_which_payment_is_told() -> None:
    """The one that the order was paid by, else the last."""
    assert choose_payment([]) is None
    first, second = payment(PaymentStatus.DECLINED, 1), payment(PaymentStatus.PENDING, 2)
    assert choose_payment([second, first]) == second
    assert choose_payment([first._replace(status=PaymentStatus.PAID), second]) == payment(PaymentStatus.PAID, 1)


def test_times_have_milliseconds() -> None:
    """Times are RFC 3339 in UTC."""
    assert iso_utc(1_700_000_000_005) == "2023-11-14T22:13:20.005Z"
