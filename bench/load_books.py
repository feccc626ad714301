"""What the driver was told, beside what the gateway, Redis and MySQL have: the same numbers, to the unit. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

LOTTERY: Final = "lottery"
_ACCEPTED: Final = re.compile(r"^flashgate_decisions_total\{(?P<labels>[^}]*)\}\s+(?P<value>\S+)", re.MULTILINE)


class CampaignBooks(msgspec.Struct, frozen=True, kw_only=True):
    """One campaign at the end of a run.

    Attributes:
        campaign_id, kind: which.
        told: how many requests were accepted, as the driver was told.
        told_orders: how many orders these must have made: of a lottery, the draws with a prize.
        mysql_orders: order rows.
        redis_units: units that Redis has handed out and not got back.
        drift: of the reconciler: orders missing or extra between the stores, and counters that are not their sums.
    """

    campaign_id: str
    kind: str
    told: int
    told_orders: int
    mysql_orders: int
    redis_units: int
    drift: int


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """All campaigns of a run.

    Attributes:
        campaigns: each of them.
        gateway_accepted: decisions ACCEPTED that the gateway's workers counted meanwhile; None: they were not asked.
        unknown: requests of which nobody knew at first what had come of them.
        unsettled: of these, those of which nobody knows it still.
        drain_s: from the last answer until MySQL had every order.
    """

    campaigns: list[CampaignBooks]
    gateway_accepted: int | None
    unknown: int
    unsettled: int
    drain_s: float

    @property
    def told(self) -> int:
        """Accepted requests, as the driver was told."""
        return sum(one.told for one in self.campaigns)

    def disagreements(self) -> list[str]:
        """Return what does not agree, one sentence each; empty when all is well.

        A request whose outcome was never learned may have been accepted: the stores may have so many more. One whose
        outcome was learned later may have been decided in Redis without its gateway knowing: the gateway may have
        counted so many fewer.
        """
        found = []
        for one in self.campaigns:
            units, orders = one.redis_units, one.mysql_orders
            for text, has in ((f"Redis handed out {units:,} units", units), (f"MySQL has {orders:,} orders", orders)):
                if not one.told_orders <= has <= one.told_orders + self.unsettled:
                    found.append(f"{one.campaign_id}: {text}, buyers were told {one.told_orders:,}{self._but}")
            if one.drift:
                found.append(f"{one.campaign_id}: drift {one.drift:,}; see: flashgate reconcile")
        counted = self.gateway_accepted
        if counted is not None and not self.told - self.unknown <= counted <= self.told + self.unsettled:
            found.append(f"the gateway counted {counted:,} accepted, buyers were told {self.told:,}{self._but}")
        return found

    @property
    def _but(self) -> str:
        return f" ({self.unsettled:,} never learned what came of their requests)" if self.unsettled else ""


def accepted_in(metrics: str) -> int:
    """Return how many decisions ACCEPTED a gateway's metrics (Prometheus text) count."""
    return sum(
        round(float(found["value"])) for found in _ACCEPTED.finditer(metrics) if 'outcome="ACCEPTED"' in found["labels"]
    )


def told_orders(kind: str, accepted: int, won: int) -> int:
    """Return how many orders so many accepted requests make."""
    return won if kind == LOTTERY else accepted


def as_facts(books: Books) -> Mapping[str, object]:
    """Return them as plain values, with what does not agree."""
    return {**msgspec.to_builtins(books), "told": books.told, "disagreements": books.disagreements()}


def lines(books: Books) -> Sequence[tuple[str, ...]]:
    """Return the rows of a table: campaign, told accepted, orders that makes, Redis, MySQL, drift."""
    return [
        (
            one.campaign_id,
            f"{one.told:,}",
            f"{one.told_orders:,}",
            f"{one.redis_units:,}",
            f"{one.mysql_orders:,}",
            f"{one.drift:,}",
        )
        for one in books.campaigns
    ]
