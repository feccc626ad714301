"""Who gets how much CPU in a slot: processes of their own cores, or all of them on the cores of one machine. Pure."""

import math

from bench.capacity_costs import US_PER_S
from bench.capacity_facts import CONSUMER, DRIVER, GATEWAY, KAFKA, MYSQL, REDIS, RELAY
from bench.simulate_plan import Fleet


def pour(cores: float, demands: dict[str, tuple[float, int]]) -> dict[str, float]:
    """Divide cores over those who want them: equally for each process, but none gets more than it wants.

    Args:
        cores: there are.
        demands: who → cores that he could use, and over how many processes: a scheduler is fair to these.
    """
    left, given = cores, {}
    parts = sum(count for _, count in demands.values())
    for name, (wanted, count) in sorted(demands.items(), key=lambda item: item[1][0] / item[1][1]):
        given[name] = min(wanted, max(0.0, left) * count / parts)
        left -= given[name]
        parts -= count
    return given


class Cores:
    """The CPU time of a slot.

    Args:
        fleet: who has how many, and what they share.
        slot_s: length of a slot.
    """

    def __init__(self, fleet: Fleet, slot_s: float) -> None:
        self.limits = {
            GATEWAY: float(fleet.gateways),
            REDIS: float(fleet.shards),
            RELAY: float(fleet.shards),
            KAFKA: fleet.kafka_cores,
            CONSUMER: float(fleet.consumers),
            # A consumer writes one batch at a time, over one connection.
            MYSQL: min(fleet.mysql_cores, float(fleet.consumers)),
        } | ({DRIVER: float(fleet.drivers)} if fleet.drivers else {})
        self._parts = {
            GATEWAY: fleet.gateways,
            REDIS: fleet.shards,
            RELAY: fleet.shards,
            KAFKA: 1,
            CONSUMER: fleet.consumers,
            MYSQL: fleet.consumers,
            DRIVER: max(1, fleet.drivers),
        }
        self._slot_us = slot_s * US_PER_S
        self._shared = None if fleet.cores is None else fleet.cores - fleet.at_rest
        self._left_us: dict[str, float] = {}
        self._pool_us = math.inf
        self.is_shared = self._shared is not None

    def begin(self, slots: int = 1) -> None:
        """Begin a slot, or a step of several."""
        step_us = slots * self._slot_us
        self._left_us = {name: limit * step_us for name, limit in self.limits.items()}
        self._pool_us = math.inf if self._shared is None else self._shared * step_us

    def share(self, demand_us: dict[str, float]) -> dict[str, float]:
        """Return the CPU microseconds that each component may use now, of what is left of the slot.

        Args:
            demand_us: that each could use.
        """
        if self._shared is None:
            return self._left_us
        wanted = {name: (min(self._left_us[name], us), self._parts[name]) for name, us in demand_us.items()}
        return pour(self._pool_us, wanted)

    def use(self, name: str, us: float) -> None:
        """Take CPU time away."""
        self._left_us[name] -= us
        self._pool_us -= us

    def __bool__(self) -> bool:
        """Tell whether anything is left of the slot on shared cores."""
        return self.is_shared and self._pool_us > self._slot_us * 1e-3
