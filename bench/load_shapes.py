"""When a crowd arrives: shapes of load as values, and the moments at which their requests are due. Pure.

A shape says how many requests are due up to any moment; request `i` (from 0) is due when that reaches `i`. Several
processes share one shape: part `p` of `n` sends the requests p, p + n, … of it.
"""

import array
import csv
import io
import itertools
import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import msgspec

from bench.errors import BenchError
from bench.load_schedule import Schedule

SECONDS_MAX: Final = 86_400.0
REQUESTS_MAX: Final = 20_000_000
"""Of one run: each process keeps eight bytes of each of its requests, or sixteen."""
RATE_MAX_PER_S: Final = 1_000_000.0
REPLAY_SECONDS_MAX: Final = 10_800
"""A recording is handed to the processes as an argument of their command."""
STEPS_MAX: Final = 1_000
_ROUNDING: Final = 1e-9


class Constant(msgspec.Struct, frozen=True, kw_only=True, tag_field="shape", tag="constant"):
    """The same rate all the time."""

    rate_per_s: float
    seconds: float


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="shape", tag="step"):
    """One rate after the other, each for so many seconds."""

    rates_per_s: tuple[float, ...]
    seconds_each: float


class Spike(msgspec.Struct, frozen=True, kw_only=True, tag_field="shape", tag="spike"):
    """A base rate, then a straight rise to the peak, the peak held, and a straight way back to the base."""

    base_per_s: float
    peak_per_s: float
    lead_s: float
    rise_s: float
    hold_s: float
    decay_s: float


class Poisson(msgspec.Struct, frozen=True, kw_only=True, tag_field="shape", tag="poisson"):
    """Independent arrivals at a mean rate (a Poisson process); the same seed makes the same arrivals."""

    rate_per_s: float
    seconds: float
    seed: int


class Replay(msgspec.Struct, frozen=True, kw_only=True, tag_field="shape", tag="replay"):
    """So many requests in each second, evenly spaced within it."""

    counts: tuple[int, ...]


Shape = Constant | Step | Spike | Poisson | Replay


class Arrivals(Protocol):
    """One part's share of a shape, from a start on."""

    @property
    def total(self) -> int:
        """How many requests this part sends."""

    def due_s(self, index: int) -> float:
        """Return when our request number `index` (from 0) is due, monotonic seconds."""

    @property
    def interval_s(self) -> float:
        """The time between two of our requests where they are closest, about."""


class Piece(NamedTuple):
    """A stretch in which the rate goes straight from one value to another."""

    seconds: float
    from_per_s: float
    to_per_s: float


def pieces(shape: Constant | Step | Spike | Replay) -> list[Piece]:
    """Return a shape as stretches one after the other."""
    match shape:
        case Constant():
            return [Piece(shape.seconds, shape.rate_per_s, shape.rate_per_s)]
        case Step():
            return [Piece(shape.seconds_each, rate, rate) for rate in shape.rates_per_s]
        case Spike():
            base, peak = shape.base_per_s, shape.peak_per_s
            found = [
                Piece(shape.lead_s, base, base),
                Piece(shape.rise_s, base, peak),
                Piece(shape.hold_s, peak, peak),
                Piece(shape.decay_s, peak, base),
            ]
            return [one for one in found if one.seconds > 0]
        case Replay():
            return [Piece(1.0, float(count), float(count)) for count in shape.counts]


def duration_s(shape: Shape) -> float:
    """Return how long a shape lasts."""
    match shape:
        case Constant() | Poisson():
            return shape.seconds
        case Step():
            return shape.seconds_each * len(shape.rates_per_s)
        case Spike():
            return shape.lead_s + shape.rise_s + shape.hold_s + shape.decay_s
        case Replay():
            return float(len(shape.counts))


def peak_per_s(shape: Shape) -> float:
    """Return the highest rate of a shape; of a Poisson process, its mean."""
    if isinstance(shape, Poisson):
        return shape.rate_per_s
    return max(max(one.from_per_s, one.to_per_s) for one in pieces(shape))


