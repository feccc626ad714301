"""What an accepted order and a refusal cost each component, from measurements with different shares of either. Pure.

CPU seconds of a component = accepted x a + refused x r + script calls x c + what it uses at rest

is least squares with a, r, c >= 0, each row divided by the seconds it lasted. What it uses at rest is measured while
nobody asks for anything. A script call makes one entry of the outbox, and costs gateway, Redis, relay and Kafka
something besides its orders; how many orders it has follows the load. The ladder, whose calls go from one order to a
hundred, tells the two apart. No refusal gets behind the gateway: there r is 0, and not fitted.
"""

import statistics
from collections.abc import Sequence
from itertools import combinations
from typing import Final, NamedTuple

import msgspec

from bench.capacity_facts import (
    CONSUMER,
    DRIVER,
    GATEWAY,
    KAFKA,
    MYSQL,
    PARTS,
    REDIS,
    RELAY,
    Idle,
    Point,
    Sweep,
    component,
)
from bench.errors import BenchError
from bench.usl import least_squares

POINTS_MIN: Final = 4
SHARES_MIN: Final = 2
"""Different shares of refusals, else the cost of either cannot be told from the other's."""
R_SQUARED_MIN: Final = 0.8
"""A fit that explains less of the variance is poor: it is flagged."""
US_PER_S: Final = 1e6
PROC: Final = "/proc/PID/stat"
HOW: Final = {
    GATEWAY: f"{PROC}, all workers",
    REDIS: PROC,
    RELAY: PROC,
    KAFKA: f"{PROC}, the JVM",
    CONSUMER: f"{PROC}, all of them",
    MYSQL: PROC,
    DRIVER: "its own clock",
}
"""Component → where its CPU time (utime + stime, all threads) is read."""
BATCHED: Final = (GATEWAY, REDIS, RELAY, KAFKA)
ASKED: Final = (GATEWAY,)
"""Whom a refusal reaches: what is sold out is refused from a worker's memory (0.0004 Redis commands an answer, see
docs/performance.md). Fitted, Redis would get microseconds of others, and a crowd would seem to need shards."""


class PartCost(msgspec.Struct, frozen=True, kw_only=True):
    """One component.

    Attributes:
        component: which; workers and copies count together.
        accepted_us, refused_us: CPU microseconds of an accepted order, of a refusal.
        batch_us: of a script call besides its orders.
        rest_share: of a core, whether or not anything happens; of all workers or copies together.
        error_share: by how much this is off what was measured, median over all measurements.
        r_squared: share of the variance that the fit explains.
        floor_us: measured all in for an order at the sustained rate; one does not cost less in a plan.
        measured_by: what the CPU time was read from.
    """

    component: str
    accepted_us: float
    refused_us: float
    batch_us: float = 0.0
    rest_share: float = 0.0
    error_share: float = 0.0
    r_squared: float = 1.0
    floor_us: float = 0.0
    measured_by: str = ""

    @property
    def poor(self) -> bool:
        """Whether the fit of something that an order needs is too poor to plan with: what was measured is, then."""
        return self.component in PARTS and self.r_squared < R_SQUARED_MIN


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """All components. `example`: no measurement, figures to try the simulator with."""

    parts: list[PartCost]
    batch_orders: float = 64.0
    """Accepted orders in a script call under load, on average."""
    example: bool = False

    def of(self, name: str) -> PartCost:
        """Return a component's; one that was not measured costs nothing."""
        for one in self.parts:
            if one.component == name:
                return one
        return PartCost(component=name, accepted_us=0.0, refused_us=0.0)

    def accepted_us(self, name: str) -> float:
        """Return what an accepted order costs a component under load, its share of the batch included."""
        one = self.of(name)
        return one.floor_us if one.poor and one.floor_us else max(self.fitted_us(name), one.floor_us)

    def fitted_us(self, name: str) -> float:
        """Return the same by the fitted coefficients alone."""
        one = self.of(name)
        return one.accepted_us + one.batch_us / max(1.0, self.batch_orders)


class Row(NamedTuple):
    """One measurement, a second of it: counts, and CPU seconds of each process."""

    workers: int
    accepted: float
    refused: float
    batches: float
    cpu: dict[str, float]


