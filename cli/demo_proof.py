"""What the demo of a sale has to be true: its facts, and what contradicts its promise. Without I/O."""

from cli.demo_facts import Evidence, Facts, differing, faults_of_all, faults_of_the_house


class SaleFacts(Facts, frozen=True, kw_only=True):
    """What `demo --json` prints of a sale, besides.

    `accepted`, `sold_out`, `rate_limited` and `failed` add up to `buyers`: who was told SOLD_OUT and bought later what
    had come back counts as accepted, not as sold out.

    Attributes:
        paid: order rows that are paid and hold their unit, on its way or at the buyer's.
        unpaid, cancelled, expired, refunded: order rows by their status at the end.
        shipped, rejected, returned: parcels that left for good, that were held back by the outbound review, and that
            came back. Of the last two, orders end as refunded.
        withdrawn: units that nobody bought and that went back to the warehouse when the campaign was closed.
        sold_again: orders of units that had come back.
    """

    paid: int
    unpaid: int
    cancelled: int
    expired: int
    refunded: int
    shipped: int
    rejected: int
    returned: int
    withdrawn: int
    sold_again: int


def contradictions(facts: SaleFacts, evidence: Evidence) -> list[str]:
    """Return what is not as promised, one sentence each; empty when all is well."""
    settled = facts.accepted + facts.sold_out + facts.rate_limited + facts.failed
    found = faults_of_all(facts, evidence, settled=settled)
    if facts.sold_out and facts.sold < facts.stock:
        found.append(f"{facts.sold_out} buyers went away empty-handed, and {facts.stock - facts.sold} units are left")
    by_status = facts.paid + facts.unpaid + facts.cancelled + facts.expired + facts.refunded
    found += differing({"orders by status": by_status}, "accepted", facts.accepted)
    found += differing({"paid + unpaid": facts.paid + facts.unpaid}, "sold", facts.sold)
    found += faults_of_the_house(
        evidence, stock=facts.stock, shipped=facts.shipped, withdrawn=facts.withdrawn, returned=facts.returned
    )
    if facts.rejected + facts.returned > facts.refunded:
        found.append(
            f"{facts.rejected + facts.returned} orders were rejected or came back, {facts.refunded} are refunded"
        )
    return found
