"""When the requests of an open loop are due, and whether the driver was at its limit. Pure: clocks are passed in."""

import math
from dataclasses import dataclass
from typing import Final

CPU_SHARE_MAX: Final = 0.9
NOTICED_LATE_SHARE_MAX: Final = 0.01
ACHIEVED_SHARE_MIN: Final = 0.99


@dataclass(frozen=True, slots=True)
class Schedule:
    """A constant arrival rate: request i of all is due at start + i / rate; part p of n sends p, p + n, ….

    Attributes:
        start_s: monotonic time of the first request of all.
        rate_per_s: of all parts together.
        seconds: requests are due from the start until then, exclusive.
        part, parts: which share is ours.
    """

    start_s: float
    rate_per_s: float
    seconds: float
    part: int = 0
    parts: int = 1

    @property
    def total(self) -> int:
        """How many requests this part sends."""
        of_all = math.ceil(self.rate_per_s * self.seconds - 1e-9)
        return max(0, (of_all - self.part + self.parts - 1) // self.parts)

    def due_s(self, index: int) -> float:
        """Return when our request number `index` (from 0) is due."""
        return self.start_s + (self.part + index * self.parts) / self.rate_per_s

    def due_by(self, now_s: float) -> int:
        """Return how many of our requests are due by now."""
        elapsed = math.floor((now_s - self.start_s) * self.rate_per_s + 1e-9)
        if elapsed < self.part:
            return 0
        return min(self.total, (elapsed - self.part) // self.parts + 1)

    @property
    def interval_s(self) -> float:
        """The time between two of our requests."""
        return self.parts / self.rate_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Strain:
    """What tells whether the driver or what it drives was at its limit.

    Attributes:
        cpu_shares: CPU time over wall time, of each process.
        offered, sent: requests.
        noticed_late: requests whose time a process itself had missed.
        inflight_max: requests on their way at once.
        connections: there were.
    """

    cpu_shares: tuple[float, ...]
    offered: int
    sent: int
    noticed_late: int
    inflight_max: int
    connections: int


def bottlenecks(strain: Strain) -> list[str]:
    """Return why the driver itself was the bottleneck, in plain words; empty if it was not."""
    found = []
    busiest = max(strain.cpu_shares, default=0.0)
    if busiest > CPU_SHARE_MAX:
        found.append(f"one of its processes used {busiest:.0%} of a core; give it more --processes")
    if strain.noticed_late > strain.offered * NOTICED_LATE_SHARE_MAX:
        share = strain.noticed_late / strain.offered
        found.append(f"it noticed {share:.1%} of the requests late: it had too little CPU time")
    if strain.sent < strain.offered * ACHIEVED_SHARE_MIN and strain.inflight_max < strain.connections:
        found.append("it sent less than was due although connections were free")
    return found


def saturated(strain: Strain) -> bool:
    """Tell whether all connections were busy and requests were dropped for it: the server answers too slowly."""
    return strain.sent < strain.offered and strain.inflight_max >= strain.connections
