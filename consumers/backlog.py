"""What follows from how much waits: the size of a batch, and how long it takes until nothing waits. Pure."""

import math
from collections import deque
from typing import Final

BATCHES_WAITING: Final = 10
"""A batch is this share of what waits: small while little waits, so that the first does not wait for the last."""
RATE_WINDOW_S: Final = 10.0


def batch_size(lag: int, *, smallest: int, largest: int) -> int:
    """Return how many records a batch may have: a tenth of what waits, between two bounds.

    Args:
        lag: records that are not done yet.
        smallest: of a batch while little waits.
        largest: of any batch, also where `smallest` is larger.
    """
    return min(largest, max(smallest, math.ceil(lag / BATCHES_WAITING)))


def drain_s(lag: int, per_s: float) -> float:
    """Return in how many seconds nothing waits any more at this rate; infinity if nothing is done at all."""
    if lag <= 0:
        return 0.0
    return lag / per_s if per_s > 0 else math.inf


class Rate:
    """Records done a second, lately.

    Args:
        started_s: when counting begins, seconds of some clock.
        window_s: how far back it looks.
    """

    def __init__(self, started_s: float, window_s: float = RATE_WINDOW_S) -> None:
        self._started_s = started_s
        self._window_s = window_s
        self._seconds: deque[tuple[int, int]] = deque()

    def add(self, records: int, now_s: float) -> None:
        """Count records as done now; all of one second are one entry, so that the memory is bounded."""
        second = int(now_s)
        if self._seconds and self._seconds[-1][0] == second:
            records += self._seconds.pop()[1]
        self._seconds.append((second, records))
        self._forget(now_s)

    def per_s(self, now_s: float) -> float:
        """Return the mean over the window, or over the time since the start if that is shorter."""
        self._forget(now_s)
        span_s = min(self._window_s, max(1.0, now_s - self._started_s))
        return sum(records for _, records in self._seconds) / span_s

    def _forget(self, now_s: float) -> None:
        while self._seconds and self._seconds[0][0] < now_s - self._window_s:
            self._seconds.popleft()
