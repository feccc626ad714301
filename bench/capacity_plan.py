"""From a sweep to a plan: what is sustained, what gives first, and how much of everything a target needs. Pure."""

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from bench.capacity_costs import US_PER_S, Costs, cpu_of, measured_costs
from bench.capacity_facts import CONSUMER, DRIVER, GATEWAY, KAFKA, MYSQL, REDIS, RELAY, Point, Sweep, component
from bench.errors import BenchError
from bench.load_outcomes import ResultClass
from bench.load_slo import COUNTS, Kept, Term, judge, parse_slo
from bench.usl import Fit, UslError, extrapolate

HEADROOM: Final = 0.3
SLO: Final = "p99<100ms,failed<0.1%"
FACTORS: Final = (1, 2, 5, 10)
GATEWAYS_MAX: Final = 256
CONSUMERS_MAX: Final = 64
"""As the settings bound them."""
SHARDS_MAX: Final = 16
MACHINE: Final = "the machine's cores"


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """How much a component has left at the sustained rate.

    Attributes:
        component: which; or all cores of the machine together, the driver's use of them included.
        used_cores: CPU seconds a second.
        limit_cores: as many as it could use here.
        gives_at_per_s: orders a second at which it has none left, if all else kept up.
    """

    component: str
    used_cores: float
    limit_cores: float
    gives_at_per_s: float


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What so many orders a second need, each component on cores of its own, with head-room.

    Attributes:
        factor: of the target; orders_per_s: accepted.
        gateways: workers.
        shards: Redis servers; relays: one for each.
        consumers: of orders.
        kafka_cores, mysql_cores: whole cores.
        first: what has the least room then.
    """

    factor: float
    orders_per_s: float
    gateways: int
    shards: int
    relays: int
    consumers: int
    kafka_cores: int
    mysql_cores: int
    first: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole recommendation.

    Attributes:
        slo: that was asked for.
        sustained: the point with the highest offered rate that kept it.
        target_per_s: orders a second that are wanted; `is_own`: the user has named them.
        rooms: what gives first here, first.
        needs: for 1, 2, 5 and 10 times the target.
        fits: workers → the law of their ladder.
        costs: that all of it follows from.
        driver_first: at every higher rate the load driver was at its limit.
    """

    slo: str
    sustained: Point
    target_per_s: float
    is_own: bool
    rooms: list[Room]
    needs: list[Need]
    fits: dict[int, Fit]
    costs: Costs
    driver_first: bool = False

    @property
    def warnings(self) -> list[str]:
        """What the reader must know before planning with it; each a sentence."""
        poor = [one.component for one in self.costs.parts if one.poor]
        found = []
        if poor:
            found.append(
                f"Poor fit of {', '.join(poor)}: much of what they use does not follow the load. The table of machines "
                "takes what was measured for an order at the sustained rate. Refusals rest on the regression."
            )
        if self.sustained.bottlenecks:
            found.append("The load driver itself was at its limit at the sustained rate: more may be possible.")
        if self.driver_first:
            found.append("At every higher rate the load driver was at its limit: the knee may be its own.")
        return found

    @property
    def for_how_long(self) -> str:
        """For how long the sustained rate can be held: what is behind Redis may take longer than the crowd."""
        at, lasting = self.sustained, self.rooms[0]
        behind = f"{at.backlog_max:,} orders at most were on their way to MySQL, which had all {at.drain_s:.1f} s later"
        if lasting.gives_at_per_s >= at.offered_per_s:
            return f"MySQL kept in step: {behind}."
        return (
            f"That is a peak's rate: within {at.seconds:.0f} s {behind}. With everything on this machine, the load "
            f"driver included, {lasting.gives_at_per_s:,.0f} orders/s can be held for any time."
        )

    @property
    def sentence(self) -> str:
        """The recommendation in one sentence; every number stands in the tables, too."""
        at, need = self.sustained, self.needs[0]
        target = "your target of" if self.is_own else "twice that,"
        return (
            f"Sustains {at.offered_per_s:,.0f} orders/s at p99 ≤ {ceil_ms(at.p99_ms)} ms on this machine "
            f"({_many(at.workers, 'gateway worker')}); {target} {need.orders_per_s:,.0f} orders/s needs "
            f"{_many(need.gateways, 'gateway worker')}, {_many(need.shards, 'Redis shard')}, "
            f"{_many(need.consumers, 'consumer')} with {HEADROOM:.0%} head-room; first to give: "
            f"{self.rooms[0].component} here, {need.first} there."
        )


