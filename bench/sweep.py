"""Which loads a sweep tries, and in which order. Pure."""

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from bench.capacity_facts import Point
from bench.errors import BenchError
from bench.usl import UslError, knee

RATE_MIN_PER_S: Final = 50.0
"""Less says nothing in the seconds that a point lasts."""
CONNECTIONS_MAX: Final = 2_048
"""The ladder goes on above its last rung until throughput rises no more, but not past this."""
LONGER: Final = 1.5
CALM_PART: Final = 0.6
"""Up to this share of the best of the ladder a point is made several times: its p99 hangs on a few hiccups."""
POINTS_MAX: Final = 400
"""Rungs and points together: a sweep ends."""


_Table = tuple[tuple[int, ...], tuple[float, ...], tuple[tuple[float, float], ...], float, float]
_QUICK: Final[_Table] = (
    (1, 4, 16, 48, 96, 160, 256),
    (0.2, 0.35, 0.5, 0.7, 1.3),
    ((0.3, 0.5), (0.4, 0.9), (0.6, 0.5)),
    0.7,
    1.5,
)
_WHOLE: Final[_Table] = (
    (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384),
    (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.9, 1.25),
    ((0.3, 0.5), (0.5, 0.5), (0.4, 0.9), (0.7, 0.9)),
    2.0,
    5.0,
)
"""Rungs; shares of the best with accepted orders alone; (share, share of refusals); seconds of a rung, a point."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One open loop to be tried: a share of what the ladder has reached, or a rate if the user names some."""

    part: float
    refused_share: float = 0.0


class SweepPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be measured.

    Attributes:
        workers: counts of gateway workers, one after the other.
        ladder: connections of the closed loops, which go on until the knee is passed; see `next_rung`.
        rung_seconds, point_seconds: how long each lasts.
        loads: open loops, after the ladder.
        rates_per_s: offered rates instead of the loads' shares of the ladder's best; each without refusals.
        connections: of the open loops.
        processes: of the driver.
        repeat: so often a calm point is made; the one with the median p99 is kept.
    """

    workers: tuple[int, ...]
    ladder: tuple[int, ...]
    rung_seconds: float
    point_seconds: float
    loads: tuple[Load, ...]
    rates_per_s: tuple[float, ...] = ()
    connections: int = 256
    processes: int = 1
    repeat: int = 1

    @property
    def measurements(self) -> int:
        """Rungs and points of all worker counts."""
        of_one = (
            len(self.ladder)
            + len(self.rates_per_s)
            + sum(not self.rates_per_s or x.refused_share > 0 for x in self.loads)
        )
        return len(self.workers) * of_one


def plan_sweep(
    *,
    quick: bool,
    cores: int,
    workers: Sequence[int] = (),
    rates_per_s: Sequence[float] = (),
    seconds: float = 0.0,
    connections: int = 256,
) -> SweepPlan:
    """Return a plan: `quick` for about two minutes on two cores, else about fifteen.

    Accepted orders alone tell latency and knee; loads with refusals among them tell what a refusal costs.

    Raises:
        BenchError: it would have more than `POINTS_MAX` measurements.
    """
    ladder, accepted, mixed, rung_seconds, point_seconds = _QUICK if quick else _WHOLE
    plan = SweepPlan(
        workers=tuple(workers) or ((1, 2) if quick else tuple(sorted({1, 2, max(2, 2 * cores)}))),
        ladder=ladder,
        rung_seconds=rung_seconds,
        point_seconds=seconds or point_seconds,
        loads=(*(Load(part=part) for part in accepted), *(Load(part=part, refused_share=x) for part, x in mixed)),
        rates_per_s=tuple(rates_per_s),
        connections=connections,
        processes=max(1, cores // 2),
        repeat=1 if quick else 3,
    )
    if plan.measurements > POINTS_MAX:
        raise BenchError(
            f"{plan.measurements} measurements: at most {POINTS_MAX} are made; give fewer --workers or --rates"
        )
    return plan


def next_rung(plan: SweepPlan, found: Sequence[tuple[float, float]]) -> int | None:
    """Return how many connections the next closed loop has, or None: the ladder is done.

    Args:
        plan: the sweep's.
        found: (connections, answers a second) so far, in the order of the ladder.
    """
    if len(found) < len(plan.ladder):
        return plan.ladder[len(found)]
    try:
        knee(found)
    except UslError:
        longer = round(found[-1][0] * LONGER)
        return longer if longer <= CONNECTIONS_MAX else None
    return None


def times(plan: SweepPlan, rate_per_s: float, best_per_s: float) -> int:
    """Return how often an open loop is made."""
    return plan.repeat if rate_per_s <= CALM_PART * best_per_s else 1


def median_by_p99(points: Sequence[Point]) -> Point:
    """Return the point that stands in the middle; of an even number the faster one of two."""
    return sorted(points, key=lambda one: one.p99_ms)[(len(points) - 1) // 2]


def offered(plan: SweepPlan, best_per_s: float) -> list[tuple[float, float]]:
    """Return (offered requests a second, share of them that is refused) of each open loop, smallest rate first."""
    own = [(rate, 0.0) for rate in plan.rates_per_s]
    shares = [
        (max(RATE_MIN_PER_S, float(math.ceil(load.part * best_per_s))), load.refused_share)
        for load in plan.loads
        if load.refused_share or not own
    ]
    return sorted([*own, *shares], key=lambda one: (one[1], one[0]))
