"""Gunther's Universal Scalability Law: throughput over concurrency, fitted to measurements. Pure, seeded.

    X(N) = lambda N / (1 + sigma (N - 1) + kappa N (N - 1))

lambda is the throughput of one, sigma the share of contention, kappa the cost of agreement between each two. For
kappa > 0 throughput has a peak at N = sqrt((1 - sigma) / kappa); see N. J. Gunther, "Guerrilla Capacity Planning",
and B. Schwartz, "Practical Scalability Analysis with the Universal Scalability Law".

The fit is non-linear least squares in X (Levenberg and Marquardt), started from the linear form
N / X = a + b (N - 1) + c N (N - 1), which is linear least squares with a = 1 / lambda, b = sigma / lambda and
c = kappa / lambda. sigma and kappa are at least 0: where the best fit has a negative one it is fitted again without it.
Three parameters are few enough to solve by hand, so no numeric library is needed.
"""

import math
import random
from collections.abc import Sequence
from typing import Final

import msgspec

POINTS_MIN: Final = 6
KNEE_SHARE: Final = 0.95
"""The knee is the smallest N that reaches this share of the highest throughput measured."""
KNEE_SPAN_MIN: Final = 1.25
"""Measurements must go on to so many times the knee's N; else nobody knows that it is one."""
STEPS_MAX: Final = 200
TOLERANCE: Final = 1e-12
DAMPING_START: Final = 1e-3
DAMPING_FACTOR: Final = 10.0
DAMPING_MAX: Final = 1e16
RESAMPLES: Final = 200
BAND_SHARE: Final = 0.9
UNSURE_TIMES: Final = 3.0
"""Where the band of what throughput never passes is wider than this, nothing is said beyond the measurements."""

Point = tuple[float, float]
"""N and X(N)."""

_Coefficients = tuple[float, float, float]
_FREE: Final = ((0, 1, 2), (0, 2), (0, 1), (0,))
"""Which coefficients are fitted; the others are 0."""


class UslError(ValueError):
    """These measurements cannot be fitted, or must not be extrapolated; the message says why and what to do."""


