"""What every demo has to be true, whatever its kind: the facts, and what contradicts them. Without I/O."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec


class House(NamedTuple):
    """What the warehouse says of a campaign's SKUs together, in units: see `warehouse.books.SkuLine`."""

    on_hand: int
    allocated: int
    reserved: int
    free: int
    received: int
    shipped: int
    returned: int
    differences: tuple[str, ...] = ()
    """What of its books does not balance."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What `demo --json` prints of every kind.

    Attributes:
        buyers: how many came.
        stock: units, or prizes, that there were.
        accepted: distinct order ids answered 202; in a lottery the draws that won.
        sold_out, rate_limited, failed: buyers who got nothing in the end, and why.
        confirmed: orders whose row holds a unit at the end.
        released: the other orders.
        sold: units held at the end by MySQL.
        mysql_rows: order rows.
        redis_taken, redis_returned: units that Redis has handed out and got back.
        kafka_distinct: orders that Kafka has.
        drift: see `consumers.reconcile`.
        offered_per_s: requests sent, a second, from the opening to the last answer.
        accepted_per_s: orders accepted, a second, from the opening to the last acceptance.
        p50_ms, p99_ms: from the moment a buyer was ready to send to the answer.
        drain_s: from the last answer until MySQL had every accepted order.
        evalsha_calls: script calls that Redis counted from the opening until then, the relay's too.
        insert_statements: that MariaDB counted.
    """

    kind: str
    buyers: int
    stock: int
    accepted: int
    sold_out: int
    rate_limited: int
    failed: int
    confirmed: int
    released: int
    sold: int
    mysql_rows: int
    redis_taken: int
    redis_returned: int
    kafka_distinct: int
    drift: int
    offered_per_s: float
    accepted_per_s: float
    p50_ms: float
    p99_ms: float
    drain_s: float
    evalsha_calls: int
    insert_statements: int


class Evidence(NamedTuple):
    """What the facts are held against."""

    told: Collection[str]
    """Order ids that buyers were told."""
    stored: Collection[str]
    """Order ids in MySQL."""
    untrue: Mapping[str, int]
    """What answers contradicted what was said before → how many."""
    notes: Collection[str]
    """What the reconciler explains."""
    before: House
    """The warehouse when the campaign was loaded."""
    after: House
    """The warehouse at the end."""


def faults_of_all(facts: Facts, evidence: Evidence, *, settled: int) -> list[str]:
    """Return what is not as every demo promises, one sentence each; empty when all is well.

    Args:
        facts: the numbers.
        evidence: what they are held against.
        settled: buyers who know where they stand, `failed` ones too.
    """
    found = [f"{count} untrue answers: {what}" for what, count in evidence.untrue.items()]
    if settled != facts.buyers:
        found.append(f"{facts.buyers} buyers came, {settled} know where they stand")
    if facts.failed:
        found.append(f"{facts.failed} buyers got no usable answer")
    if facts.sold > facts.stock:
        found.append(f"{facts.sold} units sold of {facts.stock}")
    orders = {
        "mysql_rows": facts.mysql_rows,
        "kafka_distinct": facts.kafka_distinct,
        "confirmed + released": facts.confirmed + facts.released,
    }
    found += differing(orders, "accepted", facts.accepted)
    units = {"confirmed": facts.confirmed, "redis_taken - redis_returned": facts.redis_taken - facts.redis_returned}
    found += differing(units, "sold", facts.sold)
    lost, unasked = set(evidence.told) - set(evidence.stored), set(evidence.stored) - set(evidence.told)
    if lost:
        found.append(f"{len(lost)} accepted orders are not in MySQL, {min(lost)} for one")
    if unasked:
        found.append(f"{len(unasked)} orders are in MySQL whose buyers were told otherwise, {min(unasked)} for one")
    if facts.drift:
        found.append(f"drift {facts.drift}")
    return [*found, *evidence.notes]


def differing(same: Mapping[str, int], name: str, wanted: int) -> list[str]:
    """Return a sentence for each number that is not the one that it should be."""
    return [f"{which} is {count}, {name} is {wanted}" for which, count in same.items() if count != wanted]


def faults_of_the_house(
    evidence: Evidence, *, stock: int, shipped: int, withdrawn: int, returned: int = 0
) -> list[str]:
    """Return what of the warehouse is not as promised.

    Args:
        evidence: what there was before and is now.
        stock: units that were allocated to the campaign.
        shipped: units that left for good.
        withdrawn: units that came back from the campaign when it was closed.
        returned: units that left and came back.
    """
    before, after = evidence.before, evidence.after
    same = {
        "units on hand": (after.on_hand, before.on_hand - shipped),
        "units that lie there for campaigns": (after.allocated, stock - shipped - withdrawn),
        "units that lie there for the shop": (after.reserved, before.reserved),
        "free units": (after.free, before.free + withdrawn),
        "parcels that left": (after.shipped, before.shipped + shipped + returned),
        "parcels that came back": (after.returned, before.returned + returned),
    }
    found = [
        f"the warehouse has {has} {what}, it should be {wanted}"
        for what, (has, wanted) in same.items()
        if has != wanted
    ]
    return [*found, *after.differences]
