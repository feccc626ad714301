"""What a demo has to be true: its facts, and what contradicts its promise. Without I/O."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec


class House(NamedTuple):
    """What the warehouse says of a SKU, in units: see `warehouse.books.SkuLine`."""

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
    """What `demo --json` prints.

    Attributes:
        accepted: distinct order ids answered 202; the four from here to `failed` add up to `buyers`. Who was told
            SOLD_OUT and bought later what had come back counts here, not there.
        confirmed: orders whose row holds a unit at the end.
        released: the other orders.
        sold: units held at the end by MySQL.
        mysql_rows: order rows.
        redis_taken, redis_returned: units that Redis has handed out and got back.
        paid: order rows that are paid and hold their unit, on its way or at the buyer's.
        unpaid, cancelled, expired, refunded: order rows by their status at the end.
        shipped, rejected, returned: parcels that left for good, that were held back by the outbound review, and that
            came back. Of the last two, orders end as refunded.
        withdrawn: units that nobody bought and that went back to the warehouse when the campaign was closed.
        sold_again: orders of units that had come back.
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
    kafka_distinct: int
    drift: int
    offered_per_s: float
    accepted_per_s: float
    p50_ms: float
    p99_ms: float
    drain_s: float
    evalsha_calls: int
    insert_statements: int


def contradictions(
    facts: Facts,
    *,
    told: Collection[str],
    stored: Collection[str],
    untrue: Mapping[str, int],
    notes: Collection[str],
    before: House,
    after: House,
) -> list[str]:
    """Return what is not as promised, one sentence each; empty when all is well.

    Args:
        facts: the numbers.
        told: order ids that buyers were told.
        stored: order ids in MySQL.
        untrue: what answers contradicted what was said before → how many.
        notes: what the reconciler explains.
        before: the warehouse when the campaign was loaded.
        after: the warehouse at the end.
    """
    found = [f"{count} untrue answers: {what}" for what, count in untrue.items()]
    served = facts.accepted + facts.sold_out
    if served + facts.rate_limited + facts.failed != facts.buyers:
        found.append(f"{facts.buyers} buyers came, {served + facts.rate_limited + facts.failed} know where they stand")
    if facts.failed:
        found.append(f"{facts.failed} buyers got no usable answer")
    if facts.sold_out and facts.sold != facts.stock:
        found.append(f"{facts.sold_out} buyers went away empty-handed, and {facts.stock - facts.sold} units are left")
    if facts.sold > facts.stock:
        found.append(f"{facts.sold} units sold of {facts.stock}")
    same = {
        "mysql_rows": facts.mysql_rows,
        "kafka_distinct": facts.kafka_distinct,
        "confirmed + released": facts.confirmed + facts.released,
        "orders by status": facts.paid + facts.unpaid + facts.cancelled + facts.expired + facts.refunded,
    }
    found += [
        f"{name} is {count}, accepted is {facts.accepted}" for name, count in same.items() if count != facts.accepted
    ]
    held = {
        "confirmed": facts.confirmed,
        "redis_taken - redis_returned": facts.redis_taken - facts.redis_returned,
        "paid + unpaid": facts.paid + facts.unpaid,
    }
    found += [f"{name} is {count}, sold is {facts.sold}" for name, count in held.items() if count != facts.sold]
    lost, unasked = set(told) - set(stored), set(stored) - set(told)
    if lost:
        found.append(f"{len(lost)} accepted orders are not in MySQL, {min(lost)} for one")
    if unasked:
        found.append(f"{len(unasked)} orders are in MySQL whose buyers were told otherwise, {min(unasked)} for one")
    if facts.drift:
        found.append(f"drift {facts.drift}")
    return [*found, *_of_the_house(facts, before, after), *notes]


def _of_the_house(facts: Facts, before: House, after: House) -> list[str]:
    """Return what of the warehouse is not as promised."""
    same = {
        "units on hand": (after.on_hand, before.on_hand - facts.shipped),
        "units that lie there for campaigns": (after.allocated, facts.sold - facts.shipped + _left(facts)),
        "units that lie there for the shop": (after.reserved, before.reserved),
        "free units": (after.free, before.free + facts.withdrawn),
        "parcels that left": (after.shipped, before.shipped + facts.shipped + facts.returned),
        "parcels that came back": (after.returned, before.returned + facts.returned),
    }
    found = [
        f"the warehouse has {has} {what}, it should be {wanted}"
        for what, (has, wanted) in same.items()
        if has != wanted
    ]
    if facts.rejected + facts.returned > facts.refunded:
        found.append(
            f"{facts.rejected + facts.returned} orders were rejected or came back, {facts.refunded} are refunded"
        )
    return [*found, *after.differences]


def _left(facts: Facts) -> int:
    """Return the units that the campaign has neither sold nor given back."""
    return facts.stock - facts.sold - facts.withdrawn