class Law(msgspec.Struct, frozen=True, kw_only=True):
    """The three coefficients. `lambda_` in units of throughput, the others without a unit."""

    lambda_: float
    sigma: float
    kappa: float

    def at(self, n: float) -> float:
        """Return X(N)."""
        return self.lambda_ * n / (1 + self.sigma * (n - 1) + self.kappa * n * (n - 1))

    @property
    def peak_n(self) -> float:
        """The last whole N before more is less, at least 1; infinite if there is none (kappa = 0)."""
        return math.floor(self._peak) if math.isfinite(self._peak) else math.inf

    @property
    def peak_x(self) -> float:
        """X where the curve is highest; infinite if it has no peak."""
        return self.at(self._peak) if math.isfinite(self._peak) else math.inf

    @property
    def ceiling_x(self) -> float:
        """What X never passes: its peak, or without one lambda / sigma; infinite if it has neither."""
        if self.kappa > 0:
            return self.peak_x
        return self.lambda_ / self.sigma if self.sigma > 0 else math.inf

    @property
    def _peak(self) -> float:
        return math.sqrt(max(1.0, (1 - self.sigma) / self.kappa)) if self.kappa > 0 else math.inf


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """A law and how well it says what was measured.

    Attributes:
        law: the coefficients.
        r_squared: share of the variance that it explains.
        knee_n: see `knee`.
        bands: (N, low, high) of the resampled laws, `BAND_SHARE` of them between; empty without resampling.
        peak_low, peak_high: of what throughput never passes, likewise; None: no bound, too many resamples had none.
    """

    law: Law
    r_squared: float
    knee_n: float
    bands: list[tuple[float, float, float]] = []
    peak_low: float | None = None
    peak_high: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether the measurements say how far throughput can go; if not, nothing is said beyond them."""
        if self.peak_low is None or self.peak_high is None:
            return False
        return math.isfinite(self.law.ceiling_x) and self.peak_high <= UNSURE_TIMES * self.peak_low


def fit(points: Sequence[Point]) -> Law:
    """Return the law of least squares.

    Raises:
        UslError: fewer than `POINTS_MIN` points, fewer than three N, or a value that is not positive.
    """
    if len(points) < POINTS_MIN:
        raise UslError(f"{len(points)} points: the law needs at least {POINTS_MIN}")
    if any(n < 1 or x <= 0 or not math.isfinite(n + x) for n, x in points):
        raise UslError("the law needs N >= 1 and a throughput above 0 at every point")
    if len({n for n, _ in points}) < 3:
        raise UslError("the law has three coefficients: measure at three different N at least")
    scale = max(x for _, x in points)
    scaled = [(n, x / scale) for n, x in points]
    tried = [_refine(_start(scaled, free), scaled, free) for free in _FREE]
    lambda_, sigma, kappa = min((one for one in tried if one[1] >= 0 and one[2] >= 0), key=lambda at: _lost(at, scaled))
    return Law(lambda_=lambda_ * scale, sigma=sigma, kappa=kappa)


def knee(points: Sequence[Point]) -> float:
    """Return the smallest N whose mean throughput is nearly the highest of all.

    Raises:
        UslError: the measurements stop before or at the knee.
    """
    means = _means(points)
    best = max(x for _, x in means)
    knee_n = next(n for n, x in means if x >= KNEE_SHARE * best)
    last_n = means[-1][0]
    if last_n < KNEE_SPAN_MIN * knee_n:
        raise UslError(
            f"no points past the knee: throughput still rises at N = {last_n:g}, the largest that was measured; a law "
            f"fitted to it says nothing about what lies beyond. Measure on to N = {math.ceil(2 * last_n)}"
        )
    return knee_n


def extrapolate(points: Sequence[Point], *, seed: int = 0, resamples: int = RESAMPLES) -> Fit:
    """Fit, and tell how sure that is: the law may be used beyond the points.

    Bands come from residual resampling (Efron's bootstrap): residuals are drawn anew, relative to the fit, and the
    law is fitted again.

    Raises:
        UslError: see `fit` and `knee`.
    """
    law, knee_n = fit(points), knee(points)
    grid = _grid(max(n for n, _ in points))
    laws = _resampled(law, points, resamples, random.Random(seed))  # noqa: S311 -- statistics, no secret
    bands = []
    for n in grid if laws else []:
        low, high = _middle([one.at(n) for one in laws])
        bands.append((n, low, high))
    peaks = sorted(one.ceiling_x for one in laws)
    low, high = _middle(peaks) if peaks else (math.inf, math.inf)
    mean = sum(x for _, x in points) / len(points)
    lost = sum((x - law.at(n)) ** 2 for n, x in points)
    return Fit(
        law=law,
        r_squared=1 - lost / max(1e-300, sum((x - mean) ** 2 for _, x in points)),
        knee_n=knee_n,
        bands=bands,
        peak_low=low if math.isfinite(low) else None,
        peak_high=high if math.isfinite(high) else None,
    )


def _means(points: Sequence[Point]) -> list[Point]:
    values: dict[float, list[float]] = {}
    for n, x in points:
        values.setdefault(n, []).append(x)
    return [(n, sum(xs) / len(xs)) for n, xs in sorted(values.items())]


def _grid(last_n: float) -> list[float]:
    """Return where bands are told: 40 steps to twice the last measurement."""
    return sorted({max(1.0, round(2 * last_n * step / 40, 2)) for step in range(41)})


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """Return what `BAND_SHARE` of the values lie between."""
    ordered, cut = sorted(values), (1 - BAND_SHARE) / 2
    last = len(ordered) - 1
    return ordered[round(cut * last)], ordered[round((1 - cut) * last)]


def _resampled(law: Law, points: Sequence[Point], resamples: int, chance: random.Random) -> list[Law]:
    ratios = [x / law.at(n) for n, x in points]
    spare = math.sqrt(len(points) / max(1, len(points) - 3))  # residuals of a fit are smaller than the errors
    found = []
    for _ in range(resamples):
        drawn = [(n, max(1e-9, law.at(n) * (1 + spare * (chance.choice(ratios) - 1)))) for n, _ in points]
        one = fit(drawn)
        if all(one.at(n) > 0 for n, _ in points):
            found.append(one)
    return found


def _start(points: Sequence[Point], free: Sequence[int]) -> _Coefficients:
    """Return the coefficients of the linear form, weighted so that errors count as they do in X."""
    rows = [(x, x * (n - 1), x * n * (n - 1)) for n, x in points]  # times X: N / X has errors of 1 / X
    a, *others = least_squares([tuple(row[i] for i in free) for row in rows], [n for n, _ in points])
    if a <= 0:
        n, x = min(points)
        return x / n, 0.0, 0.0
    found = [1 / a, 0.0, 0.0]
    for i, value in zip(free[1:], others, strict=True):
        found[i] = value / a
    start = (found[0], found[1], found[2])
    return start if math.isfinite(_lost(start, points)) else (1 / a, 0.0, 0.0)


def _refine(start: _Coefficients, points: Sequence[Point], free: Sequence[int]) -> _Coefficients:
    """Step downhill until nothing gets better."""
    best, damping, lost = start, DAMPING_START, _lost(start, points)
    for _ in range(STEPS_MAX):
        rows, residuals = _jacobian(best, points)
        rows = [tuple(row[i] for i in free) for row in rows]
        normal, right = _normal(rows), _against(rows, residuals)
        while damping < DAMPING_MAX:
            tried = _stepped(best, free, _solve(_damped(normal, damping), right))
            now = _lost(tried, points)
            if now < lost:
                break
            damping *= DAMPING_FACTOR
        else:
            return best
        gained, best, lost, damping = lost - now, tried, now, damping / DAMPING_FACTOR
        if gained <= TOLERANCE * lost:
            return best
    return best


def _damped(normal: Sequence[Sequence[float]], damping: float) -> list[list[float]]:
    return [[value * (1 + damping * (i == j)) for j, value in enumerate(row)] for i, row in enumerate(normal)]


def _stepped(at: _Coefficients, free: Sequence[int], step: Sequence[float]) -> _Coefficients:
    found = list(at)
    for i, by in zip(free, step, strict=True):
        found[i] += by
    return found[0], found[1], found[2]


def _divisor(sigma: float, kappa: float, n: float) -> float:
    return 1 + sigma * (n - 1) + kappa * n * (n - 1)


def _lost(at: _Coefficients, points: Sequence[Point]) -> float:
    """Return the sum of squares; infinite where the law has no meaning."""
    lambda_, sigma, kappa = at
    if lambda_ <= 0 or any(_divisor(sigma, kappa, n) <= 0 for n, _ in points):
        return math.inf
    return sum((x - lambda_ * n / _divisor(sigma, kappa, n)) ** 2 for n, x in points)


def _jacobian(at: _Coefficients, points: Sequence[Point]) -> tuple[list[tuple[float, ...]], list[float]]:
    lambda_, sigma, kappa = at
    rows: list[tuple[float, ...]] = []
    residuals: list[float] = []
    for n, x in points:
        divisor = _divisor(sigma, kappa, n)
        value = lambda_ * n / divisor
        rows.append((n / divisor, -value * (n - 1) / divisor, -value * n * (n - 1) / divisor))
        residuals.append(x - value)
    return rows, residuals


def _normal(rows: Sequence[tuple[float, ...]]) -> list[list[float]]:
    width = len(rows[0])
    return [[sum(row[i] * row[j] for row in rows) for j in range(width)] for i in range(width)]


def _against(rows: Sequence[tuple[float, ...]], values: Sequence[float]) -> list[float]:
    return [sum(row[i] * value for row, value in zip(rows, values, strict=True)) for i in range(len(rows[0]))]


def _solve(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """Solve a small system by elimination with pivots; a column without one gets 0."""
    size = len(right)
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    scale = [abs(matrix[i][i]) or 1.0 for i in range(size)]
    used: list[int | None] = [None] * size
    free = list(range(size))
    for column in range(size):
        pivot = max(free, key=lambda i: abs(rows[i][column]), default=None)
        if pivot is None or abs(rows[pivot][column]) <= 1e-14 * scale[column]:
            continue
        free.remove(pivot)
        used[column] = pivot
        for i in range(size):
            if i != pivot:
                factor = rows[i][column] / rows[pivot][column]
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[pivot], strict=True)]
    return [0.0 if at is None else rows[at][size] / rows[at][column] for column, at in enumerate(used)]


def least_squares(rows: Sequence[tuple[float, ...]], values: Sequence[float]) -> list[float]:
    """Return the coefficients b that bring rows times b nearest to the values; 0 for a column that says nothing."""
    return _solve(_normal(rows), _against(rows, values))
