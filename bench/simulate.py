"""A ten o'clock peak, simulated: where a crowd waits, what it is told, and when MySQL has every order. Pure, seeded.

Time goes in slots of some milliseconds. Buyers who come in the same slot are one group, so five million of them cost no
more than five; within a slot requests are a fluid. Work and memory are bounded whatever is asked for: slots by
`simulate_plan.SLOTS_MAX`, the groups of a slot and of a line by `simulate_line`.

Modelled: the crowd's arrival and its SKUs (Zipf), the way through the network (lognormal), retries with and without
`Retry-After`; gateway workers as servers with one core each and a common queue, refusals from memory (sold out, the
in-flight bound, the door's bound on connections); group commit: each worker has one script call outstanding per shard,
what comes meanwhile is the next batch; Redis shards as one core each with a cost for a call and one for an order, the
campaign's bucket, stock per SKU; relay, Kafka, consumers and MySQL as queues behind, each with its cost; on one machine
also that all of them share its cores, equally among those who want them, the load driver among them.

Not modelled: what turning a connection away costs a worker, waiting of less than a slot, an order that is decided after
its buyer was told that it took too long, several orders of a buyer and his own bucket, payments and expiry, TCP's slow
start and lost packets, TLS, uneven spreading of connections over workers, garbage collection, disks that fill, a
component that fails. With many retries (more than `simulate_line.TRY_CLASSES` tells apart) a buyer's tries are a mean.
Behind Redis only throughput is modelled, for it is in no buyer's way (`durability = "redis"`).
"""

import math
import random
from collections import Counter, deque
from typing import Final

from bench.capacity_costs import US_PER_S
from bench.capacity_facts import CONSUMER, DRIVER, GATEWAY, KAFKA, MYSQL, REDIS, RELAY
from bench.simulate_cores import Cores
from bench.simulate_line import Calendar, Group, Line
from bench.simulate_plan import SLOTS_MAX, Model, check
from bench.simulate_result import Outcome, ways
from bench.simulate_shelf import Shelf
from bench.simulate_tally import BUSY, CONNECTIONS, RATE_LIMITED, SOLD_OUT, Tally

SAMPLES: Final = 200
"""At about so many times it is told how things stood."""
BACK_PARTS: Final = 8
"""Those who are told to come back do so at so many moments."""
PASSES_MAX: Final = 4
"""On shared cores what one leaves goes to the others, so often in a slot."""
LEFT_MIN_US: Final = 1e-3
"""Nothing is begun with less CPU time."""
BURST_S: Final = 1.0
"""The campaign's bucket holds so many seconds of its rate."""


NOBODY: Final = 1e-3
"""A line with less than this is empty: what is left of a fluid by rounding."""
DRAIN_STEPS: Final = 50
"""While MySQL drains and no buyer waits, a step is as long as this part of the time since then."""


def _delays(slots: list[float]) -> list[tuple[int, float]]:
    """Return (whole slots, share of the buyers) of equally likely delays."""
    counts = Counter(round(one) for one in slots)
    return [(delay, count / len(slots)) for delay, count in sorted(counts.items())]