def expected(shape: Shape) -> int:
    """Return how many requests a shape has; of a Poisson process, the mean, rounded up."""
    if isinstance(shape, Poisson):
        return math.ceil(shape.rate_per_s * shape.seconds)
    return Curve(pieces(shape)).total


class Curve:
    """How many requests are due up to a moment, and the reverse; both from the shape's start."""

    def __init__(self, stretches: Sequence[Piece]) -> None:
        self._pieces = stretches
        areas = [one.seconds * (one.from_per_s + one.to_per_s) / 2 for one in stretches]
        self._counts = list(itertools.accumulate(areas, initial=0.0))
        self._starts_s = list(itertools.accumulate((one.seconds for one in stretches), initial=0.0))

    @property
    def total(self) -> int:
        """How many requests there are."""
        return math.ceil(self._counts[-1] - _ROUNDING)

    def before(self, at_s: float) -> int:
        """Return how many requests are due before a moment."""
        number = min(bisect_right(self._starts_s, at_s) - 1, len(self._pieces) - 1)
        one, after_s = self._pieces[number], at_s - self._starts_s[number]
        if after_s >= one.seconds:
            return self.total
        slope = (one.to_per_s - one.from_per_s) / one.seconds
        return math.ceil(self._counts[number] + after_s * (one.from_per_s + slope * after_s / 2) - _ROUNDING)

    def at_s(self, count: int) -> float:
        """Return when request number `count` (from 0) is due."""
        number = min(bisect_right(self._counts, count) - 1, len(self._pieces) - 1)
        one, more = self._pieces[number], count - self._counts[number]
        if more <= 0:
            return self._starts_s[number]
        # The root of more = from·t + slope·t²/2 in the form that does not cancel out, for rises and falls alike.
        slope = (one.to_per_s - one.from_per_s) / one.seconds
        under = max(0.0, one.from_per_s * one.from_per_s + 2 * slope * more)
        return self._starts_s[number] + min(one.seconds, 2 * more / (one.from_per_s + math.sqrt(under)))