def costs_at(costs: Costs, at: Point) -> Costs:
    """Return costs for planning: batches as they are at a point, and no order cheaper than it was there.

    Beyond that rate batches are larger, and an order is cheaper than it will be.
    """
    parts = [
        msgspec.structs.replace(one, floor_us=cpu_of(at.cpu_s, one.component) / max(1, at.accepted) * US_PER_S)
        for one in costs.parts
    ]
    return msgspec.structs.replace(costs, parts=parts, batch_orders=at.accepted / at.batches if at.batches else 1.0)


def ceil_ms(value: float) -> str:
    """Return a latency that is not told as smaller than it was."""
    return f"{math.ceil(value * 10) / 10:g}" if value < 10 else f"{math.ceil(value):,}"


def plan(sweep: Sweep, *, slo: str = SLO, target_per_s: float | None = None, seed: int = 0) -> Plan:
    """Return what a sweep recommends.

    Args:
        sweep: measured.
        slo: see `bench.load_slo`.
        target_per_s: accepted orders a second; None: twice what is sustained.
        seed: of the bands.

    Raises:
        BenchError: the SLO cannot be read or was never kept, there are no points past the knee, or the target cannot
            be reached.
    """
    terms = parse_slo(slo)
    at = sustained(sweep.points, terms, slo)
    costs = costs_at(measured_costs(sweep), at)
    target = 2 * at.offered_per_s if target_per_s is None else target_per_s
    if not 0 < target < math.inf:
        raise BenchError(f"--target {target:g}: orders a second, more than 0")
    return Plan(
        slo=slo,
        sustained=at,
        target_per_s=target,
        is_own=target_per_s is not None,
        rooms=rooms(sweep, at),
        needs=[need(costs, target, factor) for factor in FACTORS],
        fits=laws(sweep, at.workers, seed),
        costs=costs,
        driver_first=all(one.bottlenecks for one in _beyond(sweep.points, at)),
    )


def kept(point: Point, terms: list[Term]) -> list[Kept]:
    """Hold a point against the terms of an SLO; percentiles between the measured ones count as the next higher."""
    counts = dict.fromkeys(COUNTS, 0) | {
        ResultClass.ACCEPTED: point.accepted,
        ResultClass.SOLD_OUT: point.refused.get(409, 0),
        ResultClass.LIMITED: point.refused.get(429, 0),
        ResultClass.SHED: point.refused.get(503, 0),
        ResultClass.FAILED: point.failed,
        "offered": point.offered,
        "sent": point.sent,
        "answered": point.answered,
        "late": point.late,
        "dropped": point.dropped,
        "unknown": point.errors + point.unanswered,
    }

    def percentile_ms(at: float) -> float | None:
        return next((ms for percentile, ms in point.percentiles if percentile >= at), None)

    answered_s = max(point.seconds, 1e-9)
    return judge(terms, counts, percentile_ms=percentile_ms, offered_s=answered_s, answered_s=answered_s)


def sustained(points: Sequence[Point], terms: list[Term], slo: str) -> Point:
    """Return the point of the highest offered rate of accepted orders that kept an SLO and was no backlog's beginning.

    Raises:
        BenchError: none did, or none did not: the knee was not passed.
    """
    alone = [one for one in points if one.refused_share == 0]
    good = [one for one in alone if _holds(one, terms)]
    if not good:
        least = min((one.p99_ms for one in alone), default=math.inf)
        raise BenchError(
            f"unreachable: no offered rate kept {slo!r}; the lowest p99 was {least:.1f} ms. Allow more, or sweep lower "
            "--rates on a quieter machine"
        )
    best = max(good, key=lambda one: one.offered_per_s)
    if not _beyond(alone, best):
        raise BenchError(
            f"no points past the knee: {best.offered_per_s:,.0f} orders/s, the highest rate offered to {best.workers} "
            f"workers, was sustained; nobody knows how much more would be. Sweep on: --rates "
            f"{best.offered_per_s:.0f},{2 * best.offered_per_s:.0f}"
        )
    return best