def measured_costs(sweep: Sweep) -> Costs:
    """Return the costs that a sweep tells, in the order of an order's way; others follow by name.

    Raises:
        BenchError: too few points, or all with the same share of refusals.
    """
    points = sweep.points
    if len(points) < POINTS_MIN or len({point.refused_share for point in points}) < SHARES_MIN:
        raise BenchError(
            f"what an order and a refusal cost cannot be told apart: {POINTS_MIN} points with {SHARES_MIN} different "
            "shares of refusals are needed"
        )
    rows = [_row(one.workers, one.window_s, (one.accepted, 0, one.batches), one.cpu_s) for one in sweep.rungs]
    rows += [_row(one.workers, one.window_s, (one.accepted, one.refusals, one.batches), one.cpu_s) for one in points]
    names = sorted({component(child) for row in rows for child in row.cpu} - {DRIVER})
    first = [name for name in HOW if name in names]
    parts = [_cost(name, rows, sweep.idle) for name in [*first, *(name for name in names if name not in HOW)]]
    return Costs(parts=[*parts, _driver(points)], batch_orders=_batch_orders(points))


def _row(workers: int, window_s: float, counts: tuple[int, int, int], cpu_s: dict[str, float]) -> Row:
    accepted, refused, batches = (count / window_s for count in counts)
    return Row(workers, accepted, refused, batches, {child: value / window_s for child, value in cpu_s.items()})


def cpu_of(cpu_s: dict[str, float], name: str) -> float:
    """Return the CPU seconds of a component, all its processes together."""
    return sum(value for child, value in cpu_s.items() if component(child) == name)


def _batch_orders(points: Sequence[Point]) -> float:
    """Return the largest mean of accepted orders in a script call: batches grow with the load."""
    return max((point.accepted / point.batches for point in points if point.batches), default=1.0)


def _cost(name: str, rows: Sequence[Row], idle: Sequence[Idle]) -> PartCost:
    rest = {one.workers: cpu_of(one.cpu_s, name) / one.window_s for one in idle}
    taken = [
        (row.accepted, row.refused if name in ASKED else 0.0, row.batches if name in BATCHED else 0.0) for row in rows
    ]
    values = [cpu_of(row.cpu, name) - rest.get(row.workers, 0.0) for row in rows]
    (accepted, refused, batch), error_share, r_squared = _fitted(taken, values)
    return PartCost(
        component=name,
        accepted_us=accepted * US_PER_S,
        refused_us=refused * US_PER_S,
        batch_us=batch * US_PER_S,
        rest_share=sum(rest.values()) / len(rest) if rest else 0.0,
        error_share=error_share,
        r_squared=r_squared,
        measured_by=HOW.get(name, PROC),
    )


def _driver(points: Sequence[Point]) -> PartCost:
    """Return what a request costs the driver, whatever becomes of it; its connections cost it a little at any rate."""
    rows = [(point.sent / point.seconds, 0.0, 1.0) for point in points]
    values = [cpu_of(point.cpu_s, DRIVER) / point.seconds for point in points]
    (request, _, rest), error_share, r_squared = _fitted(rows, values)
    return PartCost(
        component=DRIVER,
        accepted_us=request * US_PER_S,
        refused_us=request * US_PER_S,
        rest_share=rest,
        error_share=error_share,
        r_squared=r_squared,
        measured_by=HOW[DRIVER],
    )


def _fitted(rows: Sequence[tuple[float, ...]], values: Sequence[float]) -> tuple[list[float], float, float]:
    """Return the coefficients, the median of how far they are off as a share of each value, and R squared.

    R squared alone would not do: of a process that uses much the same at any rate no variance is left to explain.
    """
    found = _non_negative(rows, values)
    told = (sum(a * b for a, b in zip(row, found, strict=True)) for row in rows)
    off = [abs(value - one) / value for value, one in zip(values, told, strict=True) if value > 0]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values)
    r_squared = 1 - _lost(rows, values, found) / variance if variance > 0 else 1.0
    return found, statistics.median(off) if off else 0.0, r_squared


def _lost(rows: Sequence[tuple[float, ...]], values: Sequence[float], at: Sequence[float]) -> float:
    pairs = zip(rows, values, strict=True)
    return sum((value - sum(a * b for a, b in zip(row, at, strict=True))) ** 2 for row, value in pairs)


def _non_negative(rows: Sequence[tuple[float, ...]], values: Sequence[float]) -> list[float]:
    """Return the coefficients >= 0 that lose least: of three, every set of those that are not 0 is tried."""
    width = len(rows[0])
    best = [0.0] * width
    best_lost = _lost(rows, values, best)
    for size in range(1, width + 1):
        for free in combinations(range(width), size):
            some = least_squares([tuple(row[i] for i in free) for row in rows], values)
            if min(some) < 0:
                continue
            found = [0.0] * width
            for i, value in zip(free, some, strict=True):
                found[i] = value
            lost = _lost(rows, values, found)
            if lost < best_lost:
                best, best_lost = found, lost
    return best
