"""Points of a campaign: what fg_points has moved beside what orders cost and prizes are worth. Decided without I/O.

An order of a redemption that holds its units has cost its points; any other has cost none: they were never taken, or
went back. A prize that was won is worth points, once. The two sides are in different schemas, read one after the other,
so an order counts only once nothing is under way for it, and what differs is looked at again as everything else is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from domain.order_state import HOLDING, PaymentStatus
from domain.points import LedgerKind


class Difference(NamedTuple):
    """An order, or a draw, whose points are not as they should be."""

    digest: str
    """Its 32 hex."""
    moved: int
    """Points taken and not given back, or awarded."""
    due: int
    """Points that it costs, or is worth."""

    @property
    def text(self) -> str:
        """Return it in words."""
        return f"{self.moved} in the ledger, {self.due} due"


@dataclass(slots=True)
class PointsLook:
    """Gathers points of one campaign, by the 32 hex of orders and draws; the order of the calls does not matter."""

    moved: dict[str, int] = field(default_factory=dict)
    due: dict[str, int] = field(default_factory=dict)
    under_way: set[str] = field(default_factory=set)
    """Nothing can be said of these yet: a saga, a refund or an award is on its way."""
    spent: int = 0
    """Points of redemptions that were taken and not given back."""
    awarded: int = 0

    def move(self, digest: str, kind: str, delta: int) -> None:
        """Note a row of the points' ledger; grants are of no campaign."""
        match kind:
            case LedgerKind.AWARD:
                points = delta
                self.awarded += delta
            case LedgerKind.SPEND | LedgerKind.REFUND:
                points = -delta
                self.spent -= delta
            case _:
                return
        self.moved[digest] = self.moved.get(digest, 0) + points

    def prize(self, digest: str, points: int) -> None:
        """Note a draw that won; the same one may be told of again."""
        if points:
            self.due[digest] = points

    def payment(self, digest: str, points: int, payment: str, order: str) -> None:
        """Note a payment in points: its status, and its order's."""
        if payment == PaymentStatus.REFUND_DUE:
            self.under_way.add(digest)
        if order in HOLDING:
            self.due[digest] = self.due.get(digest, 0) + points

    def differences(self) -> Iterator[Difference]:
        """Yield what differs, and is not under way."""
        for digest in sorted(self.moved.keys() | self.due.keys()):
            moved, due = self.moved.get(digest, 0), self.due.get(digest, 0)
            if moved != due and digest not in self.under_way:
                yield Difference(digest, moved, due)
