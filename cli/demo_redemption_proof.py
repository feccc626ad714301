"""What the demo of a redemption has to be true: its facts, and what contradicts its promise. Without I/O."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from cli.demo_facts import Evidence, Facts, differing, faults_of_all, faults_of_the_house


class RedemptionFacts(Facts, frozen=True, kw_only=True):
    """What `demo --json` prints of a redemption, besides.

    Attributes:
        redeemers: buyers who were told 202 at least once, whatever came of it. With `sold_out`, `points_short`,
            `rate_limited` and `failed` they add up to `buyers`: who was told SOLD_OUT and was served later counts here.
        points_short: buyers who were told at once that they have too few points.
        points_price: points that one unit costs.
        points_granted: points that buyers had before.
        points_spent: points that redemptions have taken.
        points_returned: points that redemptions have given back.
        points_left: of all accounts together at the end.
        rejected: redemptions that were accepted and turned back: no points, and the unit is on sale again.
        paid: orders that hold a unit and have been paid by points.
        shipped: of them, those that have left the house.
        redeemed_again: redemptions of units that had come back.
        withdrawn: units that nobody redeemed and that went back to the warehouse when the campaign was closed.
    """

    redeemers: int
    points_short: int
    points_price: int
    points_granted: int
    points_spent: int
    points_returned: int
    points_left: int
    rejected: int
    paid: int
    shipped: int
    redeemed_again: int
    withdrawn: int


class Movement(NamedTuple):
    """A row of the ledger of points that a redemption has written."""

    ref_id: str
    user_id: str
    points: int
    """Taken, or given back; never negative."""


class Ledger(NamedTuple):
    """What the ledger of points and the orders say, row by row."""

    spent: Collection[Movement]
    returned: Collection[Movement]
    holders: Mapping[str, str]
    """Order id → user, of orders that hold a unit."""
    unequal: int
    """Accounts whose balance is not the sum of their ledger."""
    overdrawn: int
    """Accounts below zero."""
    unfinished: int
    """Redemptions that are neither through nor turned back."""


def contradictions(facts: RedemptionFacts, evidence: Evidence, ledger: Ledger) -> list[str]:
    """Return what is not as promised, one sentence each; empty when all is well."""
    settled = facts.redeemers + facts.sold_out + facts.points_short + facts.rate_limited + facts.failed
    found = faults_of_all(facts, evidence, settled=settled)
    found += faults_of_the_house(evidence, stock=facts.stock, shipped=facts.shipped, withdrawn=facts.withdrawn)
    if facts.sold_out and facts.sold < facts.stock:
        found.append(f"{facts.sold_out} buyers went away empty-handed, and {facts.stock - facts.sold} units are left")
    found += differing({"paid": facts.paid}, "confirmed", facts.confirmed)
    back = {"rejected": facts.rejected, "units that Redis got back": facts.redis_returned}
    found += differing(back, "released", facts.released)
    return [*found, *_of_the_points(facts, ledger)]


def _of_the_points(facts: RedemptionFacts, ledger: Ledger) -> list[str]:
    net = facts.points_spent - facts.points_returned
    found = differing(
        {"points spent - returned": net}, "points of confirmed redemptions", facts.confirmed * facts.points_price
    )
    found += differing(
        {"granted - spent + returned": facts.points_granted - net}, "the sum of all balances", facts.points_left
    )
    given_back = {(one.ref_id, one.user_id, one.points) for one in ledger.returned}
    kept = {one.ref_id: one for one in ledger.spent if tuple(one) not in given_back}
    unpaid = [order_id for order_id, user in ledger.holders.items() if not _paid(kept.get(order_id), user, facts)]
    if unpaid:
        found.append(f"{len(unpaid)} orders hold a unit and took no points of their buyer, {min(unpaid)} for one")
    idle = kept.keys() - ledger.holders.keys()
    if idle:
        found.append(f"{len(idle)} redemptions took points and hold no unit, {min(idle)} for one")
    for count, what in (
        (ledger.unequal, "accounts have another balance than the sum of their ledger"),
        (ledger.overdrawn, "accounts are below zero"),
        (ledger.unfinished, "redemptions are neither through nor turned back"),
    ):
        if count:
            found.append(f"{count} {what}")
    return found


def _paid(spent: Movement | None, user: str, facts: RedemptionFacts) -> bool:
    return spent is not None and spent.user_id == user and spent.points == facts.points_price
