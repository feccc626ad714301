"""Latency of a machine that all components share, as it was measured: fitted to a sweep, asked at any load. Pure."""

import itertools
import math
from collections.abc import Sequence
from typing import Final

from bench.simulate_plan import Curve
from bench.usl import least_squares

BUSY_MAX: Final = 0.97
"""Fuller than this there is a queue, and the curve says nothing of it."""
POINTS_MIN: Final = 4
PARTS: Final = 4
"""Of the answers between two percentiles."""
WEIGHINGS: Final = 20
FAR_OFF: Final = 0.15
"""A point that is off by more than this, in the logarithm, counts less and less."""
SPREADS_MIN: Final = 0.05
"""Points whose load, or share of orders, differs by less tell nothing of its effect."""


def percentiles_ms(curve: Curve, busy: float, accepted: float) -> list[float]:
    """Return the latency at each of a curve's percentiles, never falling.

    Args:
        curve: measured.
        busy: share of the cores that is used.
        accepted: share of the answers that are orders.
    """
    x = -math.log(1 - min(BUSY_MAX, max(0.0, busy)))
    found: list[float] = []
    for level, by_busy, by_order in zip(curve.level, curve.busy, curve.order, strict=True):
        ms = math.exp(level + by_busy * x + by_order * accepted)
        found.append(max(ms, found[-1]) if found else ms)
    return found


def latencies_ms(curve: Curve, busy: float, accepted: float) -> list[tuple[float, float]]:
    """Return (latency, share of the answers that have about this one); see `percentiles_ms`.

    Between two percentiles the logarithm is a straight line; below the first and above the last all are alike.
    """
    at_ms = percentiles_ms(curve, busy, accepted)
    found = [(at_ms[0], curve.percentiles[0] / 100), (at_ms[-1], 1 - curve.percentiles[-1] / 100)]
    for (below, below_ms), (above, above_ms) in itertools.pairwise(zip(curve.percentiles, at_ms, strict=True)):
        share = (above - below) / 100 / PARTS
        found += [(below_ms * (above_ms / below_ms) ** ((part + 0.5) / PARTS), share) for part in range(PARTS)]
    return [(ms, share) for ms, share in found if share > 0]


def fit_curve(points: Sequence[tuple[float, float, Sequence[tuple[float, float]]]]) -> Curve | None:
    """Fit a curve by least squares of the logarithm; None: too few points.

    Args:
        points: (share of the cores used, share of orders among answers, (percentile, ms) of its latency), without
            those that had a queue.
    """
    if len(points) < POINTS_MIN:
        return None
    percentiles = [at for at, _ in points[0][2]]
    rows = [(1.0, -math.log(1 - min(BUSY_MAX, busy)), accepted) for busy, accepted, _ in points]
    free = [i for i in range(3) if i == 0 or _spread([row[i] for row in rows]) >= SPREADS_MIN]
    levels, busies, orders = [], [], []
    for number in range(len(percentiles)):
        values = [math.log(max(1e-3, found[number][1])) for _, _, found in points]
        at = _robust(rows, values, free)
        levels.append(at[0])
        busies.append(at.get(1, 0.0))
        orders.append(at.get(2, 0.0))
    return Curve(percentiles=percentiles, level=levels, busy=busies, order=orders)


def _robust(rows: Sequence[tuple[float, ...]], values: Sequence[float], free: Sequence[int]) -> dict[int, float]:
    """Return the coefficients of least squares that far-off points do not draw to them (Huber, by re-weighting)."""
    weights, chosen = [1.0] * len(rows), list(free)
    found: dict[int, float] = {}
    for _ in range(WEIGHINGS):
        while True:
            scaled = [tuple(row[i] * weight for i in chosen) for row, weight in zip(rows, weights, strict=True)]
            some = least_squares(scaled, [value * weight for value, weight in zip(values, weights, strict=True)])
            found = dict(zip(chosen, some, strict=True))
            wrong = [i for i, value in found.items() if i > 0 and value < 0]
            if not wrong:
                break
            chosen.remove(wrong[0])  # more load never makes it faster: that is noise
        off = [value - sum(row[i] * by for i, by in found.items()) for row, value in zip(rows, values, strict=True)]
        weights = [min(1.0, FAR_OFF / max(1e-9, abs(one))) ** 0.5 for one in off]
    return found


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)
