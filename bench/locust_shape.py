"""The 10 o'clock peak as a number of people present: a waiting crowd, a vertical rise, retries, a decay. Pure."""

import math
from typing import Final, NamedTuple

WAITING_SHARE: Final = 0.3
"""Of the people: how many are there before the opening, and look at the page."""
WAITING_TIME_SHARE: Final = 0.2
"""Of the time until the last one leaves: before the opening."""
HOLD_TIME_SHARE: Final = 0.4
"""How long everybody stays after it; then they leave, as many each second."""
LEAVING_S: Final = 3.0
"""Nobody is there any more, but answers are still on their way, and counts are being told."""


class PeakPlan(NamedTuple):
    """A peak.

    Attributes:
        users: people at the peak.
        spawn_per_s: how many come a second, at most; 0: all at once.
        duration_s: until the last one leaves.
    """

    users: int
    spawn_per_s: float
    duration_s: float

    @property
    def opens_s(self) -> float:
        """When buying begins."""
        return self.duration_s * WAITING_TIME_SHARE

    @property
    def rate_per_s(self) -> float:
        """How many come or leave a second, at most."""
        return self.spawn_per_s or float(self.users)


def crowd_at(plan: PeakPlan, second: float) -> int | None:
    """Return how many people are there so long after the beginning; None: it is over."""
    if second >= plan.duration_s + LEAVING_S:
        return None
    if second < plan.opens_s:
        return max(1, round(plan.users * WAITING_SHARE))
    decays_s = plan.duration_s * (WAITING_TIME_SHARE + HOLD_TIME_SHARE)
    if second < decays_s:
        return plan.users
    # A new number once a second: each costs a round of messages to the processes.
    left = 1 - (math.floor(second) - decays_s) / (plan.duration_s - decays_s)
    return max(0, min(plan.users, math.ceil(plan.users * left))) if second < plan.duration_s else 0