@dataclass(frozen=True, slots=True)
class OnCurve:
    """A part's arrivals along a curve."""

    start_s: float
    curve: Curve
    peak_per_s: float
    part: int
    parts: int

    @property
    def total(self) -> int:
        """See Arrivals."""
        return max(0, (self.curve.total - self.part + self.parts - 1) // self.parts)

    def due_s(self, index: int) -> float:
        """See Arrivals."""
        return self.start_s + self.curve.at_s(self.part + index * self.parts)

    @property
    def interval_s(self) -> float:
        """See Arrivals."""
        return self.parts / self.peak_per_s


@dataclass(frozen=True, slots=True)
class AtMoments:
    """A part's arrivals at moments that are kept, seconds from the start."""

    start_s: float
    moments_s: "array.array[float]"
    mean_s: float

    @property
    def total(self) -> int:
        """See Arrivals."""
        return len(self.moments_s)

    def due_s(self, index: int) -> float:
        """See Arrivals."""
        return self.start_s + self.moments_s[index]

    @property
    def interval_s(self) -> float:
        """See Arrivals."""
        return self.mean_s


def moments(shape: Poisson) -> Iterator[float]:
    """Yield when the requests of a Poisson process are due, seconds from its start."""
    chance = random.Random(shape.seed)  # noqa: S311 -- no secret, and it must come out the same again
    at_s = chance.expovariate(shape.rate_per_s)
    while at_s < shape.seconds:
        yield at_s
        at_s += chance.expovariate(shape.rate_per_s)


def arrivals(shape: Shape, start_s: float, part: int = 0, parts: int = 1) -> Arrivals:
    """Return one part's share of a shape that starts at a monotonic time."""
    match shape:
        case Constant():
            return Schedule(start_s, shape.rate_per_s, shape.seconds, part, parts)
        case Poisson():
            ours = itertools.islice(moments(shape), part, REQUESTS_MAX, parts)
            return AtMoments(start_s, array.array("d", ours), parts / shape.rate_per_s)
        case _:
            return OnCurve(start_s, Curve(pieces(shape)), peak_per_s(shape), part, parts)


def counts_by_second(shape: Shape) -> list[int]:
    """Return how many requests are due in each second of a shape; together they are all of them."""
    seconds = max(1, math.ceil(duration_s(shape) - _ROUNDING))
    if isinstance(shape, Poisson):
        found = Counter(int(at_s) for at_s in itertools.islice(moments(shape), REQUESTS_MAX))
        return [found[second] for second in range(seconds)]
    curve = Curve(pieces(shape))
    marks = [curve.before(float(second)) for second in range(seconds)] + [curve.total]
    return [later - earlier for earlier, later in itertools.pairwise(marks)]


# -- what people write down ------------------------------------------------------------------------------------------


def check(shape: Shape) -> None:
    """Refuse a shape that has nothing in it, or more than a run may.

    Raises:
        BenchError: says which bound.
    """
    if isinstance(shape, Step) and not 1 <= len(shape.rates_per_s) <= STEPS_MAX:
        raise BenchError(f"--rates: give 1 to {STEPS_MAX:,} rates")
    if isinstance(shape, Replay) and not 1 <= len(shape.counts) <= REPLAY_SECONDS_MAX:
        raise BenchError(f"--file: a recording may last 1 to {REPLAY_SECONDS_MAX:,} seconds")
    if not isinstance(shape, Replay) and not 0 < duration_s(shape) <= SECONDS_MAX:
        raise BenchError(f"the schedule lasts {duration_s(shape):g} s; it may last up to {SECONDS_MAX:,.0f} s")
    rates = [shape.rate_per_s] if isinstance(shape, Poisson) else [r for one in pieces(shape) for r in one[1:]]
    if any(not 0 <= rate <= RATE_MAX_PER_S for rate in rates):
        raise BenchError(f"rates are from 0 to {RATE_MAX_PER_S:,.0f} a second")
    if isinstance(shape, Spike) and shape.peak_per_s < shape.base_per_s:
        raise BenchError("--peak must not be below --base")
    if not (max(rates) > 0 and 1 <= expected(shape) <= REQUESTS_MAX):
        raise BenchError(f"the schedule has {expected(shape):,} requests; it may have 1 to {REQUESTS_MAX:,}")


def read_replay(text: str, source: str) -> Replay:
    """Return the recording in a CSV of `second,count`, a line a second; the first second is the start.

    A first line of words is passed over. Seconds that are left out have no requests.

    Raises:
        BenchError: names the line.
    """
    counts: list[int] = []
    first: int | None = None
    for number, row in enumerate(csv.reader(io.StringIO(text)), start=1):
        if not row or (number == 1 and not row[0].strip().lstrip("-").isdigit()):
            continue
        try:
            second, count = (int(cell) for cell in row)
        except ValueError:
            raise BenchError(f"{source}, line {number}: not `second,count`, two whole numbers") from None
        first = second if first is None else first
        if second - first < len(counts) or count < 0:
            raise BenchError(f"{source}, line {number}: seconds must rise, and counts be 0 or more")
        if second - first >= REPLAY_SECONDS_MAX:
            raise BenchError(f"{source}, line {number}: a recording may last up to {REPLAY_SECONDS_MAX:,} seconds")
        counts += [0] * (second - first - len(counts)) + [count]
    if not counts:
        raise BenchError(f"{source}: there is no line `second,count`")
    return Replay(counts=tuple(counts))


def read_rates(text: str) -> tuple[float, ...]:
    """Return the rates of `100,200,400`.

    Raises:
        BenchError: it is no list of numbers.
    """
    try:
        rates = tuple(float(cell) for cell in text.split(","))
    except ValueError:
        raise BenchError(f"--rates: {text!r}: give numbers with commas between them, such as 100,200,400") from None
    if not all(math.isfinite(rate) for rate in rates):
        raise BenchError("--rates: give finite numbers")
    return rates