class Peak:
    """One simulation. `steps` and `groups_max`: how much work it was, and how many groups it held at most."""

    def __init__(self, model: Model) -> None:
        self._m = check(model)
        crowd, fleet, costs = model.crowd, model.fleet, model.costs
        self._dt = model.slot_s
        self._chance = random.Random(model.seed)  # noqa: S311 -- a simulation, no secret
        weights = [1 / (rank**crowd.zipf) for rank in range(1, crowd.skus + 1)]
        wanted = [(weight / sum(weights) * (1 - crowd.sold_out_share), crowd.stock) for weight in weights]
        if crowd.sold_out_share:
            wanted.append((crowd.sold_out_share, 0))
        self._shelf = Shelf([one for one in wanted if one[0] > 0])
        self._ways_ms = ways(crowd.network_ms, crowd.network_sigma)
        self._one_way = _delays([way / 2000 / self._dt for way in self._ways_ms] or [0.0])
        self._pressing, self._coming = Calendar(crowd.retries_max), Calendar(crowd.retries_max)
        self._drivers, self._door, self._calls = Line(), Line(), Line()
        self._us = {name: costs.of(name) for name in (GATEWAY, REDIS, RELAY, KAFKA, CONSUMER, MYSQL, DRIVER)}
        self.cores = Cores(fleet, self._dt)
        self._call_debt_us = self._outbox = self._kafka = self._stored = self._entries = 0.0
        self._fresh: deque[float] = deque([0.0] * max(1, round(model.limits.linger_s / self._dt)))
        self._lanes_s = 0.0
        self._tokens = model.limits.admit_per_s * BURST_S
        self._tally = Tally(model, self.cores.limits, self._ways_ms)
        self._rising = self._rise()
        self._later = {told: self._delays_of_retries(told=told) for told in (False, True)}
        self.steps = self.groups_max = 0

    # -- the crowd ---------------------------------------------------------------------------------------------------

    def _rise(self) -> list[int]:
        """Return how many come in each slot; exactly everybody together."""
        crowd = self._m.crowd
        slots = max(1, round(crowd.rise_s / self._dt))
        shape = [1.0 - (at + 0.5) / slots if crowd.shape == "decline" else 1.0 for at in range(slots)]
        left, weight_left, found = crowd.users, sum(shape), []
        for weight in shape[:-1]:
            share = min(1.0, weight / weight_left)
            mean, spread = left * share, math.sqrt(left * share * (1 - share))
            # An even arrival on one machine is a driver's, which goes by the clock.
            drawn = mean if self._m.fleet.drivers else self._chance.gauss(mean, spread)
            found.append(min(left, max(0, round(drawn))))
            left, weight_left = left - found[-1], weight_left - weight
        return [*found, left]

    def _delays_of_retries(self, *, told: bool) -> list[tuple[int, float]]:
        """Return (slots, share of those who come back then)."""
        moments = [(at + 0.5) / BACK_PARTS for at in range(BACK_PARTS)]
        if told:
            waits_s = [self._m.limits.retry_after_s * (1 + moment) for moment in moments]
        else:
            waits_s = [-self._m.crowd.impatience_s * math.log(1 - moment) for moment in moments]
        return _delays([max(1.0, wait_s / self._dt) for wait_s in waits_s])

    def _send(self, slot: int) -> None:
        """Have buyers press the button: they reach the gateway after half of their round trip.

        Their latency counts from when they get there; what is on its way is added to it at the end.
        """
        sent = self._pressing.take(slot)
        if slot < len(self._rising) and self._rising[slot]:
            sent.append(Group(slot, 0, float(self._rising[slot]), 0))
        for group in sent:
            self._tally.requests += group.total
            mix_class = self._shelf.mix_class(group.mix)
            for delay, share in self._one_way:
                there = Group(slot + delay, group.tries, group.total * share, group.mix)
                self._coming.put(slot + delay, there, mix_class)

    def _come_back(self, slot: int, group: Group, why: str) -> None:
        """Have buyers who were put off try again, or give up."""
        self._tally.tell(slot, group, why)
        if group.tries >= self._m.crowd.retries_max - 1e-6:
            self._tally.turn_away(group.total, why)
            return
        mix_class = self._shelf.mix_class(group.mix)
        for delay, share in self._later[self._m.crowd.obeys_retry_after]:
            again = Group(slot + delay, group.tries + 1, group.total * share, group.mix)
            self._pressing.put(slot + delay, again, mix_class)

    # -- one slot ----------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Go through the peak until everybody has his answer and MySQL every order."""
        every = max(1, round(max(self._m.crowd.rise_s, 1.0) / (SAMPLES / 4) / self._dt))
        slot = sampled = 0
        answered_at = None
        while self.steps < SLOTS_MAX and (slot < len(self._rising) or self._buyers_wait() or self._orders_wait()):
            slots = 1
            if slot >= len(self._rising) and not self._buyers_wait():
                # Nobody waits any more. What drains does so evenly: the longer it takes, the longer are the steps.
                answered_at = slot if answered_at is None else answered_at
                slots += (slot - answered_at) // DRAIN_STEPS
            self._step(slot, slots)
            slot += slots
            if slot - sampled >= every:
                self._sample(slot, slot - sampled)
                sampled = slot
                if self._tally.thin_out(2 * SAMPLES):  # it takes long: half as often from now on
                    every *= 2
        if slot > sampled:
            self._sample(slot, slot - sampled)
        return self._tally.outcome()

    def _buyers_wait(self) -> bool:
        lines = (self._drivers, self._door, self._calls)
        return bool(self._pressing or self._coming) or any(line.total > NOBODY for line in lines)

    def _orders_wait(self) -> bool:
        return self._outbox + self._kafka > NOBODY

    def _step(self, slot: int, slots: int = 1) -> None:
        self._send(slot)
        for group in self._coming.take(slot):
            self._tally.offered_now += group.total
            (self._drivers if self._m.fleet.drivers else self._door).push(group)
        held = self._pressing.groups + self._coming.groups + len(self._drivers) + len(self._door) + len(self._calls)
        self.groups_max = max(self.groups_max, held)
        self.steps += 1
        self.cores.begin(slots)
        self._fresh.append(0.0)
        limits = self._m.limits
        self._lanes_s = self._m.fleet.gateways * self._m.fleet.shards * self._dt
        self._tokens = min(limits.admit_per_s * BURST_S, self._tokens + limits.admit_per_s * self._dt)
        for _ in range(PASSES_MAX):
            budget = self.cores.share(self._demand())
            self._drive(budget)
            self._close_door(slot)
            self._serve(slot, budget)
            self._call(slot, budget)
            self._store(slot + slots, budget)
            if not self.cores:
                break
        self._fresh.popleft()
        self._tally.settle((self._door.total, self._calls.total, self._outbox, self._kafka))

    def _use(self, name: str, us: float) -> None:
        self.cores.use(name, us)
        self._tally.use(name, us)

    def _demand(self) -> dict[str, float]:
        """Return the CPU microseconds that each component could use now."""
        us, costs = self._us, self._m.costs
        coming = self._door.total + self._drivers.total
        wanted = coming * self._shelf.wanted_share
        orders = self._calls.total + wanted
        ripe = self._kafka - sum(self._fresh)
        found = {
            GATEWAY: wanted * us[GATEWAY].accepted_us + (coming - wanted) * us[GATEWAY].refused_us + self._call_debt_us,
            REDIS: orders * costs.accepted_us(REDIS) + us[REDIS].batch_us * (orders > 0),
            RELAY: self._outbox * us[RELAY].accepted_us + self._entries * us[RELAY].batch_us,
            KAFKA: self._outbox * us[KAFKA].accepted_us + self._entries * us[KAFKA].batch_us,
            CONSUMER: ripe * us[CONSUMER].accepted_us,
            MYSQL: ripe * us[MYSQL].accepted_us,
        }
        return found | ({DRIVER: self._drivers.total * us[DRIVER].accepted_us} if self._m.fleet.drivers else {})

    def _drive(self, budget: dict[str, float]) -> None:
        """Have the load driver send what is due."""
        if not self._m.fleet.drivers:
            return
        each = self._us[DRIVER].accepted_us
        sent = self._drivers.take(budget[DRIVER] / each if each else math.inf)
        self._use(DRIVER, sum(group.total for group in sent) * each)
        for group in sent:
            self._door.push(group)

    def _close_door(self, slot: int) -> None:
        """Turn those away for whom the workers have no connection."""
        over = self._door.total - self._m.limits.connections_max * self._m.fleet.gateways
        if over > 0 and not self._m.fleet.drivers:
            for group in self._door.drop_last(over):
                self._come_back(slot, group, CONNECTIONS)

    def _serve(self, slot: int, budget: dict[str, float]) -> None:
        """Have the workers read requests: refuse from memory, or queue for a script call."""
        us, limits = self._us[GATEWAY], self._m.limits
        left = budget[GATEWAY]
        paid = min(left, self._call_debt_us)
        self._call_debt_us -= paid
        left -= paid
        self._use(GATEWAY, paid)
        room = limits.inflight_max * self._m.fleet.gateways - self._calls.total
        while left > LEFT_MIN_US and (group := self._first(left, us.accepted_us, us.refused_us)) is not None:
            wanted = self._only_wanted(slot, group)
            cost = (group.total - wanted.total) * us.refused_us
            if wanted.total > 0:
                if wanted.total > room:
                    over = wanted.part(1 - max(0.0, room) / wanted.total)
                    cost += over.total * us.refused_us
                    self._come_back(slot, over, BUSY)
                room -= wanted.total
                cost += wanted.total * us.accepted_us
                self._calls.push(wanted)
            self._use(GATEWAY, cost)
            left -= cost

    def _only_wanted(self, slot: int, group: Group) -> Group:
        """Return those who want what is left; the others are told that theirs is sold out."""
        wanted = group.total * self._shelf.still_wanted(group.mix)
        self._sold_out(slot, group, group.total - wanted)
        return Group(group.since, group.tries, wanted, max(group.mix, self._shelf.gone))

    def _sold_out(self, slot: int, group: Group, count: float) -> None:
        if count > 0:
            self._tally.turn_away(count, SOLD_OUT)
            self._tally.tell(slot, Group(group.since, group.tries, count, group.mix), SOLD_OUT)

    def _first(self, left_us: float, accepted_us: float, refused_us: float) -> Group | None:
        """Take as much of the line's first group as the workers have time for."""
        first = next(iter(self._door), None)
        if first is None:
            return None
        wanted = first.total * self._shelf.still_wanted(first.mix)
        cost = wanted * accepted_us + (first.total - wanted) * refused_us
        share = 1.0 if cost <= left_us else left_us / cost
        taken = self._door.take(first.total * share)
        return taken[0] if taken else None

    def _call(self, slot: int, budget: dict[str, float]) -> None:
        """Have Redis decide batches: each worker has one call outstanding per shard."""
        limits, fleet, us = self._m.limits, self._m.fleet, self._us[REDIS]
        overdue = slot - round(limits.answer_timeout_s / self._dt)
        for group in self._calls.take_older(overdue):
            self._come_back(slot, group, BUSY)
        waiting = self._calls.total
        if waiting <= 0:
            return
        lanes = fleet.gateways * fleet.shards
        call_s = max(1e-6, self._m.call_ms / 1000)
        batch = min(float(limits.batch_max), max(1.0, waiting / (lanes * max(1.0, self._dt / call_s))))
        work_us = us.batch_us + batch * us.accepted_us
        # A worker's next call goes out when the last is back: its way, and its turn among the others in Redis.
        turn_s = call_s + work_us / US_PER_S
        calls = min(self._lanes_s / turn_s, budget[REDIS] / work_us if work_us else math.inf)
        decided = self._calls.take(calls * batch)
        count = sum(group.total for group in decided)
        made = count / batch
        self._lanes_s -= made * turn_s
        self._use(REDIS, count * us.accepted_us + made * us.batch_us)
        self._call_debt_us += made * self._us[GATEWAY].batch_us
        self._entries += made
        for group in decided:
            self._decide(slot, group)

    def _decide(self, slot: int, group: Group) -> None:
        """Take units from stock for those in a batch, if the campaign's bucket lets them pass."""
        if self._m.limits.admit_per_s and group.total > self._tokens:
            share = 1 - max(0.0, self._tokens) / group.total
            self._come_back(slot, group.part(share), RATE_LIMITED)
        if group.total <= 0:
            return
        self._tokens -= group.total
        gone = self._shelf.gone
        orders = self._shelf.take(group.total, group.mix)
        if self._shelf.gone > gone:
            self._tally.sold_out(slot, everything=self._shelf.is_empty)
        if orders > 0:
            self._tally.tell(slot, Group(group.since, group.tries, orders, group.mix))
            self._outbox += orders
        self._sold_out(slot, group, group.total - orders)

    def _store(self, slot: int, budget: dict[str, float]) -> None:
        """Move what the relay and the consumers get done; these wait for company before they write."""
        us = self._us
        ripe = self._kafka - sum(self._fresh)
        if ripe > 0:
            each = {name: us[name].accepted_us for name in (CONSUMER, MYSQL)}
            done = min(ripe, *(budget[name] / cost for name, cost in each.items() if cost > 0))
            self._kafka -= done
            self._stored += done
            for name, cost in each.items():
                self._use(name, done * cost)
            if self._kafka + self._outbox < NOBODY:
                self._tally.drained_s = slot * self._dt
        if self._outbox > 0:
            entries = self._entries / self._outbox
            each = {name: us[name].accepted_us + entries * us[name].batch_us for name in (RELAY, KAFKA)}
            done = min(self._outbox, *(budget[name] / cost for name, cost in each.items() if cost > 0))
            self._outbox -= done
            self._entries = max(0.0, self._entries - done * entries)
            self._kafka += done
            self._fresh[-1] += done
            for name, cost in each.items():
                self._use(name, done * cost)

    def _sample(self, slot: int, slots: int) -> None:
        self._tally.sample(slot, slots, (self._door.total, self._calls.total, self._outbox, self._kafka), self._stored)


def simulate(model: Model) -> Outcome:
    """Return what a peak comes to.

    Raises:
        BenchError: it cannot be simulated; says why.
    """
    return Peak(model).run()
