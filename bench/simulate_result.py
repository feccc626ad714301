"""What a simulated peak came to. Pure."""

import math
from typing import Final

import msgspec

NETWORK_PARTS: Final = 16
"""A lognormal way is counted as so many equally likely ones."""
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
STEP: Final = 1.02
"""Latencies are counted in classes, each 2% wider than the one before."""
LOWEST_MS: Final = 0.01
_PER_LOG: Final = 1 / math.log(STEP)


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """How things stood.

    Attributes:
        at_s: since ten o'clock.
        offered_per_s: requests that came in, a second, lately.
        gateway_queue: requests that wait for a worker.
        redis_queue: orders that wait for their script call.
        outbox, kafka: orders that wait for the relay, for a consumer.
        accepted, answered: so far.
        stored: orders in MySQL.
        busy: component → share used of the cores it may use, lately.
    """

    at_s: float
    offered_per_s: float
    gateway_queue: int
    redis_queue: int
    outbox: int
    kafka: int
    accepted: int
    answered: int
    stored: int
    busy: dict[str, float]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The whole peak.

    Attributes:
        users: who came.
        requests: that they sent, retries among them.
        accepted: orders.
        units: that were on sale.
        turned_away: why → users who left without an order: `SOLD_OUT`, or `BUSY` or `RATE_LIMITED` to the last try.
        refusals: why → answers, retries among them. `BUSY` is told by a worker, `CONNECTIONS` at its door.
        waiting: users who had no last word when the simulation ended; 0 if it ran to its end.
        sold_out_s: when the last unit was sold; None: it never was.
        first_sold_out_s: when the first SKU was.
        seconds: until everybody had his answer.
        achieved_per_s: answers a second until then.
        peak_offered_per_s: the most that came in a second.
        p50_ms to p99_9_ms: of all answers, from when a buyer sent his request.
        accepted_p99_ms: of the orders alone.
        gateway_queue_max, redis_queue_max, outbox_max, kafka_max: the longest they were.
        drained_s: when MySQL had every order.
        drain_s: from the last order until then.
        cores_busy: share of the cores that all share which is used by what is on the way from the driver to Kafka, on
            average over the answers; 0 without a curve.
        busy_max: component → the largest share used of the cores it may use, over a sample.
        samples: how things stood over time.
    """

    users: int
    requests: int
    accepted: int
    units: int
    turned_away: dict[str, int]
    refusals: dict[str, int]
    waiting: int
    sold_out_s: float | None
    first_sold_out_s: float | None
    seconds: float
    achieved_per_s: float
    peak_offered_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p99_9_ms: float
    accepted_p99_ms: float
    gateway_queue_max: int
    redis_queue_max: int
    outbox_max: int
    kafka_max: int
    drained_s: float
    drain_s: float
    cores_busy: float
    busy_max: dict[str, float]
    samples: list[Sample]


class Latencies:
    """Counts of latencies, in classes."""

    def __init__(self) -> None:
        self._counts: dict[int, float] = {}

    def add(self, ms: float, count: float) -> None:
        """Count so many answers."""
        number = max(0, round(math.log(max(ms, LOWEST_MS) / LOWEST_MS) * _PER_LOG))
        self._counts[number] = self._counts.get(number, 0.0) + count

    def percentiles(self, wanted: tuple[float, ...], ways_ms: list[float]) -> list[float]:
        """Return latencies at percentiles, after each of equally likely ways was added to each latency."""
        ways = ways_ms or [0.0]
        spread = sorted(
            (LOWEST_MS * STEP**number + way, count / len(ways))
            for number, count in self._counts.items()
            for way in ways
        )
        total = sum(count for _, count in spread)
        found, seen, at = [], 0.0, 0
        for one in wanted:
            while at < len(spread) - 1 and seen + spread[at][1] < total * one / 100 - 1e-9:
                seen += spread[at][1]
                at += 1
            found.append(round(spread[at][0], 3) if spread else 0.0)
        return found


def ways(median_ms: float, sigma: float) -> list[float]:
    """Return equally likely round trips of a lognormal network, ms; none if there is no network."""
    if median_ms <= 0:
        return []
    return [median_ms * math.exp(sigma * _normal((at + 0.5) / NETWORK_PARTS)) for at in range(NETWORK_PARTS)]


def _normal(share: float) -> float:
    """Return the quantile of the standard normal distribution, by bisection of its distribution function."""
    low, high = -8.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        if (1 + math.erf(middle / math.sqrt(2))) / 2 < share:
            low = middle
        else:
            high = middle
    return low
