"""From a sweep to a model of the same machine, to hold the simulator against a measurement there. Pure."""

import statistics
from collections.abc import Sequence
from typing import Final

import msgspec

from bench.capacity_costs import Costs, measured_costs
from bench.capacity_facts import REDIS, Point, Sweep
from bench.errors import BenchError
from bench.simulate import simulate
from bench.simulate_curve import fit_curve
from bench.simulate_plan import Crowd, Curve, Fleet, Model

FLAT: Final = Curve(percentiles=[50.0], level=[0.0], busy=[0.0], order=[0.0])
"""One millisecond, always."""
SLOT_S: Final = 0.005
"""On one machine waiting is short."""
LATE_MAX: Final = 0.02
"""If the driver noticed more than this share of its requests late, it or the machine was away for a while: such a
latency is nobody's law."""
BATCH_MIN: Final = 3.0
"""Smaller batches are those of workers that had nothing to do in between."""
CALL_MS: Final = 1.0
"""If no point tells how long a script call takes."""
THROUGHPUT_BOUND: Final = 0.15
P99_BOUND: Final = 0.25


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that was predicted and then measured.

    Attributes:
        name: what it is, with its unit.
        predicted, measured: the values.
        bound: of the error; None: it is told, and not judged.
    """

    name: str
    predicted: float
    measured: float
    bound: float | None = None

    @property
    def error(self) -> float:
        """How far the prediction is off, relative to the measurement; infinite where nothing was measured."""
        if self.measured:
            return self.predicted / self.measured - 1
        return 0.0 if self.predicted == 0 else float("inf")

    @property
    def kept(self) -> bool:
        """Whether the error is within its bound."""
        return self.bound is None or abs(self.error) <= self.bound


def sustained(point: Point) -> bool:
    """Tell whether everything that was offered was answered in time, and the driver kept up."""
    return point.failed == 0 and point.in_step


def driven_in_time(point: Point) -> bool:
    """Tell whether the driver was in time with its requests: else a latency is partly its own."""
    return not point.bottlenecks and point.late <= LATE_MAX * point.offered


def calm(point: Point) -> bool:
    """Tell whether a point's latency is the machine's at this load: sustained, and the driver was in time with it."""
    return sustained(point) and driven_in_time(point)


def call_ms(points: Sequence[Point], costs: Costs) -> float:
    """Return how long a script call is away besides its CPU: busy workers send one after another.

    Args:
        points: of a sweep.
        costs: of the same.
    """
    redis = costs.of(REDIS)
    found = []
    for point in points:
        if point.batches and point.accepted / point.batches >= BATCH_MIN:
            orders = point.accepted / point.batches
            cycle_ms = point.workers * point.seconds / point.batches * 1000
            found.append(max(0.05, cycle_ms - (redis.batch_us + orders * redis.accepted_us) / 1000))
    return statistics.median(found) if found else CALL_MS


def machine_of(sweep: Sweep, workers: int, costs: Costs) -> Fleet:
    """Return the machine of a sweep, with everything on it."""
    rest = sum(one.rest_share for one in costs.parts)
    return Fleet(
        gateways=workers,
        kafka_cores=float(sweep.cores),
        mysql_cores=float(sweep.cores),
        cores=float(sweep.cores),
        drivers=max(1, sweep.cores // 2),
        at_rest=min(rest, 0.5 * sweep.cores),
    )


def model_of(sweep: Sweep, *, workers: int, rate_per_s: float, seconds: float, stock: int) -> Model:
    """Return the model of a load on the machine of a sweep, without a curve.

    Args:
        sweep: measured.
        workers: of the gateway.
        rate_per_s: offered, evenly.
        seconds: how long.
        stock: units of the SKU that is wanted.
    """
    costs = measured_costs(sweep)
    return Model(
        crowd=_crowd(rate_per_s, seconds, stock),
        fleet=machine_of(sweep, workers, costs),
        costs=costs,
        call_ms=call_ms(sweep.points, costs),
        slot_s=SLOT_S,
    )


def _crowd(rate_per_s: float, seconds: float, stock: int, refused_share: float = 0.0) -> Crowd:
    """Return who come as evenly as the driver sends; `refused_share` of them want a SKU that is sold out."""
    return Crowd(
        users=round(rate_per_s * seconds),
        rise_s=seconds,
        shape="even",
        stock=stock,
        sold_out_share=refused_share,
        retries_max=0,
        network_ms=0.0,
    )


Measured = tuple[float, float, list[tuple[float, float]]]
"""Share of the cores used, share of orders among answers, (percentile, ms)."""


def calm_points(model: Model, points: Sequence[Point]) -> list[Measured]:
    """Return those points with as many workers as the model whose latency is the machine's.

    Args:
        model: of a load on that machine; how busy the cores were at a point is told by its costs.
        points: of the sweep that those are from, or measured since.
    """
    found: list[Measured] = []
    for point in points:
        if point.workers != model.fleet.gateways or not calm(point):
            continue
        crowd = _crowd(point.offered_per_s, point.seconds, point.offered, point.refused_share)
        # Any curve makes the simulator tell how busy the cores are.
        busy = simulate(msgspec.structs.replace(model, crowd=crowd, curve=FLAT)).cores_busy
        found.append((busy, point.accepted / max(1, point.answered), point.percentiles))
    return found


def calibrated(model: Model, points: Sequence[Measured]) -> Model:
    """Return a model with a latency that was measured over how busy the cores were.

    Args:
        model: without.
        points: of `calm_points`.

    Raises:
        BenchError: too few points without a queue.
    """
    curve = fit_curve(points)
    if curve is None:
        raise BenchError(
            f"{len(points)} points with {model.fleet.gateways} workers were sustained without a queue: too few to tell "
            "what latency to expect. Sweep again with lower --rates, on a quieter machine"
        )
    return msgspec.structs.replace(model, curve=curve)


def neighbours(sweep: Sweep, workers: int, rate_per_s: float) -> tuple[float, float]:
    """Return the nearest rates, below and above, that a sweep has sustained with so many workers.

    Args:
        sweep: measured.
        workers: of the gateway.
        rate_per_s: of `held_out`, which lies between two.
    """
    rates = _calm_rates(sweep, workers)
    return max(one for one in rates if one < rate_per_s), min(one for one in rates if one > rate_per_s)


def _calm_rates(sweep: Sweep, workers: int) -> list[float]:
    return sorted(
        one.offered_per_s for one in sweep.points if one.workers == workers and one.refused_share == 0 and calm(one)
    )


def held_out(sweep: Sweep, rate_per_s: float = 0.0) -> tuple[int, float]:
    """Return workers and a rate that the sweep has not tried, between two that were sustained.

    Args:
        sweep: measured.
        rate_per_s: that is wanted; 0: between two in the middle. Right at the knee no two measurements agree to a
            quarter in p99, so none can be predicted.

    Raises:
        BenchError: there is none between two, or it was tried.
    """
    rates = {workers: _calm_rates(sweep, workers) for workers in sweep.workers}
    workers = max(rates, key=lambda count: max(rates[count], default=0.0))
    kept = rates[workers]
    if len(kept) < 2:
        raise BenchError("no two offered rates were sustained: there is none between them to be predicted. Sweep again")
    middle = len(kept) // 2
    rate_per_s = rate_per_s or round((kept[middle - 1] * kept[middle]) ** 0.5, 1)
    if any(abs(one.offered_per_s - rate_per_s) < 1 for one in sweep.points):
        raise BenchError(f"{rate_per_s:,.0f} requests/s were offered in the sweep itself: give another --rate")
    if not kept[0] < rate_per_s < kept[-1]:
        raise BenchError(
            f"{rate_per_s:,.0f} requests/s are not between two rates that were sustained ({kept[0]:,.0f} and "
            f"{kept[-1]:,.0f}): nothing is told of what lies outside"
        )
    return workers, rate_per_s