def _beyond(points: Sequence[Point], at: Point) -> list[Point]:
    alike = [one for one in points if one.workers == at.workers and one.refused_share == 0]
    return [one for one in alike if one.offered_per_s > at.offered_per_s]


def _holds(point: Point, terms: list[Term]) -> bool:
    return point.in_step and all(one.kept for one in kept(point, terms))


def laws(sweep: Sweep, workers: int, seed: int = 0) -> dict[int, Fit]:
    """Return the law of every ladder that can be extrapolated; that of so many workers must be.

    Raises:
        BenchError: that one must not; says why.
    """
    found = {}
    for count in sorted({one.workers for one in sweep.rungs} | {workers}):
        points = [(float(one.connections), one.per_s) for one in sweep.rungs if one.workers == count and one.per_s > 0]
        try:
            found[count] = extrapolate(points, seed=seed)
        except UslError as error:
            if count == workers:
                raise BenchError(f"the ladder of {_many(count, 'gateway worker')}: {error}") from None
    return found


def rooms(sweep: Sweep, at: Point) -> list[Room]:
    """Return what each component has left at a point, what gives first first."""
    limits = {
        GATEWAY: float(at.workers),
        REDIS: 1.0,
        RELAY: 1.0,
        KAFKA: float(sweep.cores),
        CONSUMER: float(sum(component(child) == CONSUMER for child in at.cpu_s) or 1),
        MYSQL: float(sweep.cores),
    }
    # What was not drained when the load ended is part of what its orders cost.
    used = {name: cpu_of(at.cpu_s, name) / max(at.seconds, 1e-9) for name in limits}
    own = sum(value for child, value in at.cpu_s.items() if component(child) != DRIVER)
    whole = (own + at.cpu_s.get(DRIVER, 0.0)) / max(at.seconds, 1e-9)
    found = [_room(name, used[name], limit, at) for name, limit in limits.items()]
    return sorted([*found, _room(MACHINE, whole, float(sweep.cores), at)], key=lambda one: one.gives_at_per_s)


def _room(name: str, used: float, limit: float, at: Point) -> Room:
    gives_at = at.offered_per_s * limit / used if used > 0 else math.inf
    return Room(component=name, used_cores=used, limit_cores=limit, gives_at_per_s=gives_at)


def need(
    costs: Costs, target_per_s: float, factor: float = 1, *, refused_per_s: float = 0.0, bounded: bool = True
) -> Need:
    """Return what a multiple of a target needs, by the measured CPU of each component and `HEADROOM`.

    Args:
        costs: measured.
        target_per_s: accepted orders a second.
        factor: so many times both rates.
        refused_per_s: refusals a second beside them.
        bounded: what more than the settings allow would be needed for is refused.

    Raises:
        BenchError: one that is the target itself is out of reach.
    """
    orders, refusals = target_per_s * factor, refused_per_s * factor
    cores = {
        name: (orders * costs.accepted_us(name) + refusals * costs.of(name).refused_us) / US_PER_S
        for name in (GATEWAY, REDIS, RELAY, KAFKA, CONSUMER, MYSQL)
    }
    count = {name: max(1, math.ceil(used / (1 - HEADROOM) - 1e-9)) for name, used in cores.items()}
    shards = max(count[REDIS], count[RELAY])
    over = [
        f"{count[name]:,} {what} (at most {most})"
        for name, what, most in (
            (GATEWAY, "gateway workers", GATEWAYS_MAX),
            (CONSUMER, "consumers", CONSUMERS_MAX),
            (REDIS, "Redis shards", SHARDS_MAX),
        )
        if (shards if name == REDIS else count[name]) > most
    ]
    if over and factor == 1 and bounded:
        raise BenchError(f"unreachable target: {orders:,.0f} orders/s would need {', '.join(over)}")
    count[REDIS] = count[RELAY] = shards
    return Need(
        factor=factor,
        orders_per_s=orders,
        gateways=count[GATEWAY],
        shards=shards,
        relays=shards,
        consumers=count[CONSUMER],
        kafka_cores=count[KAFKA],
        mysql_cores=count[MYSQL],
        first=max(cores, key=lambda name: cores[name] / count[name]),
    )


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("s" if count != 1 else "")
