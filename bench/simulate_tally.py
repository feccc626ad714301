"""Counts what happens in a simulated peak: answers and their latency, who left and why, how full and busy things were.

Pure.
"""

from typing import Final

from bench.capacity_costs import US_PER_S
from bench.capacity_facts import CONSUMER, MYSQL
from bench.simulate_curve import latencies_ms
from bench.simulate_line import Group
from bench.simulate_plan import Model
from bench.simulate_result import PERCENTILES, Latencies, Outcome, Sample

SOLD_OUT: Final = "SOLD_OUT"
BUSY: Final = "BUSY"
RATE_LIMITED: Final = "RATE_LIMITED"
CONNECTIONS: Final = "CONNECTIONS"
CALLS_WAITED: Final = 1.5
"""An order waits for half of the outstanding call, on average, and for its own."""
BEHIND: Final = frozenset({CONSUMER, MYSQL})
"""What they use makes no buyer wait: they have a queue, and the scheduler gives them what others leave."""
BUSY_WINDOW_S: Final = 0.25
"""How busy the cores are is averaged over so long before the curve is asked."""

Queues = tuple[float, float, float, float]
"""Requests at the door, orders that wait for a script call, for the relay, for a consumer."""


class Tally:
    """What is counted.

    Args:
        model: what is simulated.
        limits: component → cores that it may use.
        ways_ms: round trips through the network, equally likely.
    """

    def __init__(self, model: Model, limits: dict[str, float], ways_ms: list[float]) -> None:
        self._m = model
        self._dt = model.slot_s
        self._limits = limits
        self._ways_ms = ways_ms
        self.requests = self.offered_now = self.drained_s = 0.0
        self._accepted = self._answered = 0.0
        self._turned_away: dict[str, float] = {}
        self._refusals: dict[str, float] = {}
        self._all, self._orders = Latencies(), Latencies()
        self._told: list[tuple[float, float, bool]] = []
        self._used = dict.fromkeys(limits, 0.0)
        self._used_now_us = self._busy = self._settled_s = self._busy_sum = self._busy_count = 0.0
        self._offered_max = 0.0
        self._busy_max = dict.fromkeys(limits, 0.0)
        self._queues_max = [0.0] * 4
        self._first_sold_out_s: float | None = None
        self._sold_out_s: float | None = None
        self._last_order_s = self._last_answer_s = 0.0
        self._samples: list[Sample] = []

    def tell(self, slot: int, group: Group, why: str = "") -> None:
        """Count an answer; `why` it was no order."""
        self._answered += group.total
        self._last_answer_s = slot * self._dt
        if why:
            self._refusals[why] = self._refusals.get(why, 0.0) + group.total
        else:
            self._accepted += group.total
            self._last_order_s = slot * self._dt
        waited_ms = max(0, slot - group.since) * self._dt * 1000
        if self._m.curve is None:
            asked_redis = not why or why == RATE_LIMITED
            waited_ms += CALLS_WAITED * self._m.call_ms if asked_redis else 0.0
            self._count(waited_ms, group.total, is_order=not why)
        else:
            self._told.append((waited_ms, group.total, not why))

    def turn_away(self, count: float, why: str) -> None:
        """Count buyers who leave without an order."""
        self._turned_away[why] = self._turned_away.get(why, 0.0) + count

    def sold_out(self, slot: int, *, everything: bool) -> None:
        """Take note that a SKU, or everything, has nothing left."""
        now_s = round(slot * self._dt, 3)
        if self._first_sold_out_s is None:
            self._first_sold_out_s = now_s
        if everything and self._sold_out_s is None:
            self._sold_out_s = now_s

    def use(self, name: str, us: float) -> None:
        """Count CPU time of a component."""
        self._used[name] += us
        if name not in BEHIND:
            self._used_now_us += us

    def settle(self, queues: Queues) -> None:
        """End a slot: its answers get the latency that was measured at this load, if there is a curve."""
        for number, waiting in enumerate(queues):
            self._queues_max[number] = max(self._queues_max[number], waiting)
        used = self._used_now_us / (self._dt * US_PER_S) + self._m.fleet.at_rest
        self._used_now_us = 0.0
        if self._m.curve is None or not self._m.fleet.cores:
            return
        self._settled_s += self._dt
        over_s = min(BUSY_WINDOW_S, self._settled_s)  # what was before the beginning does not count as idle
        self._busy += (used / self._m.fleet.cores - self._busy) * min(1.0, self._dt / over_s)
        total = sum(count for _, count, _ in self._told)
        if total > 0:
            orders = sum(count for _, count, is_order in self._told if is_order)
            self._busy_sum += self._busy * total
            self._busy_count += total
            parts = latencies_ms(self._m.curve, self._busy, orders / total)
            for waited_ms, count, is_order in self._told:
                # Waiting within a slot is in the measured latency already.
                queued_ms = max(0.0, waited_ms - self._dt * 1000)
                for own_ms, part in parts:
                    self._count(queued_ms + own_ms, count * part, is_order=is_order)
        self._told.clear()

    def sample(self, slot: int, slots: int, queues: Queues, stored: float) -> None:
        """Take down how things stand, and how they were over the last so many slots."""
        over_s = slots * self._dt
        busy = {name: round(us / US_PER_S / over_s / self._limits[name], 4) for name, us in self._used.items()}
        for name, share in busy.items():
            self._busy_max[name] = max(self._busy_max[name], share)
        offered_per_s = self.offered_now / over_s
        self._offered_max = max(self._offered_max, offered_per_s)
        self._used = dict.fromkeys(self._used, 0.0)
        self.offered_now = 0.0
        door, calls, outbox, kafka = (round(waiting) for waiting in queues)
        self._samples.append(
            Sample(
                at_s=round(slot * self._dt, 3),
                offered_per_s=round(offered_per_s, 1),
                gateway_queue=door,
                redis_queue=calls,
                outbox=outbox,
                kafka=kafka,
                accepted=round(self._accepted),
                answered=round(self._answered),
                stored=round(stored),
                busy=busy,
            )
        )

    def thin_out(self, samples_max: int) -> bool:
        """Forget every second sample if there are so many; returns whether there were."""
        too_many = len(self._samples) >= samples_max
        if too_many:
            del self._samples[::2]
        return too_many

    def outcome(self) -> Outcome:
        """Return all of it."""
        p50, p90, p99, p99_9 = self._all.percentiles(PERCENTILES, self._ways_ms)
        crowd = self._m.crowd
        seconds = self._last_answer_s + self._dt
        door, calls, outbox, kafka = (round(most) for most in self._queues_max)
        return Outcome(
            users=crowd.users,
            requests=round(self.requests),
            accepted=round(self._accepted),
            units=crowd.stock * crowd.skus,
            turned_away=_whole(self._turned_away),
            refusals=_whole(self._refusals),
            waiting=max(0, round(crowd.users - self._accepted - sum(self._turned_away.values()))),
            sold_out_s=self._sold_out_s,
            first_sold_out_s=self._first_sold_out_s,
            seconds=round(seconds, 3),
            achieved_per_s=round(self._answered / seconds, 1),
            peak_offered_per_s=round(self._offered_max, 1),
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            p99_9_ms=p99_9,
            accepted_p99_ms=self._orders.percentiles((99.0,), self._ways_ms)[0],
            gateway_queue_max=door,
            redis_queue_max=calls,
            outbox_max=outbox,
            kafka_max=kafka,
            drained_s=round(self.drained_s, 3),
            drain_s=round(max(0.0, self.drained_s - self._last_order_s), 3),
            cores_busy=round(self._busy_sum / self._busy_count, 4) if self._busy_count else 0.0,
            busy_max=self._busy_max,
            samples=self._samples,
        )

    def _count(self, ms: float, count: float, *, is_order: bool) -> None:
        self._all.add(ms, count)
        if is_order:
            self._orders.add(ms, count)


def _whole(counts: dict[str, float]) -> dict[str, int]:
    return {why: round(count) for why, count in sorted(counts.items()) if round(count)}
